"""The figures of the chapters about erasing from a next-scale model: methods in the plane and what they cost, terms of
the loss, scales, two families.

What they draw are rows of the tables `var-...`, as `ablations.read` gives them; general figures of sweeps are in
`ablation_figures.py`.
"""

from __future__ import annotations

from ..plots.ablation_figures import _ends, _finish, _style, _styles
from ..sweeps.legacy import KINDS

FAMILIES = {  # what a method learns by, which is its colour in the plane -> recipes
    "squared error": ("naive", "vare"),
    "cross entropy": ("s-vare", "s-vare-released", "sace-style"),
    "closed form": ("uce", "recommended"),
    "guidance": ("negative-prompt", "scale-erasure-style"),
}
COSTS = {"kid": "KID", "clip": "CLIP score", "diversity": "diversity", "kl_drift": "KL drift (nats a token)"}


def plane(frame):
    """The methods of `var-main`, the concept against its neighbours, a panel for each concept, coloured by FAMILIES and
    numbered. Returns the figure."""
    import matplotlib.pyplot as plt

    from ..plots.figures import INK, PALETTE

    concepts, handles = list(frame.concept.unique()), {}
    fig, axes = plt.subplots(
        1,
        len(concepts),
        figsize=(3.9 * len(concepts), 4.5),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, concept in zip(axes[0], concepts):
        rows = frame[(frame.concept == concept) & frame.direct.notna()]
        for _, base in rows[rows.recipe.isna()].iterrows():
            style = {"color": INK, "linestyle": ":", "linewidth": 1.2, "zorder": 0}
            handles["before"] = axis.axvline(100 * base.direct, label="before", **style)
            axis.axhline(100 * base.neighbours, **style)
        for number, (name, colour) in enumerate(_colours(frame, PALETTE).items(), 1):
            for _, row in rows[rows.recipe == name].iterrows():
                x, y = 100 * row.direct, 100 * row.neighbours
                axis.plot(
                    [100 * row.direct_low, 100 * row.direct_high],
                    [y, y],
                    color=colour,
                    linewidth=0.9,
                    alpha=0.6,
                    zorder=1,
                )
                axis.plot(
                    [x, x],
                    [100 * row.neighbours_low, 100 * row.neighbours_high],
                    color=colour,
                    linewidth=0.9,
                    alpha=0.6,
                    zorder=1,
                )
                handles[name] = axis.scatter(
                    [x], [y], s=130, color=colour, edgecolor="white", linewidth=0.8, zorder=3, label=f"{number}  {name}"
                )
                axis.text(
                    x, y, str(number), color="white", fontsize=7, ha="center", va="center", zorder=4, fontweight="bold"
                )
        axis.set(title=concept, xlim=(-4, 104), ylim=(100 * frame.neighbours_low.min() - 4, 104))
    axes[0, 0].set_ylabel("neighbours, seen by the judge (%)")
    fig.supxlabel("the concept, seen by the judge (%)", fontsize=10)
    fig.legend(
        handles.values(),
        [handle.get_label() for handle in handles.values()],
        loc="outside upper center",
        ncols=5,
        fontsize=8,
    )
    return fig


def _colours(frame, palette) -> dict[str, str]:
    """Each recipe of `frame`, by family, and the colour of that."""
    return {
        name: colour
        for colour, names in zip(palette, FAMILIES.values())
        for name in names
        if name in set(frame.recipe.dropna())
    }


def costs(frame):
    """What methods cost on prompts that have nothing to do with the concept, a panel for each of COSTS, a row for each
    method, a mark for each concept.

    Whiskers are the least and greatest seed, dotted lines the base models of the concepts' runs. Returns the figure.
    """
    import matplotlib.pyplot as plt

    from ..plots.figures import PALETTE

    names = list(_colours(frame, PALETTE))
    concepts = list(frame.concept.unique())
    fig, axes = plt.subplots(
        1, len(COSTS), figsize=(11, 1.1 + 0.36 * len(names)), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (column, words) in zip(axes[0], COSTS.items()):
        for i, concept in enumerate(concepts):
            rows = frame[(frame.concept == concept) & frame[column].notna()]
            erased = rows[rows.recipe.isin(names)]
            where = [names.index(name) + 0.2 * (i - (len(concepts) - 1) / 2) for name in erased.recipe]
            ends = [erased[column] - erased[f"{column}_low"], erased[f"{column}_high"] - erased[column]]
            style = {"fmt": "osD^"[i % 4], "color": PALETTE[i], "markersize": 4.5, "elinewidth": 0.9}
            axis.errorbar(erased[column], where, xerr=[end.clip(lower=0) for end in ends], label=concept, **style)
            for base in rows[rows.recipe.isna()][column] if column != "kl_drift" else ():
                axis.axvline(base, color=PALETTE[i], linestyle=":", linewidth=1.2)
        axis.set(title=words)
        axis.grid(axis="y", visible=False)
    axes[0, 3].set_xlim(left=0)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(concepts), fontsize=8)
    return fig


def terms(frame, paper: dict[str, tuple[float, float]], steps):
    """The paper's ablation and ours side by side: the concept and its neighbours for each of `steps`, labels of
    `frame`; "base" is the base model.

    `paper`: label -> (concept, neighbours). Returns the figure.
    """
    import matplotlib.pyplot as plt

    from ..plots.figures import INK

    fig, axes = plt.subplots(
        1,
        2,
        figsize=(9.6, 3.7),
        sharey=True,
        squeeze=False,
        width_ratios=(len(paper), len(steps)),
        layout="constrained",
    )
    for axis, labels in zip(axes.flat, (list(paper), list(steps))):
        for i, label in enumerate(labels):
            rows = frame[frame.recipe.isna() if label == "base" else frame.label == label]
            for k, (kind, colour, _) in enumerate(_styles()):
                x = i + 0.2 * (2 * k - 1)
                values, faint = (
                    ([100 * paper[label][k]], 1.0)
                    if axis is axes[0, 0]
                    else (100 * rows[kind], 0.45 if label == "base" else 1.0)
                )
                tops = values if axis is axes[0, 0] else 100 * rows[f"{kind}_high"]
                axis.bar(
                    [x] * len(values),
                    values,
                    0.36,
                    color=colour,
                    alpha=faint,
                    label=KINDS[kind] if faint == 1 else None,
                )
                if axis is axes[0, 1]:
                    axis.errorbar(
                        [x] * len(rows), values, yerr=_ends(rows, kind), fmt="none", ecolor=INK, elinewidth=1, capsize=2
                    )
                for value, top in zip(values, tops):
                    axis.text(x, top + 1, f"{value:.0f}", ha="center", va="bottom", fontsize=7.5)
        axis.set_xticks(range(len(labels)), [_broken(label) for label in labels], fontsize=8)
        axis.grid(axis="x", visible=False)
        axis.set_ylim(0, 108)
    axes[0, 0].set_title("Infinity-2B, the paper")
    axes[0, 1].set_title("MiniVAR, here")
    _finish(fig, axes, 2, "", "seen by the judge (%)")
    return fig


def dots(frame, labels, columns: tuple[str, ...] = ("direct", "neighbours")):
    """A row for each of `labels`, a dot for each kind with its interval and each seed as a small one; dotted lines are
    the base model. Returns the figure."""
    import matplotlib.pyplot as plt

    from ..plots.figures import INK

    fig, axis = plt.subplots(figsize=(7.6, 0.9 + 0.32 * len(labels)), layout="constrained")
    for shift, (kind, colour, marker) in zip((-0.12, 0.12), _styles()):
        rows = frame[frame.label.isin(labels) & frame.recipe.notna() & frame[kind].notna()]
        where = [list(labels).index(label) + shift for label in rows.label]
        axis.errorbar(
            100 * rows[kind], where, xerr=_ends(rows, kind), marker=marker, label=KINDS[kind], **_style(colour, False)
        )
        for y, seeds in zip(where, rows[f"{kind}_seeds"]):
            axis.plot(
                [100 * rate for rate in seeds.values()],
                [y] * len(seeds),
                ".",
                color=colour,
                markersize=3,
                alpha=0.45,
                zorder=1,
            )
        for base in frame[frame.recipe.isna()][kind]:
            axis.axvline(100 * base, color=colour, linestyle=":", linewidth=1.2)
    axis.plot([], [], color=INK, linestyle=":", linewidth=1.2, label="before")
    axis.set(xlim=(-3, 103), xlabel="seen by the judge (%)")
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    fig.legend(loc="outside upper center", ncols=3, fontsize=8)
    return fig


def learning(rows: list[dict], schedule, smooth: int = 1):
    """Over the updates of a run (its metrics.jsonl): what share of each scale's tokens the filter keeps, and the mean
    loss of all of them. Returns the figure.

    Faint lines are single updates, full ones the running mean over `smooth` of them; the dashed line is all scales
    together.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    from ..plots.figures import INK, PALETTE

    fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.4), squeeze=False, layout="constrained")
    x = np.array([row["lesson"] for row in rows]) + 1
    whole = {"kept": [row["kept"] / row["tokens"] for row in rows], "loss": [row["unfiltered"] for row in rows]}
    for axis, what, scale in zip(axes[0], ("kept", "loss"), (100, 1)):
        series = [
            (f"{side} × {side}", [row[f"{what}{k}"] for row in rows], PALETTE[k], "-")
            for k, side in enumerate(schedule)
            if f"{what}{k}" in rows[0]
        ]
        for label, values, colour, line in [*series, ("all tokens", whole[what], INK, "--")]:
            values = scale * np.array(values, dtype=float)
            middle, means = x, values
            if smooth > 1 and len(values) > smooth:
                axis.plot(x, values, color=colour, alpha=0.13, linewidth=0.8)
                means = np.convolve(values, np.ones(smooth) / smooth, mode="valid")
                middle = np.convolve(x, np.ones(smooth) / smooth, mode="valid")
            axis.plot(middle, means, line, color=colour, label=label, linewidth=1.7)
        axis.set_ylim(bottom=0)
    axes[0, 0].set_title("kept by the filter")
    axes[0, 1].set(title="loss before the filter", ylabel="nats a bit")
    _finish(fig, axes, 2, "updates", "tokens of the scale (%)")
    return fig


def loss_shares(shares: dict, ways=("token", "side", "equal")):
    """What each scale has of the loss, by how positions are counted: stacked bars. shares: title -> a frame of
    `next_scale_filter.by_scale`.

    The first panel is the weight of the scales by itself, the others their shares of the filtered loss. Returns the
    figure.
    """
    import matplotlib.pyplot as plt

    from ..plots.figures import PALETTE

    panels = {"weight of a scale": ("weight", next(iter(shares.values())))}
    panels |= {f"share of the loss, {title}": ("loss", frame) for title, frame in shares.items()}
    fig, axes = plt.subplots(
        1, len(panels), figsize=(3.6 * len(panels) + 0.6, 2.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (title, (what, frame)) in zip(axes[0], panels.items()):
        for y, way in enumerate(ways):
            left = 0.0
            for k, row in enumerate(frame.to_dict("records")):
                width = 100 * row[f"{what}: {way}"]
                if width != width:  # the filter kept nothing
                    continue
                axis.barh(
                    y,
                    width,
                    0.7,
                    left=left,
                    color=PALETTE[k],
                    label=f"{row['side']:.0f} × {row['side']:.0f}",
                    edgecolor="white",
                    linewidth=0.6,
                )
                if width >= 7:
                    axis.text(
                        left + width / 2, y, f"{width:.0f}", ha="center", va="center", fontsize=7.5, color="white"
                    )
                left += width
        axis.set_title(title, fontsize=9.5)
        axis.set_xlim(0, 100)
        axis.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(ways)), ways)
    axes[0, 0].invert_yaxis()
    _finish(fig, axes, len(panels), "per cent", "positions count by")
    return fig


def families(numbers: dict):
    """Rates over the number of concepts that one erasure learned, a colour for each of `numbers` (title ->
    `composition.by_number`). Dotted: its base model."""
    import matplotlib.pyplot as plt

    from ..plots.figures import PALETTE
    from .composition import KINDS as THREE

    counts = sorted(set().union(*(set(frame["count"]) for frame in numbers.values())))
    place = {count: i for i, count in enumerate(counts)}
    fig, axes = plt.subplots(
        1, len(THREE), figsize=(3.4 * len(THREE) + 0.4, 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (kind, words) in zip(axes[0], THREE.items()):
        for i, (title, frame) in enumerate(numbers.items()):
            base, rows = (
                frame[frame.form == "base"],
                frame[(frame.form == "joint") & (frame.transport == "none")].sort_values("count"),
            )
            axis.plot(
                base["count"].map(place),
                100 * base[kind],
                ":",
                color=PALETTE[i],
                linewidth=1.2,
                label=f"{title}, before",
            )
            axis.errorbar(
                rows["count"].map(place) + 0.05 * (2 * i - 1),
                100 * rows[kind],
                yerr=_ends(rows, kind),
                marker="os"[i],
                label=title,
                **_style(PALETTE[i], True),
            )
        axis.set_xticks(range(len(counts)), counts)
        axis.set(title=words, ylim=(-3, 103), xlim=(-0.4, len(counts) - 0.6))
        axis.grid(axis="x", visible=False)
    _finish(fig, axes, len(THREE), "concepts erased at once")
    return fig


def _broken(label: str) -> str:
    """A label on several lines, as there is no room for it on one."""
    return (
        label.replace("cross entropy", "cross\nentropy")
        .replace("squared error", "squared\nerror")
        .replace(" + ", "\n+ ")
        .replace(", no", ",\nno")
    )
