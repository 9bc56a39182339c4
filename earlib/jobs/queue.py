"""Jobs: what one does, and the command that waits for them. `executors.py` sends them, through submitit.

    FOLDER/JOB_submitted.pkl     what a job is to do; there until its answer is taken
    FOLDER/JOB_0_result.pkl      its answer; likewise
    FOLDER/JOB_0_log.out         what it printed
    FOLDER/driver                who waits for the jobs; one command at a time

The queue and this folder are all that is remembered. A command that was killed is given again: it waits for jobs that
are still in the queue, and sends again what has no answer. A job writes only files that no other job writes, so that
nothing hangs on a lock that a network file system may lack.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import UserError
from .needs import Asked, Needs

GONE = "GONE"  # the queue has no word of it
ENDED = {  # Slurm's word for a job that runs no more -> ours, where it gave no answer
    "BOOT_FAIL": "its machine did not start",
    "CANCELLED": "was cancelled",
    "COMPLETED": "ended without an answer",
    "DEADLINE": "came to its deadline",
    "FAILED": "ended without an answer",
    "NODE_FAIL": "its machine failed",
    "OUT_OF_MEMORY": "ran out of memory",
    "TIMEOUT": "came to its time limit",
    GONE: "was cancelled, or ended without an answer",
}
TELL = 300  # seconds between lines that say how many jobs run and wait
KILLED = 120  # seconds: a job that was told to end waits so long to be killed


@dataclass(frozen=True)
class Task:
    """What one job does. A subclass has `work`, and the fields that it needs, with `compare=False`; all are pickled.

    Attributes:
        name: what it makes; no two jobs make it at once.
        key: what it is made of: a job of another key is out of date.
    """

    name: str
    key: str

    def work(self) -> Any:
        """Do it, on whatever machine. What it returns is pickled, too."""
        raise NotImplementedError

    def __call__(self) -> Any:
        """What a job calls: `work`, in a thread, so that signals are heard meanwhile."""
        told: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
        value: Future = Future()

        def do() -> None:
            try:
                value.set_result(self.work())
            except BaseException as error:
                value.set_exception(error)

        threading.Thread(target=do, daemon=True).start()
        try:
            error = value.exception()
        except subprocess.CalledProcessError as requeue:  # submitit's `scontrol requeue`: the job asks for its own end
            if requeue.returncode < 0:  # and that came before the answer
                time.sleep(KILLED)
            raise
        if told:  # the processes that it started were told as well: what came of that is no answer
            time.sleep(KILLED)
        if error is not None:
            raise error
        return value.result()

    def checkpoint(self) -> Any:
        """submitit asks shortly before the time limit, and requeues the job: it goes on from the files that it
        wrote."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Answer:
    """How a job ended: `state` is done, with what `Task.work` returned as `value`; or failed or timeout, with
    an `error` of one line that names the log."""

    job: str  # its number
    state: str
    value: Any = None
    error: str = ""


class Jobs:
    """The jobs of one command.

    Args:
        folder: for pickles and logs; every machine of the cluster must see it under this path.
        asked: by the command line.
        name: of the jobs, in the queue.
        grace: seconds after a job's end in which its answer may still come to be seen from here.
    """

    def __init__(self, folder: Path, asked: Asked, name: str = "earlib", grace: float = 15.0):
        self.folder, self.asked, self.name, self.grace = Path(folder).resolve(), asked, name, grace

    def run(self, work: Sequence[tuple[Task, Needs]]) -> Iterator[tuple[Task, Answer]]:
        """Send what no job does yet, and yield each task with its answer as they come.

        Raises:
            UserError: the cluster refuses the jobs, or another command waits for those of this folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._only_one():
            running = self._taken_over([task for task, _ in work])
            begun = set(running.values())
            left = sorted((pair for pair in work if pair[0] not in begun), key=lambda pair: str(pair[1]))
            groups = [(needs, [task for task, _ in some]) for needs, some in groupby(left, key=lambda pair: pair[1])]
            try:
                yield from self._watch(running, groups)
            finally:
                if running:
                    self._leave(list(running))

    def _watch(self, running: dict, groups: list[tuple[Needs, list[Task]]]) -> Iterator[tuple[Task, Answer]]:
        began = ask = told = time.monotonic()
        states: dict[str, str] = {}
        seen: dict[str, float] = {}  # job -> when it was last known to live
        while running or groups:
            for needs, tasks in groups:
                for job, task in zip(self._send(needs, tasks), list(tasks)):
                    running[job] = task
                    tasks.remove(task)
            groups = [group for group in groups if group[1]]
            if (now := time.monotonic()) >= ask:
                found = self._states(list(running))
                states = states if found is None else found
                ask = now + min(20.0, max(self.grace / 15, (now - began) / 20))
                if now - told > TELL:
                    told, counts = now, Counter(states.values())
                    print("jobs:", ", ".join(f"{n} {state.lower()}" for state, n in counts.items()), flush=True)
            answers = self._answers()
            for job, task in list(running.items()):
                state = states.get(job.job_id, "sent")
                if state not in ENDED:
                    seen[job.job_id] = now
                there = job.paths.result_pickle.name in answers
                if there or now - seen.setdefault(job.job_id, now) > self.grace:
                    answer = self._answer(job, state, there)
                    del running[job]
                    yield task, answer
                    self._forget(job)
            if running or groups:
                time.sleep(min(1.0, self.grace / 10))

    def _answers(self) -> set[str]:
        try:
            self.folder.chmod(self.folder.stat().st_mode)  # a network file system then looks again
        except OSError:
            pass
        return {path.name for path in self.folder.glob("*_result.pkl")}

    def _answer(self, job: Any, state: str, there: bool) -> Answer:
        log = f"job {job.job_id}; its log: {job.paths.stdout}"
        if not there:
            return Answer(job.job_id, "timeout" if state == "TIMEOUT" else "failed", error=f"{ENDED[state]} ({log})")
        from submitit.core.utils import pickle_load

        kind, value = pickle_load(job.paths.result_pickle)
        if kind == "success":
            return Answer(job.job_id, "done", value)
        last = value.strip().splitlines()[-1].removeprefix("earlib.errors.UserError: ")
        if "timed-out" in last:  # submitit: requeued at the limit again and again
            return Answer(job.job_id, "timeout", error=f"{ENDED['TIMEOUT']} ({log})")
        return Answer(job.job_id, "failed", error=f"{last} ({log})")

    @staticmethod
    def _forget(job: Any) -> None:
        for path in (job.paths.submitted_pickle, job.paths.result_pickle):
            path.unlink(missing_ok=True)

    def _taken_over(self, tasks: list[Task]) -> dict:
        """Job -> task, of those that a killed command left; jobs for what has changed since are ended."""
        wanted, names = set(tasks), {task.name for task in tasks}
        kept: dict[Any, Task] = {}
        outdated = []
        for job, task in self._left().items():
            if task in wanted and task not in kept.values():
                kept[job] = task
            elif task is None or task.name in names:
                outdated.append(job)
        if outdated:
            print(f"ending jobs of code or settings that have changed since: {len(outdated)}", flush=True)
            self._end(outdated)
        if kept:
            print(f"waiting for jobs that were sent before: {len(kept)}", flush=True)
        return kept

    def _left(self) -> dict[Any, Task | None]:
        """Job -> task (None: it cannot be read), of those in the folder that live or have an answer; others are
        forgotten."""
        from submitit.core.utils import DelayedSubmission

        jobs = [self._job(file.name.removesuffix("_submitted.pkl")) for file in self.folder.glob("*_submitted.pkl")]
        states, answers = self._states(jobs), self._answers()
        if states is None:
            raise UserError("squeue does not answer, so that nobody knows which jobs are in the queue already")
        found: dict[Any, Task | None] = {}
        for job in jobs:
            if job.paths.result_pickle.name not in answers and states.get(job.job_id, GONE) in ENDED:
                self._forget(job)
                continue
            try:
                found[job] = DelayedSubmission.load(job.paths.submitted_pickle).function
            except Exception:  # of code that is gone
                found[job] = None
        return found

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        with open(self.folder / "driver", "a+", encoding="utf-8") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                who = file.read().strip()
                raise UserError(f"{who} waits for the jobs in {self.folder} already; let it, or end it first") from None
            except (ImportError, OSError):
                pass
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            yield

    # ---------------------------------------------------------------- what an executor adds

    def _job(self, job_id: str) -> Any:
        """submitit's job of this id."""
        raise NotImplementedError

    def _send(self, needs: Needs, tasks: list[Task]) -> list:
        """Jobs for as many of `tasks`, from the first, as may be sent now."""
        raise NotImplementedError

    def _states(self, jobs: list) -> dict[str, str] | None:
        """Job's id -> Slurm's word for its state, or GONE. None: nobody can tell now."""
        raise NotImplementedError

    def _end(self, jobs: list) -> None:
        """End them, and wait until they have ended."""
        raise NotImplementedError

    def _leave(self, jobs: list) -> None:
        """What becomes of jobs whose command is stopped."""
        raise NotImplementedError
