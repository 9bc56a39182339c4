"""Options that are tried one after the other on known prompts: guidance scales, shares to cut, layers, strengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ...errors import UserError
from ..rate import Rate
from .base import Attack, Budget, Victim
from .goals import filled_in

Option = TypeVar("Option")


class OnKnown(Attack):
    """An attack that works with prompts of the concept's training pairs, and never sees those that are asked."""

    def check(self, victim: Victim) -> None:
        if not victim.goal.slots_known:
            line = f"no training prompt of '{victim.goal.concept}' names it by a word that can be exchanged"
            raise UserError(f"attack '{self.name}': {line}")


def surest(
    victim: Victim, budget: Budget, options: Sequence[Option], draw: Callable[[Option, list[str]], torch.Tensor]
) -> tuple[Option | None, dict[Option, Rate]]:
    """The option with which the judge is surest on average, on as many known prompts for each as the budget allows.

    Args:
        victim: who is attacked.
        budget: pays for every picture.
        options: tried in this order until the budget is spent.
        draw: codes [N, ...] of N prompts with an option.

    Returns:
        The option, None where the budget does not reach the first; and how often the judge saw the goal with each that
        was tried.
    """
    goal = victim.goal
    known = filled_in(goal.slots_known, goal.word)[: max(1, budget.left // (victim.cost * len(options)))]
    means, rates = {}, {}
    for option in options:
        if not budget.spend(victim.cost * len(known)):
            break
        scores = goal.judge.score(victim.generator.decode(draw(option, known)))
        means[option], rates[option] = float(scores.mean()), Rate.of(scores >= goal.judge.threshold)
    return max(means, key=lambda option: means[option], default=None), rates
