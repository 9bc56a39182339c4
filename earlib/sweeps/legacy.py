"""Rows of the tables in the columns of the first edition (`direct`, `direct_low`, ...), for chapters that do not read
`read.load` yet. To be deleted: use `read.py` and `compare.py`.
"""

from __future__ import annotations

import json

KINDS = {"direct": "the concept", "neighbours": "its neighbours"}  # column -> how it is called
UNTOLD = "cannot be told from 0"  # of a difference


# ---------------------------------------------------------------- tables


def load(name: str, effort: int = 1, **more):
    """`read.load` in the columns of the first edition."""
    from . import read

    frame = read.load(name, effort, **more)
    kinds = [kind for kind in read.RATES if frame[kind].notna().any()]
    old = frame.drop(columns=[f"{kind}{end}" for kind in read.RATES for end in ("", "_base", "_by_seed")])
    old = old.drop(columns=[*read.MEANS, *(f"{name}_by_seed" for name in read.MEANS), "each_neighbour", "parts"])
    old = old.drop(columns=["updates"])
    of = lambda column, part: [None if x is None else getattr(x, part) for x in frame[column]]
    for kind in kinds:
        old[kind], old[f"{kind}_low"], old[f"{kind}_high"] = (of(kind, part) for part in ("value", "low", "high"))
        old[f"{kind}_n"], old[f"{kind}_base"] = of(kind, "n"), of(f"{kind}_base", "value")
    for column in read.MEANS:
        if frame[column].notna().any():
            old[column], old[f"{column}_low"], old[f"{column}_high"] = (
                of(column, part) for part in ("value", "low", "high")
            )
    return old


def read(name: str, effort: int = 1, **more):
    """`load` with `updates` and each seed's own rates (`direct_seeds`, ...)."""
    from .read import load as whole

    frame, now = load(name, effort, **more), whole(name, effort, **more)
    frame["updates"] = list(now["updates"])
    for kind in KINDS:
        frame[f"{kind}_seeds"] = [
            {seed: rate.value for seed, rate in seeds.items()} for seeds in now[f"{kind}_by_seed"]
        ]
    return frame


def flat_records(frame) -> list[dict]:
    """`read.flat_records` of what `load` gave."""
    import pandas as pd

    from ..evaluate.rate import Estimate, Rate
    from . import read

    frame = frame.copy()
    rate = lambda row, kind: (
        None
        if row.get(kind) is None or row[kind] != row[kind]
        else Rate(round(row[kind] * row[f"{kind}_n"]), int(row[f"{kind}_n"]))
    )
    mean = lambda row, name: (
        None
        if row.get(name) is None or row[name] != row[name]
        else Estimate(row[name], 1, row[f"{name}_low"], row[f"{name}_high"])
    )
    rows = frame.to_dict("records")
    for kind in read.RATES:
        frame[kind] = pd.Series([rate(row, kind) for row in rows], dtype=object, index=frame.index)
    for name in read.MEANS:
        frame[name] = pd.Series([mean(row, name) for row in rows], dtype=object, index=frame.index)
    return read.flat_records(frame)


def rows(*args, **more):
    """`read.rows`."""
    from . import read

    return read.rows(*args, **more)


def spot_check(*args, **more):
    """`check.spot_check`."""
    from . import check

    return check.spot_check(*args, **more)


def records(frames: dict) -> list[dict]:
    """`flat_records` of several tables by name, each record with its `table` and `concept`."""
    return [r | {"table": name} for name, f in frames.items() for r in flat_records(f)]


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
