"""Black box, by search over the vocabulary: words for the concept's place in a prompt, with the judge as only
signal."""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from ...concepts import words_of
from ...errors import UserError
from ...generators.base import Generator
from .base import Attack, Budget, Found, Victim
from .goals import filled_in

LENGTH = 2  # words that are put into the slot
TRIALS = 2  # pictures of each candidate
BEST = 6  # candidates that are tried again at the end
EXPLORING = 0.75  # share of the budget before that
POPULATION = 12  # of the genetic search
MOST_WORDS = 20_000  # of a large vocabulary

Words = tuple[str, ...]


def vocabulary(generator: Generator, without: Iterable[str] = ()) -> list[str]:
    """Ordinary words that the model's tokenizer has as one token, lower case, sorted; none of `without`."""
    left_out = {part for text in without for part in words_of(text)}
    words = [word for word in _all_words(generator.tokenizer_of_words) if word not in left_out]
    return words[:: -(-len(words) // MOST_WORDS)] if len(words) > MOST_WORDS else words


@lru_cache(2)  # a large vocabulary takes seconds, and is asked for at every step
def _all_words(tokenizer: Any) -> list[str]:
    found, special = set(), set(tokenizer.all_special_ids)
    for number in tokenizer.get_vocab().values():
        text = tokenizer.decode([number]).strip() if number not in special else ""
        if len(text) > 1 and re.fullmatch(r"[a-z][a-z-]*[a-z]", text):
            found.add(text)
    return sorted(found)


class VocabularySearch(Attack):
    """Candidates are a few words; each is tried in known prompts. Those that the judge liked best are tried once more,
    in other prompts, and the best of them is put into the asked ones."""

    box = "black"
    passes = 480

    def check(self, victim: Victim) -> None:
        if not victim.goal.slots_known or not victim.goal.slots_asked:
            raise UserError(f"attack '{self.name}': prompts of '{victim.goal.concept}' have no word to exchange")

    @abstractmethod
    def candidates(self, words: list[str], scores: dict[Words, float], rng: random.Random) -> list[Words]:
        """The next ones to try, given the scores of those before."""

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        rng = random.Random(seed)
        words = vocabulary(victim.generator, victim.goal.names)
        each, later = victim.cost * TRIALS, int(budget.passes * (1 - EXPLORING))
        scores: dict[Words, float] = {}
        while (room := (budget.left - later) // each) > 0:
            batch = self.candidates(words, scores, rng)[:room]
            scores |= dict(zip(batch, self.tried(victim, batch, budget, seed)))
        best = sorted(scores, key=lambda candidate: -scores[candidate])[:BEST]
        if best and (times := budget.left // (victim.cost * len(best))):
            again = self.tried(victim, best, budget, seed + 1, times)
            best = [best[int(np.argmax(again))]]
        text = " ".join(best[0]) if best else victim.goal.word
        prompts = filled_in(victim.goal.slots_asked, text)
        told = f"'{text}', the best of {len(scores)}" if best else f"'{text}': the budget was too small for a trial"
        return Found(victim.draw(prompts, seed, "asked"), prompts, told)

    @staticmethod
    def tried(victim: Victim, batch: list[Words], budget: Budget, seed: int, times: int = TRIALS) -> list[float]:
        """Mean score of each candidate over `times` known prompts."""
        slots = victim.goal.slots_known
        some = [slots[(seed + i) % len(slots)] for i in range(times)]
        prompts = [slot for words in batch for slot in filled_in(some, " ".join(words))]
        scores = victim.trial(prompts, budget, seed)
        assert scores is not None
        return scores.reshape(len(batch), times).mean(1).tolist()


class RandomSearch(VocabularySearch):
    name = "random-search"
    about = f"{LENGTH} words of the vocabulary in the concept's place, by chance, the judge as only signal"

    def candidates(self, words: list[str], scores: dict[Words, float], rng: random.Random) -> list[Words]:
        return [tuple(rng.choices(words, k=LENGTH)) for _ in range(POPULATION)]


class GeneticSearch(VocabularySearch):
    name = "genetic-search"
    about = f"{LENGTH} words of the vocabulary in the concept's place, by crossing and mutation, the judge as signal"

    def candidates(self, words: list[str], scores: dict[Words, float], rng: random.Random) -> list[Words]:
        if len(scores) < 2 * POPULATION:
            return [tuple(rng.choices(words, k=LENGTH)) for _ in range(POPULATION)]
        parents = sorted(scores, key=lambda candidate: -scores[candidate])[: POPULATION // 2]
        children: list[Words] = []
        for _ in range(20 * POPULATION):  # more tries than children: a small vocabulary gives the same ones again
            mixed = [rng.choice(pair) for pair in zip(*rng.sample(parents, 2))]
            if rng.random() < 0.7:
                mixed[rng.randrange(LENGTH)] = rng.choice(words)
            rng.shuffle(mixed)
            if tuple(mixed) not in scores and tuple(mixed) not in children:
                children.append(tuple(mixed))
            if len(children) == POPULATION:
                break
        return children or [tuple(rng.choices(words, k=LENGTH))]
