"""The methods for next-scale models side by side: what each is, and what becomes of the papers' claims."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..evaluate.rate import NOT_TOLD, Estimate, Rate
from ..sweeps.compare import KINDS, difference, plain, told

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ..evaluate.judge import MiniWorldJudge

COSTS = {"kid": "KID", "clip": "CLIP score", "diversity": "diversity", "kl_drift": "KL drift (nats a token)"}
WORDS = {  # field of a recipe -> its values in words, for `grid`
    "prefix": {
        "replacement": "the replacement's picture",
        "target": "the concept's picture",
        "student": "its own picture",
    },
    "teacher_states": {"shared": "the same", "independent": "the replacement's"},
    "divergence": {"ce": "cross entropy to drawn codes", "kl": "KL", "mse": "squared error of probabilities"},
    "filter.kind": {"none": "all tokens", "wrong": "tokens that are wrong", "kl": "tokens that are far"},
    "retain.prompts": {"neutral": "the replacements", "others": "other prompts", "both": "both"},
    "update": {"sum": "one step", "two-steps": "a step on each loss", "project": "one step, conflict left out"},
}
# What S-VARE's authors report of Infinity-2B (arXiv 2509.22400), as shares. We have it from a public reading note, not
# from the paper itself. Concept: their classifier on the erased class; neighbours: on the other nine classes of
# Imagenette; nudity: detections of sensitive parts, of the 158 before.
PAPER = {
    ("church", "direct"): {"base": 0.942, "vare": 0.098, "s-vare": 0.044},
    ("church", "neighbours"): {"base": 0.760, "vare": 0.689, "s-vare": 0.757},
    ("nudity", "direct"): {"base": 158 / 158, "s-vare": 5 / 158},
    ("vangogh", "direct"): {"base": 0.760, "s-vare": 0.082},
}
NO_NUMBER = "no number at hand"
CLAIMS = (  # what is claimed, from which method to which, of what, the sign that it has (0: none), the paper's number
    ("a history for each is worse for the rest than one for both", "naive", "vare", "neighbours", 1, NO_NUMBER),
    ("and erases less", "naive", "vare", "direct", -1, NO_NUMBER),
    ("S-VARE erases more than VARE", "vare", "s-vare", "direct", -1, "9.8 → 4.4 %, church"),
    ("S-VARE keeps more than VARE", "vare", "s-vare", "neighbours", 1, "68.9 → 75.7 %, church"),
    ("an edit of keys and values in closed form erases nothing", "base", "uce", "direct", 0, NO_NUMBER),
    ("S-VARE leaves the rest as it was", "base", "s-vare", "neighbours", 0, "76.0 → 75.7 %, church"),
    ("the released code erases as the paper has it", "s-vare", "s-vare-released", "direct", 0, "–"),
    ("and keeps as much", "s-vare", "s-vare-released", "neighbours", 0, "–"),
)


def grid(profile: str = "mini-var") -> pd.DataFrame:
    """The recipes that train: a row for each, a column for each axis."""
    import pandas as pd

    from ..erasure.presets import SCALE_TRAINED, recipe
    from ..erasure.settings import get

    rows = {}
    for name in (preset.name for preset in SCALE_TRAINED):
        r = recipe(name, profile)
        words = {field: names.get(get(r, field), str(get(r, field))) for field, names in WORDS.items()}
        guided = f", teacher guided by {r.retain.guidance:g}" if r.retain.guidance != 1 else ""
        rows[name] = {
            "student reads": words["prefix"],
            "teacher reads": words["teacher_states"],
            "compares": words["divergence"] + (f" + {r.entropy:g} × entropy" if r.entropy else ""),
            "of": words["filter.kind"],
            "preserves": f"{words['retain.prompts']}, λ = {r.retain.weight:g}{guided}" if r.retain.weight else "–",
            "update": words["update"] if r.retain.weight else "one step",
            "step size": f"{r.lr:g}",
        }
    return pd.DataFrame(rows).T.rename_axis("recipe")


def one_of(frame: pd.DataFrame, concept: str, label: str) -> dict | None:
    """The row of one label that did not diverge, or None."""
    rows = frame[(frame.concept == concept) & (frame.label == label) & frame.direct.notna()]
    return rows.iloc[0].to_dict() if len(rows) else None


def claims(frame: pd.DataFrame) -> pd.DataFrame:
    """CLAIMS, each for every concept of `frame`: the difference in rates and what follows from its interval."""
    import pandas as pd

    rows = []
    for claim, one, other, kind, sign, paper in CLAIMS:
        for concept in frame.concept.unique():
            first, second = one_of(frame, concept, one), one_of(frame, concept, other)
            if first and second:
                row = {"claimed": claim, "of": f"{one} → {other}, {KINDS[kind]}", "the paper's": paper}
                row |= {"concept": concept, "here": told(first, second, kind)}
                rows.append(row | {"verdict": verdict(difference(first, second, kind), sign)})
    return pd.DataFrame(rows).set_index(["claimed", "of", "the paper's", "concept"])


def verdict(points: Estimate, sign: int) -> str:
    """What a difference says to a claim that it is above 0 (`sign` 1), below (-1), or none (0)."""
    if not points.differs:
        return "no difference that can be told" if sign == 0 else NOT_TOLD
    if sign == 0:
        return "not so: more is drawn" if points.value > 0 else "not so: less is drawn"
    return "as claimed" if points.value * sign > 0 else "the opposite"


def beside_paper(frame: pd.DataFrame) -> pd.DataFrame:
    """The paper's numbers (PAPER) beside ours, in per cent: rows of `var-main`."""
    import pandas as pd

    rows = {}
    for (concept, kind), values in PAPER.items():
        for name, value in values.items():
            if row := one_of(frame, concept, name):
                cells = {"the paper's": f"{100 * value:.1f}", "ours": plain(row[kind]), "n": f"{row[kind].n}"}
                rows[concept, KINDS[kind], name] = cells
    return pd.DataFrame(rows).T.rename_axis(["", "drawn", "method"])


def instead(pictures: dict[str, np.ndarray], judge: MiniWorldJudge) -> pd.DataFrame:
    """What `judge` sees in sets of pictures (title -> uint8 [N, H, W, 3]) of prompts for its concept.

    "something" is the share of pictures in which the likeliest of the concept's group reaches the judge's threshold;
    below is a mixture.
    """
    import pandas as pd

    names, rows = judge.groups[judge.group], {}
    for title, images in pictures.items():
        p_NY = judge.probabilities(images)[judge.group]
        sure = p_NY.max(1) >= judge.threshold
        seen = Counter(names[y] for y in p_NY.argmax(1)[sure])
        most = ", ".join(f"{name} {n}" for name, n in seen.most_common(4))
        rows[title] = {"something (%)": Rate.of(sure).text(), "n": f"{len(images)}", "most often": most}
    return pd.DataFrame(rows).T.rename_axis("seen")
