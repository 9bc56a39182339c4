"""One style for every figure of the book, three kinds of figures, and how a figure is saved: SVG, PNG and the data
behind it."""

from __future__ import annotations

import itertools
from pathlib import Path

from .. import ROOT
from ..errors import UserError, nearest
from ..runs import write_bytes, write_json, write_text

# Okabe and Ito's colour-blind safe palette, in the order in which we use it
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#444444")
BEFORE, AFTER, INK, QUIET = "#A9B4BE", "#D55E00", "#22272E", "#6B7680"
STYLE = {
    "font.family": ["DejaVu Sans"], "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10, "legend.fontsize": 9,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": QUIET, "axes.linewidth": 0.8,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E3E7EB", "grid.linewidth": 0.8,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": QUIET, "ytick.color": QUIET, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "lines.linewidth": 2, "lines.solid_capstyle": "round", "legend.frameon": False,
    "figure.dpi": 110, "figure.facecolor": "white", "savefig.bbox": "tight", "savefig.facecolor": "white", "svg.fonttype": "none", "svg.hashsalt": "earlib",
}  # fmt: skip


def setup() -> None:
    """Use the book's style from here on; in a notebook, sharp pictures too. Every notebook calls it once."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(STYLE | {"axes.prop_cycle": cycler(color=PALETTE)})
    if "inline" in mpl.get_backend():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")


def save(
    fig, name: str, data=None, folder: str | Path | None = None, caption: str | None = None, alt: str | None = None
) -> Path:
    """Write NAME.svg (text stays text), NAME.png (200 dpi) and the figure's data into `folder` (default:
    _build/figures). Returns the PNG's path.

    data: a list of records or a pandas DataFrame, written as NAME.csv. caption and alt go to NAME.json. Raises
    UserError if it cannot be written.
    """
    import io

    if "/" in name or not name:
        raise UserError(f"a figure's name is a file's stem, not '{name}'")
    folder = Path(folder) if folder else ROOT / "_build" / "figures"
    for suffix, metadata in (
        ("svg", {"Date": None}),
        ("png", {"Software": None}),
    ):  # no dates: the same figure gives the same file
        buffer = io.BytesIO()
        fig.savefig(buffer, format=suffix, dpi=200, bbox_inches="tight", metadata=metadata)
        write_bytes(folder / f"{name}.{suffix}", buffer.getvalue())
    if data is not None:
        import pandas as pd

        write_text(folder / f"{name}.csv", pd.DataFrame(data).to_csv(index=False))
    if caption or alt:
        write_json(folder / f"{name}.json", {"caption": caption, "alt": alt})
    return folder / f"{name}.png"


def show_pictures(
    images,
    columns: int | None = None,
    row_labels=None,
    column_labels=None,
    titles=None,
    title: str | None = None,
    scale: float = 1.0,
):
    """A grid of pictures, every pixel a sharp square.

    images: uint8 [N, H, W, 3], or a list of such pictures; filled row by row with `columns` a row (default: one row up
    to 10). `row_labels` stand to the left of each row, `column_labels` above each column, `titles` under each picture;
    `scale` 1 draws a picture 1.1 inches wide. Returns the figure.
    """
    import matplotlib.pyplot as plt

    count = len(images)
    if count == 0:
        raise UserError("no pictures to show")
    columns = columns or (len(column_labels) if column_labels is not None else min(count, 10))
    rows = -(-count // columns)
    for labels, wanted, what in (
        (row_labels, rows, "row labels"),
        (column_labels, columns, "column labels"),
        (titles, count, "titles"),
    ):
        if labels is not None and len(labels) != wanted:
            raise UserError(f"{len(labels)} {what} for a grid of {rows} rows and {columns} columns")
    side, gap = 1.1 * scale, 0.06 + (0.17 if titles is not None else 0)
    fig, axes = plt.subplots(rows, columns, figsize=(columns * (side + 0.06), rows * (side + gap)), squeeze=False)
    fig.subplots_adjust(left=0, right=1, top=1, bottom=0, wspace=0.06 / side, hspace=gap / side)
    for number, axis in enumerate(axes.flat):
        axis.set_xticks([]), axis.set_yticks([])
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(False)
        if number >= count:
            continue
        axis.imshow(images[number], interpolation="nearest")
        row, column = divmod(number, columns)
        if titles is not None:
            axis.set_xlabel(titles[number], fontsize=8, labelpad=2)
        if row_labels is not None and column == 0:
            axis.set_ylabel(row_labels[row], rotation=0, ha="right", va="center", labelpad=8)
        if column_labels is not None and row == 0:
            axis.set_title(column_labels[column], fontsize=9, fontweight="normal", loc="center", pad=5)
    if title:
        height = rows * (side + gap)
        fig.suptitle(
            title,
            x=0,
            y=1 + (0.38 if column_labels is not None else 0.12) / height,
            ha="left",
            va="bottom",
            fontsize=11,
            fontweight="bold",
        )
    return fig


def rate_bars(
    records: list[dict],
    subjects=None,
    title: str | None = None,
    xlabel: str = "pictures that show it, by the judge",
    highlight=(),
):
    """Before and after erasure, a pair of bars for every subject, with Wilson intervals.

    records: what `evaluate` gives, of one run or several (pooled); only their rates are drawn. A row is called by its
    subject, with the kind of prompt behind it where that is not the plain one ("church, synonym"). `subjects` picks and
    orders rows by that name; those in `highlight` (the concept itself) are written in bold. Returns the figure; the
    records are the data to save with it.
    """
    import matplotlib.pyplot as plt

    from ..evaluate.evaluation import KEYS, pool

    def row_name(r):
        return r["subject"] if r["kind"] in (None, "direct", "neighbour") else f"{r['subject']}, {r['kind']}"

    rates = [{**dict.fromkeys(KEYS), **r} for r in records if r["metric"].endswith("_rate") and r["n"]]
    rows = {
        (row_name(r), r["condition"]): r
        for r in pool([r | {"recipe": None} if r["condition"] == "base" else r for r in rates])
    }
    subjects = list(subjects or dict.fromkeys(s for s, _ in rows))
    if missing := [s for s in subjects if (s, "base") not in rows and (s, "erased") not in rows]:
        raise UserError(f"no rate of '{missing[0]}' in these records: {nearest(missing[0], {s for s, _ in rows})}")
    fig, axis = plt.subplots(figsize=(6.4, 0.9 + 0.46 * len(subjects)))
    for offset, condition, colour in ((-0.19, "base", BEFORE), (0.19, "erased", AFTER)):
        found = [(i, rows[s, condition]) for i, s in enumerate(subjects) if (s, condition) in rows]
        if not found:
            continue
        where = [i + offset for i, _ in found]
        values = [100 * r["value"] for _, r in found]
        errors = [
            [max(0.0, 100 * (r["value"] - r["low"])) for _, r in found],
            [max(0.0, 100 * (r["high"] - r["value"])) for _, r in found],
        ]
        axis.barh(where, values, height=0.36, color=colour, label={"base": "before", "erased": "after"}[condition])
        axis.errorbar(values, where, xerr=errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        for y, (_, r) in zip(where, found):
            axis.text(100 * r["high"] + 1.5, y, f"{100 * r['value']:.0f}", va="center", fontsize=8, color=INK)
    axis.set_yticks(range(len(subjects)), subjects)
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in highlight else "normal")
    axis.set(xlim=(0, 108), xlabel=f"{xlabel} (%)", ylim=(len(subjects) - 0.45, -0.55))
    axis.set_xticks(range(0, 101, 20))
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2, handlelength=1)
    if title:
        axis.set_title(title)
    return fig


def curves(
    rows: list[dict],
    x: str,
    ys,
    labels=None,
    title: str | None = None,
    xlabel=None,
    ylabel=None,
    smooth: int = 1,
    log: bool = False,
):
    """Lines from logged rows (metrics.jsonl), one for each of `ys`; with `smooth`, faint under the running mean over so
    many rows. Returns the figure."""
    import matplotlib.pyplot as plt
    import numpy as np

    ys = [ys] if isinstance(ys, str) else list(ys)
    fig, axis = plt.subplots(figsize=(6.4, 3.2))
    for number, (y, label) in enumerate(zip(ys, labels or ys)):
        points = np.array([(r[x], r[y]) for r in rows if r.get(y) is not None], dtype=float).reshape(-1, 2)
        colour = PALETTE[number % len(PALETTE)]
        if smooth > 1 and len(points) > smooth:
            axis.plot(*points.T, color=colour, alpha=0.25, linewidth=1)
            mean = np.convolve(points[:, 1], np.ones(smooth) / smooth, mode="valid")
            points = np.stack([points[smooth // 2 :][: len(mean), 0], mean], axis=1)
        axis.plot(*points.T, color=colour, label=label)
    axis.set(xlabel=xlabel or x, ylabel=ylabel or (ys[0] if len(ys) == 1 else ""), yscale="log" if log else "linear")
    if title:
        axis.set_title(title)
    if len(ys) > 1:
        axis.legend()
    return fig


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


def matrices(shares: dict[str, object], names: list[str]):
    """Square matrices of shares (0 to 1, rows: truth, columns: answer) side by side, one for each title. Returns the
    figure."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        1, len(shares), figsize=(2.4 * len(shares) + 1, 3), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (title, values) in zip(axes[0], shares.items()):
        shown = axis.imshow(values, vmin=0, vmax=1, cmap="Blues")
        axis.grid(False)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("answer")
    axes[0, 0].set_ylabel("truth")
    fig.colorbar(shown, ax=list(axes[0]), shrink=0.7, label="share of the row", pad=0.02)
    return fig
