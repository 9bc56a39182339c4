"""Compare rows of the tables: differences in words, the best row, tables for people.

Shown is always the concept *and* its neighbours: a model that draws nothing has erased everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..evaluate.rate import NOT_TOLD, Estimate
from .read import MEANS, RATES, rate_of

if TYPE_CHECKING:
    import pandas as pd

    Row = Mapping[str, Any] | pd.Series  # of the frame that `read.load` gives

KINDS = {"direct": "the concept", "neighbours": "its neighbours"}  # column -> how it is called in words
HEADINGS = {  # column -> its heading in tables for people, and the digits of an Estimate
    "direct": ("the concept", 0),
    "synonym": ("other names", 0),
    "description": ("described", 0),
    "held-out": ("newly described", 0),
    "compositional": ("two things", 0),
    "indirect": ("hinted at", 0),
    "odd": ("odd", 0),
    "neighbours": ("neighbours", 0),
    "second": ("2nd judge", 0),
    "object": ("any object", 0),
    "replacement": ("replacement", 0),
    "unfinished": ("unfinished", 0),
    "kept": ("kept", 0),
    "clip": ("CLIP", 2),
    "in_prompt": ("CLIP in prompt", 2),
    "kid": ("KID", 3),
    "diversity": ("diversity", 2),
    "kl_drift": ("KL drift", 2),
    "updates": ("updates", 0),
    "skipped": ("skipped", 0),
    "seconds": ("seconds", 0),
    "megabytes": ("MB", 2),
    "change_size": ("size", 2),
    "n": ("n", 0),
    "seeds": ("seeds", 0),
}


def difference(one: Row, other: Row, kind: str = "direct") -> Estimate:
    """`other - one` of a rate of two rows, with Newcombe's interval. Of one seed it says nothing of other trainings."""
    return other[kind].minus(one[kind])


def agreeing(one: Row, other: Row, kind: str = "direct") -> tuple[int, int]:
    """(k, n): of `n` seeds that both rows have, in how many the difference has the sign of the pooled one."""
    sign = difference(one, other, kind).value
    before, after = one[f"{kind}_by_seed"], other[f"{kind}_by_seed"]
    seeds = [seed for seed in before if seed in after]
    return sum((after[seed].value - before[seed].value) * sign > 0 for seed in seeds), len(seeds)


def told(one: Row, other: Row, kind: str = "direct") -> str:
    """A difference in words: `+12 [+4 to +20] points, in 3 of 3 seeds`, or `+1 [-5 to +7], not told apart`."""
    return in_words(difference(one, other, kind), agreeing(one, other, kind))


def apart(one: Row, other: Row, kind: str = "direct") -> bool:
    """Whether a rate of two rows differs, by the interval of `difference`."""
    return difference(one, other, kind).differs


def in_words(points: Estimate, agree: tuple[int, int] | None = None) -> str:
    """A difference of rates in words, as `told` has it; `agree` as `agreeing` gives it."""
    if not points.differs:
        return f"{points.points()}, {NOT_TOLD}"
    return f"{points.points()} points" + (f", in {agree[0]} of {agree[1]} seeds" if agree and agree[1] > 1 else "")


def differences(rows: pd.DataFrame, reference: Row, called: str) -> pd.DataFrame:
    """`told` against `reference`, of the concept and its neighbours: a row for each of `rows`, named by `called`."""
    import pandas as pd

    shown = {row[called]: {words: told(reference, row, kind) for kind, words in KINDS.items()} for row in _dicts(rows)}
    return pd.DataFrame(shown).T.rename_axis(f"against {reference[called]}")


def best(rows: pd.DataFrame, kind: str = "direct", least: bool = True) -> tuple[pd.Series, pd.DataFrame]:
    """(the row with the least, or greatest, rate; the rows that cannot be told from it, itself among them)."""
    rows = rows[rows[kind].notna()]
    values = rows[kind].map(lambda rate: rate.value)
    first = rows.loc[values.idxmin() if least else values.idxmax()]
    return first, rows[[not rate.minus(first[kind]).differs for rate in rows[kind]]]


def nearest_dose(rows: pd.DataFrame, others: pd.DataFrame, factor: float = 1.6) -> list[tuple[dict, dict]]:
    """Each trained row of `rows` beside the row of `others` with the nearest number of updates, if one has at most
    `factor` times as many as the other."""
    trained = lambda frame: frame[frame.direct.notna() & (frame.updates > 0)]
    rows, others, pairs = trained(rows), trained(others), []
    for row in _dicts(rows):
        ratio = (others.updates / row["updates"]).map(lambda r: max(r, 1 / r))
        if len(ratio) and ratio.min() <= factor:
            pairs.append((row, others.loc[ratio.idxmin()].to_dict()))
    return pairs


def moved(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The recipes of one concept's table whose rate differs from the base model's, by its 95 % interval: for each kind
    of KINDS."""
    base, rows = frame[frame.recipe.isna()].iloc[0], _dicts(frame[frame.recipe.notna() & frame.direct.notna()])
    return {kind: [row["recipe"] for row in rows if apart(base, row, kind)] for kind in KINDS}


def margin(row: Row) -> Estimate:
    """How far the neighbours' rate stands above the concept's: 1 where all of them are drawn and the concept never."""
    return row["neighbours"].minus(row["direct"])


def summary(
    frame: pd.DataFrame,
    by: Mapping[str, str],
    columns: tuple[str, ...] = ("direct", "synonym", "neighbours", "clip", "kl_drift", "seconds"),
) -> pd.DataFrame:
    """A table for people: a row for each row of `frame`, the base model first in each concept.

    Args:
        frame: rows of `read.load`.
        by: columns that say what a row is -> their headings: the index of the table.
        columns: what is shown, of HEADINGS, or any other column of `frame`. Rates are in per cent with their interval,
            `82 [78–86]`; Estimates are means over seeds; `n` is how many pictures each of the rates shown counts.

    Returns:
        DataFrame of text; a training that diverged with every seed says so in its first column.
    """
    import pandas as pd

    rates = [column for column in columns if column in RATES]
    heading = {column: HEADINGS.get(column, (column,))[0] for column in columns}
    last, shown = list(by.values())[-1], []
    frame = frame.assign(erased=frame.recipe.notna()).sort_values(["concept", "erased"], kind="stable")
    for row in frame.to_dict("records"):
        cells = {title: plain(row.get(column)) for column, title in by.items()}
        if not row["erased"] and "base" not in cells.values():
            cells[last] = "base"
        if row["failed"] == row["seeds"]:
            cells[heading[columns[0]]] = f"diverged in {row['failed']} of {row['seeds']} runs"
        else:
            row |= {
                "n": "/".join(str(row[kind].n) for kind in rates if row[kind]),
                "seeds": row["seeds"] - row["failed"],
            }
            row |= {} if row["erased"] else dict.fromkeys(("kl_drift", "seconds", "megabytes", "kept"))
            cells |= {heading[column]: plain(row.get(column), column) for column in columns}
        shown.append(cells)
    return pd.DataFrame(shown).fillna("").set_index(list(by.values()))


def plain(value: Any, column: str = "") -> str:
    """A cell of a table for people as text: a Rate in per cent with its interval, the mean of an Estimate, a number."""
    if value is None or value != value:
        return ""
    if isinstance(value, Estimate):
        return f"{value.value:.{HEADINGS.get(column, ('', 2))[1]}f}"
    if column in ("kept", "skipped"):
        return f"{value:.0%}"
    if column == "updates":
        return f"{value:.0f}"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


# ---------------------------------------------------------------- a row measured again


def disagreements(then: dict, now: dict) -> list[str]:
    """What differs between a row of a table and the same row measured now: `direct: 3 of 30 there, 4 of 30 now`.

    Rates must be equal, the drift within 1e-4 nats, other means within a thousandth of their size; seconds may differ.
    """
    found = []
    for kind in RATES:
        before, after = (rate_of(row, kind) if "rates" in row else None for row in (then, now))
        if before != after:
            found.append(f"{kind}: {_counted(before)} there, {_counted(after)} now")
    for name in MEANS:
        if name == "seconds":
            continue
        before, after = (row[name][0] if isinstance(row.get(name), list) else row.get(name) for row in (then, now))
        if name not in then or before is None and after is None:  # a column that the table does not have yet
            continue
        limit = 1e-4 if name == "kl_drift" else 1e-3 * max(abs(before or 0), 1e-2)
        if before is None or after is None or abs(before - after) > limit:
            found.append(f"{name}: {before} there, {after} now")
    if "failed" in then and "failed" not in now:
        found.append("diverged there, not now")
    return found


def checked(then: dict, now: dict) -> pd.DataFrame:
    """A row of a table beside the same row measured now (`check.again`): hits of n, drift, and the seconds it took."""
    import pandas as pd

    def shown(row):
        cells = {kind: _counted(rate) for kind in RATES if (rate := rate_of(row, kind))}
        cells |= {"KL drift": row["kl_drift"], "windows skipped": row.get("windows_skipped")}
        return cells | {
            "seconds, trajectories and measuring included": round(
                (row.get("seconds") or 0) + row["seconds_measuring"], 1
            )
        }

    settings = [f"{field} = {value}" for field, value in then["settings"].items()]
    name = ", ".join([then["concept"], then["label"], *settings, f"seed {then['seed']}"])
    return pd.DataFrame({"in the table": shown(then), "now": shown(now)}).dropna(how="all").rename_axis(name)


def _counted(rate) -> str:
    return f"{rate.hits} of {rate.n}" if rate else "nothing"


def _dicts(rows: pd.DataFrame) -> list[dict]:
    return rows.to_dict("records")
