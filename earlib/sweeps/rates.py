"""The one rule by which step sizes and strengths are chosen: `python -m earlib.sweeps.rates` says what it takes.

Each recipe was tried at a few values on development prompts of several concepts (tables `dev` and `var-dev`). Taken
is the value with the greatest margin: the share of neighbours that are drawn less that of the concept, all concepts
together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..evaluate.rate import Rate
from .compare import KINDS, margin, plain

if TYPE_CHECKING:
    import pandas as pd

TABLES = {"dev": "mini", "var-dev": "mini-var"}  # table -> whose recipes it chooses for
CHOSEN_AS = {"uce": "recommended"}  # what was tried of the left one became the right one


def rule(frame: pd.DataFrame, profile: str = "mini-var") -> tuple[pd.DataFrame, str]:
    """How settings were chosen: each recipe's margin (neighbours less concept) at each that was tried.

    Args:
        frame: rows of one of TABLES, as `read.load` gives them.
        profile: whose recipes should have what the rule takes.

    Returns:
        (the table, a sentence that says whether they do)
    """
    import pandas as pd

    from ..erasure.presets import recipe
    from ..erasure.settings import get

    rows, same, other, tried = {}, [], [], frame[frame.recipe.notna()]
    for name in tried.recipe.unique():
        mine = over_concepts(tried[tried.recipe == name])
        greatest = max((margin(row).value for row in mine if row["direct"] is not None), default=None)
        level = []  # the settings that the rule takes; several, where margins are equal
        for row in mine:
            cell = {"margin": "diverged"}
            if row["direct"] is not None:
                taken = margin(row).value == greatest
                level += [row["settings"]] if taken else []
                cell = {words: plain(row[kind]) for kind, words in KINDS.items()}
                cell |= {"margin": margin(row).points(), "greatest": "yes" if taken else ""}
            rows[name, _in_short(row["settings"])] = cell
        if not level:
            continue
        called = CHOSEN_AS.get(name, name)
        has = next((s for s in level if recipe(called, profile, **s) == recipe(called, profile)), None)
        if has:
            among = f" (one of {len(level)} that are level)" if len(level) > 1 else ""
            same.append(f"`{called}` {_in_short(has)}{among}")
        else:
            own = {field: get(recipe(called, profile), field) for field in level[0]}
            takes = " or ".join(map(_in_short, level))
            other.append(f" For `{called}` the rule takes {takes}, and the recipe has {_in_short(own)}.")
    sentence = f"What the rule takes is what the recipe has: {'; '.join(same)}." if same else ""
    return pd.DataFrame(rows).T.fillna("").rename_axis(["recipe", "tried"]), (sentence + "".join(other)).strip()


def over_concepts(frame: pd.DataFrame) -> list[dict]:
    """One recipe's rows with the rates of all concepts together, one for each of its settings; a rate is None where
    training diverged on one of them."""
    rows: dict[str, list[dict]] = {}
    for row in frame.to_dict("records"):
        rows.setdefault(_in_short(row["settings"]), []).append(row)
    pooled = lambda group, kind: None if any(r[kind] is None for r in group) else Rate.pooled(r[kind] for r in group)
    return [group[0] | {kind: pooled(group, kind) for kind in KINDS} for group in rows.values()]


def _in_short(settings: dict) -> str:
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in settings.items())


def main() -> None:
    from .read import load

    for table, profile in TABLES.items():
        shown, sentence = rule(load(table), profile)
        print(f"{table}\n{shown.to_string()}\n{sentence}\n")


if __name__ == "__main__":
    main()
