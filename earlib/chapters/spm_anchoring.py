"""SPM's anchoring: how unevenly anchors are drawn, and how strongly both losses pull."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ..erasure.change import applied
from ..erasure.lessons import Lessons
from ..erasure.retain import Retained

if TYPE_CHECKING:
    from ..erasure.recipe import Recipe
    from ..generators.base import NextToken

DIFFUSION = (
    77 * 768
)  # numbers in the text embedding of Stable Diffusion 1.4, where SPM's released code draws its anchors


def weighing(chance_N: torch.Tensor) -> dict[str, float]:
    """How uneven a drawing of prompts is: `effective`, 1 / sum p^2, of how many equally likely prompts it could be;
    `ratio`, greatest chance over least."""
    p_N = chance_N.double()
    return {"prompts": len(p_N), "effective": float(1 / p_N.square().sum()), "ratio": float(p_N.max() / p_N.min())}


def accepted(dimensions: int, draws: int = 100_000, seed: int = 0) -> dict[str, float]:
    """What SPM's released code does with its distances: a random direction in `dimensions` is taken as an anchor with
    chance 1 - cos to the concept.

    The cosine with a fixed vector does not hang on the vector: it is z / sqrt(z^2 + X), z normal and X of chi squared
    with one dimension less.

    Returns:
        `spread`, the deviation of cos, and `accepted`, the share of directions that are taken.
    """
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(draws)
    cos = z / np.sqrt(z**2 + rng.chisquare(dimensions - 1, draws))
    return {"dimensions": dimensions, "spread": float(cos.std()), "accepted": float(np.minimum(1 - cos, 1).mean())}


def gradient_norms(
    generator: NextToken,
    pairs,
    recipe: Recipe,
    tensors: dict[str, torch.Tensor],
    retain: list[str],
    seed: int = 0,
    updates: int = 4,
) -> dict[str, float]:
    """Norms of the gradients of the two losses of an update, at the membranes `tensors`.

    Args:
        recipe: its retain.weight counts as it is: at 1, erasing / anchoring is the weight at which both pull
            alike.
        retain: prompts that anchor.
        updates: the first lessons, over which norms are averaged.

    Returns:
        {"erasing", "anchoring"}.
    """
    student = {name: nn.Parameter(t.detach().float()) for name, t in tensors.items()}
    on = partial(applied, generator, student, recipe.positions)
    ahead = Lessons(generator, pairs, replace(recipe, passes=1), seed)
    retained, T = Retained(generator, retain, recipe, pairs=pairs), generator.num_codes
    norms: dict[str, list[float]] = {"erasing": [], "anchoring": []}
    for i in range(min(updates, len(ahead))):
        lesson, anchoring = ahead.begin(i, on), retained.preservation(seed, i * T, student)
        with on():
            losses = {"erasing": lesson.losses(0, T).sum(), "anchoring": anchoring(1.0)}
            for which, loss in losses.items():
                gradients = torch.autograd.grad(loss, list(student.values()), materialize_grads=True)
                norms[which].append(sum(g.double().square().sum().item() for g in gradients) ** 0.5)
    return {which: float(np.mean(values)) for which, values in norms.items()}
