"""Flat records, one a measurement, as `evaluate --json` and every results.json have them: how one is written, how those
of several runs are joined, and how they are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .rate import Estimate, Rate

if TYPE_CHECKING:
    import pandas as pd

    from ..concepts import Concept
    from ..erasure.store import Erasure
    from ..generators.base import Generator

# the columns of a record
KEYS: tuple[str, ...] = ("metric", "subject", "kind", "condition", "value", "n", "low", "high")
KEYS += ("seed", "profile", "recipe", "judge", "paper")


class Note:
    """Writes records that share model, condition and seeds."""

    def __init__(
        self, generator: Generator, concept: Concept, condition: str, erasure: Erasure | None, seeds: Sequence[int]
    ):
        recipe = None if erasure is None else erasure.recipe.get("name") or erasure.name
        seed = ",".join(map(str, seeds))
        self.shared = {"condition": condition, "seed": seed, "profile": generator.profile, "recipe": recipe}
        self.paper = concept.paper

    def measure(self, metric: str, subject: str, kind: str, found: Rate | Estimate, judge: str | None = None) -> dict:
        """The record of a rate, a mean or a difference."""
        # the paper states one number per concept and condition; it belongs to the direct prompts, and its count of
        # detections to no single label
        stated = self.paper.get(metric) if kind == "direct" and metric != "detections" else None
        stated = stated.get(self.shared["condition"]) if isinstance(stated, dict) else None
        record = {"metric": metric, "subject": subject, "kind": kind, "judge": judge, "paper": stated}
        record |= found.flat() | self.shared
        return {key: record[key] for key in KEYS}


def pool(records: list[dict]) -> list[dict]:
    """Records of several runs (erasures trained with different seeds, say) joined into one each.

    Rates: counts are added, with the interval of `Rate.over_seeds`. Other metrics: the mean, with the least and
    greatest value as `low` and `high`. Base records of the same picture seeds are the same pictures, told again by
    each run: they count once.
    """
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        same = tuple(record[key] for key in KEYS if key not in ("value", "n", "low", "high", "seed"))
        rows = groups.setdefault(same, [])
        if record["condition"] == "erased" or all(record["seed"] != r["seed"] for r in rows):
            rows.append(record)
    pooled = []
    for rows in groups.values():
        if len(rows) == 1:
            pooled += rows
            continue
        n = sum(r["n"] for r in rows)
        if rows[0]["metric"].endswith("_rate"):
            found: Rate | Estimate = Rate.over_seeds(map(Rate.from_flat, rows))
        else:
            values = [r["value"] for r in rows]
            found = Estimate(float(np.mean(values)), n, min(values), max(values))
        seeds = dict.fromkeys(s for r in rows for s in str(r["seed"]).split(","))
        pooled.append(rows[0] | found.flat() | {"seed": ",".join(seeds)})
    return pooled


def summarise(records: list[dict]) -> pd.DataFrame:
    """A pandas table for display: a row per metric, subject and kind, base and erased side by side, and the paper's
    value."""
    import pandas as pd

    rows: dict[tuple, dict] = {}
    for r in records:
        row = rows.setdefault((r["metric"], r["subject"], r["kind"]), {"n": r["n"]})
        row[r["condition"]] = format_value(r)
        if r["paper"] is not None:
            row[f"paper, {r['condition']}"] = f"{r['paper']:g}"
    index = pd.MultiIndex.from_tuples(rows, names=["metric", "subject", "kind"])
    return pd.DataFrame(list(rows.values()), index=index).fillna("–")


def format_value(record: dict) -> str:
    """`96.7 % [94.0–98.2]` for a rate, `-91.2 points [-95.0 to -86.1]` for its change, `0.0123 [0.0101–0.0145]`
    otherwise."""
    metric = record["metric"]
    found = Estimate(*(record[key] for key in ("value", "n", "low", "high")))
    if metric.endswith("_rate"):
        return found.text(1, 100, unit=" %")
    if metric.endswith("_rate_change"):
        return found.text(1, 100, sign=True, unit=" points")
    return found.text(None, sign=metric.endswith("_change"))
