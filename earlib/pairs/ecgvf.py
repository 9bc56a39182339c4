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
import io
import json
import threading
from dataclasses import asdict, replace
from pathlib import Path

from PIL import Image

from ..concepts import Concept
from ..errors import UserError
from ..evaluate.judge import Judge, describe
from ..evaluate.judges import load_judge
from ..evaluate.pictures import veil
from ..generators import draw
from ..generators.base import Generator
from ..runs import Run, append_line, plain, progress_bar, read_lines, write_bytes, write_json, write_text
from .proposals import DEFAULTS, Candidate, Request, Settings, Writer, WriterFailed, proposals
from .report import draw_examples, markdown, report_of, write_concept


def write_pairs(
    generator: Generator,
    concept: Concept,
    writers: list[Writer],
    out: str | Path,
    settings: Settings = DEFAULTS,
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[dict, Path]:
    """Write, draw, judge and keep prompt pairs.

    Args:
        generator: draws the pictures; of either family.
        concept: its judge filters, and its prompts are not written again.
        writers: each is asked for `settings.count` pairs, all at once.
        out: the folder of the run.
        settings: how many pairs, and which are kept.
        batch_size: pictures drawn at a time.
        progress: show bars with the time left.

    Returns:
        the report, as in report.json, and the path of the concept file.

    Raises:
        UserError: the folder holds another run; the judge's weights are missing; no pair was kept (the report is
            written all the same).
    """
    out, judge = Path(out), load_judge(concept.judge)
    config = {
        "concept": hashlib.sha256(json.dumps(plain(asdict(concept))).encode()).hexdigest()[:16],
        "model": generator.name,
        "fingerprint": generator.fingerprint,
        "judge": describe(judge),
        "writers": [w.name for w in writers],
        "settings": asdict(settings),
    }
    with Run(out, config):
        gaps = _ask_all(writers, concept, out, settings, progress)
        replies, names = read_lines(out / "replies.jsonl"), [w.name for w in writers]
        proposed = proposals(concept, names, replies, generator.unknown_words)
        verdicts = _judge_all(generator, judge, concept, proposed, out, settings, batch_size, progress)
        candidates = [_judged(candidate, verdicts, settings) for candidate in proposed]
        report = report_of(concept, generator.name, describe(judge), candidates, gaps, settings)
        write_json(out / "report.json", report)
        write_text(out / "report.md", markdown(report))
        draw_examples(candidates, verdicts, out)
        kept = [c for c in candidates if c.reason is None]
        if not kept:
            silent = "".join(f"; {name} {why}" for name, why in gaps.items() if why)
            raise UserError(f"{out}: no pair was kept of {len(candidates)}{silent}; report.md there has the reasons")
        return report, write_concept(concept, kept, report, out)


# ---------------------------------------------------------------- writing


def _vocabulary(concept: Concept) -> tuple[str, ...]:
    """MiniWorld's words for MiniWorld's concepts: its models know no others."""
    if concept.judge["name"] != "miniworld":
        return ()
    from ..miniworld.captions import vocabulary

    return tuple(vocabulary())


def _ask_all(
    writers: list[Writer], concept: Concept, out: Path, settings: Settings, progress: bool
) -> dict[str, str | None]:
    """Ask every writer what it was not asked yet, all writers at once; returns why it gave up, None if it did not.
    Replies are kept as they come."""
    from concurrent.futures import ThreadPoolExecutor

    answered = {(row["writer"], row["index"]) for row in read_lines(out / "replies.jsonl")}
    vocabulary = _vocabulary(concept)
    requests = [
        Request(concept, index, min(settings.a_time, settings.count - start), settings.seed, vocabulary)
        for index, start in enumerate(range(0, settings.count, settings.a_time))
    ]
    missing = {writer.name: [r for r in requests if (writer.name, r.index) not in answered] for writer in writers}
    lock, stop = threading.Lock(), threading.Event()

    def ask(writer: Writer) -> str | None:
        for request in missing[writer.name]:
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

    total = sum(map(len, missing.values()))
    with (
        progress_bar(total=total, unit="request", desc="writing", disable=not progress or not total) as bar,
        ThreadPoolExecutor(len(writers)) as pool,
    ):
        running = {writer.name: pool.submit(ask, writer) for writer in writers}
        try:
            return {name: job.result() for name, job in running.items()}
        finally:  # an error or Ctrl-C: no writer begins another request
            stop.set()


# ---------------------------------------------------------------- drawing and judging


def _judge_all(
    generator: Generator,
    judge: Judge,
    concept: Concept,
    candidates: list[Candidate],
    out: Path,
    settings: Settings,
    batch_size: int,
    progress: bool,
) -> dict[str, dict]:
    """For every prompt that is still in: in how many of its pictures the judge sees the concept. Stored after every
    batch."""
    verdicts = {row["prompt"]: row for row in read_lines(out / "verdicts.jsonl") if (out / row["file"]).is_file()}
    wanted = dict.fromkeys(p for c in candidates if c.reason is None for p in (c.target, c.replacement))
    missing = [prompt for prompt in wanted if prompt not in verdicts]
    n, at_once = settings.pictures, max(1, batch_size // settings.pictures)
    with progress_bar(
        total=len(missing) * n, unit="picture", desc="drawing", disable=not progress or not missing
    ) as bar:
        for start in range(0, len(missing), at_once):
            prompts = missing[start : start + at_once]
            keys = [f"{prompt}#{i}" for prompt in prompts for i in range(n)]  # those of `generate`
            repeated = [prompt for prompt in prompts for _ in range(n)]
            images = draw(generator, repeated, settings.seed, keys, batch_size=batch_size, progress=False)
            shows, scores = judge.shows(images).reshape(-1, n), judge.score(images).reshape(-1, n)
            firsts = veil(images[::n], concept, generator.profile, judge=judge)
            for prompt, shown, score, image in zip(prompts, shows, scores, firsts):
                file = f"pictures/{hashlib.sha256(prompt.encode()).hexdigest()[:16]}.png"
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                write_bytes(out / file, png.getvalue())
                verdict = {"prompt": prompt, "shown": int(shown.sum()), "n": n, "score": round(float(score.mean()), 6)}
                verdicts[prompt] = verdict | {"file": file}
                append_line(out / "verdicts.jsonl", verdicts[prompt])
            bar.update(len(keys))
    return verdicts


def _judged(candidate: Candidate, verdicts: dict[str, dict], settings: Settings) -> Candidate:
    """The proposal after the judge has seen its pictures."""
    if candidate.reason is not None:
        return candidate
    first, second = verdicts[candidate.target], verdicts[candidate.replacement]
    seen = f"seen in {first['shown']} of {first['n']} pictures of the target"
    detail = f"{seen} and {second['shown']} of {second['n']} of the replacement"
    reason = None
    if first["shown"] < settings.threshold * first["n"] - 1e-9:
        reason = "false_negative"
    elif second["shown"] > (1 - settings.threshold) * second["n"] + 1e-9:
        reason = "false_positive"
    return replace(candidate, reason=reason, detail=detail)
