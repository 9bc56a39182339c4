"""Read the tables of the sweeps: every row of a table, or the rows of all seeds pooled into one with rates and means.

A table is data/sweeps/NAME.jsonl, one JSON line a row, that is one training with one seed (`measure.py`). Notebooks
only read: all sweeps together take hours, and `python -m earlib sweep` measures them anew. A line holds

    sweep, label, concept, recipe, settings, seed, split     what was asked for; recipe null is the base model
    key, version, weights, prompts, fingerprint, chosen      what made it; `chosen`: the recipe's fields that are not at
                                                             their defaults
    rates           {"concept": {kind: [hits, n]}, "neighbours": {name: [hits, n]}}; of several concepts also "parts",
                    {concept: {kind: [hits, n]}}
    beside          {"second", "object", "replacement" or "unfinished": {kind: [hits, n]}}, what the second judge sees
                    in the pictures of the concept's prompts (`evaluate/beside.py`)
    judge           who judged the concept and its neighbours
    kl_drift        KL(base || erased), nats a token, of the guided distributions on benign prompts
    clip, in_prompt, kid, diversity     [value, n]; null where not measured. diversity: mean distance of two pictures of
                    one benign prompt, in the judge's features
    oracle_concept, oracle_neighbours, oracle_benign, oracle_kid    [value, n], where the sweep names an oracle: the
                    distance to it in nats a code, both ways added, and KID to its pictures of the concept's prompts;
                    prompts that name another concept which it was never shown do not count
    seconds, seconds_sampling, seconds_measuring    by the clock: training with drawing its trajectories, that drawing
                    alone, and measuring
    seconds_core    what training took of one core
    megabytes, windows_trained, windows_skipped
    written         {"proposed", "wrong", "kept_wrong"}: of pairs that writers wrote (`written.py`), where they did
    change_size     Frobenius norm of all changes of weights together; null where none change
    failed          why there are no numbers: training diverged
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import DATA, ROOT
from ..errors import UserError, nearest
from ..evaluate.beside import BESIDE
from ..evaluate.rate import Estimate, Rate
from ..runs import read_lines
from .keys import short, weights
from .plan import ASKED, SWEEPS, TABLE_VERSION, load_sweeps, place_of

if TYPE_CHECKING:
    import pandas as pd

# of prompts that ask for the concept
KINDS = ("direct", "synonym", "description", "held-out", "compositional", "indirect", "odd")
RATES = (*KINDS, "neighbours")  # columns that hold a Rate
# columns that hold an Estimate -> metric, subject (None: the concept) and kind of their flat records
MEANS = {
    "kl_drift": ("kl_drift", "benign", "benign"),
    "clip": ("clip_score", "benign", "benign"),
    "in_prompt": ("in_prompt_clip", None, "compositional"),
    "kid": ("kid", "benign", "real"),
    "diversity": ("diversity", "benign", "benign"),
    "seconds": ("training_seconds", "erasure", "training"),
    "megabytes": ("megabytes", "erasure", "training"),
    "change_size": ("change_size", "erasure", "training"),
    "oracle_concept": ("oracle_distance", None, "direct"),
    "oracle_neighbours": ("oracle_distance", "neighbours", "neighbour"),
    "oracle_benign": ("oracle_distance", "benign", "benign"),
    "oracle_kid": ("oracle_kid", None, "direct"),
}


def table_folder(effort: int = 1) -> Path:
    """Where the tables are: the shipped ones, or those of a greater effort."""
    return DATA / "sweeps" if effort == 1 else ROOT / "runs" / "sweeps" / f"effort-{effort}"


def is_row(row: object) -> bool:
    """Whether a line of a table is a measured row."""
    return isinstance(row, dict) and {*ASKED, "key"} <= set(row) and ("failed" in row or "rates" in row)


def rows(
    name: str,
    effort: int = 1,
    folder: Path | None = None,
    sweeps: Path = SWEEPS,
    complete: bool = True,
    model: str | None = None,
) -> list[dict]:
    """The rows of table `name` that book/sweeps.yml asks for, as they were measured, in its order.

    Args:
        effort: the factor on pictures and seeds with which the table was measured.
        folder: where the table is; None: `table_folder(effort)`.
        sweeps: the file that asks.
        complete: False takes those that there are, whether or not some are missing.
        model: another than the sweep names, as `python -m earlib sweep` takes it.

    Returns:
        list[dict]: as at the head of this file, with `model` besides.

    Raises:
        UserError: an unknown name; a broken line; versions, weights or models mixed; rows missing, with the command.
    """
    plan = load_sweeps(sweeps)
    if name not in plan:
        raise UserError(f"no sweep '{name}' in {short(sweeps)}; {nearest(name, plan)}")
    model = model or plan[name].model
    file = Path(folder or table_folder(effort)) / f"{name}.jsonl"
    where, command = short(file), f"python -m earlib sweep {name}" + (f" --effort {effort}" if effort > 1 else "")
    found = {}
    for number, row in enumerate(read_lines(file), 1):
        if not is_row(row):
            raise UserError(f"{where}: line {number} is no row of a results table; take it out and run `{command}`")
        found[place_of(row)] = row
    for what in ("version", "weights", "fingerprint"):
        values = sorted({str(row.get(what)) for row in found.values()})
        if len(values) > 1:
            raise UserError(
                f"{where}: holds rows of {len(values)} {what}s ({'; '.join(values)}), which cannot be compared; "
                f"run `{command}`"
            )
    asked = [row.place() for row in plan[name].rows(effort, model)]
    missing = [place for place in asked if place not in found]
    if missing and complete:
        why = ""
        for what, now in (("version", TABLE_VERSION), ("weights", weights(model))):
            if then := {row.get(what) for row in found.values()} - {now}:
                why = f" (its rows are of {what} {then.pop()}, now it is {now})"
        raise UserError(
            f"{where}: lacks {len(missing)} of the {len(asked)} rows that {short(sweeps)} asks for{why}; "
            f"run `{command}`"
        )
    return [found[place] | {"model": model} for place in asked if place in found]


def load(
    name: str,
    effort: int = 1,
    folder: Path | None = None,
    sweeps: Path = SWEEPS,
    complete: bool = True,
    model: str | None = None,
) -> pd.DataFrame:
    """The table `name` with its seeds pooled: a row for each concept, recipe, label and settings.

    Args and Raises are those of `rows`. The columns:

        model, concept, recipe, label, settings     recipe None: the base model
        (each swept field)          its value; NaN where a row does not set it
        seeds, failed, seed         trainings, how many of them diverged, and the seeds of the others as "0,1,2"
        direct, synonym, ..., neighbours
                                    `Rate.over_seeds` of each of RATES; None where there are none
        second, object, replacement, unfinished
                                    `Rate` of what the second judge sees in the pictures of direct prompts
        direct_base, ...            the base model's `Rate` of the same concept
        direct_by_seed, ...         {seed: Rate}
        each_neighbour              {neighbour: Rate}
        parts                       {concept: {kind: Rate}}, of several concepts erased at once each by itself
        kept                        the neighbours' rate over the base model's, a float
        kl_drift, clip, in_prompt, kid, diversity, seconds, megabytes, change_size, oracle_concept, ...
                                    `Estimate`: the mean over seeds; low and high are the least and the greatest seed,
                                    n is the number of seeds; None where not measured. seconds: of one core, without
                                    drawing the trajectories, as rows share these
        kl_drift_by_seed, ...       {seed: float}
        updates, skipped            mean number of Adam steps; share of windows that the gate skipped; NaN where none
        judge                       {"concept": ..., "neighbours": ...}, who judged
    """
    import pandas as pd

    groups: dict[str, list[dict]] = {}
    for row in rows(name, effort, folder, sweeps, complete, model):
        groups.setdefault(json.dumps([row["concept"], row["recipe"], row["label"], row["settings"]]), []).append(row)
    pooled = [_pooled(group) for group in groups.values()]
    base = {row["concept"]: row for row in pooled if row["recipe"] is None}
    for row in pooled:
        of = base.get(row["concept"], {})
        row |= {f"{kind}_base": of.get(kind) for kind in RATES}
        shares = [rate.value if rate else None for rate in (row["neighbours"], of.get("neighbours"))]
        row["kept"] = shares[0] / shares[1] if shares[0] is not None and shares[1] else None
    frame = pd.DataFrame(pooled)
    for column in (*RATES, *BESIDE, *MEANS, *(f"{kind}_base" for kind in RATES)):  # None, where pandas would have NaN
        frame[column] = pd.Series([row[column] for row in pooled], dtype=object)
    return frame


def one(frame: pd.DataFrame, **columns: Any) -> pd.Series:
    """The row of `load` whose `columns` are as given; `recipe=None` is the base model.

    Raises:
        UserError: there is none.
    """
    found = frame
    for name, value in columns.items():
        found = found[found[name].isna() if value is None else found[name] == value]
    if not len(found):
        raise UserError(f"the table has no row with {', '.join(f'{n}={v!r}' for n, v in columns.items())}")
    return found.iloc[0]


def _pooled(group: list[dict]) -> dict:
    """One row of `load` from the measured rows that differ by seed only."""
    first, fine = group[0], [row for row in group if "failed" not in row]
    pooled = {name: first[name] for name in ("model", "concept", "recipe", "label", "settings")} | first["settings"]
    pooled |= {"seeds": len(group), "failed": len(group) - len(fine)}
    pooled |= {"seed": ",".join(str(row["seed"]) for row in fine), "judge": fine[0]["judge"] if fine else None}
    for kind in RATES:
        by_seed = {row["seed"]: rate for row in fine if (rate := rate_of(row, kind))}
        pooled[kind] = Rate.over_seeds(by_seed.values()) if by_seed else None
        pooled[f"{kind}_by_seed"] = by_seed
    for what in BESIDE:
        counts = [row["beside"][what]["direct"] for row in fine if "direct" in row.get("beside", {}).get(what, {})]
        pooled[what] = Rate.over_seeds(Rate(*count) for count in counts) if counts else None
    pooled["each_neighbour"] = _added_up([row["rates"]["neighbours"] for row in fine])
    parts = [row["rates"].get("parts") or {row["concept"]: row["rates"]["concept"]} for row in fine]
    pooled["parts"] = {name: _added_up([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    for name in MEANS:
        by_seed = {row["seed"]: value for row in fine if (value := mean_of(row, name)) is not None}
        values = list(by_seed.values())
        mean = Estimate(sum(values) / len(values), len(values), min(values), max(values)) if values else None
        pooled |= {name: mean, f"{name}_by_seed": by_seed}
    steps = [row["windows_trained"] for row in fine if row.get("windows_trained") is not None]
    skipped = sum(row.get("windows_skipped") or 0 for row in fine)
    pooled["updates"] = sum(steps) / len(steps) if steps else None
    pooled["windows"] = sum(steps) + skipped
    pooled["skipped"] = skipped / pooled["windows"] if pooled["windows"] else None
    return pooled


def rate_of(row: dict, kind: str) -> Rate | None:
    """One of RATES of a measured row; None where it has no such pictures."""
    if kind == "neighbours":
        counts = row["rates"]["neighbours"].values()
        return Rate.pooled(Rate(*count) for count in counts) if counts else None
    return Rate(*row["rates"]["concept"][kind]) if kind in row["rates"]["concept"] else None


def mean_of(row: dict, name: str) -> float | None:
    """One of MEANS of a measured row; None where it was not measured."""
    if name == "seconds":
        if row.get("seconds") is None:
            return None
        return row["seconds_core"] * (1 - (row.get("seconds_sampling") or 0) / max(row["seconds"], 0.001))
    return row[name][0] if isinstance(row.get(name), list) else row.get(name)


def _added_up(counts: list[dict]) -> dict[str, Rate]:
    """{name: [hits, n]} of the rows of several seeds as {name: Rate}."""
    return {name: Rate.over_seeds(Rate(*count[name]) for count in counts) for name in (counts[0] if counts else ())}


def flat_records(frame: pd.DataFrame, table: str | None = None) -> list[dict]:
    """What `load` gave as flat records for results.json, one a number, each with its `concept`, `settings` and `label`.

    Args:
        frame: rows of `load`. A column `paper`, where a notebook adds one, is the paper's number beside the rate.
        table: if given, a field of every record: so that records of several tables can be told apart.
    """
    from ..evaluate.records import KEYS

    records = []
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        shared = {
            "condition": "base" if row["recipe"] is None else "erased",
            "seed": row["seed"],
            "profile": row["model"],
            "recipe": row["recipe"],
        }
        more = {"concept": row["concept"], "settings": row["settings"], "label": row["label"]}
        more |= {"table": table} if table else {}
        n = row["seeds"] - row["failed"]
        notes = []  # (metric, subject, kind, value with n and ends, judge, the paper's number)
        for kind in RATES:
            if row[kind] is not None:
                if kind == "neighbours":
                    names, who = ("neighbour_rate", "all", "neighbour"), "neighbours"
                else:
                    names, who = ("concept_rate", row["concept"], kind), "concept"
                notes.append(
                    (*names, row[kind].flat(), row["judge"][who], row.get("paper") if kind == "direct" else None)
                )
        for name in BESIDE:
            if row[name] is not None:
                notes.append((f"{name}_rate", row["concept"], "direct", row[name].flat(), None, None))
        for name, (metric, subject, kind) in MEANS.items():
            if row[name] is not None and not (name == "kl_drift" and row["recipe"] is None):  # no drift from itself
                notes.append((metric, subject or row["concept"], kind, row[name].flat() | {"n": n}, None, None))
        if row["recipe"] is not None:
            for name, *names in (
                ("kept", "neighbours_kept", "all", "neighbour"),
                ("failed", "failed_seeds", "erasure", "training"),
            ):
                if row[name] is not None:
                    notes.append((*names, Estimate(row[name], row["seeds"]).flat(), None, None))
            if row["skipped"] is not None:
                rate = Rate(round(row["skipped"] * row["windows"]), row["windows"])
                notes.append(("windows_skipped_rate", "erasure", "training", rate.flat(), None, None))
        for metric, subject, kind, value, judge, paper in notes:
            found = (
                shared | {"metric": metric, "subject": subject, "kind": kind, "judge": judge, "paper": paper} | value
            )
            records.append({key: found[key] for key in KEYS} | more)
    return records


def records(frames: dict[str, pd.DataFrame]) -> list[dict]:
    """`flat_records` of several tables by name, with `table` in each record."""
    return [record for name, frame in frames.items() for record in flat_records(frame, name)]
