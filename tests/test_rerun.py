"""The driver of the notebooks: what it refuses, what it names, what it skips."""

from __future__ import annotations

import json
import os
import sys
from functools import partial

import papermill
import pytest

from earlib.book import rerun as book_rerun
from earlib.book.freshness import run_key, shared_hash
from earlib.book.manifest import load_manifest
from earlib.errors import UserError

from .synthetic import edit_notebook, write_manifest, write_notebook


@pytest.fixture
def rerun(kernels):
    return partial(book_rerun.rerun, kernels=kernels)


@pytest.fixture
def root(tmp_path):
    write_notebook(tmp_path / "notebooks" / "one.ipynb", "print(count * rate, name)")
    write_manifest(tmp_path, {"name": "one"})
    return tmp_path


def status(root, name="one", profile="mini"):
    return json.loads((root / "_build" / "executed" / profile / "status" / f"{name}.json").read_text())


# ---------------------------------------------------------------- refused before anything runs


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"cuont": 4}, "has no parameter 'cuont'.*did you mean 'count'"),
        ({"rate": "1e-4"}, r"'rate' must be a float like 0\.5, not '1e-4' \(YAML reads 1e-4 as text"),
        ({"count": 2.5}, "'count' must be a int like 3"),
        ({"count": True}, "'count' must be a int"),
        ({"name": 7}, "'name' must be a str"),
    ],
)
def test_parameters_that_the_notebook_does_not_take(root, parameters, message, rerun):
    write_manifest(root, {"name": "one", "profiles": {"mini": parameters}})
    with pytest.raises(UserError, match=message):
        rerun(root=root)
    assert not (root / "_build").exists()


def test_a_notebook_without_a_parameters_cell_takes_none(root, rerun):
    write_notebook(root / "notebooks" / "one.ipynb", "1", parameters=None)
    write_manifest(root, {"name": "one", "parameters": {"count": 1}})
    with pytest.raises(UserError, match="has none"):
        rerun(root=root)


@pytest.mark.parametrize(
    "entries, more, message",
    [
        ([{"name": "two"}], {}, "notebook 'two' is not there: notebooks/two.ipynb"),
        ([{"name": "one", "minuets": 3}], {}, "unknown field 'minuets': did you mean 'minutes'"),
        ([{"name": "one"}, {"name": "one"}], {}, "two notebooks are called 'one'"),
        ([{"name": "one", "parameters": [1]}], {}, "are mappings"),
        ([{"name": "one"}], {"timeuot": 3}, "did you mean 'timeout'"),
    ],
)
def test_a_wrong_manifest(root, entries, more, message):
    write_manifest(root, *entries, **more)
    with pytest.raises(UserError, match=message):
        load_manifest(root)


def test_broken_files(root, rerun):
    (root / "notebooks" / "one.ipynb").write_text("{")
    with pytest.raises(UserError, match="no Python notebook"):
        rerun(root=root)
    (root / "book" / "manifest.yml").write_text("notebooks: [")
    with pytest.raises(UserError, match="not valid YAML"):
        rerun(root=root)
    with pytest.raises(UserError, match="no such manifest"):
        rerun(root=root / "book")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"profile": "mnii"}, "unknown profile 'mnii': did you mean 'mini'"),
        ({"only": ["on"]}, "no notebook 'on' in profile 'mini': did you mean 'one'"),
    ],
)
def test_wrong_arguments(root, arguments, message, rerun):
    with pytest.raises(UserError, match=message):
        rerun(root=root, **arguments)


def test_a_profile_runs_the_notebooks_that_name_it(root, capsys, rerun):
    write_notebook(root / "notebooks" / "two.ipynb", "1")
    write_manifest(root, {"name": "one"}, {"name": "two", "profiles": {"janus-pro-1b": {"rate": 1}}})
    planned = rerun("janus-pro-1b", dry_run=True, root=root)
    assert [(s["name"], s["state"], s["parameters"]) for s in planned] == [
        ("two", "planned", {"rate": 1.0})
    ]  # a whole number is a float where one is due
    assert "would run" in capsys.readouterr().out and not (root / "_build").exists()


# ---------------------------------------------------------------- runs


def test_done_skipped_and_run_again(root, rerun):
    code = """import json, os, sys, pathlib
folder = pathlib.Path(os.environ["EARLIB_RUN"])
(folder / "results.json").write_text("[]")
(folder / f"trace-{count}").touch()
print(count, rate, sys.executable, os.getcwd(), os.environ["MPLBACKEND"])"""
    path = write_notebook(root / "notebooks" / "one.ipynb", code)
    write_manifest(root, {"name": "one", "parameters": {"rate": 1}})
    [first] = rerun(root=root)
    executed = root / "_build" / "executed" / "mini" / "notebooks" / "one.ipynb"
    text = executed.read_text()
    assert (
        first["state"] == "done" == status(root)["state"] and first["results"] and first["parameters"] == {"rate": 1.0}
    )
    assert f"3 1.0 {sys.executable} {root.resolve()} module://matplotlib_inline" in text

    edit_notebook(path, lambda nb: nb.cells[0].update(source="# Better prose"))
    assert rerun(root=root) == [first] and executed.read_text() == text  # prose is no reason to run

    write_manifest(root, {"name": "one", "parameters": {"rate": 1, "count": 5}})
    [second] = rerun(root=root)
    runs = root / "runs" / "mini"
    assert second["key"] != first["key"] and "5 1.0" in executed.read_text()
    assert (runs / "one" / "trace-5").exists() and (
        runs / "one.old" / "trace-3"
    ).exists()  # nothing resumes from the old run, nothing is lost

    (runs / "one" / "results.json").unlink()
    [planned] = rerun(dry_run=True, root=root)
    assert planned["state"] == "planned"


def keys(root) -> dict[str, str]:
    shared = shared_hash(root)
    return {entry.name: run_key(entry, {}, shared, root) for entry in load_manifest(root)}


def test_the_key_holds_code_and_data(root):
    before = keys(root)
    for name in ("earlib/errors.py", "earlib/erasure/train.py", "data/mini/weights", "earlib/generators/janus.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1")
        assert keys(root) != before, name
        before = keys(root)
    for name in ("earlib/book/build.py", "earlib/__main__.py", "data/sweeps/order.jsonl", "earlib/chapters/other.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1")
        assert keys(root) == before, name


def test_a_changed_figure_of_one_chapter_runs_one_notebook_again(root):
    """A notebook hangs on its own chapter, on what that imports, wherever it does, and on the core; on the tables that
    the manifest names, and on no other."""
    files = {
        "earlib/__init__.py": "",
        "earlib/erasure/train.py": "from ..plots import style",
        "earlib/plots/style.py": "",
        "earlib/plots/lines.py": "",
        "earlib/chapters/one.py": "def figure():\n    from ..plots import lines",
        "earlib/chapters/two.py": "from earlib.plots.style import setup",
        "data/sweeps/order.jsonl": "",
        "book/sweeps.yml": "order: {seeds: [0]}\nwindow: {seeds: [0]}",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    write_notebook(root / "notebooks" / "one.ipynb", "%matplotlib inline\nfrom earlib.chapters import one")
    write_notebook(root / "notebooks" / "two.ipynb", "import earlib.chapters.two as two")
    write_notebook(root / "notebooks" / "none.ipynb", "import earlib")
    write_manifest(
        root, {"name": "one"}, {"name": "two", "tables": ["order"], "reads": ["extra.yml"]}, {"name": "none"}
    )
    (root / "extra.yml").write_text("")
    for name, text, again in (
        ("earlib/chapters/one.py", files["earlib/chapters/one.py"] + "  # another colour", {"one"}),
        ("earlib/plots/lines.py", "x = 1", {"one"}),
        ("earlib/chapters/two.py", files["earlib/chapters/two.py"] + "\nx = 1", {"two"}),
        ("data/sweeps/order.jsonl", "{}", {"two"}),
        ("book/sweeps.yml", "order: {seeds: [0]}\nwindow: {seeds: [1]}", set()),
        ("book/sweeps.yml", "order: {seeds: [1]}\nwindow: {seeds: [1]}", {"two"}),
        ("extra.yml", "x: 1", {"two"}),
        ("earlib/plots/style.py", "x = 1", {"one", "two", "none"}),
        ("earlib/erasure/train.py", files["earlib/erasure/train.py"] + "\nx = 1", {"one", "two", "none"}),
    ):
        before = keys(root)
        (root / name).write_text(text)
        assert {entry for entry, key in keys(root).items() if key != before[entry]} == again, name


WAITS = """
import time
from pathlib import Path
Path("met-{0}").touch()
until = time.time() + 60
while not Path("met-{1}").exists():
    assert time.time() < until, "the other one never came"
    time.sleep(0.05)
"""


def test_notebooks_run_side_by_side_but_for_one_that_is_alone(root, rerun):
    """Two that wait for each other can only finish together; the third finds that both have finished."""
    for name, other in (("a", "b"), ("b", "a")):
        write_notebook(
            root / "notebooks" / f"{name}.ipynb",
            WAITS.format(name, other) + f"time.sleep(0.3)\nPath('done-{name}').touch()",
        )
    write_notebook(
        root / "notebooks" / "timed.ipynb",
        "from pathlib import Path\nassert Path('done-a').exists() and Path('done-b').exists()",
    )
    write_manifest(root, {"name": "timed", "alone": True}, {"name": "a"}, {"name": "b"})
    found = rerun(root=root, jobs=2)
    assert [(s["name"], s["state"]) for s in found] == [("timed", "done"), ("a", "done"), ("b", "done")], (
        "in the manifest's order"
    )
    assert rerun(root=root, jobs=2) == found, "finished runs are skipped, whichever process ran them"


@pytest.mark.parametrize("jobs", [1, 2])
def test_failures_are_named_and_nothing_broken_is_left(root, capsys, jobs, rerun):
    write_notebook(root / "notebooks" / "slow.ipynb", "import time\ntime.sleep(60)")
    write_notebook(root / "notebooks" / "wrong.ipynb", "raise ValueError('no church')")
    write_notebook(root / "notebooks" / "dead.ipynb", "import os\nos._exit(1)")
    write_manifest(root, {"name": "slow", "timeout": 1}, {"name": "wrong"}, {"name": "dead"}, {"name": "one"})
    slow, wrong, dead, one = rerun(root=root, jobs=jobs)
    assert (slow["state"], wrong["state"], dead["state"], one["state"]) == ("timeout", "failed", "failed", "done")
    assert (
        "longer than 1 s" in slow["error"]
        and "ValueError: no church" in wrong["error"]
        and "kernel died" in dead["error"]
    )
    folder = root / "_build" / "executed" / "mini"
    assert sorted(os.listdir(folder / "notebooks")) == ["one.ipynb"] and (folder / "failed" / "wrong.ipynb").exists()
    assert status(root, "slow")["state"] == "timeout"

    os.remove(folder / "notebooks" / "one.ipynb")  # so that it would have to run again
    stopped = rerun(only=["wrong", "one"], stop=True, root=root)
    assert [s["name"] for s in stopped] == ["wrong"]  # a failed run is tried again, and the book stops there
    assert "wrong" in capsys.readouterr().out


def test_exit_status(root, monkeypatch, capsys):
    monkeypatch.setattr(
        "earlib.book.rerun.rerun",
        lambda *_, **more: [
            {"name": "slow", "profile": "mini", "state": "timeout", "error": "a cell took longer than 1 s"}
        ],
    )
    assert book_rerun.main() == 1 and "slow timed out: a cell took longer than 1 s" in capsys.readouterr().err
    monkeypatch.setattr("earlib.book.rerun.rerun", lambda *_, **more: [{"name": "one", "state": "done"}])
    assert book_rerun.main() == 0


@pytest.mark.parametrize("failures, state", [(1, "done"), (2, "failed")])
def test_a_kernel_that_does_not_start_is_tried_once_more(root, monkeypatch, failures, state, rerun):
    calls = []

    def execute(source, output, **_):
        calls.append(source)
        if len(calls) <= failures:
            raise RuntimeError("Kernel died before replying to kernel_info")
        write_notebook(root / output, "1")

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    [only] = rerun(root=root)
    assert only["state"] == state and len(calls) == 2
