"""What a run of ECGVF hands over: the concept file of the kept pairs, and what became of every proposal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..concepts import Concept, load_concept
from ..evaluate.rate import Rate
from ..runs import write_json
from .proposals import REASONS, Candidate, Settings


def write_concept(concept: Concept, kept: list[Candidate], report: dict, out: Path) -> Path:
    """The concept with the kept pairs in place of its own."""
    share = f"{report['kept']['count']} of {report['kept']['n']} kept"
    how = f"model {report['model']}, judge {report['judge']}, threshold {report['settings']['threshold']}"
    about = f"{concept.about} The pairs of this file were written and filtered by ECGVF: {share}, {how}."
    judges = concept.neighbour_judges
    raw = {
        "name": concept.name,
        "kind": concept.kind,
        "about": about.strip(),
        "words": list(concept.words),
        "judge": concept.judge,
        "paper": concept.paper,
        "phrases": [asdict(phrase) for phrase in concept.phrases],
        "pairs": [{"target": c.target, "replacement": c.replacement, "writer": c.writer} for c in kept],
        "tests": concept.tests,
        "neighbours": [{"name": k, "judge": judges[k], "prompts": v} for k, v in concept.neighbours.items()],
        "benign": concept.benign,
    }
    optional = ("words", "phrases")
    path = write_json(out / f"{concept.name}.json", {k: v for k, v in raw.items() if v or k not in optional})
    load_concept(path)
    return path


def report_of(
    concept: Concept,
    model: str,
    judge: str,
    candidates: list[Candidate],
    gaps: dict[str, str | None],
    settings: Settings,
) -> dict:
    """What became of every proposal, as report.json has it; `gaps`: writer to why it gave up."""

    def counts(found: list[Candidate]) -> dict[str, int]:
        kept = sum(c.reason is None for c in found)
        return {"written": len(found), "kept": kept} | {r: sum(c.reason == r for c in found) for r in REASONS}

    kept = Rate(sum(c.reason is None for c in candidates), len(candidates))
    by_writer = {name: counts([c for c in candidates if c.writer == name]) for name in gaps}
    return {
        "concept": concept.name,
        "model": model,
        "judge": judge,
        "settings": asdict(settings),
        "kept": {"count": kept.hits, "n": kept.n, "share": kept.value, "low": kept.low, "high": kept.high},
        "writers": [
            {"writer": name, "asked": settings.count, **found, "gap": gaps[name]} for name, found in by_writer.items()
        ],
        "total": counts(candidates),
        "pairs": [asdict(c) for c in candidates],
    }


def markdown(report: dict) -> str:
    """The report for people."""
    settings, kept, least = report["settings"], report["kept"], report["settings"]["threshold"]
    total = {"writer": "all", "asked": sum(w["asked"] for w in report["writers"]), **report["total"]}
    rule = f"at least {least:.0%} of the target's pictures and in at most {1 - least:.0%} of the replacement's"
    lines = [
        f"# ECGVF: {report['concept']}",
        f"Model {report['model']}, judge {report['judge']}, {settings['pictures']} pictures a prompt, seed "
        f"{settings['seed']}. A pair is kept if the judge sees the concept in {rule}.",
        f"Kept: {kept['count']} of {kept['n']}, {Rate(kept['count'], kept['n'])} %.",
        _table([*report["writers"], total], ("writer", "asked", "written", "kept", *REASONS)),
    ]
    again = "Run the same command again to ask for what is missing."
    lines += [f"- {w['writer']} gave up: {w['gap']}. {again}" for w in report["writers"] if w["gap"]]
    for reason in (None, *REASONS):
        if found := [pair for pair in report["pairs"] if pair["reason"] == reason]:
            lines.append(f"## {(reason or 'kept').replace('_', ' ').capitalize()} ({len(found)})")
            lines.append(_table(found, ("writer", "target", "replacement", "detail")))
    return "\n\n".join(lines) + "\n"


def _table(rows: list[dict], columns: tuple[str, ...]) -> str:
    cells = [[column.replace("_", " ") for column in columns], ["---"] * len(columns)]
    cells += [[str(row[column]).replace("|", "\\|") for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def draw_examples(candidates: list[Candidate], verdicts: dict[str, dict], out: Path, pairs: int = 4) -> None:
    """Write pictures.png: first pictures of a few pairs, target beside replacement, a row for each outcome."""
    from matplotlib import pyplot as plt
    from PIL import Image

    from ..plots.pictures import grid
    from ..plots.style import save

    images, labels, titles = [], [], []
    for reason in (None, "false_negative", "false_positive"):
        if found := [c for c in candidates if c.reason == reason][:pairs]:
            labels.append((reason or "kept").replace("_", " "))
            row = [verdicts[p] for c in found for p in (c.target, c.replacement)]
            images += [np.asarray(Image.open(out / verdict["file"])) for verdict in row]
            titles += [f"{verdict['shown']}/{verdict['n']}" for verdict in row]
            images += [np.full_like(images[0], 255)] * (2 * pairs - len(row))
            titles += [""] * (2 * pairs - len(row))
    if images:
        columns = ["target", "replacement"] * pairs
        fig = grid(images, 2 * pairs, row_labels=labels, column_labels=columns, titles=titles)
        alt = "First pictures of kept and dropped pairs; under each, in how many of its prompt's the judge sees it."
        save(fig, "pictures", folder=out, alt=alt)
        plt.close(fig)
