"""The leaderboard: every method on every concept, from the tables that ship, with the commit and the date of each."""

from __future__ import annotations

import html
import subprocess
from typing import TYPE_CHECKING

from .. import ROOT
from ..evaluate.attacks.registry import PLAIN
from ..evaluate.rate import Estimate, Rate
from ..sweeps import attacked, read

if TYPE_CHECKING:
    import pandas as pd

LEADERBOARD_MARK = "<!-- leaderboard -->"  # book/leaderboard.md has this line where the tables go
TABLES = {  # table of methods -> title, table of attacks on them, table of their distances from an oracle
    "main": ("Next-token: MiniJanus", "attacks", "oracle"),
    "var-main": ("Next-scale: MiniVAR", "var-attacks", "var-oracle"),
}
ORACLE = "an oracle"
COLUMNS = {  # column of `read.load` -> heading; one without any number is left out
    "direct": "shows it, %",
    "unfinished": "unfinished, %",
    "synonym": "other names, %",
    "neighbours": "neighbours, %",
    "worst": "worst attack, %",
    "oracle_concept": "from oracle, nats",
    "kl_drift": "drift, nats",
    "seconds": "s",
    "megabytes": "MB",
}


def made(name: str) -> str:
    """Where table `name` comes from: the commit and the date at which it last changed, and the models it is of."""
    command = ["git", "log", "-1", "--format=%h of %cs", "--", f"data/sweeps/{name}.jsonl"]
    try:
        done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:  # no git on this machine
        done = None
    commit = f"commit {done.stdout.strip()}" if done and done.stdout.strip() else "commit not known"
    return f"`data/sweeps/{name}.jsonl`, {commit} ({read.rows(name, complete=False)[0]['weights']})"


def worst_attacks(name: str) -> dict[tuple[str, str], Rate]:
    """(concept, label) -> the rate under the attack that brings most back; empty where the table is not there."""
    worst: dict[tuple[str, str], Rate] = {}
    for row in _attacked(name):
        keep_greater(worst, (row["concept"], row["label"]), row["with"])
    return worst


def oracles(name: str) -> list[dict]:
    """A row for each concept's oracle, in the columns that a table of attacks knows of it: asked by name, and under the
    attack that draws most; none where the table is not there, or has no oracle."""
    direct: dict[str, Rate] = {}
    worst: dict[str, Rate] = {}
    for row in (row for row in _attacked(name) if row["label"] == "base" and row["oracle"]):
        keep_greater(direct if row["attack"] == PLAIN.name else worst, row["concept"], row["oracle"])
    return [
        {"label": ORACLE, "concept": c, "erased": False, "direct": rate, "worst": worst.get(c)}
        for c, rate in direct.items()
    ]


def keep_greater(found: dict, key, rate: Rate | None) -> None:
    """Keep `rate` under `key`, unless a greater one stands there."""
    if rate and (key not in found or rate.value > found[key].value):
        found[key] = rate


def _attacked(name: str) -> list[dict]:
    return attacked.load(name, complete=False).to_dict("records") if _there(name) else []


def distances(name: str) -> dict[tuple[str, str], Estimate]:
    """(concept, label) -> how far from the oracle on the concept's prompts; empty where the table is not there."""
    rows = read.load(name, complete=False).to_dict("records") if _there(name) else ()
    return {(row["concept"], row["label"]): row["oracle_concept"] for row in rows}


def _there(name: str) -> bool:
    return (read.table_folder() / f"{name}.jsonl").exists()


def leaderboard() -> str:
    """The page's tables in HTML, one for each family, each in a scrolling frame; `_static/tables.js` sorts and filters.

    Returns:
        str: MyST Markdown with a heading, a caption and a table each.
    """
    parts = []
    for name, (title, attacks, oracle) in TABLES.items():
        frame = read.load(name, complete=False)
        if frame.empty:
            parts += [f"## {title}", "", f"Not measured yet: `python -m earlib sweep {name}`.", ""]
            continue
        for column, of in (("worst", worst_attacks(attacks)), ("oracle_concept", distances(oracle))):
            frame[column] = [of.get((row.concept, row.label)) for row in frame.itertuples()]
        frame["erased"] = frame.recipe.notna()
        parts += [
            f"## {title}",
            "",
            _caption(name, frame),
            "",
            _table([*frame.to_dict("records"), *oracles(attacks)]),
            "",
        ]
    return "\n".join(parts)


def _caption(name: str, frame: pd.DataFrame) -> str:
    counts = lambda column: ", ".join(str(n) for n in sorted({rate.n for rate in frame[column] if rate}))
    seeds = ", ".join(f"{n} training{'s' * (n != 1)}" for n in sorted(set(frame.seeds)))
    single = " Of one training an interval says how well its own rate is known; another may lie outside."
    return (
        f"n = {counts('direct')} pictures that are asked for by name, {counts('synonym')} by other names, "
        f"{counts('neighbours')} of neighbours; {seeds} a row. {made(name)}.{single if frame.seeds.min() == 1 else ''}"
    )


def _table(rows: list[dict]) -> str:
    shown = {column: said for column, said in COLUMNS.items() if any(row.get(column) for row in rows)}
    head = "".join(f"<th>{said}</th>" for said in ("method", "concept", *shown.values()))
    lines = ['<div class="board"><table class="table sortable">', f"<thead><tr>{head}</tr></thead><tbody>"]
    order = lambda row: (row["concept"], row["erased"], row["direct"].value if row["direct"] else 2)
    for row in sorted(rows, key=order):
        name = html.escape("before" if row["label"] == "base" else row["label"])
        cells = [f"<td><code>{name}</code></td>" if row["erased"] else f"<td><i>{name}</i></td>"]
        cells += [f"<td>{html.escape(row['concept'])}</td>", *(_cell(row.get(column)) for column in shown)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _cell(value: Rate | Estimate | None) -> str:
    """A number to sort by, and as it is shown: a rate with its interval, anything else with two digits."""
    if value is None or value.value is None:
        return "<td>–</td>"
    shown = (
        value.text() if isinstance(value, Rate) else f"{value.value:.2g}" if value.value < 100 else f"{value.value:.0f}"
    )
    return f'<td data-value="{value.value:.6g}"><span class="whole">{shown}</span></td>'
