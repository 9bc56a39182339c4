"""Lessons on windows of image tokens, for next-token models: the student matches the teacher's states or logits, or
makes pictures unlikely. The equations are in `objective.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..concepts import PromptPair
from ..generators.base import Past
from .gates import window_loss
from .lesson import Lesson, Step
from .objective import divergence, dpo_loss, log_likelihood, npo_loss, token_loss
from .recipe import Recipe
from .settings import WHOLE
from .trajectories import both_rows, teacher_target

if TYPE_CHECKING:
    from .lessons import Lessons


def window_steps(recipe: Recipe, tokens: int, seed: int, lesson: int) -> list[Step]:
    """The windows of one picture of so many tokens, in the order in which they train."""
    windows = recipe.windows
    length = tokens if windows.length == WHOLE else windows.length
    steps = [Step(start, min(start + length, tokens)) for start in range(0, tokens, length)]
    if windows.tail == "drop":
        steps = [step for step in steps if step.stop - step.start == length]
    if windows.order == "raster":
        return steps
    chance = torch.Generator().manual_seed(seed * 1_000_003 + lesson)
    return [steps[k] for k in torch.randperm(len(steps), generator=chance)]


class WindowLesson(Lesson):
    """What all lessons on image tokens share.

    A lesson on whole pictures gives each token the same share of its loss, so that losses and counts mean the same
    everywhere.
    """

    def __init__(self, lessons: Lessons, number: int, pairs: list[PromptPair], prefix: dict[str, Any]):
        """`prefix` holds the image tokens of the pairs' pictures, int64 [B, T] by role."""
        super().__init__(number)
        self.generator, self.recipe, self.seed = lessons.generator, lessons.recipe, lessons.seed
        self.retained, self.rows = lessons.retained, []
        self.steps = window_steps(self.recipe, self.generator.num_codes, self.seed, number)
        self.prompts = self.generator.encode([pair.target for pair in pairs])

    def gate(self, losses: torch.Tensor) -> tuple[torch.Tensor, bool, int]:
        return window_loss(losses, self.recipe.gate)

    def preservation(self, step: Step, student: Mapping[str, torch.Tensor]) -> Callable[[], torch.Tensor] | None:
        """Weighted by the window's share of a picture."""
        tokens = self.generator.num_codes
        keep = self.retained.preservation(self.seed, self.number * tokens + step.start, student)
        return keep and (lambda: keep((step.stop - step.start) / tokens))

    def note(self, step: Step, losses: list[float], teaches: bool, kept: int, against: bool) -> None:
        """A row of the log for each window. `against` is of next-scale updates."""
        about = {"start": step.start, "tokens": step.stop - step.start}
        self.rows.append({"lesson": self.number, **about, "loss": losses[0], "kept": kept, "trained": teaches})
        self.counts["windows_trained" if teaches else "windows_skipped"] += 1
        self.counts["tokens_trained"] += kept if teaches else 0


class Matching(WindowLesson):
    """The student, told of the concept, matches the teacher: it reads its prompt and all tokens before, as when it
    draws.

    Keys and values of earlier windows are carried as constants.
    """

    def __init__(self, lessons: Lessons, number: int, pairs: list[PromptPair], prefix: dict[str, Any]):
        super().__init__(lessons, number, pairs, prefix)
        self.target_RTD = teacher_target(self.generator, pairs, prefix, self.recipe)
        if self.recipe.rows == "both":
            self.prompts = both_rows(self.generator, [pair.target for pair in pairs])
        self.tokens_RT = prefix["prefix"].to(self.generator.device).repeat(len(self.prompts) // len(pairs), 1)
        self.past = Past()

    def losses(self, start: int, stop: int) -> torch.Tensor:
        """L_t: one forward pass for the whole window, as its tokens are known and attention is causal."""
        self.past.detach_()
        if self.recipe.windows.order == "random":
            self.past = self._read(self.tokens_RT[:, :start])
        tokens_RW, target_RWD = self.tokens_RT[:, start:stop], self.target_RTD[:, start:stop]
        h_RWD = self.generator.hidden_states(self.prompts, tokens_RW, self.past)  # h_t(c), t in the window
        if self.recipe.space == "hidden":
            return token_loss(h_RWD, target_RWD)  # L_t
        z_RWV = self.generator.image_logits(h_RWD)
        if self.recipe.divergence == "mse":
            return token_loss(z_RWV, target_RWD)
        if self.recipe.divergence == "ce":
            return -log_likelihood(z_RWV, tokens_RW).mean(0)
        return self.over_rows(divergence(z_RWV, target_RWD, self.recipe.divergence), start, stop)

    def over_rows(self, loss_RW: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """One loss a token, of those of all rows."""
        return loss_RW.mean(0)

    def _read(self, tokens_RA: torch.Tensor) -> Past:
        """What lies before a window, read anew with the student's present weights."""
        past = Past()
        if tokens_RA.shape[1]:
            with torch.no_grad():
                self.generator.hidden_states(self.prompts, tokens_RA, past)
        return past


class Likelihood(WindowLesson):
    """How likely the teacher's pictures of the concept (and, for DPO, of its replacement) are under the concept's
    prompt, conditional rows only. From the unlearning of language models; used alone it stops nowhere: give it a
    retain.weight.

    ascent: the concept's pictures x become unlikely, minimising log p(x_t | x_<t, c). npo, dpo: see `objective.py`.
    """

    def __init__(self, lessons: Lessons, number: int, pairs: list[PromptPair], prefix: dict[str, Any]):
        super().__init__(lessons, number, pairs, prefix)
        roles = ("prefix", "replacement") if self.recipe.objective == "dpo" else ("prefix",)
        self.pictures = [prefix[role].to(self.generator.device) for role in roles]
        with torch.no_grad():
            self.teacher = [self._read(tokens_BT) for tokens_BT in self.pictures]

    def losses(self, start: int, stop: int) -> torch.Tensor:
        """ascent: of every token. npo, dpo: the mean over the pictures, shared alike by their tokens."""
        student = [self._read(tokens_BT) for tokens_BT in self.pictures]
        if self.recipe.objective == "ascent":
            return student[0].mean(0)
        if self.recipe.objective == "npo":
            loss_B = npo_loss(student[0].mean(1), self.teacher[0].mean(1), self.recipe.beta)
        else:
            loser_B, winner_B = (s.mean(1) - t.mean(1) for s, t in zip(student, self.teacher))
            loss_B = dpo_loss(winner_B, loser_B, self.recipe.beta)
        return loss_B.mean().expand(stop - start)

    def _read(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        h_BTD = self.generator.hidden_states(self.prompts, tokens_BT)
        return log_likelihood(self.generator.image_logits(h_BTD), tokens_BT)
