"""`evaluate`: what an erasure did to a concept, its neighbours and everything else, as flat records (DESIGN section 6).

Rates carry Wilson intervals on the counts of all seeds together. The intervals say how well the rate of THIS model is known; how much a
rate varies between erasures trained with other seeds is seen by pooling the records of several of them (`pool`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .judges import Judge, MiniWorldJudge, load_judge

KEYS = ("metric", "subject", "kind", "condition", "value", "n", "low", "high", "seed", "profile", "recipe", "judge", "paper")
REFERENCE = 1000  # real MiniWorld pictures that benign pictures are compared with
Z = 1.959964  # 95 %


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate of `hits` out of `n` (Wilson 1927). (0, 1) when n is 0."""
    if not 0 <= hits <= n:
        raise ValueError(f"hits must lie between 0 and n, got {hits} of {n}")
    if n == 0:
        return 0.0, 1.0
    p = hits / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == n else centre + half)


def evaluate(
    generator, concept, erasure=None, seeds: Sequence[int] = (0, 1, 2), max_prompts: int | dict | None = None, fidelity: bool = True, progress: bool = True
) -> list[dict]:
    """Draw the concept's test, neighbour and benign prompts with the base and, if given, with the erasure, from the same picture seeds.

    `max_prompts` keeps the first so many prompts of each set, or a number for each set: a kind of test ("direct", ...), "tests" for the kinds not
    named, "neighbours", "benign"; 0 leaves a set out. `fidelity=False` leaves out FID and KID. Records:
    `concept_rate` (a record per kind of test prompt), `neighbour_rate` (one per neighbour, and "all" together), and on the benign
    pictures `clip_score` (kind benign), `kid` and `fid` (kind real: against pictures of the world itself), and `fid` of erased against base (kind base).
    """
    cap = max_prompts if isinstance(max_prompts, dict) else dict.fromkeys(("tests", "neighbours", "benign"), max_prompts)
    tests = {k: list(v)[: cap.get(k, cap.get("tests"))] for k, v in concept.tests.items()}
    neighbours = {k: list(v)[: cap.get("neighbours")] for k, v in concept.neighbours.items()}
    benign = list(concept.benign)[: cap.get("benign")]
    tests, neighbours = ({k: v for k, v in sets.items() if v} for sets in (tests, neighbours))
    judge = load_judge(concept.judge)
    others = {name: load_judge(concept.neighbour_judges[name]) for name in neighbours}
    sets = {("test", k): v for k, v in tests.items()} | {("neighbour", k): v for k, v in neighbours.items()} | {("benign", ""): benign}
    sets = {k: v for k, v in sets.items() if v or k[0] != "benign"}

    records, base_benign = [], None
    for condition, change in (("base", None), ("erased", erasure)):
        if condition == "erased" and erasure is None:
            continue
        pictures = _over_seeds(generator, sets, seeds, change, progress)
        note = _Note(generator, concept, condition, change, seeds)
        for kind in tests:
            records.append(note.rate("concept_rate", concept.name, kind, judge, judge.shows(pictures["test", kind])))
        shown = {name: others[name].shows(pictures["neighbour", name]) for name in neighbours}
        for name, shows in shown.items():
            records.append(note.rate("neighbour_rate", name, "neighbour", others[name], shows))
        if shown:
            records.append(note.rate("neighbour_rate", "all", "neighbour", next(iter(others.values())), np.concatenate(list(shown.values()))))
        if benign:
            records += _benign_records(note, pictures["benign", ""], benign * len(seeds), base_benign, judge, fidelity)
            base_benign = pictures["benign", ""]
    return records


def _over_seeds(generator, sets, seeds, erasure, progress) -> dict:
    from .pictures import draw_sets

    drawn = [draw_sets(generator, sets, seed, erasure, progress) for seed in seeds]
    return {name: np.concatenate([one[name] for one in drawn]) for name in sets}


def _benign_records(note: _Note, images, prompts, base_images, judge: Judge, fidelity: bool) -> list[dict]:
    """CLIP score, KID and FID of benign pictures, where the judge's world has the instruments for it.

    KID is taken against the real world only: it supposes independent sets, and an erasure's pictures share their seeds with the base's.
    """
    if not isinstance(judge, MiniWorldJudge):
        return []  # full-size models: `clip.clip_scores` with full-size weights, and a reference set of one's own
    from .clip import MINI_CLIP, clip_scores, load_clip, mean_interval

    mean, low, high = mean_interval(clip_scores(images, prompts))
    records = [note.record("clip_score", "benign", "benign", mean, len(images), low, high, f"open_clip mini {load_clip(MINI_CLIP).version}")]
    if fidelity:
        from .fidelity import LEAST, distances

        who, n = f"miniworld features {judge.version}", len(images)
        if n >= LEAST:
            d = distances(images, real_pictures(judge), judge)
            records += [note.record("kid", "benign", "real", d["kid"], n, d["kid_low"], d["kid_high"], who)]
            records += [note.record("fid", "benign", "real", d["fid"], n, None, None, who)]
            if base_images is not None:
                records += [note.record("fid", "benign", "base", distances(images, base_images, judge)["fid"], n, None, None, who)]
    return records


def real_pictures(judge: MiniWorldJudge, n: int = REFERENCE, seed: int = 97) -> np.ndarray:
    """`n` pictures of MiniWorld itself with one object each, none of which shows what `judge` looks for: uint8 [n, 48, 48, 3], always the same."""
    from ..miniworld.scenes import render, sample_scenes

    scenes = sample_scenes(2 * n, [seed, 0], pairs=0.0)
    without = np.flatnonzero(getattr(scenes, judge.group) != judge.groups[judge.group].index(judge.label))
    return render(scenes[without[:n]])


class _Note:
    """Writes records that share model, condition and seeds."""

    def __init__(self, generator, concept, condition, erasure, seeds):
        recipe = None if erasure is None else erasure.recipe.get("name") or erasure.name
        self.shared = {"condition": condition, "seed": ",".join(map(str, seeds)), "profile": generator.profile, "recipe": recipe}
        self.paper = concept.paper

    def record(self, metric, subject, kind, value, n, low, high, judge: str) -> dict:
        # the paper states one number per concept and condition; it belongs to the direct prompts
        stated = self.paper.get(metric) if kind == "direct" else None
        stated = stated.get(self.shared["condition"]) if isinstance(stated, dict) else None
        found = {"metric": metric, "subject": subject, "kind": kind, "value": value, "n": n, "low": low, "high": high, "judge": judge, "paper": stated}
        return {key: (found | self.shared)[key] for key in KEYS}

    def rate(self, metric, subject, kind, judge: Judge, shows: np.ndarray) -> dict:
        hits, n = int(shows.sum()), len(shows)
        who = f"{judge.name if subject != 'all' else judge.name.split(':')[0]} {judge.version} >= {judge.threshold:g}"
        return self.record(metric, subject, kind, hits / n if n else None, n, *wilson(hits, n), who)


def pool(records: list[dict]) -> list[dict]:
    """Records of several runs (erasures trained with different seeds, say) joined into one each.

    Rates: counts are added, with the Wilson interval of the sum. Other metrics: the mean, with the least and greatest value as `low` and `high`.
    Base records of the same picture seeds are the same pictures, told again by each run: they count once.
    """
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        same = tuple(record[key] for key in KEYS if key not in ("value", "n", "low", "high", "seed"))
        rows = groups.setdefault(same, [])
        if record["condition"] == "erased" or all(record["seed"] != r["seed"] for r in rows):
            rows.append(record)
    pooled = []
    for rows in groups.values():
        n = sum(r["n"] for r in rows)
        if rows[0]["metric"].endswith("_rate"):
            hits = sum(round((r["value"] or 0) * r["n"]) for r in rows)
            value, low, high = (hits / n if n else None), *wilson(hits, n)
        else:
            values = [r["value"] for r in rows]
            value, low, high = float(np.mean(values)), min(values), max(values)
            if len(rows) == 1:
                low, high = rows[0]["low"], rows[0]["high"]
        seeds = list(dict.fromkeys(s for r in rows for s in str(r["seed"]).split(",")))
        pooled.append(rows[0] | {"value": value, "n": n, "low": low, "high": high, "seed": ",".join(seeds)})
    return pooled


def summarise(records: list[dict]):
    """A pandas table for display: a row per metric, subject and kind, base and erased side by side, `0.97 [0.94, 0.99]`, and the paper's value."""
    import pandas as pd

    rows: dict[tuple, dict] = {}
    for r in records:
        row = rows.setdefault((r["metric"], r["subject"], r["kind"]), {"n": r["n"]})
        row[r["condition"]] = format_value(r)
        if r["paper"] is not None:
            row[f"paper, {r['condition']}"] = f"{r['paper']:g}"
    index = pd.MultiIndex.from_tuples(rows, names=["metric", "subject", "kind"])
    return pd.DataFrame(list(rows.values()), index=index).fillna("–")


def format_value(record: dict) -> str:
    """`96.7 % [94.0, 98.2]` for a rate, `0.0123 [0.0101, 0.0145]` otherwise."""
    value, low, high = record["value"], record["low"], record["high"]
    if value is None:
        return "–"
    if record["metric"].endswith("_rate"):
        return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{value:.4g}" + ("" if low is None else f" [{low:.4g}, {high:.4g}]")
