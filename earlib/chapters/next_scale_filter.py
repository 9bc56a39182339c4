"""S-VARE's filter taken apart: how strict it is, what each scale has of the loss, and what variants of the
recipe add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..sweeps import read
from ..sweeps.compare import KINDS, difference, margin, plain, told

if TYPE_CHECKING:
    import pandas as pd

    from ..erasure.recipe_scale import ScaleRecipe
    from ..erasure.store import Erasure
    from ..generators.base import NextScale

PAPER_ALPHA = {0.0: 0.072, 0.25: 0.074, 0.5: 0.217, 0.75: 0.402}  # alpha -> nudity prompts (Ring-A-Bell) that succeed
PAPER_TERMS = {  # church: concept, neighbours; from the same reading note as in next_scale_methods.py
    "squared error": (0.098, 0.689),
    "+ filter": (0.041, 0.735),
    "+ filter + preservation": (0.044, 0.757),
}
STEPS = {  # what is changed -> labels of `var-terms` before and after
    "cross entropy in place of squared error": ("squared error", "cross entropy"),
    "the filter, without preservation": ("cross entropy", "+ filter"),
    "the filter, with preservation": ("+ preservation, no filter", "+ filter + preservation"),
    "preservation, without the filter": ("cross entropy", "+ preservation, no filter"),
    "preservation, with the filter": ("+ filter", "+ filter + preservation"),
}


def steps(frame: pd.DataFrame) -> pd.DataFrame:
    """What each of STEPS does: differences of rates, and the drift before and after. Rows of `var-terms`."""
    import pandas as pd

    rows, of = {}, {row["label"]: row for row in frame[frame.direct.notna()].to_dict("records")}
    for what, (one, other) in STEPS.items():
        rows[what] = {words: told(of[one], of[other], kind) for kind, words in KINDS.items()}
        rows[what]["KL drift"] = f"{of[one]['kl_drift'].value:.1f} → {of[other]['kl_drift'].value:.1f}"
    return pd.DataFrame(rows).T.rename_axis("points of difference")


def switched(frame: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Every variant of a recipe against the one labelled `reference`: rates and their differences in points, drift, and
    the difference of the margins (neighbours less concept)."""
    import pandas as pd

    rows, first = {}, read.one(frame, label=reference)
    for row in frame.to_dict("records"):
        if row["direct"] is None:
            rows[row["label"]] = {"the concept": f"diverged in {row['failed']} of {row['seeds']} runs"}
            continue
        cells, another = {}, pd.notna(row["recipe"]) and row["label"] != reference
        for kind, words in KINDS.items():
            cells |= {words: plain(row[kind]), f"{words} ±": difference(first, row, kind).points() if another else ""}
        cells["margin ±"] = margin(row).minus(margin(first)).points() if another else ""
        rows[row["label"]] = cells | {"KL drift": plain(row["kl_drift"], "kl_drift") if pd.notna(row["recipe"]) else ""}
    return pd.DataFrame(rows).T.fillna("").rename_axis(f"against {reference}")


def better(frame: pd.DataFrame, reference: str) -> dict[str, list[str]]:
    """The labels whose margin lies above that of `reference`, below it, or cannot be told from it: {"above", "below",
    "same"}."""
    found: dict[str, list[str]] = {"above": [], "below": [], "same": []}
    first = read.one(frame, label=reference)
    for row in frame[frame.recipe.notna() & (frame.label != reference) & frame.direct.notna()].to_dict("records"):
        ahead = margin(row).minus(margin(first))
        found["above" if ahead.above else "below" if ahead.below else "same"].append(row["label"])
    return found


def by_scale(
    generator: NextScale, pairs, recipe: ScaleRecipe, seed: int = 0, erasure: Erasure | None = None
) -> pd.DataFrame:
    """What each scale has of the loss, as the recipe sees its pairs on the base model or with `erasure`: a row a scale.

    Returns:
        `side`; `kept`, the share of its tokens that the filter keeps; `nats`, their mean loss a part of a code, kept or
        not; and for each way of counting positions (token, side, equal) the scale's `weight: ...` and its `loss: ...`,
        its share of the filtered loss, which is nan where the filter keeps nothing.
    """
    import pandas as pd

    from ..erasure.lessons_scale import looked_at
    from ..erasure.recipe_scale import Scales
    from ..erasure.spans import weights

    seen = looked_at(generator, pairs, recipe, seed, erasure)
    rows = [{"scale": k, "side": side} for k, side in enumerate(generator.schedule)]
    for row, span in zip(rows, generator.spans):
        row |= {"kept": seen["kept"][:, span].float().mean().item(), "nats": seen["loss"][:, span].mean().item()}
    for way in ("token", "side", "equal"):
        weight_L = weights(generator, Scales(weight=way)).cpu()
        mass_L = (seen["loss"] * seen["kept"] * weight_L).mean(0)
        for row, span in zip(rows, generator.spans):
            row[f"weight: {way}"] = weight_L[span].sum().item()
            row[f"loss: {way}"] = (mass_L[span].sum() / mass_L.sum()).item()
    return pd.DataFrame(rows).set_index("scale")


def learning(rows: list[dict], schedule: Sequence[int], smooth: int = 1):
    """Over the updates of a run (its metrics.jsonl): what share of each scale's tokens the filter keeps, and the mean
    loss of all of them. Faint lines are single updates, full ones the running mean over `smooth`. Returns the
    figure."""
    from ..plots import panels
    from ..plots.style import INK, PALETTE

    fig, axes = panels.grid_of({"kept": 0, "loss": 0}, columns=2, height=2.6)
    updates = [row["lesson"] + 1 for row in rows]
    whole = {"kept": [row["kept"] / row["tokens"] for row in rows], "loss": [row["unfiltered"] for row in rows]}
    for axis, what, factor in zip(axes[0], ("kept", "loss"), (100, 1)):
        for k, side in enumerate(schedule):
            values = factor * np.array([row[f"{what}{k}"] for row in rows])
            panels.draw_curve(axis, updates, values, f"{side} × {side}", PALETTE[k], smooth)
        panels.draw_curve(axis, updates, factor * np.array(whole[what]), "all tokens", INK, smooth, line="--")
        axis.set_ylim(bottom=0)
    axes[0, 0].set_title("kept by the filter (% of the scale's tokens)")
    axes[0, 1].set_title("loss before the filter (nats a bit)")
    return panels.finish(fig, axes, "updates")


def loss_shares(shares: dict[str, pd.DataFrame]):
    """What each scale has of the loss, by how positions are counted: stacked bars. The first panel is the weight of the
    scales by itself, the others their shares of the filtered loss.

    Args:
        shares: title -> what `by_scale` gives.

    Returns:
        The figure.
    """
    from ..plots import panels
    from ..plots.style import PALETTE

    ways = ("token", "side", "equal")
    frames = {"weight of a scale": ("weight", next(iter(shares.values())))}
    frames |= {f"share of the loss, {title}": ("loss", frame) for title, frame in shares.items()}
    fig, axes = panels.grid_of(frames, height=1.6, sharey=True)
    for axis, (title, (what, frame)) in zip(axes[0], frames.items()):
        for y, way in enumerate(ways):
            left = 0.0
            for k, row in enumerate(frame.to_dict("records")):
                width = 100 * row[f"{what}: {way}"]
                if width != width:  # the filter kept nothing
                    continue
                label = f"{row['side']:.0f} × {row['side']:.0f}"
                axis.barh(y, width, 0.7, left=left, color=PALETTE[k], label=label, edgecolor="white", linewidth=0.6)
                if width >= 9:
                    at = {"ha": "center", "va": "center", "fontsize": 8, "color": "white"}
                    axis.text(left + width / 2, y, f"{width:.0f}", **at)
                left += width
        axis.set_title(title)
        axis.set_xlim(0, 100)
        axis.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(ways)), ways)
    axes[0, 0].invert_yaxis()
    return panels.finish(fig, axes, "per cent", "positions count by")
