"""Lessons against whoever brings the concept back: the student learns from an adversary's words too, and not to finish
a picture of the concept that somebody began.

What is taught is what the recipe teaches anyway, along pictures x of the replacement; each pair has more rows. With
`adversary`, a row whose prompt has learned vectors v in the place of the concept's own words, found by steps on

    v = argmax mean_x* 1/T log p( x* | c with v )        x*: the teacher's pictures of the concept

before the update (rounds of attack and erasure: STEREO, Srivatsan et al. 2024, arXiv 2408.16807; AdvUnlearn, Zhang et
al. 2024, arXiv 2405.15234). With `begun`, a row that reads the first rows of x* and then x: from there on the target is
what it is along x alone, so that the student goes on as if nothing had been begun.

Letters: R rows, P positions of prompts, T tokens, K vectors, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..concepts import PromptPair
from ..generators.base import Generator, NextToken
from .change import spoken
from .lesson import AsStudent
from .matching import Matching
from .objective import log_likelihood
from .recipe import Recipe
from .retain import own_words

if TYPE_CHECKING:
    from .lessons import Lessons

ADVERSARIES = 4  # which take turns, each going on from where it stood
# of Adam's steps on vectors, times the root mean square of the model's own embeddings. Chosen for the attack
# `soft-prompt` on development prompts for cars and boats (`miniworld/development.py`; uce and ear-shared on mini, uce
# and s-vare on mini-var, seed 0), where it made no difference: 0.1, 0.3 and 1 brought back 41 [33-49], 42 [34-50] and
# 40 [32-48] % of 140 pictures.
RATE = 0.3


def word_places(generator: NextToken, pairs: list[PromptPair]) -> torch.Tensor:
    """Which of the pairs' own words stands where in their encoded targets: int64 [B, P], -1 for all other tokens."""
    targets = generator.encode([pair.target for pair in pairs])
    own_BP = own_words(generator, targets, pairs) & generator.word_mask(targets)
    return torch.where(own_BP, own_BP.cumsum(1) - 1, -1)


def first_vectors(generator: NextToken, pairs: list[PromptPair], seed: int) -> torch.Tensor:
    """Where the adversaries begin: the model's own vectors of words of the replacements, drawn at random, float32
    [ADVERSARIES, K, D]."""
    count = int(word_places(generator, pairs).max()) + 1
    others = generator.encode([pair.replacement for pair in pairs])
    ids = others.ids_BP[generator.word_mask(others)].cpu()
    some = torch.randint(len(ids), (ADVERSARIES * count,), generator=torch.Generator().manual_seed(seed))
    vectors = generator.word_embeddings(ids[some].to(generator.device)).detach().float()
    return vectors.reshape(ADVERSARIES, count, -1)


def word_rate(generator: Generator) -> float:
    """The rate of Adam's steps on vectors in the place of words."""
    return RATE * generator.word_embeddings.weight.detach().float().square().mean().sqrt().item()


class Hardened(Matching):
    """A `Matching` lesson with the rows that `adversary` and `begun` add below its own."""

    def __init__(self, lessons: Lessons, number: int, pairs: list[PromptPair], prefix: dict[str, Any]):
        super().__init__(lessons, number, pairs, prefix)
        g, recipe, B = self.generator, self.recipe, len(pairs)
        self.concept_BT = prefix["concept"].to(g.device)
        self.place_BP = word_places(g, pairs)
        none_BP, every_BT = torch.full_like(self.place_BP, -1), torch.ones_like(self.tokens_RT, dtype=torch.bool)
        prompts, tokens, places, counts = self.prompts, [self.tokens_RT], [none_BP], [every_BT]
        if recipe.adversary:
            self.vectors_KD = lessons.memory["adversaries"][number % ADVERSARIES]
            prompts, tokens = prompts.stack(self.prompts), [*tokens, self.tokens_RT]
            places, counts = [*places, self.place_BP], [*counts, every_BT]
        else:
            self.vectors_KD = g.word_embeddings.weight.detach()[:1]
        if recipe.begun:
            given_B1 = given_tokens(g, recipe, B, self.seed * 1_000_003 + number)
            left_BT = torch.arange(g.num_codes, device=g.device) >= given_B1
            prompts, tokens = prompts.stack(self.prompts), [*tokens, self.tokens_RT.where(left_BT, self.concept_BT)]
            places, counts = [*places, none_BP], [*counts, left_BT]
        self.alone, self.prompts = self.prompts, prompts
        self.tokens_RT, self.place_RP, self.counts_RT = torch.cat(tokens), torch.cat(places), torch.cat(counts)
        self.target_RTD = self.target_RTD.repeat(len(tokens), 1, 1)

    def find_words(self, as_student: AsStudent) -> None:
        """The adversary's steps against the student as it is now; what it found stays for its next turn."""
        g = self.generator
        vectors_KD = self.vectors_KD.clone().requires_grad_()
        optimizer = torch.optim.Adam([vectors_KD], word_rate(g))
        with as_student(), spoken(g, self.place_BP, vectors_KD):
            for _ in range(self.recipe.adversary):
                z_BTV = g.image_logits(g.hidden_states(self.alone, self.concept_BT))
                loss = -log_likelihood(z_BTV, self.concept_BT).mean()
                (vectors_KD.grad,) = torch.autograd.grad(loss, [vectors_KD])
                optimizer.step()
        self.vectors_KD.copy_(vectors_KD.detach())  # in the run's memory

    def losses(self, start: int, stop: int) -> torch.Tensor:
        with spoken(self.generator, self.place_RP, self.vectors_KD):
            return super().losses(start, stop)

    def over_rows(self, loss_RW: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        counts_RW = self.counts_RT[:, start:stop]
        return (loss_RW * counts_RW).sum(0) / counts_RW.sum(0)


def given_tokens(generator: NextToken, recipe: Recipe, count: int, seed: int) -> torch.Tensor:
    """How many tokens of each picture are given: whole rows, one at least, at most the share `begun`; int64
    [count, 1]."""
    rows, columns = generator.grid
    most = max(1, int(recipe.begun * rows))
    chance = torch.Generator().manual_seed(seed)
    return (torch.randint(1, most + 1, (count, 1), generator=chance) * columns).to(generator.device)
