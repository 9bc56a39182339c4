"""Windows that are predicted: what the rules make of curves that are known, and a training that takes what was
predicted."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from earlib.erasure import erase, window_length
from earlib.erasure.presets import recipe
from earlib.erasure.windows import TOLERANCE, Signals, signals
from earlib.errors import UserError
from earlib.evaluate.rate import Estimate, Rate
from earlib.sweeps.windows import judged
from tests.conftest import tiny_janus
from tests.test_gates import CONCEPT, small


def test_the_rules_on_curves_that_are_known():
    T = 100
    flat = Signals(np.ones(T), np.ones(T), math.inf, [np.ones(T)])
    assert [flat.window(rule) for rule in ("correlation", "noise", "entropy")] == [T, T, T]
    assert flat.window("decay") > T * 0.8  # whatever is cut off, much is lost
    near = np.zeros(T)
    near[:2] = 1, 1  # gradients reach one token back: W windows lose it at their first token, 0.5 / W of all
    alike = np.full(T, np.nan)
    alike[[0, 4, 8]] = 1, 0.5, 0.05
    every_tenth = np.where(np.arange(T) % 10 == 9, 5.0, 0.0)
    told = Signals(near, alike, 3.4, [every_tenth])
    assert told.window("decay") == math.ceil(0.5 / TOLERANCE) and told.window("correlation") == 8
    assert told.window("noise") == 3 and told.window("entropy") == round(T / 11)


def test_training_takes_what_was_predicted():
    g, r = tiny_janus(seed=3), small("ear", **{"windows.length": "decay"})
    told = signals(g, CONCEPT.pairs, r)
    T = g.num_codes
    assert told.reach_T.shape == (T,) and told.reach_T[0] > 0 and told.alike_T[0] == pytest.approx(1, abs=1e-5)
    assert window_length(r, CONCEPT, g) == told.window("decay") and 1 <= told.window("noise") <= T
    erasure = erase(g, CONCEPT, r, progress=False)
    assert erasure.recipe["windows"]["length"] == told.window("decay")
    assert all(p.grad is None for p in g.trunk.parameters())


def test_windows_of_what_has_none():
    with pytest.raises(UserError, match="has no windows of tokens to predict|looks at whole pictures"):
        erase(tiny_janus(), CONCEPT, recipe("npo", "mini", **{"windows.length": "noise"}))


def test_predictions_are_judged_by_the_sweep():
    """Two concepts whose best windows are 3 and 48; one rule has them right, another says the same of both."""
    rows = [
        {"concept": name, "recipe": "ear", "windows.length": w, "direct": Rate(0, 10), "neighbours": Rate(hits, 10)}
        for name, kept in (("church", {3: 9, 12: 5, 48: 1}), ("night", {3: 2, 12: 6, 48: 8}))
        for w, hits in kept.items()
    ]
    told = judged(pd.DataFrame(rows), {"church": {"right": 4, "row": 12}, "night": {"right": 40, "row": 12}})
    assert told.loc["right", "rank correlation"].value == pytest.approx(1) and told.loc["right", "regret"] == 0
    assert told.loc["row", "rank correlation"].value is None and told.loc["row", "regret"] == pytest.approx(30)
    assert told.loc["row", "worst"] == pytest.approx(40) and list(told["best"]) == [2, 0]


def test_few_concepts_tell_little_of_an_order():
    """Eight pairs have an interval on both sides of 0, a hundred do not."""
    few = Estimate.rank_correlation([1, 2, 3, 4, 5, 6, 7, 8], [3, 1, 2, 8, 4, 7, 5, 6])
    many = Estimate.rank_correlation(range(100), [(n * 37) % 100 + n for n in range(100)])
    assert few.value == pytest.approx(0.619, abs=1e-3) and few.low < 0 < few.high < 1 and many.low > 0
    from scipy.stats import spearmanr

    tied, order = [1, 1, 2, 2, 3, 5, 5, 8], [2, 2, 1, 1, 7, 6, 6, 5]
    assert Estimate.rank_correlation(tied, order).value == pytest.approx(spearmanr(tied, order).statistic)
