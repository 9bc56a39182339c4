"""Erasing without training: the matrices that are solved for, and what guidance takes, which is nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch

from ..concepts import PromptPair
from ..generators.base import Generator, NextToken
from .change import scaled
from .closed_form import leace, uce
from .recipe import TrainingFree
from .recipe_scale import ScaleEdit
from .settings import AnyRecipe
from .trajectories import draw_trajectories


def without_training(
    generator: Generator,
    pairs: Iterable[PromptPair],
    recipe: AnyRecipe,
    progress: bool = False,
    retain: Iterable[str] = (),
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Changed tensors by name, and what it took, for a recipe that does not train; none where it guides. No chance is
    involved, and nothing is worth a checkpoint."""
    began = sampled = time.perf_counter()
    tensors: dict[str, torch.Tensor] = {}
    used, retain = list(pairs), list(retain)
    if isinstance(recipe, ScaleEdit):
        used = used[: recipe.pairs]
        tensors = uce(generator, used, recipe, retain)
    elif isinstance(recipe, TrainingFree) and isinstance(generator, NextToken) and not recipe.guides:
        used, tokens_NT = used[: recipe.pairs], None
        if retain and recipe.positions == "all":  # then image tokens are read through the new matrices too
            tokens_NT = draw_trajectories(generator, {"retain": retain}, 0, generator.guidance, progress)["retain"]
            sampled = time.perf_counter()
        of_leace = recipe.method == "leace"
        tensors = leace(generator, used, recipe) if of_leace else uce(generator, used, recipe, retain, tokens_NT)
        tensors = scaled(generator.trunk, tensors, recipe.strength)
    else:  # guidance keeps its strength in the recipe
        used = []
    done = time.perf_counter()
    counted = ("windows_trained", "windows_skipped", "tokens_trained") if isinstance(recipe, TrainingFree) else ()
    info: dict[str, Any] = dict.fromkeys(counted, 0)
    info |= {"seconds": round(done - began, 3), "seconds_sampling": round(sampled - began, 3)}
    info |= {"seconds_training": round(done - sampled, 3), "pairs": len(used)}
    return tensors, info | {"parameters": sum(t.numel() for t in tensors.values())}
