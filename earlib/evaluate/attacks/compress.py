"""White box, by making the weights smaller: what an erasure changed a little may be rounded or cut away."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ...erasure.change import switched
from ...errors import UserError
from ...generators.base import Generator
from ..rate import Rate
from .base import Attack, Budget, Found, Victim, filled_in
from .relearn import linear_layers

if TYPE_CHECKING:
    from ...erasure.store import Erasure

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)  # of a matrix' numbers that pruning sets to 0


Smaller = Callable[[torch.Tensor], torch.Tensor]  # makes a matrix smaller, of the same shape and dtype


def small_parts(
    generator: Generator, erasure: Erasure | None, smaller: Smaller
) -> tuple[dict[str, torch.Tensor], Erasure | None]:
    """A model's matrices, and an erasure, made smaller: adapters are added into their matrices first, where they act
    everywhere."""
    if erasure is not None and erasure.tensors:
        try:
            erasure = erasure.merged(generator)
        except UserError:  # it acts at some positions only: two sets of matrices, both are made smaller
            pass
        whole = {n: t for n, t in erasure.tensors.items() if t.dim() == 2 and not re.search(r"\.(lora_|leace)", n)}
        if whole:
            erasure = replace(erasure, tensors=erasure.tensors | {name: smaller(t) for name, t in whole.items()})
    changed = set() if erasure is None or erasure.recipe.get("positions", "all") != "all" else set(erasure.tensors)
    names = [name for name in linear_layers(generator) if name not in changed]
    own = {name: generator.trunk.get_parameter(name).detach() for name in names}
    return {name: torch.nn.Parameter(smaller(t), False) for name, t in own.items()}, erasure


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

    def __init__(self, victim: Victim, attack: Compression, amount: float):
        small = lambda tensor: attack.smaller(tensor, amount)
        self.matrices, erasure = small_parts(victim.generator, victim.erasure, small)
        super().__init__(victim.generator, erasure, victim.goal, victim.base, victim.shared)

    @contextmanager
    def on(self) -> Iterator[Generator]:
        with switched(self.generator.trunk, self.matrices), super().on() as generator:
            yield generator


class Compression(Attack):
    """The amount that brings back most on known prompts is taken."""

    box = "white"
    amounts: Sequence[float]

    @staticmethod
    @abstractmethod
    def smaller(tensor: torch.Tensor, amount: float) -> torch.Tensor:
        """A matrix made smaller, of the same shape and dtype."""

    @abstractmethod
    def words(self, amount: float) -> str:
        """The amount in words."""

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        known = filled_in(victim.goal.slots_known, victim.goal.word) or list(victim.goal.asked)
        some = known[: max(1, budget.left // (victim.cost * len(self.amounts)))]
        surest, rows, asked = {}, [], list(victim.goal.asked)
        for amount in self.amounts if len(self.amounts) > 1 else ():
            scores = Compressed(victim, self, amount).trial(some, budget, seed)
            if scores is None:
                break
            surest[amount] = float(scores.mean())
            rows.append({"how": self.words(amount), "rate": Rate.of(scores >= victim.goal.judge.threshold).json()})
        best = max(surest, key=lambda amount: surest[amount], default=self.amounts[0])
        drawn = Compressed(victim, self, best).draw(asked, seed, "asked")
        return Found(drawn, asked, self.words(best), {"on known prompts": rows} if rows else {})


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
