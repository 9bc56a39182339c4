"""The results tables of the sweeps: one row a run. `measure` makes a row, `load` reads a table and pools its seeds,
`spot_check` makes one row again.

A table is data/sweeps/NAME.jsonl. Notebooks only read it: all sweeps together take hours, and anybody can have them
again with `python -m earlib sweep` (`earlib/sweep.py`). What is swept, and the key of a row, is in `plan.py`. A row:

    sweep, label, concept, recipe (null: the base model), settings, seed, split    what was asked for
    key, version, weights, prompts, fingerprint, chosen                             what made it; `chosen`: the recipe's
                                                                                    fields that are not at their
                                                                                    defaults
    rates       {"concept": {kind: [hits, n]}, "neighbours": {name: [hits, n]}}, and who judged in `judge`; of several
                concepts together also "parts"
    kl_drift    nats a token on benign prompts, of the distribution that is drawn from
    clip, in_prompt, kid      [value, n]; null where it was not measured
    diversity   [value, n]: mean distance of two pictures of one benign prompt, in the judge's features; null as `kid`,
                and in rows of before it was kept
    seconds, seconds_sampling, seconds_measuring    by the clock: training with drawing its trajectories, that drawing
                                                    alone, and what follows
    seconds_core                                    what training took of one core, whatever else ran on the machine
    megabytes, windows_trained, windows_skipped
    change_size    Frobenius norm of all changes of weights together; null where no weights change, and in rows of
                   before it was kept
    failed      why there are no numbers: training diverged
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from .. import ROOT
from ..errors import UserError, nearest
from ..evaluate.rate import Rate
from ..generators.var.config import is_nextscale
from ..runs import read_lines
from .plan import JOIN, SWEEPS, TABLE_VERSION, Row, chosen, concept_of, load_sweeps, place_of, prompts, short, weights

DIVERGED = re.compile(r"the loss is (nan|-?inf)|infinite or not a number")
ASKED = ("sweep", "label", "concept", "recipe", "settings", "seed", "split")
# pooled to mean, least and greatest over seeds: column -> metric, subject (None: the concept) and kind of its record
MEANS = {
    "kl_drift": ("kl_drift", "benign", "benign"),
    "clip": ("clip_score", "benign", "benign"),
    "in_prompt": ("in_prompt_clip", None, "compositional"),
    "kid": ("kid", "benign", "real"),
    "diversity": ("diversity", "benign", "benign"),
    "seconds": ("training_seconds", "erasure", "training"),
    "megabytes": ("megabytes", "erasure", "training"),
    "change_size": ("change_size", "erasure", "training"),
}
KINDS = ("direct", "synonym", "compositional", "indirect", "odd")


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
    from ..evaluate.evaluation import Instruments, told_together
    from ..evaluate.fidelity import distances
    from ..evaluate.judges import describe, load_judge
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
        "judge": {"concept": describe(judge), "neighbours": told_together(others.values()) if others else None},
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


# ---------------------------------------------------------------- a whole table


def table_folder(effort: int = 1) -> Path:
    """Where the tables are: the shipped ones, or those of a greater effort."""
    return ROOT / "data" / "sweeps" if effort == 1 else ROOT / "runs" / "sweeps" / f"effort-{effort}"


def rows(
    name: str,
    effort: int = 1,
    folder: Path | None = None,
    sweeps: Path = SWEEPS,
    complete: bool = True,
    model: str | None = None,
) -> list[dict]:
    """The rows of a table that book/sweeps.yml asks for, in its order; with `complete=False` those that there are.

    Raises UserError: an unknown name; a broken line; a table of mixed versions, weights or models; rows that are
    missing, with the command.
    """
    plan = load_sweeps(sweeps)
    if name not in plan:
        raise UserError(f"no sweep '{name}' in {short(sweeps)}; {nearest(name, plan)}")
    file = Path(folder or table_folder(effort)) / f"{name}.jsonl"
    where, command = short(file), f"python -m earlib sweep {name}" + (f" --effort {effort}" if effort > 1 else "")
    found = {}
    for number, row in enumerate(read_lines(file), 1):
        if not isinstance(row, dict) or not {*ASKED, "key"} <= set(row) or not ("failed" in row or "rates" in row):
            raise UserError(f"{where}: line {number} is no row of a results table; take it out and run `{command}`")
        found[place_of(row)] = row
    for what in ("version", "weights", "fingerprint"):
        values = {str(row.get(what)) for row in found.values()}
        if len(values) > 1:
            raise UserError(
                f"{where}: holds rows of {len(values)} {what}s ({'; '.join(sorted(values))}), which cannot be compared; run `{command}`"
            )
    asked = [row.place() for row in plan[name].rows(effort, model)]
    missing = [place for place in asked if place not in found]
    if missing and complete:
        why = ""
        for what, now in (("version", TABLE_VERSION), ("weights", weights(model or plan[name].model))):
            if then := {row.get(what) for row in found.values()} - {now}:
                why = f" (its rows are of {what} {then.pop()}, now it is {now})"
        raise UserError(
            f"{where}: lacks {len(missing)} of the {len(asked)} rows that {short(sweeps)} asks for{why}; run `{command}`"
        )
    return [found[place] | {"model": model or plan[name].model} for place in asked if place in found]


def load(
    name: str,
    effort: int = 1,
    folder: Path | None = None,
    sweeps: Path = SWEEPS,
    complete: bool = True,
    model: str | None = None,
):
    """The table `name` as a pandas DataFrame, its seeds pooled: a row for each concept, recipe, label and settings.
    Raises what `rows` raises.

    Columns: model, concept, recipe (None: the base model), label, settings, one for each swept field; `seeds`, and
    `failed` of them; for the concept's kinds of prompt and for `neighbours` the rate (`direct`), its Wilson interval
    (`direct_low`, `direct_high`), `direct_n` and the base model's `direct_base`; `kept`, the neighbours' rate over
    their base rate; mean, least and greatest over seeds of those in MEANS (`kl_drift`, `kl_drift_low`,
    `kl_drift_high`); `skipped`, the share of windows that the gate skipped. `seconds` are those of one core, without
    drawing the trajectories: rows share these.
    """
    import pandas as pd

    groups: dict[str, list[dict]] = {}
    for row in rows(name, effort, folder, sweeps, complete, model):
        groups.setdefault(json.dumps([row["concept"], row["recipe"], row["label"], row["settings"]]), []).append(row)
    pooled = [_pooled(group) for group in groups.values()]
    base = {row["concept"]: row for row in pooled if row["recipe"] is None}
    for row in pooled:
        of = base.get(row["concept"], {})
        row |= {f"{kind}_base": of.get(kind) for kind in (*KINDS, "neighbours") if kind in row}
        row["kept"] = (
            row["neighbours"] / of["neighbours"] if row.get("neighbours") is not None and of.get("neighbours") else None
        )
    return pd.DataFrame(pooled)


def _pooled(group: list[dict]) -> dict:
    first, fine = group[0], [row for row in group if "failed" not in row]
    pooled = {
        "model": first["model"],
        "concept": first["concept"],
        "recipe": first["recipe"],
        "label": first["label"],
        "settings": first["settings"],
        **first["settings"],
    }
    pooled |= {"seeds": len(group), "failed": len(group) - len(fine)}
    counts: dict[str, list] = {}
    for row in fine:
        for kind, count in row["rates"]["concept"].items():
            counts.setdefault(kind, []).append(count)
        counts.setdefault("neighbours", []).extend(row["rates"]["neighbours"].values())
    for kind in sorted(counts, key=(*KINDS, "neighbours").index):
        hits, n = (int(sum(part)) for part in zip(*counts[kind])) if counts[kind] else (0, 0)
        low, high = Rate(hits, n).interval
        pooled |= {kind: hits / n if n else None, f"{kind}_low": low, f"{kind}_high": high, f"{kind}_n": n}
    for name in MEANS:
        values = [v[0] if isinstance(v, list) else v for row in fine if (v := row.get(name)) is not None]
        if name == "seconds":
            trained = [row for row in fine if row.get("seconds") is not None]
            values = [
                row["seconds_core"] * (1 - (row.get("seconds_sampling") or 0) / max(row["seconds"], 0.001))
                for row in trained
            ]
        if values:
            pooled |= {name: float(np.mean(values)), f"{name}_low": min(values), f"{name}_high": max(values)}
    trained, skipped = (sum(row.get(f"windows_{part}") or 0 for row in fine) for part in ("trained", "skipped"))
    pooled["skipped"] = skipped / (trained + skipped) if trained + skipped else None
    return pooled | {"judge": fine[0]["judge"] if fine else None, "seed": ",".join(str(row["seed"]) for row in fine)}


def flat_records(frame) -> list[dict]:
    """What `load` gave as flat records for results.json (DESIGN section 6), each with the swept `settings` and the
    `label`.

    A column `paper`, where a notebook adds one, is the paper's number beside the direct rate.
    """
    from ..evaluate.evaluation import KEYS

    records = []
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        shared = {
            "condition": "base" if row["recipe"] is None else "erased",
            "seed": row["seed"],
            "profile": row["model"],
            "recipe": row["recipe"],
        }
        more = {"concept": row["concept"], "settings": row["settings"], "label": row["label"]}

        def note(
            metric, subject, kind, value, n, low=None, high=None, judge=None, paper=None, shared=shared, more=more
        ):
            found = shared | {
                "metric": metric,
                "subject": subject,
                "kind": kind,
                "value": value,
                "n": n,
                "low": low,
                "high": high,
            }
            found |= {"judge": judge, "paper": paper}
            records.append({key: found[key] for key in KEYS} | more)

        for kind in KINDS:
            if row.get(kind) is not None:
                paper = row.get("paper") if kind == "direct" else None
                ends = row[f"{kind}_low"], row[f"{kind}_high"]
                note(
                    "concept_rate",
                    row["concept"],
                    kind,
                    row[kind],
                    row[f"{kind}_n"],
                    *ends,
                    row["judge"]["concept"],
                    paper,
                )
        if row.get("neighbours") is not None:
            ends = row["neighbours_low"], row["neighbours_high"]
            note(
                "neighbour_rate",
                "all",
                "neighbour",
                row["neighbours"],
                row["neighbours_n"],
                *ends,
                row["judge"]["neighbours"],
            )
        n = row["seeds"] - row["failed"]
        for column, (metric, subject, kind) in MEANS.items():
            if row.get(column) is not None and not (
                column == "kl_drift" and row["recipe"] is None
            ):  # no drift from itself
                note(
                    metric, subject or row["concept"], kind, row[column], n, row[f"{column}_low"], row[f"{column}_high"]
                )
        for column, metric in (("kept", "neighbours_kept"), ("skipped", "windows_skipped"), ("failed", "failed_seeds")):
            if row.get(column) is not None and row["recipe"] is not None:
                note(
                    metric,
                    "all" if column == "kept" else "erasure",
                    "neighbour" if column == "kept" else "training",
                    row[column],
                    row["seeds"],
                )
    return records


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
