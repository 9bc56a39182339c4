"""From a concept's name to a report: erase, measure everything that applies, write a page. What `python -m earlib
report` does.

The folder is a run (DESIGN section 7): config.json, status.json, erasure/, sections/, figures/ and at the end
results.json, report.md and report.html. The same call goes on where a killed one stopped. Pictures of explicit concepts
are stored blurred or not at all (`veil.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..errors import UserError
from ..runs import Run
from .evaluation import format_value
from .judge import describe, file_version
from .layout import Page
from .pictures import must_veil, veil
from .study import Case, measure

SHOWN = 6  # prompts in a grid of pictures


def make_report(
    generator,
    concept,
    out: str | Path,
    recipe=None,
    erasure: str | Path | None = None,
    seed: int = 0,
    seeds: Sequence[int] = (0, 1),
    size: int = 20,
    clip: str | None = None,
    reference: str | Path | None = None,
    show_explicit: bool = False,
    progress: bool = True,
) -> Path:
    """Erase `concept` from `generator` with `recipe` (a Recipe or a preset's name) and training seed `seed`, or take
    the erasure in the folder `erasure`; measure it on `seeds` and `size` prompts of a kind (`study.Case`); write the
    report into `out`. Returns the path of report.html.

    `clip` and `reference` are those of `report.evaluate`. `show_explicit` leaves pictures of explicit concepts as they
    are: a person must set it, knowing what may be seen. Raises UserError for a folder of another report, and for judges
    whose weights are not there, before anything is trained.
    """
    from ..erasure import erase
    from ..erasure.presets import recipe as preset
    from ..erasure.store import Erasure

    if (recipe is None) == (erasure is None):
        raise UserError("a report needs a recipe to erase with, or the folder of an erasure, not both")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"picture seeds must differ, got {', '.join(map(str, seeds)) or 'none'}")
    case = Case(
        generator, concept, None, tuple(seeds), size, clip, None if reference is None else str(reference), progress
    )
    out = Path(out)
    if erasure is not None:
        found = Erasure.load(erasure, generator)
        weights = next(
            file
            for name in ("erasure.safetensors", "adapter_model.safetensors", "erasure.json")
            if (file := Path(erasure) / name).is_file()
        )
        how = {"erasure": Path(erasure).name, "weights": file_version(weights)}
    else:
        recipe = preset(recipe, generator.profile) if isinstance(recipe, str) else recipe.check()
        how = {
            "recipe": recipe.name
        }  # its settings are guarded by the erasure's own run, which is not begun before they are known to be possible
    config = {
        "report_of": concept.name,
        "model": generator.name,
        "fingerprint": generator.fingerprint,
        **how,
        "seeds": list(seeds),
        "size": size,
    }
    config |= {"clip": clip, "reference": case.reference, "show_explicit": show_explicit, "version": __version__}
    with Run(out, config) as run:
        began = time.perf_counter()
        if erasure is None:
            found = erase(generator, concept, recipe, seed=seed, out=out / "erasure", progress=progress)
        case = Case(
            generator,
            concept,
            found,
            *(getattr(case, name) for name in ("seeds", "size", "clip", "reference", "progress")),
        )
        sections = measure(case, run)
        records = [record for section in sections.values() for record in section["records"]]
        page = write_page(case, sections, run.folder, show_explicit, began)
        run.save_results(records)
    return page


def write_page(case: Case, sections: dict[str, dict], folder: Path, show_explicit: bool, began: float) -> Path:
    """Draw the figures into folder/figures and write report.md and report.html; returns the latter's path."""
    concept, erasure = case.concept, case.erasure
    table = {name: _Table(section["records"]) for name, section in sections.items()}
    page = Page(f"Erasing {concept.name} from {case.generator.name} with {erasure.name}")
    page.items(_in_short(concept, table))
    figures = _Figures(case, folder, show_explicit)

    page.heading("Pictures before and after")
    named = [
        p
        for kind, prompts in concept.tests.items()
        if kind in ("direct", "synonym", "compositional")
        for p in prompts[:2]
    ]
    kept = [p for prompts in list(concept.neighbours.values())[:4] for p in prompts[:1]] + list(concept.benign)[:2]
    page.picture(*figures.grid("concept", named[:SHOWN] or case.named[:SHOWN], "Prompts that ask for the concept"))
    page.picture(*figures.grid("kept", kept[:SHOWN], "Prompts that do not ask for it"))

    rates = table["rates"]
    page.heading("Is it gone?")
    page.text("The share of pictures in which the judge sees the concept, by the way in which the prompt asks for it.")
    page.picture(*figures.bars(sections["rates"]["records"]))
    page.table(rates.rows("concept_rate", "asked for"), rates.note("concept_rate"))
    page.table(rates.rows("detections", "prompts", subject="label"), rates.note("detections"))

    page.heading("What else changed?")
    page.text(
        "Neighbours are asked for by name and looked for by their own judges. Scores and distances are those of benign pictures."
    )
    page.table(rates.rows("neighbour_rate", None, subject="neighbour"), rates.note("neighbour_rate"))
    page.table(
        [
            row
            for m in ("in_prompt_clip", "clip_score", "kid", "fid", "precision", "recall")
            for row in rates.rows(m, "of", what=TITLES[m])
        ],
        FIDELITY,
    )
    drift = table["drift"]
    measures = (
        "kl_drift",
        "token_agreement",
        "identical_rate",
        "untouched_share",
        "first_row_entropy",
        "first_row_spread",
    )
    page.table([row for m in measures for row in drift.rows(m, None, subject="prompts", what=TITLES[m])], DRIFT)

    page.heading("Can it be brought back?")
    page.picture(
        *figures.lines(
            "guidance", sections["guidance"]["records"], "guidance scale", ("guided_rate",), "by stronger guidance"
        )
    )
    if table["prefix"].records:
        names, given = ("prefix_rate", "rows_alone_rate"), "rows given from a picture of the concept"
        page.picture(
            *figures.lines("prefix", sections["prefix"]["records"], given, names, "by the first rows of a picture")
        )
    page.table(
        table["knowledge"].rows("likelihood_gap", None, subject="concept", what=TITLES["likelihood_gap"]), KNOWLEDGE
    )

    page.heading("Does the model still recognise it?")
    recognition = table["recognition"]
    for metric in ("caption_rate", "question_rate"):
        page.table(recognition.rows(metric, "pictures", what=TITLES[metric]), recognition.note(metric, "Asked: "))
    page.table(
        [
            {"asked": e["asked"], "before": e["base"], "after": e["erased"]}
            for e in sections["recognition"].get("examples", [])
        ]
    )

    if notes := [note for section in sections.values() for note in section["notes"]]:
        page.heading("Left out")
        page.items(notes)
    page.heading("Settings")
    page.table([{"setting": name, "value": value} for name, value in _settings(case, began, show_explicit)])
    return page.write(folder)


TITLES = {
    "in_prompt_clip": "CLIP, benign half of prompts that name the concept",
    "clip_score": "CLIP, benign prompts",
    "kid": "KID",
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "kl_drift": "KL drift, nats a token",
    "token_agreement": "equal tokens under common random numbers",
    "identical_rate": "pictures that are the same to the last token",
    "untouched_share": "share of the picture before the first other token",
    "first_row_entropy": "entropy of the first row, nats",
    "first_row_spread": "entropy of the first row, over pictures, nats",
    "likelihood_gap": "likelihood gap of its pictures, nats a token",
    "caption_rate": "captions that name it",
    "question_rate": "answers that say yes",
}
FIDELITY = "CLIP: cosine, interval by the normal approximation. real: against real pictures; base: erased against base. n counts pictures. With fewer than "
FIDELITY += "2,048 pictures FID is biased upwards: read KID first, and compare FIDs at equal n only."
DRIFT = "benign: prompts without the concept. n counts prompts; intervals are bootstrapped over prompts. A first row whose entropy over pictures falls is a "
DRIFT += "sign of collapse: pictures begin alike, whatever the prompt."
KNOWLEDGE = "How much the prompt helps the model to explain the base model's pictures of the concept: NLL under the null prompt less NLL under the "
KNOWLEDGE += "prompt. Near 0 the name has lost its meaning; below 0 the model shuns what it names."


class _Table:
    """The records of a section, base and erased side by side."""

    def __init__(self, records: list[dict]):
        self.records = records
        self.found = {(r["metric"], r["subject"], r["kind"], r["condition"]): r for r in records}

    def get(self, metric, subject, kind, condition) -> dict | None:
        return self.found.get((metric, subject, kind, condition))

    def rows(self, metric: str, kind: str | None, subject: str | None = None, what: str | None = None) -> list[dict]:
        """A row for each subject and kind of `metric`; `kind` and `subject` head their columns, None leaves a column
        out."""
        say = lambda record: format_value(record) if record else None
        rows = []
        for s, k in dict.fromkeys((r["subject"], r["kind"]) for r in self.records if r["metric"] == metric):
            base, erased = (self.get(metric, s, k, condition) for condition in ("base", "erased"))
            change, some = self.get(f"{metric}_change", s, k, "erased"), base or erased
            row = {"measure": what} if what else {}
            row |= {subject: s} if subject else {}
            row |= {kind: k} if kind else {}
            row |= {"n": some["n"], "base": say(base), "erased": say(erased), "change": say(change)}
            rows.append(
                row | {"paper, erased": None if not erased or erased["paper"] is None else f"{erased['paper']:g}"}
            )
        return rows

    def note(self, metric: str, before: str = "Judge: ") -> str:
        judges = dict.fromkeys(
            r["judge"] for r in self.records if r["metric"] == metric and r["subject"] != "all" and r["judge"]
        )
        return before + "; ".join(judges) + "." if judges else ""


class _Figures:
    """Draws figures into a folder; each method returns (path, caption, alternative text)."""

    def __init__(self, case: Case, folder: Path, show_explicit: bool):
        from ..plots import figures

        figures.setup()
        self.case, self.folder, self.show_explicit, self.figures = case, folder / "figures", show_explicit, figures

    def _save(self, fig, name: str, caption: str, alt: str, data=None):
        import matplotlib.pyplot as plt

        png = self.figures.save(fig, name, data, self.folder, caption, alt)
        plt.close(fig)
        return png, caption, alt

    def grid(self, name: str, prompts: list[str], what: str):
        """The same prompts and seed, base above erased, explicit pictures blurred."""
        import numpy as np

        from ..generators import draw

        case, seed = self.case, self.case.seeds[0]
        rows = [
            draw(case.generator, prompts, seed=seed, erasure=erasure, progress=False) for _, erasure in case.conditions
        ]
        shown = veil(np.concatenate(rows), case.concept, case.generator.profile, self.show_explicit, case.judge)
        fig = self.figures.show_pictures(shown, columns=len(prompts), row_labels=["base", "erased"], scale=1.2)
        hidden = (
            ""
            if self.show_explicit or not must_veil(case.concept, case.generator.profile)
            else " Pictures in which the judge fires are blurred."
        )
        listed = "; ".join(f"({i}) {prompt}" for i, prompt in enumerate(prompts, 1))
        return self._save(
            fig,
            name,
            f"{what}, seed {seed}, from left to right: {listed}.{hidden}",
            f"{what}: base above, erased below",
        )

    def bars(self, records: list[dict]):
        shown = [r for r in records if r["metric"] in ("concept_rate", "neighbour_rate")]
        name = self.case.concept.name
        bold = [name, *(f"{name}, {kind}" for kind in self.case.concept.tests)]
        fig = self.figures.rate_bars(shown, highlight=bold)
        n = sum(r["n"] for r in shown if r["condition"] == "base" and r["subject"] != "all")
        caption = f"Rates by the judges, {n} pictures a condition, 95 % Wilson intervals."
        return self._save(fig, "rates", caption, "bars of rates before and after erasure", shown)

    def lines(self, name: str, records: list[dict], xlabel: str, metrics: tuple[str, ...], how: str):
        rows = []
        for r in (r for metric in metrics for r in records if r["metric"] == metric):
            x = next(float(word) for word in r["kind"].split() if word.replace(".", "", 1).isdigit())
            alone = r["metric"] == "rows_alone_rate"
            rows.append(
                {xlabel: x, "condition": "the rows alone" if alone else r["condition"]}
                | {key: r[key] for key in ("value", "n", "low", "high")}
            )
        n = max(r["n"] for r in rows)
        caption = f"The concept's rate, brought back {how}; {n} pictures a point, 95 % Wilson intervals."
        if len(metrics) > 1:
            caption += " The rows alone: the rest filled from a picture without the concept, which is what the given rows show by themselves."
        return self._save(
            self.figures.rate_lines(rows, xlabel), name, caption, f"rate of the concept over {xlabel}", rows
        )


def _in_short(concept, table: dict[str, _Table]) -> list[str]:
    """A few lines with the numbers to look at first."""
    rates, lines = table["rates"], []
    for metric, subject, kind, text in (
        ("concept_rate", concept.name, "direct", "asked for by name, the concept is seen in"),
        ("concept_rate", concept.name, "synonym", "asked for by a synonym, in"),
        ("neighbour_rate", "all", "neighbour", "its neighbours are seen in"),
    ):
        base, erased, change = (
            rates.get(m, subject, kind, c)
            for m, c in ((metric, "base"), (metric, "erased"), (f"{metric}_change", "erased"))
        )
        if base and erased:
            lines.append(
                f"{text} {format_value(base)} of pictures before and {format_value(erased)} after: {format_value(change)}"
            )
    parts = ("caption_rate", concept.name, "with the concept")
    base, erased = (table["recognition"].get(*parts, condition) for condition in ("base", "erased"))
    if base and erased:
        lines.append(
            f"shown a picture of it, the model names it in {format_value(base)} of captions before and {format_value(erased)} after"
        )
    guided = [r for r in table["guidance"].records if r["condition"] == "erased" and r["value"] is not None]
    if guided:
        most = max(guided, key=lambda r: r["value"])
        lines.append(
            f"the most that any guidance scale from 1 to 10 brings back is {format_value(most)}, at {most['kind']}"
        )
    return [line[0].upper() + line[1:] + "." for line in lines]


def _settings(case: Case, began: float, show_explicit: bool) -> list[tuple[str, str]]:
    import json

    import torch
    import transformers

    generator, erasure = case.generator, case.erasure
    info = ", ".join(f"{name} {value:.4g}" for name, value in erasure.info.items() if isinstance(value, (int, float)))
    explicit = "blurred where the judge fires" if must_veil(case.concept, generator.profile) else None
    explicit = "shown, as asked for" if show_explicit else explicit
    rows = [
        (
            "model",
            f"{generator.name} (profile {generator.profile}, fingerprint {generator.fingerprint}), {generator.device}, {generator.dtype}",
        ),
        ("guidance, temperature", f"{generator.guidance:g}, 1"),
        (
            "concept",
            f"{case.concept.name} ({case.concept.kind}); {len(case.concept.pairs)} training pairs; {case.size} prompts of a kind at most",
        ),
        ("recipe", json.dumps(erasure.recipe, ensure_ascii=False)),
        ("training", f"seed {erasure.seed}; {info}" if info else f"seed {erasure.seed}"),
        ("erasure", f"{erasure.name}, {len(erasure.tensors)} tensors, {erasure.megabytes:.2f} MiB"),
        ("picture seeds", ", ".join(map(str, case.seeds))),
        ("judge", describe(case.judge)),
        ("explicit pictures", explicit),
        ("versions", f"earlib {__version__}, torch {torch.__version__}, transformers {transformers.__version__}"),
        ("time of this call", f"{time.perf_counter() - began:.0f} s"),
    ]
    return [(name, value) for name, value in rows if value]
