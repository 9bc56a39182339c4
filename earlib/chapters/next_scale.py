"""How the methods for next-scale models are laid side by side: what each is, what it erases and costs, and what becomes
of the papers' claims.

The tables `var-main`, `var-terms` and `var-dev` are measured by `table.py`, differences are told by `ablations.py`;
figures are in `next_scale_figures.py`. S-VARE's filter is taken apart in `next_scale_filter.py`, several concepts and
other words for one are in `next_scale_concepts.py`.
"""

from __future__ import annotations

from ..sweeps.legacy import KINDS, UNTOLD, difference, percent, told

WORDS = {  # field of a recipe -> its values in words, for `grid`
    "prefix": {
        "replacement": "the replacement's picture",
        "target": "the concept's picture",
        "student": "its own picture",
    },
    "teacher_states": {"shared": "the same", "independent": "the replacement's"},
    "divergence": {"ce": "cross entropy to drawn codes", "kl": "KL", "mse": "squared error of probabilities"},
    "filter.kind": {"none": "–", "wrong": "tokens that are wrong", "kl": "tokens that are far"},
    "retain.prompts": {"neutral": "the replacements", "others": "other prompts", "both": "both"},
    "update": {"sum": "one step", "two-steps": "a step on each loss", "project": "one step, conflict left out"},
    "positions": {"all": "every position", "scales": "the first scale only"},
}
# What S-VARE's authors report of Infinity-2B (arXiv 2509.22400), as shares. We have it from a public reading note, not
# from the paper itself. Concept: their classifier on the erased class; neighbours: on the other nine classes of
# Imagenette; nudity: detections of sensitive parts, of the 158 before.
PAPER = {
    ("church", "direct"): {"base": 0.942, "vare": 0.098, "s-vare": 0.044},
    ("church", "neighbours"): {"base": 0.760, "vare": 0.689, "s-vare": 0.757},
    ("nudity", "direct"): {"base": 158 / 158, "s-vare": 5 / 158},
    ("vangogh", "direct"): {"base": 0.760, "s-vare": 0.082},
}
PAPER_TERMS = {
    "squared error": (0.098, 0.689),
    "+ filter": (0.041, 0.735),
    "+ filter + preservation": (0.044, 0.757),
}  # church: concept, neighbours
CHOSEN_AS = {"uce": "recommended"}  # what was tried of the left one became the right one
# (what is claimed, from which method to which, of what, the sign that it has: 0 is "no change", the paper's number)
CLAIMS = (
    (
        "a history for each is worse for the rest than one for both",
        "naive",
        "vare",
        "neighbours",
        1,
        "pictures that fall apart; no number at hand",
    ),
    ("and erases less", "naive", "vare", "direct", -1, "no number at hand"),
    ("S-VARE erases more than VARE", "vare", "s-vare", "direct", -1, "9.8 → 4.4 %, church"),
    ("S-VARE keeps more than VARE", "vare", "s-vare", "neighbours", 1, "68.9 → 75.7 %, church"),
    (
        "an edit of keys and values in closed form erases nothing",
        "base",
        "uce",
        "direct",
        0,
        '"almost does not erase" (UCE); no number',
    ),
    ("S-VARE leaves the rest as it was", "base", "s-vare", "neighbours", 0, "76.0 → 75.7 %, church"),
    ("the released code erases as the paper has it", "s-vare", "s-vare-released", "direct", 0, "–"),
    ("and keeps as much", "s-vare", "s-vare-released", "neighbours", 0, "–"),
)

# ---------------------------------------------------------------- methods


def grid(profile: str = "mini-var"):
    """The recipes that train as a DataFrame: a row for each, a column for each axis."""
    import pandas as pd

    from ..erasure.recipe import get
    from ..erasure.scale_methods import recipe

    rows = {}
    for r in (recipe(name, profile) for name in trained()):
        words = {field: names.get(get(r, field), str(get(r, field))) for field, names in WORDS.items()}
        keeps = f"{words['retain.prompts']}, λ = {r.retain.weight:g}" + (
            f", teacher guided by {r.retain.guidance:g}" if r.retain.guidance != 1 else ""
        )
        rows[r.name] = {
            "student reads": words["prefix"],
            "teacher reads": words["teacher_states"],
            "compares": words["divergence"] + (f" + {r.entropy:g} × entropy" if r.entropy else ""),
            "of": words["filter.kind"] if r.filter.kind != "none" else "all tokens",
            "preserves": keeps if r.retain.weight else "–",
            "update": words["update"] if r.retain.weight else "one step",
            "acts at": words["positions"],
            "step size": f"{r.lr:g}",
            "updates": f"{-(-r.pairs * r.pictures * r.passes // r.batch)} of {r.batch} pairs",
        }
    return pd.DataFrame(rows).T.rename_axis("recipe")


def trained() -> list[str]:
    """The names of the recipes that train."""
    from ..erasure.scale_methods import PRESETS
    from ..erasure.scale_recipe import ScaleRecipe

    return [name for name, preset in PRESETS.items() if isinstance(preset, ScaleRecipe)]


def parameters(generator, profile: str = "mini-var") -> dict[str, int]:
    """How many numbers each recipe that trains changes."""
    from ..erasure.scale_methods import recipe
    from ..erasure.scale_train import tensor_names

    names = {name: tensor_names(recipe(name, profile), generator.trunk) for name in trained()}
    return {
        name: sum(generator.trunk.get_parameter(tensor).numel() for tensor in tensors)
        for name, tensors in names.items()
    }


def costs(frame, concept: str, counts: dict[str, int] | None = None):
    """The main table of one concept: for each recipe, the base model first, the rates with their intervals, and what it
    took. `frame`: rows of `var-main`; `counts`: what `parameters` gives."""
    import pandas as pd

    rows, base = {}, one_of(frame, concept, "base")
    for row in frame[frame.concept == concept].to_dict("records"):
        name, erased = row["label"], pd.notna(row["recipe"])
        if failed(row):
            rows[name] = {"concept": f"diverged in {row['failed']} of {row['seeds']} runs"}
            continue
        rates = {
            "concept": "direct",
            "synonyms": "synonym",
            "two things": "compositional",
            "described": "indirect",
            "neighbours": "neighbours",
        }
        rows[name] = {words: _whole(row, kind) for words, kind in rates.items() if row.get(kind) is not None}
        rows[name] |= {"KID": f"{row['kid']:.3f}", "CLIP": f"{row['clip']:.3f}", "diversity": f"{row['diversity']:.2f}"}
        if erased:
            rows[name]["diversity"] += f" ({row['diversity'] / base['diversity'] - 1:+.0%})"
            rows[name] |= {
                "KL drift": f"{row['kl_drift']:.2f}",
                "seconds": f"{row['seconds']:.0f}",
                "MB": f"{row['megabytes']:.1f}",
            }
            rows[name] |= {"trained": f"{counts[name] / 1e6:.2f} M" if name in counts else "–"} if counts else {}
        rows[name]["n"] = f"{row['direct_n']:.0f} / {row['neighbours_n']:.0f}"
    shown = pd.DataFrame(rows).T.fillna("").rename_axis("recipe")
    return shown[[name for name in shown if name != "n"] + ["n"]]


def claims(frame):
    """CLAIMS, each for every concept of `frame` (`ablations.read`): the difference in rates and what follows from its
    interval, as a DataFrame."""
    import pandas as pd

    rows = []
    for claim, one, other, kind, sign, paper in CLAIMS:
        for concept in frame.concept.unique():
            first, second = one_of(frame, concept, one), one_of(frame, concept, other)
            if first is None or second is None:
                continue
            row = {"claimed": claim, "of": f"{one} → {other}, {KINDS[kind]}", "the paper's": paper, "concept": concept}
            if failed(second) or failed(first):
                row |= {"here": "diverged", "verdict": "–"}
            else:
                row |= {"here": f"{100 * first[kind]:.0f} → {100 * second[kind]:.0f} %: {told(first, second, kind)}"}
                row |= {"verdict": verdict(difference(first, second, kind), sign)}
            rows.append(row)
    return pd.DataFrame(rows).set_index(["claimed", "of", "the paper's", "concept"])


def verdict(found: dict, sign: int) -> str:
    """What a `difference` says to a claim that it is above 0 (`sign` 1), below (-1), or none (0)."""
    if found["low"] <= 0 <= found["high"]:
        return "no difference that can be told" if sign == 0 else UNTOLD
    if sign == 0:
        return "not so: more is drawn" if found["value"] > 0 else "not so: less is drawn"
    return "as claimed" if found["value"] * sign > 0 else "the opposite"


def beside_paper(frame, terms=None):
    """The paper's numbers (PAPER, and of the ablation PAPER_TERMS) beside ours, per cent. `frame`: rows of `var-main`,
    `terms` of `var-terms`."""
    import pandas as pd

    rows = {}
    for (concept, kind), values in PAPER.items():
        for name, value in values.items():
            row = one_of(frame, concept, name)
            if row is not None and not failed(row):
                rows[concept, KINDS[kind], name] = {
                    "the paper's": f"{100 * value:.1f}",
                    "ours": percent(row, kind),
                    "n": f"{row[f'{kind}_n']:.0f}",
                }
    for label, values in PAPER_TERMS.items() if terms is not None else ():
        for kind, value in zip(KINDS, values):
            row = one_of(terms, "church", label)
            if row is not None and not failed(row):
                rows["church, term by term", KINDS[kind], label] = {
                    "the paper's": f"{100 * value:.1f}",
                    "ours": percent(row, kind),
                }
                rows["church, term by term", KINDS[kind], label]["n"] = f"{row[f'{kind}_n']:.0f}"
    return pd.DataFrame(rows).T.rename_axis(["", "drawn", "method"])


def against_base(name: str, column: str, effort: int = 1, **more):
    """A measured column of each run (`diversity`, `kid`) over that of the base model with the same concept and seed,
    pooled: a DataFrame with `mean`, `low` and `high` (of the ratios), and in how many of `runs` it is `less`; rows of
    (concept, label). `more` goes to `table.rows`."""
    import pandas as pd

    from ..sweeps import legacy as table

    value = lambda row: row[column][0] if isinstance(row.get(column), list) else row.get(column)
    rows = [row for row in table.rows(name, effort, **more) if "failed" not in row and value(row)]
    base = {(row["concept"], row["seed"]): value(row) for row in rows if row["recipe"] is None}
    found: dict[tuple, list[float]] = {}
    for row in rows:
        if row["recipe"] is not None and (row["concept"], row["seed"]) in base:
            found.setdefault((row["concept"], row["label"]), []).append(value(row) / base[row["concept"], row["seed"]])
    columns = lambda ratios: {
        "mean": sum(ratios) / len(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "less": sum(r < 1 for r in ratios),
        "runs": len(ratios),
    }
    return pd.DataFrame({which: columns(ratios) for which, ratios in found.items()}).T.rename_axis(["concept", "label"])


def each_neighbour(name: str, concept: str, effort: int = 1, **more):
    """How often each neighbour of a concept is drawn, as a DataFrame of hits of n: a row for each label, a column for
    each neighbour. `more` goes to `table.rows`."""
    import pandas as pd

    from ..sweeps import legacy as table

    found: dict[str, dict[str, tuple[int, int]]] = {}
    for row in table.rows(name, effort, **more):
        if row["concept"] == concept and "failed" not in row:
            for neighbour, (hits, n) in row["rates"]["neighbours"].items():
                before = found.setdefault(row["label"], {}).get(neighbour, (0, 0))
                found[row["label"]][neighbour] = before[0] + hits, before[1] + n
    n = next(iter(next(iter(found.values())).values()))[1]
    return pd.DataFrame(
        {label: {of: hits for of, (hits, _) in counts.items()} for label, counts in found.items()}
    ).T.rename_axis(f"hits of {n}")


def rule(frame, profile: str = "mini-var"):
    """How settings were chosen: each recipe's margin (neighbours less concept) at each that was tried, and which the
    rule takes. Returns (table, sentence).

    `frame`: rows of `var-dev`. The sentence says whether the recipes of `profile` have what the rule takes.
    """
    import pandas as pd

    from ..erasure.recipe import get
    from ..erasure.scale_methods import recipe
    from .spm import margin, points

    rows, same, other, tried = {}, [], [], frame[frame.recipe.notna()]
    say = lambda settings: ", ".join(
        f"{field} {value:g}" if isinstance(value, float) else f"{field} {value}" for field, value in settings.items()
    )
    for name in tried.recipe.unique():
        mine = tried[tried.recipe == name].to_dict("records")
        reached = [margin(row)["value"] for row in mine if not failed(row)]
        level = [
            row["settings"] for row in mine if not failed(row) and margin(row)["value"] == max(reached)
        ]  # several, where the margins are equal
        for row in mine:
            cell = {"margin": "diverged"}
            if not failed(row):
                cell = {words: percent(row, kind) for kind, words in KINDS.items()} | {
                    "KL drift": f"{row['kl_drift']:.2f}",
                    "margin": points(margin(row)),
                }
                cell |= {
                    "n": f"{row['direct_n']:.0f} / {row['neighbours_n']:.0f}",
                    "greatest": "yes" if row["settings"] in level else "",
                }
            rows[name, say(row["settings"])] = cell
        if level:
            called = CHOSEN_AS.get(name, name)
            has = next(
                (settings for settings in level if recipe(called, profile, **settings) == recipe(called, profile)), None
            )
            if has:
                same.append(
                    f"`{called}` {say(has)}" + (f" (one of {len(level)} that are level)" if len(level) > 1 else "")
                )
            else:
                own = {field: get(recipe(called, profile), field) for field in level[0]}
                other.append(
                    f" For `{called}` the rule takes {' or '.join(map(say, level))}, and the recipe has {say(own)}."
                )
    sentence = f"What the rule takes is what the recipe has: {'; '.join(same)}." if same else ""
    return pd.DataFrame(rows).T.fillna("").rename_axis(["recipe", "tried"]), (sentence + "".join(other)).strip()


# ---------------------------------------------------------------- what is drawn instead


def instead(pictures: dict, judge):
    """What `judge`, MiniWorld's, sees in sets of pictures (title -> uint8 [N, H, W, 3]) of prompts for its concept, as
    a DataFrame.

    "something" is the share of pictures in which the likeliest of the concept's group reaches the judge's threshold;
    below is a mixture.
    """
    from collections import Counter

    import pandas as pd

    from ..evaluate.rate import Rate

    names, rows = judge.groups[judge.group], {}
    for title, images in pictures.items():
        p_NY = judge.probabilities(images)[judge.group]
        sure = p_NY.max(1) >= judge.threshold
        seen = Counter(names[y] for y in p_NY.argmax(1)[sure])
        r = Rate.of(sure).flat()
        rows[title] = {
            "something (%)": f"{100 * r['value']:.0f} [{100 * r['low']:.0f}, {100 * r['high']:.0f}]",
            "n": f"{r['n']}",
        }
        rows[title]["most often"] = ", ".join(f"{name} {n}" for name, n in seen.most_common(4))
    return pd.DataFrame(rows).T.rename_axis("seen")


# ---------------------------------------------------------------- rows


def one_of(frame, concept: str, label: str) -> dict | None:
    """The row of one label (the first, if its settings were varied), or None."""
    found = frame[(frame.concept == concept) & (frame.label == label)]
    return found.iloc[0].to_dict() if len(found) else None


def failed(row: dict) -> bool:
    return row["failed"] == row["seeds"]


def _whole(row: dict, kind: str) -> str:
    return f"{100 * row[kind]:.0f} [{100 * row[f'{kind}_low']:.0f}, {100 * row[f'{kind}_high']:.0f}]"
