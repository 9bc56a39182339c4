"""What carries over to another architecture: the same recipes on MiniJanus and MiniEmu3, and their next-scale
counterparts on MiniVAR, from the tables `emu3`, `windows`, `main`, `layers` and `var-main`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..evaluate.rate import Estimate
from ..miniworld.models import GRID, LAYERS
from ..plots.panels import SEEN, draw_dots, finish
from ..plots.series import concept_and_neighbours
from ..plots.style import WIDTH
from ..sweeps.compare import margin

if TYPE_CHECKING:
    import pandas as pd

JANUS, EMU3, VAR = "MiniJanus", "MiniEmu3", "MiniVAR"
TABLES = ("emu3", "windows", "main", "layers", "var-main")
NEXT_SCALE = ("vare", "s-vare", "recommended")  # of the recipes of MiniVAR
OF_EAR = ("window", "step", "layers", "window at 1e-4", "layers at 1e-4")  # labels of EAR with other parameters
FASTER = 1e-4  # the paper's rate of learning


def beside(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The rows that are set side by side: {model: the base model's row of each concept, then a row a recipe}.

    EAR has a row of the picture as its window on both next-token models.

    Args:
        tables: by name, as `sweeps.read.load` gives them, of TABLES.
    """
    import pandas as pd

    emu3, main, var = tables["emu3"], tables["main"], tables["var-main"]
    ear = {JANUS: at_row(tables["windows"]), EMU3: at_row(emu3[emu3.label == "window"])}
    others = emu3[emu3.recipe.notna() & ~emu3.label.isin(OF_EAR)]
    names = list(dict.fromkeys(others.recipe))
    concepts = list(dict.fromkeys(emu3.concept))
    parts = {
        JANUS: [main[main.recipe.isna()], ear[JANUS], main[main.recipe.isin(names)]],
        EMU3: [emu3[emu3.recipe.isna()], ear[EMU3], others],
        VAR: [var[var.recipe.isna()], var[var.recipe.isin(NEXT_SCALE)]],
    }
    joined = {model: pd.concat(frames, ignore_index=True) for model, frames in parts.items()}
    order = {name: i for i, name in enumerate((*NEXT_SCALE[:2], "ear", *names))}
    return {
        model: frame[frame.concept.isin(concepts)].sort_values(
            "recipe", key=lambda recipes: recipes.map(order).fillna(-1), kind="stable", ignore_index=True
        )
        for model, frame in joined.items()
    }


def by_recipe(frame: pd.DataFrame) -> dict[tuple[str | None, str], dict]:
    """The rows of a frame by (recipe, concept); recipe None is the base model, which pandas may hold as NaN."""
    called = lambda recipe: recipe if isinstance(recipe, str) else None
    return {(called(row["recipe"]), row["concept"]): row for row in frame.to_dict("records")}


def at_row(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows whose window is a row of the picture."""
    return frame[frame["windows.length"] == GRID]


def faster(emu3: pd.DataFrame) -> pd.DataFrame:
    """The rows of MiniEmu3 at the paper's rate of learning, one a window."""
    return emu3[(emu3.lr == FASTER) & emu3.label.isin(("step", "window at 1e-4"))]


def shown(value: float) -> str:
    """A window's length or a rate of learning as text: `12`, `3e-5`."""
    return f"{value:g}" if value >= 1 else f"{value:.0e}".replace("e-0", "e-")


def layer(text: str | None) -> int:
    """`0.5,0.625` as 4: the first layer that trains, 0 the nearest to the input; EAR's own where a row does not say."""
    return round(LAYERS * float(text.split(",")[0])) if isinstance(text, str) else 0


def erases(rows: pd.DataFrame, what: str) -> list[float]:
    """The values of `what` with which the concept is measurably rarer than before; rows of one concept."""
    base = rows[rows.recipe.isna()].iloc[0].direct
    done = rows[rows.recipe.notna() & rows.direct.notna()]
    return sorted(row[what] for row in done.to_dict("records") if row["direct"].minus(base).below)


def best(rows: pd.DataFrame, what: str) -> tuple[float, list[float], Estimate]:
    """Of the erasures of one concept: (the value of `what` with the greatest margin of neighbours over the concept,
    the values whose margins are not told from it, that margin)."""
    of = {row[what]: margin(row) for row in rows[rows.recipe.notna() & rows.direct.notna()].to_dict("records")}
    top = max(of, key=lambda value: of[value].value)
    return top, sorted(value for value in of if not of[top].minus(of[value]).differs), of[top]


def grid(models: Mapping[str, pd.DataFrame], concepts: Sequence[str]):
    """Dots of the concept and its neighbours: a row of panels for each model with recipes of its own, a column a
    concept; dotted lines are the base models.

    Returns:
        matplotlib.figure.Figure
    """
    import matplotlib.pyplot as plt

    recipes = {model: list(dict.fromkeys(frame.recipe.dropna())) for model, frame in models.items()}
    heights = [len(names) + 1.5 for names in recipes.values()]
    how = {"figsize": (WIDTH, 0.27 * sum(heights) + 0.5), "height_ratios": heights, "sharex": True, "sharey": "row"}
    fig, axes = plt.subplots(len(models), len(concepts), squeeze=False, layout="constrained", **how)
    for (model, frame), line in zip(models.items(), axes):
        for concept, axis in zip(concepts, line):
            draw_dots(axis, concept_and_neighbours(frame[frame.concept == concept], "recipe"), recipes[model])
            axis.set(title=f"{model}: {concept}", xlim=(-3, 103))
    return finish(fig, axes, SEEN)
