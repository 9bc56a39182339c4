"""The grid in which methods are points: which choice on each axis each recipe makes."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..erasure.settings import PAPER, WHOLE

if TYPE_CHECKING:
    import pandas as pd

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
    "learning rate": ("lr",),
}
WORDS = {  # how values are told
    ("rank", 0): "whole matrices",
    ("windows.length", WHOLE): "picture",
    ("windows.length", PAPER): "the paper's",
    ("retain.weight", 0.0): "–",
    ("positions", "all"): "every position",
    ("positions", "words"): "the prompt's words",
}


def grid(names: Collection[str], profile: str = "mini") -> pd.DataFrame:
    """Those of the recipes `names` that train, at the sizes of `profile`, in words: a row each, a column an axis."""
    import pandas as pd

    from ..erasure.presets import TRAINED, recipe
    from ..erasure.settings import get

    def told(r, name):
        value = get(r, name)
        if name == "layers":
            return "all layers" if tuple(value) == (0.0, 1.0) else f"layers {value[0]:.2g}–{value[1]:.2g} of the depth"
        if name == "rank" and value:
            return f"adapters of rank {value}"
        return WORDS.get((name, value), str(value))

    rows = {}
    for preset in (preset for preset in TRAINED if preset.name in names):
        r = recipe(preset.name, profile)
        rows[r.name] = {axis: ", ".join(dict.fromkeys(told(r, name) for name in names)) for axis, names in AXES.items()}
    return pd.DataFrame(rows).T.rename_axis("recipe")
