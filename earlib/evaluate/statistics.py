"""Intervals: Wilson's for a rate, bootstrap over prompts for a mean and for the difference between base and erased. 95
% everywhere.

What varies in an evaluation is the prompt first: pictures of one prompt resemble each other, and so do the tokens of
one picture. The bootstrap therefore resamples prompts, after averaging whatever belongs to one prompt. Its random
numbers are seeded: the same data give the same interval.
"""

from __future__ import annotations

import math

import numpy as np

Z = 1.959964  # 95 %
DRAWS = 2000  # bootstrap samples


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate of `hits` out of `n` (Wilson 1927). (0, 1) when n is 0."""
    if not 0 <= hits <= n:
        raise ValueError(f"hits must lie between 0 and n, got {hits} of {n}")
    if n == 0:
        return 0.0, 1.0
    p = hits / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == n else centre + half)


def rate(shows: np.ndarray) -> dict:
    """{"value", "n", "low", "high"} of a bool array: the share that is true, with its Wilson interval. `value` is None
    for no data."""
    hits, n = int(np.sum(shows)), len(shows)
    low, high = wilson(hits, n)
    return {"value": hits / n if n else None, "n": n, "low": low, "high": high}


def bootstrap_mean(values: np.ndarray, groups=None, seed: int = 0) -> dict:
    """{"value", "n", "low", "high"}: the mean of `values` [N] and its percentile bootstrap interval (Efron 1979) over
    `groups`.

    `groups` names the prompt of each value (default: each its own); a prompt counts once, with the mean of its values,
    and `n` is the number of prompts. `low` and `high` are None for fewer than two. Raises ValueError for no values.
    """
    means = _group_means(np.asarray(values, np.float64), groups)
    n = len(means)
    if n == 0:
        raise ValueError("no values to average")
    low = high = None
    if n > 1:
        resampled = means[np.random.default_rng(seed).integers(0, n, (DRAWS, n))].mean(1)
        low, high = (float(x) for x in np.quantile(resampled, (0.025, 0.975)))
    return {"value": float(means.mean()), "n": n, "low": low, "high": high}


def paired_difference(base: np.ndarray, erased: np.ndarray, groups=None, seed: int = 0) -> dict:
    """`erased - base` on the same prompts and seeds, as `bootstrap_mean` of the differences: what both have in common
    cancels.

    Both arrays [N] are aligned, picture by picture; bool counts as 0 and 1. Raises ValueError if they are not equally
    long.
    """
    if len(base) != len(erased):
        raise ValueError(f"a paired difference needs pairs, got {len(base)} and {len(erased)} values")
    return bootstrap_mean(np.asarray(erased, np.float64) - np.asarray(base, np.float64), groups, seed)


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval by the normal approximation."""
    half = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    mean = float(np.mean(values))
    return mean, mean - half, mean + half


def _group_means(values: np.ndarray, groups) -> np.ndarray:
    if groups is None:
        return values
    if len(groups) != len(values):
        raise ValueError(f"{len(values)} values but {len(groups)} group names")
    row = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    where = np.array([row[name] for name in groups], dtype=np.int64)
    return np.bincount(where, values, len(row)) / np.bincount(where, minlength=len(row))
