"""Run the notebooks of the manifest with papermill: checked parameters, honest states, finished runs skipped.

    _build/executed/PROFILE/notebooks/NAME.ipynb    the executed notebook, only ever a complete one
    _build/executed/PROFILE/status/NAME.json        its state, key, parameters and seconds, written here and never
                                                    inferred from the notebook
    _build/executed/PROFILE/failed/NAME.ipynb       what there is of a run that failed or timed out
    runs/PROFILE/NAME/                              what the notebook computed (`earlib.runs.notebook_folder`)
    _build/jobs/PROFILE/                            logs, where jobs ran them (`earlib.jobs`)

While a run's key (`freshness.py`) is the same, a finished run is skipped. The book is built in `build.py`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import ROOT
from ..device import cores
from ..errors import only_in_a_clone
from ..jobs.needs import LOCAL, Asked, Needs, needs_of
from ..jobs.queue import Task
from ..runs import read_json, waiting, write_json
from .freshness import run_key, shared_hash
from .kernels import Kernels
from .manifest import ALWAYS, MANIFEST, Entry, load_manifest, parameters, select

JOBS = "_build/jobs"  # pickles and logs of jobs, a folder a profile


def rerun(
    profile: str = "mini",
    only=(),
    asked: Asked = LOCAL,
    dry_run: bool = False,
    stop: bool = False,
    root: Path = ROOT,
    manifest: str = MANIFEST,
    jobs: int = 1,
    kernels: Kernels | None = None,
) -> list[dict]:
    """Run the manifest's notebooks.

    Args:
        profile: whose parameters they get.
        only: names; none: all that take part in the profile.
        asked: whether jobs run them, and what jobs ask for.
        dry_run: say what would run.
        stop: begin no further one after the first that does not finish.
        root: the repository.
        manifest: its manifest.
        jobs: notebooks at a time; each has its share of the cores.
        kernels: that are running already.

    Returns:
        list[dict]: a status a notebook, with `state` done, failed, timeout, or planned in a dry run.

    Raises:
        UserError: for all that can be known to be wrong before the first one starts.
    """
    only_in_a_clone("the notebooks are in the repository")
    root = Path(root).resolve()
    entries = select(load_manifest(root, manifest), profile, only)
    shared, plan = shared_hash(root), []
    for entry in entries:
        values = parameters(entry, profile, root)
        plan.append((entry, values, run_key(entry, values, shared, root)))
    width = max((len(entry.name) for entry in entries), default=0)
    found: dict[str, dict] = {}
    left = []  # to run
    for entry, values, key in plan:
        if status := fresh(entry, profile, key, root):
            took = "" if dry_run else f" ({status['seconds']} s when it ran)"
            print(f"{entry.name:{width}}  is up to date{took}", flush=True)
            found[entry.name] = status
        elif dry_run:
            found[entry.name] = {"name": entry.name, "state": "planned", "parameters": values}
            given = "  ".join(f"{k}={v!r}" for k, v in values.items())
            where = f"as a job: {job_needs(entry, profile, asked)}" if asked.as_jobs else f"{entry.minutes:g} min"
            print(f"{entry.name:{width}}  would run, {where}  {given}".rstrip())
        else:
            left.append((entry, values, key))

    def one(work, kernels: Kernels, threads: int | None) -> None:
        entry, values, key = work
        if stop and any(status["state"] in ("failed", "timeout") for status in found.values()):
            return
        print(f"{entry.name:{width}}  running, about {entry.minutes:g} min ...", flush=True)
        with waiting(f"{entry.name:{width}}  still running"):
            ran(run_notebook(entry, profile, values, key, root, kernels, threads))

    def ran(status: dict) -> None:
        took, error = f" in {status['seconds']} s" if "seconds" in status else "", status.get("error", "")
        print(f"{status['name']:{width}}  {status['state']}{took} {error}".rstrip(), flush=True)
        found[status["name"]] = status

    if left and asked.as_jobs:
        for status in _by_jobs(left, profile, root, asked):
            ran(status)
    elif left and kernels is not None:
        _side_by_side(left, one, jobs, kernels)
    elif left:
        with Kernels() as kernels:
            _side_by_side(left, one, jobs, kernels)
    return [found[entry.name] for entry in entries if entry.name in found]


def _side_by_side(left: list, one, jobs: int, kernels: Kernels) -> None:
    """`one` for each of `left`, `jobs` at a time, the longest first; then those that are to run alone."""
    if jobs == 1:
        for work in left:
            one(work, kernels, None)
        return
    beside = sorted((work for work in left if not work[0].alone), key=lambda work: -work[0].minutes)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda work: one(work, kernels, max(1, cores() // jobs)), beside))
    for work in left:
        if work[0].alone:
            one(work, kernels, cores())


@dataclass(frozen=True)
class Notebook(Task):
    """The job of one notebook, in a kernel of its own. Its key is the run's."""

    profile: str = field(compare=False)
    entry: Entry = field(compare=False)
    values: dict = field(compare=False)
    root: Path = field(compare=False)
    threads: int = field(compare=False)

    def work(self) -> dict:
        os.chdir(self.root)
        with Kernels(warm=False) as kernels:
            return run_notebook(self.entry, self.profile, self.values, self.key, self.root, kernels, self.threads)


def job_needs(entry: Entry, profile: str, asked: Asked) -> Needs:
    """What a notebook's job asks for."""
    needs = needs_of(profile, entry.minutes)
    return replace(needs, alone=entry.alone).but(asked, entry.slurm)


def _by_jobs(left: list, profile: str, root: Path, asked: Asked) -> Iterator[dict]:
    """The statuses of notebooks that jobs run, as they end; a job that was killed has one, too."""
    from ..jobs.executors import jobs

    work = []
    for entry, values, key in left:
        needs = job_needs(entry, profile, asked)
        work.append((Notebook(entry.name, key, profile, entry, values, root, needs.cpus), needs))
    for task, answer in jobs(root / JOBS / profile, asked, f"earlib-{profile}", root).run(work):
        if answer.state == "done":
            yield answer.value
            continue
        status = {"name": task.name, "profile": profile, "path": task.entry.path, "state": answer.state}
        status |= {"key": task.key, "parameters": task.values, "results": False, "error": answer.error}
        write_json(root / "_build" / "executed" / profile / "status" / f"{task.name}.json", status)
        yield status


def run_notebook(
    entry: Entry, profile: str, values: dict, key: str, root: Path, kernels: Kernels, threads: int | None = None
) -> dict:
    """Run one notebook and return its status, which is also written to status/NAME.json."""
    folder, run_folder = root / "_build" / "executed" / profile, root / "runs" / profile / entry.name
    final, status_file = folder / entry.path, folder / "status" / f"{entry.name}.json"
    partial, failed = (folder / part / f"{entry.name}.ipynb" for part in ("running", "failed"))
    before = read_json(status_file) if status_file.exists() else {}
    if run_folder.exists() and before.get("key") != key:
        # what it computed belongs to other code: set aside, so that nothing resumes from it
        aside = run_folder.with_name(run_folder.name + ".old")
        shutil.rmtree(aside, ignore_errors=True)
        run_folder.rename(aside)
    status = {"name": entry.name, "profile": profile, "path": entry.path, "state": "running", "key": key}
    status |= {"parameters": values}
    write_json(status_file, status)
    for path in (final.parent, partial.parent, failed.parent, run_folder):
        path.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    began, state, error = time.time(), "failed", "interrupted"
    try:
        state, error = _execute(entry, values, partial, run_folder, root, kernels, threads)
    finally:
        status |= {"state": state, "seconds": round(time.time() - began, 1)}
        status |= {"results": (run_folder / "results.json").exists()}
        status |= {"error": " ".join(error.split())} if error else {}
        if partial.exists():
            os.replace(partial, final if state == "done" else failed)
        write_json(status_file, status)
    return status


def _execute(
    entry: Entry, values: dict, output: Path, run_folder: Path, root: Path, kernels: Kernels, threads: int | None
) -> tuple[str, str]:
    """Run one notebook into `output`. Returns (state, error in one line); a kernel that did not start is tried once
    more."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from papermill.log import logger
    from zmq import ZMQError

    logger.setLevel("ERROR")  # its warnings are ours to raise
    for attempt in (1, 2):
        try:
            papermill.execute_notebook(
                str(root / entry.path),
                str(output),
                parameters=values,
                kernel_name="python3",
                kernel_manager_class=kernels.manager(run_folder, root, threads),
                execution_timeout=entry.timeout,
                progress_bar=sys.stderr.isatty(),
                start_timeout=120,
            )
            return "done", ""
        except CellTimeoutError:
            return "timeout", f"a cell took longer than {entry.timeout:g} s"
        except PapermillExecutionError as error:
            return "failed", f"cell [{error.exec_count}] {error.ename}: {error.evalue}"
        except DeadKernelError:
            return "failed", "the kernel died (most often: out of memory)"
        except (RuntimeError, ZMQError) as error:  # "Kernel died before replying", "Address already in use"
            if attempt == 2:
                return "failed", f"the kernel did not start: {error}"
    raise AssertionError("unreachable")


def fresh(entry: Entry, profile: str, key: str, root: Path = ROOT) -> dict | None:
    """The status of a finished run with this key whose notebook and results are still there, else None."""
    folder = root / "_build" / "executed" / profile
    file = folder / "status" / f"{entry.name}.json"
    if not file.exists() or not (folder / entry.path).exists():
        return None
    status = read_json(file)
    results = root / "runs" / profile / entry.name / "results.json"
    return (
        status
        if status["state"] == "done" and status["key"] == key and (results.exists() or not status["results"])
        else None
    )


def default_jobs(profile: str) -> int:
    """How many notebooks run side by side: two of the mini models', whose small steps leave a second core idle; one
    that has a GPU to itself."""
    return min(2, cores()) if profile in ALWAYS else 1


def broken(statuses: list[dict]) -> str:
    """One line naming the notebooks that did not finish; empty if all did."""

    def said(status):
        what = "timed out" if status["state"] == "timeout" else "failed"
        error = status.get("error", "")
        there = f" (see _build/executed/{status['profile']}/failed/{status['name']}.ipynb)"
        return f"{status['name']} {what}: {error}{there * ('its log: ' not in error)}"

    return "; ".join(said(s) for s in statuses if s["state"] in ("failed", "timeout"))


def main(profile: str = "mini", only=(), asked: Asked = LOCAL, dry_run: bool = False) -> int:
    """The command `rerun`: exit status 0, or 1 with one line that names each notebook that failed or timed out."""
    statuses = rerun(profile, only, asked, dry_run, jobs=asked.jobs or default_jobs(profile))
    if not dry_run:
        print(f"notebooks in {ROOT / '_build' / 'executed' / profile}, numbers in {ROOT / 'runs' / profile}")
    if line := broken(statuses):
        print(line, file=sys.stderr)
    return 1 if line else 0
