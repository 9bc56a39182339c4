"""The command `sweep`: measure what book/sweeps.yml asks for and the tables lack, several rows side by side; killed, it
goes on.

    DIR/NAME.jsonl    one JSON line a row, added as soon as it is measured; put into the plan's order when the sweep is
                      complete

Rows are known by their keys: one that stands in any table of DIR is never measured again, and one that nobody asks for
any more is dropped. Two commands may fill one table at once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from ..errors import UserError, nearest, only_in_a_clone
from ..runs import append_line, locked, read_lines, waiting, write_text
from .plan import ASKED, SWEEPS, Row, Sweep, load_sweeps, place_of, short
from .read import is_row, table_folder

TASK = "the same command goes on"


@dataclass
class Table:
    """One sweep's table while it is filled."""

    file: Path
    asked: dict[tuple, Row]  # by its place, in the plan's order
    found: dict[tuple, dict] = field(default_factory=dict)  # by its place, as it stands in the file
    lines: int = 0  # of the file

    @property
    def missing(self) -> dict[str, Row]:
        """Key -> the first row that asks for it."""
        missing: dict[str, Row] = {}
        for place, row in self.asked.items():
            if place not in self.found:
                missing.setdefault(place[0], row)
        return missing

    def add(self, measured: dict) -> None:
        """Append a row under each name that this sweep has for it, if it asks for it and has none."""
        for place, row in self.asked.items():
            if place[0] == measured["key"] and place not in self.found:
                self.found[place] = measured | {name: getattr(row, name) for name in ASKED}
                append_line(self.file, self.found[place])

    def read(self) -> None:
        there = read_lines(self.file)
        self.lines = len(there)
        self.found |= {place_of(row): row for row in there if is_row(row) and place_of(row) in self.asked}

    def tidy(self) -> None:
        """Put the rows into the plan's order, without those that nobody asks for."""
        with locked(self.file.parent):  # another process may be adding to it
            self.read()
            found = [self.found[place] for place in self.asked if place in self.found]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
            if self.file.exists() and self.file.read_text(encoding="utf-8") != text:
                write_text(self.file, text)


def selected(names, plan: dict[str, Sweep], sweeps: Path = SWEEPS) -> list[str]:
    """Those of `names` in the plan's order; all of them if none is named. UserError for an unknown one."""
    for name in names:
        if name not in plan:
            raise UserError(f"no sweep '{name}' in {short(sweeps)}; {nearest(name, plan)}")
    return [name for name in plan if not names or name in names]


def sweep(
    names=(),
    jobs: int = 2,
    effort: int = 1,
    dry_run: bool = False,
    out: Path | None = None,
    sweeps: Path = SWEEPS,
    model: str | None = None,
) -> list[str]:
    """Fill the tables of `names` (all, if none is named) in `out`.

    Args:
        jobs: processes of one thread each, which share the rows.
        effort: factor on pictures and seeds.
        dry_run: say what would be measured, and measure nothing.
        out: folder of the tables; None: `table_folder(effort)`.
        model: another than the sweeps name: a profile, or a folder of a mini model.

    Returns:
        list[str]: a line for each row that could not be measured.

    Raises:
        UserError: whatever can be known to be wrong before anything runs; a process died.
    """
    plan = load_sweeps(sweeps)
    names = selected(names, plan, sweeps)
    folder = Path(out) if out else table_folder(effort)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --out names the folder of the tables")
    if not dry_run:
        only_in_a_clone("the shipped tables are to be filled (give --out DIR for others)", folder)
    tables = {
        name: Table(folder / f"{name}.jsonl", {row.place(): row for row in plan[name].rows(effort, model)})
        for name in names
    }
    for table in tables.values():
        table.read()
    elsewhere = {row["key"]: row for file in sorted(folder.glob("*.jsonl")) for row in read_lines(file) if is_row(row)}
    pending: dict[str, Row] = {}  # by key, in the order of the plan
    for table in tables.values():
        for key, row in table.missing.items():
            if key not in elsewhere:
                pending.setdefault(key, row)
    for name, table in tables.items():
        surplus = table.lines - len(table.found)
        note = f"; {surplus} lines that it does not ask for" if surplus else ""
        to_measure = sum(row.sweep == name for row in pending.values())
        print(f"{name}: {len(table.asked)} rows, {to_measure} to measure{note}", flush=True)
    if dry_run:
        _say_how_long(pending, elsewhere.values(), jobs)
        return []
    for table in tables.values():
        table.tidy()
        for key in table.missing:
            if key in elsewhere:
                table.add(elsewhere[key])
    troubles = []
    for row, answer in measured_by_workers(pending, jobs):
        if "error" in answer:
            troubles.append(f"{row.sweep}: {row}: {answer['error']}")
        elif answer["row"]["key"] not in pending:
            changed = "its recipe, prompts or weights were changed while it was measured; run it again"
            troubles.append(f"{row.sweep}: {row}: {changed}")
        else:
            for table in tables.values():
                table.add(answer["row"])
    for table in tables.values():
        table.tidy()
    print(f"tables in {folder}")
    return troubles


def _say_how_long(pending: dict[str, Row], measured, jobs: int) -> None:
    took = [row["seconds_measuring"] + (row.get("seconds") or 0) for row in measured if "seconds_measuring" in row]
    if pending and took:
        span = _span(sum(took) / len(took) * len(pending) / jobs)
        print(f"about {span} for {len(pending)} rows, by what {len(took)} rows took")


def main(names=(), jobs: int = 2, effort: int = 1, dry_run: bool = False, out: Path | None = None) -> int:
    """The command: exit status 0, or 1 with a line for each row that could not be measured."""
    troubles = sweep(names, jobs, effort, dry_run, out)
    for line in troubles:
        print(f"not measured: {line}", file=sys.stderr)
    return 1 if troubles else 0


# ---------------------------------------------------------------- who measures which row


class Queues:
    """Rows of one concept and seed read the same trajectories and base pictures: a worker takes them one after the
    other, and helps others when it has none."""

    def __init__(self, pending: dict[str, Row]):
        self.groups: dict[tuple, deque[Row]] = {}
        for row in pending.values():
            self.groups.setdefault((row.model, row.concept, row.seed), deque()).append(row)
        self.untouched = deque(self.groups)

    def next(self, group: tuple | None) -> tuple[tuple | None, Row | None]:
        """(group, row): of `group` if it has any left, else of a group that nobody has begun, else of the longest;
        (None, None) when all are taken."""
        if not self.groups.get(group):
            while self.untouched and not self.groups[self.untouched[0]]:
                self.untouched.popleft()
            group = (
                self.untouched.popleft()
                if self.untouched
                else max(self.groups, key=lambda g: len(self.groups[g]), default=None)
            )
        return (group, self.groups[group].popleft()) if self.groups.get(group) else (None, None)


def measured_by_workers(pending: dict[str, Row], jobs: int) -> Iterator[tuple[Row, dict]]:
    """Yields (row, answer) as they come: {"row": what was measured} or {"error": a line}."""
    from tqdm import tqdm

    if not pending:
        return
    queues, began, finished = Queues(pending), time.time(), 0
    context = multiprocessing.get_context("spawn")
    workers, pipes, working = [], [], {}
    try:
        for _ in range(min(jobs, len(pending))):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()  # so that a worker that dies is seen
            workers.append(process)
            pipes.append(ours)
            working[ours] = group, row = queues.next(None)
            ours.send(row)
        with tqdm(total=len(pending), unit="row", desc="sweeping", disable=not sys.stderr.isatty()) as bar:
            while working:
                at_work = ", ".join(str(row) for _, row in working.values())
                with waiting(f"[{finished}/{len(pending)}] measuring {at_work}"):
                    answered = wait(working)
                for pipe in answered:
                    group, row = working.pop(pipe)
                    try:
                        answer = pipe.recv()
                    except (EOFError, ConnectionError):
                        raise UserError(
                            f"a process died at {row.sweep}: {row}, most often for want of memory; "
                            f"use fewer --jobs, {TASK}"
                        ) from None
                    if "fatal" in answer:
                        raise UserError(answer["fatal"])
                    yield row, answer
                    finished += 1
                    left = (time.time() - began) / finished * (len(pending) - finished)
                    bar.update()
                    bar.set_postfix_str(str(row))
                    if bar.disable:
                        print(
                            f"[{finished}/{len(pending)}] {row.sweep}: {row}: {_said(answer)}; {_span(left)} left",
                            flush=True,
                        )
                    group, row = queues.next(group)
                    if row is not None:
                        working[pipe] = group, row
                        pipe.send(row)
        for pipe in pipes:
            pipe.close()  # a worker ends when nobody sends any more
        for process in workers:
            process.join(10)
    finally:
        for process in workers:
            process.terminate()


def work(pipe) -> None:
    """A worker: one thread, one model at a time, a row at a time until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from .measure import load_model, measure

    torch.set_num_threads(1)
    model = generator = None
    while True:
        try:
            row = pipe.recv()
        except EOFError:
            return
        if row.model != model:
            try:
                model, generator = row.model, load_model(row.model)
            except UserError as error:
                pipe.send({"fatal": str(error)})
                return
        try:
            answer = {"row": measure(generator, row)}
        except UserError as error:
            answer = {"error": str(error)}
        except Exception as error:  # ours to mend; the other rows need not wait for it
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            pipe.send(answer)
        except OSError:  # nobody listens any more
            return


def _said(answer: dict) -> str:
    row = answer.get("row", {})
    if "rates" not in row:
        return answer.get("error") or f"failed, {row['failed']}"
    neighbours = [sum(part) for part in zip(*row["rates"]["neighbours"].values())]
    counts = [f"{kind} {hits}/{n}" for kind, (hits, n) in row["rates"]["concept"].items()] + [
        "neighbours {}/{}".format(*neighbours)
    ] * bool(neighbours)
    return f"{', '.join(counts)}, {(row.get('seconds') or 0):.0f} + {row['seconds_measuring']:.0f} s"


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
