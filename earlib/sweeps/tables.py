"""Tables for people, made from the flat records of `report.evaluate`: what was measured is decided there, what is
shown, here."""

from __future__ import annotations

ROWS = (  # label of a pair of rows, metric, kind, subject (None: any)
    ("concept", "concept_rate", "direct", None),
    ("synonyms", "concept_rate", "synonym", None),
    ("concept beside another thing", "concept_rate", "compositional", None),
    ("neighbours", "neighbour_rate", "neighbour", "all"),
    ("KID, benign prompts", "kid", "real", None),
    ("CLIP score, benign prompts", "clip_score", "benign", None),
)


def before_and_after(records: list[dict], recipes: list[str], runs: dict[str, list[dict]] | None = None):
    """A DataFrame with a column for each recipe: rates and distances before and after, pooled over seeds, with n and
    intervals.

    `runs` adds what training cost: the `info` of every erasure, by recipe. Rows that nothing was measured for are left
    out.
    """
    import pandas as pd

    from ..evaluate.evaluation import format_value, pool

    columns = {}
    for recipe in recipes:
        mine = pool([r for r in records if r["recipe"] in (recipe, None)])
        column = {}
        for label, metric, kind, subject in ROWS:
            for condition, when in (("base", "before"), ("erased", "after")):
                found = [
                    r
                    for r in mine
                    if (r["metric"], r["kind"], r["condition"]) == (metric, kind, condition)
                    and subject in (None, r["subject"])
                ]
                if found:
                    column[f"{label}, {when}"] = format_value(found[0])
                    column[f"{label}, n"] = found[0]["n"]
        if infos := (runs or {}).get(recipe):
            skipped, trained = (sum(i[key] for i in infos) for key in ("windows_skipped", "windows_trained"))
            column |= {"runs": len(infos), "windows skipped": f"{skipped} of {skipped + trained}"}
            column["seconds of training, a run"] = f"{sum(i['seconds_training'] for i in infos) / len(infos):.0f}"
        columns[recipe] = column
    order = dict.fromkeys(name for column in columns.values() for name in column)
    return pd.DataFrame(columns, index=list(order)).fillna("")
