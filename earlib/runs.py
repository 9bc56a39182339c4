"""Run folders, files that are never half-written, and the results table. What a run computes is not known here.

A run is a folder:

    config.json       what was asked for; a folder of another configuration is refused
    status.json       {"state": init | running | done | failed | timeout, ...}, written by whoever drives the run
    metrics.jsonl     one line per logged step
    checkpoints/
    results.json      a list of flat records (DESIGN section 6), written once at the end
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import ROOT
from .errors import UserError, only_in_a_clone

STATES = ("init", "running", "done", "failed", "timeout")


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write `path` through a temporary neighbour, fsync and rename: a reader sees the old file or the new one, never a
    part.

    Raises UserError if the folder cannot be made or written, or the disk is full; nothing is left behind then.
    """
    path = Path(path)
    only_in_a_clone(f"{path} is to be written", path)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")  # several machines may share it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose a folder that you may write to"
        ) from None
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8, atomically."""
    return write_bytes(path, text.encode())


def plain(value):
    """`value` in JSON's own types: dataclasses, paths, numpy and torch scalars and arrays unpacked; NaN and infinities
    become null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value):
        return plain(dataclasses.asdict(value))
    if hasattr(value, "tolist"):  # numpy, torch
        return plain(value.tolist())
    raise TypeError(f"cannot store a {type(value).__name__} as JSON")


def write_json(path: str | Path, value) -> Path:
    """Write `value` as indented JSON, atomically. What has no JSON type is made plain first."""
    return write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | Path):
    """The content of a JSON file. Raises UserError if it is missing or broken, with the line."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno} is not valid JSON ({error.msg})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except RecursionError:
        raise UserError(f"{path}: cannot be read (its brackets are nested too deeply)") from None


def append_line(path: str | Path, row: dict) -> None:
    """Add one JSON line; several processes may add to one file. A kill can cut the last line short: `read_lines` drops
    such a line, and so does the next one that is added."""
    path = Path(path)
    only_in_a_clone(f"{path} is to be written", path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent), open(path, "ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end and not _ends_a_line(file, end):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write((json.dumps(plain(row), ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def locked(place: str | Path) -> Iterator[None]:
    """Hold a lock, so that no other process that asks for it changes a file there meanwhile.

    Args:
        place: a folder, whose lock holds among the processes of one machine; or a file, whose lock a network file
            system carries to other machines. Where it is missing, or there are no locks, nothing is locked.
    """
    handle = None
    try:
        import fcntl

        handle = os.open(place, os.O_RDONLY if os.path.isdir(place) else os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _ends_a_line(file, end: int) -> bool:
    file.seek(end - 1)
    return file.read(1) == b"\n"


def read_lines(path: str | Path) -> list[dict]:
    """The rows of a JSON-lines file, [] if there is none; an unfinished last line is dropped."""
    path = Path(path)
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    rows, lines = [], data.removesuffix(b"\n").split(b"\n") if data else []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line.decode("utf-8")))
        except ValueError:  # no JSON, or no UTF-8
            if number < len(lines) or data.endswith(b"\n"):
                raise UserError(f"{path}: line {number} is not valid JSON in UTF-8") from None
    return rows


class _Lines:
    """What a progress bar writes to when standard error is no terminal: a line when the first bar of a command begins,
    one every 30 seconds whichever bar is moving then, and the end of a bar that has said something."""

    every = 30.0  # seconds
    last = -math.inf  # when any bar last said something

    def __init__(self, file):
        self.file, self.said, self.ended = file, False, False

    def write(self, text: str) -> None:
        text, ends = text.strip(), "100%|" in text
        due = time.monotonic() - _Lines.last >= self.every
        if text and not self.ended and (due or (ends and self.said)):
            _Lines.last, self.said, self.ended = time.monotonic(), True, ends
            self.file.write(text + "\n")

    def flush(self) -> None:
        self.file.flush()


def progress_bar(*args, **more):
    """tqdm's bar, with its arguments; where standard error is a file or a pipe, a line now and then in its place."""
    from tqdm.auto import tqdm

    if "ipykernel" not in sys.modules and not sys.stderr.isatty():
        more = {"file": _Lines(sys.stderr), "ncols": 100} | more | {"leave": True}  # so that its end is written
    return tqdm(*args, **more)


@contextmanager
def waiting(what: str, every: float = 30.0) -> Iterator[None]:
    """Around work that no bar can measure: where standard error is no terminal, a line with `what` and the time so far
    every `every` seconds."""
    done, began = threading.Event(), time.monotonic()

    def say():
        while not done.wait(every):
            print(f"{what}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        threading.Thread(target=say, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _difference(old, new, where: str = "") -> str:
    """The first place in which two configurations differ: `recipe.windows.length: 24 there, 12 here`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if key not in old or key not in new or old[key] != new[key]:
                return _difference(old.get(key), new.get(key), f"{where}.{key}" if where else key)

    def short(value):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) < 60 else text[:57] + "..."

    return f"{where}: {short(old)} there, {short(new)} here"


def state_of(folder: Path) -> str:
    """The state in a run's status.json, "init" where there is none. UserError if it is no state."""
    file = folder / "status.json"
    said = read_json(file) if file.exists() else {"state": "init"}
    if not isinstance(said, dict) or said.get("state") not in STATES:
        raise UserError(
            f"{file}: names no state of a run ({', '.join(STATES)}); take the folder away, or mend the file"
        )
    return said["state"]


class Run:
    """One run folder. `with Run(folder, config) as run:` keeps status.json: running, then done, or failed with the
    error's text.

    Raises UserError if the folder belongs to a run of another configuration or to something that is no run, if it was
    begun before and `resume` is False, or if it cannot be written.
    """

    def __init__(self, folder: str | Path, config, resume: bool = True):
        self.folder, self.config = Path(folder), plain(config)
        config_file = self.folder / "config.json"
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file; a run needs a folder")
        if config_file.exists():
            old = read_json(config_file)
            if old != self.config:
                raise UserError(
                    f"{self.folder}: holds a run of a different configuration ({_difference(old, self.config)}); "
                    "choose another folder"
                )
            if not resume:
                raise UserError(f"{self.folder}: this run was begun before; resume it, or choose another folder")
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise UserError(f"{self.folder}: is not empty and holds no run (no config.json); choose another folder")
        else:
            write_json(config_file, self.config)
            self.status("init")

    @property
    def state(self) -> str:
        return state_of(self.folder)

    def status(self, state: str, **more) -> None:
        """Write status.json."""
        if state not in STATES:
            raise ValueError(f"state {state!r} is none of {STATES}")
        write_json(self.folder / "status.json", {"state": state, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **more})

    def log(self, **row) -> None:
        """Add a row to metrics.jsonl."""
        append_line(self.folder / "metrics.jsonl", row)

    @property
    def metrics(self) -> list[dict]:
        return read_lines(self.folder / "metrics.jsonl")

    def rewind(self, step: int, key: str = "step") -> None:
        """Forget the rows from `step` on: a run resumed from a checkpoint logs them again."""
        rows = [row for row in self.metrics if row.get(key, -1) < step]
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; it is made when first asked for."""
        path = self.folder / "checkpoints"
        path.mkdir(exist_ok=True)
        return path

    def save_results(self, records: list[dict]) -> Path:
        """Write results.json: a list of flat records."""
        return write_json(self.folder / "results.json", records)

    @property
    def results(self) -> list[dict]:
        return read_json(self.folder / "results.json")

    def __enter__(self):
        self._began = time.time()
        self.status("running")
        return self

    def __exit__(self, kind, error, trace):
        seconds = round(time.time() - self._began, 2)
        if error is None:
            self.status("done", seconds=seconds)
        else:
            self.status("failed", seconds=seconds, error=f"{kind.__name__}: {error}")


def notebook_folder(name: str) -> Path:
    """Where notebook `name` puts what it computes (results.json, erasures, figures).

    runs/PROFILE/NAME when `rerun` drives it, which says so through EARLIB_RUN; runs/by-hand/NAME otherwise, so that
    playing with a notebook never changes the numbers of the book.
    """
    folder = Path(os.environ.get("EARLIB_RUN") or ROOT / "runs" / "by-hand" / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from None
    return folder


def collect(folder: str | Path) -> list[dict]:
    """The results table: every record of every results.json under `folder`, each with `run`, its folder's name relative
    to `folder`.

    Runs that say they are not done, and folders set aside (`NAME.old`), are left out.
    """
    folder, table = Path(folder), []
    for file in sorted(folder.rglob("results.json")):
        run = file.parent.relative_to(folder)
        if any(part.endswith(".old") for part in run.parts):
            continue
        status = file.parent / "status.json"
        if status.exists() and read_json(status)["state"] != "done":
            continue
        records = read_json(file)
        if not isinstance(records, list):
            raise UserError(f"{file}: must hold a list of records")
        table += [{"run": run.as_posix(), **record} for record in records]
    return table
