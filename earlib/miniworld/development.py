"""Development prompts: other prompts for MiniWorld's concepts, to choose a recipe on before it is reported on the
concepts' own test prompts.

They are composed as those of the files are (`concepts.py`), with another seed. None of them stands anywhere in the
concept's file, nor among the training pairs of another concept, which preservation may read. Odd prompts are written by
hand, and there are no others.

Beside them the control of any method: the same concept, trained on a word that means nothing.
"""

from __future__ import annotations

from dataclasses import replace

from ..concepts import Concept, PromptPair, holds_word, list_concepts, load_concept, renamed
from ..errors import UserError
from .concepts import SEED, ConceptFile, Writer
from .words import CONCEPTS

NONSENSE = "blick"


def development(concept: Concept) -> Concept:
    """`concept` with fresh tests, neighbours and benign prompts, as many of each as it has in its file; the training
    pairs stay. Always the same ones.

    Raises UserError for a concept that is not MiniWorld's.
    """
    if concept.name not in CONCEPTS:
        raise UserError(
            f"there are no development prompts for concept '{concept.name}': they are composed for "
            f"{', '.join(CONCEPTS)} only; use split: test"
        )
    groups = (*concept.tests.values(), *concept.neighbours.values(), concept.benign)
    pairs = [*concept.pairs, *(pair for name in list_concepts("mini") for pair in load_concept(name, "mini").pairs)]
    taken = {p for pair in pairs for p in (pair.target, pair.replacement)} | {p for group in groups for p in group}
    made = ConceptFile(concept.name, Writer(taken, SEED + 1))
    tests, neighbours = made.tests(), made.neighbours()
    return replace(
        concept,
        tests={kind: tuple(prompts) for kind, prompts in tests.items() if kind != "odd"},
        neighbours={n["name"]: tuple(n["prompts"]) for n in neighbours},
        neighbour_judges={n["name"]: n["judge"] for n in neighbours},
        benign=tuple(made.benign()),
    )


def nonsense(concept: Concept) -> Concept:
    """`concept` with a word that means nothing in place of its name in the pairs that train; all tests, neighbours and
    judges stay, and should not notice.

    Raises UserError for a concept whose pairs do not name it by one of its words.
    """
    names = sorted(concept.words or (concept.name,), key=len, reverse=True)  # "nude figure" before "nude"
    word = lambda target: holds_word(target, names) or names[0]
    targets = [renamed([pair.target], word(pair.target), NONSENSE)[0] for pair in concept.pairs]
    return replace(
        concept,
        pairs=tuple(PromptPair(target, pair.replacement) for target, pair in zip(targets, concept.pairs)),
        words=(),
    )
