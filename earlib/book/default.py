"""Sentences and tables of the page on Janus-Pro: which recipe to try first, what speaks for it and against it on the
small model, and which recipes can be merged."""

from __future__ import annotations

from ..erasure.presets import PRESETS
from ..evaluate.rate import Rate
from ..sweeps import read
from .cards import RECIPES
from .words import listed, n_of, per_cent

DEFAULT_MARK = "<!-- default -->"  # book/janus_pro.md has these lines where the table and the sentence go
BEGUN_MARK = "<!-- begun -->"
MERGE_MARK = "<!-- merge -->"
BEGUN = "what_remains"  # the notebook that begins pictures


def default_table(name: str = "main") -> str:
    """How often each concept and its neighbours are drawn by MiniJanus before and after each of RECIPES, in
    Markdown."""
    frame = read.load(name, complete=False)
    if frame.empty:
        return f"Not measured yet: `python -m earlib sweep {name}`.\n"
    lines = [f"| still drawn, % | before | {' | '.join(f'`{recipe}`' for recipe in RECIPES)} |", "|---|---|---|---|"]
    rates = []
    for concept, rows in frame.groupby("concept", sort=False):
        of = [rows[rows.recipe.isna()].iloc[0], *(rows[rows.label == recipe].iloc[0] for recipe in RECIPES)]
        for kind, what in (("direct", concept), ("neighbours", f"neighbours of {concept}, which should stay")):
            rates += [row[kind] for row in of]
            lines.append(f"| {what} | {' | '.join(row[kind].text() for row in of)} |")
    seeds = n_of(*rates, seeds=frame.seeds)
    return "\n".join(
        [*lines, "", f"On MiniJanus, with 95 % intervals ({seeds}); from [the leaderboard](leaderboard.md).\n"]
    )


def begun_sentence(records: list[dict]) -> str:
    """How often a model that was erased finishes a picture of the concept that was begun for it; "" where nothing has
    measured it.

    Args:
        records: as `earlib.runs.collect` gives them.
    """
    here = [r for r in records if r["run"] == BEGUN and r["metric"] in ("prefix_rate", "rows_alone_rate")]
    given = sorted({r["kind"] for r in here}, key=lambda kind: int(kind.split()[0]))
    if not given:
        return ""
    half = given[len(given) // 2]
    of = lambda metric, recipe: next(
        (Rate.from_flat(r) for r in here if (r["kind"], r["metric"], r["recipe"]) == (half, metric, recipe)), None
    )
    after = {recipe: rate for recipe in RECIPES if (rate := of("prefix_rate", recipe)) is not None}
    if not after:
        return ""
    told = listed(f"{per_cent(rate)} after `{recipe}`" for recipe, rate in after.items())
    subject, alone = here[0]["subject"], per_cent(of("rows_alone_rate", None))
    return (
        f"On MiniJanus, with {half} of a picture of {subject}, the model finishes one in {told}; those rows with a "
        f"picture of something else below them pass for one in {alone} ({n_of(*after.values())})."
    )


def merge_sentence() -> str:
    """Which recipes of next-token models leave what `merge` cannot write into a checkpoint, and why."""
    guiding = [name for name, recipe in PRESETS.items() if getattr(recipe, "guides", False)]
    acting = [name for name, recipe in PRESETS.items() if name not in guiding and recipe.positions != "all"]
    return (
        f"It cannot be done for recipes that act at a prompt's words only, as a plain checkpoint acts everywhere: "
        f"{listed(acting, code=True)}. Nor for those that steer the drawing and change no weights: "
        f"{listed(guiding, code=True)}. These need this library when they draw; every other recipe can be merged."
    )
