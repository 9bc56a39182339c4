"""The audit's page: the table of what the released code of EAR does, what the paper says and what was measured here,
and the figures.

The measurements are in `audit.py`, the table's text in book/audit.yml: it names the numbers that it needs, and a
`book.ledger.Ledger` fills them in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import ROOT
from ..plots.figures import AFTER, INK, PALETTE, QUIET

READ = "Read in the code; nothing to show on mini."


class _Words(dict):
    def __missing__(self, name):
        return "*(not measured in this run)*"


def table(words: dict[str, str], file: Path = ROOT / "book" / "audit.yml") -> str:
    """The items of `file` in Markdown, their numbers filled in from `words` (`Ledger.words`)."""
    import yaml

    rows = ["| | The released code | The paper | Measured here | What follows |", "|---|---|---|---|---|"]
    for item in yaml.safe_load(file.read_text(encoding="utf-8")):
        measured = item.get("measured", READ).format_map(_Words(words))
        rows.append(
            "| " + " | ".join((f"**{item['item']}**", item["code"], item["paper"], measured, item["follows"])) + " |"
        )
    return "\n".join(rows)


# ---------------------------------------------------------------- figures


def reach_lines(reach: dict[str, np.ndarray]):
    """What the prompt changes, token by token (`audit.reach`): mean over pictures, drawing and released loop. Returns
    the figure and its rows."""
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(6.8, 3.1))
    rows = []
    ways = {
        "full": ("prompt and all earlier tokens (drawing)", PALETTE[0], "-"),
        "released": ("one earlier token (released loop)", AFTER, "--"),
    }
    for key, (label, colour, style) in ways.items():
        mean_T = reach[key].mean(0)
        axis.plot(mean_T, color=colour, linestyle=style, label=label, linewidth=1.6)
        rows += [{"reads": key, "token": t, "nats": float(v)} for t, v in enumerate(mean_T)]
    first = reach["released"].mean(0)[0]
    axis.plot(0, first, "o", color=AFTER, clip_on=False)
    axis.annotate(
        "its first step reads the prompt",
        (0, first),
        xytext=(8, 6),
        textcoords="offset points",
        fontsize=8.5,
        color=INK,
    )
    axis.set_yscale("symlog", linthresh=0.01)
    axis.set(xlabel="image token", ylabel="KL, nats", ylim=(-0.0012, 3 * max(first, reach["full"].mean(0).max())))
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handlelength=2.4)
    return fig, rows


def gradient_bars(studies: dict[str, list[dict]]):
    """Norms of gradients by matrix (`audit.step_study`, by run): first window of a picture and later ones, on a
    logarithmic scale. Returns the figure."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        1, len(studies), figsize=(2.9 * len(studies) + 0.6, 3.0), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (title, rows) in zip(axes[0], studies.items()):
        for offset, key, label, colour in (
            (-0.19, "first", "first window of a picture", PALETTE[0]),
            (0.19, "later", "later windows", AFTER),
        ):
            axis.bar(
                [i + offset for i in range(len(rows))],
                [max(r[key], 1e-12) for r in rows],
                width=0.36,
                color=colour,
                label=label,
            )
        axis.set_xticks(
            range(len(rows)), [{"q": "queries", "k": "keys", "v": "values", "o": "output"}[r["part"][0]] for r in rows]
        )
        axis.set(yscale="log", ylim=(1e-8, 1e3), title=title)
        axis.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("norm of the gradient")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, handlelength=1)
    return fig


def loss_steps(losses: dict[str, np.ndarray], threshold: float):
    """Share of windows whose summed loss is below x, a line for each recipe, and the threshold. Returns the figure."""
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(6.8, 2.9))
    for (label, loss_N), colour in zip(losses.items(), PALETTE):
        x = np.sort(loss_N)
        axis.step([*x, x[-1]], [*np.arange(len(x)) / len(x) * 100, 100], color=colour, label=label, where="post")
    axis.axvline(threshold, color=INK, linestyle="--", linewidth=1.2)
    axis.annotate(
        f"threshold μ = {threshold:g}",
        (threshold, 50),
        xytext=(5, 0),
        textcoords="offset points",
        fontsize=9,
        color=INK,
    )
    least = min(float(loss_N[loss_N > 0].min()) for loss_N in losses.values())
    axis.set(
        xscale="log",
        xlim=(min(threshold, least) / 2, None),
        ylim=(-2, 102),
        xlabel="summed loss of a window",
        ylabel="windows below it (%)",
    )
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(losses), borderaxespad=0.2)
    return fig


def control_dots(pooled: list[dict], single: list[dict], base: list[dict], concept: str):
    """Rates after erasing, a row for each recipe and what it was trained on; dots with intervals are all seeds
    together, faint ones single seeds.

    Records of `audit.rates` with `trained_on`: pooled over seeds, of each seed, and pooled ones of the base model,
    which are the dotted lines.
    """
    import matplotlib.pyplot as plt

    shown = (
        ("concept_rate", f"{concept}, where asked for", AFTER, "o"),
        ("neighbour_rate", "neighbours", PALETTE[0], "s"),
        ("stray_rate", f"{concept}, unasked", QUIET, "D"),
    )
    keys = list(dict.fromkeys((r["recipe"], r["trained_on"]) for r in pooled))
    where, y = {}, 0.0
    for i, key in enumerate(keys):
        y += 0.6 if i and keys[i - 1][0] != key[0] else 0
        where[key], y = y, y + 1
    fig, axis = plt.subplots(figsize=(6.8, 0.9 + 0.4 * y))
    for (metric, label, colour, marker), offset in zip(shown, (-0.2, 0.0, 0.2)):
        axis.axvline(
            100 * next(r["value"] for r in base if r["metric"] == metric), color=colour, linestyle=":", linewidth=1.2
        )
        rows = [r for r in pooled if r["metric"] == metric]
        values = [100 * r["value"] for r in rows]
        errors = [
            [max(0.0, v - 100 * r["low"]) for v, r in zip(values, rows)],
            [max(0.0, 100 * r["high"] - v) for v, r in zip(values, rows)],
        ]
        at = [where[r["recipe"], r["trained_on"]] + offset for r in rows]
        axis.errorbar(
            values, at, xerr=errors, fmt=marker, color=colour, markersize=5, elinewidth=1, capsize=2, label=label
        )
        rows = [r for r in single if r["metric"] == metric]
        at = [where[r["recipe"], r["trained_on"]] + offset for r in rows]
        axis.plot([100 * r["value"] for r in rows], at, marker, color=colour, markersize=3, alpha=0.35)
    axis.set_yticks(list(where.values()), [f"{recipe}, trained on {name}" for recipe, name in where])
    axis.set(xlim=(-3, 103), ylim=(y - 0.4, -0.6), xlabel="pictures that show it, by the judge (%)")
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2, handletextpad=0.3)
    return fig


def score_dots(rows: list[dict]):
    """CLIP scores with both pairings, a row for each model: {"model", "pairing", "value", "low", "high"}. Returns the
    figure."""
    import matplotlib.pyplot as plt

    models = list(dict.fromkeys(r["model"] for r in rows))
    fig, axis = plt.subplots(figsize=(6.8, 0.9 + 0.38 * len(models)))
    ways = {
        "by key": ("each beside its prompt", "o", PALETTE[0], -0.1),
        "as released": ("as the released script pairs them", "s", AFTER, 0.1),
    }
    for pairing, (label, marker, colour, offset) in ways.items():
        mine = [r for r in rows if r["pairing"] == pairing]
        values = [r["value"] for r in mine]
        errors = [[v - r["low"] for v, r in zip(values, mine)], [r["high"] - v for v, r in zip(values, mine)]]
        axis.errorbar(
            values,
            [models.index(r["model"]) + offset for r in mine],
            xerr=errors,
            fmt=marker,
            color=colour,
            elinewidth=1,
            capsize=2,
            label=label,
        )
    axis.set_yticks(range(len(models)), models)
    axis.set(ylim=(len(models) - 0.5, -0.5), xlabel="CLIP score (cosine)")
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2, handletextpad=0.3)
    return fig
