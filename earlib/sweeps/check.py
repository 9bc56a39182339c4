"""The command `sweep --check`: measure rows of the shipped tables again, and say whether they agree.

On the machine that made a table a row agrees to the last digit, but for seconds; elsewhere rounding may tip a token.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from .. import CACHE
from ..errors import UserError
from ..runs import append_line, read_lines
from .compare import disagreements
from .plan import SWEEPS, Row, load_sweeps, place_of
from .read import rows

CHECKED = CACHE / "checked.jsonl"  # rows measured again, with the code that did


def cheapest(name: str, n: int = 1, **more) -> list[dict]:
    """The `n` trained rows of table `name` that took least time; `more` goes to `read.rows`."""
    trained = [row for row in rows(name, **more) if row["recipe"] is not None and "failed" not in row]
    return sorted(trained, key=_seconds)[:n]


def _seconds(row: dict) -> float:
    return (row.get("seconds") or 0) + row["seconds_measuring"]


def asked_for(
    name: str, measured: dict, effort: int = 1, sweeps: Path = SWEEPS, model: str | None = None, **more
) -> Row:
    """What a measured row of table `name` was asked for. UserError if the sweep does not ask for it now."""
    plan = load_sweeps(sweeps)[name].rows(effort, model)
    asked = next((row for row in plan if row.place() == place_of(measured)), None)
    if asked is None:
        raise UserError(
            f"sweep '{name}' does not ask for this row any more; take one of earlib.sweeps.read.rows('{name}')"
        )
    return asked


def spot_check(name: str, row: dict | None = None, generator=None, **more) -> tuple[dict, dict]:
    """Measure one row of table `name` again, here and now.

    Args:
        row: one of `read.rows`; None: the trained one that took least time.
        generator: the row's model, if it is loaded already.
        **more: as for `read.rows`.

    Returns:
        (the row of the table, the row measured now): `compare.checked` shows them, `compare.disagreements` compares.
    """
    from .measure import load_model, measure

    row = row or cheapest(name, **more)[0]
    asked = asked_for(name, row, **more)
    return row, measure(generator or load_model(asked.model), asked)


def check(names=(), n: int = 1, jobs: int = 2, **more) -> tuple[int, list[str]]:
    """Measure the `n` cheapest rows of each of `names` (all tables, if none is named) again, and print a line a table.

    What is measured stays in CHECKED, by the code that measured it: stopped, the check goes on where it was.

    Args:
        jobs: processes side by side.
        **more: as for `read.rows`.

    Returns:
        (how many rows were compared, a line for each that does not agree).
    """
    from .run import selected
    from .workers import measured_by_workers

    plan = load_sweeps(more.get("sweeps", SWEEPS))
    asked: dict[str, Row] = {}
    tables: dict[str, list[dict]] = {}  # name -> its rows
    for name in selected(names, plan):
        tables[name] = cheapest(name, n, **more)
        for row in tables[name]:
            asked.setdefault(row["key"], asked_for(name, row, **more))
    code = code_version()
    now = {row["key"]: row for row in read_lines(CHECKED) if row["code"] == code and row["key"] in asked}
    pending = {key: row for key, row in asked.items() if key not in now}
    took = sum(_seconds(row) for rows in tables.values() for row in rows if row["key"] in pending)
    there = f", {len(now)} of them measured before" if now else ""
    print(f"{len(asked)} rows of {len(tables)} tables{there}; about {max(1, round(took / jobs / 60))} min", flush=True)
    errors = {}
    for row, answer in measured_by_workers(pending, jobs):
        if "row" in answer:
            now[row.key()] = answer["row"]
            append_line(CHECKED, answer["row"] | {"code": code})
        else:
            errors[row.key()] = answer["error"]
    wrong, width = [], max(map(len, tables), default=0)
    for name, rows_then in tables.items():
        found = []
        for then in rows_then:
            key = then["key"]
            apart = disagreements(then, now[key]) if key in now else [errors.get(key, "was not measured")]
            found += [f"{name}: {asked[key]}: {'; '.join(apart)}"] if apart else []
        print(f"{name:{width}}  {len(rows_then) - len(found)} of {len(rows_then)} rows agree", flush=True)
        wrong += found
    return sum(map(len, tables.values())), wrong


def code_version() -> str:
    """16 hex digits of the code that measures a row, and of the libraries that it calls."""
    from importlib import metadata

    home = Path(__file__).resolve().parents[1]
    files = [file for room in ("generators", "erasure", "evaluate", "sweeps") for file in (home / room).rglob("*.py")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files)))
    digest.update(" ".join(metadata.version(name) for name in ("torch", "transformers", "numpy")).encode())
    return digest.hexdigest()[:16]


def main(names=(), n: int = 1, jobs: int = 2, **more) -> int:
    """The command: a closing line with how many rows agree; exit status 0, or 1 with a line for each that does not."""
    total, wrong = check(names, n, jobs, **more)
    for line in wrong:
        print(f"differs: {line}", file=sys.stderr, flush=True)
    print(f"{total - len(wrong)} of {total} rows agree")
    return 1 if wrong else 0
