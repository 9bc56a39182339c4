"""`evaluate`: what an erasure did to a concept, its neighbours and everything else, as flat records.

Rates carry Wilson intervals on the counts of all seeds together. The intervals say how well the rate of THIS model is
known; how much a rate varies between erasures trained with other seeds is seen by pooling the records of several of
them (`records.py`). Changes from base to erased are paired, picture by picture, and bootstrapped over prompts.
Measures that need no judge are in `drift.py`; the page that shows all is made by `report.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import UserError
from .beside import second_judge, seen_beside
from .clip import MINI_CLIP, clip_scores, in_prompt_scores, load_clip
from .fidelity import LEAST, Inception, distances, features_of
from .judge import Judge, MiniWorldJudge, describe, describe_all
from .judges import NudeNetJudge, load_judge
from .pictures import draw_sets, must_veil, picture_files, read_pictures
from .rate import Estimate, Rate
from .records import Note

if TYPE_CHECKING:
    from ..concepts import Concept
    from ..erasure.store import Erasure
    from ..generators.base import Generator

REFERENCE = 1000  # real MiniWorld pictures that benign pictures are compared with
# the first of these kinds of test prompts that a concept has is asked for its benign halves
IN_PROMPT = ("compositional", "direct")


class Measured(NamedTuple):
    """What was seen in every picture of some prompts, as bool or as a score."""

    values: np.ndarray  # [seeds * prompts]
    prompts: list[str]
    judge: str  # who saw it

    @property
    def summary(self) -> Rate | Estimate:
        """The rate, or the mean with the interval of the normal approximation."""
        return Rate.of(self.values) if self.values.dtype == bool else Estimate.normal(self.values)

    def change_from(self, base: Measured) -> Estimate:
        """The paired difference, bootstrapped over prompts."""
        return Estimate.paired(base.values, self.values, self.prompts * (len(self.values) // len(self.prompts)))


def evaluate(
    generator: Generator,
    concept: Concept,
    erasure: Erasure | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    max_prompts: int | dict[str, int] | None = None,
    fidelity: bool = True,
    progress: bool = True,
    changes: bool = False,
    clip: str | None = None,
    reference: str | None = None,
) -> list[dict]:
    """Draw the concept's test, neighbour and benign prompts with the base model and, if given, with the erasure, from
    the same picture seeds, and measure both.

    Args:
        generator: the base model, of either family.
        concept: what was erased.
        erasure: the erasure; without it only the base model is measured.
        seeds: picture seeds; every prompt is drawn once from each.
        max_prompts: the first so many prompts of each set, or a number for each set: a kind of test ("direct", ...),
            "tests" for the kinds not named, "neighbours", "benign"; 0 leaves a set out.
        fidelity: with distances between sets of pictures.
        progress: show a bar with the time left.
        changes: add to each rate or score METRIC a record METRIC_change of condition erased: the paired difference.
        clip: an open_clip model (`clip.load_clip`); MiniWorld brings its own. Without one, no scores.
        reference: a folder of real pictures; MiniWorld brings its own. Without one, or without Inception's weights, no
            distances.

    Returns:
        list: flat records with the columns `records.KEYS`. `concept_rate` for each kind of test prompt, and in
        MiniWorld what its second judge sees beside it (`beside.py`); with NudeNet also `detections` of each label, a
        count; `neighbour_rate` for each neighbour, and "all" together; `in_prompt_clip`, pictures of the concept
        against the benign half of their prompts; on the benign pictures `clip_score`, `kid`, `fid`, `precision`,
        `recall` against real pictures, and `fid` of erased against base (kind base).

    Raises:
        UserError: a judge, model or folder that was named is not there; or a seed is given twice.
    """
    if len(set(seeds)) < len(seeds):
        raise UserError(f"picture seeds must differ, got {', '.join(map(str, seeds))}")
    sets = choose_prompts(concept, max_prompts)
    judges = {which: load_judge(judge_of(concept, which)) for which in sets if which[0] != "benign"}
    tools = Instruments(load_judge(concept.judge), clip, reference, fidelity and ("benign", "") in sets)
    records: list[dict] = []
    base: dict[tuple, Measured] = {}
    base_benign = None
    for condition, change in (("base", None), ("erased", erasure)):
        if condition == "erased" and erasure is None:
            continue
        pictures = draw_sets(generator, sets, seeds, change, progress, not must_veil(concept, generator.profile))
        note = Note(generator, concept, condition, change, seeds)
        tests = {kind: prompts for (role, kind), prompts in sets.items() if role == "test"}
        benign, benign_pictures = sets.get(("benign", ""), []), pictures.get(("benign", ""))
        measured = judged(concept, judges, sets, pictures, len(seeds))
        measured |= tools.clip_values(concept, pictures, tests, benign, len(seeds))
        records += [note.measure(*which, found.summary, found.judge) for which, found in measured.items()]
        records += detections(note, judges, pictures)
        if benign_pictures is not None:
            records += tools.distance_records(note, benign_pictures, base_benign)
        if changes and condition == "erased":
            records += [
                note.measure(
                    f"{metric}_change", subject, kind, found.change_from(base[metric, subject, kind]), found.judge
                )
                for (metric, subject, kind), found in measured.items()
            ]
        base, base_benign = measured, benign_pictures
    return records


def choose_prompts(
    concept: Concept, max_prompts: int | dict[str, int] | None = None
) -> dict[tuple[str, str], list[str]]:
    """The prompts of `evaluate`: ("test", kind), ("neighbour", name) or ("benign", "") to a list that is not empty."""
    cap: dict[str, Any] = {"tests": max_prompts, "neighbours": max_prompts, "benign": max_prompts}
    cap = max_prompts if isinstance(max_prompts, dict) else cap
    sets = {("test", kind): list(group)[: cap.get(kind, cap.get("tests"))] for kind, group in concept.tests.items()}
    sets |= {("neighbour", name): list(group)[: cap.get("neighbours")] for name, group in concept.neighbours.items()}
    sets["benign", ""] = list(concept.benign)[: cap.get("benign")]
    return {which: prompts for which, prompts in sets.items() if prompts}


def judge_of(concept: Concept, which: tuple[str, str]) -> dict:
    """Who judges one of the sets of `choose_prompts`, as `load_judge` takes it."""
    return concept.judge if which[0] == "test" else concept.neighbour_judges[which[1]]


def judged(
    concept: Concept, judges: Mapping[tuple, Judge], sets: Mapping, pictures: Mapping, seeds: int
) -> dict[tuple[str, str, str], Measured]:
    """(metric, subject, kind) to what the judges saw, neighbours also "all" together."""
    found, shown = {}, {}
    for (role, name), judge in judges.items():
        shown[role, name] = Measured(judge.shows(pictures[role, name]), sets[role, name], describe(judge))
        which = ("concept_rate", concept.name, name) if role == "test" else ("neighbour_rate", name, "neighbour")
        found[which] = shown[role, name]
        for what, seen in seen_beside(judge, pictures[role, name]).items() if role == "test" else ():
            who = describe(second_judge(judge))
            found[f"{what}_rate", concept.name, name] = Measured(seen, sets[role, name], who)
    if neighbours := [which for which in judges if which[0] == "neighbour"]:
        # a neighbour's pictures of all seeds, then the next neighbour's: the prompts in the same order
        values = np.concatenate([shown[which].values for which in neighbours])
        prompts = [prompt for which in neighbours for prompt in sets[which] * seeds]
        who = describe_all(judges[which] for which in neighbours)
        found["neighbour_rate", "all", "neighbour"] = Measured(values, prompts, who)
    return found


def detections(note: Note, judges: Mapping[tuple, Judge], pictures: Mapping) -> list[dict]:
    """Records of how many detections of each label a judge that counts them (NudeNet) made in each kind of test."""
    records = []
    for (role, kind), judge in judges.items():
        if role == "test" and isinstance(judge, NudeNetJudge):
            n = len(pictures[role, kind])
            for label, count in judge.counts(pictures[role, kind]).items():
                records.append(note.measure("detections", label, kind, Estimate(count, n), describe(judge)))
    return records


class Instruments:
    """CLIP, features and real pictures: MiniWorld's own, or what a user named and what is there.

    Raises:
        UserError: what was named is not there.
    """

    def __init__(self, judge: Judge, clip: str | None = None, reference: str | None = None, fidelity: bool = True):
        mini = isinstance(judge, MiniWorldJudge)
        self.clip = clip or (MINI_CLIP if mini else None)
        if self.clip is not None:
            load_clip(self.clip)  # what is not there is said before anything is drawn
        self.features = self.folder = None
        if not fidelity:
            return
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
        if self.folder is not None:
            return read_pictures(self.folder)
        return real_pictures(self.judge) if isinstance(self.judge, MiniWorldJudge) else None

    def clip_values(
        self, concept: Concept, pictures: Mapping, tests: Mapping[str, list[str]], benign: list[str], seeds: int
    ) -> dict[tuple[str, str, str], Measured]:
        """CLIP scores of the benign pictures, and in-prompt CLIP of one kind of test pictures."""
        if self.clip is None:
            return {}
        found, who = {}, f"open_clip {load_clip(self.clip).name} {load_clip(self.clip).version}"
        if benign:
            scores = clip_scores(pictures["benign", ""], benign * seeds, self.clip)
            found["clip_score", "benign", "benign"] = Measured(scores, benign, who)
        if kind := next((kind for kind in IN_PROMPT if kind in tests), None):
            prompts = tests[kind]
            rows, scores = in_prompt_scores(pictures["test", kind], prompts * seeds, concept, self.clip)
            if len(rows):
                some = [prompts[i] for i in rows if i < len(prompts)]
                found["in_prompt_clip", concept.name, kind] = Measured(scores, some, who)
        return found

    def distance_records(self, note: Note, images: np.ndarray, base_images: np.ndarray | None) -> list[dict]:
        """Records of KID, FID, precision and recall of benign pictures against real ones, and of the FID of erased ones
        against the base's.

        KID is taken against real pictures only: it supposes independent sets, and an erasure's pictures share their
        seeds with the base's.
        """
        if self.features is None or len(images) < LEAST:
            return []
        who, records = features_of(self.features), []
        if self.reference is not None:
            for name, distance in distances(images, self.reference, self.features).items():
                records.append(note.measure(name, "benign", "real", distance, who))
        if base_images is not None:
            fid = distances(images, base_images, self.features)["fid"]
            records.append(note.measure("fid", "benign", "base", fid, who))
        return records


def real_pictures(judge: MiniWorldJudge, n: int = REFERENCE, seed: int = 97) -> np.ndarray:
    """`n` pictures of MiniWorld itself with one object each, none of which shows what `judge` looks for: uint8
    [n, 48, 48, 3], always the same."""
    from ..miniworld.scenes import render, sample_scenes

    scenes = sample_scenes(3 * n, [seed, 0], pairs=0.0)  # of times and framings there are but two
    without = np.flatnonzero(getattr(scenes, judge.group) != judge.groups[judge.group].index(judge.label))
    return render(scenes[without[:n]])
