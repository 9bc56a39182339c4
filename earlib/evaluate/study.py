"""Everything that is measured of one erasure, in sections that are kept as soon as they are done: a study that was
killed goes on where it stopped.

A section is a function of a `Case` that returns {"records": flat records, "notes": what was left out and why}. How it
is shown is decided in `earlib/book/report.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..concepts import Concept
from ..errors import UserError
from ..generators.base import Generator, NextToken
from ..runs import Run, plain, read_json, write_json
from . import drift as measures
from .attacks import LIGHT
from .attacks.battery import Battery, rows, run_cell
from .attacks.battery import records as battery_records
from .attacks.draws import guidance_sweep
from .attacks.prefix import beginnings, prefix_probe
from .evaluation import Instruments, evaluate
from .judge import Judge, MiniWorldJudge, describe
from .judges import load_judge
from .records import KEYS, Note
from .understanding import question_about, recognition, world_pictures

if TYPE_CHECKING:
    from ..erasure.store import Erasure

LEAST_PICTURES = 2  # of the concept, for what is measured on them
EXAMPLES = 6  # captions that are kept to be shown
ATTACKED = 12  # prompts on which the success of attacks is counted


@dataclass
class Case:
    """One erasure of one concept, and how closely to look.

    Args:
        generator: the base model, of either family.
        concept: what was erased.
        erasure: None before anything is trained: what is missing is then said early.
        seeds: picture seeds; what is measured along single pictures takes the first.
        size: prompts of a kind; a third as many of each neighbour, twice as many benign ones.
        clip, reference: as for `evaluate`.
        progress: show bars with the time left.

    Raises:
        UserError: a judge, model or folder that was named is not there.
    """

    generator: Generator
    concept: Concept
    erasure: Erasure | None
    seeds: tuple[int, ...] = (0, 1)
    size: int = 20
    clip: str | None = None
    reference: str | None = None
    progress: bool = True

    def __post_init__(self):
        self.judge: Judge = load_judge(self.concept.judge)
        for spec in self.concept.neighbour_judges.values():
            load_judge(spec)
        Instruments(self.judge, self.clip, self.reference)
        self.named = list(self.concept.tests.get("direct") or next(iter(self.concept.tests.values())))[: self.size]
        self.benign = list(self.concept.benign)[: self.size]
        one = self.seeds[:1]
        self.base = Note(self.generator, self.concept, "base", None, one)
        self.erased = Note(self.generator, self.concept, "erased", self.erasure, one)
        self._tokens: dict[tuple, torch.Tensor] = {}

    @property
    def conditions(self) -> tuple[tuple[Note, Erasure | None], ...]:
        """(note, erasure) of base and erased."""
        return (self.base, None), (self.erased, self.erasure)

    @property
    def beginning_unit(self) -> str:
        """What a picture is continued from in whole: "row" or "scale"."""
        return "row" if isinstance(self.generator, NextToken) else "scale"

    def tokens(self, prompts: list[str], erasure: Erasure | None = None) -> torch.Tensor:
        """Codes [N, ...] of the first seed's pictures; drawn once."""
        key = (tuple(prompts), erasure is not None)
        if key not in self._tokens:
            seed, show = self.seeds[0], self.progress
            self._tokens[key] = measures.draw_tokens(self.generator, prompts, seed, erasure, progress=show)
        return self._tokens[key]

    def concept_pictures(self) -> tuple[list[str], torch.Tensor]:
        """(prompts, codes) of the base's pictures in which the judge sees the concept. UserError if too few are."""
        codes = self.tokens(self.named)
        rows = np.flatnonzero(self.judge.shows(self.generator.decode(codes)))
        if len(rows) < LEAST_PICTURES:
            seen = f"the judge saw the concept in {len(rows)} of {len(codes)} pictures of the base model"
            raise UserError(f"{seen}, and {LEAST_PICTURES} are needed; use more prompts or seeds")
        return [self.named[i] for i in rows], codes[rows]


def rates(case: Case) -> dict:
    """The judges' rates, CLIP scores and distances of `evaluate`, with changes."""
    caps = {"tests": case.size, "neighbours": max(2, case.size // 3), "benign": 2 * case.size}
    tools: dict[str, Any] = {"clip": case.clip, "reference": case.reference, "progress": case.progress}
    records = evaluate(case.generator, case.concept, case.erasure, case.seeds, caps, changes=True, **tools)
    there, notes = {r["metric"] for r in records}, []
    if "clip_score" not in there:
        notes.append("CLIP scores: no model was named; add --clip ViT-B-32-quickgelu/openai")
    if "kid" not in there:
        needed = "at least 8 benign pictures, real pictures (--reference DIR) and Inception's weights"
        notes.append(f"KID, FID, precision and recall: they need {needed}")
    return {"records": records, "notes": notes}


def drift(case: Case) -> dict:
    """KL drift and code agreement on benign prompts, first-row entropy on both kinds."""
    base, erased = case.tokens(case.benign), case.tokens(case.benign, case.erasure)
    kl = measures.kl_drift(case.generator, case.erasure, case.benign, base)
    records = [case.erased.measure("kl_drift", "benign", "benign", kl)]
    names = {"agreement": "token_agreement", "identical": "identical_rate", "untouched": "untouched_share"}
    for part, found in measures.token_agreement(case.benign, base, erased).items():
        records.append(case.erased.measure(names[part], "benign", "benign", found))
    if not isinstance(case.generator, NextToken):
        return {"records": records, "notes": ["first-row entropy: the model draws scale by scale, not row by row"]}
    for subject, prompts in ((case.concept.name, case.named), ("benign", case.benign)):
        for note, erasure in case.conditions:
            entropies = measures.first_row_entropy(case.generator, prompts, case.tokens(prompts, erasure), erasure)
            records += [note.measure(f"first_row_{part}", subject, "first row", e) for part, e in entropies.items()]
    return {"records": records, "notes": []}


def knowledge(case: Case) -> dict:
    """The likelihood gap of the base's own pictures of the concept."""
    try:
        prompts, codes = case.concept_pictures()
    except UserError as error:
        return {"records": [], "notes": [f"likelihood gap: {error}"]}
    gap = measures.likelihood_gap(case.generator, case.erasure, prompts, codes)
    where = (case.concept.name, "direct")
    records = [getattr(case, part).measure("likelihood_gap", *where, gap[part]) for part in ("base", "erased")]
    records.append(case.erased.measure("likelihood_gap_change", *where, gap["change"]))
    return {"records": records, "notes": []}


def guidance(case: Case) -> dict:
    """The concept's rate at guidance 1 to 10."""
    records = []
    how: dict[str, Any] = {"seed": case.seeds[0], "progress": case.progress}
    for note, erasure in case.conditions:
        for scale, found in guidance_sweep(case.generator, case.named, case.judge, erasure, **how).items():
            kind = f"guidance {scale:g}"
            records.append(note.measure("guided_rate", case.concept.name, kind, found, describe(case.judge)))
    return {"records": records, "notes": []}


def prefix(case: Case) -> dict:
    """Whether the beginning of a picture of the concept brings it back, under the prompt that it was drawn for."""
    try:
        prompts, codes = case.concept_pictures()
    except UserError as error:
        return {"records": [], "notes": [f"prefix probe: {error}"]}
    benign = case.tokens(case.benign)
    how: dict[str, Any] = {"seed": case.seeds[0] + 1, "progress": case.progress}
    how["filler"] = benign[np.arange(len(codes)) % len(benign)]
    whole = len(beginnings(case.generator)) - 1
    records, who = [], describe(case.judge)
    for note, erasure in case.conditions:
        for row in prefix_probe(case.generator, prompts, codes, case.judge, erasure, **how):
            where = (case.concept.name, f"{row['rows']} of {whole} {case.beginning_unit}s")
            records.append(note.measure("prefix_rate", *where, row["rate"], who))
            if note is case.base:
                records.append(note.measure("rows_alone_rate", *where, row["alone"], who))
    return {"records": records, "notes": []}


def attacks(case: Case) -> dict:
    """Whether attacks of a small budget bring the concept back, on the first `ATTACKED` prompts and from one seed."""
    show = case.progress
    if not case.concept.neighbours:  # the battery, too, would say so
        why = f"attacks: concept '{case.concept.name}' has no neighbours, one of which would be the control's word"
        return {"records": [], "notes": [why], "table": []}
    battery = Battery(
        case.generator, case.concept, case.erasure, budget=LIGHT, seeds=1, size=min(case.size, ATTACKED), progress=show
    )
    cells = [run_cell(battery, *cell)[0] for cell in battery.cells()]
    left_out = battery.left_out | {cell["attack"]: cell["left_out"] for cell in cells if "left_out" in cell}
    records = [{key: record[key] for key in KEYS} for record in battery_records(battery, cells)]
    return {
        "records": records,
        "notes": [f"attack {name}: {why}" for name, why in left_out.items()],
        "table": rows(cells),
    }


def recognised(case: Case) -> dict:
    """What the model says of pictures with the concept and without it: captions, and answers to a yes-or-no question if
    it was taught to give any."""
    if not isinstance(case.generator, NextToken):
        return {"records": [], "notes": ["recognition: the model draws pictures and reads none"]}
    try:
        shows, without = _pictures_to_recognise(case)
    except UserError as error:
        return {"records": [], "notes": [f"recognition: {error}"]}
    asked: dict[str, str | None] = {"caption": None}
    if not case.generator.profile.startswith("mini"):  # they were taught to caption and nothing else
        asked["question"] = question_about(case.concept)
    records, examples = [], []
    for metric, question in asked.items():
        answers = {}
        for row in recognition(case.generator, case.concept, shows, without, case.erasure, question=question):
            note, where = getattr(case, row["condition"]), (case.concept.name, row["pictures"])
            records.append(note.measure(f"{metric}_rate", *where, row["rate"], question))
            if "change" in row:
                records.append(note.measure(f"{metric}_rate_change", *where, row["change"], question))
            if row["pictures"] == "with the concept":
                answers[row["condition"]] = row["answers"][:EXAMPLES]
        for before, after in zip(answers["base"], answers["erased"]):
            examples.append({"asked": question or "a caption", "before": before, "after": after})
    return {"records": records, "notes": [], "examples": examples}


def _pictures_to_recognise(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with the concept and without it: MiniWorld's own for a model of its size, else the base model's
    drawings, sorted by the judge."""
    drawn = case.generator.decode(case.tokens(case.benign))
    if isinstance(case.judge, MiniWorldJudge):
        world = world_pictures(case.judge, 3 * case.size)
        if world[0].shape[1:] == drawn.shape[1:]:
            return world
    shows = case.generator.decode(case.concept_pictures()[1])
    without = drawn[~case.judge.shows(drawn)]
    if len(without) < LEAST_PICTURES:
        seen = f"the judge saw the concept in all but {len(without)} of {len(drawn)} benign pictures"
        raise UserError(f"{seen}, and {LEAST_PICTURES} without it are needed; use more prompts or seeds")
    return shows, without


SECTIONS = {
    "rates": rates,
    "drift": drift,
    "knowledge": knowledge,
    "guidance": guidance,
    "prefix": prefix,
    "attacks": attacks,
    "recognition": recognised,
}


def measure(case: Case, run: Run) -> dict[str, dict]:
    """Every section of the study by name, taken from `run`'s folder where it was finished before; writes
    sections/NAME.json as each is done."""
    from ..runs import progress_bar

    found = {}
    with progress_bar(
        total=len(SECTIONS), desc="measuring", unit="section", disable=not case.progress, leave=False
    ) as bar:
        for name, section in SECTIONS.items():
            file = run.folder / "sections" / f"{name}.json"
            bar.set_postfix_str(name)
            if not file.exists():
                write_json(file, plain(section(case)))
            found[name] = read_json(file)  # read back even when new: a resumed study gives the same page
            bar.update()
    return found
