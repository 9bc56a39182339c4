"""What training with a recipe takes, and whether a model's device has room for it."""

from __future__ import annotations

from .. import memory
from ..generators.base import NextToken
from .change import tensor_names
from .recipe import Recipe


def trained_parameters(sizes: memory.Sizes, recipe: Recipe) -> int:
    """How many parameters `recipe` trains in a model of these sizes."""
    return memory.trained_parameters(sizes, tensor_names(recipe, sizes.layers), recipe.rank)


def _rows_and_logits(recipe: Recipe) -> tuple[int, bool]:
    """Sequences of an update, and whether logits are compared."""
    both = recipe.rows == "both" or recipe.objective == "dpo"  # with unconditional rows, or the replacement's picture
    rows = (2 if both else 1) * recipe.batch * (1 + bool(recipe.adversary) + bool(recipe.begun))  # `hardened.py`
    rows += recipe.retain.pictures if recipe.retain.weight else 0
    return rows, recipe.space == "logits" or recipe.retain.weight > 0


def training_bytes(sizes: memory.Sizes, dtype: str, recipe: Recipe) -> int:
    """What training with `recipe` takes beside the weights; its windows have their length in tokens, or are whole
    pictures (-1)."""
    length = sizes.image_tokens if recipe.windows.length < 0 else recipe.windows.length
    return memory.train_bytes(sizes, dtype, trained_parameters(sizes, recipe), length, *_rows_and_logits(recipe))


def check_training(generator: NextToken, recipe: Recipe) -> None:
    """Refuse a recipe for whose training the generator's device has no room now.

    Args:
        generator: the model.
        recipe: its windows have their length in tokens, or are whole pictures (-1).

    Raises:
        UserError: with what would fit.
    """
    trained = trained_parameters(memory.sizes_of_generator(generator), recipe)
    memory.check_training(generator, recipe.name, trained, recipe.windows.length, *_rows_and_logits(recipe))
