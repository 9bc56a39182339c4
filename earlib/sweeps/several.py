"""Several concepts erased at once: "church+boat" is one concept whose pairs are those of its parts in turn.

Either one erasure learns all of them (form "joint"), or one learns each: from the base model, and their changes are
added up ("composed"), or from the model that has lost those before it ("sequential"). Adapters that are added up may
each have a regulator that opens it by prompt ("facilitated transport" of SPM, Lyu et al. 2024, arXiv 2312.16145):

    none          always open
    overlap       as far as a prompt shares words with what people call the concept
    similarity    also as far as a prompt resembles the name in the middle layer, less the mean over `reference` prompts
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..concepts import list_concepts, load_concept
from ..erasure.joint import JOIN
from ..errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from ..erasure.compose import Membranes, Transport
    from ..erasure.settings import AnyRecipe
    from ..erasure.store import Erasure
    from ..generators.base import Generator


def check_form(recipe: AnyRecipe, form: str, transport: str) -> None:
    """UserError for a recipe whose erasures cannot be put together in this form, or opened by prompts."""
    rank, matrices = getattr(recipe, "rank", 0), hasattr(recipe, "lr") or getattr(recipe, "method", "") == "uce"
    if transport != "none" and not rank:
        raise UserError("only adapters can be switched on prompt by prompt; give the recipe a rank, such as rank: 1")
    if form != "joint" and not (rank or matrices):
        raise UserError(f"recipe '{recipe.name}' changes no weights that could be added up; only joint is left")
    if form == "sequential" and not rank and (positions := getattr(recipe, "positions", "all")) != "all":
        where = f"acts at positions={positions} only, where the next one would not see its change"
        raise UserError(f"recipe '{recipe.name}' {where}; only joint and composed are left")


def added_up(erasures: list[Erasure], generator: Generator) -> Erasure | Membranes:
    """Erasures of one concept each as their sum, always open; its `info` adds up theirs. Whole matrices are
    W + sum_c (W_c - W)."""
    from ..erasure.compose import compose

    info = summed(erasures)
    if all(".lora_" in name for erasure in erasures for name in erasure.tensors):
        return dataclasses.replace(compose(erasures), info=info)
    tensors: dict[str, Tensor] = {}
    for erasure in erasures:
        for name, t in erasure.tensors.items():
            own = generator.trunk.get_parameter(name).detach()
            tensors[name] = tensors.get(name, own) + (t - own)
    return dataclasses.replace(erasures[0], concept=name_of_all(erasures), tensors=tensors, info=info)


def on_top(first: Erasure | Membranes, then: Erasure) -> Erasure | Membranes:
    """`first` and what was trained after it (`afterwards`) as one."""
    from ..erasure.compose import compose

    info = summed([first, then])
    then = dataclasses.replace(then, generator_fingerprint=first.generator_fingerprint)
    if all(".lora_" in name for name in then.tensors):
        return dataclasses.replace(compose([*getattr(first, "parts", [first]), then]), info=info)
    return dataclasses.replace(
        then, concept=name_of_all([first, then]), tensors={**first.tensors, **then.tensors}, info=info
    )


@contextmanager
def afterwards(generator: Generator, erasure: Erasure | Membranes) -> Iterator[None]:
    """The context in which `generator` has lost a concept for good, so that `erase` begins there: it goes by another
    fingerprint, as pictures that are kept for training are those of the whole model otherwise."""
    own = generator.fingerprint
    with erasure.on(generator):
        generator.fingerprint = f"{own}+{erasure.change_hash}"
        try:
            yield
        finally:
            generator.fingerprint = own


def summed(erasures: list) -> dict:
    """The numbers in the `info` of erasures, added up."""
    numbers = {name for e in erasures for name, value in e.info.items() if isinstance(value, (int, float))}
    return {name: sum(e.info.get(name, 0) for e in erasures) for name in sorted(numbers)}


def name_of_all(erasures: list) -> str:
    """What composed erasures are called."""
    return " + ".join(erasure.concept for erasure in erasures)


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

    return name_of(load_concept(concept, profile))


def reference(profile: str = "mini") -> tuple[str, ...]:
    """Prompts whose mean state is what all prompts share: of each shipped concept the replacements of its first 20
    pairs."""
    concepts = [load_concept(name, profile) for name in list_concepts(profile)]
    return tuple(dict.fromkeys(pair.replacement for concept in concepts for pair in concept.pairs[:20]))


# ---------------------------------------------------------------- tables of several concepts


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `read.load` with the columns `count` (of concepts), `form` (base, alone, joint, composed, sequential) and
    `transport`. One concept alone has no form: where a table has it in two, it stands there once."""
    asked = frame["erasure.form"] if "erasure.form" in frame else frame.recipe.map(lambda _: None)
    ways = frame["erasure.transport"] if "erasure.transport" in frame else frame.recipe.map(lambda _: None)
    count = frame.concept.map(lambda concept: concept.count(JOIN) + 1)
    form = asked.fillna("joint").mask(count == 1, "alone").mask(frame.recipe.isna(), "base")
    twice = (count == 1) & (asked == "joint")
    return frame.assign(count=count, form=form, transport=ways.fillna("none"))[~twice].reset_index(drop=True)


def by_number(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `counted`, of one recipe, pooled over the sets of as many concepts: a row for each count, form and
    transport.

    Rows of one concept alone stand for every form, so that lines have a beginning. `direct`, `synonym`, `neighbours`
    and `unfinished` are Rates; `kl_drift` and `clip` are Estimates, the mean over the sets with the least and the
    greatest. None where no set has one.
    """
    import pandas as pd

    from ..evaluate.rate import Estimate, Rate

    rows, forms = [], [form for form in frame.form.unique() if form not in ("base", "alone")]
    for (count, form, transport), group in frame[frame.direct.notna()].groupby(["count", "form", "transport"]):
        row = {"count": count, "transport": transport, "sets": len(group)}
        for kind in ("direct", "synonym", "neighbours", "unfinished"):
            rates = [rate for rate in group[kind] if rate is not None]
            row[kind] = Rate.pooled(rates) if rates else None
        for name in ("kl_drift", "clip"):
            means = [mean.value for mean in group[name] if mean is not None]
            row[name] = Estimate(sum(means) / len(means), len(means), min(means), max(means)) if means else None
        rows += [row | {"form": name} for name in (forms if form == "alone" else (form,))]
    return pd.DataFrame(rows).sort_values(["form", "transport", "count"]).reset_index(drop=True)


def each_part(frame: pd.DataFrame) -> pd.DataFrame:
    """How often each concept is drawn when it is asked for by name, in per cent: before, alone, and among others that
    are open to every prompt. Rows of `counted`."""
    import pandas as pd

    rows: dict[str, dict] = {}
    wanted = frame[(frame.form == "base") | (frame.transport == "none")].sort_values("count", kind="stable")
    for row in wanted.to_dict("records"):
        if row["form"] == "base" and row["count"] > 1:
            continue
        heading = {"base": "before", "alone": "alone"}.get(row["form"], f"{row['form']}, {row['count']}")
        for part, rates in row["parts"].items():
            if "direct" in rates:
                rows.setdefault(part, {})[heading] = rates["direct"].text()
    return pd.DataFrame(rows).T.fillna("").rename_axis("per cent")
