"""The figures of next-token against next-scale: the plane of what is left and what is kept, who is ahead, and rates
over how much of a picture is given.

What they draw is measured in `families.py` and compared in `families_tables.py`; general figures are in `figures.py`.
"""

from __future__ import annotations

from .families_tables import IDEAS


def colours() -> dict[str, str]:
    """Family -> its colour."""
    from ..plots.figures import PALETTE

    return {"next-token": PALETTE[0], "next-scale": PALETTE[1]}


def plane(rows: list[dict], ideas: dict = IDEAS):
    """What is left of the concept against what is kept of its neighbours, both as shares of the base model's rate, a
    panel for each concept: upper left is best. `rows` are those of `families_tables.erased`. A number is an idea, a
    line joins its two recipes; recipes of no idea are small and hollow."""
    import matplotlib.pyplot as plt

    from ..plots.figures import INK, QUIET

    concepts = list(dict.fromkeys(row["concept"] for row in rows))
    fig, axes = plt.subplots(
        1,
        len(concepts),
        figsize=(4.0 * len(concepts), 4.6),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    at = lambda row: (100 * row["left"]["value"], 100 * row["kept"]["value"])
    for axis, concept in zip(axes[0], concepts):
        mine = {(row["family"], row["label"]): row for row in rows if row["concept"] == concept}
        numbers: dict[tuple, list[int]] = {}
        for number, (token, scale, _) in enumerate(ideas.values(), 1):
            pair = ("next-token", token), ("next-scale", scale)
            for key in pair:
                numbers.setdefault(key, []).append(number)
            if all(key in mine for key in pair):
                axis.plot(*zip(*(at(mine[key]) for key in pair)), color=QUIET, linewidth=1, alpha=0.5, zorder=1)
        for key, row in mine.items():
            (x, y), colour = at(row), colours()[key[0]]
            if key not in numbers:
                axis.plot(x, y, "o", color=colour, markersize=4, markerfacecolor="white", alpha=0.7, zorder=2)
                continue
            across, up = ([100 * row[part][end] for end in ("low", "high")] for part in ("left", "kept"))
            axis.plot(across, [y, y], color=colour, linewidth=0.8, alpha=0.45, zorder=2)
            axis.plot([x, x], up, color=colour, linewidth=0.8, alpha=0.45, zorder=2)
            axis.scatter(x, y, s=110, color=colour, edgecolor="white", linewidth=0.8, zorder=3)
            axis.text(
                x,
                y,
                "·".join(map(str, numbers[key])),
                color="white",
                fontsize=7 - len(numbers[key]),
                ha="center",
                va="center",
                fontweight="bold",
                zorder=4,
            )
        axis.scatter(100, 100, marker="*", s=110, color=INK, zorder=3)
        axis.set(title=concept, xlim=(-6, 116), ylim=(-6, 116))
    axes[0, 0].set_ylabel("of the neighbours' rate kept (%)")
    axes[0, len(concepts) // 2].set_xlabel("of the concept's rate left (%)")
    handles = [
        plt.Line2D([], [], marker="o", linestyle="none", markersize=9, color=colour) for colour in colours().values()
    ]
    handles += [plt.Line2D([], [], marker="*", linestyle="none", markersize=10, color=INK)]
    fig.legend(
        handles, [*colours(), "base models"], loc="outside upper center", ncols=3, fontsize=8.5, handletextpad=0.3
    )
    names = [
        f"{i}  {idea}: {token if token == scale else f'{token} / {scale}'}"
        for i, (idea, (token, scale, _)) in enumerate(ideas.items(), 1)
    ]
    fig.legend(
        [plt.Line2D([], [], linestyle="none") for _ in names],
        names,
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        handlelength=0,
        handletextpad=0,
    )
    return fig


def ahead(found: list[dict]):
    """How far next-scale's balance is above next-token's, an idea a line: a mark for each concept, and for their mean.
    `found`: `counterparts`."""
    import matplotlib.pyplot as plt

    from ..plots.figures import INK, PALETTE

    ideas = list(dict.fromkeys(row["idea"] for row in found))
    names = list(dict.fromkeys(row["concept"] for row in found if row["concept"] != "all"))
    fig, axis = plt.subplots(figsize=(7.6, 0.9 + 0.55 * len(ideas)), layout="constrained")
    styles = {name: (colour, marker, 5) for name, colour, marker in zip(names, PALETTE[2:], "osv^P")} | {
        "all": (INK, "D", 7)
    }
    for k, (name, (colour, marker, size)) in enumerate(styles.items()):
        mine = [row for row in found if row["concept"] == name]
        values = [100 * row["balance"]["value"] for row in mine]
        ends = [
            [100 * (row["balance"]["value"] - row["balance"]["low"]) for row in mine],
            [100 * (row["balance"]["high"] - row["balance"]["value"]) for row in mine],
        ]
        where = [ideas.index(row["idea"]) + 0.17 * (k - (len(styles) - 1) / 2) for row in mine]
        label = "mean of the concepts" if name == "all" else name
        axis.errorbar(
            values, where, xerr=ends, fmt=marker, markersize=size, elinewidth=1, capsize=2, color=colour, label=label
        )
    axis.axvline(0, color=INK, linewidth=1)
    axis.set_yticks(range(len(ideas)), ideas)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("balance, next-scale less next-token (points)")
    for x, word in ((0.0, "← next-token ahead"), (1.0, "next-scale ahead →")):
        axis.text(x, 1.01, word, transform=axis.transAxes, ha="left" if x == 0 else "right", va="bottom", fontsize=8.5)
    fig.legend(loc="outside lower center", ncols=len(styles), fontsize=8)
    return fig


def lines(
    panels: dict,
    x: str,
    colour: dict,
    xlabel: str,
    ylabel: str = "seen by the judge (%)",
    columns: int = 3,
    root: bool = False,
):
    """Rates over how much was given, or damaged, a panel for each title of `panels` (title -> rows). Returns the
    figure.

    Rows have "called" (a key of `colour`), "how", `x` from 0 to 1, and a rate with its interval. Full lines: drawn on
    by the model; dotted: pasted. With `root`, the axis is the square root of `x`, which leaves room for small shares.
    """
    import matplotlib.pyplot as plt

    from ..plots.figures import INK

    columns = min(columns, len(panels))
    tall = -(-len(panels) // columns)
    fig, axes = plt.subplots(
        tall,
        columns,
        figsize=(3.3 * columns + 0.6, 2.7 * tall + 0.7),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, rows) in zip(axes.flat, panels.items()):
        for called, shade in colour.items():
            for how in ("drawn on", "pasted"):
                mine = sorted(
                    (row for row in rows if row["called"] == called and row["how"] == how), key=lambda row: row[x]
                )
                where, values = [100 * row[x] for row in mine], [100 * row["value"] for row in mine]
                if how == "pasted":
                    axis.plot(where, values, ":", color=shade, linewidth=1.5)
                    continue
                ends = [
                    [max(0.0, 100 * (row["value"] - row["low"])) for row in mine],
                    [max(0.0, 100 * (row["high"] - row["value"])) for row in mine],
                ]
                axis.errorbar(
                    where,
                    values,
                    yerr=ends,
                    marker="o",
                    markersize=4,
                    elinewidth=0.8,
                    capsize=2,
                    color=shade,
                    label=called,
                )
        axis.set_title(title)
        axis.set(ylim=(-4, 104))
        if root:
            _root(axis)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    found = dict(reversed(pair) for axis in axes.flat for pair in zip(*axis.get_legend_handles_labels()))
    found["pasted: what is given shows by itself"] = plt.Line2D([], [], linestyle=":", linewidth=1.5, color=INK)
    fig.supxlabel(xlabel, fontsize=10)
    fig.supylabel(ylabel, fontsize=10)
    fig.legend(found.values(), found.keys(), loc="outside upper center", ncols=len(found), fontsize=8)
    return fig


def evidence(rows: list[dict]):
    """How much of the evidence for the prompt that a picture was begun under lies in its first codes, over their share
    of it, a panel for each concept.

    `rows` are those of `families.exchanged`, each with "concept" and "called", its family. Full lines: the concept's
    own pictures; dashed: its replacement's.
    """
    import matplotlib.pyplot as plt

    concepts = list(dict.fromkeys(row["concept"] for row in rows))
    fig, axes = plt.subplots(
        1, len(concepts), figsize=(3.3 * len(concepts) + 0.6, 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, concept in zip(axes[0], concepts):
        for called, shade in colours().items():
            for first, style in (("target", "-"), ("replacement", "--")):
                mine = [
                    row
                    for row in rows
                    if (row["concept"], row["called"], row["first"], row["how"]) == (concept, called, first, "drawn on")
                ]
                mine.sort(key=lambda row: row["share"])
                shares = [100 * row["evidence"] / mine[-1]["evidence"] for row in mine]
                label = called if first == "target" else None
                axis.plot(
                    [100 * row["share"] for row in mine],
                    shares,
                    style,
                    marker="o",
                    markersize=4,
                    linewidth=1.6,
                    color=shade,
                    label=label,
                )
        whole = [
            max(row["evidence"] for row in rows if row["concept"] == concept and row["called"] == called)
            for called in colours()
        ]
        axis.set(title=f"{concept} (in all {whole[0]:.0f} and {whole[1]:.0f} bits)", ylim=(-4, 110))
        _root(axis)
    axes[0, 0].set_ylabel("of the evidence for its own prompt (%)")
    fig.supxlabel("share of the picture's bits (%)", fontsize=10)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8.5)
    return fig


def _root(axis) -> None:
    """An axis in per cent with room for small shares."""
    import numpy as np

    axis.set_xscale("function", functions=(lambda v: np.sign(v) * np.abs(v) ** 0.5, lambda v: np.sign(v) * v**2))
    axis.set_xlim(-0.2, 106)
    axis.set_xticks([0, 2, 8, 21, 45, 75, 100])


def damage(rows: list[dict]):
    """What became of damaged pictures (`families.mended`, each row with "called", its family): how many are right, and
    how far they are from the clean ones."""
    import matplotlib.pyplot as plt

    from ..plots.figures import INK

    fig, axes = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    for axis, (column, low, high, scale) in zip(
        axes, (("value", "low", "high", 100), ("distance", "distance_low", "distance_high", 1))
    ):
        for called, shade in colours().items():
            for how, line, marker in (("drawn on", "-", "o"), ("pasted", ":", "s")):
                mine = sorted(
                    (row for row in rows if row["called"] == called and row["how"] == how),
                    key=lambda row: row["damage"],
                )
                values = [scale * row[column] for row in mine]
                ends = [
                    [max(0.0, v - scale * row[low]) for v, row in zip(values, mine)],
                    [max(0.0, scale * row[high] - v) for v, row in zip(values, mine)],
                ]
                style = {
                    "marker": marker,
                    "markersize": 4,
                    "elinewidth": 0.8,
                    "capsize": 2,
                    "markerfacecolor": shade if how == "drawn on" else "white",
                }
                axis.errorbar(
                    [100 * row["damage"] for row in mine],
                    values,
                    yerr=ends,
                    linestyle=line,
                    color=shade,
                    label=f"{called}, {how}",
                    **style,
                )
        axis.set_ylim(bottom=0)
    axes[0].set(ylabel="all is as it was asked for (%)", ylim=(-3, 103))
    axes[1].set_ylabel("distance from the clean picture (of 255)")
    fig.supxlabel("share of the early codes that are exchanged for chance ones (%)", fontsize=10, color=INK)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    return fig
