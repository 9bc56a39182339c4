"""White box, by a learned word: vectors that stand in the place of the concept's name (concept inversion; Pham et al.
2023, arXiv 2308.01508, after textual inversion; in language models Schwinn et al. 2024, arXiv 2402.09063).

Letters: K vectors, B prompts, P their positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ...erasure.hardened import word_rate
from ...errors import UserError
from ...generators.base import Generator
from .base import LEARNING, Attack, Budget, Found, Victim, backward, likelihood, unrecorded
from .goals import filled_in
from .search import vocabulary

BATCH = 4  # pictures in one step
LESSONS = 16  # pictures of the goal to learn from


class SoftWords:
    """K vectors under K words that no prompt of the attack has, so that prompts stay texts: `text` goes into a slot.

    Args:
        generator: whose words they are.
        vectors_KD: the vectors.
        without: prompts and names whose words are not taken.

    Raises:
        UserError: the vocabulary has no K words left.
    """

    def __init__(self, generator: Generator, vectors_KD: torch.Tensor, without: Sequence[str]):
        self.vectors_KD, self.numbers = vectors_KD, []
        words: list[str] = []
        for word in vocabulary(generator, without):
            if len(words) == len(vectors_KD):
                break
            numbers = [numbers_of(generator, text) for text in (word, f"a {word}")]
            if len(numbers[0]) == 1 and len(numbers[1]) > 1:
                words.append(word)
                self.numbers.append(sorted({numbers[0][0], numbers[1][-1]}))
        if len(words) < len(vectors_KD):
            raise UserError(f"{generator.name} has no {len(vectors_KD)} words that could stand for learned vectors")
        self.text = " ".join(words)

    @contextmanager
    def on(self, generator: Generator) -> Iterator[None]:
        """Within the context the words are looked up as the vectors."""
        with unrecorded(generator, [generator.word_embeddings.register_forward_hook(self._look_up)]):
            yield

    def _look_up(self, module: Any, args: Any, output_BPD: torch.Tensor) -> torch.Tensor:
        ids_BP = args[0]
        for numbers, vector_D in zip(self.numbers, self.vectors_KD):
            here_BP = torch.isin(ids_BP, torch.tensor(numbers, device=ids_BP.device))
            output_BPD = torch.where(here_BP[..., None], vector_D.to(output_BPD.dtype), output_BPD)
        return output_BPD


def numbers_of(generator: Generator, text: str) -> list[int]:
    """Token numbers of a text, without any that begin or end it."""
    return generator.tokenizer_of_words(text, add_special_tokens=False)["input_ids"]


def start_of(victim: Victim, count: int) -> tuple[str, torch.Tensor]:
    """(the word to start from, its embedding [count, D]): what the replacements of the training pairs have in the
    concept's place, a mean over its tokens."""
    generator = victim.generator
    word = next(iter(victim.goal.instead), "thing")
    numbers = torch.tensor(numbers_of(generator, f"a {word}"), device=generator.device)[1:]
    vector_D = generator.word_embeddings.weight.detach()[numbers].float().mean(0)
    return word, vector_D.repeat(count, 1)


class ByGradients(Attack):
    """An attack that looks for what to put in the place of the concept's name by gradients at word embeddings."""

    box = "white"

    def check(self, victim: Victim) -> None:
        if not victim.generator.words_learn:
            raise UserError(f"attack '{self.name}': the text encoder of {victim.generator.name} passes no gradients")
        if not victim.goal.slots_known or not victim.goal.slots_asked:
            raise UserError(f"attack '{self.name}': prompts of '{victim.goal.concept}' have no word to exchange")


class SoftPrompt(ByGradients):
    """Learn the vectors from the base model's pictures of the goal, under known prompts:

    v = argmax mean_x 1/L log p( x | prompt with v in the slot )
    """

    passes = 1200

    def __init__(self, count: int):
        self.count = count
        self.name = "soft-prompt" if count == 1 else f"soft-prompt-{count}"
        self.about = f"{count} learned vector{'s' if count > 1 else ''} in the concept's place"

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        goal = victim.goal
        start, vectors_KD = start_of(victim, self.count)
        soft = SoftWords(victim.generator, vectors_KD, [*goal.slots_known, *goal.slots_asked, *goal.names, start])
        slots, codes = victim.lessons(LESSONS, seed)
        losses = learn(victim, soft, slots, codes, budget, seed)
        prompts = filled_in(goal.slots_asked, soft.text)
        with soft.on(victim.generator), torch.no_grad():
            drawn = victim.draw(prompts, seed, "asked")
        told = f"from '{start}' by {len(losses)} steps"
        told += f", {losses[0]:.2f} to {sum(losses[-5:]) / len(losses[-5:]):.2f} nats a code" if losses else ""
        return Found(drawn, filled_in(goal.slots_asked, "*"), told, tensors={"vectors": soft.vectors_KD})


def learn(
    victim: Victim, soft: SoftWords, slots: list[str], codes: torch.Tensor, budget: Budget, seed: int
) -> list[float]:
    """Steps of Adam on the vectors of `soft` until the budget is spent; the mean nats a code at each."""
    soft.vectors_KD = torch.nn.Parameter(soft.vectors_KD.clone())
    optimizer = torch.optim.Adam([soft.vectors_KD], word_rate(victim.generator))
    prompts, order = filled_in(slots, soft.text), torch.Generator().manual_seed(seed)
    losses: list[float] = []
    with victim.on() as generator, soft.on(generator):
        while budget.spend(LEARNING * min(BATCH, len(prompts))):
            rows = torch.randperm(len(prompts), generator=order)[:BATCH]
            loss = -likelihood(generator, generator.encode([prompts[i] for i in rows]), codes[rows]).mean()
            optimizer.zero_grad()
            backward(loss, generator)
            optimizer.step()
            losses.append(loss.item())
    soft.vectors_KD = soft.vectors_KD.detach()
    return losses
