"""What a poster says of SPM, held against made-up tables; what a surrogate leaves to learn and what membranes on the
vision tower do, on a tiny model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from earlib.chapters import spm
from earlib.concepts import Concept, PromptPair, load_concept, renamed
from earlib.erasure import presets, retain_prompts
from earlib.erasure.retain import chances
from earlib.errors import UserError
from earlib.evaluate import drift
from earlib.evaluate.rate import Estimate, Rate
from earlib.sweeps.compare import margin

TARGETS = ["a red church on a hill", "a blue church in the snow"]
PAIRS = tuple(PromptPair(f"a {colour} church", f"a {colour} house") for colour in ("red", "blue", "green", "yellow"))
DIRECT = {"direct": ("a red church on a hill", "a church by the sea")}
CHURCH = Concept("church", "object", PAIRS, DIRECT, {}, {}, (), {}, {"window": 144})


def row(concept: int, neighbours: int, n: int = 100, size: float = 1.0, **more) -> dict:
    """A row of `read.load`."""
    found = {"recipe": "spm", "change_size": Estimate(size, 1), "erasure.strength": 1.0, "modules": "attention"}
    return found | {"direct": Rate(concept, n), "neighbours": Rate(neighbours, n)} | more


def test_margins_and_their_differences():
    """Newcombe's example: 56/70 - 48/80."""
    m = margin({"neighbours": Rate(56, 70), "direct": Rate(48, 80)})
    assert (m.low, m.value, m.high) == pytest.approx((0.0524, 0.2, 0.3339), abs=1e-4)
    frame = pd.DataFrame([row(20, 80, called="us"), row(10, 90, called="them"), row(19, 80, called="as good")])
    found = spm.above(frame, row(20, 80, called="us"))
    assert list(found) == ["them", "as good"] and found["them"].low > 0 > found["as good"].low
    assert found["them"].value == pytest.approx(0.2)


@pytest.mark.parametrize(
    "hits, expected, verdict",
    [
        (80, "more", spm.TRUE),
        (5, "more", spm.FALSE),
        (5, "fewer", spm.TRUE),
        (5, "same", spm.FALSE),
        (80, "same", spm.FALSE),
        (41, "same", spm.OPEN),  # an interval that holds 0 confirms nothing
        (41, "fewer", spm.OPEN),
    ],
)
def test_a_statement_stands_or_falls_by_the_interval(hits, expected, verdict):
    found = spm.held_against("says", "churches", Rate(40, 100), Rate(hits, 100), expected)
    assert found.verdict == verdict
    assert found.measured.startswith("churches: 40 [31–50] → ") and found.measured.endswith("(n = 100, 100)")


def test_one_better_place_refutes_that_kl_on_attention_is_best():
    worse, level, better = Estimate(-0.3, 9, -0.5, -0.1), Estimate(0.1, 9, -0.1, 0.3), Estimate(0.3, 9, 0.1, 0.5)
    assert spm.the_best({"a": worse}).verdict == spm.TRUE
    assert spm.the_best({"a": worse, "b": level}).verdict == spm.OPEN
    found = spm.the_best({"a": worse, "b": level, "c": better})
    assert found.verdict == spm.FALSE and found.measured.endswith(
        "greater in 1, less in 1, not told apart in the rest (c)"
    )


def test_matched_reads_the_other_place_at_the_same_size():
    runs = pd.DataFrame(
        [
            row(90, 95, recipe=None, change_size=None, modules=None),
            row(50, 90, size=2.0),
            row(30, 80, size=10**0.5),  # half of the way between 1 and 10, by the logarithm
            row(5, 10, size=11.0),  # larger than any run of the other place
            row(70, 96, size=1.0, modules="mlp"),
            row(10, 40, size=10.0, modules="mlp"),
            row(0, 0, size=3.0, modules="mlp", **{"erasure.strength": 0.5}),  # of another strength: on another line
        ]
    )
    pairs = spm.matched(runs, "attention", "mlp")
    assert [round(second["size"], 3) for _, second in pairs] == [2.0, 3.162]
    other = pairs[1][1]
    assert other["direct"].value == pytest.approx(0.4) and other["neighbours"].value == pytest.approx(0.68)
    assert len(spm.matched(runs, "mlp", "attention")) == 1 and spm.matched(runs, "attention", "both") == []
    assert spm.counted(pairs, "direct") == "not told apart in 2" and spm.counted([], "direct") == "none"
    far = (row(50, 90), {"direct": Estimate(0.8, 100, 0.7, 0.9), "neighbours": Estimate(0.2, 9, 0.1, 0.3)})
    assert spm.counted([far], "direct") == "higher in 1" and spm.counted([far, *pairs], "neighbours").startswith(
        "lower"
    )


def test_the_tower_gets_no_gradient_and_draws_nothing(generator):
    """The loss that trains membranes, with membranes on the vision tower beside those of the language model."""
    recipe = presets.recipe("spm", "custom", prefix="target", pairs=4)
    found = spm.tower(generator, CHURCH, recipe, pictures=2)
    assert found["tower"] == 0 < found["trunk"]
    assert found["pictures"] == 0 < found["captions"] <= found["n"] == 2


def test_surrogates_stand_where_the_word_stood():
    assert renamed(["A Church by a churchyard"], "church", "car") == ["A car by a churchyard"]
    with pytest.raises(UserError, match="the prompt 'a red boat' lacks the word 'church'"):
        renamed(["a red boat"], "church", "car")
    church = load_concept("church", "mini")
    made = spm.with_surrogate(church, "church", "chapel")
    assert all(pair.replacement == pair.target.replace("church", "chapel") for pair in made.pairs)
    assert made.tests == church.tests


def test_what_is_told_the_same_is_not_apart(generator):
    tokens = drift.draw_tokens(generator, TARGETS)
    others = {"itself": TARGETS, "a car": renamed(TARGETS, "church", "car"), "nothing": None}
    found = spm.apart(generator, TARGETS, others, tokens)
    assert all(kl.shape == tokens.shape and (kl > -1e-6).all() for kl in found.values())
    assert not found["itself"].any() and found["a car"].mean() > 1e-3 and found["nothing"].mean() > 1e-3


def test_what_a_drawing_is_worth(generator):
    others = retain_prompts(load_concept("church", "mini"), "mini")[:12]
    even, strong = (spm.worth(chances(generator, others, PAIRS, alpha)) for alpha in (0, 10))
    assert even == pytest.approx(12) and strong < 12
    assert spm.worth(torch.tensor([0.5, 0.5, 1e-12])) == pytest.approx(2) and np.isfinite(strong)
