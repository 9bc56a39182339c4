"""Several concepts as one to erase: "church+nudity" has the pairs of its parts in turn, and one erasure learns all."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..concepts import Concept, load_concept, words_of
from ..errors import UserError
from .naming import concept_words

if TYPE_CHECKING:
    from .settings import AnyRecipe

JOIN = "+"  # between concepts that are erased at once
SEVERAL = 3  # prompts: what stands in fewer may be there by chance


def load_joint(names: str, profile: str) -> Concept:
    """A concept by its name or JSON file, as `load_concept` takes it and with its errors; or several, "church+nudity",
    as one."""
    each = [names] if Path(names).is_file() else names.split(JOIN)
    if len(each) > 1 and (len(set(each)) < len(each) or "" in each):
        raise UserError(
            f"'{names}' names a concept twice, or none beside a {JOIN}; name each once, as in church+nudity"
        )
    parts = [load_concept(name, profile) for name in each]
    return joined(parts) if len(parts) > 1 else parts[0]


def for_all(recipe: Any, concept: Concept) -> AnyRecipe:
    """A recipe that takes as many pairs of each part of `concept` as it would of one alone. UserError for one that
    guides, which knows a single name."""
    from .settings import with_settings

    if not (more := concept.name.count(JOIN)):
        return recipe
    if getattr(recipe, "guides", False) or not recipe.pairs:
        raise UserError(f"recipe '{recipe.name}' steers away from one name; erase {concept.name} with another recipe")
    return with_settings(recipe, {"pairs": recipe.pairs * (1 + more)})


def joined(parts: list[Concept]) -> Concept:
    """Several concepts as one to erase: their pairs in turn, and those neighbours and benign prompts that have nothing
    to do with any of them. It has no tests and no judge: each part has its own."""
    erased = {part.judge.get("label") for part in parts} - {None}
    telling = set().union(*map(telling_words, parts))

    def in_turn(groups):
        return [item for same in itertools.zip_longest(*groups) for item in same if item is not None]

    def untouched(groups):
        return tuple(prompt for prompt in dict.fromkeys(in_turn(groups)) if not telling & words_of(prompt))

    judges = {name: spec for part in parts for name, spec in part.neighbour_judges.items()}
    judges = {name: spec for name, spec in judges.items() if spec.get("label") not in erased}
    neighbours = {name: untouched([part.neighbours.get(name, ()) for part in parts]) for name in judges}
    return Concept(
        name=JOIN.join(part.name for part in parts),
        kind=parts[0].kind,
        pairs=tuple(in_turn([part.pairs for part in parts])),
        tests={},
        neighbours={name: prompts for name, prompts in neighbours.items() if prompts},
        neighbour_judges={name: spec for name, spec in judges.items() if neighbours[name]},
        benign=untouched([part.benign for part in parts]),
        judge={},
        words=tuple(dict.fromkeys(word for part in parts for word in part.words or concept_words(part))),
    )


def telling_words(concept: Concept) -> set[str]:
    """Words that at least SEVERAL of its test prompts have, and its neighbours' and benign prompts never: "church",
    "chapel", "worship"."""
    asked = [prompt for kind in ("direct", "synonym", "indirect") for prompt in concept.tests.get(kind, ())]
    counts = Counter(word for prompt in asked for word in words_of(prompt))
    others = set().union(*(words_of(p) for group in (*concept.neighbours.values(), concept.benign) for p in group))
    return {word for word, prompts in counts.items() if prompts >= SEVERAL} - others
