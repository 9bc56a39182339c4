"""Erasing concepts: `erase` makes an `Erasure` from a generator, a concept and a recipe.

recipe, recipe_scale, presets, settings     methods as points in a grid of choices, and the named ones
train                                       the loop of all methods that train
lesson                                      what the loop asks of every lesson
lessons, matching, inside, single_token     what next-token students learn; lessons_scale, spans: next-scale ones
objective, gates, retain                    losses, what is worth learning from, preservation
trajectories, checkpoint                    the teacher's pictures; going on after a kill
closed_form, steering                       methods that are solved for, or guide
change, store, compose, files               the change of a model, switched on, kept, added to others
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .naming import concept_words, retain_prompts

if TYPE_CHECKING:
    from ..concepts import Concept
    from ..generators.base import Generator
    from .recipe import Recipe
    from .settings import AnyRecipe
    from .store import Erasure

__all__ = ["concept_words", "erase", "retain_prompts", "window_length"]


def erase(
    generator: Generator,
    concept: Concept | str,
    recipe: AnyRecipe | str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Erasure:
    """Erase a concept; the generator is unchanged.

    Args:
        generator: of either family.
        concept: a Concept, or its name.
        recipe: a recipe, or the name of one; None for "ear", or "s-vare" of a next-scale model.
        seed: of the training.
        out: a run folder (config, metrics, checkpoints and the erasure itself), where the same call goes on after a
            kill. Without it nothing is written but the trajectories' cache.
        resume: go on with what is in `out`.
        progress: show a bar with the time left.

    Raises:
        UserError: a concept without pairs, a recipe of the other family, no room on the device, a loss that diverged.
    """
    from ..concepts import load_concept
    from ..generators.base import NextScale, NextToken
    from . import presets
    from .recipe import Recipe
    from .recipe_scale import ScaleRecipe
    from .settings import AnyRecipe
    from .store import Erasure
    from .training_free import without_training

    concept = load_concept(concept, generator.profile) if isinstance(concept, str) else concept
    if not isinstance(recipe, AnyRecipe):
        recipe = presets.recipe(recipe, generator)
    recipe = recipe.check()
    if recipe.by_scales != isinstance(generator, NextScale):
        own = ", ".join(presets.names(generator))
        raise UserError(
            f"recipe '{recipe.name}' is for the other family of models; recipes for {generator.name}: {own}"
        )
    if not concept.pairs:
        raise UserError(f"concept '{concept.name}' has no prompt pairs to train on")
    recipe = recipe.named(concept)
    if isinstance(recipe, Recipe) and isinstance(generator, NextToken):
        from .room import check_training

        recipe = presets.with_settings(recipe, {"windows.length": window_length(recipe, concept, generator)})
        check_training(generator, recipe)
    if isinstance(recipe, ScaleRecipe) and isinstance(generator, NextScale):
        from .spans import learning_span

        learning_span(generator, recipe.scales)  # a wrong one is said before a folder is begun
    run = None
    if out is not None:
        from ..runs import Run

        # a file that was edited is another concept
        pairs = hashlib.sha256(repr(concept.pairs).encode()).hexdigest()[:16]
        config = {"concept": concept.name, "pairs": pairs, "recipe": recipe.as_dict(), "seed": seed}
        run = Run(Path(out), config | {"model": generator.name, "fingerprint": generator.fingerprint}, resume)
        if run.state == "done":
            return Erasure.load(run.folder, generator)
        run.status("running")
    retain = retain_prompts(concept, generator.profile) if recipe.reads_others else []
    if isinstance(recipe, Recipe | ScaleRecipe):
        from .train import train

        tensors, info = train(generator, concept.pairs, recipe, seed, run, progress, retain=retain)
    else:
        tensors, info = without_training(generator, concept.pairs, recipe, progress, retain)
    erasure = Erasure(recipe.name, recipe.as_dict(), concept.name, generator.fingerprint, tensors, info, seed)
    if run:
        erasure.save(run.folder)
        run.status("done", seconds=info["seconds"])
    return erasure


def window_length(recipe: Recipe, concept: Concept, generator: Any) -> int:
    """Tokens in a window of a recipe that trains a next-token model.

    Args:
        recipe: its windows.length is a number of tokens, or one of the names in `settings.WORDS`; the paper's length
            is taken in proportion to the grid (48 of 576 is 12 of 144), and the grid is square.
        concept: what is erased.
        generator: whatever has `num_codes`; the model itself, where a rule is to predict.

    Returns:
        A number of tokens, or WHOLE.

    Raises:
        UserError: the concept has none of its own, or a picture has fewer tokens.
    """
    from .settings import PAPER, ROW, RULES

    total, length = generator.num_codes, recipe.windows.length
    if length == ROW:
        return math.isqrt(total)
    if rule := {number: name for name, number in RULES.items()}.get(length):
        from .windows import signals

        return signals(generator, concept.pairs, recipe).window(rule)
    if length == PAPER:
        paper = concept.paper.get("window")
        if not paper:
            line = f"concept '{concept.name}' does not say how long its windows are; set windows.length=N"
            raise UserError(f"{line}, at most {total} tokens")
        length = max(1, round(paper * total / concept.paper.get("image_tokens", 576)))
    if length > total:
        raise UserError(f"windows.length={length} is longer than a picture of {total} tokens")
    return length
