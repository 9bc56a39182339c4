"""The page on Janus-Pro: what it counts, and what it says of the two recipes."""

from __future__ import annotations

import dataclasses
import re
import weakref
from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import earlib
from earlib import ROOT, generators, memory
from earlib.book import cards
from earlib.book.default import BEGUN_MARK, DEFAULT_MARK, MERGE_MARK, begun_sentence, default_table, merge_sentence
from earlib.book.manifest import load_manifest, parameters
from earlib.book.work import WORK, WORK_MARK, least_seconds, most_bytes, work_table
from earlib.erasure import retain_prompts, trajectories
from earlib.erasure.presets import recipe
from earlib.erasure.training_free import without_training
from earlib.evaluate.rate import Rate
from earlib.runs import read_json
from earlib.sweeps import read

from .conftest import tiny_janus
from .stand_in import Meter, code_of

PAGE = (ROOT / "book" / "janus_pro.md").read_text(encoding="utf-8")


def test_what_each_step_takes():
    memory_of, times = cards.cards_table().split("\n\n")[:2]
    assert "| weights alone | 3.1 GB | 13.3 GB |" in memory_of and "none of these" not in memory_of
    assert re.search(r"with `recommended` \| \d+ s / .* \| – / ", times), "7B has no room on a T4"
    assert [cards.said(seconds) for seconds in (0.4, 42, 600, 9000)] == ["<1 s", "42 s", "10 min", "2.5 h"]
    marks = (cards.CARDS_MARK, WORK_MARK, DEFAULT_MARK, BEGUN_MARK, MERGE_MARK)
    assert all(mark in PAGE for mark in marks) and "--recipe recommended" in PAGE


def test_what_ear_asks_of_the_model(tmp_path):
    meter, pairs = Meter("janus-pro-1b"), 2
    with ExitStack() as stack:
        stack.enter_context(patch.object(trajectories, "CACHE", tmp_path))
        for each in meter.patches():
            stack.enter_context(each)
        concept = earlib.load_concept("church", "janus-pro-1b")
        concept = dataclasses.replace(concept, pairs=concept.pairs[:pairs])
        earlib.erase(generators.load_generator("janus-pro-1b"), concept, "ear", progress=False)
        found = meter.found()
    assert sum(int(n) * times for n, times in found["drawn"].items()) == cards.EAR_ASKS["drawn"] * pairs
    assert (found["read"], found["learned"]) == (cards.EAR_ASKS["read"] * pairs, cards.EAR_ASKS["learned"] * pairs)


class Peak(TorchDispatchMode):
    """The most storages of one size that live at a time."""

    def __init__(self, size):
        super().__init__()
        self.size, self.living, self.most = size, set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()).nbytes() == self.size:
                if (key := storage._cdata) not in self.living:
                    self.living.add(key)
                    weakref.finalize(storage, self.living.discard, key)
                self.most = max(self.most, len(self.living))
        return out


def test_the_closed_form_takes_the_matrices_that_are_counted():
    width = 128
    generator, concept = tiny_janus(width=width, layers=2), earlib.load_concept("church", "janus-pro-1b")
    retained = retain_prompts(concept, "janus-pro-1b")[:4]
    with Peak(8 * width**2) as peak:
        tensors, _ = without_training(generator, concept.pairs[:4], recipe("recommended"), retain=retained)
    assert peak.most == cards.SQUARES
    sizes = memory.sizes_of_generator(generator)
    assert 2 * sum(t.numel() for t in tensors.values()) == cards.changed_bytes(sizes, "recommended")


def test_why_recommended_comes_first():
    """What the page says of the two recipes holds in the table that it shows."""
    frame = read.load("main", complete=False)
    for _, rows in frame.groupby("concept"):
        one, other = (rows[rows.label == name].iloc[0] for name in ("recommended", "ear"))
        assert one.neighbours.minus(other.neighbours).above and one.seconds.value < other.seconds.value
    assert default_table().count("which should stay |") == frame.concept.nunique()
    assert "`leace` and `recommended`" in merge_sentence() and "`ear`" not in merge_sentence()


def test_a_begun_picture_in_a_sentence():
    of = lambda metric, recipe, hits: {"run": "what_remains", "kind": "6 rows given", "subject": "church"} | {
        "metric": metric, "recipe": recipe, **Rate(hits, 20).flat()
    }  # fmt: skip
    told = begun_sentence([of("prefix_rate", "recommended", 19), of("rows_alone_rate", None, 4)])
    assert "one in 95 % after `recommended`" in told and "one in 20 % (n = 20)" in told and begun_sentence([]) == ""


def test_notebooks_on_janus_pro():
    """What was counted is of the manifest's parameters, and fits on the smallest card."""
    profile, entries = "janus-pro-1b", load_manifest()
    known = read_json(ROOT / WORK)[profile]
    there = [entry for entry in entries if profile in entry.profiles]
    for entry in there:
        again = f"python -m tests.stand_in --only {entry.name}"
        assert known[entry.name]["parameters"] == parameters(entry, profile), again
        assert known[entry.name]["code"] == code_of(entry), again
        assert most_bytes(memory.KNOWN[profile], known[entry.name]) < 15e9
    rows = work_table().splitlines()
    assert len(there) >= 5 and WORK_MARK in (ROOT / "book" / "janus_pro.md").read_text()
    assert all(f"[{entry.name}](../{entry.path})" in row for entry, row in zip(there, rows[2:]))
    one, many = (least_seconds(memory.KNOWN[profile], {"drawn": {n: 1}, "read": 0, "learned": 0}, "T4") for n in "18")
    assert 4 < one < many < 8 * one, "a batch reads the weights once"
