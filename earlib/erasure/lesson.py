"""A lesson is what one update's prompt pairs teach: the protocol of both families, which the loop in `train.py` walks
through.

Lessons of next-token models are in `lessons.py`, those of next-scale models in `lessons_scale.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..concepts import PromptPair
from ..generators.base import Generator
from .recipe import Recipe
from .recipe_scale import ScaleRecipe

AsStudent = Callable[[], AbstractContextManager]  # opens a context in which the generator computes as the student


@dataclass(frozen=True)
class Step:
    """What one optimizer step learns from: the tokens from `start` to `stop` (exclusive), none where it only preserves;
    `preserves` says whether preservation counts in it."""

    start: int
    stop: int
    preserves: bool = True


class Lesson(ABC):
    """One lesson. When it is made the teacher's targets are ready."""

    steps: list[Step]  # its optimizer steps: for EAR windows of image tokens
    rows: list[dict[str, Any]]  # what happened, for the run's log; read at the lesson's end

    def __init__(self, number: int):
        self.number = number
        self.counts: Counter[str] = Counter()  # what happened, for the erasure's info

    @abstractmethod
    def losses(self, start: int, stop: int) -> torch.Tensor:
        """L_t of the tokens from `start` to `stop`, float [..., stop - start], with the student's change switched
        on."""

    @abstractmethod
    def gate(self, losses: torch.Tensor) -> tuple[torch.Tensor, bool, int]:
        """The loss of a step by that of its tokens, whether it may teach, and how many tokens count (`gates.py`)."""

    @abstractmethod
    def preservation(self, step: Step, student: Mapping[str, torch.Tensor]) -> Callable[[], torch.Tensor] | None:
        """The teacher's part of preservation in a step; returns what gives its loss for the student, or None."""

    @abstractmethod
    def note(self, step: Step, losses: list[float], teaches: bool, kept: int, against: bool) -> None:
        """After each step: what happened in it. `against` says whether erasing pulled against preservation."""


class AllLessons(ABC):
    """All lessons of a run, pass after pass; the teacher's pictures are drawn when it is made, ahead of training."""

    unit: ClassVar[str]  # what messages call a lesson
    counted: ClassVar[tuple[str, ...]]  # what is counted, for the erasure's info
    generator: Generator
    recipe: Recipe | ScaleRecipe
    positions: str | slice  # where the student's change acts, as `change.applied` has it

    def __init__(
        self,
        generator: Generator,
        pairs: Iterable[PromptPair],
        recipe: Recipe | ScaleRecipe,
        seed: int,
        retain: Iterable[str] = (),
        progress: bool = False,
    ):
        self.generator, self.recipe, self.seed, self.progress = generator, recipe, seed, progress
        self.pairs = list(pairs)[: recipe.pairs] * recipe.pictures
        self.total, self.batch = len(self.pairs) * recipe.passes, recipe.batch
        self.counts = dict.fromkeys(self.counted, 0)
        self.memory: dict[str, torch.Tensor] = {}  # what lessons leave to later ones; checkpoints hold it
        self.prepare(list(retain))

    @abstractmethod
    def prepare(self, retain: list[str]) -> None:
        """Have the teacher draw what its lessons read; `retain` are prompts without the concept."""

    def __len__(self) -> int:
        return -(-self.total // self.batch)

    def of(self, i: int) -> list[int]:
        """Which pairs lesson i teaches."""
        return [j % len(self.pairs) for j in range(i * self.batch, min((i + 1) * self.batch, self.total))]

    @abstractmethod
    def begin(self, i: int, as_student: AsStudent) -> Lesson:
        """Lesson i, its targets ready; `as_student` is for pictures that the student draws. A lesson may hold a cache:
        let go of it at its end."""

    def summary(self, counts: dict[str, int]) -> dict[str, float]:
        """What the erasure's info has beside the counts."""
        return {}
