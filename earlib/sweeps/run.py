"""The command `sweep`: measure what book/sweeps.yml asks for and the tables lack, several rows side by side; killed, it
goes on.

    DIR/NAME.jsonl        one JSON line a row, added as soon as it is measured; put into the plan's order when the sweep
                          is complete
    DIR/jobs/JOB.jsonl    rows that a job of a cluster measured, until they are added to the tables

Rows are known by their keys: one that stands in any table of DIR is never measured again, and one that nobody asks for
any more is dropped. Two commands may fill one table at once; jobs never write one (`workers.py` says who measures).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError, nearest, only_in_a_clone
from ..jobs.needs import LOCAL, Asked
from ..runs import append_line, locked, read_lines, write_text
from .keys import short
from .plan import ASKED, SWEEPS, Row, Sweep, load_sweeps, place_of
from .read import is_row, table_folder
from .workers import measured_by_jobs, measured_by_workers, span, work_of_jobs

JOBS = "jobs"  # folder beside the tables


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
    asked: Asked = LOCAL,
) -> list[str]:
    """Fill the tables of `names` (all, if none is named) in `out`.

    Args:
        jobs: processes of one thread each, which share the rows.
        effort: factor on pictures and seeds.
        dry_run: say what would be measured, and measure nothing.
        out: folder of the tables; None: `table_folder(effort)`.
        model: another than the sweeps name: a profile, or a folder of a mini model.
        asked: whether jobs of a cluster measure, and what they ask for.

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
    files = [*sorted(folder.glob("*.jsonl")), *sorted(folder.glob(f"{JOBS}/*.jsonl"))]
    elsewhere = {row["key"]: row for file in files for row in read_lines(file) if is_row(row)}
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
        if asked.as_jobs and pending:
            work = work_of_jobs(pending, folder / JOBS, asked)
            print(f"{len(pending)} rows in {len(work)} jobs: {work[0][1]}")
        else:
            _say_how_long(pending, elsewhere.values(), jobs)
        return []
    for table in tables.values():
        table.tidy()
        for key in table.missing:
            if key in elsewhere:
                table.add(elsewhere[key])
    troubles = []
    measured = measured_by_jobs(pending, folder / JOBS, asked) if asked.as_jobs else measured_by_workers(pending, jobs)
    for row, answer in measured:
        if "error" in answer:
            troubles.append(f"{row.sweep}: {row}: {answer['error']}")
        elif answer["row"]["key"] not in pending:
            changed = "its recipe, prompts or weights were changed while it was measured; run the command again"
            troubles.append(f"{row.sweep}: {row}: {changed}")
        else:
            for table in tables.values():
                table.add(answer["row"])
    for table in tables.values():
        table.tidy()
    kept = {key for table in tables.values() for key, *_ in table.found}
    for file in folder.glob(f"{JOBS}/*.jsonl"):  # of jobs whose command was killed
        if all(row.get("key") in kept for row in read_lines(file)):
            file.unlink(missing_ok=True)
    print(f"tables in {folder}")
    return troubles


def _say_how_long(pending: dict[str, Row], measured, jobs: int) -> None:
    took = [row["seconds_measuring"] + (row.get("seconds") or 0) for row in measured if "seconds_measuring" in row]
    if pending and took:
        about = span(sum(took) / len(took) * len(pending) / jobs)
        print(f"about {about} for {len(pending)} rows, by what {len(took)} rows took")


def main(
    names=(), jobs: int = 2, effort: int = 1, dry_run: bool = False, out: Path | None = None, asked: Asked = LOCAL
) -> int:
    """The command: exit status 0, or 1 with a line for each row that could not be measured."""
    troubles = sweep(names, jobs, effort, dry_run, out, asked=asked)
    for line in troubles:
        print(f"not measured: {line}", file=sys.stderr)
    return 1 if troubles else 0
