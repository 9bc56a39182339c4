"""White box, by making the weights smaller: what an erasure changed a little may be rounded or cut away."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ...erasure.change import scaled, switched
from ...generators.base import Generator
from .base import Budget, Found, Victim
from .relearn import linear_layers
from .trying import OnKnown, surest

if TYPE_CHECKING:
    from ...erasure.store import Erasure

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)  # of a matrix' numbers that pruning sets to 0

Smaller = Callable[[torch.Tensor], torch.Tensor]  # makes a matrix smaller, of the same shape and dtype


def small_parts(
    generator: Generator, erasure: Erasure | None, smaller: Smaller
) -> tuple[dict[str, torch.Tensor], Erasure | None]:
    """The matrices of a model's linear layers, and an erasure with its own values of them, made smaller; all else stays
    exact. An erasure that acts everywhere is made one set of matrices first, at its strength. Of one that acts at some
    positions only both sets are made smaller, but what stands beside matrices there (adapters, erasers of states) stays
    exact."""
    own = {name: generator.trunk.get_parameter(name).detach() for name in linear_layers(generator)}
    small = lambda tensors: {name: smaller(t) for name, t in tensors.items() if name in own}
    replaced: set[str] = set()
    if erasure is not None and erasure.tensors:
        if erasure.strength != 1:
            tensors = scaled(generator.trunk, erasure.tensors, erasure.strength)
            erasure = replace(erasure, tensors=tensors, strength=1.0)
        if erasure.recipe.get("positions", "all") == "all":
            erasure = erasure.merged(generator)
            replaced = set(erasure.tensors)
        erasure = replace(erasure, tensors=erasure.tensors | small(erasure.tensors))
    kept = small({name: t for name, t in own.items() if name not in replaced})
    return {name: torch.nn.Parameter(t, False) for name, t in kept.items()}, erasure


@contextmanager
def compressed(generator: Generator, erasure: Erasure | None, smaller: Smaller | None) -> Iterator[Generator]:
    """Within the context the generator draws with the erasure, both made smaller; None leaves them as they are."""
    matrices: dict[str, torch.Tensor] = {}
    if smaller is not None:
        matrices, erasure = small_parts(generator, erasure, smaller)
    with switched(generator.trunk, matrices), erasure.on(generator) if erasure else nullcontext():
        yield generator


class Compressed(Victim):
    """A victim whose matrices are made smaller, the erasure's with them."""

    def __init__(self, victim: Victim, attack: Compression, amount: Any):
        small = lambda tensor: attack.smaller(tensor, amount)
        self.matrices, erasure = small_parts(victim.generator, victim.erasure, small)
        super().__init__(victim.generator, erasure, victim.goal, victim.base, victim.shared)

    @contextmanager
    def on(self) -> Iterator[Generator]:
        with switched(self.generator.trunk, self.matrices), super().on() as generator:
            yield generator


class Compression(OnKnown):
    """The amount that brings back most on known prompts is taken."""

    box = "white"
    amounts: Sequence[Any]

    @staticmethod
    @abstractmethod
    def smaller(tensor: torch.Tensor, amount: Any) -> torch.Tensor:
        """A matrix made smaller, of the same shape and dtype."""

    @abstractmethod
    def words(self, amount: Any) -> str:
        """The amount in words."""

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        draw = lambda amount, prompts: Compressed(victim, self, amount).draw(prompts, seed, "trial")
        best, rates = surest(victim, budget, self.amounts, draw)
        amount, asked = self.amounts[0] if best is None else best, list(victim.goal.asked)
        drawn = Compressed(victim, self, amount).draw(asked, seed, "asked")
        rows = [{"how": self.words(tried), "rate": rate.json()} for tried, rate in rates.items()]
        return Found(drawn, asked, self.words(amount), {"on known prompts": rows} if rows else {})


class Pruning(Compression):
    name = "pruning"
    about = "the smallest numbers of every matrix set to 0"
    amounts = SHARES
    passes = 80

    @staticmethod
    def smaller(tensor: torch.Tensor, amount: float) -> torch.Tensor:
        count = round(amount * tensor.numel())
        if not count:
            return tensor
        least = tensor.abs().flatten().float().kthvalue(count).values
        return torch.where(tensor.abs() > least, tensor, torch.zeros_like(tensor))

    def words(self, amount: float) -> str:
        return f"{amount:.0%} of the numbers cut"
