"""The grid in which methods are points: which choice on each axis each recipe makes, and what the axes are."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ..erasure.recipe import Recipe
from ..erasure.settings import PAPER, WHOLE

if TYPE_CHECKING:
    import pandas as pd

AXES = {  # column of the grid -> (fields of a recipe, what it says)
    "reads": (("prefix",), "who drew the picture that is read along, and for a prompt of what"),
    "the teacher reads": (("teacher_states",), "the same picture, or pictures of its own for each prompt"),
    "a state has read": (("context",), "the prompt and all tokens before it, or one token alone"),
    "pulled to": (
        ("objective", "origin"),
        "what the student should come to match; where it says away, pushed on beyond it, away from the concept",
    ),
    "compared": (("space", "divergence"), "what is compared with what should be matched, and how"),
    "trains": (
        ("modules", "layers"),
        "which matrices (keys and values are parts of attention), of which decoder layers, counted from 0",
    ),
    "as": (("rank",), "the matrices themselves, or adapters: two thin matrices of so many columns beside each"),
    "acts at": (("positions",), "whether the change works at every token, or only at those of the prompt's words"),
    "one step for": (
        ("windows.length", "gate.kind", "batch"),
        "what stands behind one step of Adam; above μ: windows of less loss are skipped",
    ),
    "learning rate": (("lr",), "the size of Adam's step"),
    "retain": (("retain.weight",), "how much staying near the teacher on other prompts counts (λ); – is not at all"),
    "against attacks": (
        ("adversary", "begun"),
        "steps that an adversary takes before each update, to find words that bring the concept back; and the share of "
        "lessons that go on from a begun picture of it",
    ),
}
READS = {"target": "teacher: concept", "student": "student: concept", "replacement": "teacher: replacement"}
PULLED_TO: dict[Any, str] = {  # by objective, and where it has one by origin
    ("negated", "replacement"): "replacement, away from concept",
    ("negated", "null"): "no prompt, away from concept",
    "replacement": "replacement",
    "ascent": "its picture unlikely",
    "npo": "its picture unlikely, to a limit",
    "dpo": "the replacement's picture likelier",
    "random": "a random direction",
    "unattend": "no attention to its words",
}
COMPARED: dict[Any, str] = {  # by objective, else by space and divergence
    **dict.fromkeys(("ascent", "npo", "dpo"), "likelihoods"),
    "unattend": "attention, squared",
    ("hidden", "mse"): "states, squared error",
    ("logits", "mse"): "logits, squared error",
    ("logits", "kl"): "logits, KL",
    ("logits", "reverse-kl"): "logits, reverse KL",
    ("logits", "ce"): "logits, cross entropy",
}
MODULES = {
    "attention": "attention",
    "mlp": "MLPs",
    "both": "attention and MLPs",
    "kv": "keys and values",
    "no-kv": "all but keys and values",
    "down": "MLPs' last matrix",
}


def grid(names: Collection[str], depth: int, profile: str = "mini") -> pd.DataFrame:
    """Those of the recipes `names` that train, at the sizes of `profile`, in words: a row each, a column an axis.

    Args:
        names: of recipes; those that train nothing are left out.
        depth: the model's number of decoder layers.
        profile: whose sizes.
    """
    import pandas as pd

    from ..erasure.presets import TRAINED, recipe

    found = [recipe(preset.name, profile) for preset in TRAINED if preset.name in names]
    rows = {one.name: told(one, depth) for one in found if isinstance(one, Recipe)}
    return pd.DataFrame(rows).T.rename_axis("recipe")


def told(recipe: Recipe, depth: int) -> dict[str, str]:
    """The choices of one recipe in a model of `depth` layers, in words, by the headings of AXES."""
    from ..erasure.change import layer_range

    chosen = layer_range(recipe.layers, depth)
    span = f"{chosen[0]}–{chosen[-1]}" if len(chosen) > 1 else f"{chosen[0]}"
    layers = "all layers" if len(chosen) == depth else f"layer{'s' * (len(chosen) > 1)} {span} of {depth}"
    pictures = f"{recipe.batch} pictures" if recipe.batch > 1 else "a picture"
    length = {PAPER: "a window as in the paper", WHOLE: pictures}.get(recipe.windows.length)
    gate = {"window": ", above μ", "token": ", of its tokens above μ"}.get(recipe.gate.kind, "")
    pulled = PULLED_TO.get((recipe.objective, recipe.origin)) or PULLED_TO[recipe.objective]
    hardened = recipe.adversary or recipe.begun
    against = f"adversary of {recipe.adversary} steps; {100 * recipe.begun:.0f} % begun" if hardened else "–"
    cells = (
        READS[recipe.prefix],
        {"shared": "the same picture", "independent": "pictures of its own"}[recipe.teacher_states],
        {"full": "all before it", "single": "one token alone"}[recipe.context],
        pulled,
        COMPARED.get(recipe.objective) or COMPARED[recipe.space, recipe.divergence],
        f"{MODULES[recipe.modules]}; {layers}",
        f"adapters of rank {recipe.rank}" if recipe.rank else "whole matrices",
        {"all": "every token", "words": "the prompt's words"}[recipe.positions],
        (length or f"a window of {recipe.windows.length} tokens") + gate,
        f"{recipe.lr:g}",
        f"{recipe.retain.weight:g}" if recipe.retain.weight else "–",
        against,
    )
    return dict(zip(AXES, cells, strict=True))


def axes() -> pd.DataFrame:
    """What the columns of the grid mean: a row each, with the fields by which `--set` changes them."""
    import pandas as pd

    rows = {column: {"fields": ", ".join(fields), "says": says} for column, (fields, says) in AXES.items()}
    return pd.DataFrame(rows).T.rename_axis("column")
