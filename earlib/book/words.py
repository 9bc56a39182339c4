"""Sentences of the book whose numbers and directions come from what was measured.

One rule for every word of direction, in prose as in verdicts: two numbers differ where the 95 % interval of their
difference leaves out 0. Then one *falls*, *rises*, is *more* or *fewer*; else they are not told apart, and no word says
otherwise. A sentence made so stays true when the tables are measured again.

    say(f"Churches {went(base.direct, ear.direct)}; neighbours {went(base.neighbours, ear.neighbours)}.")
    in_short(first, second, figure="fig-church-rates")     # the chapter's last cell, tagged `in-short`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..evaluate.rate import NOT_TOLD, Estimate, Rate

SHORT = "in-short"  # tag of the cell whose sentences the book shows first (merge.py)
HEADING = "## In short"


def per_cent(rate: Rate | Estimate) -> str:
    """`82 %`, without its interval: for sentences; the table beside them has it. `–` of no pictures."""
    return "–" if rate.value is None else f"{100 * rate.value:.0f} %"


def change(before: Rate | Estimate, after: Rate | Estimate) -> str:
    """`82 → 4 %`."""
    return f"{per_cent(before).removesuffix(' %')} → {per_cent(after)}"


def by_interval(difference: Estimate, higher: str, lower: str, otherwise: str) -> str:
    """The words for a difference by its interval: `higher` above 0, `lower` below it, `otherwise` where it holds 0."""
    return higher if difference.above else lower if difference.below else otherwise


def went(before: Rate, after: Rate, rise: str = "rise", fall: str = "fall") -> str:
    """What became of a rate: `fall from 82 to 4 %`, `rise from 4 to 9 %`, or `go 82 → 80 %, not told apart`.

    Args:
        before, after: rates of independent pictures, or of the same prompts drawn twice (the interval is then too wide
            rather than too narrow).
        rise, fall: the verbs; `fall="falls"` after a singular.
    """
    verb = by_interval(after.minus(before), rise, fall, "")
    if not verb:
        return f"go{'es' if fall.endswith('s') else ''} {change(before, after)}, {NOT_TOLD}"
    return f"{verb} from {per_cent(before).removesuffix(' %')} to {per_cent(after)}"


def compared(one: Rate, other: Rate, more: str = "more than", fewer: str = "fewer than") -> str:
    """One rate beside another: `41 %, more than 19 %`, or `21 %, not told apart from 19 %`."""
    words = by_interval(one.minus(other), more, fewer, f"{NOT_TOLD} from")
    return f"{per_cent(one)}, {words} {per_cent(other)}"


def between(rates: Iterable[Rate | None]) -> str:
    """`0 to 14 %`: the least and the greatest of several rates; one number where both are written alike."""
    values = [rate.value for rate in rates if rate is not None and rate.value is not None]
    if not values:
        return "–"
    least, most = f"{100 * min(values):.0f}", f"{100 * max(values):.0f}"
    return f"{most} %" if least == most else f"{least} to {most} %"


def sorted_out(differences: Mapping[str, Estimate], more: str = "more", fewer: str = "fewer") -> str:
    """What differences say, with the names of each: `fewer for naive and vare, not told apart for uce`.

    Args:
        differences: name -> a difference, as `Rate.minus` gives it.
        more, fewer: the words for one above 0 and below.
    """
    of: dict[str, list[str]] = {more: [], fewer: [], NOT_TOLD: []}
    for name, difference in differences.items():
        of[by_interval(difference, more, fewer, NOT_TOLD)].append(name)
    return ", ".join(f"{words} for {listed(names)}" for words, names in of.items() if names) or NOT_TOLD


def listed(names: Iterable[str], none: str = "none", code: bool = False) -> str:
    """`a, b and c`; with `code` each in backquotes; `none` of nothing."""
    names = [f"`{name}`" if code else str(name) for name in names]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or none


def n_of(*rates: Rate | Estimate, seeds: Iterable[int] = ()) -> str:
    """`n = 300`, or `n = 150 to 300`: how many pictures or prompts each of some rates counts. With how many `seeds` of
    training stand behind each (`[row.seeds]` of a table's row), `n = 30, one seed`."""
    found = []
    for counts in ([rate.n for rate in rates], list(seeds)):
        least, most = min(counts, default=0), max(counts, default=0)
        found.append(f"{least:g}" if least == most else f"{least:g} to {most:g}")
    trained = "" if found[1] == "0" else ", one seed" if found[1] == "1" else f", {found[1]} seeds"
    return f"n = {found[0]}{trained}"


def say(*sentences: str) -> None:
    """Show `sentences` as one paragraph. In a cell tagged `remove-input` it reads like the prose around it."""
    from IPython.display import Markdown, display

    display(Markdown(" ".join(sentences)))


def in_short(*sentences: str, figure: str) -> None:
    """A chapter's answer in two to four points, a sentence or two each, shown as a list under the heading "In short".

    Its cell is the last of a notebook, as it needs the results. The book places what it shows above the introduction,
    with a copy of one figure.

    Args:
        *sentences: Markdown.
        figure: the name of one of the notebook's figures (`mystnb.figure.name` of its cell).

    Raises:
        ValueError: fewer than two points, or more than four.
    """
    from IPython.display import Markdown, display

    if not 2 <= len(sentences) <= 4:
        raise ValueError(f"a chapter's answer has two to four points, this one {len(sentences)}")
    points = "\n".join(f"- {sentence.strip()}" for sentence in sentences if sentence.strip())
    display(Markdown(f"{HEADING}\n\n{points}"), metadata={"figure": figure, "first": sentences[0]})
