"""Several concepts at once: how the forms of erasing them compare, by the tables `several` and `in-order`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..erasure.joint import JOIN
from ..evaluate.rate import Rate
from ..plots import Series, panels, style

if TYPE_CHECKING:
    import pandas as pd

FORMS = {"joint": "joint", "sequential": "one after another", "composed": "added"}  # form -> how it is called
LOOKS = {"joint": (style.BLUE, "o"), "sequential": (style.VERMILION, "D"), "composed": (style.GREEN, "s")}
SHOWN = {"direct": "concepts (%)", "neighbours": "neighbours (%)", "unfinished": "unfinished (%)"}


def in_any_words(part: Mapping[str, Rate]) -> Rate:
    """A concept's rate over all its test prompts, by name, by other names and described: of `parts` of `read.load`."""
    return Rate.pooled(part.values())


def over_number(numbers: Mapping[str, pd.DataFrame]):
    """Rates over how many concepts are erased, a column of panels for each recipe and a line for each form.

    Args:
        numbers: recipe -> what `several.by_number` gives, its base model's rows among them.

    Returns:
        matplotlib.figure.Figure
    """
    cells = [(kind, recipe) for kind in SHOWN for recipe in numbers]
    fig, axes = panels.grid_of(dict.fromkeys(cells), len(numbers), 1.55, sharey=True)
    ticks = {count: str(count) for count in sorted(set().union(*(frame["count"] for frame in numbers.values())))}
    for axis, (kind, recipe) in zip(axes.flat, cells):
        frame, series = numbers[recipe], []
        for form in ("base", *FORMS):
            rows = frame[(frame.form == form) & (frame.transport == "none")]
            colour, marker = LOOKS.get(form, (style.QUIET, "o"))
            look = {"colour": colour, "marker": marker, "line": ":" if form == "base" else "-"}
            if len(rows):
                name = FORMS.get(form, "base model")
                series.append(Series(name, list(zip(rows["count"], rows[kind])), **look))
        panels.draw_lines(axis, series, ticks)
        axis.set_ylim(-3, 103)
        if axis in axes[0]:
            axis.set_title(recipe)
        if axis in axes[:, 0]:
            axis.set_ylabel(SHOWN[kind])
    return panels.finish(fig, axes, "concepts erased", "")


def by_part(frame: pd.DataFrame, concepts: Sequence[str]) -> dict[tuple[str, str], Rate]:
    """{(row, concept): its rate by name}, for `plots.pictures.heat`: before, alone, and in each form by how many.

    Args:
        frame: rows of `several.counted`, of one recipe and the base model, opened to all prompts.
        concepts: the columns; others are left out.
    """
    found = {}
    for row in frame.sort_values("count", kind="stable").to_dict("records"):
        called = {"base": "before", "alone": "alone"}.get(row["form"])
        called = called or f"{FORMS[row['form']]}, {row['count']}"
        for part, rates in row["parts"].items():
            if part in concepts and "direct" in rates:
                found.setdefault((called, part), rates["direct"])  # before: of the smallest set that has it
    return found


def places(frame: pd.DataFrame, alone: pd.DataFrame) -> pd.DataFrame:
    """What is left of each concept that was erased one after another, beside the same recipe on it alone.

    Args:
        frame: rows of `several.counted` whose form is sequential.
        alone: rows whose form is alone.

    Returns:
        DataFrame: a row for each recipe, `order` (a tuple of names) and concept, with `place` (1 was erased first),
        `after` (how many were erased later), `called` ("church, first of two"), `direct` and `any` (Rates by name, and
        in any words), and both of the concept alone (`direct_alone`, `any_alone`).
    """
    import pandas as pd

    single = {(row["recipe"], row["concept"]): row["parts"][row["concept"]] for row in alone.to_dict("records")}
    rows = []
    for row in frame.to_dict("records"):
        order = row["concept"].split(JOIN)
        for place, concept in enumerate(order, 1):
            own, other = row["parts"][concept], single[row["recipe"], concept]
            called = f"{'first' if place == 1 else 'last'} of {len(order)}"
            if 1 < place < len(order):
                called = f"after {order[place - 2]}, before {order[place]}"
            rows.append(
                {"recipe": row["recipe"], "order": tuple(order), "concept": concept, "place": place}
                | {"after": len(order) - place, "called": f"{concept}, {called}"}
                | {"direct": own["direct"], "any": in_any_words(own)}
                | {"direct_alone": other["direct"], "any_alone": in_any_words(other)}
            )
    return pd.DataFrame(rows)
