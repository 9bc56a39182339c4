"""Run folders, atomic files, the results table."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from earlib import runs
from earlib.errors import UserError
from earlib.runs import (
    Run,
    append_line,
    collect,
    locked,
    notebook_folder,
    plain,
    progress_bar,
    read_json,
    read_lines,
    waiting,
    write_json,
    write_text,
)


def test_json_is_plain_and_strict(tmp_path):
    path = write_json(
        tmp_path / "new" / "x.json",
        {"a": np.float32(0.5), "b": np.arange(2), "c": math.nan, "d": tmp_path, 3: (True, None)},
    )
    assert read_json(path) == {"a": 0.5, "b": [0, 1], "c": None, "d": str(tmp_path), "3": [True, None]}
    with pytest.raises(TypeError):
        plain({"x": object()})


def test_a_write_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = write_text(tmp_path / "x.txt", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]


def test_what_cannot_be_written_or_read_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "file" / "below.txt", "x")
    (tmp_path / "broken.json").write_text('{"a": 1,\n oops}')
    with pytest.raises(UserError, match="line 2"):
        read_json(tmp_path / "broken.json")
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "none.json")


def test_a_line_cut_by_a_kill_is_dropped(tmp_path):
    for step in range(3):
        append_line(tmp_path / "m.jsonl", {"step": step})
    with open(tmp_path / "m.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in read_lines(tmp_path / "m.jsonl")] == [0, 1, 2]
    append_line(
        tmp_path / "m.jsonl", {"step": 3, "said": "a\u2028b"}
    )  # a separator that only splitlines takes for the end of a line
    assert [row["step"] for row in read_lines(tmp_path / "m.jsonl")] == [0, 1, 2, 3]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_lines_in_another_encoding_are_one_line(encoding, tmp_path):
    (tmp_path / "index.jsonl").write_bytes('{"file": "café.png"}\n{"file": "b.png"}\n'.encode(encoding))
    with pytest.raises(UserError, match="line 1 is not valid JSON in UTF-8"):
        read_lines(tmp_path / "index.jsonl")


def test_run_states_and_resume(tmp_path):
    config = {"recipe": {"windows": {"length": 24}}, "seed": 0}
    run = Run(tmp_path / "run", config)
    assert run.state == "init"
    with pytest.raises(ZeroDivisionError), run:
        assert run.state == "running"
        run.log(step=0, loss=1.0)
        run.log(step=1, loss=0.5)
        raise ZeroDivisionError
    assert run.state == "failed" and "ZeroDivisionError" in read_json(run.folder / "status.json")["error"]
    again = Run(tmp_path / "run", config)
    again.rewind(1)
    assert again.metrics == [{"step": 0, "loss": 1.0}]
    with again:
        again.save_results([{"metric": "kid", "value": 0.1}])
    assert again.state == "done" and again.results[0]["value"] == 0.1 and again.checkpoints.is_dir()


def test_a_folder_of_something_else_is_refused(tmp_path):
    Run(tmp_path / "run", {"recipe": {"windows": {"length": 24}}})
    with pytest.raises(UserError, match=r"recipe\.windows\.length: 24 there, 12 here"):
        Run(tmp_path / "run", {"recipe": {"windows": {"length": 12}}})
    with pytest.raises(UserError, match="begun before"):
        Run(tmp_path / "run", {"recipe": {"windows": {"length": 24}}}, resume=False)
    write_text(tmp_path / "photos" / "holiday.txt", "")
    with pytest.raises(UserError, match="holds no run"):
        Run(tmp_path / "photos", {})
    with pytest.raises(UserError, match="is a file"):
        Run(tmp_path / "photos" / "holiday.txt", {})


def test_collect_takes_finished_runs_only(tmp_path):
    for name, state in (("a", "done"), ("b/c", "done"), ("d", "failed"), ("e.old", "done")):
        run = Run(tmp_path / name, {})
        run.save_results([{"metric": "kid", "value": 1}])
        run.status(state)
    write_json(tmp_path / "plain" / "results.json", [{"metric": "fid"}])
    assert [r["run"] for r in collect(tmp_path)] == ["a", "b/c", "plain"]
    write_json(tmp_path / "plain" / "results.json", {"no": "list"})
    with pytest.raises(UserError, match="list of records"):
        collect(tmp_path)


def test_notebook_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EARLIB_RUN", str(tmp_path / "driven"))
    assert notebook_folder("x") == tmp_path / "driven" and (tmp_path / "driven").is_dir()


def test_an_erasure_that_several_notebooks_ask_for_is_trained_once(generator, monkeypatch):
    """The second call loads what the first made; another seed, other pairs or another recipe are another erasure."""
    import earlib.erasure as methods
    from earlib import load_concept, recipe
    from earlib.book.once import erased

    trained = []
    erase = methods.erase
    monkeypatch.setattr(methods, "erase", lambda *args, **more: trained.append(args[3]) or erase(*args, **more))
    church, few = load_concept("church", "mini"), recipe("ear", "mini", pairs=2, **{"windows.length": 8})
    first, again, other = (erased(generator, church, few, seed) for seed in (0, 0, 1))
    assert first.info == again.info and first.tensors.keys() == again.tensors.keys() and trained == [0, 0, 1]
    assert all(t.equal(again.tensors[name]) for name, t in first.tensors.items())
    assert any(not t.equal(other.tensors[name]) for name, t in first.tensors.items())


def test_a_bar_that_goes_to_a_file_is_a_line_now_and_then(capsys, monkeypatch):
    """Its first state, one every 30 seconds, its end; of short bars that follow it nothing."""
    clock = itertools.count(1000)  # seconds: one goes by whenever it is looked at
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(runs._Lines, "last", -math.inf)
    for _ in progress_bar(range(100), desc="drawing", mininterval=0, miniters=1):
        pass
    with progress_bar(total=5, desc="writing", leave=False, mininterval=0, miniters=1) as bar:
        for i in range(5):
            bar.update()
            bar.set_postfix_str(str(i))
    with progress_bar(total=1, desc="hidden", disable=True) as bar:
        bar.update()
    said = capsys.readouterr().err
    # what another test left behind, a thread or a bar, may speak on this clock: only these bars' lines count
    shares = [int(re.fullmatch(r"drawing: +(\d+)%.*", s)[1]) for s in said.splitlines() if s.startswith("drawing")]
    assert "\r" not in said and (shares[0], shares[-1]) == (0, 100) and 3 <= len(shares) <= 6
    assert "writing" not in said and "hidden" not in said


def test_a_wait_that_nothing_can_measure_says_so_now_and_then(capsys):
    with waiting("building", every=0.02):
        time.sleep(0.2)
    said = capsys.readouterr().err.splitlines()
    assert said and all(re.fullmatch(r"building, 0 s", line) for line in said)
    with waiting("building", every=5):
        pass
    assert capsys.readouterr().err == ""


def test_no_row_is_lost_when_several_write_one_file(tmp_path):
    """Rows that others add are there while one of them puts the file into order, again and again."""
    file = tmp_path / "table.jsonl"

    def add(who):
        for i in range(30):
            append_line(file, {"who": who, "i": i})
            if i % 5 == 0:
                with locked(tmp_path):
                    rows = sorted(read_lines(file), key=lambda row: (row["who"], row["i"]))
                    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert sorted((row["who"], row["i"]) for row in read_lines(file)) == [(w, i) for w in range(4) for i in range(30)]


def test_the_lock_of_a_file_keeps_others_out(tmp_path):
    order = []
    (tmp_path / "lock").touch()

    def enter(who):
        with locked(tmp_path / "lock"):
            order.append(who)
            time.sleep(0.05)
            order.append(who)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(enter, range(3)))
    assert order[::2] == order[1::2], "one leaves before the next one enters"
    with locked(tmp_path / "none"):
        assert not (tmp_path / "none").exists(), "what is to become a folder must not become a file"


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"state": "asleep"}', '{"state": []}'])
def test_a_status_that_is_none_is_named(content, tmp_path):
    Run(tmp_path, {"a": 1})
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(UserError, match="status.json: names no state of a run"):
        assert Run(tmp_path, {"a": 1}).state
