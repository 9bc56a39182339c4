"""Tables of attacks: a row is one attack on one erasure, or on the base model and the oracle, from one seed.

A sweep with `attacks` asks for them; `attack: none`, asking by name, comes first, which the others are compared with. A
row's rates of the concept are, by kind:

    direct    pictures that show the concept under the attack: of the erased model, or of the base model where the
              row has no recipe
    control   erased only: the attack's budget spent on an unrelated word, the judge looking for the concept
    oracle    without a recipe only: the same attack on the oracle, where the sweep names one

Beside them, by who is attacked (base, erased, control, oracle): `told`, what was found; `passes`; `more`, rates on the
way by their titles, such as for each row of a picture given, {title: [{..., name: [hits, n]}]}.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..evaluate.rate import Rate
from ..runs import plain
from .keys import concept_of
from .plan import ATTACK, PASSES, Row
from .read import rows

if TYPE_CHECKING:
    import pandas as pd

    from ..erasure.store import Erasure

KINDS = {"base": "direct", "erased": "direct", "control": "control", "oracle": "oracle"}  # who is attacked -> kind
_shared: dict[tuple, dict] = {}  # the base model's pictures of the last concept and seed, for the next attack


def attacked(generator, row: Row, erasure: Erasure | None, asked: list[str]) -> dict:
    """The numbers of a row with an attack; `asked` are the prompts that success is counted on.

    Raises:
        UserError: the model or the concept does not admit the attack.
    """
    from ..evaluate.attacks.battery import Battery, run_cell
    from ..evaluate.attacks.registry import EVERY
    from ..evaluate.judge import describe
    from ..evaluate.oracle import load_oracle

    concept = concept_of(row.concept, row.split)
    concept = dataclasses.replace(concept, tests=concept.tests | {"direct": tuple(asked)})
    oracle = load_oracle(row.oracle) if row.oracle and erasure is None else None
    key = (generator.fingerprint, row.concept, row.split, row.seed)
    if key not in _shared:
        _shared.clear()
    names = [row.attack] if row.attack != "none" else []
    battery = Battery(generator, concept, erasure, oracle, names, row.settings[PASSES], 1, len(asked), False)
    battery.shared = _shared.setdefault(key, battery.shared)
    ways = ("erased", "control") if erasure is not None else ("base", *(["oracle"] if oracle else []))
    found: dict[str, Any] = {"rates": {"concept": {}, "neighbours": {}}, "told": {}, "passes": {}, "more": {}}
    for way in ways:
        cell, *_ = run_cell(battery, EVERY[row.attack], way, row.seed)
        if "left_out" in cell and way in ("base", "erased"):
            raise UserError(cell["left_out"])
        if "left_out" in cell:
            found["told"][way] = cell["left_out"]
            continue
        found["rates"]["concept"][KINDS[way]] = Rate.of(cell["shows"]).json()
        for name in ("told", "passes", "more"):
            found[name][way] = plain(cell[name])
    return found | {"judge": {"concept": describe(battery.judge), "neighbours": None}}


def load(name: str, **more) -> pd.DataFrame:
    """The table of attacks `name` with its seeds pooled: a row for each concept, recipe, label and attack.

    Args:
        name: of a sweep with `attacks`.
        **more: as for `read.rows`.

    Returns:
        DataFrame: concept, recipe (None: the base model), label, attack, passes; `without`, `with`, `oracle`,
        `control`: Rates, None where not measured; `beyond`: how much more the attack brings back than it draws of the
        oracle, or than asking by name where there is none, an Estimate; seconds: of one row, a mean.
    """
    import pandas as pd

    groups: dict[tuple, list[dict]] = {}
    for row in rows(name, **more):
        groups.setdefault((row["concept"], row["recipe"], row["label"], row["settings"][ATTACK]), []).append(row)

    def rate(key: tuple, kind: str) -> Rate | None:
        some = [row["rates"]["concept"].get(kind) for row in groups.get(key, []) if "rates" in row]
        some = [Rate(*counts) for counts in some if counts]
        return Rate.over_seeds(some) if some else None

    table = []
    for key, group in groups.items():
        concept, recipe, label, attack = key
        attacked, without = rate(key, "direct"), rate((concept, recipe, label, "none"), "direct")
        oracle = rate((concept, None, "base", attack), "oracle")
        row = {"concept": concept, "recipe": recipe, "label": label, "attack": attack}
        row |= {"passes": group[0]["settings"][PASSES], "without": without, "with": attacked, "oracle": oracle}
        row["beyond"] = attacked.minus(oracle or without) if attacked and without else None
        row["control"] = rate(key, "control")
        row["seconds"] = sum(one.get("seconds_measuring", 0) for one in group) / len(group)
        table.append(row)
    return pd.DataFrame(table)


def rates(frame: pd.DataFrame) -> dict[tuple[str, str], Rate]:
    """(row, attack) -> the rate under the attack, concepts pooled, of `load`: the rows are the base
    model, recipes by their labels, and the oracle."""
    found: dict[tuple[str, str], list[Rate]] = {}
    for row in frame.to_dict("records"):
        if row["label"] == "base" and row["oracle"]:
            found.setdefault(("oracle", row["attack"]), []).append(row["oracle"])
        if row["with"]:
            found.setdefault((row["label"], row["attack"]), []).append(row["with"])
    return {key: Rate.pooled(some) for key, some in found.items()}
