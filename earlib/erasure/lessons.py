"""What student and teacher read while they are compared.

A lesson is what one update's prompt pairs teach. `lesson.losses(a, b)` is L_t of the tokens a to b, with the student's
change switched on; the training loop adds them up. Which model drew the tokens is in `trajectories.py`, the equations
are in `objective.py`, and lessons that are not about matching the teacher in `likelihood.py` (how likely pictures are),
`inside.py` (what happens in the layers) and `single_token.py` (the released code of EAR). Preservation is in
`anchors.py`.
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
from .trajectories import all_trajectories, both_rows, teacher_target


def lessons(generator, pairs, recipe, seed: int, progress: bool = False) -> list:
    """For each update's pairs, pass after pass, a function of `student` that begins their lesson; all trajectories are
    drawn here, ahead of training.

    `student()` is a context in which the generator computes as the student does. A lesson holds a cache: let go of it
    at its end.
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
    """The student, told of the concept, matches the teacher: it reads its prompt and all tokens before, as when it
    draws.

    Keys and values of earlier windows are carried as constants.
    """

    def __init__(self, generator, pairs, prefix: dict[str, torch.Tensor], recipe, key: str, student):
        self.generator, self.recipe = generator, recipe
        if recipe.prefix == "student":  # on policy
            with student():
                seeds = picture_seeds(0, [f"student/{key}/{i}" for i in range(len(pairs))])
                prefix = {"prefix": generator.sample([pair.target for pair in pairs], seeds, recipe.guidance)}
        target = teacher_target(generator, pairs, prefix, recipe)
        texts = [pair.target for pair in pairs]
        self.prompts = both_rows(generator, texts) if recipe.rows == "both" else generator.encode(texts)
        self.target_RTD = target
        self.tokens_RT = prefix["prefix"].to(generator.device).repeat(len(self.prompts) // len(pairs), 1)
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
