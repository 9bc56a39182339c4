"""Every notebook of the manifest: clean, thin, linked, and it runs with the manifest's `test` parameters."""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from earlib import ROOT
from earlib.book.build import clear
from earlib.book.freshness import closure, core, imported
from earlib.book.manifest import load_manifest, parameters
from earlib.book.rerun import rerun
from earlib.errors import UserError
from earlib.sweeps.read import rows

from .synthetic import colab_url

ENTRIES = load_manifest()
each = pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])


def read(entry):
    return nbformat.read(ROOT / entry.path, as_version=4)


def code_cells(entry):
    return [cell for cell in read(entry).cells if cell.cell_type == "code"]


@each
def test_committed_without_outputs(entry):
    notebook = read(entry)
    nbformat.validate(notebook)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_cells(entry)), "make clear"
    assert not {"widgets", "papermill"} & set(notebook.metadata)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


def test_make_clear_has_nothing_to_do(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    assert clear(tmp_path) == []


@each
def test_thin(entry):
    cells = code_cells(entry)
    assert len(cells) <= 14
    for cell in cells:
        source = re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.M)  # IPython's own lines
        functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
        assert all(f.end_lineno - f.lineno <= 25 for f in functions), "what takes more lines belongs into earlib"


@each
def test_lines_fit_a_page(entry):
    """120 columns in every cell, but for the link to Colab and rows of Markdown tables, which cannot be broken."""
    for cell in read(entry).cells:
        lines = [line for line in cell.source.splitlines() if not line.startswith(("|", "[Open in Colab]"))]
        assert max(map(len, lines), default=0) <= 120, f"cell {cell.id}"


@each
def test_one_parameters_cell_and_a_setup_cell(entry):
    tags = [cell.metadata.get("tags", []) for cell in code_cells(entry)]
    assert sum("parameters" in t for t in tags) == 1 and sum("setup" in t for t in tags) == 1
    assert tags.index(next(t for t in tags if "setup" in t)) < tags.index(next(t for t in tags if "parameters" in t))


def test_set_up_is_one_text():
    """What Colab lacks is what pyproject.toml says: lower bounds, so that its own torch stays and an old transformers
    is replaced."""
    [source] = {
        cell.source for entry in ENTRIES for cell in code_cells(entry) if "setup" in cell.metadata.get("tags", [])
    }
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert f"git clone --quiet --depth 1 {repository} " in source
    assert '%pip install -q -e ".[notebooks]"' in source


@each
def test_link_opens_this_notebook_on_colab(entry):
    first = read(entry).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    links = re.findall(r"https://colab\.research\.google\.com/[^\s)\"]+", first.source)
    assert links == [colab_url(entry.path, ROOT)] and "![" not in first.source, (
        "a link in words: a picture needs a network"
    )


@each
@pytest.mark.parametrize("profile", sorted({"mini", "test", *(p for e in ENTRIES for p in e.profiles)}))
def test_parameters_are_known(entry, profile):
    if profile in ("mini", "test") or profile in entry.profiles:
        parameters(entry, profile)


@each
def test_papermill_sees_every_parameter(entry):
    """Each parameter is one assignment of its own: `a, b = 1, 2` would be none to papermill."""
    [cell] = [cell for cell in code_cells(entry) if "parameters" in cell.metadata.get("tags", [])]
    assigned = {
        node.id
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert assigned == set(papermill.inspect_notebook(str(ROOT / entry.path)))


@each
def test_saved_figures_have_caption_and_alternative_text(entry):
    """One figure a cell, as the book shows it: numbered by a name of its own, and told to those who cannot see it."""
    cells = [cell for cell in code_cells(entry) if "plots.save(" in cell.source]
    shown = [cell.metadata.get("mystnb", {}) for cell in cells]
    assert all(cell.source.count("plots.save(") == 1 for cell in cells)
    assert all(of.get("figure", {}).get("caption") and of.get("image", {}).get("alt") for of in shown)
    names = [of["figure"]["name"] for of in shown]
    assert len(set(names)) == len(names)


@each
def test_a_caption_promises_dots_of_seeds_only_where_there_are_several(entry):
    """A caption is written once and its table measured again: with one seed there are no dots."""
    for cell in read(entry).cells:
        caption = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")
        if "single seeds" in caption:
            assert "where there are several seeds" in caption, caption


def test_a_chapter_is_read_by_one_notebook():
    """A changed figure of a chapter runs one notebook of the book again."""
    shared, readers = core(ROOT), {file: [] for file in (ROOT / "earlib" / "chapters").glob("[!_]*.py")}
    for entry in ENTRIES:
        source = re.sub(r"^(\s*)[%!].*$", r"\1pass", "\n".join(cell.source for cell in code_cells(entry)), flags=re.M)
        for file in closure(imported(source), ROOT) & readers.keys():
            readers[file].append(entry.name)
    assert not readers.keys() & shared
    several = {file.name: names for file, names in readers.items() if len(names) != 1}
    assert not several


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The repository seen from elsewhere: what the tests run leaves no trace in _build or runs."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("earlib", "benchmarks", "data", "book", "notebooks"):
        os.symlink(ROOT / name, root / name)
    return root


def is_measured(table: str) -> bool:
    try:
        return bool(rows(table))
    except UserError:
        return False


@each
def test_runs(entry, copy, kernels):
    """With the `test` profile's small parameters, from the repository's root as `make book` does."""
    if missing := [table for table in entry.tables if not is_measured(table)]:
        pytest.skip(f"not measured yet; run: python -m earlib sweep {' '.join(missing)}")
    [status] = rerun("test", only=[entry.name], root=copy, kernels=kernels)
    assert status["state"] == "done", status.get("error")
    for cell in nbformat.read(copy / "_build" / "executed" / "test" / entry.path, as_version=4).cells:
        places = [place for place in (str(copy), str(ROOT)) if place in str(cell.get("outputs"))]
        assert not places, f"cell {cell.id} shows a folder of this machine: end its last line with ;"
        if "figure" in cell.metadata.get("mystnb", {}) and not cell.source.startswith("if "):
            shown = [output for output in cell.outputs if "image/png" in output.get("data", {})]
            assert len(shown) == 1, f"{cell.metadata.mystnb.figure.name}: {len(shown)} pictures"
