"""ECGVF, the Erase Concept Generator and Visual Filter of EAR (arXiv 2506.20151): prompt pairs are written, drawn, and
kept only if a judge agrees.

The authors describe it and release its data; this is an implementation of the description. Writers (`writers.py`,
`grammar.py`) propose pairs. A pair is dropped as `malformed` (no pair of prompts, a target that does not name the
concept, a replacement that does), as `duplicate` (of a prompt that the concept file has already, or of an earlier
proposal), as `false_negative` (the judge does not see the concept in pictures of the target) or as `false_positive` (it
sees it in pictures of the replacement). The kept pairs become a concept file for `erase --concept FILE`.

A folder of ECGVF is a run (`runs.py`): replies.jsonl (what the writers said), verdicts.jsonl (what the judge saw in
each prompt's pictures), pictures/ (the first picture of each prompt), and at the end report.json, report.md,
pictures.png and NAME.json. Killed and run again, it asks and draws only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..concepts import Concept, load_concept
from ..errors import UserError
from ..runs import Run, append_line, plain, read_lines, write_bytes, write_json, write_text
from .proposals import REASONS, Candidate, proposals
from .writers import Request, Writer, WriterFailed


@dataclass(frozen=True)
class Settings:
    count: int = 40  # pairs asked from every writer
    a_time: int = 10  # pairs in one request
    pictures: int = 4  # drawn of every prompt
    # the concept must show in at least this share of a target's pictures, and in at most 1 - this of a replacement's
    threshold: float = 0.75
    seed: int = 0


def write_pairs(
    generator,
    concept: Concept,
    writers: list[Writer],
    out: str | Path,
    settings: Settings = Settings(),
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[dict, Path]:
    """Write, draw, judge and keep; returns the report (a dict, as in report.json) and the path of the concept file.

    Raises UserError if the folder holds another run, if the judge's weights are missing, or if no pair was kept (the
    report is written all the same).
    """
    from ..evaluate.judges import describe, load_judge

    out = Path(out)
    judge = load_judge(concept.judge)
    config = {
        "concept": hashlib.sha256(json.dumps(plain(asdict(concept))).encode()).hexdigest()[:16],
        "model": generator.name,
    }
    config |= {
        "fingerprint": generator.fingerprint,
        "judge": describe(judge),
        "writers": [w.name for w in writers],
        "settings": asdict(settings),
    }
    with Run(out, config):
        gaps = _ask_all(writers, concept, _vocabulary(concept), out, settings, progress)
        proposed = proposals(
            concept, [w.name for w in writers], read_lines(out / "replies.jsonl"), generator.unknown_words
        )
        verdicts = _judge_all(generator, judge, concept, proposed, out, settings, batch_size, progress)
        candidates = [_judged(candidate, verdicts, settings) for candidate in proposed]
        report = _report(concept, generator, describe(judge), candidates, writers, gaps, settings)
        write_json(out / "report.json", report)
        write_text(out / "report.md", _markdown(report))
        _page(candidates, verdicts, out)
        kept = [c for c in candidates if c.reason is None]
        if not kept:
            silent = "".join(f"; {name} {why}" for name, why in gaps.items())
            raise UserError(f"{out}: no pair was kept of {len(candidates)}{silent}; report.md there has the reasons")
        return report, _write_concept(concept, kept, report, out)


# ---------------------------------------------------------------- writing


def _vocabulary(concept: Concept) -> tuple[str, ...]:
    """MiniWorld's words for MiniWorld's concepts: its models know no others."""
    if concept.judge["name"] != "miniworld":
        return ()
    from ..miniworld.captions import vocabulary

    return tuple(vocabulary())


def _kept_rows(path: Path) -> list[dict]:
    """The rows of an earlier run. A line that its kill cut short is taken away, so that the next one begins a line."""
    rows = read_lines(path)
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return rows


def _ask_all(writers, concept, vocabulary, out: Path, settings: Settings, progress: bool) -> dict[str, str]:
    """Ask every writer what it was not asked yet, all writers at once; returns why the writers that gave up did.
    Replies are kept as they come."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    answered = {(row["writer"], row["index"]) for row in _kept_rows(out / "replies.jsonl")}
    requests = [
        Request(concept, index, min(settings.a_time, settings.count - start), settings.seed, vocabulary)
        for index, start in enumerate(range(0, settings.count, settings.a_time))
    ]
    open_ = {writer.name: [r for r in requests if (writer.name, r.index) not in answered] for writer in writers}
    lock, stop = threading.Lock(), threading.Event()

    def ask(writer) -> str | None:
        for request in open_[writer.name]:
            if stop.is_set():
                return "stopped"
            try:
                reply = writer.write(request, stop)
            except WriterFailed as failure:
                return str(failure)
            with lock:
                append_line(out / "replies.jsonl", {"writer": writer.name, "index": request.index, "reply": reply})
                bar.update()
        return None

    total = sum(map(len, open_.values()))
    with (
        tqdm(total=total, unit="request", desc="writing", disable=not progress or not total) as bar,
        ThreadPoolExecutor(len(writers)) as pool,
    ):
        running = {writer.name: pool.submit(ask, writer) for writer in writers}
        try:
            return {name: why for name, job in running.items() if (why := job.result())}
        finally:  # an error or Ctrl-C: no writer begins another request
            stop.set()


# ---------------------------------------------------------------- drawing and judging


def _judge_all(
    generator, judge, concept, candidates, out: Path, settings: Settings, batch_size: int, progress: bool
) -> dict[str, dict]:
    """For every prompt that is still in: in how many of its pictures the judge sees the concept. Stored after every
    batch."""
    from tqdm import tqdm

    from ..evaluate.pictures import veil
    from ..generators import draw

    rows = {row["prompt"]: row for row in _kept_rows(out / "verdicts.jsonl") if (out / row["file"]).is_file()}
    wanted = dict.fromkeys(p for c in candidates if c.reason is None for p in (c.target, c.replacement))
    missing = [prompt for prompt in wanted if prompt not in rows]
    n, at_once = settings.pictures, max(1, batch_size // settings.pictures)
    with tqdm(total=len(missing) * n, unit="picture", desc="drawing", disable=not progress or not missing) as bar:
        for start in range(0, len(missing), at_once):
            prompts = missing[start : start + at_once]
            keys = [
                f"{prompt}#{i}" for prompt in prompts for i in range(n)
            ]  # those of `generate` for a prompt given n times
            images = draw(
                generator,
                [p for p in prompts for _ in range(n)],
                settings.seed,
                keys,
                batch_size=batch_size,
                progress=False,
            )
            shows = judge.shows(images).reshape(-1, n)
            scores = judge.score(images).reshape(-1, n)
            firsts = veil(images[::n], concept, generator.profile, judge=judge)
            for prompt, shown, score, image in zip(prompts, shows, scores, firsts):
                file = f"pictures/{hashlib.sha256(prompt.encode()).hexdigest()[:16]}.png"
                write_bytes(out / file, _png(image))
                rows[prompt] = {
                    "prompt": prompt,
                    "shown": int(shown.sum()),
                    "n": n,
                    "score": round(float(score.mean()), 6),
                    "file": file,
                }
                append_line(out / "verdicts.jsonl", rows[prompt])
            bar.update(len(keys))
    return rows


def _judged(candidate: Candidate, verdicts: dict[str, dict], settings: Settings) -> Candidate:
    """The proposal after the judge has seen its pictures."""
    if candidate.reason is not None:
        return candidate
    first, second = verdicts[candidate.target], verdicts[candidate.replacement]
    detail = f"seen in {first['shown']} of {first['n']} pictures of the target and {second['shown']} of {second['n']} of the replacement"
    reason = None
    if first["shown"] < settings.threshold * first["n"] - 1e-9:
        reason = "false_negative"
    elif second["shown"] > (1 - settings.threshold) * second["n"] + 1e-9:
        reason = "false_positive"
    return replace(candidate, reason=reason, detail=detail)


def _png(image: np.ndarray) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


# ---------------------------------------------------------------- what is handed over


def _write_concept(concept: Concept, kept: list[Candidate], report: dict, out: Path) -> Path:
    """The concept with the kept pairs in place of its own."""
    raw = {"name": concept.name, "kind": concept.kind}
    raw["about"] = (
        f"{concept.about} The pairs of this file were written and filtered by ECGVF: {report['kept']['count']} of {report['kept']['n']} kept, "
        f"model {report['model']}, judge {report['judge']}, threshold {report['settings']['threshold']}."
    ).strip()
    raw |= {"words": list(concept.words)} if concept.words else {}
    raw |= {"judge": concept.judge, "paper": concept.paper}
    raw |= {"phrases": [asdict(phrase) for phrase in concept.phrases]} if concept.phrases else {}
    raw["pairs"] = [{"target": c.target, "replacement": c.replacement, "writer": c.writer} for c in kept]
    raw["tests"] = concept.tests
    raw["neighbours"] = [
        {"name": name, "judge": concept.neighbour_judges[name], "prompts": prompts}
        for name, prompts in concept.neighbours.items()
    ]
    raw["benign"] = concept.benign
    path = write_json(out / f"{concept.name}.json", raw)
    load_concept(path)
    return path


def _report(concept, generator, judge: str, candidates, writers, gaps: dict[str, str], settings: Settings) -> dict:
    from ..evaluate.rate import Rate

    def counts(found):
        kept = sum(c.reason is None for c in found)
        return {
            "written": len(found),
            "kept": kept,
            **{reason: sum(c.reason == reason for c in found) for reason in REASONS},
        }

    kept, n = sum(c.reason is None for c in candidates), len(candidates)
    low, high = Rate(kept, n).interval
    return {
        "concept": concept.name,
        "model": generator.name,
        "judge": judge,
        "settings": asdict(settings),
        "kept": {"count": kept, "n": n, "share": kept / n if n else None, "low": low, "high": high},
        "writers": [
            {
                "writer": w.name,
                "asked": settings.count,
                **counts([c for c in candidates if c.writer == w.name]),
                "gap": gaps.get(w.name),
            }
            for w in writers
        ],
        "total": counts(candidates),
        "pairs": [asdict(c) for c in candidates],
    }


def _markdown(report: dict) -> str:
    """The report for people."""
    settings, kept = report["settings"], report["kept"]
    least = settings["threshold"]
    columns = ("writer", "asked", "written", "kept", *REASONS)
    rows = [
        *report["writers"],
        {"writer": "all", "asked": sum(w["asked"] for w in report["writers"]), **report["total"]},
    ]
    lines = [
        f"# ECGVF: {report['concept']}",
        "",
        f"Model {report['model']}, judge {report['judge']}, {settings['pictures']} pictures a prompt, seed {settings['seed']}. A pair is "
        f"kept if the judge sees the concept in at least {least:.0%} of the target's pictures and in at most {1 - least:.0%} of the replacement's.",
        "",
        f"Kept: {kept['count']} of {kept['n']}"
        + (f" ({kept['share']:.0%}, 95 % interval {kept['low']:.0%} to {kept['high']:.0%})." if kept["n"] else "."),
        "",
        "| " + " | ".join(column.replace("_", " ") for column in columns) + " |",
        "|" + " --- |" * len(columns),
        *("| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in rows),
        "",
    ]
    lines += [
        f"- {w['writer']} gave up: {w['gap']}. Run the same command again to ask for what is missing."
        for w in report["writers"]
        if w["gap"]
    ]
    for title, reason in (("Kept", None), *((reason.replace("_", " ").capitalize(), reason) for reason in REASONS)):
        found = [pair for pair in report["pairs"] if pair["reason"] == reason]
        if found:
            lines += [
                "",
                f"## {title} ({len(found)})",
                "",
                "| writer | target | replacement | why |",
                "| --- | --- | --- | --- |",
            ]
            lines += [
                "| " + " | ".join(_cell(pair[field]) for field in ("writer", "target", "replacement", "detail")) + " |"
                for pair in found
            ]
    return "\n".join(lines) + "\n"


def _cell(value) -> str:
    return str(value).replace("|", "\\|")


def _page(candidates: list[Candidate], verdicts: dict[str, dict], out: Path, pairs: int = 4) -> None:
    """pictures.png: first pictures of a few kept and dropped pairs, target beside replacement, a row for each outcome."""
    from matplotlib import pyplot as plt
    from PIL import Image

    from ..plots.figures import save, show_pictures

    images, labels, titles = [], [], []
    for label, reason in (("kept", None), ("false negative", "false_negative"), ("false positive", "false_positive")):
        found = [c for c in candidates if c.reason == reason][:pairs]
        if not found:
            continue
        labels.append(label)
        row = [verdicts[p] for c in found for p in (c.target, c.replacement)]
        images += [np.asarray(Image.open(out / verdict["file"])) for verdict in row]
        titles += [f"{verdict['shown']}/{verdict['n']}" for verdict in row]
        images += [np.full_like(images[0], 255)] * (2 * pairs - len(row))
        titles += [""] * (2 * pairs - len(row))
    if images:
        fig = show_pictures(
            images, 2 * pairs, row_labels=labels, column_labels=["target", "replacement"] * pairs, titles=titles
        )
        save(
            fig,
            "pictures",
            folder=out,
            alt="First pictures of kept and dropped pairs; under each, in how many of its prompt's pictures the judge sees the concept.",
        )
        plt.close(fig)
