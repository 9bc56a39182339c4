"""What student and teacher read while they are compared.

A lesson is what one update's prompt pairs teach. `lesson.losses(a, b)` is L_t of the tokens a to b, with the student's change switched on; the training
loop adds them up. Which model drew the tokens is in `trajectories.py`, the equations are in `objective.py`, and lessons that are not about matching the
teacher in `likelihood.py` (how likely pictures are), `inside.py` (what happens in the layers) and `single_token.py` (the released code of EAR).
"""

from __future__ import annotations

from functools import partial

import torch

from ..generators import picture_seeds
from ..generators.base import Past
from .inside import Inside
from .likelihood import Likelihood
from .objective import divergence, log_likelihood, token_loss
from .recipe import INSIDE, LIKELIHOOD
from .single_token import single_token_lessons
from .trajectories import all_trajectories, both_rows, draw_trajectories, teacher_target


def lessons(generator, pairs, recipe, seed: int, progress: bool = False) -> list:
    """For each update's pairs, pass after pass, a function of `student` that begins their lesson; all trajectories are drawn here, ahead of training.

    `student()` is a context in which the generator computes as the student does. A lesson holds a cache: let go of it at its end.
    """
    if recipe.context == "single":
        return single_token_lessons(generator, pairs, recipe, seed) * recipe.passes
    trajectories = all_trajectories(generator, pairs, recipe, seed, progress)
    kind = Likelihood if recipe.objective in LIKELIHOOD else Inside if recipe.objective in INSIDE else Matching
    out = []
    for start in range(0, len(pairs) * recipe.passes, recipe.batch):
        rows = [i % len(pairs) for i in range(start, min(start + recipe.batch, len(pairs) * recipe.passes))]
        prefix = {role: tokens[rows] for role, tokens in trajectories.items()}
        out.append(partial(kind, generator, [pairs[i] for i in rows], prefix, recipe, f"{seed}/{start}"))
    return out


class Matching:
    """The student, told of the concept, matches the teacher: it reads its prompt and all tokens before, as when it draws.

    Keys and values of earlier windows are carried as constants.
    """

    def __init__(self, generator, pairs, prefix: dict[str, torch.Tensor], recipe, key: str, student):
        self.generator, self.recipe = generator, recipe
        if recipe.prefix == "student":  # on policy
            with student():
                seeds = picture_seeds(0, [f"student/{key}/{i}" for i in range(len(pairs))])
                prefix = {"prefix": generator.sample([pair.target for pair in pairs], seeds, recipe.guidance)}
        target = teacher_target(generator, pairs, prefix, recipe)
        prompts = both_rows(generator, [pair.target for pair in pairs])
        rows = slice(None) if recipe.rows == "both" else slice(len(pairs))
        self.prompts, self.target_RTD = prompts[rows], target[rows]
        self.tokens_RT = prefix["prefix"].to(generator.device).repeat(2, 1)[rows]
        self.past = Past()

    def losses(self, a: int, b: int) -> torch.Tensor:
        """L_t, float32 [b - a]: one forward pass for the whole window, as its tokens are known and attention is causal."""
        self.past.detach_()
        if self.recipe.windows.prefix == "refresh" or self.recipe.windows.order == "random":
            self.past = self._read(self.tokens_RT[:, :a])
        tokens_RW = self.tokens_RT[:, a:b]
        h_RWD = self.generator.hidden_states(self.prompts, tokens_RW, self.past)  # h_t(c), t in the window
        if self.recipe.space == "hidden":
            return token_loss(h_RWD, self.target_RTD[:, a:b])  # L_t
        z_RWV = self.generator.image_logits(h_RWD)
        if self.recipe.divergence == "mse":
            return token_loss(z_RWV, self.target_RTD[:, a:b])
        if self.recipe.divergence == "ce":
            return -log_likelihood(z_RWV, tokens_RW).mean(0)
        return divergence(z_RWV, self.target_RTD[:, a:b], self.recipe.divergence).mean(0)

    def _read(self, tokens_RA: torch.Tensor) -> Past:
        """What lies before a window, read anew with the student's present weights."""
        past = Past()
        if tokens_RA.shape[1]:
            with torch.no_grad():
                self.generator.hidden_states(self.prompts, tokens_RA, past)
        return past


class Retained:
    """Preservation: pictures of prompts without the concept, drawn by the teacher ahead of training; lambda KL(teacher || student) along them.

    A quarter of the rows is read without its prompt, as guidance needs the unconditional distribution too.
    """

    BLANK = 4  # every fourth row

    def __init__(self, generator, prompts: list[str], recipe, progress: bool = False):
        self.generator, self.recipe, self.prompts = generator, recipe, list(prompts) if recipe.retain.weight else []
        if self.prompts:  # seed 0 in every run: what is retained is a data set
            self.tokens_NT = draw_trajectories(generator, {"retain": self.prompts}, 0, recipe.guidance, progress)["retain"]

    def lesson(self, seed: int, step: int):
        """The teacher's part of an update; returns a function that gives lambda sum_t KL_t of a window's share of a picture, for the student."""
        if not self.prompts:
            return lambda share: 0.0
        g, R = self.generator, self.recipe.retain.pictures
        rows = torch.randint(len(self.prompts), (R,), generator=torch.Generator().manual_seed(seed * 1_000_003 + step)).tolist()
        batch, tokens_RT = g.encode([self.prompts[i] for i in rows]), self.tokens_NT[rows].to(g.device)
        blank_R = (torch.arange(R, device=g.device) + step * R) % self.BLANK == 0
        batch = type(batch)(torch.where(blank_R[:, None], g.null_like(batch).ids_BP, batch.ids_BP), batch.mask_BP)
        with torch.no_grad():
            target_RTV = g.image_logits(g.hidden_states(batch, tokens_RT))

        def loss(share: float) -> torch.Tensor:
            z_RTV = g.image_logits(g.hidden_states(batch, tokens_RT))
            return self.recipe.retain.weight * share * divergence(z_RTV, target_RTV, "kl").mean(0).sum()

        return loss
