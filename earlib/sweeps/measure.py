"""Measure one row of a table: train what it asks for, draw its prompts, judge the pictures. What a measured row holds
stands in `read.py`."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..concepts import holds_word
from ..erasure.joint import JOIN
from ..errors import UserError
from .attacked import attacked
from .keys import chosen, concept_of, prompts, unseen, weights
from .plan import ASKED, TABLE_VERSION, Row
from .several import added_up, afterwards, on_top, opened_by_prompts
from .written import written

if TYPE_CHECKING:
    import torch

    from ..concepts import Concept
    from ..erasure.store import Erasure
    from ..evaluate.judge import Judge

DIVERGED = re.compile(r"the loss is (nan|-?inf)|infinite or not a number")
OTHER = 1000  # added to a seed for an oracle's pictures with other noise: KID supposes independent ones
LAST = 6  # erasures kept: rows of several strengths follow each other, and rows that are composed of the same parts
_trained: dict = {}  # training key -> (erasure, seconds of one core)
_oracle_codes: dict = {}  # (oracle, prompts, seed) -> what it drew; rows that share them follow each other
_benign: dict = {}  # codes of the last concept's and seed's benign pictures: rows that share them follow each other


def load_model(model: str):
    """The model of a row, of either family, on the CPU: tables compare what one kind of machine computes."""
    from ..generators import load_generator

    return load_generator(model, device="cpu")


def choose(concept: Concept, row: Row) -> dict[tuple[str, str], list[str]]:
    """The prompts of a row: ("test", kind), ("neighbour", name) or ("benign", "") -> prompts. Seed s takes the s-th n
    of them, round and round."""
    names = list(concept.neighbours)
    each, more = divmod(row.pictures["neighbours"], max(1, len(names)))
    wanted = {("test", kind): (group, row.pictures.get(kind, 0)) for kind, group in concept.tests.items()}
    wanted |= {("neighbour", name): (concept.neighbours[name], each + (i < more)) for i, name in enumerate(names)}
    wanted["benign", ""] = concept.benign, row.pictures["benign"]
    return {
        which: [group[(row.seed * n + i) % len(group)] for i in range(n)] for which, (group, n) in wanted.items() if n
    }


def measure(generator, row: Row) -> dict:
    """Train what `row` asks for on its model, loaded as `generator`, and measure it.

    Returns:
        dict: a row as `read.py` describes it; with `failed` in place of numbers where training diverged.

    Raises:
        UserError: anything else that is wrong.
    """
    found = {name: getattr(row, name) for name in ASKED} | {"key": row.key(), "version": TABLE_VERSION}
    found |= {"weights": weights(row.model), "prompts": prompts(row.concept, row.split)}
    found |= {"fingerprint": generator.fingerprint, "chosen": None if row.recipe is None else chosen(row.preset())}
    erasure = None
    try:
        if row.recipe is not None:
            erasure, core = erasure_of(generator, row)
            for name in ("seconds", "seconds_sampling", "windows_trained", "windows_skipped"):
                found[name] = erasure.info.get(name)
            found |= {"written": erasure.info["written"]} if "written" in erasure.info else {}
            found |= {"seconds_core": round(core, 2), "megabytes": round(erasure.megabytes, 4)}
            found["change_size"] = _size(generator, erasure, row.strength)
            erasure = replace(opened_by_prompts(erasure, row.transport), strength=row.strength)
        began = time.perf_counter()
        if row.attack:
            asked = choose(concept_of(row.concept, row.split), row)["test", "direct"]
            found |= attacked(generator, row, erasure, asked)
        else:
            found |= _measured(generator, row, erasure)
    except UserError as error:
        if not DIVERGED.search(str(error)):
            raise
        return found | {"failed": str(error)}
    return found | {"seconds_measuring": round(time.perf_counter() - began, 2)}


def erasure_of(generator, row: Row) -> tuple[Erasure, float]:
    """(the erasure that a row asks for, open to all prompts and at strength 1; what training it took of one core, in
    seconds). The LAST ones are kept."""
    from ..erasure import erase

    key = row.training()
    if key not in _trained:
        if row.form == "composed":
            parts, cores = zip(*(erasure_of(generator, part) for part in row.alone()))
            made = added_up(parts, generator), sum(cores)
        elif row.form == "sequential":
            first, core = erasure_of(generator, row.before())
            last, began = row.alone()[-1], time.process_time()
            with afterwards(generator, first):
                then = erase(generator, last.trained_on, last.preset(), seed=last.seed, progress=False)
            made = on_top(first, then), core + time.process_time() - began
        else:
            concept, began = row.trained_on, time.process_time()
            if row.pairs:
                who, wrong, how = row.pairs
                count = row.preset().pairs
                concept, counts = written(generator, concept, who, wrong, how == "visual", count, row.seed)
            erasure = erase(generator, concept, row.preset(), seed=row.seed, progress=False)
            erasure.info |= {"written": counts} if row.pairs else {}
            made = erasure, time.process_time() - began
        while len(_trained) >= LAST:
            del _trained[next(iter(_trained))]
        _trained[key] = made
    return _trained[key]


def _size(generator, erasure: Erasure, strength: float) -> float | None:
    """Frobenius norm of the change as it is switched on, by prompts that open it wholly; None for what changes no
    weights."""
    from ..erasure.change import change_size

    try:
        return round(strength * change_size(generator.trunk, erasure.tensors), 4) if erasure.tensors else None
    except UserError:  # a projection of states
        return None


def _measured(generator, row: Row, erasure: Erasure | None) -> dict:
    """The numbers of a row. Of several concepts each part is tested with its own prompts and judge, and has as many
    pictures as one alone; neighbours and benign prompts are those of all parts, without the parts themselves."""
    from ..evaluate.beside import seen_beside
    from ..evaluate.evaluation import Instruments
    from ..evaluate.fidelity import distances
    from ..evaluate.judge import describe, describe_all
    from ..evaluate.judges import load_judge
    from ..evaluate.pictures import draw_codes, draw_sets

    concept = concept_of(row.concept, row.split)
    parts = {name: concept_of(name, row.split) for name in row.concept.split(JOIN)}
    judges = {name: load_judge(part.judge) for name, part in parts.items()}
    others = {name: load_judge(spec) for name, spec in concept.neighbour_judges.items()}
    tests = {
        (name, kind): asked
        for name, part in parts.items()
        for (role, kind), asked in choose(part, row).items()
        if role == "test"
    }
    rest = {which: asked for which, asked in choose(concept, row).items() if which[0] != "test"}
    benign = rest.get(("benign", ""), [])
    twice = {("twice", ""): 2 * benign} if row.fidelity else {}  # the second time with other noise
    drift = guided_drift(generator, row, benign, erasure) if benign else None
    near = [prompt for (role, _), asked in rest.items() if role == "neighbour" for prompt in asked]
    alone = {kind: asked for (_, kind), asked in tests.items()} if len(parts) == 1 else {}
    groups = {"concept": alone.get("direct", []), "neighbours": near, "benign": benign} if row.oracle else {}
    groups = {group: some for group, asked in groups.items() if (some := known_to_oracle(row, asked))}
    codes: dict[Any, torch.Tensor] = {}  # wanted for the distance to an oracle
    if groups:
        codes = draw_codes(generator, tests | rest | twice | groups, row.seed, erasure)
        drawn = {which: generator.decode(codes[which]) for which in tests | rest | twice}
    else:
        drawn = draw_sets(generator, tests | rest | twice, row.seed, erasure, progress=False)

    def counted(judge, which) -> list[int]:
        return [int(judge.shows(drawn[which]).sum()), len(drawn[which])]

    by_part = {name: {kind: counted(judges[name], (name, kind)) for of, kind in tests if of == name} for name in parts}
    kinds = dict.fromkeys(kind for _, kind in tests)
    rates = {
        kind: [sum(rates[kind][i] for rates in by_part.values() if kind in rates) for i in (0, 1)] for kind in kinds
    }
    beside: dict[str, dict[str, list[int]]] = {}
    for name, kind in tests:
        for what, seen in seen_beside(judges[name], drawn[name, kind]).items():
            counts = beside.setdefault(what, {}).setdefault(kind, [0, 0])
            counts[:] = [counts[0] + int(seen.sum()), counts[1] + len(seen)]
    neighbours = {name: counted(others[name], (role, name)) for role, name in rest if role == "neighbour"}
    tools = Instruments(next(iter(judges.values())), fidelity=row.fidelity and bool(benign))
    shown = drawn | {("test", kind): drawn[row.concept, kind] for kind in alone}
    means = {
        metric: [round(float(np.mean(values)), 6), len(values)]
        for (metric, *_), (values, *_) in tools.clip_values(concept, shown, alone, benign, 1).items()
    }
    kid = diversity = None
    if tools.features is not None:
        kid = [round(distances(drawn["benign", ""], tools.reference, tools.features)["kid"].value, 6), len(benign)]
        first, second = np.split(tools.features.features(drawn["twice", ""]), 2)
        diversity = [round(float(np.linalg.norm(first - second, axis=1).mean()), 6), len(benign)]
    measured = {
        "rates": {"concept": rates, "neighbours": neighbours} | ({"parts": by_part} if len(parts) > 1 else {}),
        "beside": beside,
        "judge": {
            "concept": describe(judges[row.concept]) if len(parts) == 1 else describe_all(judges.values()),
            "neighbours": describe_all(others.values()) if others else None,
        },
        "kl_drift": drift,
        "clip": means.get("clip_score"),
        "in_prompt": means.get("in_prompt_clip"),
        "kid": kid,
        "diversity": diversity,
    }
    if groups:
        measured |= against_oracle(generator, row, groups, codes, judges[row.concept], erasure)
    return measured


def known_to_oracle(row: Row, asked: list[str]) -> list[str]:
    """Those of some prompts that name nothing which the oracle was never shown, but for the row's own concept: how it
    draws another one says nothing about an erasure of this."""
    others = [name for name in unseen(row.oracle) if name not in row.concept.split(JOIN)]
    words = [word for name in others for word in concept_of(name).words]
    return [prompt for prompt in asked if not holds_word(prompt, words)]


def against_oracle(
    generator,
    row: Row,
    groups: dict[str, list[str]],
    codes: dict[Any, torch.Tensor],
    judge: Judge,
    erasure: Erasure | None,
) -> dict[str, list]:
    """How far the row's model is from the oracle on each group of prompts, {"oracle_GROUP": [nats a code, prompts]},
    with the `codes` that it drew of them, and by KID of its pictures of the concept, in the judge's features:
    `evaluate/oracle.py`."""
    from ..evaluate.drift import Model
    from ..evaluate.fidelity import LEAST, distances
    from ..evaluate.oracle import distance, load_oracle, pictures

    mine, its = Model(generator, erasure), Model(load_oracle(row.oracle))

    def drawn_by_oracle(asked: list[str], seed: int):
        which = (row.oracle, tuple(asked), seed)
        if which not in _oracle_codes:
            while len(_oracle_codes) >= LAST:
                del _oracle_codes[next(iter(_oracle_codes))]
            _oracle_codes[which] = pictures(its, asked, seed)
        return _oracle_codes[which]

    found = {}
    for group, asked in groups.items():
        both = distance(mine, its, asked, row.seed, drawn=(codes[group], drawn_by_oracle(asked, row.seed))).both
        found[f"oracle_{group}"] = [round(both.value, 6), both.n]
    if len(groups.get("concept", ())) >= LEAST and hasattr(judge, "features"):
        others = its.generator.decode(drawn_by_oracle(groups["concept"], row.seed + OTHER))
        far = distances(generator.decode(codes["concept"]), others, judge)["kid"]
        found["oracle_kid"] = [round(far.value, 6), far.n]
    return found


def guided_drift(generator, row: Row, benign: list[str], erasure: Erasure | None) -> float:
    """KL(base || erased) in nats a code on the base model's own benign pictures, of the guided distributions: methods
    without training act only there."""
    from ..evaluate.drift import Model, draw_tokens, kl_by_code

    which = (generator.fingerprint, row.seed, tuple(benign))
    if which not in _benign:
        _benign.clear()
        _benign[which] = draw_tokens(generator, benign, row.seed)
    if erasure is None:
        return 0.0
    base, erased = Model(generator), Model(generator, erasure)
    drift = kl_by_code(base, erased, benign, _benign[which], guidance=None).mean().item()
    if not np.isfinite(drift):
        raise UserError("the erased model's distributions: infinite or not a number")
    return round(drift, 6)
