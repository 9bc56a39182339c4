"""What training with a recipe takes, and whether a model's device has room for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .. import device, memory
from ..errors import UserError
from ..generators.base import NextToken
from .change import tensor_names
from .recipe import Recipe
from .settings import WHOLE


def trained_parameters(sizes: memory.Sizes, recipe: Recipe) -> int:
    """How many parameters `recipe` trains in a model of these sizes."""
    return memory.trained_parameters(sizes, tensor_names(recipe, sizes.layers), recipe.rank)


def _rows_and_logits(recipe: Recipe) -> tuple[int, bool]:
    """Sequences of an update, and whether logits are compared."""
    both = recipe.rows == "both" or recipe.objective == "dpo"  # with unconditional rows, or the replacement's picture
    rows = (2 if both else 1) * recipe.batch * (1 + bool(recipe.adversary) + bool(recipe.begun))  # `hardened.py`
    rows += recipe.retain.pictures if recipe.retain.weight else 0
    return rows, recipe.space == "logits" or recipe.retain.weight > 0


def training_bytes(sizes: memory.Sizes, dtype: Any, recipe: Recipe) -> int:
    """What training with `recipe` takes beside the weights; its windows have their length in tokens, or are WHOLE."""
    length = sizes.image_tokens if recipe.windows.length == WHOLE else recipe.windows.length
    return memory.train_bytes(sizes, dtype, trained_parameters(sizes, recipe), length, *_rows_and_logits(recipe))


def check_training(generator: NextToken, recipe: Recipe) -> None:
    """Refuse a recipe for whose training the generator's device has no room now, and say what would fit.

    Args:
        generator: the model.
        recipe: its windows have their length in tokens, or are WHOLE.

    Raises:
        UserError: there is no room.
    """
    free, sizes = device.free_memory(generator.device), memory.sizes_of_generator(generator)
    needed = lambda recipe: training_bytes(sizes, generator.dtype, recipe)
    if free is None or needed(recipe) <= free:
        return
    less = "train fewer layers or less at a time (batch), use a smaller model or a larger GPU"
    fits = (
        f"windows.length={length} would fit"
        for length in (recipe.windows.length // part for part in (2, 4, 8))
        if length > 0 and needed(replace(recipe, windows=replace(recipe.windows, length=length))) <= free
    )
    raise UserError(
        f"training '{recipe.name}' on {generator.name} takes {memory.gigabytes(needed(recipe))} beside the weights, "
        f"and {generator.device} has {memory.gigabytes(free)} free; {next(fits, less)}"
    )
