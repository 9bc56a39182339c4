"""What every attack is given and what it gives.

An attack is run on a `Victim` (a generator, with an erasure or without), for a `Goal` (what is to be drawn), with a
`Budget` of forward passes. It gives a `Found`: the pictures drawn with what it found.

A pass is one reading of one prompt with one whole picture: a picture drawn with guidance costs two, one step of
learning from a picture three (a backward pass costs twice a forward one). The pictures on which success is counted are
not part of the budget, whereas those that an attack draws to choose from are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...erasure.change import hooked
from ...erasure.objective import log_likelihood
from ...erasure.train import FP16_SCALE
from ...errors import UserError
from ...generators import picture_seeds
from ...generators.base import Generator, NextScale, NextToken, PromptBatch
from ...generators.sampling import guided_rows
from ..rate import Rate
from .goals import Goal, filled_in

if TYPE_CHECKING:
    from ...erasure.store import Erasure

CANDIDATES = 24  # pictures that the base model draws for an attacker to learn from, at least
LEARNING = 3  # passes of one step on one picture: forward, and a backward pass that costs twice as much


@dataclass
class Budget:
    """Forward passes that an attack may use, and those that it used.

    Raises:
        UserError: fewer than one pass.
    """

    passes: int
    spent: int = 0

    def __post_init__(self):
        if self.passes < 1:
            raise UserError(f"a budget of {self.passes} passes buys no attack; give at least 1")

    def too_small(self, attack: str) -> UserError:
        """What to say where it buys not one step of an attack."""
        return UserError(f"attack '{attack}': a budget of {self.passes} passes does not buy one step of it; give more")

    @property
    def left(self) -> int:
        """Passes that are left."""
        return self.passes - self.spent

    def spend(self, passes: int) -> bool:
        """Take `passes` from what is left; False, and nothing taken, where that is too little."""
        if passes > self.left:
            return False
        self.spent += passes
        return True


class Victim:
    """A model under attack.

    Args:
        generator: the model.
        erasure: switched on whenever the model is read; None for a base model or an oracle.
        goal: what is to be drawn.
        base: the model whose pictures of the goal an attacker has; of the same picture tokenizer. None for `generator`
            itself, without its erasure.
        shared: where the base model's pictures are kept for other attacks with the same base.
    """

    def __init__(
        self,
        generator: Generator,
        erasure: Erasure | None,
        goal: Goal,
        base: Generator | None = None,
        shared: dict[Any, Any] | None = None,
    ):
        self.generator, self.erasure, self.goal, self.base = generator, erasure, goal, base or generator
        self.shared = {} if shared is None else shared

    @contextmanager
    def on(self) -> Iterator[Generator]:
        """The context in which the attacked model runs."""
        if self.erasure is None:
            yield self.generator
        else:
            with self.erasure.on(self.generator):
                yield self.generator

    @cached_property
    def cost(self) -> int:
        """Passes of one picture that is drawn: rows that are read for it."""
        with self.on() as generator:
            one = generator.encode(["a"])
            return len(guided_rows(generator, one, generator.guidance, generator.steering))

    def draw(
        self, prompts: Sequence[str], seed: int, what: str = "", guidance: float | None = None, given: Any = None
    ) -> torch.Tensor:
        """Codes [N, ...] of a picture for each of `prompts`, whose noise hangs on `seed`, the text and `what`; the
        first ones may be `given`."""
        with self.on() as generator:
            return generator.sample(list(prompts), self.seeds(prompts, seed, what), guidance, given=given)

    @staticmethod
    def seeds(prompts: Sequence[str], seed: int, what: str) -> list[int]:
        """Of the pictures that `draw` draws."""
        return picture_seeds(seed, [f"{what}/{i}/{prompt}" for i, prompt in enumerate(prompts)])

    def trial(self, prompts: Sequence[str], budget: Budget, seed: int, **more: Any) -> np.ndarray | None:
        """How surely the goal's judge sees it in a picture for each of `prompts`, float64 [N]; None where the budget
        does not reach."""
        if not budget.spend(self.cost * len(prompts)):
            return None
        return self.goal.judge.score(self.generator.decode(self.draw(prompts, seed, "trial", **more)))

    def lessons(self, count: int, seed: int = 0) -> tuple[list[str], torch.Tensor]:
        """(prompts with a slot, the base model's pictures of them), at most `count`: those in which the judge sees the
        goal. An attacker has such pictures from elsewhere, so that they cost nothing.

        Raises:
            UserError: the judge sees the goal in none of them, or the prompts do not name it.
        """
        slots = self.goal.slots_known
        if not slots:
            raise UserError(f"no training prompt of '{self.goal.concept}' names it by a word that can be exchanged")
        some = [slots[i % len(slots)] for i in range(max(CANDIDATES, 2 * count))]
        key = ("lessons", self.goal.name, seed, len(some))
        if key not in self.shared:
            codes = Victim(self.base, None, self.goal).draw(filled_in(some, self.goal.word), seed, "lesson")
            rows = np.flatnonzero(self.goal.judge.shows(self.base.decode(codes)))
            self.shared[key] = [some[i] for i in rows], codes[rows]
        kept, codes = self.shared[key]
        if not kept:
            drew = f"the {len(some)} pictures of it that {self.base.name} drew"
            raise UserError(f"the judge sees '{self.goal.name}' in none of {drew}; there is nothing to learn from")
        return kept[:count], codes[:count]


@contextmanager
def unrecorded(generator: Generator, handles: Iterable[Any]) -> Iterator[None]:
    """The context of an attack's hooks, which it removes: no step is recorded, so that they are called at every
    token."""
    recorded = isinstance(generator, NextToken) and generator.graphs
    if isinstance(generator, NextToken):
        generator.graphs = False
    try:
        with hooked(*handles):
            yield
    finally:
        if isinstance(generator, NextToken):
            generator.graphs = recorded


def likelihood(generator: Generator, prompts: PromptBatch, codes: torch.Tensor) -> torch.Tensor:
    """log p(x | c) of each picture in nats a code, a mean over its codes of the sum over their bits: float32 [B], with
    gradients."""
    codes = codes.to(generator.device)
    if isinstance(generator, NextScale):
        logits = generator.logits(prompts, codes)
    else:
        assert isinstance(generator, NextToken)
        logits = generator.image_logits(generator.hidden_states(prompts, codes))
    return log_likelihood(logits, codes).reshape(*codes.shape[:2], -1).sum(-1).mean(1)


def backward(loss: torch.Tensor, generator: Generator) -> None:
    """Gradients of a loss; in half precision 1,024 times as large, as they would be rounded to 0. Adam and the order of
    gradients do not depend on their size."""
    (loss * (FP16_SCALE if generator.dtype == torch.float16 else 1)).backward()


@dataclass
class Found:
    """What an attack gives.

    Attributes:
        codes: pictures drawn with it, int64 [N, ...].
        prompts: the prompt of each.
        told: what was found, in words.
        more: numbers beside it: lists of rows for the page, such as a rate for each row given.
        tensors: embeddings or weights, by name.
    """

    codes: torch.Tensor
    prompts: list[str]
    told: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


class Attack(ABC):
    """A way to bring a concept back.

    Attributes:
        name: as users call it.
        box: "black": prompts and pictures only; "white": weights and gradients.
        about: what it does, in a few words.
        passes: its budget on a small model, if no other is given.
    """

    name: str
    box: str
    about: str
    passes: int

    def check(self, victim: Victim) -> None:
        """UserError if the model or the concept does not admit the attack."""
        return None

    @abstractmethod
    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        """Search with at most `budget`, and draw the pictures on which success is counted.

        Args:
            victim: who is attacked, and for what.
            budget: what the search may cost; it is never exceeded.
            seed: of the search and of the pictures.
        """


def by_kind(names: Sequence[str], shows: np.ndarray) -> list[dict]:
    """Rows {"kind", "rate"}: how many of the pictures of each name show something."""
    kinds = list(dict.fromkeys(names))
    where = np.array([kinds.index(name) for name in names])
    return [{"kind": kind, "rate": Rate.of(shows[where == i]).json()} for i, kind in enumerate(kinds)]
