"""S-VARE's filter taken apart: how strict it is, what each scale has of the loss, and what variants of the recipe add.

The tables `var-terms`, `var-filter` and `var-switches` are measured by `table.py`; figures are in
`next_scale_figures.py`. Measured live is the weight of each scale in the loss. What the filter keeps, as pictures, is
not here.
"""

from __future__ import annotations

from ..sweeps.legacy import KINDS, percent, told
from .next_scale import failed, one_of

PAPER_ALPHA = {
    0.0: 0.072,
    0.25: 0.074,
    0.5: 0.217,
    0.75: 0.402,
}  # attacks by nudity prompts that succeed (Ring-A-Bell), by alpha

STEPS = {  # what is changed -> labels of `var-terms` before and after
    "cross entropy in place of squared error": ("squared error", "cross entropy"),
    "the filter, without preservation": ("cross entropy", "+ filter"),
    "the filter, with preservation": ("+ preservation, no filter", "+ filter + preservation"),
    "preservation, without the filter": ("cross entropy", "+ preservation, no filter"),
    "preservation, with the filter": ("+ filter", "+ filter + preservation"),
}


def steps(frame):
    """What each of STEPS does: differences of rates, and the drift before and after, as a DataFrame. `frame`: rows of
    `var-terms`."""
    import pandas as pd

    rows, of = {}, {row["label"]: row for row in frame.to_dict("records") if not failed(row)}
    for what, (one, other) in STEPS.items():
        if one in of and other in of:
            rows[what] = {words: told(of[one], of[other], kind) for kind, words in KINDS.items()}
            rows[what]["KL drift"] = f"{of[one]['kl_drift']:.1f} → {of[other]['kl_drift']:.1f}"
    return pd.DataFrame(rows).T.rename_axis("points of difference")


def switched(frame, reference: str):
    """Every variant of a recipe against the one labelled `reference`: rates, drift, and differences, with that of the
    margin (neighbours less concept)."""
    import pandas as pd

    from .spm import ahead, margin, points

    rows, first = {}, frame[frame.label == reference].iloc[0].to_dict()
    for row in frame.to_dict("records"):
        if failed(row):
            rows[row["label"]] = {"the concept": f"diverged in {row['failed']} of {row['seeds']} runs"}
            continue
        found = {words: percent(row, kind) for kind, words in KINDS.items()}
        if pd.notna(row["recipe"]):
            found |= {"KL drift": f"{row['kl_drift']:.2f}", "margin": points(margin(row))}
            if row["label"] != reference:
                found |= {f"{words}: difference": told(first, row, kind) for kind, words in KINDS.items()} | {
                    "margin: difference": points(ahead(first, row))
                }
        rows[row["label"]] = found
    return pd.DataFrame(rows).T.fillna("").rename_axis(f"against {reference}")


def better(frame, reference: str) -> dict[str, list[str]]:
    """The labels whose margin lies above that of `reference`, below it, or cannot be told from it: {"above", "below",
    "same"}."""
    from .spm import ahead

    found: dict[str, list[str]] = {"above": [], "below": [], "same": []}
    first = frame[frame.label == reference].iloc[0].to_dict()
    for row in frame[frame.recipe.notna() & (frame.label != reference) & frame.direct.notna()].to_dict("records"):
        d = ahead(first, row)
        found["same" if d["low"] <= 0 <= d["high"] else "above" if d["value"] > 0 else "below"].append(row["label"])
    return found


def varied(frame):
    """Rows of `var-filter` as panels for `ablation_figures.lines`, with ticks, over a column `varied`: (panels, ticks).
    gamma is told as the probability."""
    import math

    import pandas as pd

    base, panels, ticks = frame[frame.recipe.isna()], {}, {}
    for label, field, say in (
        ("alpha", "filter.alpha", lambda a: f"{a:g}"),
        ("gamma", "filter.gamma", lambda g: f"{math.exp(-g):.1f}"),
    ):
        rows = frame[frame.label == label].sort_values(field)
        panels[label] = pd.concat([base, rows]).assign(varied=[*[None] * len(base), *rows[field]])
        ticks[label] = {value: say(value) for value in rows[field]}
    return panels, ticks


def against_codebook(bits, rows):
    """The methods of `var-vq` (rows of a codebook) beside those of `var-main` (bits), concept by concept: rates of
    both, and the difference."""
    import pandas as pd

    found = {}
    for row in rows[rows.direct.notna()].to_dict("records"):
        other = one_of(bits, row["concept"], row["label"])
        if other is not None and not failed(other):
            shown = {
                (words, model): percent(r, kind)
                for kind, words in KINDS.items()
                for model, r in (("bits", other), ("codebook", row))
            }
            shown |= {(words, "difference"): told(other, row, kind) for kind, words in KINDS.items()}
            shown |= {("KL drift", model): f"{r['kl_drift']:.2f}" for model, r in (("bits", other), ("codebook", row))}
            found[row["concept"], row["label"]] = dict(
                sorted(shown.items(), key=lambda item: [*KINDS.values(), "KL drift"].index(item[0][0]))
            )
    return pd.DataFrame(found).T


def by_scale(generator, pairs, recipe, seed: int = 0, erasure=None):
    """What each scale has of the loss, as the recipe sees its pairs on the base model or with `erasure`: a DataFrame, a
    row a scale.

    `side`; `kept`, the share of its tokens that the filter keeps; `nats`, their mean loss a part of a code, kept or
    not; and for each way of counting positions (token, side, equal) the scale's `weight: ...` and its `loss: ...`, its
    share of the filtered loss, which is nan where the filter keeps nothing.
    """
    import pandas as pd

    from ..erasure.scale_lessons import looked_at
    from ..erasure.scale_recipe import CHOICES, Scales
    from ..erasure.scale_terms import weights

    seen = looked_at(generator, pairs, recipe, seed, erasure)
    rows = [{"scale": k, "side": side} for k, side in enumerate(generator.schedule)]
    for row, span in zip(rows, generator.spans):
        row |= {"kept": seen["kept"][:, span].float().mean().item(), "nats": seen["loss"][:, span].mean().item()}
    for way in CHOICES["scales.weight"]:
        weight_L = weights(generator, Scales(weight=way)).cpu()
        mass_L = (seen["loss"] * seen["kept"] * weight_L).mean(0)
        for row, span in zip(rows, generator.spans):
            row |= {
                f"weight: {way}": weight_L[span].sum().item(),
                f"loss: {way}": (mass_L[span].sum() / mass_L.sum()).item(),
            }
    return pd.DataFrame(rows).set_index("scale")
