"""What should an erased model draw? What an oracle draws, how near each method comes to it by the table `oracle`, and
which of the usual rates orders the methods as their distance does.

Letters: C concepts, M methods, D samples of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..evaluate.beside import second_judge
from ..evaluate.judge import Judge, MiniWorldJudge
from ..evaluate.rate import DRAWS, Estimate, Rate, ranks, spearman
from ..sweeps import compare

if TYPE_CHECKING:
    import pandas as pd

GROUPS = {"oracle_concept": "the concept", "oracle_neighbours": "its neighbours", "oracle_benign": "other things"}
TOGETHER = "all three"
NEAR = GROUPS | {
    "oracle_all": TOGETHER
}  # column -> on which prompts the distance is taken; all: the mean of three ranks
USUAL = {  # column -> how it is called, and whether more of it is better (1) or less (-1)
    "direct": ("the concept's rate", -1),
    "neighbours": ("its neighbours' rate", 1),
    "margin": ("neighbours less concept", 1),
    "clip": ("CLIP, other prompts", 1),
    "kid": ("KID, other prompts", -1),
    "kl_drift": ("KL drift, other prompts", -1),
}


def with_ranks(frame: pd.DataFrame, main: pd.DataFrame) -> pd.DataFrame:
    """The table `oracle` with what it lacks: `margin`; `kid` of the same rows of the table `main`; `oracle_all`, the
    mean over GROUPS of a method's place among all of its concept, 1 being the nearest."""
    import pandas as pd

    of = {(row["concept"], row["label"]): row["kid_by_seed"] for row in main.to_dict("records")}
    frame, rows = frame.copy(), frame.to_dict("records")
    fine = [row["direct"] is not None for row in rows]
    frame["margin"] = pd.Series([compare.margin(row) if ok else None for row, ok in zip(rows, fine)], dtype=object)
    kids = [of.get((row["concept"], row["label"]), {}).get(int(row["seed"].split(",")[0] or 0)) for row in rows]
    frame["kid"] = pd.Series([None if kid is None else Estimate(kid, 1) for kid in kids], dtype=object)
    frame["oracle_all"] = pd.Series([None] * len(rows), dtype=object)
    for concept in frame.concept.unique():
        mine = [i for i, row in enumerate(rows) if row["concept"] == concept and fine[i] and row["label"] != "base"]
        if mine:
            far = np.array([[rows[i][group].value for i in mine] for group in GROUPS])
            for i, place in zip(mine, 1 + ranks(far).mean(0)):
                frame.at[frame.index[i], "oracle_all"] = Estimate(float(place), 1)
    return frame


def place_of(frame: pd.DataFrame) -> Callable[[str], float]:
    """The function that gives a method's mean place over concepts, 1 being the nearest, of a table of `with_ranks`."""
    of: dict[str, list[float]] = {}
    for row in frame.to_dict("records"):
        if row["oracle_all"] is not None:
            of.setdefault(row["label"], []).append(row["oracle_all"].value)
    return lambda label: float(np.mean(of[label])) if label in of else float("inf")


def agreement(frame: pd.DataFrame, usual: str, near: str, seed: int = 0) -> Estimate:
    """Whether a usual measure orders the methods as their nearness to the oracle does: the mean over concepts of the
    rank correlation of both, 1 where the orders are the same, 0 where they have nothing to do with each other.

    Args:
        frame: of `with_ranks`; methods count that have both numbers on every concept.
        usual: of USUAL.
        near: of NEAR.
        seed: of the bootstrap, which draws methods and concepts anew, both with replacement.

    Returns:
        Estimate: n is the number of methods times that of concepts; no value for fewer than three methods.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for row in frame[frame.recipe.notna()].to_dict("records"):
        if row[usual] is not None and row[near] is not None:
            found.setdefault(row["concept"], {})[row["label"]] = (row[usual].value, row[near].value)
    names = [name for name in next(iter(found.values()), {}) if all(name in rows for rows in found.values())]
    if len(names) < 3:
        return Estimate(None, 0)
    both_2CM = np.array([[rows[name] for name in names] for rows in found.values()], float).transpose(2, 0, 1)
    good_CM, near_CM = USUAL[usual][1] * both_2CM[0], -both_2CM[1]
    value, chance = float(spearman(good_CM, near_CM).mean()), np.random.default_rng(seed)
    methods_DM = chance.integers(0, len(names), (DRAWS, len(names)))
    each_CD = np.stack([spearman(good[methods_DM], near[methods_DM]) for good, near in zip(good_CM, near_CM)])
    concepts_DC = chance.integers(0, len(found), (DRAWS, len(found)))
    low, high = np.quantile(each_CD[concepts_DC, np.arange(DRAWS)[:, None]].mean(1), (0.025, 0.975))
    return Estimate(value, len(names) * len(found), float(low), float(high))


def farther(frame: pd.DataFrame, low: float, near: str = "oracle_concept") -> tuple[Rate, list[str]]:
    """Of the methods that bring a concept's rate below `low`, how many end farther from the oracle than the base model
    was; (the rate over methods and concepts, the methods)."""
    base = {row["concept"]: row[near] for row in frame[frame.recipe.isna()].to_dict("records")}
    rows = [row for row in frame[frame.recipe.notna()].to_dict("records") if row["direct"] and row[near]]
    gone = [row for row in rows if row["direct"].value < low]
    names = [row["label"] for row in gone if row[near].value > base[row["concept"]].value]
    return Rate(len(names), len(gone)), list(dict.fromkeys(names))


def seen_in(images: np.ndarray, judge: Judge) -> dict[str, Rate | str]:
    """What both judges see in pictures of a concept's prompts: `shows` it, the `second` judge too, `unfinished`; and
    `instead`, what it is taken for where it is not seen, the most frequent first.

    Args:
        images: uint8 [N, H, W, 3].
        judge: of the concept, a MiniWorld one.
    """
    assert isinstance(judge, MiniWorldJudge)
    second, shows = second_judge(judge), judge.shows(images)
    sees = second.probabilities(images)
    unfinished = sees["state"][:, second.groups["state"].index("unfinished")] >= judge.threshold
    scores = judge.probabilities(images)[judge.group][~shows]
    taken = [judge.groups[judge.group][i] for i in scores.argmax(1)] if len(scores) else []
    counts = {name: taken.count(name) for name in sorted(set(taken), key=lambda name: (-taken.count(name), name))}
    instead = ", ".join(f"{name} {n}" for name, n in list(counts.items())[:4])
    found = {"shows": Rate.of(shows), "second": Rate.of(second.shows(images)), "unfinished": Rate.of(unfinished)}
    return found | {"instead": instead or "–"}


def logarithmic(axis) -> None:
    """Make an axis of nats logarithmic, with few plain numbers on it."""
    from matplotlib import ticker

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())


def records(found: Mapping[tuple[str, str], Estimate], shared: Mapping[str, object]) -> list[dict]:
    """`agreement` of (usual, near) as flat records."""
    fields = dict(shared) | {"metric": "oracle_agreement", "condition": "erased", "judge": None, "paper": None}
    return [fields | {"subject": u, "kind": n} | e.flat() for (u, n), e in found.items() if e.value is not None]


def best(found: Mapping[tuple[str, str], Estimate], near: str, usual: Sequence[str] = tuple(USUAL)) -> str | None:
    """The usual measure that agrees most with a distance; None where nothing was measured."""
    there = {name: found[name, near].value for name in usual if found[name, near].value is not None}
    return max(there, key=there.__getitem__, default=None)
