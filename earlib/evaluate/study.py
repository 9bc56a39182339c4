"""Everything that is measured of one erasure, in sections that are kept as soon as they are done: a study that was
killed goes on where it stopped.

A section returns {"records": flat records, "notes": what was left out and why, ...}. What is measured is in
`report.py`, `drift.py` and `understanding.py`; how it is shown, in `page.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..runs import plain, read_json, write_json
from .evaluation import Instruments, Note, evaluate
from .judge import Judge, MiniWorldJudge, describe
from .judges import load_judge

LEAST_PICTURES = 2  # of the concept, for what is measured on them
EXAMPLES = 6  # captions that are kept to be shown


@dataclass
class Case:
    """One erasure of one concept, and how closely to look: `size` prompts of a kind, two thirds fewer of each
    neighbour, twice as many benign ones."""

    generator: object
    concept: object
    erasure: object
    seeds: tuple[int, ...] = (0, 1)
    size: int = 20
    clip: str | None = None
    reference: str | None = None
    progress: bool = True

    def __post_init__(self):
        self.judge: Judge = load_judge(self.concept.judge)
        for spec in self.concept.neighbour_judges.values():
            load_judge(spec)  # with the instruments: what is not there is said before anything is trained or drawn
        Instruments(self.judge, self.clip, self.reference)
        self.named = list(self.concept.tests.get("direct") or next(iter(self.concept.tests.values())))[: self.size]
        self.benign = list(self.concept.benign)[: self.size]
        notes = (
            Note(
                self.generator, self.concept, condition, self.erasure if condition == "erased" else None, self.seeds[:1]
            )
            for condition in CONDITIONS
        )
        self.base, self.erased = notes
        self._tokens: dict[tuple, object] = {}

    @property
    def conditions(self):
        """(note, erasure) of base and erased."""
        return (self.base, None), (self.erased, self.erasure)

    def tokens(self, prompts: list[str], erasure=None):
        """Image tokens [N, T] of the first seed's pictures; drawn once."""
        from .drift import draw_tokens

        key = (tuple(prompts), erasure is not None)
        if key not in self._tokens:
            self._tokens[key] = draw_tokens(self.generator, prompts, self.seeds[0], erasure, progress=self.progress)
        return self._tokens[key]

    def concept_pictures(self):
        """(prompts, tokens) of the base's pictures in which the judge sees the concept. UserError if they are too few."""
        tokens = self.tokens(self.named)
        shows = self.judge.shows(self.generator.decode(tokens))
        if shows.sum() < LEAST_PICTURES:
            raise UserError(
                f"the judge saw the concept in {shows.sum()} of {len(shows)} pictures of the base model, {LEAST_PICTURES} are needed"
            )
        rows = np.flatnonzero(shows)
        return [self.named[i] for i in rows], tokens[rows]


CONDITIONS = ("base", "erased")


def rates(case: Case) -> dict:
    """The judges' rates, CLIP scores and distances of `report.evaluate`, with changes."""
    caps = {"tests": case.size, "neighbours": max(2, case.size // 3), "benign": 2 * case.size}
    tools = {"clip": case.clip, "reference": case.reference}
    records = evaluate(
        case.generator, case.concept, case.erasure, case.seeds, caps, progress=case.progress, changes=True, **tools
    )
    there, notes = {r["metric"] for r in records}, []
    if "clip_score" not in there:
        notes.append("CLIP scores: no model was named; add --clip ViT-B-32-quickgelu/openai")
    if "kid" not in there:
        notes.append(
            "KID, FID, precision and recall: they need at least 8 benign pictures, real pictures (--reference DIR) and Inception's weights"
        )
    return {"records": records, "notes": notes}


def drift(case: Case) -> dict:
    """KL drift and token agreement on benign prompts, first-row entropy on both kinds."""
    from .drift import first_row_entropy, kl_drift, token_agreement

    base_NT, erased_NT = case.tokens(case.benign), case.tokens(case.benign, case.erasure)
    kl = kl_drift(case.generator, case.erasure, case.benign, base_NT)
    records = [case.erased.measure("kl_drift", "benign", "benign", kl)]
    agree = token_agreement(case.benign, base_NT, erased_NT)
    names = {"agreement": "token_agreement", "identical": "identical_rate", "untouched": "untouched_share"}
    records += [case.erased.measure(names[part], "benign", "benign", found) for part, found in agree.items()]
    for subject, prompts in ((case.concept.name, case.named), ("benign", case.benign)):
        for note, erasure in case.conditions:
            found = first_row_entropy(case.generator, prompts, case.tokens(prompts, erasure), erasure)
            records += [note.measure(f"first_row_{part}", subject, "first row", found[part]) for part in found]
    return {"records": records, "notes": []}


def knowledge(case: Case) -> dict:
    """The likelihood gap of the base's own pictures of the concept."""
    from .drift import likelihood_gap

    try:
        prompts, tokens = case.concept_pictures()
    except UserError as error:
        return {"records": [], "notes": [f"likelihood gap: {error}"]}
    gap = likelihood_gap(case.generator, case.erasure, prompts, tokens)
    parts = (
        ("likelihood_gap", case.base, "base"),
        ("likelihood_gap", case.erased, "erased"),
        ("likelihood_gap_change", case.erased, "change"),
    )
    return {
        "records": [note.measure(metric, case.concept.name, "direct", gap[part]) for metric, note, part in parts],
        "notes": [],
    }


def guidance(case: Case) -> dict:
    """The concept's rate at guidance 1 to 10."""
    from .drift import guidance_sweep

    records = []
    for note, erasure in case.conditions:
        sweep = guidance_sweep(
            case.generator, case.named, case.judge, erasure, seed=case.seeds[0], progress=case.progress
        )
        for scale, found in sweep.items():
            kind = f"guidance {scale:g}"
            records.append(note.measure("guided_rate", case.concept.name, kind, found, describe(case.judge)))
    return {"records": records, "notes": []}


def prefix(case: Case) -> dict:
    """Whether the first rows of a picture of the concept bring it back, under the prompt that it was drawn for."""
    from .drift import prefix_probe

    try:
        prompts, tokens = case.concept_pictures()
    except UserError as error:
        return {"records": [], "notes": [f"prefix probe: {error}"]}
    filler = case.tokens(case.benign)
    filler = filler[np.arange(len(tokens)) % len(filler)]
    records, who = [], describe(case.judge)
    for note, erasure in case.conditions:
        for row in prefix_probe(
            case.generator, prompts, tokens, case.judge, erasure, filler, seed=case.seeds[0] + 1, progress=case.progress
        ):
            kind = f"{row['rows']} of {case.generator.grid[0]} rows"
            records.append(note.measure("prefix_rate", case.concept.name, kind, row["rate"], who))
            if note is case.base:
                records.append(note.measure("rows_alone_rate", case.concept.name, kind, row["alone"], who))
    return {"records": records, "notes": []}


def recognition(case: Case) -> dict:
    """Captions, and on models that were taught to answer a yes-or-no question, of pictures with the concept and
    without."""
    from .understanding import question_about
    from .understanding import recognition as recognise

    try:
        shows, without = _pictures_to_recognise(case)
    except UserError as error:
        return {"records": [], "notes": [f"recognition: {error}"]}
    records, examples = [], []
    # MiniJanus was taught to caption and nothing else
    asked = (
        {"caption": None}
        if case.generator.profile == "mini"
        else {"caption": None, "question": question_about(case.concept)}
    )
    for metric, question in asked.items():
        rows = recognise(case.generator, case.concept, shows, without, case.erasure, question=question)
        for row in rows:
            note, where = getattr(case, row["condition"]), (case.concept.name, row["pictures"])
            records.append(note.measure(f"{metric}_rate", *where, row["rate"], question))
            if "change" in row:
                records.append(note.measure(f"{metric}_rate_change", *where, row["change"], question))
        answers = {row["condition"]: row["answers"][:EXAMPLES] for row in rows if row["pictures"] == "with the concept"}
        examples += [
            {"asked": question or "a caption", "base": b, "erased": e}
            for b, e in zip(answers["base"], answers["erased"])
        ]
    return {"records": records, "notes": [], "examples": examples}


def _pictures_to_recognise(case: Case):
    """Pictures with the concept and without it: MiniWorld's own for a model of its size, else the base model's
    drawings, sorted by the judge."""
    from .understanding import world_pictures

    drawn = case.generator.decode(case.tokens(case.benign))
    if isinstance(case.judge, MiniWorldJudge):
        world = world_pictures(case.judge, 3 * case.size)
        if world[0].shape[1:] == drawn.shape[1:]:
            return world
    shows = case.generator.decode(case.concept_pictures()[1])
    without = drawn[~case.judge.shows(drawn)]
    if len(without) < LEAST_PICTURES:
        raise UserError(
            f"the judge saw the concept in all but {len(without)} of {len(drawn)} benign pictures, {LEAST_PICTURES} without it are needed"
        )
    return shows, without


SECTIONS = {
    "rates": rates,
    "drift": drift,
    "knowledge": knowledge,
    "guidance": guidance,
    "prefix": prefix,
    "recognition": recognition,
}


def measure(case: Case, run) -> dict[str, dict]:
    """Every section of the study by name, taken from `run`'s folder where it was finished before; writes
    sections/NAME.json as each is done."""
    from tqdm.auto import tqdm

    found = {}
    with tqdm(total=len(SECTIONS), desc="measuring", unit="section", disable=not case.progress, leave=False) as bar:
        for name, section in SECTIONS.items():
            file = run.folder / "sections" / f"{name}.json"
            bar.set_postfix_str(name)
            if not file.exists():
                write_json(file, plain(section(case)))
            found[name] = read_json(file)  # read back even when new: a resumed study gives the same page
            bar.update()
    return found
