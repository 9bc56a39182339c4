"""EAR's ablations: sweeps over one choice (window, threshold, order, layers, pairs) as tables and sentences, beside the
paper's numbers.

The runs were measured by `table.py`, figures are in `ablation_figures.py`. What is shown is always the concept *and*
its neighbours, as a model that draws nothing has erased everything. Methods against each other are in `methods.py`.
"""

from __future__ import annotations

import json

KINDS = {"direct": "the concept", "neighbours": "its neighbours"}  # column -> how it is called
UNTOLD = "cannot be told from 0"  # of a difference


# ---------------------------------------------------------------- tables


def read(name: str, effort: int = 1, **more):
    """`table.load(name)` and what it pools away: `updates`, the mean number of Adam steps of a run, and each seed's own
    rates (`direct_seeds`, ...).

    `more` goes to `table.rows`. Raises what that raises.
    """
    from . import table

    frame = table.load(name, effort, **more)
    found: dict[str, list[dict]] = {}
    for row in table.rows(name, effort, **more):
        if "failed" not in row:
            found.setdefault(group_of(row), []).append(row)
    mine = [found.get(group_of(row), []) for row in frame.to_dict("records")]
    frame["updates"] = [
        _mean([row["windows_trained"] for row in rows if row.get("windows_trained") is not None]) for rows in mine
    ]
    for kind in KINDS:
        frame[f"{kind}_seeds"] = [{row["seed"]: _share(row, kind) for row in rows} for rows in mine]
    return frame


def records(frames: dict) -> list[dict]:
    """`table.flat_records` of several tables by name, each record with its `table` and `concept`, so that one can be
    told from another."""
    from . import table

    return [
        r | {"table": name, "concept": c}
        for name, f in frames.items()
        for c in f.concept.unique()
        for r in table.flat_records(f[f.concept == c])
    ]


def paper_windows(concept, tokens: int) -> dict[int, float]:
    """The paper's window curve of a concept in windows of a model with `tokens` image tokens, as shares of the picture:
    {3: 0.17, ...}."""
    curve, total = concept.paper.get("window_curve", {}), concept.paper.get("image_tokens", 576)
    return {round(int(length) * tokens / total): rate for length, rate in curve.items()}


def layers_told(layers: str, depth: int) -> str:
    """`"0,0.25"` of a model of 8 layers: "0–1"."""
    from ..erasure.change import layer_range

    found = layer_range(tuple(float(share) for share in layers.split(",")), depth)
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


def group_of(row: dict) -> str:
    """What the rows of one run share that differ by seed only."""
    return json.dumps([row["concept"], row["label"], row["settings"]])


def _mean(values: list) -> float | None:
    return sum(values) / len(values) if values else None


def _share(row: dict, kind: str) -> float:
    counts = row["rates"]["neighbours"].values() if kind == "neighbours" else [row["rates"]["concept"][kind]]
    hits, n = (sum(part) for part in zip(*counts))
    return hits / n


# ---------------------------------------------------------------- numbers and sentences


def percent(row, kind: str) -> str:
    """`3.3 [1.1, 9.3]`, per cent."""
    return f"{100 * row[kind]:.1f} [{100 * row[f'{kind}_low']:.1f}, {100 * row[f'{kind}_high']:.1f}]"


def difference(one, other, kind: str = "direct") -> dict:
    """`other - one` of a rate of two rows of `read`: {"value", "low", "high", "agree", "seeds"}.

    The interval is Newcombe's (1998, method 10), from the two Wilson intervals. It takes all pictures as independent
    draws, which those of one training are not: so `agree` counts, of `seeds` runs, those in which the difference has
    that sign by itself; of one run nothing is known but that run.
    """
    value = other[kind] - one[kind]
    low = value - ((other[kind] - other[f"{kind}_low"]) ** 2 + (one[f"{kind}_high"] - one[kind]) ** 2) ** 0.5
    high = value + ((other[f"{kind}_high"] - other[kind]) ** 2 + (one[kind] - one[f"{kind}_low"]) ** 2) ** 0.5
    seeds = [seed for seed in one[f"{kind}_seeds"] if seed in other[f"{kind}_seeds"]]
    agree = sum((other[f"{kind}_seeds"][seed] - one[f"{kind}_seeds"][seed]) * value > 0 for seed in seeds)
    return {"value": value, "low": low, "high": high, "agree": agree, "seeds": len(seeds)}


def told(one, other, kind: str = "direct") -> str:
    """The difference in words: `+12 points [+4, +20], in 3 of 3 seeds`, or `+1 [-5, +7], cannot be told from 0`."""
    d = difference(one, other, kind)
    ends = f"[{100 * d['low']:+.0f}, {100 * d['high']:+.0f}]"
    if d["low"] <= 0 <= d["high"]:
        return f"{100 * d['value']:+.0f} {ends}, {UNTOLD}"
    return f"{100 * d['value']:+.0f} points {ends}" + (
        f", in {d['agree']} of {d['seeds']} seeds" if d["seeds"] > 1 else ""
    )


def compare(rows, reference, called: str):
    """A table of differences from `reference` (a row), one row for each of `rows`, called by its column `called`."""
    import pandas as pd

    shown = {
        row[called]: {words: told(reference, row, kind) for kind, words in KINDS.items()}
        for row in rows.to_dict("records")
    }
    return pd.DataFrame(shown).T.rename_axis(f"against {reference[called]}")


def best(rows, kind: str = "direct", least: bool = True):
    """(the row with the least, or greatest, rate; the rows that cannot be told from it, itself among them), both of a
    DataFrame's rows."""
    rows = rows[rows[kind].notna()]
    first = rows.loc[rows[kind].idxmin() if least else rows[kind].idxmax()]
    apart = [difference(first, row, kind) for _, row in rows.iterrows()]
    return first, rows[[d["low"] <= 0 <= d["high"] for d in apart]]


def optimum(frame, x: str, papers: dict):
    """Where each concept is drawn least and its neighbours most, with the values of `x` that cannot be told from the
    best, and the paper's choice."""
    import pandas as pd

    rows = {}
    for concept in frame.concept.unique():
        erased = frame[(frame.concept == concept) & frame.recipe.notna()]
        rows[concept] = {}
        for kind, words, least in (
            ("direct", "the concept, least at", True),
            ("neighbours", "its neighbours, most at", False),
        ):
            first, others = best(erased, kind, least)
            same = [f"{value:g}" for value in others[x] if value != first[x]]
            rows[concept][words] = f"{first[x]:g}"
            rows[concept]["cannot be told from it" + (" " if kind == "neighbours" else "")] = ", ".join(same) or "none"
        rows[concept]["the paper's"] = f"{papers[concept]:g}" if papers.get(concept) else "–"
    return pd.DataFrame(rows).T.rename_axis("concept")


def nearest_dose(frame, other, factor: float = 1.6):
    """Each erased row of `frame` beside the row of `other` with the nearest number of updates, if they differ by at
    most `factor`: a list of (row, row)."""
    erased = other[other.direct.notna() & (other.updates > 0)]
    pairs = []
    for row in frame[frame.direct.notna() & (frame.updates > 0)].to_dict("records"):
        ratio = (erased.updates / row["updates"]).map(lambda r: max(r, 1 / r))
        if len(ratio) and ratio.min() <= factor:
            pairs.append((row, erased.loc[ratio.idxmin()].to_dict()))
    return pairs


def summary(frame, by: dict, memory: bool = False):
    """A table for people, rates in per cent: a row for each row of `frame`, called by its columns `by` (column ->
    heading), the base model first."""
    import pandas as pd

    last, rows = list(by.values())[-1], []
    for row in (
        frame.assign(erased=frame.recipe.notna()).sort_values(["concept", "erased"], kind="stable").to_dict("records")
    ):
        erased = row["erased"]
        shown = {heading: _cell(row.get(column)) for column, heading in by.items()}
        shown |= {last: "base"} if not erased and "base" not in shown.values() else {}
        if row["failed"] == row["seeds"]:
            rows.append(shown | {"concept drawn": "diverged"})
            continue
        shown |= {
            "concept drawn": percent(row, "direct"),
            "synonyms": percent(row, "synonym"),
            "neighbours": percent(row, "neighbours"),
        }
        shown |= {
            "n": ", ".join(f"{row[f'{kind}_n']:.0f}" for kind in ("direct", "synonym", "neighbours")),
            "seeds": f"{row['seeds'] - row['failed']}",
        }
        shown |= {"CLIP": f"{row['clip']:.2f}"}
        if erased:
            shown |= {
                "KL drift": f"{row['kl_drift']:.2f}",
                "updates": f"{row['updates']:.0f}",
                "skipped": f"{row['skipped']:.0%}",
                "seconds": f"{row['seconds']:.0f}",
            }
            shown |= {"MB": f"{row['megabytes']:.2f}"} if memory else {}
        rows.append(shown)
    return pd.DataFrame(rows).fillna("").set_index(list(by.values()))


def _cell(value) -> str:
    if value is None or value != value:
        return ""
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def checked(then: dict, now: dict):
    """A row of a table beside the same row measured now (`table.spot_check`), as a DataFrame: hits of n, and the
    seconds that each took."""
    import pandas as pd

    def told_of(row):
        neighbours = [sum(part) for part in zip(*row["rates"]["neighbours"].values())]
        shown = {kind: f"{hits} of {n}" for kind, (hits, n) in row["rates"]["concept"].items()} | {
            "neighbours": "{} of {}".format(*neighbours)
        }
        return shown | {
            "KL drift": row["kl_drift"],
            "windows skipped": row.get("windows_skipped"),
            "seconds": (row.get("seconds") or 0) + row["seconds_measuring"],
        }

    name = ", ".join(
        [
            then["concept"],
            then["label"],
            *(f"{field} = {value}" for field, value in then["settings"].items()),
            f"seed {then['seed']}",
        ]
    )
    return pd.DataFrame({"in the table": told_of(then), "now": told_of(now)}).dropna(how="all").rename_axis(name)
