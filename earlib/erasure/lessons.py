"""What student and teacher read while a next-token model learns to erase.

Which model drew the tokens is in `trajectories.py`, the equations are in `objective.py`. Lessons that look inside the
decoder layers are in `inside.py`, the released code's in `single_token.py`, all others on tokens in `matching.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..concepts import PromptPair
from ..generators import picture_seeds
from ..generators.base import NextToken
from .inside import Inside
from .lesson import AllLessons, Student
from .matching import Likelihood, Matching, WindowLesson
from .recipe import INSIDE, LIKELIHOOD, Recipe
from .retain import Retained
from .single_token import SingleToken, single_tokens
from .trajectories import all_trajectories


class Lessons(AllLessons):
    """All lessons of a next-token model's run."""

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
        super().__init__(pairs, recipe, seed)
        self.generator, self.recipe, self.positions = generator, recipe, recipe.positions
        self.counts = dict.fromkeys(("windows_trained", "windows_skipped", "tokens_trained"), 0)
        self.drawn: Mapping[str, Any]  # by role, what each pair's lesson reads
        self.kind: type[WindowLesson] = Matching
        if recipe.objective in LIKELIHOOD + INSIDE:
            self.kind = Likelihood if recipe.objective in LIKELIHOOD else Inside
        if recipe.context == "single":
            self.kind, self.drawn = SingleToken, single_tokens(generator, self.pairs, recipe, seed)
        else:
            self.drawn = all_trajectories(generator, self.pairs, recipe, seed, progress)
        self.retained = Retained(generator, list(retain), recipe, progress, self.pairs)

    def begin(self, i: int, student: Student) -> WindowLesson:
        rows = self.of(i)
        pairs = [self.pairs[j] for j in rows]
        prefix: dict[str, Any] = {role: [each[j] for j in rows] for role, each in self.drawn.items()}
        if self.kind is not SingleToken:
            prefix = {role: torch.stack(tokens) for role, tokens in prefix.items()}
        if self.recipe.prefix == "student":  # on policy
            seeds = picture_seeds(0, [f"student/{self.seed}/{i * self.batch}/{k}" for k in range(len(pairs))])
            with student():
                targets = [pair.target for pair in pairs]
                prefix = {"prefix": self.generator.sample(targets, seeds, self.recipe.guidance)}
        return self.kind(self, i, pairs, prefix)
