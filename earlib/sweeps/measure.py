"""Measure one row of a table: train what it asks for, draw its prompts, judge the pictures. What a row holds is in `read.py`."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import numpy as np

from ..errors import UserError
from ..generators.var.config import is_nextscale
from .plan import ASKED, JOIN, SWEEPS, TABLE_VERSION, Row, chosen, concept_of, load_sweeps, place_of, prompts, weights
from .read import rows

DIVERGED = re.compile(r"the loss is (nan|-?inf)|infinite or not a number")


# ---------------------------------------------------------------- one row


def load_model(model: str):
    """The model of a row, of either family, on the CPU: tables compare what one kind of machine computes."""
    if is_nextscale(model):
        from ..generators.var.generator import load_nextscale as load
    else:
        from ..generators import load_generator as load
    return load(model, device="cpu")


def choose(concept, row: Row) -> dict[tuple[str, str], list[str]]:
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

    Training that diverges gives a row with `failed`; anything else that is wrong raises UserError.
    """
    from .together import measured, opened_by_prompts

    found = {name: getattr(row, name) for name in ASKED}
    found |= {
        "key": row.key(),
        "version": TABLE_VERSION,
        "weights": weights(row.model),
        "prompts": prompts(row.concept, row.split),
    }
    found |= {"fingerprint": generator.fingerprint, "chosen": None if row.recipe is None else chosen(row.preset())}
    erasure = None
    try:
        if row.recipe is not None:
            erasure, core = _erasure(generator, row)
            found |= {
                name: erasure.info.get(name)
                for name in ("seconds", "seconds_sampling", "windows_trained", "windows_skipped")
            }
            found["seconds_core"] = round(core, 2)
            found["megabytes"] = round(erasure.megabytes, 4)
            found["change_size"] = _size(generator, erasure, row.strength)
            erasure = replace(opened_by_prompts(erasure, row.transport), strength=row.strength)
        began = time.perf_counter()
        found |= (measured if JOIN in row.concept else _measured)(generator, row, erasure)
    except UserError as error:
        if not DIVERGED.search(str(error)):
            raise
        return found | {"failed": str(error)}
    return found | {"seconds_measuring": round(time.perf_counter() - began, 2)}


def _erasure(generator, row: Row):
    """(the erasure that a row asks for, open to all prompts and at strength 1, what training it took of one core in
    seconds)."""
    from .together import added_up

    if is_nextscale(row.model):
        from ..erasure.scale_methods import erase
    else:
        from ..erasure import erase

    key = row.training()
    if key not in _trained:
        if row.form == "composed":
            parts, cores = zip(*(_erasure(generator, part) for part in row.alone()))
            made = added_up(parts), sum(cores)
        else:
            core = time.process_time()
            erasure = erase(generator, row.trained_on, row.preset(), seed=row.seed, progress=False)
            made = erasure, time.process_time() - core
        while len(_trained) >= KEPT:
            del _trained[next(iter(_trained))]
        _trained[key] = made
    return _trained[key]


def _size(generator, erasure, strength: float) -> float | None:
    """Of the change as it is switched on, by prompts that open it wholly; None for what changes no weights."""
    from ..erasure.change import change_size

    try:
        return round(strength * change_size(generator.trunk, erasure.tensors), 4) if erasure.tensors else None
    except UserError:  # a projection of states
        return None


def _measured(generator, row: Row, erasure) -> dict:
    from ..evaluate.evaluation import Instruments
    from ..evaluate.fidelity import distances
    from ..evaluate.judge import describe, describe_all
    from ..evaluate.judges import load_judge
    from ..evaluate.pictures import draw_sets

    concept = concept_of(row.concept, row.split)
    sets = choose(concept, row)
    benign = sets.get(("benign", ""), [])
    drift = guided_drift(generator, row, benign, erasure) if benign else None
    twice = {("twice", ""): 2 * benign} if row.fidelity else {}  # the second time with other noise
    drawn = draw_sets(generator, sets | twice, row.seed, erasure, progress=False)
    judge = load_judge(concept.judge)
    others = {name: load_judge(spec) for name, spec in concept.neighbour_judges.items()}
    hits = {
        which: int((judge if which[0] == "test" else others[which[1]]).shows(drawn[which]).sum())
        for which in sets
        if which[0] != "benign"
    }
    rates = {
        role: {name: [n, len(sets[r, name])] for (r, name), n in hits.items() if r == role}
        for role in ("test", "neighbour")
    }
    tools = Instruments(judge, fidelity=row.fidelity and bool(benign))
    means = {}
    for (metric, *_), (values, *_) in tools.clip_values(
        concept, drawn, {k: v for (r, k), v in sets.items() if r == "test"}, benign, 1
    ).items():
        means[metric] = [round(float(np.mean(values)), 6), len(values)]
    kid = diversity = None
    if tools.features is not None:
        kid = [round(distances(drawn["benign", ""], tools.reference, tools.features)["kid"], 6), len(benign)]
        first, second = np.split(tools.features.features(drawn["twice", ""]), 2)
        diversity = [round(float(np.linalg.norm(first - second, axis=1).mean()), 6), len(benign)]
    return {
        "rates": {"concept": rates["test"], "neighbours": rates["neighbour"]},
        "judge": {"concept": describe(judge), "neighbours": describe_all(others.values()) if others else None},
        "kl_drift": drift,
        "clip": means.get("clip_score"),
        "in_prompt": means.get("in_prompt_clip"),
        "kid": kid,
        "diversity": diversity,
    }


# erasures with their seconds, the last ones: rows of several strengths follow each other, and rows that are composed of
# the same parts
KEPT = 6
_trained: dict = {}
_base: dict = {}  # of the last concept and seed: rows that share them follow each other


def guided_drift(generator, row: Row, benign: list[str], erasure) -> float:
    """KL(p* || p) in nats a token on the base model's own benign pictures, p* and p being the guided distributions:
    methods without training act only there.

    A token of a next-scale model is one code, whose bits are drawn one by one: their divergences add up.
    """
    from ..evaluate.drift import draw_tokens, log_probabilities

    def distributions(change):
        if not is_nextscale(row.model):
            return [
                logp_BTV
                for _, logp_BTV in log_probabilities(generator, benign, tokens_NT, change, guidance=generator.guidance)
            ]
        from ..generators.var.draw import log_probabilities as of_scales

        return [of_scales(generator, benign, tokens_NT, change)]

    which = (generator.fingerprint, row.seed, tuple(benign))
    if which not in _base:
        _base.clear()
        tokens_NT = draw_tokens(generator, benign, row.seed)
        _base[which] = tokens_NT, distributions(None)
    tokens_NT, base = _base[which]
    if erasure is None:
        return 0.0
    kl = [
        (b.exp() * (b - e)).double().flatten(2).sum(-1).mean().item() * len(b)
        for b, e in zip(base, distributions(erasure))
    ]
    drift = sum(kl) / len(benign)
    if not np.isfinite(drift):
        raise UserError("the erased model's distributions: infinite or not a number")
    return round(drift, 6)


# ---------------------------------------------------------------- a row again


def spot_check(name: str, row: dict | None = None, generator=None, **more) -> tuple[dict, dict]:
    """(a row of the shipped table, the same row measured now). By default the trained row that was quickest; `more`
    goes to `rows`.

    On the machine that made the table they agree to the last digit, but for seconds; elsewhere rounding may tip a
    token, and rates agree as two draws do.
    """
    if row is None:
        trained = [r for r in rows(name, **more) if r["recipe"] is not None and "failed" not in r]
        row = min(trained, key=lambda r: r["seconds"])
    plan = load_sweeps(more.get("sweeps", SWEEPS))[name].rows(more.get("effort", 1), more.get("model"))
    asked = next((r for r in plan if r.place() == place_of(row)), None)
    if asked is None:
        raise UserError(f"this row is none of those that sweep '{name}' asks for now; take one of table.rows('{name}')")
    return row, measure(generator or load_model(asked.model), asked)
