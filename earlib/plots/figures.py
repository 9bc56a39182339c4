"""Names of the first edition's figures for chapters that have not moved to `style`, `panels` and `pictures` yet."""

from __future__ import annotations

import itertools

from .pictures import grid as show_pictures
from .style import INK, PALETTE, QUIET, save, setup
from .style import PALE as BEFORE
from .style import VERMILION as AFTER

__all__ = ["AFTER", "BEFORE", "INK", "PALETTE", "QUIET", "rate_lines", "save", "setup", "show_pictures"]


def rate_lines(
    rows: list[dict],
    x: str,
    title: str | None = None,
    xlabel: str | None = None,
    ylabel: str = "seen by the judge",
    labels=None,
):
    """Rates over something that was varied, a line for each condition, with their intervals.

    rows: {x, "condition", "value", "low", "high"}, rates from 0 to 1; conditions are "base" and "erased", and others
    (recipes, controls), drawn dashed, each in a colour of its own. `labels` renames conditions for the legend. Returns
    the figure; the rows are the data to save with it.
    """
    import matplotlib.pyplot as plt

    colours = {"base": QUIET, "erased": AFTER}
    conditions = dict.fromkeys(r["condition"] for r in rows)
    others = dict(zip([c for c in conditions if c not in colours], itertools.cycle(PALETTE)))
    fig, axis = plt.subplots(figsize=(6.4, 3.2))
    for condition in conditions:
        points = [r for r in rows if r["condition"] == condition and r["value"] is not None]
        where, values = [r[x] for r in points], [100 * r["value"] for r in points]
        errors = [
            [max(0.0, 100 * (r["value"] - r["low"])) for r in points],
            [max(0.0, 100 * (r["high"] - r["value"])) for r in points],
        ]
        style = {
            "color": colours.get(condition) or others[condition],
            "linestyle": "-" if condition in colours else "--",
        }
        axis.errorbar(
            where,
            values,
            yerr=errors,
            marker="o",
            markersize=4,
            elinewidth=1,
            capsize=2,
            label=(labels or {}).get(condition, condition),
            **style,
        )
    axis.set(xlabel=xlabel or x, ylabel=f"{ylabel} (%)", ylim=(-3, 103))
    if title:
        axis.set_title(title)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2, handlelength=2)
    return fig
