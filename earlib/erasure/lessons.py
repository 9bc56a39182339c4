"""What student and teacher read while a next-token model learns to erase.

Which model drew the tokens is in `trajectories.py`, the equations are in `objective.py`. Lessons that look inside the
decoder layers are in `inside.py`, the released code's in `single_token.py`, all others on tokens in `matching.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..generators import picture_seeds
from ..generators.base import NextToken
from .hardened import Hardened, first_vectors
from .inside import Inside
from .lesson import AllLessons, AsStudent
from .matching import Likelihood, Matching, WindowLesson
from .recipe import INSIDE, LIKELIHOOD, Recipe
from .retain import Retained
from .single_token import SingleToken, single_tokens
from .trajectories import all_trajectories


class Lessons(AllLessons):
    """All lessons of a next-token model's run."""

    unit, counted = "lesson", ("windows_trained", "windows_skipped", "tokens_trained")
    generator: NextToken
    recipe: Recipe
    drawn: Mapping[str, Any]  # by role, what each pair's lesson reads
    kind: type[WindowLesson] = Matching

    def prepare(self, retain: list[str]) -> None:
        generator, recipe = self.generator, self.recipe
        self.positions = recipe.positions
        if recipe.objective in LIKELIHOOD + INSIDE:
            self.kind = Likelihood if recipe.objective in LIKELIHOOD else Inside
        if recipe.context == "single":
            self.kind, self.drawn = SingleToken, single_tokens(generator, self.pairs, recipe, self.seed)
        else:
            self.drawn = all_trajectories(generator, self.pairs, recipe, self.seed, self.progress)
        if recipe.hardened:
            self.kind = Hardened
            if recipe.adversary:
                self.memory["adversaries"] = first_vectors(generator, self.pairs, self.seed)
        self.retained = Retained(generator, retain, recipe, self.progress, self.pairs)

    def begin(self, i: int, as_student: AsStudent) -> WindowLesson:
        rows = self.of(i)
        pairs = [self.pairs[j] for j in rows]
        some = lambda each: each[rows] if isinstance(each, torch.Tensor) else [each[j] for j in rows]
        prefix = {role: some(each) for role, each in self.drawn.items()}
        if self.recipe.prefix == "student":  # on policy
            seeds = picture_seeds(0, [f"student/{self.seed}/{i * self.batch}/{k}" for k in range(len(pairs))])
            with as_student():
                targets = [pair.target for pair in pairs]
                prefix = {"prefix": self.generator.sample(targets, seeds, self.recipe.guidance)}
        lesson = self.kind(self, i, pairs, prefix)
        if isinstance(lesson, Hardened) and self.recipe.adversary:
            lesson.find_words(as_student)
        return lesson
