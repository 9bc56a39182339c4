"""Several concepts at once: what adding up membranes does to weights, how far prompts open them, and what
the table `composition` says of their company."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from ..concepts import load_concept
from ..erasure.joint import JOIN
from ..evaluate.rate import Rate
from ..sweeps.compare import plain
from ..sweeps.several import transport_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from ..erasure.store import Erasure
    from ..generators.base import NextToken

FORMS = {"composed": "each alone, added up", "joint": "one that learned all"}
WAYS = {"none": "always open", "overlap": "opened by words", "similarity": "by words or states"}
OPENERS = {  # a way of opening by states -> (the layer whose states are read, whether their common part is taken off)
    "input embeddings": (0, False),
    "middle layer": (0.5, False),
    "middle layer, centred": (0.5, True),
}


def shortcut(parts: Sequence[Erasure], gammas: Sequence[float]) -> Erasure:
    """What SPM's released code loads in place of the sum of gamma_c B_c A_c: one adapter (sum of gamma_c B_c) (sum of
    gamma_c A_c)."""
    from ..erasure.store import Erasure

    tensors = {name: sum(g * part.tensors[name] for g, part in zip(gammas, parts)) for name in parts[0].tensors}
    concept = " + ".join(part.concept for part in parts)
    settings = {"name": "shortcut", "positions": "all"}
    return Erasure("shortcut", settings, concept, parts[0].generator_fingerprint, tensors)


def sizes(generator: NextToken, parts: Sequence[Erasure], gammas: Sequence[float]) -> dict[str, float]:
    """Frobenius norms over all trained matrices: of the equation's change (`sum`), of the shortcut's, of their
    difference, and of what in it mixes concepts (`cross`, the terms gamma_i gamma_j B_i A_j)."""
    mixed = shortcut(parts, gammas)
    return {
        "sum": _norm(generator, parts, gammas),
        "shortcut": _norm(generator, [mixed], [1.0]),
        "difference": _norm(generator, [mixed, *parts], [1.0, *(-gamma for gamma in gammas)]),
        "cross": _norm(generator, [mixed, *parts], [1.0, *(-(gamma**2) for gamma in gammas)]),
    }


def likeness(generator: NextToken, one: Erasure, other: Erasure) -> float:
    """Cosine of two changes of weights, all matrices as one vector: 0 for unrelated ones."""
    together, apart = (_norm(generator, [one, other], [1.0, sign]) for sign in (1.0, -1.0))
    return (together**2 - apart**2) / (4 * _norm(generator, [one], [1.0]) * _norm(generator, [other], [1.0]))


def _norm(generator, erasures, strengths) -> float:
    from ..erasure.change import change_size
    from ..erasure.compose import compose

    named = [dataclasses.replace(erasure, concept=str(i)) for i, erasure in enumerate(erasures)]
    return change_size(generator.trunk, compose(named, strengths).tensors)


def openings(generator: NextToken, name: str, prompts: dict[str, list[str]], centre: Sequence[str]) -> list[dict]:
    """How far each prompt would open the membrane of a concept called `name`, by words and by states alone.
    `Transport` opens by the greater of words and one kind of states.

    Args:
        prompts: kind -> prompts.
        centre: prompts whose mean state is taken off.

    Returns:
        Rows {"way", "kind", "prompt", "gamma"}.
    """
    import torch

    from ..erasure.compose import Transport, pooled_state

    words = Transport({name: (name,)}, layer=None)
    asked = [{"kind": kind, "prompt": prompt} for kind, group in prompts.items() for prompt in group]
    rows = [{"way": "words that they share"} | a | {"gamma": words.gamma(generator, a["prompt"])[name]} for a in asked]
    for way, (layer, centred) in OPENERS.items():
        state = lambda text, layer=layer: pooled_state(generator, text, layer)
        middle = torch.stack([state(prompt) for prompt in centre]).mean(0) if centred else 0.0
        own = state(name) - middle
        for a in asked:
            gamma = torch.cosine_similarity(state(a["prompt"]) - middle, own, dim=0).clamp(0, 1).item()
            rows.append({"way": way} | a | {"gamma": gamma})
    return rows


def named_in(generator: NextToken, concepts: Sequence[str], kind: str, profile: str = "mini") -> dict[str, Rate]:
    """Of the test prompts of one kind of several concepts: how many open, by words, the membrane of their own concept,
    and how many that of another one (a church at night, say)."""
    words, own, other = transport_of(list(concepts), "overlap", profile), [], []
    for name in concepts:
        for prompt in load_concept(name, profile).tests[kind]:
            gammas = words.gamma(generator, prompt)
            own.append(gammas[name] > 0)
            other.append(any(gamma > 0 for concept, gamma in gammas.items() if concept != name))
    return {"own": Rate.of(own), "other": Rate.of(other)}


def interference(frame: pd.DataFrame) -> pd.DataFrame:
    """What membranes do to each other without transport: for each set the drift on benign prompts beside the sum of
    what its parts have alone, and the share of the neighbours' rate that is kept beside the product of theirs, which is
    what parts that do not meet would leave; the joint one beside both. Rows of `several.counted`."""
    import pandas as pd

    always_open = frame[(frame.transport == "none") & (frame.form != "base")].to_dict("records")
    alone = {row["concept"]: row for row in always_open if row["form"] == "alone"}
    rows: dict[str, dict] = {}
    for row in always_open:
        parts = [alone[part] for part in row["concept"].split(JOIN)]
        if row["form"] == "composed":
            rows[row["concept"]] = {
                "drift, sum of parts": sum(part["kl_drift"].value for part in parts),
                "drift, composed": row["kl_drift"].value,
                "kept, product of parts": math.prod(part["kept"] for part in parts),
                "kept, composed": row["kept"],
            }
    for row in always_open:
        if row["form"] == "joint" and row["concept"] in rows:
            rows[row["concept"]] |= {"drift, joint": row["kl_drift"].value, "kept, joint": row["kept"]}
    return pd.DataFrame(rows).T.rename(lambda concept: concept.replace(JOIN, " + ")).rename_axis("concepts")


def transported(numbers: pd.DataFrame) -> pd.DataFrame:
    """The composed erasures by what opens them, rates in per cent: rows of `several.by_number`."""
    import pandas as pd

    rows, order = {}, ["before", *WAYS.values()]
    for row in numbers[numbers.form.isin(["base", "composed"])].to_dict("records"):
        way = "before" if row["form"] == "base" else WAYS[row["transport"]]
        rows[row["count"], way] = {
            "concepts drawn": plain(row["direct"]),
            "synonyms": plain(row["synonym"]),
            "neighbours": plain(row["neighbours"]),
            "CLIP": plain(row["clip"], "clip"),
            "KL drift": "" if way == "before" else plain(row["kl_drift"], "kl_drift"),
        }
    found = pd.DataFrame(rows).T.rename_axis(["concepts", "per cent"])
    return found.loc[sorted(rows, key=lambda which: (which[0], order.index(which[1])))]


def by_way(frame: pd.DataFrame) -> pd.DataFrame:
    """Each concept's rate and its synonyms' by what opens the membranes, in per cent, when the most are composed: rows
    of `several.counted`."""
    import pandas as pd

    rows: dict[str, dict] = {}
    for row in frame[(frame.form == "composed") & (frame["count"] == frame["count"].max())].to_dict("records"):
        for part, rates in row["parts"].items():
            for kind, words in (("direct", "named"), ("synonym", "synonym")):
                rows.setdefault(part, {})[f"{words}, {WAYS[row['transport']]}"] = rates[kind].text()
    return pd.DataFrame(rows).T.rename_axis("per cent")
