"""Erasures of next-token models beside those of next-scale ones, as their tables have them (`table.py`): the same idea
in both, concept by concept.

Rates are taken as shares of each model's own base rate, as the two do not draw everything equally well. Everything is
next-scale less next-token. What is measured live is in `families.py`, the figures are in `families_figures.py`.
"""

from __future__ import annotations

import math

# One idea in both families: what it is -> (next-token recipe, next-scale recipe, in what the two differ besides)
IDEAS = {
    "the name as a negative prompt": ("negative-prompt", "negative-prompt", "nothing"),
    "guidance steered off the name": (
        "safe-guidance",
        "scale-erasure-style",
        "the equations; next-scale acts at some scales and places only",
    ),
    "in closed form": ("uce", "uce", "keys and values where words stand in every layer; those of cross-attention"),
    "in closed form, further": (
        "recommended",
        "recommended",
        "the same; next-scale changes what makes the start token, too",
    ),
    "each its own history": ("ear", "naive", "hidden states, pushed away; probabilities, pulled to the replacement"),
    "the replacement's history": (
        "concept-ablation",
        "vare",
        "KL, keys and values; squared error, cross-attention and feed-forward",
    ),
    "made for the family": (
        "obliviate",
        "s-vare",
        "to no prompt, on the concept's picture; to the replacement, filtered, with preservation",
    ),
    "with preservation": (
        "ablation-at-words",
        "s-vare",
        "of other prompts, at words only; of the replacements, everywhere",
    ),
    "as released": ("ear-released", "s-vare-released", "EAR's idea; S-VARE's: what their authors' code computes"),
}
VERDICTS = ("next-scale", "next-token", "cannot be told")  # in which family an idea works better


def share_of(row, base, kind: str) -> dict:
    """A row's rate as a share of the base model's, {"value", "low", "high"}: 1 where all is as before. NaN where the
    base has none.

    The interval is that of a ratio of two independent rates, recovered from their Wilson intervals (Donner and Zou
    2012, method MOVER-R).
    """
    p, l, u = row[kind], row[f"{kind}_low"], row[f"{kind}_high"]
    q, m, v = base[kind], base[f"{kind}_low"], base[f"{kind}_high"]
    if not q:
        return dict.fromkeys(("value", "low", "high"), float("nan"))
    low = (p * q - math.sqrt(max(0.0, (p * q) ** 2 - l * v * (2 * p - l) * (2 * q - v)))) / (v * (2 * q - v))
    high = (p * q + math.sqrt(max(0.0, (p * q) ** 2 - u * m * (2 * p - u) * (2 * q - m)))) / (m * (2 * q - m))
    return {"value": p / q, "low": max(0.0, low), "high": high}


def less(one: dict, other: dict) -> dict:
    """`one - other` of two independent estimates {"value", "low", "high"}, with the interval that theirs give (MOVER,
    as for `ablations.difference`)."""
    value = one["value"] - other["value"]
    low = value - math.hypot(one["value"] - one["low"], other["high"] - other["value"])
    return {
        "value": value,
        "low": low,
        "high": value + math.hypot(one["high"] - one["value"], other["value"] - other["low"]),
    }


def mean(found: list[dict]) -> dict:
    """The mean of independent estimates, by the same rule."""
    value, n = sum(f["value"] for f in found) / len(found), len(found)
    ends = (math.hypot(*(f["value"] - f["low"] for f in found)), math.hypot(*(f["high"] - f["value"] for f in found)))
    return {"value": value, "low": value - ends[0] / n, "high": value + ends[1] / n}


def erased(frame, family: str, codes: int) -> list[dict]:
    """Of a table (`table.load`) the rows of its recipes, as far as they did not diverge: each with `left` and `kept`,
    the shares of the base model's rates of the concept and of its neighbours that remain, `balance`, kept less left (1:
    all gone and all kept, 0: nothing gained), all with intervals, and `drift`, bits a picture of so many `codes`: the
    tables have it in nats a code."""
    base = {row["concept"]: row for row in frame[frame.recipe.isna()].to_dict("records")}
    rows = []
    for row in frame[frame.recipe.notna() & frame.direct.notna()].to_dict("records"):
        left, kept = (share_of(row, base[row["concept"]], kind) for kind in ("direct", "neighbours"))
        rows.append(
            row
            | {
                "family": family,
                "left": left,
                "kept": kept,
                "balance": less(kept, left),
                "drift": codes * row["kl_drift"] / math.log(2),
            }
        )
    return rows


def counterparts(rows: list[dict], ideas: dict = IDEAS) -> list[dict]:
    """Every idea and concept that both families have: {"idea", "concept", "next-token": row, "next-scale": row,
    "balance", "left", "kept"}, the last three being next-scale's less next-token's; below them each idea's mean over
    its concepts, called "all", without rows."""
    of = {(row["family"], row["concept"], row["label"]): row for row in rows}
    found = []
    for idea, (token, scale, _) in ideas.items():
        mine = []
        for concept in dict.fromkeys(row["concept"] for row in rows):
            pair = of.get(("next-token", concept, token)), of.get(("next-scale", concept, scale))
            if None not in pair:
                mine.append({"idea": idea, "concept": concept, "next-token": pair[0], "next-scale": pair[1]})
                mine[-1] |= {part: less(pair[1][part], pair[0][part]) for part in ("balance", "left", "kept")}
        found += mine
        if len(mine) > 1:
            found.append(
                {"idea": idea, "concept": "all"}
                | {part: mean([row[part] for row in mine]) for part in ("balance", "left", "kept")}
            )
    return found


def points(found: dict) -> str:
    """`+62 [+49, +71]`, in points."""
    return f"{100 * found['value']:+.0f} [{100 * found['low']:+.0f}, {100 * found['high']:+.0f}]"


def percent(found: dict) -> str:
    """`62 [49, 71]`, per cent."""
    return f"{100 * found['value']:.0f} [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def verdict(found: dict) -> str:
    """Which family an idea works better in, of a difference next-scale less next-token."""
    return VERDICTS[0 if found["low"] > 0 else 1 if found["high"] < 0 else 2]


def side_by_side(found: list[dict]):
    """`counterparts` as a DataFrame for people: the shares left and kept of both families, the drift, and the
    difference of the balances."""
    import pandas as pd

    rows = {}
    for row in found:
        families = [family for family in ("next-token", "next-scale") if family in row]
        shown = {(what, family): percent(row[family][what]) for what in ("left", "kept") for family in families}
        shown |= {("drift", family): f"{row[family]['drift']:.3g}" for family in families}
        rows[row["idea"], row["concept"]] = shown | {
            ("balance", "difference"): points(row["balance"]),
            ("balance", "ahead"): verdict(row["balance"]),
        }
    return pd.DataFrame(rows).T.fillna("").rename_axis(["idea", "concept"])


def told(found: list[dict]) -> str:
    """Who is ahead, in words, from `counterparts`."""
    pairs, means = [row for row in found if row["concept"] != "all"], [row for row in found if row["concept"] == "all"]
    counts = [sum(verdict(row["balance"]) == who for row in pairs) for who in VERDICTS]
    text = f"Of {len(pairs)} comparisons (an idea on a concept), next-scale is ahead in {counts[0]}, next-token in {counts[1]}, and {counts[2]} cannot be told."
    named = {
        who: [f"*{row['idea']}* ({points(row['balance'])})" for row in means if verdict(row["balance"]) == who]
        for who in VERDICTS
    }
    return text + "".join(f" Over all concepts, {who}: {', '.join(ideas)}." for who, ideas in named.items() if ideas)


def best(rows: list[dict]) -> dict[tuple[str, str], dict]:
    """(concept, family) -> the row of that family's recipe with the greatest balance. It was picked for it, so that it
    looks better than it is."""
    found: dict[tuple[str, str], dict] = {}
    for row in sorted(rows, key=lambda row: -row["balance"]["value"]):
        found.setdefault((row["concept"], row["family"]), row)
    return dict(sorted(found.items()))


def champions(rows: list[dict]):
    """`best` as a DataFrame for people."""
    import pandas as pd

    shown = {
        key: {
            "recipe": row["label"],
            "left (%)": percent(row["left"]),
            "kept (%)": percent(row["kept"]),
            "balance": points(row["balance"]),
        }
        | {"drift (bits a picture)": f"{row['drift']:.2g}"}
        for key, row in best(rows).items()
    }
    return pd.DataFrame(shown).T.rename_axis(["concept", "family"])


def noted(found: list[dict], judge: str) -> list[dict]:
    """`counterparts` as flat records for results.json: `balance_rate_change`, next-scale's balance less next-token's,
    of each idea and concept."""
    records = []
    for row in found:
        n = sum(row[family]["direct_n"] for family in ("next-token", "next-scale")) if "next-token" in row else 0
        n = n or sum(r["n"] for r in records if r["kind"] == row["idea"])
        shared = {
            "metric": "balance_rate_change",
            "subject": row["concept"],
            "kind": row["idea"],
            "condition": "erased",
            "profile": "mini, mini-var",
        }
        records.append(
            shared | row["balance"] | {"n": n, "seed": "0,1,2", "recipe": None, "judge": judge, "paper": None}
        )
    return records
