"""From a concept's name to a report: erase, measure everything that applies, write a page. What `python -m earlib
report` does.

The folder is a run: config.json, status.json, erasure/, sections/, figures/ and at the end results.json, report.md and
report.html. The same call goes on where a killed one stopped. Pictures of explicit concepts are stored blurred or not
at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import __version__
from ..errors import UserError
from ..evaluate.beside import BESIDE
from ..evaluate.judge import describe, file_version
from ..evaluate.pictures import draw_sets, must_veil, veil
from ..evaluate.rate import Rate
from ..evaluate.records import format_value
from ..evaluate.study import Case, measure
from ..plots import panels, pictures, style
from ..plots.series import Series, before_after
from ..runs import Run
from .attacked import withstood
from .page import Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..concepts import Concept
    from ..erasure.settings import AnyRecipe
    from ..generators.base import Generator

SHOWN = 6  # prompts in a grid of pictures
Drawn = tuple[Path, str, str]  # a figure's file, caption and alternative text
TITLES = {
    "in_prompt_clip": "CLIP, benign half of prompts that name the concept",
    "clip_score": "CLIP, benign prompts",
    "kid": "KID",
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "kl_drift": "KL drift, nats a code",
    "token_agreement": "equal codes under common random numbers",
    "identical_rate": "pictures that are the same to the last code",
    "untouched_share": "share of the picture before the first other code",
    "first_row_entropy": "entropy of the first row, nats",
    "first_row_spread": "entropy of the first row, over pictures, nats",
    "likelihood_gap": "likelihood gap of its pictures, nats a code",
    "second_rate": "the concept, by the second judge",
    "object_rate": "any object",
    "replacement_rate": "what replaces it in training",
    "unfinished_rate": "unfinished",
    "caption_rate": "captions that name it",
    "question_rate": "answers that say yes",
}
FIDELITY = (
    "CLIP: cosine, interval by the normal approximation. real: against real pictures; base: erased against base. "
    "n counts pictures. With fewer than 2,048 pictures FID is biased upwards: read KID first, and compare FIDs at "
    "equal n only."
)
DRIFT = (
    "benign: prompts without the concept. n counts prompts; intervals are bootstrapped over prompts. A first row whose "
    "entropy over pictures falls is a sign of collapse: pictures begin alike, whatever the prompt. KL drift is that of "
    "the model before guidance: 0 for an erasure that only guides."
)
ATTACKS = (
    "Per cent of pictures in which the judge sees the concept: asked by name (without), under the attack (with), and "
    "with the attack's budget spent on an unrelated word (control). One seed, small budgets: `earlib attack` has more."
)
KNOWLEDGE = (
    "How much the prompt helps the model to explain the base model's pictures of the concept: NLL under the null "
    "prompt less NLL under the prompt. Near 0 the name has lost its meaning; below 0 the model shuns what it names."
)


def make_report(
    generator: Generator,
    concept: Concept,
    out: str | Path,
    recipe: AnyRecipe | str | None = None,
    erasure: str | Path | None = None,
    seed: int = 0,
    seeds: Sequence[int] = (0, 1),
    size: int = 20,
    clip: str | None = None,
    reference: str | Path | None = None,
    show_explicit: bool = False,
    progress: bool = True,
) -> Path:
    """Erase a concept, measure the erasure, and write the report.

    Args:
        generator: the base model, of either family.
        concept: what is to be erased.
        out: the folder of the report.
        recipe: what to erase with, a Recipe or the name of one.
        erasure: the folder of an erasure that is there, instead of a recipe.
        seed: of the training.
        seeds: of the pictures.
        size: prompts of a kind at most (`study.Case`).
        clip, reference: as for `evaluate`.
        show_explicit: leave pictures of explicit concepts as they are. A person must set it, knowing what may be seen.
        progress: show bars with the time left.

    Returns:
        Path: of report.html.

    Raises:
        UserError: the folder holds another report; a judge's weights are not there. Said before anything is trained.
    """
    from ..erasure import erase
    from ..erasure.presets import recipe as preset
    from ..erasure.store import Erasure

    if (recipe is None) == (erasure is None):
        raise UserError("a report needs a recipe to erase with, or the folder of an erasure, not both")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"picture seeds must differ, got {', '.join(map(str, seeds)) or 'none'}")
    reference = None if reference is None else str(reference)
    case = Case(generator, concept, None, tuple(seeds), size, clip, reference, progress)
    out, found = Path(out), None
    if erasure is not None:
        found = Erasure.load(erasure, generator)
        files = (Path(erasure) / n for n in ("erasure.safetensors", "adapter_model.safetensors", "erasure.json"))
        how = {"erasure": Path(erasure).name, "weights": file_version(next(file for file in files if file.is_file()))}
    else:
        recipe = preset(recipe, generator) if isinstance(recipe, str) else recipe.check()
        how = {"recipe": recipe.name}  # the erasure's own run guards its settings
    config = {"report_of": concept.name, "model": generator.name, "fingerprint": generator.fingerprint, **how}
    config |= {"seeds": list(seeds), "size": size, "clip": clip, "reference": reference}
    with Run(out, config | {"show_explicit": show_explicit, "version": __version__}) as run:
        began = time.perf_counter()
        if found is None:
            found = erase(generator, concept, recipe, seed=seed, out=out / "erasure", progress=progress)
        case = replace(case, erasure=found)
        sections = measure(case, run)
        page = write_page(case, sections, run.folder, show_explicit, began)
        run.save_results([record for section in sections.values() for record in section["records"]])
    return page


def write_page(case: Case, sections: dict[str, dict], folder: Path, show_explicit: bool, began: float) -> Path:
    """Draw the figures into folder/figures and write report.md and report.html; returns the latter's path."""
    concept = case.concept
    table = {name: _Table(section["records"]) for name, section in sections.items()}
    page = Page(f"Erasing {concept.name} from {case.generator.name} with {case.erasure.name}", folder)
    figures = _Figures(case, folder / "figures", show_explicit)
    page.items(_in_short(concept, table))

    page.heading("Pictures before and after")
    kinds = ("direct", "synonym", "compositional")
    named = [prompt for kind, group in concept.tests.items() if kind in kinds for prompt in group[:2]]
    others = [p for group in list(concept.neighbours.values())[:4] for p in group[:1]] + list(concept.benign)[:2]
    page.picture(*figures.grid("concept", named[:SHOWN] or case.named[:SHOWN], "Prompts that ask for the concept"))
    page.picture(*figures.grid("kept", others[:SHOWN], "Prompts that do not ask for it"))

    rates = table["rates"]
    page.heading("Is it gone?")
    page.text("The share of pictures in which the judge sees the concept, by the way in which the prompt asks for it.")
    page.picture(*figures.bars(sections["rates"]["records"]))
    page.table(rates.rows("concept_rate", kind="asked for"), rates.judges("concept_rate"))
    page.table(rates.rows("detections", kind="prompts", subject="label"), rates.judges("detections"))
    direct = _Table([record for record in sections["rates"]["records"] if record["kind"] == "direct"])
    beside = [row for what in BESIDE for row in direct.rows(f"{what}_rate", titled=True)]
    page.table(beside, f"What else is seen where it is asked for by name. {direct.judges('second_rate')}")

    page.heading("What else changed?")
    page.text(
        "Neighbours are asked for by name, and their own judges look for them. Other numbers: of benign pictures."
    )
    page.table(rates.rows("neighbour_rate", subject="neighbour"), rates.judges("neighbour_rate"))
    fidelity = ("in_prompt_clip", "clip_score", "kid", "fid", "precision", "recall")
    page.table([row for metric in fidelity for row in rates.rows(metric, kind="of", titled=True)], FIDELITY)
    moved = (
        "kl_drift",
        "token_agreement",
        "identical_rate",
        "untouched_share",
        "first_row_entropy",
        "first_row_spread",
    )
    drift = table["drift"]
    page.table([row for metric in moved for row in drift.rows(metric, subject="prompts", titled=True)], DRIFT)

    page.heading("Can it be brought back?")
    page.picture(*figures.lines("guidance", table["guidance"], "guidance scale", "by stronger guidance"))
    if table["prefix"].records:
        given = f"{case.beginning_unit}s given from a picture of the concept"
        page.picture(*figures.lines("prefix", table["prefix"], given, "by how a picture of it begins"))
    page.table(sections["attacks"]["table"], ATTACKS + table["attacks"].judges("attack_rate", " Judge: "))
    page.table(table["knowledge"].rows("likelihood_gap", subject="concept", titled=True), KNOWLEDGE)

    if table["recognition"].records:
        page.heading("Does the model still recognise it?")
        for metric in ("caption_rate", "question_rate"):
            rows = table["recognition"].rows(metric, kind="pictures", titled=True)
            page.table(rows, table["recognition"].judges(metric, "Asked: "))
        page.table(sections["recognition"].get("examples", []))

    if notes := [note for section in sections.values() for note in section["notes"]]:
        page.heading("Left out")
        page.items(notes)
    page.heading("Settings")
    page.table([{"setting": name, "value": value} for name, value in _settings(case, began, show_explicit)])
    return page.write()


class _Table:
    """The records of a section, base and erased side by side."""

    def __init__(self, records: list[dict]):
        self.records = records
        self.found = {(r["metric"], r["subject"], r["kind"], r["condition"]): r for r in records}

    def texts(self, metric: str, subject: str, kind: str) -> dict[str, str | None]:
        """The values of base and erased and their difference, as text; None where there is none."""
        parts = {"base": (metric, "base"), "erased": (metric, "erased"), "change": (f"{metric}_change", "erased")}
        found = {what: self.found.get((name, subject, kind, condition)) for what, (name, condition) in parts.items()}
        return {what: record and format_value(record) for what, record in found.items()}

    def rows(self, metric: str, kind: str = "", subject: str = "", titled: bool = False) -> list[dict]:
        """A row for each subject and kind of `metric`; `kind` and `subject` head their columns if they are given."""
        rows = []
        for s, k in dict.fromkeys((r["subject"], r["kind"]) for r in self.records if r["metric"] == metric):
            base, erased = (self.found.get((metric, s, k, condition)) for condition in ("base", "erased"))
            row = {"measure": TITLES[metric]} if titled else {}
            row |= ({subject: s} if subject else {}) | ({kind: k} if kind else {})
            row |= {"n": (base or erased)["n"], **self.texts(metric, s, k)}
            paper = erased["paper"] if erased else None
            rows.append(row | {"paper, erased": None if paper is None else f"{paper:g}"})
        return rows

    def judges(self, metric: str, before: str = "Judge: ") -> str:
        some = [r for r in self.records if r["metric"] == metric and r["subject"] != "all" and r["judge"]]
        return before + "; ".join(dict.fromkeys(r["judge"] for r in some)) + "." if some else ""


class _Figures:
    """Draws figures into a folder; each method returns (path, caption, alternative text)."""

    def __init__(self, case: Case, folder: Path, show_explicit: bool):
        style.setup()
        self.case, self.folder, self.show_explicit = case, folder, show_explicit

    def _save(self, fig: Figure, name: str, caption: str, alt: str, data: list[dict] | None = None) -> Drawn:
        import matplotlib.pyplot as plt

        png = style.save(fig, name, data, self.folder, caption, alt)
        plt.close(fig)
        return png, caption, alt

    def grid(self, name: str, prompts: list[str], what: str) -> Drawn:
        """The same prompts and seed, base above erased, explicit pictures blurred."""
        case, seed = self.case, self.case.seeds[0]
        profile = case.generator.profile
        keep = not must_veil(case.concept, profile)
        rows = [draw_sets(case.generator, {"": prompts}, seed, e, False, keep)[""] for _, e in case.conditions]
        shown = veil(np.concatenate(rows), case.concept, profile, self.show_explicit, case.judge)
        fig = pictures.grid(shown, columns=len(prompts), row_labels=["base", "erased"], scale=1.2)
        listed = "; ".join(f"({i}) {prompt}" for i, prompt in enumerate(prompts, 1))
        caption = f"{what}, seed {seed}, from left to right: {listed}."
        if not keep and not self.show_explicit:
            caption += " Pictures in which the judge fires are blurred."
        return self._save(fig, name, caption, f"{what}: base above, erased below")

    def bars(self, records: list[dict]) -> Drawn:
        shown = [r for r in records if r["metric"] in ("concept_rate", "neighbour_rate")]
        name = self.case.concept.name
        bold = [name, *(f"{name}, {kind}" for kind in self.case.concept.tests)]
        fig = panels.bars({"": before_after(shown)}, horizontal=True, bold=bold)
        n = sum(r["n"] for r in shown if r["condition"] == "base" and r["subject"] != "all")
        caption = f"Rates by the judges, {n} pictures a condition, 95 % Wilson intervals."
        return self._save(fig, "rates", caption, "bars of rates before and after erasure", shown)

    def lines(self, name: str, table: _Table, xlabel: str, how: str) -> Drawn:
        """The rate over the number in each record's kind, a line a condition."""
        points: dict[str, dict[float, Rate]] = {}
        for r in table.records:
            x = next(float(word) for word in r["kind"].split() if word.replace(".", "", 1).isdigit())
            called = {"base": "before", "erased": "after"}[r["condition"]]
            called = "the beginning alone" if r["metric"] == "rows_alone_rate" else called
            points.setdefault(called, {})[x] = Rate.from_flat(r)
        quiet = {"the beginning alone": {"colour": style.QUIET, "line": ":", "marker": "s"}}
        series = [Series(called, rates, **quiet.get(called, {})) for called, rates in points.items()]
        ticks = {x: f"{x:g}" for x in sorted({x for rates in points.values() for x in rates})}
        fig = panels.lines({"": series}, xlabel, ticks=ticks)
        n = max(rate.n for rates in points.values() for rate in rates.values())
        caption = f"The concept's rate, brought back {how}; {n} pictures a point, 95 % Wilson intervals."
        if "the beginning alone" in points:
            caption += " The beginning alone: the rest filled from a picture without the concept."
        return self._save(fig, name, caption, f"rate of the concept over {xlabel}", table.records)


def _in_short(concept: Concept, table: dict[str, _Table]) -> list[str]:
    """A few lines with the numbers to look at first."""
    lines = withstood(concept.name, table["attacks"].records)
    for section, metric, subject, kind, text in (
        ("rates", "concept_rate", concept.name, "direct", "Asked for by name, the concept is seen in"),
        ("rates", "concept_rate", concept.name, "synonym", "Asked for by a synonym, it is seen in"),
        ("rates", "neighbour_rate", "all", "neighbour", "Its neighbours are seen in"),
        ("recognition", "caption_rate", concept.name, "with the concept", "In captions of its pictures it is named in"),
    ):
        found = table[section].texts(metric, subject, kind)
        if found["base"] and found["erased"]:
            lines.append(f"{text} {found['base']} before and {found['erased']} after: {found['change']}.")
    if guided := [r for r in table["guidance"].records if r["condition"] == "erased" and r["value"] is not None]:
        most = max(guided, key=lambda r: r["value"])
        lines.append(f"The most that any guidance scale brings back is {format_value(most)}, at {most['kind']}.")
    return lines


def _settings(case: Case, began: float, show_explicit: bool) -> list[tuple[str, str]]:
    import torch
    import transformers

    generator, concept, erasure = case.generator, case.concept, case.erasure
    numbers = [f"{name} {value:.4g}" for name, value in erasure.info.items() if isinstance(value, (int, float))]
    explicit = "blurred where the judge fires" if must_veil(concept, generator.profile) else ""
    model = f"{generator.name} (profile {generator.profile}, fingerprint {generator.fingerprint})"
    size = f"{len(concept.pairs)} training pairs; {case.size} prompts of a kind at most"
    rows = {
        "model": f"{model}, {generator.device}, {generator.dtype}",
        "guidance, temperature": f"{generator.guidance:g}, {generator.temperature:g}",
        "concept": f"{concept.name} ({concept.kind}); {size}",
        "recipe": json.dumps(erasure.recipe, ensure_ascii=False),
        "training": "; ".join([f"seed {erasure.seed}", *([", ".join(numbers)] if numbers else [])]),
        "erasure": f"{erasure.name}, {len(erasure.tensors)} tensors, {erasure.megabytes:.2f} MiB",
        "picture seeds": ", ".join(map(str, case.seeds)),
        "judge": describe(case.judge),
        "explicit pictures": "shown, as asked for" if show_explicit else explicit,
        "versions": f"earlib {__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
        "time of this call": f"{time.perf_counter() - began:.0f} s",
    }
    return [(name, value) for name, value in rows.items() if value]
