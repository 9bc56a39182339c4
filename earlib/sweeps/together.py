"""Rows of several concepts at once, "church+boat" in book/sweeps.yml: what is erased together, how, which prompts open
it, and how each part is measured.

    erasure.form: composed        each part is erased alone, and the changes are added up when pictures are drawn (SPM,
    Eq. 9)
    erasure.form: joint           one erasure learns the pairs of all parts in turn, so that each pair is read as often
    as alone
    erasure.transport: none       every prompt opens the change wholly
    erasure.transport: overlap, similarity    facilitated transport (SPM, Eq. 9-11): by words that prompt and name
    share; or, where it is more, by what is
                                              read in the middle layer, less the mean over the prompts of `reference`

Each part is tested with its own prompts and its own judge; its pictures are as many as those of one concept alone.
Neighbours and benign prompts are those of all parts, without the parts themselves. A row has the sums over parts where
a row of one concept has its own, and in `rates` "parts" besides. What is asked for is in `plan.py`, rows of one concept
are measured in `measure.py`; figures of the table are in `composition.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

from ..concepts import Concept, list_concepts, load_concept, words_of
from .plan import JOIN, PROFILE, Row, concept_of

NAMES = {
    "vangogh": "van gogh"
}  # as people call what prompts put "in the style of van gogh": most prompts have one of "in", "the" and "of"
SEVERAL = 3  # prompts: what stands in fewer may be there by chance


def joined(parts: list[Concept]) -> Concept:
    """Several concepts as one to erase: their pairs in turn, and what has nothing to do with any of them, the other
    neighbours and benign prompts.

    It has no tests and no judge: each part has its own.
    """
    from ..erasure import concept_words

    erased, telling = {part.judge.get("label") for part in parts} - {None}, set().union(*map(telling_words, parts))
    in_turn = lambda groups: (item for same in itertools.zip_longest(*groups) for item in same if item is not None)
    free = lambda groups: tuple(p for p in dict.fromkeys(in_turn(groups)) if not telling & words_of(p))
    judges = {
        name: spec for part in parts for name, spec in part.neighbour_judges.items() if spec.get("label") not in erased
    }
    neighbours = {name: free([part.neighbours[name] for part in parts if name in part.neighbours]) for name in judges}
    return Concept(
        name=JOIN.join(part.name for part in parts),
        kind=parts[0].kind,
        pairs=tuple(in_turn([part.pairs for part in parts])),
        tests={},
        neighbours={name: prompts for name, prompts in neighbours.items() if prompts},
        neighbour_judges={name: spec for name, spec in judges.items() if neighbours[name]},
        benign=free([part.benign for part in parts]),
        judge={},
        words=tuple(dict.fromkeys(word for part in parts for word in part.words or concept_words(part))),
    )


def telling_words(concept: Concept) -> set[str]:
    """Words that several of its test prompts have and its neighbours' and benign prompts never: "church", "chapel",
    "worship"."""
    asked = Counter(
        word for kind in ("direct", "synonym", "indirect") for p in concept.tests.get(kind, ()) for word in words_of(p)
    )
    others = set().union(*(words_of(p) for group in (*concept.neighbours.values(), concept.benign) for p in group))
    return {word for word, prompts in asked.items() if prompts >= SEVERAL} - others


# ---------------------------------------------------------------- what is switched on


def added_up(erasures: list):
    """Erasures of one concept each as their sum, all of it always open; its `info` is theirs, added up."""
    from ..erasure.compose import compose

    members = compose(erasures)
    numbers = {name for e in erasures for name, value in e.info.items() if isinstance(value, (int, float))}
    return dataclasses.replace(members, info={name: sum(e.info[name] for e in erasures) for name in sorted(numbers)})


def opened_by_prompts(erasure, how: str):
    """The same erasure with facilitated transport: `how` is a value of erasure.transport."""
    from ..erasure.compose import compose

    if how == "none":
        return erasure
    erasures = getattr(erasure, "parts", (erasure,))
    return dataclasses.replace(
        compose(erasures, transport=transport_of([e.concept for e in erasures], how)), info=erasure.info
    )


def transport_of(concepts: list[str], how: str, profile: str = PROFILE):
    """Facilitated transport for erasures of these concepts; one of several ("church+boat") opens as far as the nearest
    of their names says."""
    from ..erasure.compose import Transport

    names = {concept: tuple(called(part, profile) for part in concept.split(JOIN)) for concept in concepts}
    return Transport(names, layer=None) if how == "overlap" else Transport(names, layer=0.5, centre=reference(profile))


def called(concept: str, profile: str = PROFILE) -> str:
    """What people call it: the one name that it is trained with, no synonym."""
    from ..erasure.training_free import name_of

    return NAMES.get(concept) or name_of(load_concept(concept, profile))


def reference(profile: str = PROFILE) -> tuple[str, ...]:
    """Prompts whose mean state is what all prompts share: of each shipped concept the replacements of its first 20
    pairs."""
    return tuple(
        dict.fromkeys(
            pair.replacement for name in list_concepts(profile) for pair in load_concept(name, profile).pairs[:20]
        )
    )


# ---------------------------------------------------------------- how it is measured


def measured(generator, row: Row, erasure) -> dict:
    """As `measure.measure` has it for one concept, of a row of several."""
    from ..evaluate.evaluation import Instruments
    from ..evaluate.judge import describe_all
    from ..evaluate.judges import load_judge
    from ..evaluate.pictures import draw_sets
    from .measure import choose, guided_drift

    concept = concept_of(row.concept, row.split)
    parts = {name: concept_of(name, row.split) for name in row.concept.split(JOIN)}
    judges = {name: load_judge(part.judge) for name, part in parts.items()}
    others = {name: load_judge(spec) for name, spec in concept.neighbour_judges.items()}
    tests = {
        (name, kind): prompts
        for name, part in parts.items()
        for (role, kind), prompts in choose(part, row).items()
        if role == "test"
    }
    sets = tests | choose(concept, row)
    benign = sets.get(("benign", ""), [])
    drawn = draw_sets(generator, sets, row.seed, erasure, progress=False)
    count = lambda judge, which: [int(judge.shows(drawn[which]).sum()), len(sets[which])]
    rates = {name: {kind: count(judges[name], (name, kind)) for of, kind in tests if of == name} for name in parts}
    kinds = dict.fromkeys(kind for _, kind in tests)
    clip = (
        Instruments(next(iter(judges.values())), fidelity=False)
        .clip_values(concept, drawn, {}, benign, 1)
        .get(("clip_score", "benign", "benign"))
    )
    return {
        "rates": {
            "concept": {
                kind: [sum(part[kind][i] for part in rates.values() if kind in part) for i in (0, 1)] for kind in kinds
            },
            "neighbours": {name: count(others[name], (role, name)) for role, name in sets if role == "neighbour"},
            "parts": rates,
        },
        "judge": {
            "concept": describe_all(judges.values()),
            "neighbours": describe_all(others.values()) if others else None,
        },
        "kl_drift": guided_drift(generator, row, benign, erasure) if benign else None,
        "clip": clip and [round(float(clip[0].mean()), 6), len(benign)],
        "in_prompt": None,
        "kid": None,
    }
