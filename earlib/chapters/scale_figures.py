"""The figures of the two chapters on scales: training by scale, repair, whose prompt decides, what codes say, where the
filter acts.

What they draw are rows of `scales.py` and `which_scale.py`, which have an interval each; general figures are in
`figures.py`.
"""

from __future__ import annotations

from ..plots.ablation_figures import _finish
from ..plots.figures import AFTER, INK, PALETTE, QUIET


def colours_of(count: int) -> list:
    """Colours of scales, from the coarsest (light) to the finest (dark)."""
    from matplotlib import colormaps

    return [colormaps["viridis_r"](0.15 + 0.8 * k / max(1, count - 1)) for k in range(count)]


def reading(schedule, side: int):
    """Which position may attend to which: in a next-token picture of `side` x `side` tokens, and in a next-scale one of
    `schedule`. Returns the figure."""
    import matplotlib.pyplot as plt
    import numpy as np

    scale_L = np.repeat(range(len(schedule)), [s * s for s in schedule])
    masks = {
        f"next token: {side**2} tokens": np.tri(side**2),
        f"next scale: {len(scale_L)} codes": scale_L[None] <= scale_L[:, None],
    }
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.8), layout="constrained")
    for axis, (title, mask) in zip(axes, masks.items()):
        axis.imshow(mask, cmap="Blues", vmin=0, vmax=1.6, interpolation="nearest")
        axis.set(title=title, xlabel="may be read")
        axis.grid(False)
    ends = np.cumsum([s * s for s in schedule])
    for set_ticks in (axes[1].set_xticks, axes[1].set_yticks):
        set_ticks(ends - 0.5 * np.diff([0, *ends]) - 0.5, [str(k) for k in range(len(schedule))])
    axes[0].set_ylabel("is drawn")
    return fig


def training(rows: list[dict], schedule):
    """Nats and right bits of each scale over the steps of a training log. Returns the figure."""
    import matplotlib.pyplot as plt
    import numpy as np

    fig, axes = plt.subplots(1, 2, figsize=(9.2, 3.4), squeeze=False, layout="constrained")
    for axis, what, label in zip(axes[0], ("nats", "right"), ("cross entropy (nats a bit)", "bits that are right (%)")):
        for k, (side, colour) in enumerate(zip(schedule, colours_of(len(schedule)))):
            points = np.array(
                [
                    (row["step"], row[f"{what}{k}"] * (100 if what == "right" else 1))
                    for row in rows
                    if f"{what}{k}" in row
                ]
            )
            width = max(1, len(points) // 20)
            mean = np.convolve(points[:, 1], np.ones(width) / width, "valid")
            axis.plot(*points.T, color=colour, linewidth=0.6, alpha=0.35)
            axis.plot(points[width // 2 :][: len(mean), 0], mean, color=colour, label=f"scale {k} ({side}×{side})")
        axis.set_ylabel(label)
    axes[0, 0].set_ylim(bottom=0)
    _finish(fig, axes, 2, "step", axes[0, 0].get_ylabel())
    return fig


def repair(rows: list[dict], ylabel: str):
    """What `scales.mended` gives: a panel for each scale, a line for each way to go on, over the share that was turned
    over. Returns the figure."""
    styles = {"left as it was": (QUIET, ":", "s"), "drawn on": (AFTER, "-", "o"), "spelt anew": (PALETTE[0], "--", "^")}
    panels = {
        f"scale {k}": [row for row in rows if row["scale"] == k] for k in dict.fromkeys(row["scale"] for row in rows)
    }
    return _panels(panels, "share", "how", styles, "share of the scale's bits turned over", ylabel, (2.5, 3.3))


def switch(panels: dict[str, dict], scales: int):
    """The prompt-switch curves. panels: title -> {"concept", "replacement"} -> rows of `which_scale.switch_rows`.
    Returns the figure."""
    styles = {
        ("concept", "target"): (AFTER, "-", "o"),
        ("concept", "replacement"): (PALETTE[0], "-", "s"),
        ("replacement", "target"): (AFTER, ":", None),
        ("replacement", "replacement"): (PALETTE[0], ":", None),
    }
    first = {"target": "the concept's prompt first", "replacement": "the other prompt first"}
    words = {
        (what, one): f"{'the concept' if what == 'concept' else 'its replacement'}, {first[one]}"
        for what, one in styles
    }
    rows = {
        title: [row | {"line": (what, row["first"])} for what in found for row in found[what]]
        for title, found in panels.items()
    }
    fig = _panels(
        rows, "scale", "line", styles, "first scale of the other prompt", "seen by the judge (%)", (3.2, 3.6), words
    )
    for axis in fig.axes:
        axis.set_xticks(range(scales + 1), [*map(str, range(scales)), "none"])
    return fig


def shares(panels: dict[str, list[dict]]):
    """Points of the concept's rate that are due to each scale (`which_scale.shapley`), a colour for each title. Returns
    the figure."""
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(6.8, 3.2), layout="constrained")
    width = 0.8 / len(panels)
    for i, ((title, rows), colour) in enumerate(zip(panels.items(), PALETTE)):
        where = [row["scale"] + (i - (len(panels) - 1) / 2) * width for row in rows]
        axis.bar(where, [100 * row["value"] for row in rows], 0.9 * width, color=colour, label=title)
        ends = [
            [100 * (row["value"] - row["low"]) for row in rows],
            [100 * (row["high"] - row["value"]) for row in rows],
        ]
        axis.errorbar(
            where, [100 * row["value"] for row in rows], yerr=ends, fmt="none", ecolor=INK, elinewidth=1, capsize=2
        )
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.set_xticks(range(len(rows)), [f"scale {row['scale']}" for row in rows])
    axis.grid(axis="x", visible=False)
    axis.set_ylabel("points of the rate due to it")
    axis.legend()
    return fig


def knowledge(prompt: dict[str, list[dict]], codes: list[dict], seen: list[dict]):
    """What the first scales say. Left, bits about which prompt was told (`which_scale.knows_prompt`, title -> rows);
    right, what can be read off their codes (`which_scale.read_off`, full) and what a judge sees in their picture
    (`which_scale.seen_after`, dotted). Returns the figure."""
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
    for (title, rows), colour in zip(prompt.items(), PALETTE):
        _line(left, rows, "scales", colour, "-", "o", title, 1)
    left.axhline(1, color=INK, linestyle=":", linewidth=1.2)
    left.set(ylim=(-0.1, 1.08), ylabel="bits about which prompt was told", title="the two prompts of a pair")
    parts = list(dict.fromkeys(row["part"] for row in codes))
    for part, colour in zip(parts, (INK, *PALETTE[3:])):
        _line(right, [row for row in codes if row["part"] == part], "scales", colour, "-", "o", part)
        _line(right, [row for row in seen if row["part"] == part], "scales", colour, ":", None, None)
    right.set(ylim=(-3, 103), ylabel="right (%)", title="the world's pictures")
    count = max(row["scales"] for row in codes)
    for axis in (left, right):
        axis.set_xticks(range(1, count + 1), ["scale 0", *(f"to {k}" for k in range(1, count))])
        axis.grid(axis="x", visible=False)
        axis.legend(loc="lower right")
    return fig


def kept(panels: dict[str, dict[str, list[dict]]]):
    """Where a filter acts. panels: title -> {whose pairs: rows of `which_scale.kept_by_scale`}. Returns the figure."""
    styles = dict(zip(next(iter(panels.values())), ((AFTER, "-", "o"), (PALETTE[0], "--", "s"), (QUIET, ":", "^"))))
    rows = {
        title: [row | {"line": name} for name, found in sets.items() for row in found] for title, sets in panels.items()
    }
    fig = _panels(rows, "scale", "line", styles, "scale", "positions that the filter keeps (%)", (3.6, 3.4))
    for axis in fig.axes:
        axis.set_xticks(sorted({row["scale"] for found in rows.values() for row in found}))
    fig.axes[0].set_ylim(
        -1, 110 * max(row["high"] or row["value"] for found in rows.values() for row in found) + 1
    )  # the axes share it
    return fig


# ---------------------------------------------------------------- pieces


def _line(axis, rows: list[dict], x: str, colour, line: str, marker, label, factor: float = 100) -> None:
    """Values joined, with their intervals where there is a marker; a value of one picture has none."""
    bounds = lambda row: (row["value"], row["value"]) if row["low"] is None else (row["low"], row["high"])
    ends = [[max(0.0, factor * abs(row["value"] - bounds(row)[i])) for row in rows] for i in (0, 1)]
    style = {
        "color": colour,
        "linestyle": line,
        "marker": marker,
        "markersize": 4.5,
        "linewidth": 1.7 if marker else 1.2,
        "elinewidth": 1,
        "capsize": 2,
    }
    axis.errorbar(
        [row[x] for row in rows],
        [factor * row["value"] for row in rows],
        yerr=ends if marker else None,
        label=label,
        **style,
    )


def _panels(
    panels: dict[str, list[dict]],
    x: str,
    series: str,
    styles: dict,
    xlabel: str,
    ylabel: str,
    size: tuple[float, float],
    words: dict | None = None,
):
    """A panel for each title, a line for each value of the column `series`, in the order and the style of `styles`;
    rates in per cent."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        1, len(panels), figsize=(size[0] * len(panels) + 0.5, size[1]), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (title, rows) in zip(axes[0], panels.items()):
        for name, style in styles.items():
            if own := [row for row in rows if row[series] == name]:
                _line(axis, own, x, *style, (words or {}).get(name, name))
        axis.set(title=title, ylim=(-3, 103))
    _finish(fig, axes, len(panels), xlabel, ylabel)
    return fig
