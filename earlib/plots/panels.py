"""The four kinds of panels that chapters share: lines, planes, dots and bars, of rates and estimates with intervals.

Each takes `panels`, title -> list of `Series`, and gives a figure with one legend. `draw_lines`, `draw_plane`,
`draw_dots` and `draw_bars` draw one panel into an axis of your own; `finish` then adds the labels and the legend.
A `Rate` is drawn in per cent, an `Estimate` or a number as it is, times the series' `scale`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..errors import UserError
from .labels import draw_labels
from .series import Series, drawn, has_value, looks
from .style import INK, PALE, WIDTH, ink, look

SEEN = "seen by the judge (%)"


# ---------------------------------------------------------------- figures


def lines(
    panels: Mapping[str, list[Series]],
    xlabel: str = "",
    ylabel: str = SEEN,
    ticks: Mapping | None = None,
    xscale: str = "linear",
    ylim: tuple | Mapping | None = (-3, 103),
    columns: int = 3,
    height: float = 2.3,
):
    """Values over what was varied, a panel for each title.

    Args:
        panels: title -> series; x are numbers, or keys of `ticks`.
        xlabel, ylabel: of all panels.
        ticks: value of x -> its label, at equal distances in this order; or title -> such ticks.
        xscale: "linear", "log", or "root": the square root, which leaves room for small shares.
        ylim: of all panels, or title -> that of its panel; None takes what is needed.
        columns: panels side by side.
        height: inches of a panel.

    Returns:
        matplotlib.figure.Figure
    """
    of_panel: Mapping = ylim if isinstance(ylim, Mapping) else dict.fromkeys(panels, ylim)
    fig, axes = grid_of(panels, columns, height, sharey=not isinstance(ylim, Mapping))
    for axis, (title, series) in zip(axes.flat, panels.items()):
        draw_lines(axis, series, ticks.get(title, ticks) if ticks else None, xscale)
        axis.set_title(title)
        if of_panel.get(title):
            axis.set_ylim(*of_panel[title])
    return finish(fig, axes, xlabel, ylabel)


def plane(
    panels: Mapping[str, list[Series]],
    xlabel: str = "the concept, seen by the judge (%)",
    ylabel: str = "its neighbours, seen by the judge (%)",
    lim: tuple | None = (-3, 103),
    height: float = 3.1,
    columns: int = 3,
):
    """One rate against another, with both intervals, a panel for each title; upper left is where one wants to be.

    Args:
        panels: title -> series whose points are (Rate, Rate) or (Estimate, Estimate); `labels` stand beside them, a
            `line` joins them; a series called "before" is a star.
        lim: of both axes; None takes what is needed.

    Returns:
        matplotlib.figure.Figure
    """
    fig, axes = grid_of(panels, columns, height, sharex=True, sharey=True)
    for axis, title in zip(axes.flat, panels):
        if lim:
            axis.set(xlim=lim, ylim=lim)
        axis.set_title(title)
    for axis, series in zip(axes.flat, panels.values()):
        draw_plane(axis, series)
    finish(fig, axes, xlabel, ylabel)
    for axis, series in zip(axes.flat, panels.values()):
        draw_labels(axis, series)
    return fig


def dots(
    panels: Mapping[str, list[Series]],
    xlabel: str = SEEN,
    rows: Sequence[str] | None = None,
    sort: bool = True,
    xlim: tuple | None = (-3, 103),
    columns: int = 3,
    row_height: float = 0.24,
    families: bool = False,
):
    """A row for each name, a dot for each series with its interval; dotted lines are the values before.

    Args:
        panels: title -> series whose x are names of rows.
        rows: the rows from top to bottom (default: all, as they come).
        sort: order the rows by the mean over panels of the first series, least first.
        xlim: of all panels; None takes what is needed, for each panel by itself.
        row_height: inches.
        families: write the rows' names in the colours of `style.COLOURS`.

    Returns:
        matplotlib.figure.Figure
    """
    names = list(rows or dict.fromkeys(x for series in panels.values() for s in series for x, _ in s.points))
    if sort:
        firsts = [dict(series[0].points) for series in panels.values() if series]
        place = {name: [drawn(first[name])[0] for first in firsts if name in first] for name in names}
        names.sort(key=lambda name: np.mean(place[name]) if place[name] else np.inf)
    fig, axes = grid_of(panels, columns, 0.5 + row_height * len(names), sharex=xlim is not None, sharey=True)
    for axis, (title, series) in zip(axes.flat, panels.items()):
        draw_dots(axis, series, names)
        axis.set_title(title)
        if xlim:
            axis.set_xlim(*xlim)
    for label in axes[0, 0].get_yticklabels() if families else ():
        label.set_color(ink(look(label.get_text(), 7)[0]))
    return finish(fig, axes, xlabel, "")


def bars(
    panels: Mapping[str, list[Series]],
    ylabel: str = SEEN,
    groups: Sequence[str] | None = None,
    lim: tuple | None = (0, 108),
    columns: int = 3,
    height: float = 2.3,
    horizontal: bool = False,
    bold: Iterable[str] = (),
    digits: int = 0,
):
    """Bars with intervals and their values, a group for each name and a bar for each series.

    Args:
        panels: title -> series whose x are names of groups; a series called "before" is pale.
        groups: the groups of every panel, in this order (default: each panel's own, as they come).
        lim: of the values' axis.
        horizontal: bars lie, and a figure is as high as it has groups.
        bold: groups whose names are printed in bold.
        digits: of the values beside the bars.

    Returns:
        matplotlib.figure.Figure
    """
    own = {title: list(groups or dict.fromkeys(x for s in ss for x, _ in s.points)) for title, ss in panels.items()}
    if horizontal:
        height = 0.5 + 0.42 * max(map(len, own.values()))
    fig, axes = grid_of(panels, columns, height, sharex=horizontal, sharey=not horizontal or len(panels) > 1)
    for axis, (title, series) in zip(axes.flat, panels.items()):
        draw_bars(axis, series, own[title], horizontal, digits)
        axis.set_title(title)
        if lim:
            (axis.set_xlim if horizontal else axis.set_ylim)(*lim)
        for label in (axis.get_yticklabels if horizontal else axis.get_xticklabels)():
            label.set_fontweight("bold" if label.get_text() in bold else "normal")
    return finish(fig, axes, *((ylabel, "") if horizontal else ("", ylabel)))


def curves(
    rows: list[dict],
    x: str,
    ys: Mapping[str, str],
    xlabel: str = "",
    ylabel: str = "",
    smooth: int = 1,
    log: bool = False,
):
    """Lines from logged rows (metrics.jsonl); with `smooth`, faint under the running mean over so many rows.

    Args:
        rows: each with `x` and some of `ys`.
        ys: key of the rows -> what it is called.
        log: a logarithmic axis of values.

    Returns:
        matplotlib.figure.Figure
    """
    fig, axes = grid_of({"": []}, 1, 2.6, width=6.4)
    axis = axes[0, 0]
    for number, (y, called) in enumerate(ys.items()):
        points = np.array([(row[x], row[y]) for row in rows if row.get(y) is not None], dtype=float).reshape(-1, 2)
        draw_curve(axis, points[:, 0], points[:, 1], called, look(y, number)[0], smooth)
    axis.set_yscale("log" if log else "linear")
    return finish(fig, axes, xlabel or x, ylabel, legend=len(ys) > 1)


# ---------------------------------------------------------------- pieces


def grid_of(panels: Mapping, columns: int = 3, height: float = 2.3, width: float = WIDTH, sharex=False, sharey=False):
    """A figure with an axis for each of `panels`, at most `columns` side by side; those too many are hidden.

    Returns:
        (figure, axes [rows, columns])
    """
    import matplotlib.pyplot as plt

    if not panels:
        raise UserError("nothing to draw: no panels")
    columns = min(columns, len(panels))
    count = -(-len(panels) // columns)
    size = (width, height * count + 0.55)
    fig, axes = plt.subplots(
        count, columns, sharex=sharex, sharey=sharey, figsize=size, squeeze=False, layout="constrained"
    )
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    return fig, axes


def finish(fig, axes, xlabel: str = "", ylabel: str = "", legend: bool = True, columns: int | None = None):
    """Label the whole figure, with one legend above for all that its axes show; returns the figure."""
    entries = {text: handle for axis in axes.flat for handle, text in zip(*axis.get_legend_handles_labels())}
    fig.supxlabel(xlabel, fontsize=9) if xlabel else None
    fig.supylabel(ylabel, fontsize=9) if ylabel else None
    if entries and legend:
        longest = max(map(len, entries))  # so that the lines of the legend are no wider than the figure
        columns = columns or max(1, min(len(entries), int(fig.get_figwidth() / (0.45 + 0.068 * longest))))
        fig.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=columns)
    return fig


def draw_lines(axis, series: Sequence[Series], ticks: Mapping | None = None, xscale: str = "linear") -> None:
    """The lines of one panel: see `lines`."""
    place = {value: i for i, value in enumerate(ticks)} if ticks else None
    for number, (s, look_of) in enumerate(zip(series, looks(series))):
        shift = 0.07 * (2 * number - len(series) + 1) if ticks and len(series) < 4 else 0
        at = {
            i: x if place is None else place[x] + shift + s.beside
            for i, (x, _) in enumerate(s.points)
            if place is None or x in place
        }
        if s.line == "bar":
            heights = [s.at(s.points[i][1])[0] for i in at]
            axis.bar(list(at.values()), heights, width=0.7, color=PALE, alpha=0.4, label=s.called, zorder=0)
        else:
            _marks(axis, s, dict(sorted(at.items(), key=lambda item: item[1])), *look_of, s.line)
    _tell_base(axis, series)
    if ticks:
        axis.set_xticks(range(len(ticks)), list(ticks.values()))
        axis.set_xlim(-0.5, len(ticks) - 0.5)
        axis.grid(axis="x", visible=False)
    elif xscale == "root":
        axis.set_xscale("function", functions=(lambda v: np.sign(v) * np.abs(v) ** 0.5, lambda v: np.sign(v) * v**2))
        axis.set_xlim(-0.2, 106)
        axis.set_xticks([0, 2, 8, 21, 45, 75, 100])
    elif xscale != "linear":
        axis.set_xscale(xscale)


def draw_plane(axis, series: Sequence[Series]) -> None:
    """The marks of one plane: see `plane`; `draw_labels` adds the labels, once all else is drawn."""
    for number, s in enumerate(series):
        colour, marker = s.look(number)
        spots = [(s.at(x), s.at(y)) for x, y in s.points]
        middle = [x[0] for x, _ in spots], [y[0] for _, y in spots]
        if s.name == "before":
            axis.plot(*middle, "*", color=INK, markersize=11, label="before", zorder=4)
            continue
        for x, y in spots:
            axis.plot(x[1:], [y[0]] * 2, color=colour, linewidth=0.8, alpha=0.5, zorder=1)
            axis.plot([x[0]] * 2, y[1:], color=colour, linewidth=0.8, alpha=0.5, zorder=1)
        style = {
            "marker": marker,
            "markersize": 6,
            "markeredgewidth": 1.2,
            "linewidth": 1,
            "color": colour,
            "zorder": 3,
        }
        face = "white" if s.hollow else colour
        axis.plot(*middle, linestyle=s.line or "none", markerfacecolor=face, label=s.called, **style)


def draw_dots(axis, series: Sequence[Series], rows: Sequence[str]) -> None:
    """The dots of one panel, `rows` from top to bottom: see `dots`."""
    place, step = {name: i for i, name in enumerate(rows)}, min(0.24, 0.7 / max(1, len(series)))
    for number, (s, look_of) in enumerate(zip(series, looks(series))):
        shift = step * (number - (len(series) - 1) / 2)
        at = {i: place[name] + shift for i, (name, _) in enumerate(s.points) if name in place}
        _marks(axis, s, at, *look_of, line="", lying=True)
    _tell_base(axis, series)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)


def draw_bars(axis, series: Sequence[Series], groups: Sequence[str], horizontal=False, digits: int = 0) -> None:
    """The bars of one panel, a group for each of `groups`: see `bars`."""
    place, step = {name: i for i, name in enumerate(groups)}, 0.8 / max(1, len(series))
    for number, s in enumerate(series):
        colour, own = s.look(number)[0], [(name, y) for name, y in s.points if name in place]
        where = [place[name] + step * (number - (len(series) - 1) / 2) for name, _ in own]
        values = [s.at(y) for _, y in own]
        draw = axis.barh if horizontal else axis.bar
        draw(where, [v for v, *_ in values], 0.94 * step, color=colour, label=s.called, alpha=0.45 if s.hollow else 1)
        for at, (value, low, high) in zip(where, values):
            if high > low:
                xs, ys = ([low, high], [at, at]) if horizontal else ([at, at], [low, high])
                axis.plot(xs, ys, color=INK, linewidth=1)
            # lying: in a column at the right, as beside an interval's end a number reads as the end's
            spot, shift = ((1, at), (3, 0)) if horizontal else ((at, max(high, value)), (0, 1))
            place_of_text = {"ha": "left", "va": "center"} if horizontal else {"ha": "center", "va": "bottom"}
            place_of_text |= {"xycoords": axis.get_yaxis_transform()} if horizontal else {}
            text = f"{value:z.{digits}f}"
            axis.annotate(text, spot, shift, textcoords="offset points", fontsize=8, color=INK, **place_of_text)
    (axis.set_yticks if horizontal else axis.set_xticks)(range(len(groups)), groups)
    axis.grid(axis="y" if horizontal else "x", visible=False)
    if horizontal:
        axis.set_ylim(len(groups) - 0.45, -0.55)


def draw_curve(axis, x, y, called: str | None, colour: str, smooth: int = 1, line: str = "-") -> None:
    """A measured curve; with `smooth`, faint under its running mean over so many points."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if smooth > 1 and len(y) > smooth:
        axis.plot(x, y, color=colour, alpha=0.2, linewidth=0.8)
        x, y = (np.convolve(values, np.ones(smooth) / smooth, mode="valid") for values in (x, y))
    axis.plot(x, y, line, color=colour, label=called)


def _tell_base(axis, series) -> None:
    if any(has_value(s.base) for s in series):
        axis.plot([], [], color=INK, linestyle=":", linewidth=1.2, label="before")


def _marks(axis, s: Series, at: Mapping[int, float], colour: str, marker: str, line: str, lying: bool = False) -> None:
    """Marks with intervals of the points `at` (number of a point -> its place), small dots for single seeds, a dotted
    line for the value before; `lying`: values along x."""
    turned = (lambda where, values: (values, where)) if lying else (lambda where, values: (where, values))
    values = np.array([s.at(s.points[i][1]) for i in at]).reshape(-1, 3)
    middle, ends = values[:, 0], np.maximum(0, [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]])
    style = {"marker": marker, "markersize": 4.5, "elinewidth": 1, "capsize": 1.8, "linestyle": line or "none"}
    style |= {"color": colour, "label": s.called} | ({"markerfacecolor": "white"} if s.hollow else {})
    style |= {"xerr" if lying else "yerr": ends} if ends.any() else {}
    axis.errorbar(*turned(list(at.values()), middle), **style)
    for i, where in at.items() if s.seeds else ():
        alone = [s.at(value)[0] for value in s.seeds[i]]
        if len(alone) > 1:  # of one seed the mark itself is all
            axis.plot(*turned([where] * len(alone), alone), ".", color=colour, markersize=3, alpha=0.45)
    if has_value(s.base):
        (axis.axvline if lying else axis.axhline)(s.at(s.base)[0], color=colour, linestyle=":", linewidth=1.2)
