"""A rate is hits of n, with its Wilson interval; a mean or a difference is an `Estimate`. Nothing else in the library
has an interval of its own. 95 % everywhere.

What varies in an evaluation is the prompt first: pictures of one prompt resemble each other, and so do the tokens of
one picture. The bootstrap therefore resamples prompts, after averaging whatever belongs to one prompt. Its random
numbers are seeded: the same data give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z = 1.959964  # 95 %
DRAWS = 2000  # bootstrap samples
NOT_TOLD = "not told apart"  # the words for two numbers the interval of whose difference holds 0
Values = np.ndarray | Sequence[float]


@dataclass(frozen=True)
class Rate:
    """`hits` of `n`: how many pictures show something, of how many were looked at.

    In JSON and in the tables of sweeps it is `[hits, n]` (`Rate(*pair)` reads it, `json()` writes it).

    Attributes:
        effect: the design effect (Kish 1965), at least 1: `n` pictures say as much as `n / effect` independent ones.

    Raises:
        ValueError: if `hits` does not lie between 0 and `n`, or `effect` is below 1.
    """

    hits: int
    n: int
    effect: float = 1.0

    def __post_init__(self):
        if not 0 <= self.hits <= self.n:
            raise ValueError(f"hits must lie between 0 and n, got {self.hits} of {self.n}")
        if self.effect < 1:
            raise ValueError(f"a design effect is at least 1, got {self.effect}")

    @classmethod
    def of(cls, shows: np.ndarray | Sequence[bool]) -> Rate:
        """The rate of a bool array [N]."""
        return cls(int(np.sum(shows)), len(shows))

    @classmethod
    def pooled(cls, rates: Iterable[Rate]) -> Rate:
        """Hits and n of all `rates` added up: of several concepts, neighbours or kinds of prompt."""
        rates = [rate for rate in rates if rate.n]
        n, independent = sum(r.n for r in rates), sum(r.n / r.effect for r in rates)
        return cls(sum(r.hits for r in rates), n, max(n / independent, 1.0) if n else 1.0)

    @classmethod
    def over_seeds(cls, rates: Iterable[Rate]) -> Rate:
        """One rate of several trainings, each with its own rate. Pictures of one training have its luck in common.

        How much more the trainings differ than as many independent pictures would is the design effect, by which the
        interval counts fewer pictures (Rao and Scott 1992). Trainings that differ less than that narrow nothing.
        """
        rates = [rate for rate in rates if rate.n]
        both = cls.pooled(rates)
        if len(rates) < 2 or both.hits in (0, both.n):
            return both
        p = both.hits / both.n
        differ = sum((r.hits - r.n * p) ** 2 for r in rates) * len(rates) / (len(rates) - 1)
        return cls(both.hits, both.n, max(both.effect, differ / (both.n * p * (1 - p))))

    @classmethod
    def from_flat(cls, record: Mapping[str, Any]) -> Rate:
        """Of a record with `value` and `n`, as `flat` gives them."""
        return cls(round((record["value"] or 0) * record["n"]), record["n"])

    @property
    def value(self) -> float | None:
        """Share from 0 to 1; None of no pictures."""
        return self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval (Wilson 1927) of `n / effect` pictures; (0, 1) of none."""
        if self.n == 0:
            return 0.0, 1.0
        p, n = self.hits / self.n, self.n / self.effect
        centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
        return (0.0 if self.hits == 0 else centre - half), (1.0 if self.hits == self.n else centre + half)

    @property
    def low(self) -> float:
        """Lower end of `interval`."""
        return self.interval[0]

    @property
    def high(self) -> float:
        """Upper end of `interval`."""
        return self.interval[1]

    def minus(self, other: Rate, share: float = 1.0) -> Estimate:
        """This rate less a `share` of `other`, of independent pictures; Newcombe's interval (1998, method 10).

        Rates of several trainings come from `over_seeds`. For the same prompts and seeds drawn twice,
        `Estimate.paired` is sharper.
        """
        if not (self.n and other.n):
            return Estimate(None, 0)
        mine, its = self.hits / self.n, other.hits / other.n
        value = mine - share * its
        low = value - math.hypot(mine - self.low, share * (other.high - its))
        high = value + math.hypot(self.high - mine, share * (its - other.low))
        return Estimate(value, min(self.n, other.n), low, high)

    def json(self) -> list[int]:
        """`[hits, n]`."""
        return [self.hits, self.n]

    def flat(self) -> dict:
        """`{"value", "n", "low", "high"}`, as the flat records of `evaluate --json` have it."""
        return {"value": self.value, "n": self.n, "low": self.low, "high": self.high}

    def text(self, digits: int = 0) -> str:
        """`82 [78–86]`, in per cent; `–` of no pictures."""
        if not self.n:
            return "–"
        value, low, high = (f"{100 * x:.{digits}f}" for x in (self.hits / self.n, self.low, self.high))
        return f"{value} [{low}–{high}]"

    def __str__(self) -> str:
        return self.text()


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two rates or means, with the ends of its 95 % interval (None where it has none)."""

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None

    @classmethod
    def mean(cls, values: Values, groups: Sequence | None = None, seed: int = 0) -> Estimate:
        """The mean of `values` [N] with its percentile bootstrap interval (Efron 1979) over `groups`.

        Args:
            values: float [N].
            groups: the prompt of each value (default: each its own). A prompt counts once, with the mean of its values.
            seed: of the resampling.

        Returns:
            Estimate: `n` is the number of prompts; no interval for fewer than two.

        Raises:
            ValueError: no values, or another number of groups.
        """
        means = _group_means(np.asarray(values, np.float64), groups)
        n = len(means)
        if n == 0:
            raise ValueError("no values to average")
        low = high = None
        if n > 1:
            resampled = means[np.random.default_rng(seed).integers(0, n, (DRAWS, n))].mean(1)
            low, high = (float(x) for x in np.quantile(resampled, (0.025, 0.975)))
        return cls(float(means.mean()), n, low, high)

    @classmethod
    def paired(cls, base: Values, erased: Values, groups: Sequence | None = None, seed: int = 0) -> Estimate:
        """`erased - base` on the same prompts and seeds: what both have in common cancels.

        Both arrays [N] are aligned, picture by picture; bool counts as 0 and 1. Where what is seen changes alike in
        all prompts, resampling has nothing to vary: the interval is then as wide as Wilson's of n hits of n.
        """
        if len(base) != len(erased):
            raise ValueError(f"a paired difference needs pairs, got {len(base)} and {len(erased)} values")
        base_N, erased_N = np.asarray(base), np.asarray(erased)
        change = cls.mean(erased_N.astype(np.float64) - base_N.astype(np.float64), groups, seed)
        if change.low is None or change.low != change.high or not base_N.dtype == erased_N.dtype == bool:
            return change
        half = 1 - Rate(change.n, change.n).low
        return cls(change.value, change.n, max(change.low - half, -1.0), min(change.low + half, 1.0))

    @classmethod
    def normal(cls, values: Values) -> Estimate:
        """The mean of `values` [N] with the interval of the normal approximation; no interval for fewer than two."""
        mean, n = float(np.mean(values)), len(values)
        if n < 2:
            return cls(mean, n)
        half = Z * float(np.std(values, ddof=1)) / n**0.5
        return cls(mean, n, mean - half, mean + half)

    @classmethod
    def rank_correlation(cls, one: Values, other: Values) -> Estimate:
        """`spearman` of `one` and `other`, both [N], with the interval of Bonett and Wright (2000).

        Returns:
            Estimate: no value where one side says the same of all; no interval for fewer than four, or where the order
                is the same or the reverse.
        """
        n = len(one)
        if len(set(one)) < 2 or len(set(other)) < 2:
            return cls(None, n)
        rho = float(spearman(np.asarray(one), np.asarray(other)))
        if n < 4 or abs(rho) > 1 - 1e-9:
            return cls(rho, n)
        half = Z * math.sqrt((1 + rho**2 / 2) / (n - 3))
        return cls(rho, n, math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half))

    def minus(self, other: Estimate, share: float = 1.0) -> Estimate:
        """This estimate less a `share` of `other`, an independent one, with the interval that theirs give (Zou and
        Donner 2008)."""
        n = min(self.n, other.n)
        if self.value is None or other.value is None:
            return Estimate(None, n)
        value = self.value - share * other.value
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return Estimate(value, n)
        low = value - math.hypot(self.value - self.low, share * (other.high - other.value))
        high = value + math.hypot(self.high - self.value, share * (other.value - other.low))
        return Estimate(value, n, low, high)

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 0; False where there is no interval."""
        return self.above or self.below

    @property
    def above(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low is not None and self.low > 0

    @property
    def below(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high is not None and self.high < 0

    def flat(self) -> dict:
        """`{"value", "n", "low", "high"}`, as the flat records of `evaluate --json` have it."""
        return {"value": self.value, "n": self.n, "low": self.low, "high": self.high}

    def text(self, digits: int | None = 2, scale: float = 1.0, sign: bool = False, unit: str = "") -> str:
        """`0.84 [0.81–0.86]`; points of a difference of rates with `scale=100, digits=0, sign=True`: `-12 [-20 to -4]`.

        Args:
            digits: after the point; None writes four significant ones.
            scale: what all three numbers are multiplied by.
            sign: write `+` too.
            unit: written after the value.
        """
        if self.value is None:
            return "–"
        form = f"{'+' if sign else ''}z{'.4g' if digits is None else f'.{digits}f'}"  # z: no -0
        value = format(scale * self.value, form) + unit
        if self.low is None or self.high is None:
            return value
        between = " to " if sign or self.low < 0 else "–"
        return f"{value} [{format(scale * self.low, form)}{between}{format(scale * self.high, form)}]"

    def points(self) -> str:
        """A difference of rates in percentage points: `-12 [-20 to -4]`."""
        return self.text(digits=0, scale=100, sign=True)

    def __str__(self) -> str:
        return self.text()


def _group_means(values: np.ndarray, groups: Sequence | None) -> np.ndarray:
    if groups is None:
        return values
    if len(groups) != len(values):
        raise ValueError(f"{len(values)} values but {len(groups)} group names")
    row = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    where = np.array([row[name] for name in groups], dtype=np.int64)
    return np.bincount(where, values, len(row)) / np.bincount(where, minlength=len(row))


def ranks(values: np.ndarray) -> np.ndarray:
    """Places from 0 along the last axis, least first; equal values share theirs."""
    one, other = values[..., :, None], values[..., None, :]
    return (one > other).sum(-1) + 0.5 * ((one == other).sum(-1) - 1)


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis (Spearman 1904); 0 where all of either are equal."""
    a, b = (ranks(values) - (values.shape[-1] - 1) / 2 for values in (one, other))
    both = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), both, out=np.zeros_like(both), where=both > 0)
