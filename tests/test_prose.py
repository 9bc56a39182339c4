"""What a chapter says: its answer first, and no measured number typed by hand."""

from __future__ import annotations

import ast
import json
import re

import nbformat
import pytest

from earlib import ROOT
from earlib.book.manifest import load_manifest
from earlib.book.words import SHORT, in_short
from earlib.generators.var.config import NextScaleConfig
from earlib.plots.style import WORDS
from earlib.sweeps.compare import HEADINGS
from earlib.sweeps.read import KINDS

ENTRIES = {entry.name: nbformat.read(ROOT / entry.path, as_version=4).cells for entry in load_manifest()}
SHOWN = ("say(", "in_short(", "Markdown(")  # code whose strings are prose
# no prose: code, equations, addresses, marks of items
NO_PROSE = (
    *(r"(?s)```.*?```", r"`[^`]*`", r"(?s)\$\$.*?\$\$", r"\$[^$]*\$", r"\]\([^)]*\)", r"https?://\S+"),
    *(r"(?m)^#+ \d+\.", r"\b\d{4}\.\d{4,5}\b"),
)
# numbers that nothing here measures: the level of intervals, names of scales, layers, seeds and equations, sizes of
# machines and pictures, years
GIVEN = (
    *(r"\b95 %", r"\b(?:scales?|layers?|seeds?|Eq\.|Fig\.|Table|chapter) \d+(?:(?:, | and | to |–)\d+)*"),
    *(r"\b\d+ GB\b", r"\b\d+ [x×] \d+\b", r"\b(?:19|20)\d\d\b", r"\b(?i:below|above|holds?|from|at|than|out|but) 0\b"),
)


def typed(text: str) -> list[str]:
    """Sentences of Markdown with a number typed into them. Those that cite a source may quote its numbers."""
    text = re.sub(r"\{cite:?[a-z]*\}`[^`]*`", "CITED", text)
    text = re.sub(r"\{[a-z]+\}`[^`]*`", "", text)
    for pattern in (*NO_PROSE, *GIVEN):
        text = re.sub(pattern, " ", text)
    sentences = re.split(r"(?<=[.;:?!])\s+|\n\s*\n", text)
    return [
        " ".join(sentence.split())
        for sentence in sentences
        if re.search(r"(?<![\w.-])\d", sentence) and not re.search(r"CITED|\b[Tt]he paper", sentence)
    ]


def prose(cell) -> str:
    """The Markdown of a cell; of code that shows prose, its strings, with what is computed left out."""
    if cell.cell_type == "markdown":
        return cell.source
    if not any(call in cell.source for call in SHOWN):
        return ""
    found, within = [], set()
    for node in ast.walk(ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            within.add(id(node.value))
        elif isinstance(node, ast.JoinedStr) and id(node) not in within:
            within |= {id(inner) for inner in ast.walk(node)}
            found.append("".join(part.value if isinstance(part, ast.Constant) else "_" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within:
            found.append(node.value if node.value.count(" ") > 2 else "")
    return "\n\n".join(found)


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_no_measured_number_is_typed(name):
    """What is measured comes from records: `earlib.book.words.say` in a cell tagged `remove-input`. A parameter stands
    in `code`, a number of somebody else's in a sentence that cites it."""
    found = [sentence for cell in ENTRIES[name] for sentence in typed(prose(cell))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_a_chapter_ends_with_its_answer(name):
    """One cell, the last, tagged `in-short`; it names a figure of the chapter; the book shows it first."""
    code = [cell for cell in ENTRIES[name] if cell.cell_type == "code"]
    answers = [cell for cell in code if SHORT in cell.metadata.get("tags", [])]
    assert answers == code[-1:] and "in_short(" in answers[0].source
    figures = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in code]
    (named,) = re.findall(r"figure=\"([\w-]+)\"", answers[0].source)
    assert named in figures


def test_what_counts_as_typed():
    held = "At 95 % (seed 3), `lr = 0.1` and $x^2$ of {cite:t}`fan2025ear`, who have 48 of 576."
    assert typed(held) == []
    assert typed("It falls to 4 %. See [it](three_concepts.ipynb), Eq. 3.") == ["It falls to 4 %."]
    cell = nbformat.v4.new_code_cell('say(f"It falls to {rate:.2f} from 82 %, it seems.")')
    assert typed(prose(cell)) == ["It falls to _ from 82 %, it seems."]


def test_an_answer_is_short():
    with pytest.raises(ValueError, match="two to four points, this one 1"):
        in_short("Churches fall.", figure="fig-rates")


def test_the_glossary_says_what_figures_tables_and_models_do():
    """One word for each way to ask, in tables, figures and the glossary; and the guidance at which models draw."""
    glossary, mini = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8"), ROOT / "data" / "mini"
    for kind in KINDS:
        word = HEADINGS[kind][0]
        assert f"| {word} | `{kind}` |" in glossary and WORDS.get(kind, kind) == word
    janus = json.loads((mini / "janus" / "generation_config.json").read_text())["guidance_scale"]
    assert f"MiniJanus draws at {janus:g}, MiniVAR at {NextScaleConfig().guidance:g}" in glossary
