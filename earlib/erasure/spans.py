"""Which positions of a next-scale model's pictures learn, and how much each counts."""

from __future__ import annotations

import torch

from ..errors import UserError
from ..generators.base import NextScale
from .recipe_scale import Scales


def learning_span(generator: NextScale, scales: Scales) -> slice:
    """The positions of the scales that learn. UserError if the model has no such scales."""
    last = scales.first + (scales.count or len(generator.schedule) - scales.first)
    if not 0 <= scales.first < last <= len(generator.schedule):
        line = f"scales.first={scales.first}, scales.count={scales.count}"
        raise UserError(f"{line}: {generator.name} has scales 0 to {len(generator.schedule) - 1}; choose some of those")
    return slice(generator.spans[scales.first].start, generator.spans[last - 1].stop)


def weights(generator: NextScale, scales: Scales) -> torch.Tensor:
    """w_N, float32, sum 1, over the positions up to the last scale that learns; 0 for scales before the first one.

    "token": alike. "side": proportional to 1 / side of the scale, as Infinity trains. "equal": to 1 / side^2, so that
    each of K scales has 1 / K in all.
    """
    span = learning_span(generator, scales)
    power = {"token": 0, "side": 1, "equal": 2}[scales.weight]
    of_scales = [torch.full((side * side,), 1.0 / side**power, dtype=torch.float64) for side in generator.schedule]
    weight_L = torch.cat(of_scales)
    weight_L[: span.start] = 0
    weight_N = weight_L[: span.stop]
    return (weight_N / weight_N.sum()).float().to(generator.device)
