"""What a surrogate leaves to learn and what anchors weigh: numbers that are known beforehand, on tiny random models."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from earlib.chapters import spm_anchoring, spm_surrogate
from earlib.concepts import PromptPair, load_concept, renamed
from earlib.erasure import presets, retain_prompts
from earlib.erasure.lessons import Lessons
from earlib.erasure.recipe import Retain
from earlib.erasure.retain import chances
from earlib.erasure.train import train
from earlib.errors import UserError
from earlib.evaluate import drift

TARGETS = ["a red church on a hill", "a blue church in the snow"]
TO = {"origin": "replacement", "objective": "replacement"}
AWAY = {"origin": "replacement"}


def spm(**settings):
    return presets.recipe("spm", "mini", **{"prefix": "target", "batch": 1, **settings})


def pairs(word="tower"):
    return [PromptPair(*texts) for texts in zip(TARGETS, renamed(TARGETS, "church", word))]


def test_surrogates_stand_where_the_word_stood():
    assert renamed(["A Church by a churchyard"], "church", "car") == ["A car by a churchyard"]
    with pytest.raises(UserError, match="the prompt 'a red boat' lacks the word 'church'"):
        renamed(["a red boat"], "church", "car")
    made = spm_surrogate.with_surrogate(load_concept("church", "mini"), "church", "chapel")
    assert all(pair.replacement == pair.target.replace("church", "chapel") for pair in made.pairs)
    assert made.tests == load_concept("church", "mini").tests


def test_what_is_told_the_same_is_not_apart(generator):
    tokens = drift.draw_tokens(generator, TARGETS)
    found = spm_surrogate.reach(
        generator, TARGETS, {"itself": TARGETS, "a car": renamed(TARGETS, "church", "car"), "nothing": None}, tokens
    )
    assert all(values.shape == tokens.shape for of in found.values() for values in of.values())
    assert not found["itself"]["kl"].any() and not found["itself"]["distance"].any()
    for name in ("a car", "nothing"):
        assert (
            (found[name]["kl"] > -1e-6).all()
            and found[name]["kl"].mean() > 1e-3
            and (found[name]["distance"] > 0).all()
        )


def test_what_there_is_to_learn(generator):
    same = [PromptPair(text, text) for text in TARGETS]
    assert (
        not spm_surrogate.to_learn(generator, same, spm(**TO)).any()
        and not spm_surrogate.to_learn(generator, same, spm(**AWAY)).any()
    )
    assert (spm_surrogate.to_learn(generator, same, spm()).mean(1) > 0).all(), "no prompt is something else"
    # to the surrogate, the loss is the divergence of the two readings themselves
    loss = spm_surrogate.to_learn(generator, pairs(), spm(**TO))
    lessons = Lessons(generator, pairs(), spm(**TO), 0)
    prefix = torch.cat([lessons.begin(i, nullcontext).tokens_RT for i in range(2)])
    towers = [pair.replacement for pair in pairs()]
    assert np.allclose(
        loss, spm_surrogate.reach(generator, towers, {"church": TARGETS}, prefix)["church"]["kl"], atol=1e-5
    )
    with pytest.raises(UserError, match="prefix=target"):
        spm_surrogate.to_learn(generator, pairs(), spm(prefix="student"))


def test_quarters_are_means_from_the_top():
    values = np.repeat([[1.0, 2.0, 3.0, 4.0]], 3, axis=0).repeat(4, axis=1)
    assert [part.value for part in spm_surrogate.quarters(values).values()] == [1, 2, 3, 4]


def test_weighing(generator):
    others = retain_prompts(load_concept("church", "mini"), "mini")[:12]
    even, strong = (spm_anchoring.weighing(chances(generator, others, pairs(), alpha)) for alpha in (0, 10))
    assert even == {"prompts": 12, "effective": pytest.approx(12), "ratio": pytest.approx(1)}
    assert strong["effective"] < 12 and strong["ratio"] > 1
    assert spm_anchoring.weighing(torch.tensor([0.5, 0.5, 1e-12]))["effective"] == pytest.approx(2)


def test_random_directions_are_hardly_ever_near_anything():
    few, many = spm_anchoring.accepted(4), spm_anchoring.accepted(spm_anchoring.DIFFUSION)
    assert many["spread"] == pytest.approx(spm_anchoring.DIFFUSION**-0.5, rel=0.02)
    assert few["spread"] == pytest.approx(0.5, rel=0.02) and few["accepted"] < 0.85 < 0.99 < many["accepted"] < 1
    direct = np.random.default_rng(1).standard_normal((50_000, 4))
    assert few["accepted"] == pytest.approx(
        np.minimum(1 - direct[:, 0] / np.linalg.norm(direct, axis=1), 1).mean(), abs=0.01
    )


def test_gradients_of_both_losses(generator):
    others = retain_prompts(load_concept("church", "mini"), "mini")[:8]
    recipe = replace(spm(), retain=Retain(1.0))
    student = {name: p.detach() for name, p in surrogate_start(generator, recipe).items()}
    norms = spm_anchoring.gradient_norms(generator, pairs(), recipe, student, others)
    assert norms["erasing"] > 0 and norms["anchoring"] < 1e-4 * norms["erasing"], "the student still is the teacher"
    trained, _ = train(generator, pairs(), replace(recipe, retain=Retain(), passes=2), 0)
    once, ten = (
        spm_anchoring.gradient_norms(generator, pairs(), replace(recipe, retain=Retain(w)), trained, others)
        for w in (1.0, 10.0)
    )
    assert once["anchoring"] > 0 and ten["anchoring"] == pytest.approx(10 * once["anchoring"], rel=1e-4)
    assert ten["erasing"] == pytest.approx(once["erasing"])


def surrogate_start(generator, recipe):
    """Membranes before the first step."""
    from earlib.erasure.change import student_parameters, tensor_names

    return student_parameters(generator.trunk, tensor_names(recipe, len(generator.decoder_layers)), rank=recipe.rank)
