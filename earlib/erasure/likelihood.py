"""Lessons about how likely pictures are under a prompt: gradient ascent, negative preference and direct preference
optimisation.

They come from the unlearning of language models. They read the teacher's pictures of the concept (and, for DPO, of its
replacement) under the concept's prompt, conditional rows only. Used alone they do not stop anywhere: give them a
`retain.weight`.
"""

from __future__ import annotations

import torch

from .objective import dpo_loss, log_likelihood, npo_loss


class Likelihood:
    """ascent: the concept's pictures x become unlikely, minimising log p(x_t | x_<t, c). npo, dpo: see `objective.py`."""

    def __init__(self, generator, pairs, prefix: dict[str, torch.Tensor], recipe, key: str, student):
        self.generator, self.recipe = generator, recipe
        self.prompts = generator.encode([pair.target for pair in pairs])
        roles = ("prefix", "replacement") if recipe.objective == "dpo" else ("prefix",)
        self.pictures = [prefix[role].to(generator.device) for role in roles]
        with torch.no_grad():
            self.teacher = [self._read(tokens_BT) for tokens_BT in self.pictures]

    def losses(self, a: int, b: int) -> torch.Tensor:
        """ascent: float32 [T], one value a token. npo, dpo: T times the mean over the pictures, float32 [1], so that
        weights mean the same everywhere."""
        student = [self._read(tokens_BT) for tokens_BT in self.pictures]
        if self.recipe.objective == "ascent":
            return student[0].mean(0)
        if self.recipe.objective == "npo":
            loss_B = npo_loss(student[0].mean(1), self.teacher[0].mean(1), self.recipe.beta)
        else:
            loser_B, winner_B = (s.mean(1) - t.mean(1) for s, t in zip(student, self.teacher))
            loss_B = dpo_loss(winner_B, loser_B, self.recipe.beta)
        return (b - a) * loss_B.mean(0, keepdim=True)

    def _read(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        return log_likelihood(
            self.generator.image_logits(self.generator.hidden_states(self.prompts, tokens_BT)), tokens_BT
        )
