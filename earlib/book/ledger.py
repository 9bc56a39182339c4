"""What a notebook measured: records for its results.json, and the same numbers in words for its text."""

from __future__ import annotations

from ..evaluate.evaluation import KEYS
from ..evaluate.rate import Estimate, Rate


class Ledger:
    """Notes numbers as flat records (`records`) and in words by name (`words`).

    Args:
        **shared: fields that all records have, unless `keep` says otherwise ("subject", "profile", ...).
    """

    def __init__(self, **shared):
        self.shared, self.records, self.words = shared, [], {}

    def keep(
        self,
        name: str,
        metric: str,
        kind: str,
        found: Rate | Estimate | dict | float,
        form: str = ".3g",
        scale: float = 1,
        **more,
    ) -> str:
        """Note one number.

        Args:
            name: what `words` calls it.
            metric, kind: fields of the record; `condition` is "base" unless `more` says otherwise.
            found: the number, with its interval if it has one.
            form, scale: how it is written: `format(scale * value, form)`.
            **more: further fields of the record.

        Returns:
            str: `0.84 [0.81, 0.86]`, or `0.84` without an interval.
        """
        if isinstance(found, Rate | Estimate):
            found = found.flat()
        elif not isinstance(found, dict):
            found = {"value": float(found), "n": 1, "low": None, "high": None}
        found = {key: found[key] for key in ("value", "n", "low", "high")}
        record = dict.fromkeys(KEYS) | {"metric": metric, "kind": kind, "condition": "base"}
        record |= self.shared | more | found
        if record not in self.records:
            self.records.append(record)
        value, low, high = (
            None if found[key] is None else f"{scale * found[key]:{form}}" for key in ("value", "low", "high")
        )
        self.words[name] = str(value) if low is None else f"{value} [{low}, {high}]"
        return self.words[name]
