"""Run the notebooks of the manifest with papermill: checked parameters, honest states, finished runs skipped. The book
is built in book.py.

    _build/executed/PROFILE/notebooks/NAME.ipynb     the executed notebook, only ever a complete one
    _build/executed/PROFILE/status/NAME.json         its state, key, parameters and seconds, written here and never
    inferred from the notebook
    _build/executed/PROFILE/failed/NAME.ipynb        what there is of a run that failed or timed out
    runs/PROFILE/NAME/                               what the notebook computed (`earlib.runs.notebook_folder`)

A run's key is a hash of the notebook's code cells, its parameters, earlib's source, data/ and the versions of the
libraries: while it is the same, a finished run is skipped. Prose is not in the key (book.py takes it from the source).
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from .. import ROOT
from ..device import cores
from ..errors import UserError, nearest
from ..runs import read_json, write_json, write_text
from .manifest import ALWAYS, MANIFEST, SWEEPS, Entry, load_manifest, parameters, select

EXECUTORS = ("local", "slurm")
NO_EFFECT = ("rerun.py", "manifest.py", "book.py", "sweep.py")  # source that no notebook's result depends on
LIBRARIES = ("torch", "transformers", "numpy", "open-clip-torch", "torch-fidelity", "matplotlib")


def source_hash(root: Path = ROOT) -> str:
    """A hash over earlib's source, data/ but the tables of sweeps, and the versions of the libraries: what the result
    of every notebook depends on."""
    from importlib import metadata

    digest = hashlib.sha256(f"python {sys.version_info[0]}.{sys.version_info[1]}".encode())
    for library in LIBRARIES:
        try:
            digest.update(f"{library} {metadata.version(library)}".encode())
        except metadata.PackageNotFoundError:
            pass
    root = Path(root)
    files = [f for part in ("earlib/**/*.py", "benchmarks/*.py") for f in root.glob(part) if f.name not in NO_EFFECT]
    files += [f for f in root.glob("data/**/*") if f.is_file() and root / SWEEPS not in f.parents]
    return _files_hash(sorted(files), root, digest)


def _files_hash(files, root: Path, digest) -> str:
    for file in files:
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def run_key(entry: Entry, values: dict, source: str, root: Path = ROOT) -> str:
    """16 hex digits that change whenever the notebook's result could."""
    import nbformat

    notebook = nbformat.read(Path(root) / entry.path, as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    tables = [Path(root) / SWEEPS / f"{table}.jsonl" for table in entry.tables]
    read = [_files_hash([*tables, Path(root) / "book" / "sweeps.yml"], Path(root), hashlib.sha256())] if tables else []
    return hashlib.sha256(json.dumps([code, values, source, *read], sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _kernel(run_folder: Path):
    """A `python3` kernel that is this interpreter, whatever kernels the user has installed; it knows its run folder."""
    with tempfile.TemporaryDirectory(prefix="earlib-kernel-") as folder:
        argv = [
            sys.executable,
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
            "--IPKernelApp.log_level=40",
        ]  # 40: errors, no TCP notice
        env = {"EARLIB_RUN": str(run_folder), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        spec = {"argv": argv, "display_name": "Python 3", "language": "python", "env": env}
        write_json(Path(folder) / "kernels" / "python3" / "kernel.json", spec)
        before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = os.pathsep.join([folder, *([before] if before else [])])
        try:
            yield
        finally:
            os.environ.pop("JUPYTER_PATH") if before is None else os.environ.update(JUPYTER_PATH=before)


def _execute(entry: Entry, values: dict, output: Path, run_folder: Path, root: Path) -> tuple[str, str]:
    """Run one notebook into `output`. Returns (state, error in one line); a kernel that did not start is tried once
    more."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from zmq import ZMQError

    for attempt in (1, 2):
        try:
            with _kernel(run_folder):
                papermill.execute_notebook(
                    str(root / entry.path), str(output), parameters=values, kernel_name="python3", cwd=str(root),
                    execution_timeout=entry.timeout, progress_bar=sys.stderr.isatty(), start_timeout=120,
                )  # fmt: skip
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


def run_notebook(entry: Entry, profile: str, values: dict, key: str, root: Path = ROOT) -> dict:
    """Run one notebook and return its status, which is also written to status/NAME.json."""
    from papermill.log import logger

    logger.setLevel("ERROR")  # its warnings are ours to raise
    folder = root / "_build" / "executed" / profile
    final, partial, failed = (
        folder / entry.path,
        folder / "running" / f"{entry.name}.ipynb",
        folder / "failed" / f"{entry.name}.ipynb",
    )
    run_folder = root / "runs" / profile / entry.name
    status_file = folder / "status" / f"{entry.name}.json"
    status = {
        "name": entry.name,
        "profile": profile,
        "path": entry.path,
        "state": "running",
        "key": key,
        "parameters": values,
    }
    before = read_json(status_file) if status_file.exists() else {}
    if (
        run_folder.exists() and before.get("key") != key
    ):  # what it computed belongs to other code: set aside, so that nothing resumes from it
        aside = run_folder.with_name(run_folder.name + ".old")
        shutil.rmtree(aside, ignore_errors=True)
        run_folder.rename(aside)
    write_json(status_file, status)
    for path in (final.parent, partial.parent, failed.parent, run_folder):
        path.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    began = time.time()
    state, error = "failed", "interrupted"
    try:
        state, error = _execute(entry, values, partial, run_folder, root)
    finally:
        status |= {
            "state": state,
            "seconds": round(time.time() - began, 1),
            "results": (run_folder / "results.json").exists(),
        }
        if error:
            status["error"] = " ".join(error.split())
        if partial.exists():
            os.replace(partial, final if state == "done" else failed)
        write_json(status_file, status)
    return status


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


def _slurm(plan: list, profile: str, root: Path) -> list[dict]:
    """Write one batch script a notebook and submit it. Raises UserError, after writing them, where there is no sbatch."""
    statuses = []
    for entry, values, key in plan:
        options = {
            "job-name": entry.name,
            "output": f"_build/slurm/{profile}/{entry.name}.log",
            "gres": "gpu:1",
            "time": "04:00:00",
            **entry.slurm,
        }
        lines = [
            "#!/bin/bash",
            *(f"#SBATCH --{name}={value}" for name, value in options.items()),
            "set -e",
            f"cd {shlex.quote(str(root))}",
        ]
        command = [sys.executable, "-m", "earlib", "rerun", "--profile", profile, "--only", entry.name]
        script = write_text(
            root / "_build" / "slurm" / profile / f"{entry.name}.sh", "\n".join([*lines, shlex.join(command), ""])
        )
        statuses.append(
            {
                "name": entry.name,
                "profile": profile,
                "state": "submitted",
                "key": key,
                "parameters": values,
                "script": str(script),
            }
        )
    if statuses and not shutil.which("sbatch"):
        raise UserError(
            f"no `sbatch` on this machine: the batch scripts are written to {Path(statuses[0]['script']).parent}; submit them where Slurm is"
        )
    for status in statuses:
        done = subprocess.run(["sbatch", "--parsable", status["script"]], cwd=root, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"sbatch refused {status['script']}: {' '.join(done.stderr.split())}")
        status["job"] = done.stdout.strip()
        print(f"{status['name']}  submitted as job {status['job']}", flush=True)
    return statuses


def default_jobs(profile: str) -> int:
    """How many notebooks run side by side: two of the mini models', whose small steps leave a second core idle; one
    that has a GPU to itself."""
    return min(2, cores()) if profile in ALWAYS else 1


def _in_child(entry: Entry, profile: str, jobs: int, root: Path, manifest: str) -> dict:
    """Run one notebook in a process of its own, with its share of the cores; returns the status that it wrote."""
    code = "import sys; _, here, profile, name, root, manifest = sys.argv; sys.path.insert(0, here)\n"
    code += "from earlib.book.rerun import rerun; rerun(profile, [name], root=root, manifest=manifest)"
    command = [sys.executable, "-c", code, str(ROOT), profile, entry.name, str(root), manifest]
    share = os.environ | {"OMP_NUM_THREADS": str(max(1, cores() // jobs))}
    done = subprocess.run(
        command, cwd=root, env=share, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    file = root / "_build" / "executed" / profile / "status" / f"{entry.name}.json"
    status = (
        read_json(file) if file.exists() else {"name": entry.name, "profile": profile, "state": "running", "seconds": 0}
    )
    if status["state"] == "running":  # it could not even say that it failed
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["interrupted"]
        status |= {"state": "failed", "error": said[0], "seconds": status.get("seconds", 0)}
    return status


def rerun(
    profile: str = "mini",
    only=(),
    executor: str = "local",
    dry_run: bool = False,
    stop: bool = False,
    root: Path = ROOT,
    manifest: str = MANIFEST,
    jobs: int = 1,
):
    """Run the manifest's notebooks, `jobs` at a time; returns one status a notebook (state done, failed, timeout,
    submitted, or planned in a dry run).

    Everything that can be known to be wrong is known before the first one starts. `stop` begins no further one after
    the first that does not finish.
    """
    root = Path(root).resolve()
    if executor not in EXECUTORS:
        raise UserError(f"unknown executor '{executor}': {nearest(executor, EXECUTORS)}")
    entries = select(load_manifest(root, manifest), profile, only)
    source = source_hash(root)
    plan = []
    for entry in entries:
        values = parameters(entry, profile, root)
        plan.append((entry, values, run_key(entry, values, source, root)))
    if executor == "slurm" and not dry_run:
        return _slurm(plan, profile, root)
    width = max((len(entry.name) for entry in entries), default=0)
    halted = []

    def one(entry, values, key):
        if halted:
            return None
        status = fresh(entry, profile, key, root)
        if dry_run:
            status = status or {"name": entry.name, "state": "planned", "parameters": values}
            given = "  ".join(f"{k}={v!r}" for k, v in values.items())
            print(
                f"{entry.name:{width}}  {'is up to date' if status['state'] == 'done' else f'would run, {entry.minutes:g} min'}  {given}".rstrip()
            )
        elif status:
            print(f"{entry.name:{width}}  is up to date ({status['seconds']} s when it ran)", flush=True)
        else:
            print(f"{entry.name:{width}}  running, about {entry.minutes:g} min ...", flush=True)
            here = jobs == 1 or entry.alone
            status = (
                run_notebook(entry, profile, values, key, root)
                if here
                else _in_child(entry, profile, jobs, root, manifest)
            )
            print(
                f"{entry.name:{width}}  {status['state']} in {status['seconds']} s {status.get('error', '')}".rstrip(),
                flush=True,
            )
            if stop and status["state"] in ("failed", "timeout"):
                halted.append(entry.name)
        return status

    with ThreadPoolExecutor(jobs) as pool:  # threads that wait for processes
        beside = plan if jobs == 1 or dry_run else [work for work in plan if not work[0].alone]
        found = list(
            map(lambda work: one(*work), beside) if jobs == 1 or dry_run else pool.map(lambda work: one(*work), beside)
        )
    found += [one(*work) for work in plan if work not in beside]
    by_name = {status["name"]: status for status in found if status}
    return [by_name[entry.name] for entry in entries if entry.name in by_name]


def broken(statuses: list[dict]) -> str:
    """One line naming the notebooks that did not finish; empty if all did."""

    def said(status):
        what = "timed out" if status["state"] == "timeout" else "failed"
        return f"{status['name']} {what}: {status.get('error', '')} (see _build/executed/{status['profile']}/failed/{status['name']}.ipynb)"

    return "; ".join(said(s) for s in statuses if s["state"] in ("failed", "timeout"))


def main(
    profile: str = "mini", only=(), executor: str = "local", dry_run: bool = False, jobs: int | None = None
) -> int:
    """The command `rerun`: exit status 0, or 1 with one line that names each notebook that failed or timed out."""
    statuses = rerun(profile, only, executor, dry_run, jobs=jobs or default_jobs(profile))
    if line := broken(statuses):
        print(line, file=sys.stderr)
    return 1 if line else 0
