"""The figures of the ablations: rates over a choice, over the number of updates, over doses, the concept against its
neighbours, the paper's bar chart.

What they draw are rows of `ablations.read`; general figures are in `figures.py`. Every point has its interval, and
beside it each seed as a small dot.
"""

from __future__ import annotations

from ..sweeps.legacy import KINDS


def lines(
    panels: dict,
    x: str,
    ticks: dict,
    xlabel: str = "",
    paper: dict | None = None,
    columns: int = 3,
    join: bool = True,
    skipped: bool = False,
):
    """Rates over what was varied, a panel for each title of `panels` (title -> rows, the base model's among them).
    Returns the figure.

    ticks: value of column `x` -> its label, in the order of the axis, at equal distances; or title -> such ticks.
    Dotted lines are the base model. `paper`: title -> {value of x: the paper's rate}. `skipped` adds the share of
    windows that the gate skipped, as bars.
    """
    import matplotlib.pyplot as plt

    from .figures import BEFORE, INK

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(3.1 * columns + 0.6, 2.9 * rows + 0.5), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (title, frame) in zip(axes.flat, panels.items()):
        own = ticks[title] if title in ticks else ticks
        place = {value: i for i, value in enumerate(own)}
        erased = frame[frame.recipe.notna() & frame[x].isin(list(place)) & frame.direct.notna()]
        erased = erased.assign(place=erased[x].map(place)).sort_values("place")
        if skipped:
            axis.bar(
                erased.place,
                100 * erased.skipped,
                width=0.7,
                color=BEFORE,
                alpha=0.4,
                label="windows skipped",
                zorder=0,
            )
        if found := {
            place[value]: 100 * rate for value, rate in (paper or {}).get(title, {}).items() if value in place
        }:
            axis.plot(
                list(found),
                list(found.values()),
                "D--",
                color=INK,
                markersize=4,
                linewidth=1.2,
                label="the concept, in the paper",
            )
        for shift, (kind, colour, marker) in zip((-0.07, 0.07), _styles()):
            _points(axis, erased.place + shift, erased, kind, colour, marker, join)
            for base in frame[frame.recipe.isna()][kind]:
                axis.axhline(100 * base, color=colour, linestyle=":", linewidth=1.2, label=f"{KINDS[kind]}, before")
        axis.set(title=title, ylim=(-3, 103), xlim=(-0.5, len(own) - 0.5))
        axis.set_xticks(range(len(own)), list(own.values()))
        axis.grid(axis="x", visible=False)
    _finish(fig, axes, len(panels), xlabel)
    return fig


def doses(series: dict, across: dict):
    """The concept's rates above, its neighbours' below, over several doses (column -> label, logarithmic): a colour for
    each of `series` (title -> rows).

    The base model's rows are dotted lines. Full marks are changes as trained; hollow ones the same changes switched on
    by half, which an axis `lr` leaves out.
    """
    import matplotlib.pyplot as plt

    from .figures import PALETTE, QUIET

    fig, axes = plt.subplots(
        2, len(across), figsize=(3.3 * len(across), 5.6), sharex="col", sharey=True, squeeze=False, layout="constrained"
    )
    for line, kind in zip(axes, KINDS):
        for axis, x in zip(line, across):
            for (words, frame), colour, marker in zip(series.items(), PALETTE, "os^D"):
                for base in frame[frame.recipe.isna()][kind]:
                    axis.axhline(100 * base, color=QUIET, linestyle=":", linewidth=1.2, label="before")
                for whole in (True, False) if x != "lr" else (True,):
                    rows = frame[
                        frame.recipe.notna() & frame.direct.notna() & ((frame["erasure.strength"] == 1) == whole)
                    ].sort_values(x)
                    style = {"marker": marker, "label": words if whole else f"{words}, by half"} | _style(
                        colour, True, not whole
                    )
                    axis.errorbar(rows[x], 100 * rows[kind], yerr=_ends(rows, kind), **style)
            axis.set(xscale="log", ylim=(-3, 103))
    for axis, words in zip(axes[1], across.values()):
        axis.set_xlabel(words)
    _finish(fig, axes, axes.size, "", "the concept, seen (%)")
    axes[1, 0].set_ylabel("its neighbours, seen (%)")
    return fig


def plane(panels: dict, labels: str):
    """The concept against its neighbours: upper left is best. panels: title -> {series: rows}; the column `labels`
    stands beside each point."""
    import matplotlib.pyplot as plt

    from .figures import INK, PALETTE

    fig, axes = plt.subplots(
        1, len(panels), figsize=(4.4 * len(panels), 4.2), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (title, series) in zip(axes.flat, panels.items()):
        for (name, frame), colour, marker in zip(series.items(), PALETTE, "os^D"):
            for _, row in frame[frame.recipe.isna()].head(1).iterrows():
                axis.scatter(
                    100 * row.direct, 100 * row.neighbours, marker="*", s=110, color=INK, label="before", zorder=3
                )
            erased = frame[frame.recipe.notna() & frame.direct.notna()]
            ends = {"xerr": _ends(erased, "direct"), "yerr": _ends(erased, "neighbours")}
            axis.errorbar(
                100 * erased.direct, 100 * erased.neighbours, **ends, marker=marker, label=name, **_style(colour, False)
            )
            for _, row in erased.iterrows():
                axis.annotate(
                    row[labels],
                    (100 * row.direct, 100 * row.neighbours),
                    (5, 4),
                    textcoords="offset points",
                    fontsize=7.5,
                    color=colour,
                )
        axis.set(title=title, xlim=(-3, 103), ylim=(-3, 103))
    _finish(fig, axes, len(panels), "the concept, seen by the judge (%)", "neighbours, seen by the judge (%)")
    return fig


def _styles():
    from .figures import AFTER, PALETTE

    return ("direct", AFTER, "o"), ("neighbours", PALETTE[0], "s")


def _style(colour: str, join: bool, hollow: bool = False) -> dict:
    style = {
        "color": colour,
        "markersize": 5,
        "elinewidth": 1,
        "capsize": 2,
        "linestyle": ("--" if hollow else "-") if join else "none",
        "linewidth": 1.6,
    }
    return style | ({"markerfacecolor": "white"} if hollow else {})


def _ends(rows, kind: str) -> list:
    value, low, high = (100 * rows[name].astype(float) for name in (kind, f"{kind}_low", f"{kind}_high"))
    return [(value - low).clip(lower=0), (high - value).clip(lower=0)]


def _points(
    axis, where, rows, kind: str, colour: str, marker: str, join: bool, hollow: bool = False, label: str | None = None
) -> None:
    axis.errorbar(
        where,
        100 * rows[kind],
        yerr=_ends(rows, kind),
        marker=marker,
        label=label or KINDS[kind],
        **_style(colour, join, hollow),
    )
    for x, seeds in zip(where, rows[f"{kind}_seeds"]):
        axis.plot(
            [x] * len(seeds),
            [100 * rate for rate in seeds.values()],
            ".",
            color=colour,
            markersize=3,
            alpha=0.45,
            zorder=1,
        )


def _finish(fig, axes, used: int, xlabel: str, ylabel: str = "seen by the judge (%)") -> None:
    """Labels and one legend for all panels."""
    for axis in list(axes.flat)[used:]:
        axis.set_visible(False)
    found = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}
    axes[0, 0].set_ylabel(ylabel)
    fig.supxlabel(xlabel, fontsize=10)
    fig.legend(
        found.values(), found.keys(), loc="outside upper center", ncols=len(found) if len(found) <= 5 else 3, fontsize=8
    )
