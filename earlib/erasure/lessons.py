"""What student and teacher read while a next-token model learns to erase.

A lesson is what one update's prompt pairs teach. Lessons of both families have one protocol, which the loop in
`train.py` walks through:

    lessons.begin(i, student)      lesson i: the teacher's targets are ready
    lesson.steps                   its optimizer steps: windows of image tokens
    lesson.losses(start, stop)     L_t of a step's tokens, float [stop - start], with the student's change switched on
    lesson.gate(losses)            what of it teaches (`gates.py`)
    lesson.preservation(...)       the loss that keeps everything else as it is (`retain.py`)
    lesson.rows, lesson.counts     what happened, for the run's log and the erasure's info

Which model drew the tokens is in `trajectories.py`, the equations are in `objective.py`. Lessons that look inside the
decoder layers are in `inside.py`, the released code's in `single_token.py`, all others on tokens in `matching.py`,
those of next-scale models in `lessons_scale.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch

from ..concepts import PromptPair
from ..generators import picture_seeds
from ..generators.base import NextToken
from .inside import Inside
from .matching import Likelihood, Matching, Material, WindowLesson
from .recipe import INSIDE, LIKELIHOOD, Recipe
from .retain import Retained
from .single_token import SingleToken, single_tokens
from .trajectories import all_trajectories

Student = Callable[[], AbstractContextManager]  # a context in which the generator computes as the student does


class Lessons:
    """All lessons of a run, pass after pass; the teacher's pictures are drawn here, ahead of training."""

    unit = "lesson"

    def __init__(
        self,
        generator: NextToken,
        pairs: Iterable[PromptPair],
        recipe: Recipe,
        seed: int,
        retain: Iterable[str] = (),
        progress: bool = False,
    ):
        self.generator, self.recipe, self.seed = generator, recipe, seed
        self.pairs, self.positions = list(pairs)[: recipe.pairs], recipe.positions
        self.counts = dict.fromkeys(("windows_trained", "windows_skipped", "tokens_trained"), 0)
        self.kind: type[WindowLesson] = Matching
        if recipe.objective in LIKELIHOOD + INSIDE:
            self.kind = Likelihood if recipe.objective in LIKELIHOOD else Inside
        self.drawn: dict[str, Sequence] = {}  # by role, what each pair's lesson reads
        if recipe.context == "single":
            self.kind, self.drawn = SingleToken, single_tokens(generator, self.pairs, recipe, seed)
        else:
            self.drawn = all_trajectories(generator, self.pairs, recipe, seed, progress)
        retained = Retained(generator, list(retain), recipe, progress, self.pairs)
        self.material = Material(generator, recipe, seed, retained)

    def __len__(self) -> int:
        return -(-len(self.pairs) * self.recipe.passes // self.recipe.batch)

    def begin(self, i: int, student: Student) -> WindowLesson:
        """Lesson i. It holds a cache: let go of it at its end."""
        start, last = i * self.recipe.batch, len(self.pairs) * self.recipe.passes
        rows = [j % len(self.pairs) for j in range(start, min(start + self.recipe.batch, last))]
        pairs = [self.pairs[j] for j in rows]
        prefix = {role: [each[j] for j in rows] for role, each in self.drawn.items()}
        if self.kind is not SingleToken:
            prefix = {role: torch.stack(tokens) for role, tokens in prefix.items()}
        if self.recipe.prefix == "student":  # on policy
            seeds = picture_seeds(0, [f"student/{self.seed}/{start}/{k}" for k in range(len(pairs))])
            with student():
                targets = [pair.target for pair in pairs]
                prefix = {"prefix": self.generator.sample(targets, seeds, self.recipe.guidance)}
        return self.kind(self.material, i, pairs, prefix)

    def summary(self, counts: dict[str, int]) -> dict[str, float]:
        """What the erasure's info has beside the counts: nothing."""
        return {}
