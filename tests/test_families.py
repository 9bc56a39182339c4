"""Both families through one operation: what is given stays, what is drawn on follows the noise, and comparisons of
tables say what they should."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from earlib.chapters import two_families
from earlib.concepts import PromptPair
from earlib.errors import UserError
from earlib.evaluate import drift
from earlib.evaluate.attacks.prefix import finished
from earlib.evaluate.rate import Estimate, Rate
from earlib.generators.base import NextScale

from .conftest import tiny_janus
from .test_nextscale import tiny

PROMPTS = ["a red church on a hill", "a boat", "a sketch of a blue car at night"]
SEEDS = [3, 4, 5]
SHARES = [0.0, 0.25, 0.5, 1.0]


@pytest.fixture(scope="module", params=["janus", "bsq", "vq"])
def either(request):
    return tiny_janus() if request.param == "janus" else tiny(request.param)


def bright(images):
    """A judge of sorts, which sees both answers among a tiny model's pictures."""
    means = images.mean((1, 2, 3))
    return means > np.median(means)


def test_what_is_given_stays_and_ones_own_beginning_is_drawn_on_as_before(either):
    codes = either.sample(PROMPTS, SEEDS)
    counts = two_families.beginnings(either, SHARES)
    assert counts[0] == 0 and counts[-1] == either.num_codes and len(counts) > 3
    for count in counts:
        assert torch.equal(finished(either, PROMPTS, SEEDS, codes[:, :count]), codes)
    other = finished(either, PROMPTS[::-1], [8, 9, 10], codes[:, : counts[2]])
    assert torch.equal(other[:, : counts[2]], codes[:, : counts[2]]) and not torch.equal(other, codes)


def test_whole_scales_or_shares():
    assert two_families.beginnings(tiny(), [0.5]) == [0, 1, 5, 14, 50]
    assert two_families.beginnings(tiny_janus(), [0.5, 0.0, 0.51]) == [0, 8]
    assert (two_families.bits(tiny()), two_families.bits(tiny("vq")), two_families.bits(tiny_janus())) == (
        6,
        math.log2(40),
        5,
    )


def test_handed_over(either):
    codes = either.sample(PROMPTS, SEEDS)
    counts = two_families.beginnings(either, SHARES)
    looked = []

    def shows(images):
        looked.append(images)
        return bright(images)

    found = two_families.handed_over(either, codes, PROMPTS[::-1], counts, shows)
    assert (found["drawn on"][0] == found["pasted"][0]).all(), "nothing is given"
    whole = bright(either.decode(codes))
    assert (found["drawn on"][counts[-1]] == whole).all() and (found["pasted"][counts[-1]] == whole).all(), (
        "all is given"
    )
    on, pasted = looked[2 * counts.index(counts[2])], looked[2 * counts.index(counts[2]) + 1]
    assert (on != pasted).any(), "the model answers to what is given"


def test_damage_is_of_codes(either):
    codes = either.sample(PROMPTS, SEEDS)
    assert torch.equal(two_families.damaged(either, codes, 0.0), codes)
    half, all_of_them = two_families.damaged(either, codes, 0.5), two_families.damaged(either, codes, 1.0)
    assert torch.equal(half, two_families.damaged(either, codes, 0.5)) and half.dtype == codes.dtype
    same = lambda changed: (
        (changed == codes).flatten(2).all(2).float().mean() if codes.dim() == 3 else (changed == codes).float().mean()
    )
    assert same(all_of_them) < 0.2 and same(all_of_them) < same(half) < 0.8
    either.decode(all_of_them)  # they are codes


def test_bits_of_a_picture(either):
    codes = either.sample(PROMPTS, SEEDS)
    found = two_families.spelled(either, PROMPTS, codes)
    assert found.shape == codes.shape[:2] and (found > 0).all()
    if isinstance(either, NextScale):
        with torch.no_grad():
            nats = either.quantiser.cross_entropy(either.logits(either.encode(PROMPTS), codes), codes)
    else:
        nats = torch.from_numpy(drift.nll(either, PROMPTS, codes))[:, None] * codes.shape[1]
    assert np.allclose(found.sum(1), nats.flatten(1).sum(1).numpy() / math.log(2), rtol=1e-4)


def test_exchanged(either):
    counts = two_families.beginnings(either, SHARES)
    rows = two_families.exchanged(either, [PromptPair(a, b) for a, b in zip(PROMPTS, PROMPTS[::-1])], counts, bright)
    assert len(rows) == 2 * 2 * len(counts) and {row["rate"].n for row in rows} == {3}
    assert all(row["evidence"] == 0 for row in rows if row["codes"] == 0) and any(
        abs(row["evidence"]) > 0.01 for row in rows
    )
    same = two_families.exchanged(either, [PromptPair(p, p) for p in PROMPTS], counts, bright)
    assert all(abs(row["evidence"]) < 1e-6 for row in same), "of two like prompts none is likelier"


def test_brought_back_looks_at_pictures_of_the_concept_only(either):
    counts = two_families.beginnings(either, SHARES)
    rows = two_families.brought_back(either, PROMPTS, counts, bright, None)
    assert {row["rate"].n for row in rows} == {1} and [row["codes"] for row in rows if row["how"] == "pasted"] == counts
    with pytest.raises(UserError, match="in none of 3 pictures"):
        two_families.brought_back(either, PROMPTS, counts, lambda images: np.zeros(len(images), bool), None)


def test_mended(either):
    rows = two_families.mended(either, PROMPTS, 0.5, [0.0, 1.0], bright)
    assert len(rows) == 4 and all(0 < row["share"] <= 0.5 for row in rows)
    clean = [row["rate"] for row in rows if row["damage"] == 0]
    assert clean[0] == clean[1], "without damage both are the clean picture"
    assert all(row["gain"].value == 0 for row in rows if row["how"] == "pasted" or row["damage"] == 0)
    noted = two_families.flat(rows, "mended_rate", either, subject="all", judge="judge")
    assert len({(r["metric"], r["kind"]) for r in noted}) == len(noted) == 6, "no two records are one quantity"
    assert all((row["distance"].value == 0) == (row["damage"] == 0) for row in rows)


def test_where_it_is_decided():
    values = ((1.0, 90), (0.0, 10), (0.2, 45), (0.5, 55))
    rows = [{"share": share, "rate": Rate(hits, 100)} for share, hits in values]
    falling = [{"share": share, "rate": Rate(100 - hits, 100)} for share, hits in values]
    assert [row["share"] for row in two_families.decided(rows)] == [0.2, 0.5]
    assert [row["share"] for row in two_families.decided(falling)] == [0.2, 0.5]
    assert two_families.decided([row | {"rate": Rate(50, 100)} for row in rows]) is None


# ------------------------------------------------------------------ tables


def table(*lines):
    """Rows of `read.load`, of (concept, recipe, hits of the concept, hits of its neighbours) of 90 each."""
    base = {concept: (hits, kept) for concept, recipe, hits, kept in lines if recipe is None}
    rows = []
    for concept, recipe, hits, kept in lines:
        row = {"concept": concept, "recipe": recipe, "label": recipe or "base", "kl_drift": Estimate(0.5, 3)}
        for kind, count, before in zip(("direct", "neighbours"), (hits, kept), base[concept]):
            row |= {kind: Rate(count, 90), f"{kind}_base": Rate(before, 90)}
        rows.append(row)
    return pd.DataFrame(rows)


def test_a_share_of_the_base_models_rate():
    gone = two_families.share_of(Rate(0, 90), Rate(80, 90))
    assert gone.value == gone.low == 0 and 0 < gone.high < 0.06
    same = two_families.share_of(Rate(80, 90), Rate(80, 90))
    assert same.value == 1 and same.low < 1 < same.high
    half = two_families.share_of(Rate(45, 90), Rate(90, 90))
    assert half.value == 0.5
    assert (half.low, half.high) == pytest.approx(Rate(45, 90).interval, abs=0.03)
    assert two_families.share_of(Rate(0, 90), Rate(0, 90)).value is None


def test_counterparts():
    token = table(("church", None, 70, 85), ("church", "x", 0, 80), ("boat", None, 90, 90), ("boat", "x", 45, 90))
    scale = table(("church", None, 90, 90), ("church", "y", 0, 40), ("boat", None, 90, 90), ("boat", "y", 0, 90))
    rows = two_families.erased(token, "next-token", 144) + two_families.erased(scale, "next-scale", 66)
    assert [row["drift"] * math.log(2) for row in rows] == pytest.approx([72, 72, 33, 33])
    found = two_families.counterparts(rows, {"one": ("x", "y", ""), "another": ("x", "z", "")})
    assert [(row["idea"], row["concept"], two_families.ahead(row["balance"])) for row in found] == [
        ("one", "church", "next-token"),
        ("one", "boat", "next-scale"),
        ("one", "all", "cannot be told"),
    ]
    balances = [row["balance"].value for row in found]
    assert balances[1] == pytest.approx(0.5) and balances[2] == pytest.approx((balances[0] + 0.5) / 2)
    best = two_families.best(rows)
    assert (best["boat", "next-scale"]["label"], best["boat", "next-token"]["label"]) == ("y", "x")
    assert found[1]["next-token"]["left"].text(0, 100).startswith("50 [")


def test_quality_is_that_of_the_weights_at_hand(either, mini):
    assert two_families.quality(either) == {}
    assert {"object", "style", "place", "colour", "all"} <= set(two_families.quality(mini))
