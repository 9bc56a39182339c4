"""How a concept is called, by its prompts, and which prompts have nothing to do with it."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher

from ..concepts import Concept, holds_word, list_concepts, load_concept, normal, words_of
from ..errors import UserError

LOOSE = ("a", "an", "and", "as", "at", "by", "in", "of", "on", "the", "with")  # words that end no name
RETAINED = 200  # prompts that preservation reads, at most


def name_of(concept: Concept) -> str:
    """How prompts name the concept: the first of its `words`, or else the phrase that most targets have where their
    replacement says something else.

    Of phrases that as many targets share, the longest: "church"; "nude figure"; "in the style of van gogh". UserError
    if there is none.
    """
    if concept.words:
        return concept.words[0]
    shared: Counter[tuple[str, ...]] = Counter()
    for pair in concept.pairs:
        target, other = (re.findall(r"[\w-]+", prompt.casefold()) for prompt in (pair.target, pair.replacement))
        aligned = SequenceMatcher(None, target, other, autojunk=False).get_opcodes()
        own = [(a, b) for kind, a, b, *_ in aligned if kind in ("replace", "delete")]
        phrases = {tuple(target[i:j]) for a, b in own for i in range(a, b) for j in range(i + 1, b + 1)}
        shared.update(phrase for phrase in phrases if phrase[-1] not in LOOSE)
    if not shared:
        raise UserError(
            f"no words are what all prompt pairs of concept '{concept.name}' replace, so that its name is unknown; "
            "set text=NAME"
        )
    *_, phrase = min((-count, -len(phrase), phrase) for phrase, count in shared.items())
    return " ".join(phrase)


def name_of_replacements(concept: Concept) -> str:
    """What the replacements of a concept's pairs name; empty where they are the targets without a few words."""
    turned = [dataclasses.replace(p, target=p.replacement, replacement=p.target) for p in concept.pairs]
    try:
        return name_of(dataclasses.replace(concept, pairs=tuple(turned), words=()))
    except UserError:
        return ""


def names_of(concepts: Iterable[Concept]) -> dict[str, tuple[str, ...]]:
    """What prompts call each of several concepts: their `words`, or the name that their prompt pairs share."""
    return {concept.name: tuple(concept.words) or (name_of(concept),) for concept in concepts}


def retain_prompts(concept: Concept, profile: str, most: int = RETAINED) -> list[str]:
    """Prompts without `concept`, to stay what they are while it is erased: both halves of the training pairs of all
    other shipped concepts.

    Left out are prompts that name the concept or one of whose words only its training targets have, everything that
    tests it, and content that nobody wants drawn (targets of concepts of kind "content"). Always the same ones, at most
    `most`.
    """
    words = list(concept.words) or concept_words(concept)
    groups = (*concept.tests.values(), *concept.neighbours.values(), concept.benign)
    tests, found = {normal(p) for group in groups for p in group}, []
    for name in list_concepts(profile):
        other = load_concept(name, profile)
        sides = ("replacement",) if other.kind == "content" else ("target", "replacement")
        if other.name != concept.name:
            found += [getattr(pair, side) for pair in other.pairs for side in sides]
    found = [p for p in dict.fromkeys(found) if normal(p) not in tests and not holds_word(p, words)]
    step = max(1, len(found) // most)
    return found[::step][:most]


def concept_words(concept: Concept) -> list[str]:
    """The words that the concept's targets have and their replacements never: "church"; "van", "gogh"."""
    words = lambda side: set().union(*(words_of(getattr(pair, side)) for pair in concept.pairs))
    return sorted(words("target") - words("replacement"))
