"""`evaluate`: what an erasure did to a concept, its neighbours and everything else, as flat records (DESIGN section 6).

Rates carry Wilson intervals on the counts of all seeds together. The intervals say how well the rate of THIS model is
known; how much a rate varies between erasures trained with other seeds is seen by pooling the records of several of
them (`pool`). Changes from base to erased are paired, picture by picture, and bootstrapped over prompts. Measures that
need no judge are in `drift.py`; the page that shows all is `page.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import UserError
from .judges import Judge, MiniWorldJudge, describe, load_judge
from .rate import Estimate, Rate
from .veil import must_veil

KEYS = (
    "metric",
    "subject",
    "kind",
    "condition",
    "value",
    "n",
    "low",
    "high",
    "seed",
    "profile",
    "recipe",
    "judge",
    "paper",
)
REFERENCE = 1000  # real MiniWorld pictures that benign pictures are compared with
IN_PROMPT = (
    "compositional",
    "direct",
)  # the first of these kinds of test prompts that a concept has is asked for its benign halves


def evaluate(
    generator,
    concept,
    erasure=None,
    seeds: Sequence[int] = (0, 1, 2),
    max_prompts: int | dict | None = None,
    fidelity: bool = True,
    progress: bool = True,
    changes: bool = False,
    clip: str | None = None,
    reference: str | None = None,
) -> list[dict]:
    """Draw the concept's test, neighbour and benign prompts with the base and, if given, with the erasure, from the
    same picture seeds.

    `max_prompts` keeps the first so many prompts of each set, or a number for each set: a kind of test ("direct", ...),
    "tests" for the kinds not named, "neighbours", "benign"; 0 leaves a set out. `fidelity=False` leaves out distances
    between sets of pictures. Records:

    - `concept_rate` for each kind of test prompt; with NudeNet also `detections` for each label, a count;
    - `neighbour_rate` for each neighbour, and "all" together;
    - `in_prompt_clip`: pictures of the concept against the benign half of their prompts;
    - on the benign pictures `clip_score` (kind benign), `kid`, `fid`, `precision`, `recall` (kind real: against real
      pictures), and `fid` of erased against base (kind base);
    - with `changes`, for all but counts and distances a record METRIC_change, condition erased: the paired difference.

    MiniWorld brings its own CLIP, features and real pictures. For other models `clip` names an open_clip model
    (`clip.load_clip`) and `reference` a folder of real pictures; without them those records are left out, and distances
    also where Inception's weights are not there.
    """
    cap = (
        max_prompts if isinstance(max_prompts, dict) else dict.fromkeys(("tests", "neighbours", "benign"), max_prompts)
    )
    tests = {k: list(v)[: cap.get(k, cap.get("tests"))] for k, v in concept.tests.items()}
    neighbours = {k: list(v)[: cap.get("neighbours")] for k, v in concept.neighbours.items()}
    benign = list(concept.benign)[: cap.get("benign")]
    tests, neighbours = ({k: v for k, v in sets.items() if v} for sets in (tests, neighbours))
    judge = load_judge(concept.judge)
    others = {name: load_judge(concept.neighbour_judges[name]) for name in neighbours}
    sets = (
        {("test", k): v for k, v in tests.items()}
        | {("neighbour", k): v for k, v in neighbours.items()}
        | {("benign", ""): benign}
    )
    sets = {k: v for k, v in sets.items() if v or k[0] != "benign"}
    tools = Instruments(judge, clip, reference, fidelity and bool(benign))

    records, before = [], {}
    for condition, change in (("base", None), ("erased", erasure)):
        if condition == "erased" and erasure is None:
            continue
        pictures = _over_seeds(generator, sets, seeds, change, progress, keep=not must_veil(concept, generator.profile))
        note = Note(generator, concept, condition, change, seeds)
        values: dict[
            tuple, tuple
        ] = {}  # metric, subject, kind -> a value for each picture, the prompt of each, who measured
        for kind, prompts in tests.items():
            values["concept_rate", concept.name, kind] = judge.shows(pictures["test", kind]), prompts, describe(judge)
        for name, prompts in neighbours.items():
            values["neighbour_rate", name, "neighbour"] = (
                others[name].shows(pictures["neighbour", name]),
                prompts,
                describe(others[name]),
            )
        if neighbours:
            shown = np.concatenate([values["neighbour_rate", name, "neighbour"][0] for name in neighbours])
            # in the order of `shown`: a neighbour's pictures of all seeds, then the next neighbour's
            prompts = [p for prompts in neighbours.values() for p in prompts * len(seeds)]
            values["neighbour_rate", "all", "neighbour"] = shown, prompts, told_together(others.values())
        values |= tools.clip_values(concept, pictures, tests, benign, len(seeds))
        for (metric, subject, kind), (value, _, who) in values.items():
            if metric.endswith("_rate"):
                records.append(note.rate(metric, subject, kind, value, who))
            else:
                records.append(note.measure(metric, subject, kind, Estimate.normal(value), who))
        if hasattr(judge, "counts"):
            for kind in tests:
                counts = judge.counts(pictures["test", kind])
                records += [
                    note.record("detections", label, kind, c, len(pictures["test", kind]), None, None, describe(judge))
                    for label, c in counts.items()
                ]
        if benign:
            records += tools.distance_records(note, pictures["benign", ""], before.get("benign"))
        if changes and before:
            for (metric, subject, kind), (value, prompts, who) in values.items():
                groups = prompts * (len(value) // len(prompts))
                d = Estimate.paired(before["values"][metric, subject, kind][0], value, groups)
                records.append(note.measure(f"{metric}_change", subject, kind, d, who))
        before = {"values": values, "benign": pictures.get(("benign", ""))}
    return records


def _over_seeds(generator, sets, seeds, erasure, progress, keep) -> dict:
    from .pictures import draw_sets

    drawn = [draw_sets(generator, sets, seed, erasure, progress, keep) for seed in seeds]
    return {name: np.concatenate([one[name] for one in drawn]) for name in sets}


def told_together(judges) -> str:
    """What several judges have in common, and how many they are where they differ: "miniworld ba31fd1b >= 0.5"."""
    texts = {f"{j.name.split()[0]} {j.version} >= {j.threshold:g}" for j in judges}
    return texts.pop() if len(texts) == 1 else f"{len(texts)} judges, named with each neighbour"


class Instruments:
    """CLIP, features and real pictures: MiniWorld's own, or what a user named and what is there. UserError if what was
    named is not there."""

    def __init__(self, judge: Judge, clip: str | None = None, reference: str | None = None, fidelity: bool = True):
        from .clip import MINI_CLIP, load_clip

        mini = isinstance(judge, MiniWorldJudge)
        self.clip = clip or (MINI_CLIP if mini else None)
        if self.clip is not None:
            load_clip(self.clip)  # what is not there is said before anything is drawn
        self.features = self.folder = None
        if not fidelity:
            return
        from .fidelity import Inception
        from .folders import picture_files

        self.judge, self.folder = judge, reference
        if reference is not None:
            picture_files(Path(reference))
        try:
            self.features = judge if mini else Inception()
        except UserError:
            if reference is not None:
                raise  # asked for

    @cached_property
    def reference(self) -> np.ndarray | None:
        """Real pictures, uint8 [N, H, W, 3]; None where there are none."""
        from .folders import read_pictures

        if self.folder is not None:
            return read_pictures(self.folder)
        return real_pictures(self.judge) if isinstance(self.judge, MiniWorldJudge) else None

    def clip_values(self, concept, pictures, tests, benign, seeds: int) -> dict[tuple, tuple]:
        """CLIP score of the benign pictures, and in-prompt CLIP of one kind of test pictures: as `evaluate` keeps its
        values."""
        if self.clip is None:
            return {}
        from .clip import clip_scores, in_prompt_scores, load_clip

        values, who = {}, f"open_clip {load_clip(self.clip).name} {load_clip(self.clip).version}"
        if benign:
            values["clip_score", "benign", "benign"] = (
                clip_scores(pictures["benign", ""], benign * seeds, self.clip),
                benign,
                who,
            )
        kind = next((kind for kind in IN_PROMPT if kind in tests), None)
        if kind:
            rows, scores = in_prompt_scores(pictures["test", kind], tests[kind] * seeds, concept, self.clip)
            if len(rows):
                values["in_prompt_clip", concept.name, kind] = (
                    scores,
                    [tests[kind][i] for i in rows if i < len(tests[kind])],
                    who,
                )
        return values

    def distance_records(self, note: Note, images: np.ndarray, base_images: np.ndarray | None) -> list[dict]:
        """KID, FID, precision and recall of benign pictures against real ones, and FID of the erased ones against the
        base's.

        KID is taken against real pictures only: it supposes independent sets, and an erasure's pictures share their
        seeds with the base's.
        """
        if self.features is None:
            return []
        from .fidelity import LEAST, distances, features_of

        who, n, records = features_of(self.features), len(images), []
        if n < LEAST:
            return []
        if self.reference is not None:
            found = distances(images, self.reference, self.features)
            ends = {"kid": (found["kid_low"], found["kid_high"])}
            names = [
                name for name in found if name in ("kid", "fid", "precision", "recall")
            ]  # KID before FID where pictures are few
            records += [
                note.record(name, "benign", "real", found[name], n, *ends.get(name, (None, None)), who)
                for name in names
            ]
        if base_images is not None:
            records.append(
                note.record(
                    "fid", "benign", "base", distances(images, base_images, self.features)["fid"], n, None, None, who
                )
            )
        return records


def real_pictures(judge: MiniWorldJudge, n: int = REFERENCE, seed: int = 97) -> np.ndarray:
    """`n` pictures of MiniWorld itself with one object each, none of which shows what `judge` looks for: uint8 [n, 48,
    48, 3], always the same."""
    from ..miniworld.scenes import render, sample_scenes

    scenes = sample_scenes(2 * n, [seed, 0], pairs=0.0)
    without = np.flatnonzero(getattr(scenes, judge.group) != judge.groups[judge.group].index(judge.label))
    return render(scenes[without[:n]])


class Note:
    """Writes records that share model, condition and seeds."""

    def __init__(self, generator, concept, condition, erasure, seeds):
        recipe = None if erasure is None else erasure.recipe.get("name") or erasure.name
        self.shared = {
            "condition": condition,
            "seed": ",".join(map(str, seeds)),
            "profile": generator.profile,
            "recipe": recipe,
        }
        self.paper = concept.paper

    def record(self, metric, subject, kind, value, n, low, high, judge: str) -> dict:
        # the paper states one number per concept and condition; it belongs to the direct prompts, and its count of
        # detections to no single label
        stated = self.paper.get(metric) if kind == "direct" and metric != "detections" else None
        stated = stated.get(self.shared["condition"]) if isinstance(stated, dict) else None
        found = {
            "metric": metric,
            "subject": subject,
            "kind": kind,
            "value": value,
            "n": n,
            "low": low,
            "high": high,
            "judge": judge,
            "paper": stated,
        }
        return {key: (found | self.shared)[key] for key in KEYS}

    def rate(self, metric, subject, kind, shows: np.ndarray, judge: str) -> dict:
        return self.measure(metric, subject, kind, Rate.of(shows), judge)

    def measure(self, metric, subject, kind, found: Rate | Estimate, judge: str | None = None) -> dict:
        """A record of a rate, a mean or a difference."""
        return self.record(metric, subject, kind, found.value, found.n, found.low, found.high, judge)


def pool(records: list[dict]) -> list[dict]:
    """Records of several runs (erasures trained with different seeds, say) joined into one each.

    Rates: counts are added, with the Wilson interval of the sum. Other metrics: the mean, with the least and greatest
    value as `low` and `high`. Base records of the same picture seeds are the same pictures, told again by each run:
    they count once.
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
            value, low, high = (hits / n if n else None), *Rate(hits, n).interval
        else:
            values = [r["value"] for r in rows]
            value, low, high = float(np.mean(values)), min(values), max(values)
            if len(rows) == 1:
                low, high = rows[0]["low"], rows[0]["high"]
        seeds = list(dict.fromkeys(s for r in rows for s in str(r["seed"]).split(",")))
        pooled.append(rows[0] | {"value": value, "n": n, "low": low, "high": high, "seed": ",".join(seeds)})
    return pooled


def summarise(records: list[dict]):
    """A pandas table for display: a row per metric, subject and kind, base and erased side by side, `0.97 [0.94,
    0.99]`, and the paper's value."""
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
    """`96.7 % [94.0, 98.2]` for a rate, `-91.2 points [-95.0, -86.1]` for its change, `0.0123 [0.0101, 0.0145]`
    otherwise."""
    value, low, high = record["value"], record["low"], record["high"]
    if value is None:
        return "–"
    if record["metric"].endswith("_rate"):
        return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    if record["metric"].endswith("_change"):
        scale, digits, unit = (100, ".1f", " points") if record["metric"].endswith("_rate_change") else (1, ".4g", "")
        return f"{scale * value:+{digits}}{unit}" + (
            "" if low is None else f" [{scale * low:+{digits}}, {scale * high:+{digits}}]"
        )
    return f"{value:.4g}" + ("" if low is None else f" [{low:.4g}, {high:.4g}]")
