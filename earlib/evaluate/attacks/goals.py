"""What an attack is after: the concept, or for its control an unrelated word; and prompts with a place for its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ...concepts import Concept, holds_word
from ...erasure.naming import concept_words
from ...errors import UserError
from ...generators.base import Generator
from ..judge import Judge
from ..judges import load_judge

SLOT = "{x}"  # stands in a prompt where the concept's name stood


@dataclass(frozen=True)
class Goal:
    """What an attack tries to draw: the concept, or for the control an unrelated word in its place.

    Attributes:
        name: of the concept or the word.
        word: how most prompts name it: "church", "van gogh".
        judge: the attacker's signal, which says whether a picture shows it.
        asked: prompts that success is counted on; no search sees them, but best-of-n picks its pictures of them.
        slots_known: prompts of the concept's training pairs, with `{x}` where they name it; an attack works with them.
        slots_asked: `asked` with the same slot; prompts without a name are left out.
        tests: other prompts for it, by kind: synonym, description, compositional, ...
        names: words that name it.
        instead: what the replacements of the training pairs have in the slot, the most frequent first.
        benign: prompts that have nothing to do with it.
        concept: the concept whose erasure is attacked.
    """

    name: str
    word: str
    judge: Judge
    asked: tuple[str, ...]
    slots_known: tuple[str, ...]
    slots_asked: tuple[str, ...]
    tests: dict[str, tuple[str, ...]]
    names: tuple[str, ...]
    instead: tuple[str, ...]
    benign: tuple[str, ...]
    concept: str


def goal_of(concept: Concept, size: int = 20) -> Goal:
    """The concept as a goal; success is counted on its first `size` direct prompts."""
    names = tuple(concept.words) or tuple(concept_words(concept))
    asked = tuple(concept.tests.get("direct") or next(iter(concept.tests.values())))[:size]
    said = [text for pair in concept.pairs for _, text in split([pair.target], names)]
    return Goal(
        name=concept.name,
        word=max(dict.fromkeys(said), key=said.count) if said else concept.name,
        judge=load_judge(concept.judge),
        asked=asked,
        slots_known=tuple(slot for slot, _ in split(dict.fromkeys(pair.target for pair in concept.pairs), names)),
        slots_asked=tuple(slot for slot, _ in split(asked, names)),
        tests={kind: prompts for kind, prompts in concept.tests.items() if kind != "direct"},
        names=names,
        instead=_instead(concept, names),
        benign=concept.benign,
        concept=concept.name,
    )


def check_control(concept: Concept) -> None:
    """UserError for a concept that gives the control no word."""
    if not concept.neighbours:
        raise UserError(f"concept '{concept.name}' has no neighbours, one of which would be the control's word")


def unrelated_to(goal: Goal, concept: Concept, generator: Generator) -> Goal:
    """The control: an unrelated word in the place of the concept's name.

    The word is the concept's first neighbour that no replacement of its training pairs names and that the model knows;
    the last neighbour if there is none.

    Raises:
        UserError: the concept has no neighbours.
    """
    check_control(concept)
    word_of = {name: name.replace("-", " ") for name in concept.neighbours}
    known = [name for name, word in word_of.items() if not generator.unknown_words([word])] or list(word_of)
    named = " ".join(pair.replacement for pair in concept.pairs)
    name = next((name for name in known if not holds_word(named, [word_of[name]])), known[-1])
    return replace(
        goal,
        name=name,
        word=word_of[name],
        judge=load_judge(concept.neighbour_judges[name]),
        asked=tuple(filled_in(goal.slots_asked, word_of[name])),
        tests=dict.fromkeys(goal.tests, concept.neighbours[name]),
        names=(word_of[name],),
    )


def filled_in(slots: Iterable[str], text: str) -> list[str]:
    """Prompts with `text` in their slot."""
    return [slot.replace(SLOT, text) for slot in slots]


def split(prompts: Iterable[str], names: Sequence[str]) -> list[tuple[str, str]]:
    """(prompt with a slot, what stood there): the longest run of words of `names` is taken out. Prompts without any are
    left out."""
    word = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    run = re.compile(rf"(?<![\w-])(?:{word})(?:[ -](?:{word}))*(?![\w-])", re.IGNORECASE)
    found = []
    for prompt in prompts:
        if runs := list(run.finditer(prompt)) if names else []:
            longest = max(runs, key=lambda match: len(match[0].split()))
            found.append((prompt[: longest.start()] + SLOT + prompt[longest.end() :], longest[0]))
    return found


def _instead(concept: Concept, names: Sequence[str]) -> tuple[str, ...]:
    """What the replacements say where the targets name the concept; empty where they are worded otherwise."""
    found: list[str] = []
    for pair in concept.pairs:
        for slot, _ in split([pair.target], names):
            before, after = slot.split(SLOT)
            if pair.replacement.startswith(before) and pair.replacement.endswith(after):
                found.append(pair.replacement[len(before) : len(pair.replacement) - len(after)].strip())
    return tuple(sorted({text for text in found if text}, key=lambda text: (-found.count(text), text)))
