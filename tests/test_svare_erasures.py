"""Erasures of next-scale models, on tiny random ones: switched, saved and loaded; guidance; recipes and commands that
are refused."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch

from earlib.__main__ import main
from earlib.concepts import PromptPair
from earlib.erasure import erase
from earlib.erasure.closed_form import OfScales, uce
from earlib.erasure.compose import compose
from earlib.erasure.lessons_scale import ScaleLessons as Lessons
from earlib.erasure.lessons_scale import looked_at
from earlib.erasure.presets import SCALE_PRESETS as PRESETS
from earlib.erasure.presets import recipe
from earlib.erasure.recipe_scale import ScaleEdit
from earlib.erasure.settings import with_settings
from earlib.erasure.steering import ScaleErasureStyle
from earlib.erasure.steering import steered as steering
from earlib.erasure.store import Erasure
from earlib.erasure.train import train
from earlib.errors import UserError
from earlib.generators.var.draw import draw_batch

from .test_nextscale import PROMPTS, SEEDS, published, tiny
from .test_svare import CONCEPT, PAIRS, QUANTISERS, TRAINED, heeding, small

EVERYWHERE = {"scales": (0.0, 1.0), "relevance": 0.0, "threshold": 1e9}  # steering that a random model notices


@pytest.fixture(scope="module")
def generators():
    return {quantiser: heeding(quantiser) for quantiser in QUANTISERS}


@pytest.fixture(scope="module")
def erasures(generators):
    """Each preset's erasure of churches, made once."""
    made = {}

    def get(name, quantiser):
        if (name, quantiser) not in made:
            settings = (
                small(name)
                if name in TRAINED
                else published(name, **(EVERYWHERE if name == "scale-erasure-style" else {}))
            )
            made[name, quantiser] = erase(generators[quantiser], CONCEPT, settings, progress=False)
        return generators[quantiser], made[name, quantiser]

    return get


def logits(generator, prompts=tuple(PROMPTS), seed=3):
    """Logits along fixed codes: what drawing would see."""
    codes = torch.randint(
        2,
        (len(prompts), generator.num_codes, *generator.quantiser.code_shape),
        generator=torch.Generator().manual_seed(seed),
    )
    return generator.logits(generator.encode(list(prompts)), codes)


# ------------------------------------------------------------------ erasures


@pytest.mark.parametrize("routes, changed", [("attention", 2), ("start", 1), ("both", 3)])
def test_uce_makes_of_a_word_what_its_replacement_was(routes, changed, generators):
    """With nothing to preserve, the new matrices make of a target's words what the old ones made of the replacement's;
    words of kept prompts hardly move."""
    g = generators["bsq"]
    some = ScaleEdit(routes=routes, preserve=0.0, ridge=1e-9)
    tensors = uce(g, list(PAIRS), some, [])
    target, replacement = (g.encode([getattr(pair, side) for pair in PAIRS]) for side in ("target", "replacement"))
    read = OfScales(g, some).read
    now, wanted = read((), target), read((), replacement)
    assert len(tensors) == len(now) == changed
    for name, x_BPE in now.items():
        old, new, where = g.trunk.get_submodule(name).weight, tensors[f"{name}.weight"], target.mask_BP.bool()
        torch.testing.assert_close(x_BPE[where] @ new.T, wanted[name][where] @ old.T, atol=2e-3, rtol=2e-3)
        kept = uce(g, list(PAIRS), dataclasses.replace(some, preserve=1e6), PROMPTS)
        words = g.encode(PROMPTS)
        x_NE = read((), words)[name][words.mask_BP.bool()]
        assert (x_NE @ (kept[f"{name}.weight"] - old).T).abs().max() < 0.02 * (x_NE @ (new - old).T).abs().max()
    twice = uce(g, list(PAIRS), dataclasses.replace(some, strength=2.0), [])
    for name, new in tensors.items():
        old = g.trunk.get_parameter(name)
        torch.testing.assert_close(twice[name] - old, 2 * (new - old), atol=1e-5, rtol=1e-4)
    nothing = tuple(dataclasses.replace(pair, target=pair.replacement) for pair in PAIRS)
    assert all(
        torch.equal(t, g.trunk.get_parameter(name)) for name, t in uce(g, list(nothing), some, PROMPTS).items()
    ), "erasing nothing changes nothing"


@pytest.mark.parametrize("positions", ["all", "scales"])
def test_adapters(positions, generators, tmp_path):
    """At every position they are peft's files and can be merged; at some scales they are neither."""
    g = generators["bsq"]
    r = small("sace-style", rank=2, positions=positions, **{"retain.prompts": "neutral"})
    erasure = erase(g, CONCEPT, r, out=tmp_path / "e", progress=False)
    assert all(t.shape[0] == 2 or t.shape[1] == 2 for t in erasure.tensors.values())
    assert (tmp_path / "e" / "adapter_config.json").exists() == (positions == "all")
    again = Erasure.load(tmp_path / "e", g)
    with erasure.on(g):
        active = logits(g)
    with again.on(g):
        assert torch.equal(logits(g), active)
    if positions == "all":
        with erasure.merged(g).on(g):
            torch.testing.assert_close(logits(g), active, atol=1e-4, rtol=1e-4)
    else:
        with pytest.raises(UserError, match="acts at some scales only"):
            erasure.merged(g)


def test_adapters_of_two_concepts_are_composed(generators):
    g = generators["bsq"]
    other = dataclasses.replace(CONCEPT, name="boat", pairs=(PromptPair("a boat by the sea", "a car by the sea"),))
    a, b = (erase(g, concept, small("s-vare", rank=2), progress=False) for concept in (CONCEPT, other))
    base = logits(g)
    with compose([a, b]).on(g):
        both = logits(g)
    with merged_by_hand(g, a, b).on(g):
        torch.testing.assert_close(logits(g), both, atol=1e-4, rtol=1e-4)
    assert (both - base).abs().max() > 1e-3 and torch.equal(logits(g), base)
    some = erase(g, CONCEPT, small("sace-style", rank=2, **{"retain.prompts": "neutral"}), progress=False)
    with pytest.raises(UserError, match="positions=scales only cannot be composed"), compose([some, b]).on(g):
        pass


def merged_by_hand(g, *erasures):
    """W + sum_c B_c A_c."""
    tensors = {}
    for name in (n for n in erasures[0].tensors if n.endswith(".lora_A.weight")):
        module = name.removesuffix(".lora_A.weight")
        change = sum(e.tensors[f"{module}.lora_B.weight"] @ e.tensors[name] for e in erasures)
        tensors[f"{module}.weight"] = g.trunk.get_parameter(f"{module}.weight") + change
    return dataclasses.replace(erasures[0], tensors=tensors)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_change_at_scale_0_changes_no_other_scale(rank, generators):
    """In the last block nothing but the head reads what it gives; so later scales of one picture see nothing of a
    change at scale 0 there."""
    g = generators["bsq"]
    r = small("sace-style", rank=rank, layers=(0.5, 1.0), lr=0.05, **{"retain.prompts": "neutral"})
    erasure = erase(g, CONCEPT, r, progress=False)
    base = logits(g)
    with erasure.on(g):
        changed = logits(g)
    assert torch.equal(changed[:, 1:], base[:, 1:]) and (changed[:, 0] - base[:, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["s-vare", "sace-style"])
def test_scale_by_scale_drawing_is_one_masked_pass_under_an_erasure_too(name, erasures):
    g, erasure = erasures(name, "bsq")
    seen = []
    with erasure.on(g):
        codes = draw_batch(g, [g.encode(PROMPTS)], torch.tensor(SEEDS), 1.0, 1.0, look=seen.append)
        assert (torch.cat(seen, 1) - g.logits(g.encode(PROMPTS), codes)).abs().max() < 1e-4


def test_what_the_filter_keeps_can_be_looked_at(erasures):
    g, erasure = erasures("s-vare", "bsq")
    r = small("s-vare", pictures=2)
    before, after = looked_at(g, PAIRS, r), looked_at(g, PAIRS, r, erasure=erasure, batch=3)
    assert before["kept"].shape == before["loss"].shape == (8, 50) and before["codes"].shape == (8, 50, 6)
    assert torch.equal(before["codes"], after["codes"]) and not torch.equal(before["loss"], after["loss"])
    lessons = Lessons(g, PAIRS, dataclasses.replace(r, batch=8), 0)
    lesson = lessons.begin(0)
    lesson.gate(lesson.losses())
    assert int(before["kept"].sum()) == lesson.report["kept"] > 0


# ------------------------------------------------------------------ guidance


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_a_negative_prompt_takes_the_place_of_none(quantiser, erasures):
    g, erasure = erasures("negative-prompt", quantiser)
    assert erasure.recipe["text"] == "church" and not erasure.tensors
    with erasure.on(g):
        drawn = g.sample(PROMPTS, SEEDS, 2.0)
        assert torch.equal(g.sample(PROMPTS, SEEDS, 1.0), g.sample(PROMPTS, SEEDS, 1.0))
    z = [g.log_probabilities(prompts, drawn, 1.0) for prompts in (PROMPTS, ["church"] * 4)]
    with erasure.on(g):
        found = g.log_probabilities(PROMPTS, drawn, 2.0)
    torch.testing.assert_close(found, (2 * z[0] - z[1]).log_softmax(-1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_scale_erasure_by_hand(quantiser, generators):
    """Everywhere at the middle scales: cfg on the safe text, and three times away from the concept."""
    g = generators[quantiser]
    r = published("scale-erasure-style", text="church", safe="house", **(EVERYWHERE | {"scales": (0.25, 0.75)}))
    erasure = erase(g, CONCEPT, r, progress=False)

    class ByHand:
        def rows(self, g, prompts, guidance):
            others = [g.encode([text] * len(prompts)) for text in ("house", "church")]
            return [prompts, g.null_like(prompts), *others]

        def combine(self, parts, guidance, k):
            c, u, s, n = parts
            return u + 2 * (s - u) - 3 * (n - u) if k in (1, 2) else u + 2 * (c - u)

        def watching(self, g):
            return ()

    with erasure.on(g):
        steered = g.sample(PROMPTS, SEEDS, 2.0)
    with steering(g, ByHand()):
        assert torch.equal(steered, g.sample(PROMPTS, SEEDS, 2.0))
    base = g.sample(PROMPTS, SEEDS, 2.0)
    assert torch.equal(steered[:, 0], base[:, 0]) and not torch.equal(steered[:, 1:14], base[:, 1:14])
    for nothing in ({"relevance": 1.1}, {"threshold": 0.0} if quantiser == "bsq" else {"strength": 0.0}):
        with erase(g, CONCEPT, with_settings(r, nothing), progress=False).on(g):
            assert (g.sample(PROMPTS, SEEDS, 2.0) == base).float().mean() > 0.99


def test_relevance_is_a_share_of_three_texts(generators):
    """Of one text told three times every position has a third; of three texts the shares are 1 together, and differ
    from place to place."""
    g = generators["bsq"]
    codes = g.sample(PROMPTS, SEEDS)

    def share(*texts):
        steering = ScaleErasureStyle(*texts, layers=(0.0, 1.0))
        handles = steering.watching(g)
        g.logits(g.encode(PROMPTS), codes)
        for handle in handles:
            handle.remove()
        assert len(steering.queries) == 2
        return steering.share(steering.queries)

    assert torch.allclose(share("church", "church", "church"), torch.full((4, 50), 1 / 3))
    three = share("church", "house", "boat")
    assert torch.allclose(
        three + share("house", "boat", "church") + share("boat", "church", "house"), torch.ones(4, 50), atol=1e-5
    )
    assert three.std() > 1e-3 and three.min() > 0


def test_names_of_what_is_steered_to_and_from():
    r = PRESETS["scale-erasure-style"].named(CONCEPT)
    assert r.text == "church" and r.safe in ("house", "tower", "tree", "car")
    style = dataclasses.replace(
        CONCEPT,
        pairs=(
            PromptPair("a boat in the style of van gogh", "a boat"),
            PromptPair("a car in the style of van gogh", "a car"),
        ),
    )
    r = PRESETS["scale-erasure-style"].named(style)
    assert r.text == "in the style of van gogh" and r.safe == ""
    assert with_settings(r, {"text": "a nude"}).named(CONCEPT).text == "a nude"


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "name, settings, line",
    [
        ("s-vare", {"filter.alpha": 2}, "filter.alpha=2.0 is out of range"),
        ("s-vare", {"filter.kind": "worng"}, "filter.kind='worng' is not possible; did you mean 'wrong'"),
        ("s-vare", {"filtre.kind": "none"}, "no field 'filtre.kind'; did you mean 'filter.kind'"),
        ("s-vare", {"lr": "fast"}, "must be a number"),
        ("s-vare", {"lr": 0}, "out of range"),
        ("s-vare", {"layers": (1, 0)}, "shares of the depth"),
        ("s-vare", {"retain.weight": 0}, None),
        ("vare", {"retain.guidance": 3}, "need a retain.weight"),
        ("vare", {"update": "project"}, "it needs a retain.weight"),
        ("vare", {"filter.alpha": 0.5}, "a filter of nothing"),
        ("vare", {"labels": "likeliest"}, "looks at no labels"),
        ("s-vare", {"soft_guidance": 2}, "soft_guidance is for kl and mse"),
        ("vare", {"teacher_states": "independent"}, "teacher_states=shared"),
        ("naive", {"rollouts": 0.5}, "rollouts"),
        ("vare", {"prefix": "student", "rollouts": 0.5}, "leave rollouts at 0"),
        ("sace-style", {"modules": "cross"}, "keys and values of words"),
        ("negative-prompt", {"away": 2}, "away means nothing to method=negative-prompt"),
        ("negative-prompt", {"strength": -1}, "out of range"),
        ("scale-erasure-style", {"scales": (1, 0)}, "two shares"),
        ("scale-erasure-style", {"method": "scales-erasure"}, "did you mean 'scale-erasure'"),
        ("s-vaer", None, "no recipe 's-vaer' for next-scale models; did you mean 's-vare'"),
        ("ear", None, "recipe 'ear' is for next-token models; next-scale models have: naive, negative-prompt,"),
    ],
)
def test_wrong_recipes_are_one_line(name, settings, line):
    if line is None:
        assert published(name, **settings).retain.weight == 0
        return
    with pytest.raises(UserError, match=re.escape(line)) as error:
        recipe(name, "mini-var") if settings is None else published(name, **settings)
    assert "\n" not in str(error.value)


def test_recipes_that_do_not_fit_the_model_are_one_line(generators):
    with pytest.raises(UserError, match="scales.first=4, scales.count=0: custom has scales 0 to 3"):
        erase(generators["bsq"], CONCEPT, small("vare", **{"scales.first": 4}), progress=False)
    with pytest.raises(
        UserError, match="filter.parts=wrong picks single bits of a code, and the codes of custom are whole numbers"
    ):
        erase(generators["vq"], CONCEPT, small("s-vare", **{"filter.parts": "wrong"}), progress=False)
    with pytest.raises(UserError, match="retain.prompts=both needs prompts of other concepts"):
        train(generators["bsq"], PAIRS, small("sace-style"), 0)
    with pytest.raises(UserError, match="no prompt pairs"):
        erase(generators["bsq"], dataclasses.replace(CONCEPT, pairs=()), small("vare"), progress=False)


# ------------------------------------------------------------------ the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny next-scale model on disk, with prompts for it."""
    place = tmp_path_factory.mktemp("cli")
    tiny("bsq", text_length=32).model.save_pretrained(place / "model")
    (place / "prompts.txt").write_text("a red church on a hill\na boat\n")
    return place


def run(capfd, *words) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    return status, *capfd.readouterr()


def test_erase_and_generate_from_the_command_line(folder, capfd):
    quick = ("--model", folder / "model", "--concept", "church", "--set", "pairs=4", "passes=2", "lr=3e-3")
    status, out, _ = run(capfd, "erase", *quick, "--out", folder / "e")
    assert status == 0 and out.startswith(f"s-vare in {folder / 'e'}") and "updates 4" in out
    assert {"erasure.json", "erasure.safetensors", "metrics.jsonl", "config.json"} <= {
        path.name for path in (folder / "e").iterdir()
    }
    status, again, _ = run(capfd, "erase", *quick, "--out", folder / "e", "--resume")
    assert status == 0 and again == out
    for name, more in (("base", ()), ("erased", ("--erasure", folder / "e"))):
        assert (
            run(
                capfd,
                "generate",
                "--model",
                folder / "model",
                "--prompts",
                folder / "prompts.txt",
                "--out",
                folder / name,
                *more,
            )[0]
            == 0
        )
    pictures = [sorted(path.read_bytes() for path in (folder / name).glob("*.png")) for name in ("base", "erased")]
    assert len(pictures[0]) == len(pictures[1]) == 2 and pictures[0] != pictures[1]


def test_evaluate_the_shipped_model(tmp_path, capfd):
    """MiniVAR draws what it is asked for, and few churches after a closed form that takes a second; both are in the
    records."""
    erasure = (
        "erase",
        "--model",
        "mini-var",
        "--recipe",
        "recommended",
        "--concept",
        "church",
        "--out",
        tmp_path / "e",
    )
    assert run(capfd, *erasure)[0] == 0
    measured = (
        "evaluate",
        "--model",
        "mini-var",
        "--concept",
        "church",
        "--erasure",
        tmp_path / "e",
        "--json",
        tmp_path / "x.json",
    )
    status, out, _ = run(capfd, *measured, "--max-prompts", "12", "--seeds", "0", "--no-fidelity")
    assert status == 0 and "records in" in out
    rate = {
        r["condition"]: r["value"]
        for r in json.loads((tmp_path / "x.json").read_text())
        if (r["metric"], r["kind"]) == ("concept_rate", "direct")
    }
    assert rate["base"] > 0.8 and rate["erased"] < 0.2


def test_an_empty_filter_is_said(folder, tmp_path, capfd):
    quick = ("--set", "pairs=4", "passes=2", "filter.alpha=1", "retain.weight=0")
    status, out, err = run(
        capfd, "erase", "--model", folder / "model", "--concept", "church", "--out", tmp_path / "e", *quick
    )
    assert status == 0 and "updates_empty 4" in out
    assert "warning: the filter kept none of 400 tokens, so that nothing was erased; lower filter.alpha" in err


@pytest.mark.parametrize(
    "words, line",
    [
        (
            "erase --model {model} --recipe ear --concept church --out {out}",
            "recipe 'ear' is for next-token models; next-scale models have: naive",
        ),
        ("erase --model mini-var --recipe ear --concept church --out {out}", "recipe 'ear' is for next-token models"),
        (
            "erase --model mini --recipe s-vare --concept church --out {out}",
            "recipe 's-vare' is for next-scale models, such as --model mini-var",
        ),
        (
            "erase --model {model} --recipe s-vare --concept church --out {out} --set filter.alpa=1",
            "no field 'filter.alpa'; did you mean 'filter.alpha'",
        ),
        ("erase --model {model} --concept chruch --out {out}", "unknown concept 'chruch'"),
        (
            "generate --model {model} --prompts {prompts} --out {out} --erasure {model} --by-prompt",
            "--by-prompt works with next-token models only",
        ),
        ("generate --model {model} --prompts {prompts} --out {out} --erasure {model}", "holds no erasure"),
    ],
)
def test_wrong_commands_are_one_line_and_leave_nothing(words, line, folder, tmp_path, capfd):
    places = {"model": folder / "model", "out": tmp_path / "out", "prompts": folder / "prompts.txt"}
    status, out, err = run(capfd, *(word.format(**places) for word in words.split()))
    assert status == 2 and line in err and err.count("\n") == 1 and not out
    assert not (tmp_path / "out").exists()
