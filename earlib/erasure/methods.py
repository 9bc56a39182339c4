"""Recipes and erasures of a model of either family: the right one is found by what the model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..concepts import Concept
    from ..generators.base import Generator
    from .recipe import Recipe
    from .scale_recipe import ScaleEdit, ScaleGuidance, ScaleRecipe
    from .store import Erasure
    from .training_free import TrainingFree

    AnyRecipe = Recipe | TrainingFree | ScaleRecipe | ScaleEdit | ScaleGuidance


def recipe(name: str | None = None, model: str | Path | Generator = "mini", **settings) -> AnyRecipe:
    """The preset called `name`, at the scale of a model.

    Args:
        name: names such as "uce" exist for both families; None for "ear", or "s-vare" of a next-scale model.
        model: a generator, or what `load_generator` takes.
        **settings: fields to change, such as `lr=1e-3` or `**{"windows.length": 12}`.

    Raises:
        UserError: no such recipe for this family, no such field, or a value of the wrong kind.
    """
    from . import presets, scale_methods

    if isinstance(model, (str, Path)):
        from ..generators.load import family_of

        by_scales, profile = family_of(model) == "next-scale", str(model)
    else:
        by_scales, profile = _by_scales(model), model.profile
    if by_scales:
        return scale_methods.recipe(name or "s-vare", profile, **settings)
    scale_methods.refuse(name or "ear")
    return presets.recipe(name or "ear", profile, **settings)


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
        out: a run folder, where the same call goes on after a kill. Without it nothing is written but the trajectories'
            cache.
        resume: go on with what is in `out`.
        progress: show a bar with the time left.
    """
    from . import erase as of_tokens
    from .scale_methods import erase as of_scales

    make, usual = (of_scales, "s-vare") if _by_scales(generator) else (of_tokens, "ear")
    return make(generator, concept, recipe or usual, seed, out, resume, progress)


def load_erasure(folder: str | Path, generator: Generator) -> Erasure:
    """The erasure kept in `folder`, made for `generator`; see `Erasure.load`."""
    from .scale_store import NextScaleErasure
    from .store import Erasure

    return (NextScaleErasure if _by_scales(generator) else Erasure).load(folder, generator)


def _by_scales(generator: Generator) -> bool:
    from ..generators.base import NextScale

    return isinstance(generator, NextScale)
