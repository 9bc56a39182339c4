"""Methods without training: their equations on numbers small enough to see through, and on small random models."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from earlib.concepts import PromptPair, list_concepts, load_concept
from earlib.erasure import erase, retain_prompts
from earlib.erasure.closed_form import Moments, edited, eraser, reads, standing_for
from earlib.erasure.naming import name_of
from earlib.erasure.presets import NOT_TRAINED, recipe, with_settings
from earlib.erasure.recipe import TrainingFree
from earlib.erasure.steering import NegativePrompt, SafeGuidance, steered
from earlib.errors import UserError
from earlib.generators import default_keys, draw, picture_seeds
from earlib.generators.sampling import guided
from earlib.runs import read_json

from .conftest import sample, tiny_emu3, tiny_janus
from .test_erasure import CONCEPT

PROMPTS = ["a church", "a red church by the sea", "a boat"]
NAMES = [r.name for r in NOT_TRAINED]
NULL = dataclasses.replace(CONCEPT, pairs=tuple(PromptPair(p.target, p.target) for p in CONCEPT.pairs))


@pytest.fixture(scope="module")
def double():
    """In double precision, where a token does not tip because sums were taken in another order."""
    generator = tiny_janus(seed=3, grid=4)
    generator.model.double()
    return generator


@pytest.fixture(scope="module")
def erasures(generator):
    return {name: erase(generator, CONCEPT, name, progress=False) for name in NAMES}


# ---------------------------------------------------------------- what all four share, beside the gates


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_run_is_read_and_not_made_again(generator, tmp_path, name):
    made = erase(generator, CONCEPT, name, out=tmp_path / "e", progress=False)
    assert read_json(tmp_path / "e" / "status.json")["state"] == "done"
    again = erase(generator, CONCEPT, name, out=tmp_path / "e", progress=False)
    assert again.info == made.info and again.recipe["text"] == ("church" if name in NAMES[:2] else "")
    assert made.megabytes == sum(t.numel() * 4 for t in made.tensors.values()) / 2**20
    assert made.info["windows_trained"] == 0 and made.info["seconds"] >= made.info["seconds_training"] >= 0
    with pytest.raises(UserError, match="merge"):
        made.merged(generator)


@pytest.mark.parametrize("name", NAMES[2:])
def test_a_null_concept_changes_nothing(generator, name):
    """Targets that are their own replacements: the equations give back the model, up to the rounding of an eraser's
    eigenvectors."""
    nothing = erase(generator, NULL, name, progress=False)
    assert (draw(generator, PROMPTS, erasure=nothing, progress=False) == draw(generator, PROMPTS, progress=False)).all()


@pytest.mark.parametrize("name", ["uce", "leace"])
def test_the_recipe_s_strength_is_that_of_on(generator, erasures, name):
    """A recipe of strength s stores what `on` makes of strength s."""
    weak = erase(generator, CONCEPT, with_settings(recipe(name), {"strength": 0.25}), progress=False)
    with erasures[name].on(generator, strength=0.25):
        asked = draw(generator, PROMPTS, progress=False)
    assert (draw(generator, PROMPTS, erasure=weak, progress=False) == asked).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_emu3_is_erased_the_same_way(name):
    emu3 = tiny_emu3()
    base = draw(emu3, PROMPTS, progress=False)
    made = erase(emu3, CONCEPT, name, progress=False)
    assert (draw(emu3, PROMPTS, erasure=made, progress=False) != base).any()
    assert (draw(emu3, PROMPTS, progress=False) == base).all()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"method": "sld"}, "method='sld' is not possible"),
        (
            {"threshold": 0.1},
            "recipe 'uce': threshold means nothing to method=uce, which has strength, layers, modules",
        ),
        ({"text": "church"}, "text means nothing to method=uce"),
        ({"strength": -1}, "strength=-1.0 is out of range"),
        ({"ridge": 0}, "ridge=0.0 is out of range"),
        ({"layers": "1,0"}, "shares of the depth"),
        ({"lr": 1}, "recipe 'uce' has no field 'lr'"),
        ({"modules": "k_v"}, "modules='k_v' is not possible; did you mean 'kv'"),
    ],
)
def test_fields_that_cannot_be(settings, words):
    with pytest.raises(UserError, match=words):
        with_settings(recipe("uce", "custom"), settings)


# ---------------------------------------------------------------- what guidance steers away from


def test_a_concept_is_called_what_its_targets_have_and_its_replacements_lack():
    without_words = lambda name, profile="mini": name_of(dataclasses.replace(load_concept(name, profile), words=()))
    assert [without_words(name) for name in ("church", "nudity", "vangogh")] == [
        "church",
        "nude figure",
        "van gogh painting",
    ]
    assert without_words("pixel") == "pixel art" and without_words("vangogh", "janus-pro-7b") == "van gogh"
    assert name_of(load_concept("vangogh", "janus-pro-7b")) == "Van Gogh", "a concept with words is called by the first"
    assert all(name_of(load_concept(name, "mini")) for name in list_concepts("mini"))
    with pytest.raises(
        UserError, match="no words are what all prompt pairs of concept 'church' replace, so that its name is unknown"
    ):
        name_of(NULL)


@pytest.mark.parametrize("text", ["church", "a red church on a green hill at night , in the style of van gogh"])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_a_negative_prompt_takes_the_unconditional_row_s_place(double, text, strength):
    """Whether it is shorter or longer than the prompt."""
    e = erase(double, CONCEPT, with_settings(recipe("negative-prompt", "custom"), {"text": text}), progress=False)
    tokens_NT = double.sample(PROMPTS, [1, 2, 3])
    with e.on(double, strength):
        found = double.log_probabilities(PROMPTS, tokens_NT, 3.0)[:, :, 0]
    rows = {"c": double.encode(PROMPTS), "n": double.encode([text] * 3)}
    rows["u"] = double.null_like(rows["c"])
    z = {name: double.image_logits(double.hidden_states(batch, tokens_NT)) for name, batch in rows.items()}
    o = z["u"] + strength * (z["n"] - z["u"])
    torch.testing.assert_close(found, (o + 3 * (z["c"] - o)).log_softmax(-1).float(), atol=1e-4, rtol=1e-4)


def test_safe_guidance_by_hand():
    """Log-probabilities of three codes. The concept likes the first more than the prompt does by 0.4 nats, the second
    by 2, the third less."""
    log = lambda *p: torch.tensor([p]).log()
    c, n = (
        log(0.3, 0.05, 0.65),
        log(0.3 * 2.718281828**0.4, 0.05 * 2.718281828**2, 1 - 0.3 * 2.718281828**0.4 - 0.05 * 2.718281828**2),
    )
    u = log(0.2, 0.3, 0.5)
    mu = torch.tensor([[0.4, 1.0, 0.0]])
    found = SafeGuidance("church", slope=1.0).combine((c, u, n), 5.0)
    torch.testing.assert_close(found, u + 5 * (c - u - mu * (n - u)), atol=1e-5, rtol=1e-5)
    shifted = SafeGuidance("church", slope=1.0).combine((c + 7, u - 3, n + 1), 5.0)
    torch.testing.assert_close(shifted, found, atol=1e-5, rtol=1e-5)
    bold = SafeGuidance("church", slope=2.0, strength=1.5, threshold=9.0).combine((c, u, n), 5.0)
    torch.testing.assert_close(
        bold, u + 5 * (c - u - 1.5 * torch.tensor([[0.8, 1.0, 1.0]]) * (n - u)), atol=1e-5, rtol=1e-5
    )
    shy = SafeGuidance("church", threshold=-5.0).combine((c, u, n), 5.0)
    torch.testing.assert_close(shy, guided([c, u], 5.0, None), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "steering",
    [NegativePrompt("church"), NegativePrompt("a church by the sea", 0.7), SafeGuidance("a church by the sea")],
)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_steered_pictures_depend_on_neither_batch_nor_drawer(double, steering, guidance):
    seeds = picture_seeds(0, default_keys(PROMPTS))
    with steered(double, steering):
        whole, single, static = (
            sample(double, PROMPTS, seeds, guidance, batch_size=size, graphs=graphs)
            for size, graphs in ((3, False), (1, False), (2, True))
        )
    assert torch.equal(whole, single) and torch.equal(whole, static)
    usual = double.sample(PROMPTS, seeds, guidance)
    assert torch.equal(whole, usual) == (guidance == 1 and isinstance(steering, NegativePrompt)), (
        "without guidance a prompt has no origin to move"
    )


def test_steered_contexts_nest(generator):
    outer, inner = NegativePrompt("church"), SafeGuidance("boat")
    with steered(generator, outer):
        with steered(generator, inner):
            assert generator.steering is inner
        with steered(generator, None):  # an erasure of weights inside one that guides
            assert generator.steering is outer
        assert generator.steering is outer
    assert generator.steering is None


# ---------------------------------------------------------------- UCE


def test_words_stand_for_words():
    rows = lambda target, replacement: standing_for(target.split(), replacement.split()).tolist()
    assert rows("a red church here", "a red house here") == torch.eye(4).tolist()
    assert rows("a nude figure there", "a person there") == [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert rows("church", "tall house") == [[0.5, 0.5]]
    assert rows("a boat by gogh", "a boat") == [[1, 0], [0, 1], [0, 0], [0, 0]]


def test_the_edit_is_equation_seven():
    """Against the equation as it stands in the paper, with v in place of our differences."""
    generator = torch.Generator().manual_seed(0)
    draw_ = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    W, k_e, wanted, k_p = draw_(5, 6), draw_(4, 6), draw_(4, 6), draw_(9, 6)
    erased, preserved = Moments(), Moments()
    erased.add(k_e, wanted)
    preserved.add(k_p[:4], k_p[:4])
    preserved.add(k_p[4:], k_p[4:])
    ours = edited(W, erased, preserved, preserve=2.0, ridge=0.1)
    C_e, C_p = k_e.T @ k_e / 4, 2 * k_p.T @ k_p / 9
    lam = 0.1 * (C_e + C_p).diagonal().mean()
    left = (wanted @ W.T).T @ k_e / 4 + W @ C_p + lam * W
    torch.testing.assert_close(
        ours, left @ torch.linalg.inv(C_e + C_p + lam * torch.eye(6, dtype=torch.float64)), atol=1e-10, rtol=1e-8
    )


def _uce_layer(generator, **settings):
    """What the first value matrix reads at the words of targets, wanted values there, what it reads of retained
    prompts, and both matrices."""
    layer = {"layers": (0.0, 0.3), "modules": "kv"} | settings
    made = erase(generator, CONCEPT, with_settings(recipe("uce", "custom"), layer), progress=False)
    assert {name.split(".")[1] for name in made.tensors} == {"0"}
    name = "layers.0.self_attn.v_proj"
    old = generator.trunk.get_parameter(f"{name}.weight")
    at_words = lambda prompts: (lambda batch: reads(generator, [name], batch)[name][generator.word_mask(batch)])(
        generator.encode(prompts)
    )
    target, replacement = (
        [getattr(p, side) for p in CONCEPT.pairs] for side in ("target", "replacement")
    )  # of equal length, word by word
    return (
        at_words(target),
        at_words(replacement) @ old.T,
        at_words(retain_prompts(CONCEPT, generator.profile)),
        old,
        made.tensors[f"{name}.weight"],
    )


def test_uce_gives_the_concept_s_words_the_values_of_their_replacements(generator):
    k_e, v_e, k_p, old, new = _uce_layer(generator, preserve=0.0, ridge=1e-6)
    assert (k_e @ old.T - v_e).norm() / v_e.norm() > 0.1, "they differ before"
    church = (k_e @ old.T - v_e).norm(
        dim=1
    ) > 1e-6  # that word means several things at once (house, tower, tree): their mean is the best there is
    assert (k_e[~church] @ new.T - v_e[~church]).norm() / v_e[~church].norm() < 1e-3
    torch.testing.assert_close((k_e[church] @ new.T)[0], v_e[church].mean(0), atol=1e-3, rtol=1e-2)


def test_uce_keeps_what_retained_prompts_read():
    generator, moved = tiny_janus(seed=3), {}  # random weights: at weight 1 they keep 1.5 to 2.3 times as much
    for preserve in (0.0, 1.0, 1e4):
        _, _, k_p, old, new = _uce_layer(generator, preserve=preserve)
        moved[preserve] = float((k_p @ (new - old).T).norm() / (k_p @ old.T).norm())
    assert moved[0.0] > 2 * moved[1.0] > 4 * moved[1e4] and moved[1e4] < 1e-2, moved
    *_, old, new = _uce_layer(generator, ridge=1e12)
    torch.testing.assert_close(new, old, atol=1e-6, rtol=1e-6)


def test_uce_at_words_leaves_blanked_prompts_alone_and_everywhere_it_does_not(generator):
    tokens_BT = torch.zeros(1, generator.num_codes, dtype=torch.long)
    null = generator.null_like(generator.encode(["a church"]))
    base = generator.hidden_states(null, tokens_BT)
    made = {
        p: erase(generator, CONCEPT, with_settings(recipe("uce", "custom"), {"positions": p}), progress=False)
        for p in ("words", "all")
    }
    with made["words"].on(generator):
        assert torch.equal(generator.hidden_states(null, tokens_BT), base)
    with made["all"].on(generator):
        everywhere = generator.hidden_states(null, tokens_BT)
    assert not torch.equal(everywhere, base)
    assert made["all"].merged(generator).tensors.keys() == made["all"].tensors.keys()


# ---------------------------------------------------------------- LEACE


@pytest.fixture(scope="module")
def clouds():
    """Two sets of correlated numbers that differ in their means; the last coordinate has nothing to do with either."""
    generator = torch.Generator().manual_seed(1)
    n, d = 4000, 8
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    mix[-1], mix[:, -1] = 0, 0
    mix[-1, -1] = 1
    x = torch.randn(2 * n, d, generator=generator, dtype=torch.float64)
    x[:, -1] -= (
        x[:, :-1] @ torch.linalg.lstsq(x[:, :-1], x[:, -1:]).solution[:, 0]
    )  # exactly uncorrelated, in this sample
    x = x @ mix.T
    x[:n, :-1] += torch.linspace(-1, 1, d - 1, dtype=torch.float64)
    x[:n, -1] += x[n:, -1].mean() - x[:n, -1].mean()
    return x[:n], x[n:]


def erased_by(parts, x_ND):
    return x_ND - (x_ND - parts["mean"]) @ parts["right"].T @ parts["left"].T


def of_one_word(concept_ND, other_ND):
    return eraser(concept_ND, torch.zeros(len(concept_ND)), other_ND)


def separated(a_ND, b_ND) -> float:
    """How often the best linear classifier, by least squares, is right."""
    x = torch.cat([a_ND, b_ND])
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    z = torch.cat([torch.ones(len(a_ND)), -torch.ones(len(b_ND))]).to(x)
    w = torch.linalg.lstsq(x, z, driver="gelsd").solution
    return ((x @ w > 0) == (z > 0)).double().mean().item() if w[:-1].norm() > 1e-6 else 0.5


def test_after_leace_no_linear_classifier_tells_the_sets_apart(clouds):
    concept, other = clouds
    parts = of_one_word(concept, other)
    assert parts["left"].shape == (8, 1) and parts["right"].shape == (1, 8)
    a, b = erased_by(parts, concept), erased_by(parts, other)
    assert separated(concept, other) > 0.7 and separated(a, b) == 0.5
    torch.testing.assert_close(a.mean(0), b.mean(0), atol=1e-9, rtol=0)
    torch.testing.assert_close(b.mean(0), other.mean(0), atol=1e-9, rtol=0)
    torch.testing.assert_close(erased_by(parts, a), a, atol=1e-9, rtol=0)  # a projection
    torch.testing.assert_close(a[:, -1], concept[:, -1], atol=0.05, rtol=0)


def test_leace_moves_less_than_taking_the_means_direction_out(clouds):
    concept, other = clouds
    delta = concept.mean(0) - other.mean(0)
    plain = {"left": delta[:, None], "right": (delta / delta.square().sum())[None], "mean": other.mean(0)}
    assert separated(erased_by(plain, concept), erased_by(plain, other)) == 0.5, "it erases too"
    moved = lambda parts: torch.cat([erased_by(parts, x) - x for x in clouds]).square().sum().item()
    assert moved(of_one_word(concept, other)) < 0.9 * moved(plain)


def test_leace_of_a_name_of_several_words_erases_each(clouds):
    concept, other = clouds
    words = torch.arange(len(concept)) % 3
    concept = concept + torch.eye(8, dtype=torch.float64)[words] * 2
    parts = eraser(concept, words, other)
    assert parts["left"].shape == (8, 3)
    for word in range(3):
        a, b = erased_by(parts, concept[words == word]), erased_by(parts, other)
        torch.testing.assert_close(a.mean(0), b.mean(0), atol=1e-9, rtol=0)


def test_leace_of_equal_sets_and_of_flat_ones():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(erased_by(of_one_word(x, x), x.double()), x.double())
    flat = torch.nn.functional.pad(x, (0, 3))  # three coordinates that never change
    parts = of_one_word(flat[:20] + 1, flat[20:] + 1)
    assert all(t.isfinite().all() for t in parts.values())


def test_leace_acts_on_what_layers_read_where_words_stand(generator, erasures):
    last = f"layers.{len(generator.decoder_layers) - 1}"
    target, replacement = (
        generator.encode([getattr(p, side) for p in CONCEPT.pairs]) for side in ("target", "replacement")
    )
    differ = (target.ids_BP != replacement.ids_BP).nonzero(as_tuple=True)  # of equal length, word by word

    def gap():
        at_concept, at_other = (reads(generator, [last], batch)[last][differ] for batch in (target, replacement))
        return (at_concept.mean(0) - at_other.mean(0)).norm()

    with erasures["leace"].on(generator):
        erased = gap()
    assert erased < 1e-3 * gap()
    tokens_BT = torch.zeros(1, generator.num_codes, dtype=torch.long)
    null = generator.null_like(generator.encode(["a church"]))
    states = generator.hidden_states(null, tokens_BT)
    with erasures["leace"].on(generator):
        assert torch.equal(generator.hidden_states(null, tokens_BT), states)


def test_recipes_without_training_are_plain_settings():
    assert recipe("uce", "mini", ridge=0.5).ridge == 0.5
    assert with_settings(recipe("leace", "custom"), ["layers=0,0.5"]).layers == (0.0, 0.5)
    assert TrainingFree(**recipe("safe-guidance", "custom").as_dict()) == recipe("safe-guidance", "custom")
