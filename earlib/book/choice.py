"""Which recipe for which need, as the page on Janus-Pro says it: chosen by one rule from the tables of the small model,
with what brings a concept back beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ..erasure.joint import JOIN
from ..erasure.presets import PRESETS, recipe, with_settings
from ..evaluate.attacks.registry import EVERY, PLAIN
from ..evaluate.rate import Rate
from ..generators.profiles import PROFILES
from ..memory import KNOWN
from ..runs import read_json
from ..sweeps import attacked, read, several
from .cards import CARDS, erasing_bytes, fitting, recipe_bytes
from .words import listed, n_of

CHOICE_MARK = "<!-- choice -->"  # book/janus_pro.md has these lines where the tables and the sentences go
ATTACKS_MARK = "<!-- attacks -->"
FACTOR_MARK = "<!-- factor -->"
MERGE_MARK = "<!-- merge -->"
WEIGHTS_MARK = "<!-- weights -->"
HUB = "https://huggingface.co"
METHODS, MORE, ATTACKS, AT_ONCE = "main", "oracle", "attacks", "several"  # tables; MORE has recipes that METHODS lacks
ALL, BEGUN = "all", "prefix"  # the concepts together; the attack that begins a picture
MODEL, SMALL = "janus-pro-1b", "T4"
SHOWN = ("direct", "synonym", "neighbours")
LEFT = UNFINISHED = 0.1
LESS = {"batch": 1, "retain.pictures": 1}
NONE, ON_SMALL = "none of them", f"the same, on a card of {CARDS[SMALL].room:.0f} GB"
# shown whatever the tables say: the two readings of the paper's method, and ours against attacks
PAPER, AGAINST = ("ear", "ear-shared"), "robust"
RULE = f"""\
Each number is per cent of pictures of all these concepts together, with its 95 % interval: look up your kind of concept
on the [leaderboard](leaderboard.md). Of the recipes that do what is needed, the table names the
one that keeps the most neighbours; only those count that leave at most {100 * LEFT:.0f} % of the concepts by name, with
at most {100 * UNFINISHED:.0f} % of those pictures [unfinished](glossary.md). A begun picture is withstood where it is
finished not measurably more often than by an oracle, a model that never saw the concept: for each concept tried."""


class Row(NamedTuple):
    """What is known of a recipe on the small model, concepts pooled; Rates, None where not measured."""

    direct: Rate
    synonym: Rate
    neighbours: Rate
    unfinished: Rate
    begun: Rate | None = None


# ------------------------------------------------------------------ what is known


def methods() -> dict[str, Row]:
    """Every recipe of the table of methods by its label; those that it lacks, of the table MORE."""
    found, back = {}, attack_rates()[ALL]
    for table in (MORE, METHODS):
        frame = read.load(table, complete=False)
        for label, rows in frame[frame.recipe.notna()].groupby("label", sort=False):
            rates = [Rate.pooled(rate for rate in rows[kind] if rate) for kind in (*SHOWN, "unfinished")]
            found[str(label)] = Row(*rates)._replace(begun=back.get((str(label), BEGUN)))
    return found


def at_once() -> tuple[list[str], dict[str, Row]]:
    """The concepts of the largest set that one erasure took, and every recipe that was tried on it."""
    frame = several.counted(read.load(AT_ONCE, complete=False))
    most = frame["count"].max()
    rows = frame[(frame["count"] == most) & (frame.form == "joint")].to_dict("records")
    return rows[0]["concept"].split(JOIN), {
        row["label"]: Row(*(row[kind] for kind in (*SHOWN, "unfinished"))) for row in rows
    }


def attack_rates() -> dict[str, dict[tuple[str, str], Rate]]:
    """Each concept of the table of attacks, and ALL of them -> (label or "oracle", attack) -> the rate under the
    attack. Without the table ALL is empty."""
    if not (read.table_folder() / f"{ATTACKS}.jsonl").exists():
        return {ALL: {}}
    frame = attacked.load(ATTACKS, complete=False)
    return {ALL: attacked.rates(frame)} | {str(name): attacked.rates(some) for name, some in frame.groupby("concept")}


# ------------------------------------------------------------------ the rule


def best(known: dict[str, Row], fits: Callable[[str], bool]) -> str | None:
    """The recipe that RULE takes of those that fit; None if there is none."""
    names = [name for name, row in known.items() if erases(row) and fits(name)]
    return min(names, key=lambda n: (-_share(known[n].neighbours), _share(known[n].direct)), default=None)


def erases(row: Row) -> bool:
    """Whether little of the concepts is left, and their pictures are finished."""
    return _share(row.direct) <= LEFT and _share(row.unfinished) <= UNFINISHED


def _share(rate: Rate) -> float:
    return 0.0 if rate.value is None else rate.value


def merges(name: str) -> bool:
    """Whether a checkpoint can hold what the recipe changes: weights, everywhere."""
    return getattr(PRESETS[name], "positions", None) == "all"


def withstanding() -> set[str]:
    """The recipes after which a begun picture is finished not measurably more often than by the oracle: of each
    concept."""
    of_each = [back for concept, back in attack_rates().items() if concept != ALL]
    oracle = [back["oracle", BEGUN] for back in of_each if ("oracle", BEGUN) in back]
    found = set()
    for name in {label for back in of_each for label, attack in back if attack == BEGUN} - {"oracle"}:
        mine = [back[name, BEGUN] for back in of_each if (name, BEGUN) in back]
        whole = len(mine) == len(oracle) == len(of_each)
        found |= {name} if whole and not any(m.minus(o).above for m, o in zip(mine, oracle)) else set()
    return found


def also_withstanding(named: Iterable[str | None]) -> dict[str, Row]:
    """The recipes that erase and withstand a begun picture, with what is known of them, beside those `named`."""
    known = methods()
    others = sorted(withstanding() - set(named))
    return {name: known[name] for name in others if name in known and erases(known[name])}


def small(name: str) -> bool:
    """Whether MODEL can be erased from with it on the smallest card."""
    return erasing_bytes(KNOWN[MODEL], name) < CARDS[SMALL].room * 1e9


def chosen() -> list[tuple[str, str | None, Row | None]]:
    """(what is needed, recipe, what is known of it), the page's rows in order."""
    known, (concepts, together), standing = methods(), at_once(), withstanding()
    needs: list[tuple[str, Callable[[str], bool]]] = [
        ("a first try", lambda name: True),
        ("one plain checkpoint, for transformers alone", merges),
        (ON_SMALL, lambda name: merges(name) and small(name)),
        ("to withstand a picture that somebody began", lambda name: name in standing),
        (ON_SMALL, lambda name: name in standing and small(name)),
    ]
    rows: list[tuple[str, str | None, Row | None]] = []
    for need, fits in needs:
        name = best(known, fits)
        rows.append((need, name, known[name] if name else None))
    joint = best(together, lambda name: True)
    rows.append((f"several concepts at once (here {len(concepts)})", joint, together[joint] if joint else None))
    read_as = zip(PAPER, ("states of three pictures", "states of one"))
    return [*rows, *((f"the paper's method, with {how}", name, known[name]) for name, how in read_as)]


def choice_table() -> str:
    """The table of `chosen` in Markdown, with how it was chosen."""
    rows = chosen()
    lines = [
        f"| you need | recipe | by name | other names | neighbours | begun picture | GB on `{MODEL}` |",
        "|---|---|---|---|---|---|---|",
    ]
    text = lambda rate: rate.text() if rate else "–"
    for need, name, row in rows:
        cells = [text(rate) for rate in (*row[:3], row.begun)] if row else ["–"] * 4
        memory = fitting(erasing_bytes(KNOWN[MODEL], name)) if name else "–"
        nobody = f"{NONE}; `{AGAINST}` in smaller steps may fit, see below" if need == ON_SMALL else NONE
        lines.append(f"| {need} | {f'`{name}`' if name else nobody} | {' | '.join(cells)} | {memory} |")
    frame = read.load(METHODS, complete=False)
    counts = n_of(*(rate for *_, row in rows if row for rate in row[:3] if rate.n), seeds=frame.seeds)
    fewer = [f"`{name}`" for _, name, row in rows if name and row and not row.synonym.n]
    begun = [row.begun for *_, row in rows if row and row.begun]
    begun_of = listed(concept for concept in attack_rates() if concept != ALL) if begun else "nothing"
    who = (
        f"On MiniJanus, {listed(frame.concept.unique())} together ({counts}); in the row of several, "
        f"{listed(at_once()[0])}; begun pictures are of {begun_of} only ({n_of(*begun)})."
    )
    if fewer:
        who += f" {listed(dict.fromkeys(fewer))} is from [another table](../notebooks/oracle.ipynb), one training."
    also = also_withstanding(name for _, name, _ in rows)
    told = listed(f"`{name}` (neighbours {row.neighbours} %, begun {row.begun} %)" for name, row in also.items())
    too = f"A begun picture is withstood, too, after {told}: [attacks](../notebooks/attacks.ipynb)." if also else ""
    return "\n".join([*lines, "", f"{who} {RULE} {too}".rstrip(), ""])


# ------------------------------------------------------------------ attacks


def attacks_table() -> str:
    """What each attack brings back after the page's recipes and on the oracle, and of whom this is known."""
    back, names = attack_rates()[ALL], dict.fromkeys(name for _, name, _ in chosen() if name)
    shown = [
        n for n in dict.fromkeys([*names, AGAINST, *also_withstanding(names), "oracle"]) if (n, PLAIN.name) in back
    ]
    attacks = [a for a in EVERY if any((n, a) in back for n in shown)]
    if not shown:
        return f"Not measured yet: `python -m earlib sweep {ATTACKS}`.\n"
    lines = [f"| still drawn, % | {' | '.join('by name' if a == PLAIN.name else a for a in attacks)} |"]
    lines.append("|---|" + "---|" * len(attacks))
    for name in shown:
        cells = [back[name, a].text() if (name, a) in back else "–" for a in attacks]
        lines.append(f"| {'the oracle' if name == 'oracle' else f'`{name}`'} | {' | '.join(cells)} |")
    rows, rates = read.rows(ATTACKS, complete=False), [back[n, a] for n in shown for a in attacks if (n, a) in back]
    concepts, seeds = (list(dict.fromkeys(row[field] for row in rows)) for field in ("concept", "seed"))
    smaller, first = with_settings(recipe(AGAINST, MODEL), LESS), shown[0]
    of_each = {concept: known[first, BEGUN] for concept, known in attack_rates().items() if (first, BEGUN) in known}
    begun = ", ".join(f"{rate.text()} ({concept})" for concept, rate in of_each.items() if concept != ALL)
    lines += [
        "",
        f"On MiniJanus, of {listed(concepts)} and no other concept ({n_of(*rates, seeds=[len(seeds)])} of training).",
        f"What is finished of a begun picture after `{first}` hangs on the concept: {begun} %." if begun else "",
        f"`{AGAINST}` was made against attacks; it takes {fitting(erasing_bytes(KNOWN[MODEL], AGAINST))} to erase from",
        f"1B, and {fitting(recipe_bytes(KNOWN[MODEL], smaller))} with",
        f"`--set {' '.join(f'{field}={value}' for field, value in LESS.items())}`,",
        "which nobody has tried.",
        "",
    ]
    return "\n".join(lines)


# ------------------------------------------------------------------ sentences


def factor_sentence(folder: Path) -> str:
    """How many times its bound the small model took where the book was built; "" where nobody measured.

    Args:
        folder: the runs of a profile.
    """
    if not (file := folder / "cost" / "benchmark.json").exists():
        return ""
    measured = read_json(file)
    ours = [row for row in measured["rows"] if row["case"] == "earlib"]
    ratio = lambda row: row.get("times_floor_of_cores") or row["times_floor"]
    drawn = sorted((row for row in ours if row["what"] == "drawing"), key=lambda row: row["n"])
    [learned] = [row for row in ours if row["what"] == "erasing, ear"]
    return (
        f"How much longer? On the CPU that built this book, the small model took {ratio(drawn[0]):.0f} times such a "
        f"bound to draw one picture, {ratio(drawn[-1]):.0f} times to draw {drawn[-1]['n']} together, and "
        f"{ratio(learned):.0f} times to learn from {learned['n']} pairs with `ear` "
        "([What it costs](../notebooks/cost.ipynb)). On a card nobody has measured it."
    )


def merge_section() -> str:
    """The commands that make a checkpoint, the lines that load it, and which recipes leave none."""
    known = methods()
    name = best(known, lambda name: merges(name) and small(name)) or best(known, merges)
    guiding = [n for n, preset in PRESETS.items() if getattr(preset, "guides", False)]
    acting = [n for n in PRESETS if n not in guiding and not merges(n)]
    return f"""\
```text
python -m earlib erase --model janus-pro-1b --concept church \\
    --recipe {name} --out runs/church-everywhere
python -m earlib merge --model janus-pro-1b --erasure runs/church-everywhere --out church-free
```

```python
from transformers import AutoProcessor, JanusForConditionalGeneration

model = JanusForConditionalGeneration.from_pretrained("church-free")
processor = AutoProcessor.from_pretrained("church-free")
```

It cannot be done after recipes that act at a prompt's words only, as a plain checkpoint acts everywhere:
{listed(acting, code=True)}. Nor after those that steer the drawing and change no weights: {listed(guiding, code=True)}.
These need this library when they draw.
"""


def weights_sentence() -> str:
    """Where the weights come from, how large they are in 16-bit numbers, and how to do without a network."""
    gigabytes = lambda sizes: 2 * (sizes.draw_parameters + sizes.caption_parameters) / 1e9
    models = {name: sizes for name, sizes in KNOWN.items() if PROFILES.get(name)}
    told = listed(f"[`{PROFILES[n]}`]({HUB}/{PROFILES[n]}), {gigabytes(sizes):.0f} GB" for n, sizes in models.items())
    return (
        f"The first command that needs weights fetches those of the model that it names, {told}, under the licence "
        "that stands there. Without a network: "
        f"`hf download {PROFILES[MODEL]} --local-dir janus-1b` elsewhere, copy the folder here, and say "
        "`--model janus-1b` wherever this page says `janus-pro-1b`."
    )
