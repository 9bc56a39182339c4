"""What a panel shows of one thing: points with intervals, in the fixed colour of that thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from ..evaluate.beside import BESIDE
from ..evaluate.rate import Estimate, Rate
from .style import WORDS, look


@dataclass
class Series:
    """What a panel shows of one thing: a line, or marks, in one colour.

    Args:
        name: what it is called in the legend, or a key of `style.COLOURS` ("direct", "church", a recipe), which gives
            it its fixed colour and, by `style.WORDS`, its words.
        points: (x, y) pairs, or a mapping x -> y. y is a Rate, an Estimate or a number; pairs without a value are
            left out. x is a number (`lines`), the name of a row (`dots`, `bars`), or a value like y (`plane`).
        seeds: for each point, what single seeds gave (a sequence, or a mapping seed -> value): small dots.
        labels: for each point, the text beside it (`plane`).
        base: the value before, a dotted line.
        colour, marker, line, hollow: other than the fixed look; `line` is a style of matplotlib, "" for marks alone,
            "bar" for pale bars behind the lines.
        scale: what Estimates and numbers are multiplied with.
        beside: how far to the right of their place the points are drawn, in distances of two ticks (`lines`).
    """

    name: str
    points: Mapping | Sequence[tuple]
    seeds: Sequence = ()
    labels: Sequence[str] = ()
    base: Rate | Estimate | float | None = None
    colour: str | None = None
    marker: str | None = None
    line: str = "-"
    hollow: bool = False
    scale: float = 1.0
    beside: float = 0.0
    called: str = field(init=False)

    def __post_init__(self):
        pairs = list(self.points.items() if isinstance(self.points, Mapping) else self.points)
        kept = [i for i, (_, y) in enumerate(pairs) if has_value(y)]
        self.points = [pairs[i] for i in kept]
        of_seeds = [getattr(one, "values", one.__iter__) for one in self.seeds or ()]
        self.seeds = [list(of_seeds[i]()) for i in kept] if of_seeds else []
        self.labels = [self.labels[i] for i in kept] if self.labels else []
        self.called = WORDS.get(self.name, self.name)

    @classmethod
    def of(cls, frame, x: str, kind: str, name: str | None = None, labels: str | None = None, **style) -> Series:
        """The column `kind` of a table (`sweeps.read.load`) over its column `x`; its base rows give `base`.

        Args:
            frame: rows of a table, the base model's (recipe None) among them or not.
            x: column of the points' places.
            kind: column of Rates or Estimates; each seed's own values are taken from `KIND_by_seed`.
            name: other than `kind`.
            labels: column of the texts beside the points.
            **style: further fields of `Series`.
        """
        erased = frame[frame.recipe.notna() & frame[kind].map(has_value)]
        base = next((value for value in frame[frame.recipe.isna()][kind] if has_value(value)), None)
        beside = list(erased[f"{kind}_by_seed"]) if f"{kind}_by_seed" in erased else []
        fields: dict[str, Any] = {"seeds": beside, "labels": list(erased[labels]) if labels else [], "base": base}
        return cls(name or kind, list(zip(erased[x], erased[kind])), **(fields | style))

    def at(self, value) -> tuple[float, float, float]:
        """(value, low, high) as drawn; a value without an interval is its own ends."""
        return drawn(value, self.scale)

    def look(self, number: int = 0) -> tuple[str, str]:
        """(colour, marker); `number` counts the series of a panel, for those without a fixed look."""
        colour, marker = look(self.name, number)
        return self.colour or colour, self.marker or marker


def looks(series: Sequence[Series]) -> list[tuple[str, str]]:
    """(colour, marker) of each series of a panel; those of one colour, as recipes of one family, differ in marker, or
    one is hollow."""
    found: list[tuple[str, str]] = []
    for number, one in enumerate(series):
        colour, marker = one.look(number)
        taken = {look for look, other in zip(found, series) if other.hollow == one.hollow}
        free = [marker, *(m for m in "sD^vP" if m != marker)]
        found.append((colour, next((m for m in free if (colour, m) not in taken), marker)))
    return found


def has_value(value) -> bool:
    """Whether there is something to draw: not None, not NaN, no rate of no pictures."""
    value = getattr(value, "value", value)
    return value is not None and value == value


def drawn(value, scale: float = 1.0) -> tuple[float, float, float]:
    """(value, low, high): of a Rate in per cent, of an Estimate or a number times `scale`."""
    factor = 100 if isinstance(value, Rate) else scale
    middle = getattr(value, "value", value)
    low, high = getattr(value, "low", None), getattr(value, "high", None)
    return tuple(factor * (middle if end is None else end) for end in (middle, low, high))


def concept_and_neighbours(frame, x: str, **style) -> list[Series]:
    """`Series.of` for what should go and what should stay, which every figure of tables shows together."""
    return [Series.of(frame, x, kind, **style) for kind in ("direct", "neighbours")]


def before_after(records: list[dict], subjects: Sequence[str] | None = None) -> list[Series]:
    """The rates of `evaluate`'s records before and after an erasure, for `bars`: several seeds are pooled.

    Args:
        records: of one recipe; those whose metric ends in `_rate` count, but for what stands beside the concept's
            (`evaluate/beside.py`). A row is called by its subject, with the kind
            of prompt behind it where that is not the plain one ("church, synonym").
        subjects: picks and orders the rows by these names.

    Raises:
        UserError: no rate of one of `subjects`.
    """
    beside = {f"{what}_rate" for what in BESIDE}
    rates: dict[tuple[str, str], dict] = {}
    for r in records:
        if r["metric"].endswith("_rate") and r["metric"] not in beside and r["n"]:
            plain = r.get("kind") in (None, "direct", "neighbour")
            called = r["subject"] if plain else f"{r['subject']}, {r['kind']}"
            # the base model may stand in the records of several recipes, with the same pictures: once a seed
            rates.setdefault((called, r["condition"]), {})[r.get("seed")] = Rate.from_flat(r)
    names = list(subjects or dict.fromkeys(called for called, _ in rates))
    if missing := [name for name in names if not any(called == name for called, _ in rates)]:
        raise UserError(f"no rate of '{missing[0]}' in these records")
    return [
        Series(name, {s: Rate.over_seeds(rates[s, condition].values()) for s in names if (s, condition) in rates})
        for name, condition in (("before", "base"), ("after", "erased"))
    ]
