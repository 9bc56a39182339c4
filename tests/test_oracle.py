"""Distance to an oracle: none between a model and itself, the same both ways round, more for what differs more."""

from __future__ import annotations

import pytest
import torch

from earlib.chapters import oracle as chapter
from earlib.concepts import load_concept
from earlib.erasure.store import Erasure
from earlib.errors import UserError
from earlib.evaluate.drift import draw_tokens, kl_by_code, kl_drift
from earlib.evaluate.oracle import Model, against_oracle, check_oracle, distance, prompts_of
from earlib.evaluate.rate import Estimate, Rate

from .conftest import tiny_janus
from .test_nextscale import tiny as tiny_scales

PROMPTS = ["a red church on a hill", "a blue house by the sea", "a sketch of a tree", "a green car in the snow"]


def like(generator, noise: float, seed: int = 1):
    """A tiny model of the same tokenizer, whose trunk differs by noise."""
    other = tiny_janus()
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in other.trunk.parameters():
            p.add_(noise * torch.randn_like(p) * p.std() if p.dim() > 1 else 0)
    return other


@pytest.fixture(scope="module")
def models(generator):
    return Model(generator), Model(like(generator, 0.1)), Model(like(generator, 0.5))


def test_nothing_lies_between_a_model_and_itself(models):
    found = distance(models[0], Model(tiny_janus()), PROMPTS)
    assert found.both.value == found.missed.value == found.strange.value == 0.0


def test_the_sum_is_the_same_both_ways_round(models):
    there, back = distance(models[0], models[1], PROMPTS), distance(models[1], models[0], PROMPTS)
    assert there.both.value == pytest.approx(back.both.value) and there.both.n == len(PROMPTS)
    assert there.missed.value == pytest.approx(back.strange.value) != pytest.approx(there.strange.value)
    assert there.both.value == pytest.approx(there.missed.value + there.strange.value)


def test_more_lies_between_models_that_differ_more(models):
    base, near, far = models
    close, wide = distance(near, base, PROMPTS), distance(far, base, PROMPTS)
    assert 0 < close.both.value < wide.both.value and close.missed_N.min() > 0
    assert wide.beyond(close).value == pytest.approx(wide.both.value - close.both.value) and wide.beyond(close).differs


def test_it_is_the_divergence_along_the_drawer_s_own_pictures(models):
    """By hand, from guided log-probabilities; and one way is the drift of a model that was erased."""
    base, near, _ = models
    codes = draw_tokens(base.generator, PROMPTS, seed=0)
    p, q = (model.generator.log_probabilities(PROMPTS, codes) for model in (base, near))
    by_hand = (p.exp() * (p - q)).sum((-1, -2)).mean(1)
    assert distance(near, base, PROMPTS).missed_N == pytest.approx(by_hand.numpy(), rel=1e-4)
    tensors = {name: p.detach() for name, p in near.generator.trunk.named_parameters()}
    erasure = Erasure("near", {"name": "near"}, "church", base.generator.fingerprint, tensors)
    for guidance in (None, 1.0):
        of = lambda other, guidance=guidance: kl_by_code(base, other, PROMPTS, codes, guidance)
        assert of(base).abs().max() == 0 < of(near).min()
        assert torch.allclose(of(near), of(Model(base.generator, erasure)), rtol=1e-4)
    drift = kl_drift(base.generator, erasure, PROMPTS, codes)
    assert drift.value == pytest.approx(of(near).mean().item(), rel=1e-4)


def test_an_erased_model_stands_between_floor_and_ceiling(models):
    """Here the `oracle` is one model, the `second` one close to it, the `base` one far away."""
    base, near, far = models
    found = against_oracle(near, base.generator, {"concept": PROMPTS}, far.generator, like(base.generator, 0.02))
    row = found["concept"]
    assert row.floor.both.value < row.erased.both.value < row.ceiling.both.value and 0 < row.share < 1
    untouched = against_oracle(far, base.generator, {"concept": PROMPTS})["concept"]
    assert untouched.share == 1 and untouched.floor is None
    same = against_oracle(near, base.generator, {"benign": PROMPTS}, base.generator, like(base.generator, 0.1, 2))
    assert same["benign"].share is None, "there is nothing to erase"


def test_prompts_come_from_the_concept():
    groups = prompts_of(load_concept("church"), 20)
    assert list(groups) == ["concept", "neighbours", "benign"] and {len(texts) for texts in groups.values()} == {20}
    assert all("church" in text for text in groups["concept"])
    assert not [text for name in ("neighbours", "benign") for text in groups[name] if "church" in text]


def test_models_of_other_codes_are_refused(models):
    with pytest.raises(UserError, match="another picture tokenizer"):
        distance(models[0], Model(tiny_janus(codes=48)), PROMPTS)
    with pytest.raises(UserError, match="another picture tokenizer"):
        distance(models[0], Model(tiny_janus(seed=5)), PROMPTS)


def test_bits_that_mean_something_else_are_another_tokenizer():
    """Two bits that changed places: pictures in which they are always equal would not tell."""
    one, other = tiny_scales(), tiny_scales()
    check_oracle(other, one)
    first = next(m for m in other.tokenizer.modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels == 6)
    with torch.no_grad():
        first.weight[:, [0, 2]] = first.weight[:, [2, 0]]
    with pytest.raises(UserError, match="another picture tokenizer"):
        check_oracle(other, one)


def test_a_usual_measure_that_orders_methods_as_the_oracle_does():
    """The chapter's rank correlations: 1 for the same order, 0 where all are alike; the interval holds the value."""
    pandas = pytest.importorskip("pandas")
    methods = [f"m{i}" for i in range(6)]
    rows = [
        {"concept": concept, "label": name, "recipe": name, "direct": Rate(i, 10), "clip": Estimate(0.5, 1)}
        | {"oracle_concept": Estimate(0.1 * i + 0.1, 1), "margin": None}
        for concept in ("church", "nudity")
        for i, name in enumerate(methods)
    ]
    base = {"concept": "church", "label": "base", "recipe": None, "direct": Rate(9, 10), "clip": Estimate(0.5, 1)}
    frame = pandas.DataFrame([base | {"oracle_concept": Estimate(0.35, 1), "margin": None}, *rows[:6]])
    same = chapter.agreement(pandas.DataFrame(rows), "direct", "oracle_concept")
    assert same.value == 1 and same.n == 12 and same.low > 0
    assert chapter.agreement(pandas.DataFrame(rows), "clip", "oracle_concept").value == 0
    assert chapter.agreement(pandas.DataFrame(rows), "margin", "oracle_concept").value is None
    assert chapter.farther(frame, 0.45) == (Rate(2, 5), ["m3", "m4"]), "of those below 45 %"
