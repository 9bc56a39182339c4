"""Both families through one operation: what is given stays, what is drawn on follows the noise, and comparisons of
tables say what they should."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from earlib.chapters import families, families_figures, families_tables
from earlib.concepts import PromptPair
from earlib.errors import UserError
from earlib.evaluate import drift
from earlib.evaluate.rate import Rate
from earlib.generators import picture_seeds
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
    counts = families.beginnings(either, SHARES)
    assert counts[0] == 0 and counts[-1] == either.num_codes and len(counts) > 3
    for count in counts:
        assert torch.equal(families.drawn_on(either, PROMPTS, SEEDS, codes[:, :count]), codes)
    other = families.drawn_on(either, PROMPTS[::-1], [8, 9, 10], codes[:, : counts[2]])
    assert torch.equal(other[:, : counts[2]], codes[:, : counts[2]]) and not torch.equal(other, codes)


def test_whole_scales_or_shares():
    assert families.beginnings(tiny(), [0.5]) == [0, 1, 5, 14, 50]
    assert families.beginnings(tiny_janus(), [0.5, 0.0, 0.51]) == [0, 8]
    assert (families.bits(tiny()), families.bits(tiny("vq")), families.bits(tiny_janus())) == (6, math.log2(40), 5)


def test_handed_over(either):
    codes = either.sample(PROMPTS, SEEDS)
    counts = families.beginnings(either, SHARES)
    looked = []

    def shows(images):
        looked.append(images)
        return bright(images)

    found = families.handed_over(either, codes, PROMPTS[::-1], counts, shows)
    assert (found["drawn on"][0] == found["pasted"][0]).all(), "nothing is given"
    whole = bright(either.decode(codes))
    assert (found["drawn on"][counts[-1]] == whole).all() and (found["pasted"][counts[-1]] == whole).all(), (
        "all is given"
    )
    on, pasted = looked[2 * counts.index(counts[2])], looked[2 * counts.index(counts[2]) + 1]
    assert (on != pasted).any(), "the model answers to what is given"


def test_damage_is_of_codes(either):
    codes = either.sample(PROMPTS, SEEDS)
    assert torch.equal(families.damaged(either, codes, 0.0), codes)
    half, all_of_them = families.damaged(either, codes, 0.5), families.damaged(either, codes, 1.0)
    assert torch.equal(half, families.damaged(either, codes, 0.5)) and half.dtype == codes.dtype
    same = lambda changed: (
        (changed == codes).flatten(2).all(2).float().mean() if codes.dim() == 3 else (changed == codes).float().mean()
    )
    assert same(all_of_them) < 0.2 and same(all_of_them) < same(half) < 0.8
    either.decode(all_of_them)  # they are codes


def test_bits_of_a_picture(either):
    codes = either.sample(PROMPTS, SEEDS)
    found = families.spelled(either, PROMPTS, codes)
    assert found.shape == codes.shape[:2] and (found > 0).all()
    if isinstance(either, NextScale):
        with torch.no_grad():
            nats = either.quantiser.cross_entropy(either.logits(either.encode(PROMPTS), codes), codes)
    else:
        nats = torch.from_numpy(drift.nll(either, PROMPTS, codes))[:, None] * codes.shape[1]
    assert np.allclose(found.sum(1), nats.flatten(1).sum(1).numpy() / math.log(2), rtol=1e-4)


def test_exchanged(either):
    counts = families.beginnings(either, SHARES)
    rows = families.exchanged(either, [PromptPair(a, b) for a, b in zip(PROMPTS, PROMPTS[::-1])], counts, bright)
    assert len(rows) == 2 * 2 * len(counts) and {row["n"] for row in rows} == {3}
    assert all(row["evidence"] == 0 for row in rows if row["codes"] == 0) and any(
        abs(row["evidence"]) > 0.01 for row in rows
    )
    same = families.exchanged(either, [PromptPair(p, p) for p in PROMPTS], counts, bright)
    assert all(abs(row["evidence"]) < 1e-6 for row in same), "of two like prompts none is likelier"


def test_strips_begin_with_the_one_prompt_and_end_with_the_other(either):
    pairs = [PromptPair(a, b) for a, b in zip(PROMPTS, PROMPTS[::-1])]
    found = families.strips(either, pairs, families.beginnings(either, SHARES))
    whole = either.decode(either.sample(PROMPTS, picture_seeds(0, PROMPTS)))
    none = either.decode(either.sample(PROMPTS[::-1], picture_seeds(1, PROMPTS[::-1])))
    assert all((row[-1] == image).all() for row, image in zip(found, whole)) and all(
        (row[0] == image).all() for row, image in zip(found, none)
    )


def test_brought_back_looks_at_pictures_of_the_concept_only(either):
    counts = families.beginnings(either, SHARES)
    rows = families.brought_back(either, PROMPTS, counts, bright, None)
    assert {row["n"] for row in rows} == {1} and [row["codes"] for row in rows if row["how"] == "pasted"] == counts
    with pytest.raises(UserError, match="in none of 3 pictures"):
        families.brought_back(either, PROMPTS, counts, lambda images: np.zeros(len(images), bool), None)


def test_mended(either):
    rows = families.mended(either, PROMPTS, 0.5, [0.0, 1.0], bright)
    assert len(rows) == 4 and all(0 < row["share"] <= 0.5 for row in rows)
    clean = [row["value"] for row in rows if row["damage"] == 0]
    assert clean[0] == clean[1], "without damage both are the clean picture"
    assert all(row["gain"]["value"] == 0 for row in rows if row["how"] == "pasted" or row["damage"] == 0)
    noted = families.noted(rows, "mended_rate", either, "all", "judge")
    assert len({(r["metric"], r["kind"]) for r in noted}) == len(noted) == 6, "no two records are one quantity"
    table = families.gains([row | {"called": "one"} for row in rows])
    assert list(table.index) == ["100 %"] and table.shape == (1, 2)
    assert all((row["distance"] == 0) == (row["damage"] == 0) for row in rows)


def test_where_it_is_decided():
    rows = [{"share": share, "value": value} for share, value in ((1.0, 0.9), (0.0, 0.1), (0.2, 0.45), (0.5, 0.55))]
    assert [row["share"] for row in families.decided(rows)] == [0.2, 0.5]
    assert [row["share"] for row in families.decided([row | {"value": 1 - row["value"]} for row in rows])] == [0.2, 0.5]
    assert families.decided([row | {"value": 0.5} for row in rows]) is None


# ------------------------------------------------------------------ tables


def line(concept, recipe, hits, kept, n=90):
    row = {"concept": concept, "recipe": recipe, "label": recipe or "base", "kl_drift": 0.5, "seconds": 3.0}
    for kind, count in (("direct", hits), ("neighbours", kept)):
        low, high = Rate(count, n).interval
        row |= {kind: count / n, f"{kind}_low": low, f"{kind}_high": high, f"{kind}_n": n}
    return row


def test_a_share_of_the_base_models_rate():
    base, gone, same = line("church", None, 80, 85), line("church", "a", 0, 85), line("church", "b", 80, 40)
    assert (
        families_tables.share_of(gone, base, "direct")["value"]
        == families_tables.share_of(gone, base, "direct")["low"]
        == 0
    )
    assert 0 < families_tables.share_of(gone, base, "direct")["high"] < 0.06
    found = families_tables.share_of(same, base, "direct")
    assert found["value"] == 1 and found["low"] < 1 < found["high"]
    half = families_tables.share_of(line("church", "c", 45, 45), line("church", None, 90, 90), "direct")
    assert (
        half["value"] == 0.5
        and half["low"] == pytest.approx(Rate(45, 90).interval[0], abs=0.03)
        and half["high"] == pytest.approx(Rate(45, 90).interval[1], abs=0.03)
    )
    assert math.isnan(families_tables.share_of(gone, line("church", None, 0, 0), "direct")["value"])


def test_counterparts():
    token = pd.DataFrame(
        [
            line("church", None, 70, 85),
            line("church", "x", 0, 80),
            line("boat", None, 90, 90),
            line("boat", "x", 45, 90),
        ]
    )
    scale = pd.DataFrame(
        [line("church", None, 90, 90), line("church", "y", 0, 40), line("boat", None, 90, 90), line("boat", "y", 0, 90)]
    )
    rows = families_tables.erased(token, "next-token", 144) + families_tables.erased(scale, "next-scale", 66)
    assert [row["drift"] * math.log(2) for row in rows] == pytest.approx([72, 72, 33, 33])
    found = families_tables.counterparts(rows, {"one": ("x", "y", ""), "another": ("x", "z", "")})
    assert [(row["idea"], row["concept"], families_tables.verdict(row["balance"])) for row in found] == [
        ("one", "church", "next-token"),
        ("one", "boat", "next-scale"),
        ("one", "all", "cannot be told"),
    ]
    assert found[1]["balance"]["value"] == pytest.approx(0.5) and found[2]["balance"]["value"] == pytest.approx(
        (found[0]["balance"]["value"] + 0.5) / 2
    )
    assert "ahead in 1, next-token in 1, and 0 cannot be told" in families_tables.told(found)
    assert families_tables.best(rows)["boat", "next-scale"]["label"] == "y"
    assert list(families_tables.champions(rows).loc[("boat", "next-token")])[0] == "x"
    assert [(r["subject"], r["n"]) for r in families_tables.noted(found, "judge")] == [
        ("church", 180),
        ("boat", 180),
        ("all", 360),
    ]
    table = families_tables.side_by_side(found)
    assert (
        list(table.index) == [("one", "church"), ("one", "boat"), ("one", "all")]
        and table.loc[("one", "church"), ("balance", "ahead")] == "next-token"
    )
    assert (
        len(families_figures.plane(rows, {"one": ("x", "y", "")}).axes) == 2
        and families_figures.ahead(found).axes[0].get_yticklabels()[0].get_text() == "one"
    )


def test_quality_is_that_of_the_weights_at_hand(either, mini):
    assert families.quality(either) == {}
    assert set(families.quality(mini)) == {"object", "style", "place", "colour", "all four"}
