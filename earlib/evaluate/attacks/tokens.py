"""White box, by a prompt of ordinary words: greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043), on the
likelihood of the base model's pictures in place of an answer in words (as UnlearnDiffAtk has it for diffusion models,
arXiv 2310.11868).

Letters: K words in the slot, V words of the vocabulary, D width.
"""

from __future__ import annotations

import torch

from ...generators.base import Generator
from .base import LEARNING, Budget, Found, Victim, backward, likelihood
from .goals import filled_in
from .search import vocabulary
from .soft import ByGradients, SoftWords, numbers_of

LENGTH = 3  # words in the slot
BATCH = 3  # pictures in one step
LESSONS = 9  # pictures of the goal
TRIED = 12  # exchanges that are tried in one step
NEAREST = 24  # words at each place of which they are taken, by the gradient


class TokenSearch(ByGradients):
    """Words w_1 ... w_K for the slot. At each step the gradient at their embeddings says which exchange of one word
    promises most; a few of those are tried, and the best is kept if it is better:

        min over w of  -mean_x 1/L log p( x | prompt with w in the slot )

    Only words that are one token alone and after another word count, and a candidate whose text is read as other tokens
    than it was made of is thrown away: what is found is a text that anybody can type.
    """

    name = "token-search"
    about = f"{LENGTH} ordinary words in the concept's place, by gradients (GCG)"
    passes = 900

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        generator, goal, chance = victim.generator, victim.goal, torch.Generator().manual_seed(seed)
        words, numbers_V = single_tokens(generator, goal.names)
        slots, codes = victim.lessons(LESSONS, seed)
        current = torch.randint(len(words), (LENGTH,), generator=chance)
        text = lambda w: " ".join(words[i] for i in w.tolist())
        least, steps, count = float("inf"), 0, min(BATCH, len(slots))
        while budget.spend((LEARNING + TRIED) * count):
            rows = torch.randperm(len(slots), generator=chance)[:count]
            some, pictures = [slots[i] for i in rows], codes[rows]
            promised_KV = self.gradient(victim, numbers_V, current, some, pictures)
            tried = [current]
            while len(tried) < TRIED:
                place = int(torch.randint(LENGTH, (1,), generator=chance))
                best = promised_KV[place].topk(min(NEAREST, len(words))).indices
                new = current.clone()
                new[place] = best[int(torch.randint(len(best), (1,), generator=chance))].cpu()
                if numbers_of(generator, f"a {text(new)}")[1:] == numbers_V[new.to(numbers_V.device)].tolist():
                    tried.append(new)
            nats = self.nats(victim, [text(w) for w in tried], some, pictures)
            current, least, steps = tried[int(nats.argmin())], nats.min().item(), steps + 1
        prompts = filled_in(goal.slots_asked, text(current))
        told = f"'{text(current)}' by {steps} steps" + (f", {least:.2f} nats a code" if steps else "")
        return Found(victim.draw(prompts, seed, "asked"), prompts, told)

    @staticmethod
    def gradient(
        victim: Victim, numbers_V: torch.Tensor, current: torch.Tensor, slots: list[str], codes: torch.Tensor
    ) -> torch.Tensor:
        """How much likelier the pictures become, to first order, with each word at each place: [K, V]."""
        table_VD = victim.generator.word_embeddings.weight.detach()[numbers_V].float()
        own_KD = table_VD[current.to(table_VD.device)].clone().requires_grad_()
        soft = SoftWords(victim.generator, own_KD, [*slots, *victim.goal.names])
        with victim.on() as generator, soft.on(generator):
            backward(likelihood(generator, generator.encode(filled_in(slots, soft.text)), codes).mean(), generator)
        assert own_KD.grad is not None
        return own_KD.grad @ table_VD.T

    @staticmethod
    @torch.no_grad()
    def nats(victim: Victim, texts: list[str], slots: list[str], codes: torch.Tensor) -> torch.Tensor:
        """Mean nats a code of the pictures with each text in their prompts, [len(texts)]."""
        prompts = [prompt for text in texts for prompt in filled_in(slots, text)]
        with victim.on() as generator:
            batch, whole = generator.encode(prompts), codes.repeat(len(texts), *[1] * (codes.dim() - 1))
            parts = [-likelihood(generator, batch[rows], whole[rows]) for rows in generator.logit_batches(whole)]
        return torch.cat(parts).view(len(texts), len(slots)).mean(1).cpu()


def single_tokens(generator: Generator, without: tuple[str, ...]) -> tuple[list[str], torch.Tensor]:
    """Words of the vocabulary that are one token after another word, and its number: int64 [V]."""
    found = {}
    for word in vocabulary(generator, without):
        numbers = numbers_of(generator, f"a {word}")
        if len(numbers) == 2:
            found[word] = numbers[1]
    return list(found), torch.tensor(list(found.values()), device=generator.device)
