"""The command `sweep --check`: measure rows of the shipped tables again, and say whether they agree.

On the machine that made a table a row agrees to the last digit, but for seconds; elsewhere rounding may tip a token.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import UserError
from .compare import disagreements
from .plan import SWEEPS, Row, load_sweeps, place_of
from .read import rows


def cheapest(name: str, n: int = 1, **more) -> list[dict]:
    """The `n` trained rows of table `name` that took least time; `more` goes to `read.rows`."""
    trained = [row for row in rows(name, **more) if row["recipe"] is not None and "failed" not in row]
    return sorted(trained, key=lambda row: (row.get("seconds") or 0) + row["seconds_measuring"])[:n]


def asked_for(
    name: str, measured: dict, effort: int = 1, sweeps: Path = SWEEPS, model: str | None = None, **more
) -> Row:
    """What a measured row of table `name` was asked for. UserError if the sweep does not ask for it now."""
    plan = load_sweeps(sweeps)[name].rows(effort, model)
    asked = next((row for row in plan if row.place() == place_of(measured)), None)
    if asked is None:
        raise UserError(f"this row is none of those that sweep '{name}' asks for now; take one of read.rows('{name}')")
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

    Args:
        jobs: processes side by side.
        **more: as for `read.rows`.

    Returns:
        (how many rows were measured, a line for each that does not agree).
    """
    from .run import measured_by_workers, selected

    plan = load_sweeps(more.get("sweeps", SWEEPS))
    asked: dict[str, Row] = {}
    tables: dict[str, list[tuple[str, dict]]] = {}  # name -> its rows, with their keys
    for name in selected(names, plan):
        tables[name] = [(row["key"], row) for row in cheapest(name, n, **more)]
        for key, row in tables[name]:
            asked.setdefault(key, asked_for(name, row, **more))
    answers = {row.key(): answer for row, answer in measured_by_workers(asked, jobs)}
    wrong, width = [], max(map(len, tables), default=0)
    for name, then in tables.items():
        found = []
        for key, row in then:
            answer = answers.get(key, {"error": "was not measured"})
            apart = disagreements(row, answer["row"]) if "row" in answer else [answer["error"]]
            found += [f"{name}: {asked[key]}: {'; '.join(apart)}"] if apart else []
        print(f"{name:{width}}  {len(then) - len(found)} of {len(then)} rows agree", flush=True)
        wrong += found
    return sum(map(len, tables.values())), wrong


def main(names=(), n: int = 1, jobs: int = 2, **more) -> int:
    """The command: exit status 0, or 1 with a line for each row that does not agree."""
    total, wrong = check(names, n, jobs, **more)
    for line in wrong:
        print(f"differs: {line}", file=sys.stderr)
    print(f"{total - len(wrong)} of {total} rows agree")
    return 1 if wrong else 0
