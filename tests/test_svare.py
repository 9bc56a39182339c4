"""Erasing from next-scale models, on tiny random ones with both quantisers: S-VARE and kin, the identities that must
hold, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from earlib.concepts import Concept, PromptPair
from earlib.erasure import erase
from earlib.erasure.change import switched, tensor_names
from earlib.erasure.gates import wrong_tokens
from earlib.erasure.lessons_scale import ScaleLessons as Lessons
from earlib.erasure.lessons_scale import of_parts
from earlib.erasure.objective import kl, nats_of
from earlib.erasure.presets import SCALE_PRESETS as PRESETS
from earlib.erasure.recipe_scale import Filter, ScaleRecipe, Scales
from earlib.erasure.settings import with_settings
from earlib.erasure.spans import weights
from earlib.erasure.store import Erasure
from earlib.erasure.train import backward, train
from earlib.errors import UserError
from earlib.runs import Run, read_lines

from .test_nextscale import PROMPTS, SEEDS, published, tiny

PAIRS = (
    PromptPair("a red church on a hill", "a red house on a hill"),
    PromptPair("a church by the sea", "a tower by the sea"),
    PromptPair("a sketch of a blue church", "a sketch of a blue tree"),
    PromptPair("a church at night", "a car at night"),
)
CONCEPT = Concept("church", "object", PAIRS, {"direct": ("a church",)}, {}, {}, ("a boat at night",), {})
TRAINED = [name for name, r in PRESETS.items() if isinstance(r, ScaleRecipe)]
QUANTISERS = ("bsq", "vq")


def small(name: str, **settings):
    """The preset with a few steps that a tiny model notices."""
    return published(name, **({"lr": 3e-3, "passes": 3, "guidance": 2.0} | settings))


def heeding(quantiser):
    """An untrained generator to which its prompts matter more than to a new one."""
    generator = tiny(quantiser)
    for block in generator.trunk.blocks:
        block.cross_attention.kv.weight *= 3
    return generator


@pytest.fixture(scope="module")
def generators():
    return {quantiser: heeding(quantiser) for quantiser in QUANTISERS}


def erasing(lesson):
    """The erasing loss of an update."""
    return lesson.gate(lesson.losses())[0]


def keeping(lesson):
    """The loss of preservation of an update."""
    return lesson.preservation(lesson.steps[-1], {})()


def first_lesson(generator, pairs=PAIRS, **settings):
    return Lessons(
        generator, pairs, with_settings(ScaleRecipe(guidance=2.0, batch=len(pairs)), settings), seed=0
    ).begin(0)


# ------------------------------------------------------------------ where there is nothing to learn


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_nothing_to_erase_is_nothing_to_learn(quantiser, generators):
    """The student is the teacher, the concept is its replacement, the labels are the likeliest codes: the filter keeps
    nothing, preservation is 0."""
    pairs = tuple(dataclasses.replace(pair, target=pair.replacement) for pair in PAIRS)
    settings = {"labels": "likeliest", "filter.kind": "wrong", "guidance": 1.0, "retain.weight": 1.0}
    lesson = first_lesson(generators[quantiser], pairs, **settings)
    assert erasing(lesson).item() == 0 and lesson.report["kept"] == 0 and lesson.report["tokens"] == 200
    assert abs(keeping(lesson).item()) < 1e-6
    for divergence in ("kl", "mse"):
        assert (
            abs(erasing(first_lesson(generators[quantiser], pairs, divergence=divergence, guidance=1.0)).item()) < 1e-6
        )
    assert erasing(first_lesson(generators[quantiser], PAIRS, **settings)).item() > 0.001, (
        "with something to erase there is something to learn"
    )


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_a_guided_teacher_asks_for_a_change_before_any_was_made(quantiser, generators):
    """As in the released code; the same teacher without guidance asks for none."""
    guided_teacher = first_lesson(generators[quantiser], **{"retain.weight": 1.0, "retain.guidance": 4.0})
    assert keeping(guided_teacher).item() > 1e-2
    assert abs(keeping(first_lesson(generators[quantiser], **{"retain.weight": 1.0})).item()) < 1e-6


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize(
    "quantiser, settings",
    [("bsq", {"filter.kind": "wrong", "filter.alpha": 0, "filter.compare": "reaches"}), ("bsq", {}), ("vq", {})],
)
def test_a_filter_that_keeps_all_is_plain_cross_entropy(quantiser, settings, generators):
    g = generators[quantiser]
    lesson = first_lesson(g, **settings)
    plain = g.quantiser.cross_entropy(g.logits(g.encode([p.target for p in PAIRS]), lesson.history), lesson.history)
    assert erasing(lesson).item() == pytest.approx(plain.mean().item(), rel=1e-5)
    assert lesson.report["kept"] == lesson.report["tokens"] == 200


def test_filter_of_bits_by_hand(generators):
    """Six bits, 0 to 6 of them wrong: exactly half is not more than half."""
    margin = 2 * torch.tril(torch.ones(7, 6), -1) - 1  # row n has n wrong bits
    q = torch.stack([-margin / 2, margin / 2], -1)[None].log_softmax(-1)
    labels = torch.zeros(1, 7, 6, dtype=torch.long)
    kept = lambda **rule: wrong_tokens(q, q, labels, Filter("wrong", **rule))[0].nonzero()[:, 0].tolist()
    assert kept(alpha=0.5) == [4, 5, 6]
    assert kept(alpha=0.5, compare="reaches") == [3, 4, 5, 6]
    assert kept(alpha=0.5, gamma=10.0) == [] and kept(alpha=0.5, gamma=1e-3) == list(range(7))


def test_filter_of_a_codebook_by_hand(generators):
    """A token is kept whose label has lost more than alpha of the teacher's probability: q < (1 - alpha) p."""
    p = torch.tensor([[0.4, 0.6]] * 4).log()[None, :, None]
    q = torch.tensor([[0.4, 0.6], [0.31, 0.69], [0.29, 0.71], [0.9, 0.1]]).log()[None, :, None]
    kept = wrong_tokens(q, p, torch.zeros(1, 4, dtype=torch.long), Filter("wrong", alpha=0.25))
    assert kept.tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("parts, divisor", [("all", "length"), ("all", "kept"), ("wrong", "length"), ("wrong", "kept")])
def test_filtered_cross_entropy_by_hand(parts, divisor, generators):
    """L_FCE in plain loops."""
    g = generators["bsq"]
    lesson = first_lesson(g, **{"filter.kind": "wrong", "filter.parts": parts, "filter.divisor": divisor})
    nats = g.quantiser.cross_entropy(
        g.logits(g.encode([p.target for p in PAIRS]), lesson.history), lesson.history
    ).tolist()
    total, kept = 0.0, 0
    for picture in nats:
        for bits in picture:
            wrong = [x > math.log(2) for x in bits]
            if sum(wrong) / len(bits) > 0.25:
                kept += 1
                total += sum(x for x, w in zip(bits, wrong) if w or parts == "all") / len(bits)
    assert 10 < kept < 190, "some tokens, not all"
    assert erasing(lesson).item() == pytest.approx(total / (kept if divisor == "kept" else 200), rel=1e-5)
    assert lesson.report["kept"] == kept


def test_soft_targets_become_labels_when_the_teacher_is_sure():
    z, q = torch.randn(3, 5, 4, 2), torch.randn(3, 5, 4, 2).log_softmax(-1)
    assert torch.allclose(kl((1e5 * z).log_softmax(-1), q), nats_of(q, z.argmax(-1)), atol=1e-5)
    assert kl(q, q).abs().max() == 0


def test_kl_filter_keeps_what_is_further_off_than_neutral_prompts(generators):
    g = generators["bsq"]
    lesson = first_lesson(g, **{"filter.kind": "kl", "divergence": "kl"})
    erasing(lesson)
    assert lesson.report["kept"] == 200, "before training neutral prompts are not off at all"
    with torch.no_grad():
        noise = {
            name: p + 0.3 * torch.randn(p.shape) for name, p in g.trunk.named_parameters() if name.startswith("blocks.")
        }
    erasure = Erasure("noise", ScaleRecipe().as_dict(), "church", g.fingerprint, noise)
    with erasure.on(g):
        erasing(lesson)
        floor = lesson._retained().flatten().quantile(0.9)
        loss = lesson.compare()[0]
    assert 0 < lesson.report["kept"] == int((loss > floor).sum()) < 200


def test_entropy_is_added_to_the_loss_of_a_token(generators):
    g = generators["bsq"]
    plain, more = first_lesson(g), first_lesson(g, entropy=0.5)
    q = of_parts(g, g.logits(plain.told, plain.history))
    entropy = torch.distributions.Categorical(logits=q).entropy().mean().item()
    assert erasing(more).item() == pytest.approx(erasing(plain).item() + 0.5 * entropy, rel=1e-5)


@pytest.mark.parametrize("weight, share", [("equal", lambda s: 1), ("side", lambda s: s), ("token", lambda s: s * s)])
def test_what_scales_weigh(weight, share, generators):
    g = generators["bsq"]
    w = weights(g, Scales(weight=weight))
    total = sum(share(side) for side in g.schedule)
    for side, span in zip(g.schedule, g.spans):
        assert w[span].sum().item() == pytest.approx(share(side) / total, rel=1e-6)
        assert w[span].unique().numel() == 1
    middle = weights(g, Scales(1, 2, weight))  # scales 1 and 2 of 0 to 3
    assert len(middle) == g.spans[2].stop and not middle[0] and middle.sum().item() == pytest.approx(1)
    assert (middle[1] / middle[-1]).item() == pytest.approx((w[1] / w[g.spans[2]][0]).item())


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_the_first_scales_alone_are_the_first_scales_of_all(quantiser, generators):
    g = generators[quantiser]
    codes, batch = g.sample(PROMPTS, SEEDS), g.encode(PROMPTS)
    for span in g.spans:
        assert torch.allclose(g.logits(batch, codes[:, : span.stop]), g.logits(batch, codes)[:, : span.stop], atol=1e-5)
    only = first_lesson(g, **{"scales.count": 2})
    everywhere = first_lesson(g)
    assert only.history.shape[1] == 5 and only.compare()[0].shape == (4, 5)
    assert torch.allclose(only.compare()[0], everywhere.compare()[0][:, :5], atol=1e-5)


# ------------------------------------------------------------------ who reads what


def test_histories(generators):
    g = generators["bsq"]
    targets, replacements = ([getattr(pair, side) for pair in PAIRS] for side in ("target", "replacement"))
    lessons = Lessons(g, PAIRS, ScaleRecipe(guidance=2.0), 0)
    of_c, of_target = lessons.neutral.codes, g.sample(targets, lessons.neutral.seeds, 2.0)  # with one noise
    assert torch.equal(of_c, g.sample(replacements, lessons.neutral.seeds, 2.0)) and not torch.equal(of_c, of_target)

    vare = first_lesson(g, divergence="mse")
    naive = first_lesson(g, divergence="mse", prefix="student", teacher_states="independent")
    assert torch.equal(vare.history, of_c) and torch.equal(naive.history, of_target)
    along = lambda codes: of_parts(g, g.logits(g.encode(replacements), codes))
    assert torch.equal(vare.p_BNCV, along(of_c)) and torch.equal(naive.p_BNCV, along(of_c)), (
        "the teacher reads its own picture of c"
    )
    shared = first_lesson(g, divergence="mse", prefix="student")
    assert torch.equal(shared.p_BNCV, along(of_target))
    square = (along(of_c).exp() - of_parts(g, g.logits(g.encode(targets), of_target)).exp()).square().sum(-1).mean()
    assert erasing(naive).item() == pytest.approx(square.item(), rel=1e-4)  # Eq. 6


def test_rollouts_are_the_students_own(generators):
    g = generators["bsq"]
    lesson, fixed = first_lesson(g, rollouts=1.0), first_lesson(g)
    assert not torch.equal(lesson.history, fixed.history)
    lessons = Lessons(g, PAIRS * 10, ScaleRecipe(guidance=2.0, rollouts=0.5, passes=1), 0)
    own = [not torch.equal(lessons.begin(i).history, lessons.neutral.codes[2 * i : 2 * i + 2]) for i in range(20)]
    assert 3 < sum(own) < 17
    with torch.no_grad():
        noise = {
            name: p + 0.3 * torch.randn(p.shape) for name, p in g.trunk.named_parameters() if name.startswith("blocks.")
        }
    other = Erasure("noise", ScaleRecipe().as_dict(), "church", g.fingerprint, noise)
    changed = Lessons(g, PAIRS, lesson.recipe, 0).begin(0, lambda: other.on(g))
    assert not torch.equal(changed.history, lesson.history), "the student draws"
    assert torch.equal(Lessons(g, PAIRS, fixed.recipe, 0).begin(0, lambda: other.on(g)).history, fixed.history), (
        "the teacher's pictures do not know it"
    )


def test_labels_along_the_teachers_own_picture_are_that_picture(generators):
    g = generators["bsq"]
    lesson = first_lesson(g)
    drawn = lesson.labels
    again = lesson._labels(lesson.history, False, lesson.lessons.neutral.seeds)
    assert (again == drawn).float().mean() > 0.999  # but for near ties


def test_blanked_prompts_train_the_unconditional_branch(generators):
    g = generators["bsq"]
    lesson = first_lesson(g, PAIRS * 10, blank=0.5)
    null = g.null_like(lesson.c).ids_BP[0]
    blank = (lesson.told.ids_BP == null).all(1)
    assert 8 < blank.sum() < 32 and (lesson.told.mask_BP[blank].sum(1) == 1).all()


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("name", TRAINED)
def test_training_makes_the_concept_less_likely(name, quantiser, tmp_path):
    """A smoke test, nothing more: what is matched comes nearer, and the teacher's pictures of the concept get less
    likely under its prompts."""
    g = heeding(quantiser)
    targets = [pair.target for pair in PAIRS]
    codes = g.sample(targets, SEEDS, 1.0)
    likelihood = lambda: (
        -nats_of(of_parts(g, g.logits(g.encode(targets), codes)), codes)[:, : 5 if name == "sace-style" else None]
        .mean()
        .item()
    )
    base = likelihood()
    run = Run(tmp_path / "run", {})
    tensors, info = train(
        g, PAIRS, small(name, passes=30, batch=4, lr=5e-3, blank=0.0), 0, run, retain=["a boat", "a blue car"]
    )
    with Erasure(name, small(name).as_dict(), "church", g.fingerprint, tensors).on(g):
        assert likelihood() < base - 0.005
    rows = read_lines(run.folder / "metrics.jsonl")
    assert [row["lesson"] for row in rows] == list(range(30)) and info["updates"] == 30
    assert sum(r["unfiltered"] for r in rows[-5:]) < 0.97 * sum(r["unfiltered"] for r in rows[:5])
    scales = range(1 if name == "sace-style" else 4)
    assert all({f"kept{k}", f"loss{k}"} <= row.keys() for row in rows for k in scales) and all(
        0 <= row["kept"] <= row["tokens"] for row in rows
    )


@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("divisor", ["length", "kept"])
def test_an_empty_filter_is_counted_and_teaches_nothing(divisor, quantiser, generators, tmp_path):
    g = generators[quantiser]
    r = small("s-vare", **{"filter.alpha": 1.0, "filter.divisor": divisor, "retain.weight": 0.0})
    erasure = erase(g, CONCEPT, r, out=tmp_path / "out", progress=False)
    assert erasure.info["updates_empty"] == erasure.info["updates"] == 6
    assert erasure.info["tokens_kept"] == 0 == erasure.info["share_kept"] and erasure.info["tokens_seen"] == 600
    assert all(torch.equal(t, g.trunk.get_parameter(n)) for n, t in erasure.tensors.items())
    assert all(
        row["erase"] == 0 and row["kept"] == 0 and row["unfiltered"] > 0
        for row in read_lines(tmp_path / "out" / "metrics.jsonl")
    )


def test_gradients_in_conflict_are_projected():
    p = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    losses = lambda x: [x * p[0][0] + p[0][1], -3 * p[0][0]]  # gradients (x, 1) and (-3, 0); nothing about p[1]
    assert backward(losses(2.0), p, project=True) is True
    assert p[0].grad.tolist() == [-3, 1] and p[1].grad.tolist() == [0], "the part against preservation is left out"
    assert backward(losses(-2.0), p, project=True) is False
    assert p[0].grad.tolist() == [-5, 1]
    for q in p:
        q.grad = None
    assert backward(losses(2.0), p, project=False) is False and p[0].grad.tolist() == [-1, 1]
    p[0].grad = None
    assert backward(losses(2.0), p, project=False, scale=4.0) is False, "float16's scale, and p[1] that no loss reaches"
    assert p[0].grad.tolist() == [-1, 1]


@pytest.mark.parametrize("update", ["sum", "two-steps", "project"])
def test_ways_to_step(update, generators):
    g = generators["bsq"]
    way = lambda update: small("s-vare", update=update, passes=8)  # long enough that gradients come to conflict
    tensors, info = train(g, PAIRS, way(update), 0)
    other = train(g, PAIRS, way("project" if update == "sum" else "sum"), 0)[0]
    assert any(not torch.equal(tensors[n], other[n]) for n in tensors)
    assert (info["updates_in_conflict"] > 0) == (update == "project")


def test_what_trains(generators):
    g = generators["bsq"]
    names = tensor_names(PRESETS["s-vare"], 2, g.trunk)
    assert len(names) == 2 * 5 * 2 and all(".cross_attention." in n or ".ffn." in n for n in names)
    assert tensor_names(
        with_settings(PRESETS["s-vare"], {"rank": 2, "modules": "kv", "layers": (0, 0.5)}), 2, g.trunk
    ) == ["blocks.0.cross_attention.kv.weight"]
    lesson = first_lesson(g)
    student = {n: torch.nn.Parameter(g.trunk.get_parameter(n).clone()) for n in names}
    with switched(g.trunk, student):
        erasing(lesson).backward()
    assert all(p.grad.abs().max() > 0 for p in student.values()), "each of them must matter"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_resumed_equals_uninterrupted_bit_for_bit(quantiser, generators, tmp_path):
    """Stopped where a kill would stop it, in the middle of everything that draws by chance."""
    g = generators[quantiser]
    r = small("s-vare-released", passes=4, rollouts=0.5, blank=0.3, **{"retain.prompts": "both", "retain.pictures": 2})

    class Mortal(Run):
        def log(self, **row):
            super().log(**row)
            if row["lesson"] == 5:
                raise Killed

    others = ["a boat", "a blue car", "a tree"]
    whole, info = train(g, PAIRS, r, 0, Run(tmp_path / "whole", {}), checkpoint_every=2, retain=others)
    with pytest.raises(Killed):
        train(g, PAIRS, r, 0, Mortal(tmp_path / "broken", {}), checkpoint_every=2, retain=others)
    again, info_again = train(g, PAIRS, r, 0, Run(tmp_path / "broken", {}), checkpoint_every=2, retain=others)
    assert all(torch.equal(whole[n], again[n]) for n in whole)
    counts = ("updates", "updates_empty", "tokens_kept", "tokens_seen", "share_kept")
    assert [info[c] for c in counts] == [info_again[c] for c in counts] and info["updates"] == 8
    assert read_lines(tmp_path / "whole" / "metrics.jsonl") == read_lines(tmp_path / "broken" / "metrics.jsonl")


def test_half_precision_trunk_with_float32_masters():
    """Steps far below a half-precision weight's last digit still add up."""
    moved = []
    for dtype in (torch.float32, torch.bfloat16):
        g = tiny("bsq", seed=1)
        g.model.to(dtype)
        tensors, _ = train(g, PAIRS, small("vare", lr=3e-4, passes=10, batch=4), 0)
        name = "blocks.0.ffn.down.weight"
        assert tensors[name].dtype == dtype
        moved.append((tensors[name].float() - g.trunk.get_parameter(name).float()).flatten())
    assert torch.cosine_similarity(moved[0], moved[1], 0) > 0.5


def test_a_loss_that_is_not_finite_stops_with_one_line(generators):
    with pytest.raises(UserError, match="the loss is (nan|inf) at update [0-9]+; use a smaller lr"):
        train(generators["bsq"], PAIRS, small("s-vare", lr=1e38), 0)
