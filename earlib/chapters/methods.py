"""How the methods of the field are laid side by side: the grid they are points in, the table of what they cost, and
erasure against preservation.

What is shown was measured by `table.py`; general figures are in `figures.py`.
"""

from __future__ import annotations

FAMILIES = {  # what a method pulls the student to, or where it acts: name -> recipes
    "EAR": ("ear", "ear-shared", "ear-released"),
    "pulls to no prompt": ("esd-x", "esd-u", "obliviate", "spm"),
    "pulls to a replacement": ("concept-ablation", "concept-ablation-noise", "ablation-at-words"),
    "likelihood of pictures": ("gradient-ascent", "npo", "dpo"),
    "inside the layers": ("forget-me-not", "rmu"),
    "without training": ("negative-prompt", "safe-guidance", "uce", "leace"),
    "ours": ("recommended",),
}
BY_FAMILY = tuple(name for names in FAMILIES.values() for name in names)
AXES = {  # columns of the grid -> fields of a recipe
    "reads": ("prefix",),
    "teacher's states": ("teacher_states",),
    "objective": ("objective", "origin"),
    "compares": ("space", "divergence"),
    "trains": ("modules", "layers"),
    "as": ("rank",),
    "acts at": ("positions",),
    "window": ("windows.length",),
    "gate": ("gate.kind",),
    "retain": ("retain.weight",),
}
WORDS = {  # how values are told
    ("rank", 0): "whole matrices",
    ("windows.length", -1): "picture",
    ("windows.length", 0): "the paper's",
    ("retain.weight", 0.0): "–",
    ("positions", "all"): "every position",
    ("positions", "words"): "the prompt's words",
}


def grid(profile: str = "mini"):
    """The recipes that train as a DataFrame: a row for each, a column for each axis."""
    import pandas as pd

    from ..erasure.presets import TRAINED, recipe
    from ..erasure.recipe import get

    def told(r, name):
        value = get(r, name)
        if name == "layers":
            return "all layers" if tuple(value) == (0.0, 1.0) else f"layers {value[0]:.2g}–{value[1]:.2g} of the depth"
        if name == "rank" and value:
            return f"adapters of rank {value}"
        return WORDS.get((name, value), str(value))

    rows = {}
    for preset in TRAINED:
        r = recipe(preset.name, profile)
        rows[r.name] = {axis: ", ".join(dict.fromkeys(told(r, name) for name in names)) for axis, names in AXES.items()}
    return pd.DataFrame(rows).T.rename_axis("recipe")


def costs(frame, concept: str):
    """The main table of one concept, by family: for each recipe the rates with their intervals, what is kept, what it
    took. `frame`: `table.load("main")`."""
    import pandas as pd

    rows, order = {}, ("base", *BY_FAMILY)
    for row in sorted(frame[frame.concept == concept].to_dict("records"), key=lambda row: order.index(row["label"])):
        name, trained = row["label"], pd.notna(row["recipe"])
        if row.get("direct") is None or row["failed"] == row["seeds"]:
            rows[name] = {"concept": f"diverged in {row['failed']} of {row['seeds']} runs"}
            continue
        rows[name] = {
            "concept": _percent(row, "direct"),
            "synonyms": _percent(row, "synonym"),
            "two things": _percent(row, "compositional"),
            "neighbours": _percent(row, "neighbours"),
            "KID": f"{row['kid']:.3f}",
            "CLIP": f"{row['clip']:.3f}",
            "KL drift": f"{row['kl_drift']:.3f}" if trained else "",
            "seconds": f"{row['seconds']:.0f}" if trained else "",
            "MB": f"{row['megabytes']:.2f}" if trained else "",
            "n": f"{row['direct_n']:.0f} / {row['neighbours_n']:.0f}",
        }
    return pd.DataFrame(rows).T.fillna("").rename_axis("recipe")


def _percent(row: dict, kind: str) -> str:
    return f"{100 * row[kind]:.0f} [{100 * row[f'{kind}_low']:.0f}, {100 * row[f'{kind}_high']:.0f}]"


def colours() -> dict[str, str]:
    """Recipe -> the colour of its family."""
    from ..plots.figures import INK, PALETTE, QUIET

    family = dict(zip(FAMILIES, (*PALETTE[:5], QUIET, INK)))
    return {name: family[f] for f, names in FAMILIES.items() for name in names}


def trade_off(frame, concept: str, ax=None, title: str | None = None, box: tuple[float, float] | None = None):
    """Erasure against preservation: how often the concept is still drawn, and how much of the neighbours' rate is kept,
    with intervals. Returns the figure.

    `frame`: rows of `table.load` with one recipe each, several strengths of a recipe joined by a line (column
    `erasure.strength`; its 1 carries the number). `box` (concept at most, kept at least) is where one wants to be.
    """
    import matplotlib.pyplot as plt

    from ..plots.figures import INK, QUIET

    axis = ax or plt.subplots(figsize=(7.8, 5.0))[1]
    rows = frame[(frame.concept == concept) & frame.recipe.notna() & frame.direct.notna()]
    colour, handles = colours(), []
    for number, name in enumerate((n for n in colour if n in set(rows.recipe)), 1):
        mine = rows[rows.recipe == name]
        if "erasure.strength" in mine:
            mine = mine.assign(strength=mine["erasure.strength"].fillna(1.0)).sort_values("strength")
            axis.plot(100 * mine.direct, 100 * mine.kept, color=colour[name], linewidth=1, alpha=0.45, zorder=2)
            axis.scatter(100 * mine.direct, 100 * mine.kept, s=9, color=colour[name], alpha=0.6, zorder=2)
            mine = mine[mine.strength == 1]
        if mine.empty:
            continue
        point = mine.iloc[0]
        x, y, scale = 100 * point.direct, 100 * point.kept, 100 * point.kept / max(point.neighbours, 1e-9)
        axis.plot(
            [100 * point.direct_low, 100 * point.direct_high],
            [y, y],
            color=colour[name],
            linewidth=0.8,
            alpha=0.5,
            zorder=1,
        )
        axis.plot(
            [x, x],
            [scale * point.neighbours_low, scale * point.neighbours_high],
            color=colour[name],
            linewidth=0.8,
            alpha=0.5,
            zorder=1,
        )
        handles.append(
            axis.scatter(
                [x],
                [y],
                s=130,
                color=colour[name],
                edgecolor="white",
                linewidth=0.8,
                zorder=3,
                label=f"{number}  {name}",
            )
        )
        axis.text(x, y, str(number), color="white", fontsize=7, ha="center", va="center", zorder=4, fontweight="bold")
    if box:
        axis.axvspan(-3, 100 * box[0], ymin=0, color=INK, alpha=0.06, linewidth=0)
        axis.axhline(100 * box[1], color=QUIET, linewidth=0.8, linestyle=":")
    base = frame[(frame.concept == concept) & frame.recipe.isna()]
    if len(base):
        axis.scatter(100 * base.direct, [100], marker="*", s=120, color=INK, zorder=3, label="base model")
    axis.set(
        xlim=(-3, 103),
        ylim=(-3, 113),
        xlabel="still drawn when asked for, by the judge (%)",
        ylabel="of the neighbours' rate kept (%)",
    )
    if title:
        axis.set_title(title)
    if ax is None:
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, handletextpad=0.3)
    return axis.figure


def by_wording(frame, concepts, recipes, kinds=("direct", "synonym", "compositional", "indirect")):
    """How often the concept is drawn, by how it is asked for: a panel for each concept, a row for each recipe, a dot
    for each kind of prompt."""
    import matplotlib.pyplot as plt

    from ..plots.figures import PALETTE

    fig, axes = plt.subplots(
        1,
        len(concepts),
        figsize=(3.6 * len(concepts), 0.9 + 0.3 * len(recipes)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, concept in zip(axes[0], concepts):
        for k, kind in enumerate(kinds):
            points = [(i, row) for i, name in enumerate(recipes) for row in _rows_of(frame, concept, name, kind)]
            where = [i + 0.16 * (k - (len(kinds) - 1) / 2) for i, _ in points]
            values = [100 * row[kind] for _, row in points]
            ends = [(100 * row[f"{kind}_low"], 100 * row[f"{kind}_high"]) for _, row in points]
            errors = [
                [max(0.0, v - low) for v, (low, _) in zip(values, ends)],
                [max(0.0, high - v) for v, (_, high) in zip(values, ends)],
            ]
            axis.errorbar(
                values, where, xerr=errors, fmt="osD^"[k], markersize=4, elinewidth=0.8, color=PALETTE[k], label=kind
            )
        axis.set(title=concept, xlim=(-3, 103), xlabel="still drawn (%)")
        axis.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(recipes)), recipes)
    axes[0, 0].invert_yaxis()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(kinds), fontsize=8)
    return fig


def moved(frame) -> dict[str, tuple[str, ...]]:
    """Of a table (`ablations.read`): the recipes whose rate of the concept, or of its neighbours, differs from the base
    model's by its 95 % interval."""
    from ..sweeps.legacy import difference

    base, rows = (
        frame[frame.recipe.isna()].iloc[0],
        frame[frame.recipe.notna() & frame.direct.notna()].to_dict("records"),
    )
    found = {kind: [(row["recipe"], difference(base, row, kind)) for row in rows] for kind in ("direct", "neighbours")}
    return {kind: tuple(name for name, d in rows if not d["low"] <= 0 <= d["high"]) for kind, rows in found.items()}


def control(frame, labels: dict[str, str]):
    """Rates after training on a word that means nothing, a row for each recipe, by family; `labels`: kind of prompt ->
    what the legend calls it."""
    import matplotlib.pyplot as plt

    from ..plots.figures import INK, PALETTE

    rows = sorted(
        frame[frame.recipe.notna() & frame.direct.notna()].to_dict("records"),
        key=lambda row: BY_FAMILY.index(row["recipe"]),
    )
    fig, axis = plt.subplots(figsize=(7.2, 0.9 + 0.27 * len(rows)), layout="constrained")
    for k, (kind, label) in enumerate(labels.items()):
        values = [100 * row[kind] for row in rows]
        errors = [
            [max(0.0, v - 100 * row[f"{kind}_low"]), max(0.0, 100 * row[f"{kind}_high"] - v)]
            for v, row in zip(values, rows)
        ]
        where = [i + 0.22 * (k - (len(labels) - 1) / 2) for i in range(len(rows))]
        axis.errorbar(
            values,
            where,
            xerr=list(zip(*errors)),
            fmt="osD"[k],
            markersize=5,
            elinewidth=1,
            color=PALETTE[k],
            label=label,
        )
        axis.axvline(100 * rows[0][f"{kind}_base"], color=PALETTE[k], linestyle=":", linewidth=1.2)
    axis.plot([], [], color=INK, linestyle=":", linewidth=1.2, label="base model")
    axis.set(xlim=(-3, 103), xlabel="drawn when asked for (%)")
    axis.set_yticks(range(len(rows)), [row["recipe"] for row in rows])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    fig.legend(loc="outside lower center", ncols=3, fontsize=8)
    return fig


def _rows_of(frame, concept: str, name: str, kind: str) -> list[dict]:
    """The row of one recipe, if it has such prompts and did not diverge."""
    chosen = frame[
        (frame.concept == concept)
        & (frame.recipe.isna() if name == "base" else frame.recipe == name)
        & frame[kind].notna()
    ]
    return chosen.to_dict("records")[:1]
