"""Who measures the rows of a sweep: processes of this machine, which share them, or jobs of a cluster, one for all rows
that share a training.

A job adds rows to a file of its own, jobs/JOB.jsonl; only the command that sent it adds them to the tables, and then
removes the file. So no two processes write one file, whatever locks a network file system has, and a row that was
measured is never lost: the next command finds it in the job's file.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from ..errors import UserError
from ..jobs.needs import Asked, Needs
from ..jobs.queue import Task
from ..runs import append_line, read_lines, waiting
from .plan import Row

AGAIN = "run the same command again to go on"


class Queues:
    """Rows of one concept and seed read the same trajectories and base pictures: a worker takes them one after the
    other, and helps others when it has none. Attacks on one erasure stay together, so that it is trained once."""

    def __init__(self, pending: dict[str, Row]):
        self.groups: dict[tuple, deque[Row]] = {}
        for row in pending.values():
            together = row.training() if row.attack else ""
            self.groups.setdefault((row.model, row.concept, row.seed, together), deque()).append(row)
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
                            f"use fewer --jobs and {AGAIN}"
                        ) from None
                    if "fatal" in answer:
                        raise UserError(answer["fatal"])
                    yield row, answer
                    finished += 1
                    bar.update()
                    bar.set_postfix_str(str(row))
                    if bar.disable:
                        _say(row, answer, finished, len(pending), began)
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
    """A worker: a row at a time until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    answered = _with_one_thread()
    while True:
        try:
            answer = answered(pipe.recv())
        except EOFError:
            return
        try:
            pipe.send(answer)
        except OSError:  # nobody listens any more
            return


def _with_one_thread() -> Callable[[Row], dict]:
    """A function that measures a row with one thread, and keeps the row's model for the next: {"row": what was
    measured}, {"error": a line}, or {"fatal": a line} if there is no such model."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from .measure import load_model, measure

    torch.set_num_threads(1)
    loaded: dict = {}

    def answered(row: Row) -> dict:
        if row.model not in loaded:
            loaded.clear()
            try:
                loaded[row.model] = load_model(row.model)
            except UserError as error:
                return {"fatal": str(error)}
        try:
            return {"row": measure(loaded[row.model], row)}
        except UserError as error:
            return {"error": str(error)}
        except Exception as error:  # ours to mend; the other rows need not wait for it
            return {"error": f"{type(error).__name__}: {error}"}

    return answered


# ---------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Rows(Task):
    """The job of rows that share a training. Both its name and its key are the training's."""

    rows: tuple[Row, ...] = field(compare=False)
    folder: Path = field(compare=False)

    def work(self) -> dict[str, str]:
        """Row's key -> why it could not be measured, if so. A requeued job leaves out what it has measured."""
        from submitit import JobEnvironment

        file = self.folder / f"{JobEnvironment().job_id}.jsonl"
        there, wrong = {row["key"] for row in read_lines(file)}, {}
        answered = _with_one_thread()
        for row in self.rows:
            if row.key() not in there:
                answer = answered(row)
                if "row" in answer:
                    append_line(file, answer["row"])
                else:
                    wrong[row.key()] = answer.get("fatal") or answer["error"]
        return wrong


def work_of_jobs(pending: dict[str, Row], folder: Path, asked: Asked) -> list[tuple[Rows, Needs]]:
    """A job, with what it asks for, for all rows of `pending` that share a training."""
    groups: dict[str, list[Row]] = {}
    for row in pending.values():
        groups.setdefault(row.training(), []).append(row)
    needs = Needs(minutes=60 + 10 * max(map(len, groups.values()), default=0)).but(asked)
    return [(Rows(key, key, tuple(rows), folder), needs) for key, rows in groups.items()]


def measured_by_jobs(pending: dict[str, Row], folder: Path, asked: Asked) -> Iterator[tuple[Row, dict]]:
    """As `measured_by_workers`, by jobs that put their rows into `folder`."""
    from ..jobs.executors import jobs

    left, began = dict(pending), time.time()
    while left:  # again for rows that a job which was found in the queue was not sent for
        for task, answer in jobs(folder, asked, "earlib-sweep").run(work_of_jobs(left, folder, asked)):
            file = folder / f"{answer.job}.jsonl"
            there = {row["key"]: row for row in read_lines(file)}
            for row in task.rows:
                if (key := row.key()) in left:
                    del left[key]
                    wrong = (answer.value or {}).get(key) or answer.error or "its job wrote no row"
                    found = {"row": there[key]} if key in there else {"error": wrong}
                    _say(row, found, len(pending) - len(left), len(pending), began)
                    yield row, found
            file.unlink(missing_ok=True)


# ---------------------------------------------------------------- what is said of a row


def _say(row: Row, answer: dict, finished: int, total: int, began: float) -> None:
    left = (time.time() - began) / finished * (total - finished)
    print(f"[{finished}/{total}] {row.sweep}: {row}: {_said(answer)}; {span(left)} left", flush=True)


def _said(answer: dict) -> str:
    row = answer.get("row", {})
    if "rates" not in row:
        return answer.get("error") or f"failed, {row['failed']}"
    counts = [f"{kind} {hits}/{n}" for kind, (hits, n) in row["rates"]["concept"].items()]
    if row["rates"]["neighbours"]:
        counts.append("neighbours {}/{}".format(*map(sum, zip(*row["rates"]["neighbours"].values()))))
    return f"{', '.join(counts)}, {(row.get('seconds') or 0):.0f} + {row['seconds_measuring']:.0f} s"


def span(seconds: float) -> str:
    """Seconds as a person says them, in minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
