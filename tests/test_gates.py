"""Gates that every recipe of the table has to pass: what must hold whatever a method does, in both families. On small
random models; one on the shipped one."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext

import pytest
import torch

from earlib.concepts import Concept, PromptPair
from earlib.erasure import erase
from earlib.erasure.lessons import Lessons
from earlib.erasure.presets import PRESETS, SCALE_PRESETS, recipe
from earlib.erasure.recipe import LIKELIHOOD, Recipe
from earlib.erasure.store import Erasure
from earlib.errors import UserError

from . import test_svare as scales
from .conftest import tiny_janus
from .test_nextscale import published
from .test_svare_erasures import EVERYWHERE

PAIRS = (
    PromptPair("a red church on a hill", "a red house on a hill"),
    PromptPair("a church by the sea", "a tower by the sea"),
)
CONCEPT = Concept(
    "church", "object", PAIRS, {"direct": ("a church",)}, {}, {}, ("a boat at night",), {}, {"window": 144}
)
TRAINED = [name for name, r in PRESETS.items() if isinstance(r, Recipe)]
BITS = [("bits", name) for name in SCALE_PRESETS]
OF_TWO = [*(("tokens", name) for name in PRESETS), *BITS]  # of both families
OF_ALL = [*OF_TWO, *(("codebook", name) for name in SCALE_PRESETS)]
MODELS = {
    "tokens": lambda: tiny_janus(seed=3),
    "bits": lambda: scales.heeding("bsq"),
    "codebook": lambda: scales.heeding("vq"),
}
ADAPTERS = [name for name in TRAINED if PRESETS[name].rank]
# Methods that compare pictures drawn by chance, or push without comparing, move even where target and replacement are
# one prompt; so do those that pull to no prompt at all, for which that is no null concept.
MOVE_ANYWAY = ("ear", "ear-released", "concept-ablation-noise", "gradient-ascent", "npo", "dpo", "rmu", "forget-me-not")
MOVE_ANYWAY += ("robust",)  # which goes on as if a picture that was begun had not been
MOVE_ANYWAY += tuple(name for name in TRAINED if PRESETS[name].origin == "null")
GUIDING = ("negative-prompt", "safe-guidance")


def small(name: str, **settings):
    """The preset on two pairs, with steps that a tiny model notices."""
    quick = {
        "pairs": 2,
        "passes": 2,
        "batch": 2,
        "lr": 3e-3,
        "gate.threshold": 0.0,
        "windows.length": 8 if name.startswith("ear") else -1,
    }
    if name == "ear-released":
        quick |= {"batch": 1}
    return recipe(name, **({k: v for k, v in quick.items() if name in TRAINED} | settings))


def logits(generator, prompt="a church", erasure=None, guidance=3.0):
    """The guided logits of a fixed picture, [1, T, V]: what drawing would see."""
    tokens_1T = torch.arange(generator.num_codes)[None] % generator.codebook_size
    with erasure.on(generator) if erasure else nullcontext():
        return generator.log_probabilities([prompt], tokens_1T, guidance)[:, :, 0]


def erased(generator, model, name, seed=0):
    """A recipe's erasure of churches from one of MODELS."""
    if model == "tokens":
        return erase(generator, CONCEPT, small(name), seed=seed, progress=False)
    quick = scales.small if name in scales.TRAINED else published
    r = quick(name, **(EVERYWHERE if name == "scale-erasure-style" else {}))
    return erase(generator, scales.CONCEPT, r, seed=seed, progress=False)


@pytest.fixture(scope="module")
def erasures():
    """Each recipe's erasure, made once."""
    models, made = {}, {}

    def get(name, model="tokens"):
        if model not in models:
            models[model] = MODELS[model]()
        if (model, name) not in made:
            made[model, name] = erased(models[model], model, name)
        return models[model], made[model, name]

    return get


def seen(generator):
    """What drawing sees along fixed codes, and what it draws."""
    chance = torch.Generator().manual_seed(3)
    codes = torch.randint(2, (2, generator.num_codes, *generator.code_shape), generator=chance)
    prompts = ["a church", "a red church by the sea"]
    return generator.log_probabilities(prompts, codes, 3.0), generator.sample(prompts, [11, 12], 3.0)


def hooks(generator):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in generator.trunk.modules())


@pytest.mark.parametrize("model, name", OF_ALL)
def test_off_is_the_base_model_bit_for_bit(model, name, erasures):
    g, erasure = erasures(name, model)
    own, before = {n: (p.data_ptr(), p.clone()) for n, p in g.trunk.named_parameters()}, hooks(g)
    base, picture = seen(g)
    with erasure.on(g):
        on = seen(g)[0]
    assert not torch.equal(on, base), "switched on it must change something"
    with pytest.raises(KeyError), erasure.on(g):
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(seen(g), (base, picture)))
    assert all(p.data_ptr() == own[n][0] and torch.equal(p, own[n][1]) for n, p in g.trunk.named_parameters())
    assert g.steering is None and hooks(g) == before
    with erasure.on(g, strength=0.0):
        none, same = seen(g)
    torch.testing.assert_close(none, base, atol=1e-5, rtol=1e-5)
    assert (same == picture).float().mean() > 0.99
    with erasure.on(g, strength=0.5):
        half = seen(g)[0]
    assert not torch.equal(half, base) and not torch.equal(half, on)


@pytest.mark.parametrize("name", TRAINED)
def test_a_null_concept_is_a_no_op_where_a_method_compares_like_with_like(name):
    """Target and replacement are one prompt: there is nothing to erase."""
    generator, r, text = tiny_janus(seed=3), small(name), "a red house on a hill"
    concept = dataclasses.replace(CONCEPT, pairs=(PromptPair(text, text),))
    erasure = erase(
        generator, concept, dataclasses.replace(r, retain=dataclasses.replace(r.retain, weight=0.0)), progress=False
    )
    with erasure.on(generator):
        moved = logits(generator) - logits(tiny_janus(seed=3))
    if name in MOVE_ANYWAY:
        assert moved.abs().max() > 1e-3, f"{name} compares like with like now: take it out of MOVE_ANYWAY"
    else:  # Adam makes steps of its full length from rounding errors, so that the loss itself is looked at too
        lesson = Lessons(generator, concept.pairs, r, 0).begin(0, nullcontext)
        assert lesson.losses(0, generator.num_codes).abs().max() < 1e-6


@pytest.mark.parametrize("name", [n for n in PRESETS if n not in GUIDING])
def test_the_prompt_reaches_the_last_token(name, erasures):
    generator, erasure = erasures(name)
    with erasure.on(generator):
        a, b = (logits(generator, p, guidance=1.0)[0, -1] for p in ("a boat at night", "a blue tree in the snow"))
    assert (a - b).abs().max() > 1e-4


@pytest.mark.parametrize("name", TRAINED)
def test_the_prompt_matters_to_the_last_window_of_training(name):
    """In the released code's loop it does not: after its first step that loop never sees a prompt."""
    generator, r = tiny_janus(seed=3), small(name)
    found = []
    for target in ("a red church on a hill", "a blue church on a hill"):
        lesson = Lessons(generator, (PromptPair(target, "a red house on a hill"),), r, 0).begin(0, nullcontext)
        T = generator.num_codes
        for part in (
            "tokens_RT",
            "target_RTD",
            "tokens_T",
            "target_TD",
        ):  # one picture and target for both prompts: only what the student reads differs
            if hasattr(lesson, part):
                setattr(lesson, part, getattr(lesson, part) * 0)
        if r.objective in LIKELIHOOD:  # at the start their losses are those of no change
            found.append(lesson._read(lesson.pictures[0] * 0)[0, -1].item())
        else:
            found.append(lesson.losses(8 if name.startswith("ear") else 0, T)[-1].item())
    assert (found[0] == found[1]) == (name == "ear-released")


@pytest.mark.parametrize("model, name", OF_TWO)
def test_saved_and_loaded_is_what_was_made(model, name, erasures, tmp_path):
    g, erasure = erasures(name, model)
    again = Erasure.load(erasure.save(tmp_path / name), g)
    with erasure.on(g):
        made = seen(g)
    with again.on(g):
        assert all(torch.equal(a, b) for a, b in zip(seen(g), made))
    assert again.info == erasure.info and again.info["seconds"] >= 0
    assert again.name == name and again.recipe == json.loads(json.dumps(erasure.recipe))
    other = tiny_janus(seed=9) if model == "tokens" else scales.tiny(seed=9)
    with pytest.raises(UserError, match="made for a model with fingerprint"):
        Erasure.load(tmp_path / name, other)


@pytest.mark.parametrize("model, name", [*(("tokens", name) for name in PRESETS), ("bits", "s-vare")])
def test_two_runs_with_one_seed_are_equal(model, name, erasures):
    g, erasure = erasures(name, model)
    again = erased(g, model, name)
    assert again.tensors.keys() == erasure.tensors.keys()
    assert all(torch.equal(again.tensors[n], t) for n, t in erasure.tensors.items())
    if name in ("ear", "s-vare"):
        other = erased(g, model, name, seed=1)
        assert any(not torch.equal(other.tensors[n], t) for n, t in erasure.tensors.items())


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_is_active(name, erasures):
    generator, erasure = erasures(name)
    merged = erasure.merged(generator)
    assert not any(".lora_" in n for n in merged.tensors) and merged.megabytes > erasure.megabytes
    torch.testing.assert_close(
        logits(generator, erasure=merged), logits(generator, erasure=erasure), atol=1e-4, rtol=1e-4
    )


def test_words_only_leaves_blanked_prompts_alone(erasures):
    """What acts where words stand cannot touch the unconditional row, whatever it was trained to do."""
    generator, erasure = erasures("esd-x")
    null = generator.null_like(generator.encode(["a red church on a hill"]))
    tokens_1T = torch.zeros(1, generator.num_codes, dtype=torch.long)
    base = generator.hidden_states(null, tokens_1T)
    with erasure.on(generator):
        assert torch.equal(generator.hidden_states(null, tokens_1T), base)
    with pytest.raises(UserError, match="acts where words stand"):
        erasure.merged(generator)


def test_word_mask_marks_the_prompts_own_words(generator):
    batch = generator.encode(["a red church", "a boat on a hill at night"])
    words_BP = generator.word_mask(batch)
    spelled = [generator.tokenizer.decode(ids[row]) for ids, row in zip(batch.ids_BP, words_BP)]
    assert spelled == ["a red church", "a boat on a hill at night"]
    assert not generator.word_mask(generator.null_like(batch)).any()


CONTRADICTIONS = [
    ("ear", {"divergence": "kl"}, "needs space=logits"),
    ("ear", {"divergence": "ce"}, "needs space=logits"),
    ("obliviate", {"divergence": "ce"}, "needs objective=replacement"),
    (
        "concept-ablation",
        {"divergence": "ce", "prefix": "target"},
        "needs objective=replacement and prefix=replacement",
    ),
    ("concept-ablation", {"eta": 2}, "eta has no meaning"),
    ("npo", {"windows.length": 12}, "whole pictures"),
    ("npo", {"space": "hidden"}, "needs space=logits"),
    ("rmu", {"prefix": "replacement"}, "leave prefix=target"),
    ("ear", {"prefix": "replacement"}, "teacher_states=independent"),
    ("ear-released", {"retain.weight": 1}, "context=single"),
    ("ear", {"retain.weight": -1}, "out of range"),
    ("dpo", {"beta": 0}, "out of range"),
    ("spm", {"rank": -1}, "out of range"),
    ("ear", {"windows.length": -9}, "out of range"),
]


@pytest.mark.parametrize(
    "name, settings, line", CONTRADICTIONS, ids=[f"{n}-{next(iter(s))}" for n, s, _ in CONTRADICTIONS]
)
def test_axes_that_contradict_each_other_are_one_line(name, settings, line):
    with pytest.raises(UserError, match=line) as error:
        recipe(name, **settings)
    assert "\n" not in str(error.value)


def test_methods_of_replacement_need_replacement_prompts(generator):
    with pytest.raises(UserError, match="no prompt pairs"):
        erase(generator, dataclasses.replace(CONCEPT, pairs=()), small("concept-ablation"), progress=False)


def test_our_recipes_leave_churches_alone_when_a_word_without_meaning_is_erased():
    """By the shipped table; most other methods do not, which the chapter on methods shows."""
    from earlib.sweeps import compare, read

    moved = compare.moved(read.load("nonsense"))
    assert not {"recommended", "ablation-at-words"} & {*moved["direct"], *moved["neighbours"]}
    assert "ear" in moved["direct"], "a control that nothing fails would show nothing"
