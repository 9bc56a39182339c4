"""Several concepts at once, for the chapter of that name: what adding up membranes does to weights, how far prompts
open them, and the table `composition`.

The table's rows are measured by `together.py` and `table.py`; membranes and facilitated transport themselves are in
`erasure/membranes.py`.
"""

from __future__ import annotations

import dataclasses

from ..evaluate.rate import Rate
from ..sweeps.legacy import percent
from ..sweeps.plan import FORM, JOIN, TRANSPORT

TABLE = "composition"
KINDS = {"direct": "the concepts", "synonym": "their synonyms", "neighbours": "neighbours of all"}
FORMS = {"composed": "each alone, added up", "joint": "one that learned all"}
WAYS = {"none": "always open", "overlap": "opened by words", "similarity": "by words or states"}

# ---------------------------------------------------------------- weights


def shortcut(parts, gammas):
    """What SPM's released code loads in place of the sum of gamma_c B_c A_c: one adapter (sum of gamma_c B_c) (sum of
    gamma_c A_c). An `Erasure`."""
    from ..erasure.store import Erasure

    tensors = {}
    for name in parts[0].tensors:
        tensors[name] = sum(gamma * part.tensors[name] for gamma, part in zip(gammas, parts))
    concept = " + ".join(part.concept for part in parts)
    return Erasure(
        "shortcut", {"name": "shortcut", "positions": "all"}, concept, parts[0].generator_fingerprint, tensors
    )


def sizes(generator, parts, gammas) -> dict[str, float]:
    """Frobenius norms over all trained matrices: of the equation's change (`sum`), of the shortcut's, of their
    difference, and of what in it mixes concepts (`cross`, the terms gamma_i gamma_j B_i A_j)."""
    from ..erasure.compose import compose

    mixed = shortcut(parts, gammas)
    norm = lambda erasures, strengths: _norm(
        generator, compose([dataclasses.replace(e, concept=str(i)) for i, e in enumerate(erasures)], strengths)
    )
    return {
        "sum": norm(parts, gammas),
        "shortcut": norm([mixed], [1.0]),
        "difference": norm([mixed, *parts], [1.0, *(-gamma for gamma in gammas)]),
        "cross": norm([mixed, *parts], [1.0, *(-(gamma**2) for gamma in gammas)]),
    }


def likeness(generator, one, other) -> float:
    """Cosine of two changes of weights, all matrices as one vector: 0 for unrelated ones."""
    from ..erasure.compose import compose

    together, apart = (_norm(generator, compose([one, other], [1.0, sign])) for sign in (1.0, -1.0))
    return (together**2 - apart**2) / (4 * _norm(generator, compose([one])) * _norm(generator, compose([other])))


def departure(generator, parts, gammas) -> float:
    """The largest number by which merging all parts at once departs from adding up what each part changes alone:
    rounding, if composition is a sum."""
    from ..erasure.compose import compose

    whole = compose(parts, gammas).merged(generator).tensors
    alone = [compose([part], [gamma]).merged(generator).tensors for part, gamma in zip(parts, gammas)]
    worst = 0.0
    for name, matrix in whole.items():
        own = generator.trunk.get_parameter(name).detach().double()
        worst = max(
            worst,
            (matrix.double() - own - sum(part[name].double() - own for part in alone if name in part))
            .abs()
            .max()
            .item(),
        )
    return worst


def _norm(generator, members) -> float:
    from ..erasure.change import change_size

    return change_size(generator.trunk, members.tensors)


# ---------------------------------------------------------------- how far prompts open


def openings(generator, name: str, prompts: dict[str, list[str]], centre) -> list[dict]:
    """How far each prompt would open the membrane of a concept called `name`, by words and by states alone: {"way",
    "kind", "prompt", "gamma"}.

    `prompts`: kind -> prompts; `centre`: prompts whose mean state is taken off. `Transport` opens by the greater of
    words and one kind of states.
    """
    import torch

    from ..erasure.compose import Transport, pooled_state

    words = Transport({name: (name,)}, layer=None)
    rows = [(kind, prompt) for kind, group in prompts.items() for prompt in group]
    found = [
        {"way": "words that they share", "kind": k, "prompt": p, "gamma": words.gamma(generator, p)[name]}
        for k, p in rows
    ]
    for way, layer, others in (
        ("input embeddings", 0, ()),
        ("middle layer", 0.5, ()),
        ("middle layer, centred", 0.5, centre),
    ):
        middle = torch.stack([pooled_state(generator, p, layer) for p in others]).mean(0) if others else 0.0
        own = pooled_state(generator, name, layer) - middle
        cosines = [
            torch.cosine_similarity(pooled_state(generator, p, layer) - middle, own, dim=0).clamp(0, 1).item()
            for _, p in rows
        ]
        found += [{"way": way, "kind": k, "prompt": p, "gamma": gamma} for (k, p), gamma in zip(rows, cosines)]
    return found


def opening_dots(found: dict[str, list[dict]]):
    """`openings` of several concepts: a row of panels for each, a panel for each way, a dot for each prompt, a bar at a
    kind's mean. Returns the figure."""
    import matplotlib.pyplot as plt

    from ..plots.figures import INK, PALETTE

    one = next(iter(found.values()))
    ways, kinds = list(dict.fromkeys(f["way"] for f in one)), list(dict.fromkeys(f["kind"] for f in one))
    size = (2.35 * len(ways) + 0.4, 2.1 * len(found) + 0.7)
    fig, axes = plt.subplots(
        len(found), len(ways), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for row, (concept, rows) in zip(axes, found.items()):
        for axis, way in zip(row, ways):
            for i, kind in enumerate(kinds):
                values = [f["gamma"] for f in rows if (f["way"], f["kind"]) == (way, kind)]
                where = [i + 0.5 * ((k + 0.5) / len(values) - 0.5) for k in range(len(values))]
                axis.plot(where, values, "o", color=PALETTE[i], markersize=4, alpha=0.6, markeredgewidth=0)
                axis.plot([i - 0.34, i + 0.34], [sum(values) / len(values)] * 2, color=INK, linewidth=1.6)
            axis.set(ylim=(-0.04, 1.04), xlim=(-0.6, len(kinds) - 0.4))
            axis.set_xticks(range(len(kinds)), kinds, rotation=35, ha="right", rotation_mode="anchor")
            axis.grid(axis="x", visible=False)
        row[0].set_ylabel(f"{concept}: γ")
    for axis, way in zip(axes[0], ways):
        axis.set_title(way, fontsize=9.5)
    return fig


# ---------------------------------------------------------------- the table


def read(effort: int = 1, **more):
    """The table as a DataFrame: what `ablations.read` has, and `count` (of concepts), `form` (base, alone, composed,
    joint), `transport`, and `of`, each part's rates: {part: {kind: {"value", "low", "high", "n"}}}. `more` goes to
    `table.rows`. One concept alone is neither composed nor joint: it stands there once."""
    from ..sweeps import legacy as ablations
    from ..sweeps import legacy as table

    frame = ablations.read(TABLE, effort, **more)
    counts: dict[str, list[dict]] = {}
    for row in table.rows(TABLE, effort, **more):
        if "failed" not in row:
            own = row["rates"].get("parts") or {row["concept"]: row["rates"]["concept"]}
            counts.setdefault(ablations.group_of(row), []).append(own)
    frame["count"] = [concept.count(JOIN) + 1 for concept in frame.concept]
    frame["form"] = [_form(row) for row in frame.to_dict("records")]
    frame["transport"] = frame[TRANSPORT].fillna("none")
    frame["of"] = [_pooled(counts.get(ablations.group_of(row), [])) for row in frame.to_dict("records")]
    return frame[(frame["count"] > 1) | (frame[FORM] != "joint")].reset_index(drop=True)


def _form(row: dict) -> str:
    return "base" if row["label"] == "base" else "alone" if row["count"] == 1 else row[FORM]


def _pooled(seeds: list[dict]) -> dict:
    found: dict = {}
    for part, kinds in ((part, kinds) for seed in seeds for part, kinds in seed.items()):
        for kind, (hits, n) in kinds.items():
            before = found.setdefault(part, {}).get(kind, (0, 0))
            found[part][kind] = before[0] + hits, before[1] + n
    return {part: {kind: _rate(*count) for kind, count in kinds.items()} for part, kinds in found.items()}


def _rate(hits: float, n: int) -> dict:
    low, high = Rate(round(hits), n).interval
    return {"value": hits / n, "low": low, "high": high, "n": n}


def by_number(frame):
    """Rates and drift over the number of concepts: a row for each count, form and transport. One concept is the mean
    over all that were erased alone; those rows stand for either form, so that lines have a beginning. KL drift has the
    least and greatest of its runs' means as its ends."""
    import pandas as pd

    rows = []
    for (count, form, transport), group in frame[frame.direct.notna()].groupby(["count", "form", "transport"]):
        row = {"count": count, "transport": transport, "concepts": len(group)}
        for kind in KINDS:
            n = group[f"{kind}_n"].sum()
            rate = _rate((group[kind] * group[f"{kind}_n"]).sum(), n)
            row |= {kind: rate["value"], f"{kind}_low": rate["low"], f"{kind}_high": rate["high"], f"{kind}_n": n}
        row |= {
            "kl_drift": group.kl_drift.mean(),
            "kl_drift_low": group.kl_drift_low.min(),
            "kl_drift_high": group.kl_drift_high.max(),
            "clip": group["clip"].mean(),
        }
        rows += [row | {"form": name} for name in (FORMS if form == "alone" else [form])]
    return pd.DataFrame(rows).sort_values(["form", "transport", "count"]).reset_index(drop=True)


def lines(numbers, series: dict[str, tuple[str, str]]):
    """Rates, and the drift on benign prompts, over the number of concepts erased. `numbers`: `by_number`; `series`:
    label -> (form, transport). Dotted: the base model. Returns the figure."""
    import matplotlib.pyplot as plt

    from ..plots.figures import PALETTE, QUIET

    counts = sorted(numbers["count"].unique())
    place = {count: i for i, count in enumerate(counts)}
    fig, axes = plt.subplots(1, 4, figsize=(11, 3.1), layout="constrained")
    for axis, kind in zip(axes, [*KINDS, "kl_drift"]):
        scale = 1 if kind == "kl_drift" else 100
        if kind != "kl_drift":
            base = numbers[numbers.form == "base"]
            axis.plot(base["count"].map(place), 100 * base[kind], ":", color=QUIET, label="the base model")
        for i, (label, (form, transport)) in enumerate(series.items()):
            rows = numbers[(numbers.form == form) & (numbers.transport == transport)]
            ends = [
                scale * (rows[kind] - rows[f"{kind}_low"]).clip(lower=0),
                scale * (rows[f"{kind}_high"] - rows[kind]).clip(lower=0),
            ]
            where = rows["count"].map(place) + 0.06 * (i - (len(series) - 1) / 2)
            axis.errorbar(
                where,
                scale * rows[kind],
                yerr=ends,
                marker="os^D"[i % 4],
                color=PALETTE[i],
                label=label,
                markersize=5,
                elinewidth=1,
                capsize=2,
            )
        axis.set_xticks(range(len(counts)), counts)
        axis.set(xlim=(-0.4, len(counts) - 0.6), title=KINDS.get(kind, "drift on benign prompts"))
        axis.grid(axis="x", visible=False)
        if kind == "kl_drift":
            axis.set(ylabel="KL, nats a token")
            axis.set_ylim(bottom=0)
        else:
            axis.set(ylim=(-3, 103))
    axes[0].set_ylabel("seen by the judge (%)")
    fig.supxlabel("concepts erased at once", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8)
    return fig


def each(frame, kind: str = "direct", transport: str = "none"):
    """How often each concept is still drawn, per cent: before, alone, and among others; a DataFrame with a row for each
    concept."""
    import pandas as pd

    rows: dict[str, dict] = {}
    wanted = frame[(frame.form == "base") | (frame.transport == transport)].sort_values("count", kind="stable")
    for row in wanted.to_dict("records"):
        if row["form"] == "base" and row["count"] > 1:
            continue
        heading = {"base": "before", "alone": "alone"}.get(row["form"], f"{row['form']}, {row['count']}")
        for part, rates in row["of"].items():
            if kind in rates:
                rate = rates[kind]
                rows.setdefault(part, {})[heading] = percent(
                    {kind: rate["value"], f"{kind}_low": rate["low"], f"{kind}_high": rate["high"]}, kind
                )
    return pd.DataFrame(rows).T.fillna("").rename_axis("per cent")


def interference(frame):
    """What membranes do to each other without transport: for each set the drift on benign prompts beside the sum of
    what its parts have alone, and the share of the neighbours' rate that is kept beside the product of theirs, which is
    what parts that do not meet would leave; the joint one beside both."""
    import math

    import pandas as pd

    open_ = frame[(frame.transport == "none") & (frame.form != "base")]
    alone = {row["concept"]: row for row in open_[open_.form == "alone"].to_dict("records")}
    rows = []
    for row in open_[open_.form == "composed"].to_dict("records"):
        parts = [alone[part] for part in row["concept"].split(JOIN)]
        other = open_[(open_.form == "joint") & (open_.concept == row["concept"])].to_dict("records")
        found = {
            "concepts": row["concept"].replace(JOIN, " + "),
            "drift, sum of parts": sum(p["kl_drift"] for p in parts),
            "drift, composed": row["kl_drift"],
        }
        found |= {"kept, product of parts": math.prod(p["kept"] for p in parts), "kept, composed": row["kept"]}
        rows.append(found | ({"drift, joint": other[0]["kl_drift"], "kept, joint": other[0]["kept"]} if other else {}))
    return pd.DataFrame(rows).set_index("concepts")


def transported(numbers):
    """The composed erasures by what opens them, from `by_number`, rates in per cent; a DataFrame with a row for each
    number of concepts and way."""
    import pandas as pd

    rows, order = {}, ["before", *WAYS.values()]
    for row in numbers[numbers.form.isin(["base", "composed"])].to_dict("records"):
        shown = {
            "concepts drawn": percent(row, "direct"),
            "synonyms": percent(row, "synonym"),
            "neighbours": percent(row, "neighbours"),
        }
        shown |= {"n": ", ".join(f"{row[f'{kind}_n']:.0f}" for kind in KINDS), "CLIP": f"{row['clip']:.2f}"}
        shown |= {"KL drift": f"{row['kl_drift']:.3f}" if row["form"] != "base" else ""}
        rows[row["count"], "before" if row["form"] == "base" else WAYS[row["transport"]]] = shown
    return pd.DataFrame(
        {which: rows[which] for which in sorted(rows, key=lambda w: (w[0], order.index(w[1])))}
    ).T.rename_axis(["concepts", "per cent"])


def by_way(frame):
    """Each concept's rate and its synonyms' by what opens the membranes, per cent, when the most are composed; a
    DataFrame with a row for each concept."""
    import pandas as pd

    rows: dict[str, dict] = {}
    for row in frame[(frame.form == "composed") & (frame["count"] == frame["count"].max())].to_dict("records"):
        for part, rates in row["of"].items():
            for kind, told in (("direct", "named"), ("synonym", "synonym")):
                rate = rates[kind]
                found = percent({kind: rate["value"], f"{kind}_low": rate["low"], f"{kind}_high": rate["high"]}, kind)
                rows.setdefault(part, {})[f"{told}, {WAYS[row['transport']]}"] = found
    return pd.DataFrame(rows).T.rename_axis("per cent")
