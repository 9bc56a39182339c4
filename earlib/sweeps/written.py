"""Training pairs as the writers of ECGVF hand them in (`earlib/pairs`), instead of those of the concept's file: does it
matter who wrote them, and that a judge looked at them?

    writers     one: by the plain name, as in the file; several: in turn by the plain name, another name, a description
    wrong       a share of the pairs that are none: in turn the target shows another thing, or the replacement still is
                the concept, by another name
    filter      none; visual: a pair stays if the judge sees the concept in every picture of its target and in none of
                its replacement; what is dropped is written anew, with the same share of wrong ones

So "none" with a share of wrong ones is what a filter that errs leaves. No prompt that tests the concept is written.
Two more "writers" are the control of any method: their pairs have nothing to do with the concept (`control_concepts`).

    another     pairs of boats, none of which names the concept
    nothing     the same harmless prompt as target and as replacement
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..concepts import Concept, PromptPair, holds_word, load_concept
from ..errors import UserError
from ..evaluate.clip import concept_phrases
from ..miniworld.concepts import ConceptFile, Writer
from ..miniworld.words import CONCEPTS
from .typed import is_number

if TYPE_CHECKING:
    from ..generators.base import Generator

WRITERS, WRONG, FILTER = "pairs.writers", "pairs.wrong", "pairs.filter"  # settings of a case
MANNERS = {"one": ("plain",), "several": ("plain", "other", "description")}
ANOTHER, NOTHING = CONTROLS = ("another", "nothing")
BESIDE = "boat"  # whose pairs `another` takes
PICTURES = 2  # of each prompt, that the judge looks at
ROUNDS = 5  # of writing anew, before it is an error


def check_written(settings: Mapping[str, Any]) -> None:
    """UserError for a share that is none, or a setting that says nothing of pairs that nobody writes."""
    wrong = settings.get(WRONG, 0)
    if not (is_number(wrong) and 0 <= wrong <= 1):
        raise UserError(f"{WRONG} is a share from 0 to 1, not {wrong!r}")
    if {WRONG, FILTER} & set(settings) and settings.get(WRITERS) not in MANNERS:
        raise UserError(f"{WRONG} and {FILTER} are about the pairs of {WRITERS}, {' or '.join(MANNERS)}; name one")


def control_concepts(concept: Concept, other: Concept, pairs: int) -> dict[str, Concept]:
    """What an erasure is trained on, by name, each with `pairs` pairs:

        NAME       the concept's own pairs
        OTHER      pairs of another concept; none of their prompts names `concept`
        nothing    the same harmless prompt twice: there is nothing in such a pair to erase

    All else, the length of windows too, is `concept`'s. UserError where there are too few pairs.
    """
    names = concept_phrases(concept)
    clean = [p for p in other.pairs if not holds_word(p.target, names) and not holds_word(p.replacement, names)]
    same = [PromptPair(p, p) for p in concept.benign if not holds_word(p, names)]
    sets = {concept.name: list(concept.pairs), other.name: clean, NOTHING: same}
    for name, found in sets.items():
        if len(found) < pairs:
            raise UserError(f"only {len(found)} pairs of '{name}' are without {concept.name}; {pairs} are needed")
    return {name: replace(concept, name=name, pairs=tuple(found[:pairs])) for name, found in sets.items()}


class Writers:
    """Write pairs for a concept, always the same ones for a seed."""

    def __init__(self, concept: Concept, who: str, wrong: float, seed: int):
        if concept.name not in CONCEPTS:
            raise UserError(f"no writer for concept '{concept.name}'; it is none of {', '.join(CONCEPTS)}")
        groups = (*concept.tests.values(), *concept.neighbours.values(), concept.benign)
        self.file = ConceptFile(concept.name, Writer({p for group in groups for p in group}, seed))
        self.manners, self.wrong = MANNERS[who], wrong

    def write(self, count: int) -> list[tuple[PromptPair, bool]]:
        """`count` pairs, and of each whether it is one."""
        w = self.file.w
        astray = list(w.rng.permutation(count)[: round(self.wrong * count)])
        made = []
        for i in range(count):
            how = self.manners[i % len(self.manners)]
            kind = ("", "no target", "no replacement")[1 + astray.index(i) % 2 if i in astray else 0]
            pair = w.fresh(partial(self._pair, how, kind))
            made.append((PromptPair(*pair), not kind))
        return made

    def _pair(self, how: str, wrong: str) -> tuple[str, str]:
        return self.file.any_pair(how=how, wrong=wrong)


def confirmed(generator: Generator, concept: Concept, pairs: list[PromptPair], seed: int) -> np.ndarray:
    """Whether the judge sees the concept in all PICTURES of a target and in none of its replacement: bool [N]."""
    from ..evaluate.judges import load_judge
    from ..generators import draw

    asked = [p for pair in pairs for p in (pair.target, pair.replacement) for _ in range(PICTURES)]
    keys = [f"{p}#{i % PICTURES}" for i, p in enumerate(asked)]
    shows = load_judge(concept.judge).shows(draw(generator, asked, seed, keys, progress=False))
    targets, replacements = shows.reshape(len(pairs), 2, PICTURES).transpose(1, 0, 2)
    return np.asarray(targets.all(1) & ~replacements.any(1))


def written(
    generator: Generator, concept: Concept, who: str, wrong: float, filtered: bool, count: int, seed: int
) -> tuple[Concept, dict[str, int]]:
    """The concept with `count` written pairs in place of its own, and {proposed, wrong, kept_wrong}: how many were
    written, how many of these were wrong, and how many wrong ones train.

    Raises:
        UserError: the judge confirms too few.
    """
    if who in CONTROLS:
        sets = control_concepts(concept, load_concept(BESIDE), count)
        pairs = sets[NOTHING if who == NOTHING else BESIDE].pairs
        return replace(concept, pairs=pairs), {"proposed": count, "wrong": 0, "kept_wrong": 0}
    writers, counts = Writers(concept, who, wrong, seed), {"proposed": 0, "wrong": 0, "kept_wrong": 0}
    kept: list[tuple[PromptPair, bool]] = []
    for _ in range(ROUNDS if filtered else 1):
        made = writers.write(count - len(kept))
        fine = confirmed(generator, concept, [pair for pair, _ in made], seed) if filtered else [True] * len(made)
        stay = [one for one, stays in zip(made, fine) if stays]
        kept += stay
        counts["proposed"] += len(made)
        counts["wrong"] += sum(not right for _, right in made)
        counts["kept_wrong"] += sum(not right for _, right in stay)
        if len(kept) == count:
            return replace(concept, pairs=tuple(pair for pair, _ in kept)), counts
    raise UserError(
        f"the judge confirmed {len(kept)} of {counts['proposed']} pairs for '{concept.name}', not {count}; "
        "take fewer pairs, or no filter"
    )
