"""Several concepts erased at once: "church+boat" is one concept whose pairs are those of its parts in turn.

Either one erasure learns all of them (form "joint"), or erasures of one concept each are added up ("composed"), each
with a regulator that may open it by prompt ("facilitated transport" of SPM, Lyu et al. 2024, arXiv 2312.16145):

    none          always open
    overlap       as far as a prompt shares words with what people call the concept
    similarity    also as far as a prompt resembles the name in the middle layer, less the mean over `reference` prompts
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import TYPE_CHECKING

from ..concepts import Concept, list_concepts, load_concept, words_of

if TYPE_CHECKING:
    import pandas as pd

    from ..erasure.compose import Membranes, Transport
    from ..erasure.store import Erasure

JOIN = "+"  # between concepts that are erased at once
NAMES = {
    "vangogh": "van gogh"
}  # prompts say "in the style of van gogh", but most prompts have one of those small words
SEVERAL = 3  # prompts: what stands in fewer may be there by chance


def joined(parts: list[Concept]) -> Concept:
    """Several concepts as one to erase: their pairs in turn, and those neighbours and benign prompts that have nothing
    to do with any of them. It has no tests and no judge: each part has its own."""
    from ..erasure import concept_words

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


def added_up(erasures: list[Erasure]) -> Membranes:
    """Erasures of one concept each as their sum, always open; its `info` adds up theirs."""
    from ..erasure.compose import compose

    numbers = {name for e in erasures for name, value in e.info.items() if isinstance(value, (int, float))}
    info = {name: sum(e.info[name] for e in erasures) for name in sorted(numbers)}
    return dataclasses.replace(compose(erasures), info=info)


def opened_by_prompts(erasure: Erasure | Membranes, how: str) -> Erasure | Membranes:
    """The same erasure with facilitated transport: `how` is "none", "overlap" or "similarity"."""
    from ..erasure.compose import compose

    if how == "none":
        return erasure
    erasures = getattr(erasure, "parts", (erasure,))
    opened = compose(erasures, transport=transport_of([e.concept for e in erasures], how))
    return dataclasses.replace(opened, info=erasure.info)


def transport_of(concepts: list[str], how: str, profile: str = "mini") -> Transport:
    """Facilitated transport for erasures of these concepts; one of several ("church+boat") opens as far as the nearest
    of their names says."""
    from ..erasure.compose import Transport

    names = {concept: tuple(called(part, profile) for part in concept.split(JOIN)) for concept in concepts}
    return Transport(names, layer=None) if how == "overlap" else Transport(names, layer=0.5, centre=reference(profile))


def called(concept: str, profile: str = "mini") -> str:
    """What people call a concept: the one name that it is trained with, no synonym."""
    from ..erasure.naming import name_of

    return NAMES.get(concept) or name_of(load_concept(concept, profile))


def reference(profile: str = "mini") -> tuple[str, ...]:
    """Prompts whose mean state is what all prompts share: of each shipped concept the replacements of its first 20
    pairs."""
    concepts = [load_concept(name, profile) for name in list_concepts(profile)]
    return tuple(dict.fromkeys(pair.replacement for concept in concepts for pair in concept.pairs[:20]))


# ---------------------------------------------------------------- tables of several concepts


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `read.load` with the columns `count` (of concepts), `form` (base, alone, composed, joint) and
    `transport`. One concept alone is neither composed nor joint: it stands there once."""
    forms = frame["erasure.form"] if "erasure.form" in frame else frame.recipe.map(lambda _: "joint")
    ways = frame["erasure.transport"] if "erasure.transport" in frame else forms.map(lambda _: "none")
    count = frame.concept.map(lambda concept: concept.count(JOIN) + 1)
    form = forms.mask(count == 1, "alone").mask(frame.recipe.isna(), "base")
    twice = (count == 1) & (forms == "joint") & ("erasure.form" in frame)
    return frame.assign(count=count, form=form, transport=ways.fillna("none"))[~twice].reset_index(drop=True)


def by_number(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `counted`, pooled over the sets of as many concepts: a row for each count, form and transport.

    Rows of one concept alone stand for either form, so that lines have a beginning. `direct`, `synonym` and
    `neighbours` are Rates; `kl_drift` and `clip` are Estimates, the mean over the sets with the least and the greatest.
    """
    import pandas as pd

    from ..evaluate.rate import Estimate, Rate

    rows = []
    for (count, form, transport), group in frame[frame.direct.notna()].groupby(["count", "form", "transport"]):
        row = {"count": count, "transport": transport, "sets": len(group)}
        row |= {kind: Rate.pooled(group[kind]) for kind in ("direct", "synonym", "neighbours")}
        for name in ("kl_drift", "clip"):
            means = [mean.value for mean in group[name] if mean is not None]
            row[name] = Estimate(sum(means) / len(means), len(means), min(means), max(means)) if means else None
        rows += [row | {"form": name} for name in (("composed", "joint") if form == "alone" else (form,))]
    return pd.DataFrame(rows).sort_values(["form", "transport", "count"]).reset_index(drop=True)


def each_part(frame: pd.DataFrame, kind: str = "direct", transport: str = "none") -> pd.DataFrame:
    """How often each concept is drawn, in per cent: before, alone, and among others. Rows of `counted`."""
    import pandas as pd

    rows: dict[str, dict] = {}
    wanted = frame[(frame.form == "base") | (frame.transport == transport)].sort_values("count", kind="stable")
    for row in wanted.to_dict("records"):
        if row["form"] == "base" and row["count"] > 1:
            continue
        heading = {"base": "before", "alone": "alone"}.get(row["form"], f"{row['form']}, {row['count']}")
        for part, rates in row["parts"].items():
            if kind in rates:
                rows.setdefault(part, {})[heading] = rates[kind].text()
    return pd.DataFrame(rows).T.fillna("").rename_axis("per cent")
