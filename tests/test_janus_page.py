"""The page on Janus-Pro: what it counts, and what it says of the two recipes."""

from __future__ import annotations

import dataclasses
import re
import shlex
import weakref
from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import earlib
from earlib import ROOT, generators, memory
from earlib.arguments import parser
from earlib.book import cards, choice
from earlib.book.choice import (
    AGAINST,
    LEFT,
    PAPER,
    Row,
    attacks_table,
    best,
    choice_table,
    chosen,
    factor_sentence,
    merge_section,
    merges,
    small,
    weights_sentence,
    withstanding,
)
from earlib.book.manifest import load_manifest, parameters
from earlib.book.work import WORK, WORK_MARK, least_seconds, most_bytes, work_table
from earlib.erasure import retain_prompts, trajectories
from earlib.erasure.files.merge import write_merged
from earlib.erasure.presets import PRESETS, recipe
from earlib.erasure.recipe import Recipe
from earlib.erasure.store import Erasure
from earlib.erasure.training_free import without_training
from earlib.errors import UserError
from earlib.evaluate.judges import JUDGES
from earlib.evaluate.rate import Rate
from earlib.generators.profiles import PROFILES
from earlib.runs import read_json, write_json
from earlib.sweeps import read

from .conftest import tiny_janus
from .stand_in import Meter, code_of

PAGE = (ROOT / "book" / "janus_pro.md").read_text(encoding="utf-8")


def test_what_each_step_takes():
    memory_of, times = cards.cards_table().split("\n\n")[:2]
    assert "| weights alone | 3.1 GB | 13.3 GB |" in memory_of
    no_card = {line.split("`")[1] for line in memory_of.splitlines() if "none of these" in line}
    assert no_card == {"concept-ablation", "robust"}, "on 7B"
    assert re.search(r"with `recommended` \| \d+ s \|.*\| – \| \d+ s \|", times), "7B has no room on a T4"
    assert [cards.said(seconds) for seconds in (0.4, 42, 600, 9000)] == ["<1 s", "42 s", "10 min", "2.5 h"]
    marks = [cards.CARDS_MARK, WORK_MARK, *(mark for name, mark in vars(choice).items() if name.endswith("_MARK"))]
    assert len(marks) >= 7 and all(mark in PAGE for mark in marks)


@pytest.mark.parametrize("name", cards.ASKS)
def test_what_a_recipe_asks_of_the_model(name, tmp_path):
    meter, pairs = Meter("janus-pro-1b"), recipe(name).batch
    with ExitStack() as stack:
        stack.enter_context(patch.object(trajectories, "CACHE", tmp_path))
        for each in meter.patches():
            stack.enter_context(each)
        concept = earlib.load_concept("church", "janus-pro-1b")
        concept = dataclasses.replace(concept, pairs=concept.pairs[:pairs])
        earlib.erase(generators.load_generator("janus-pro-1b"), concept, name, progress=False)
        found = meter.found()
    asks = cards.ASKS[name]
    assert sum(int(n) * times for n, times in found["drawn"].items()) == asks["drawn"] * pairs + asks["others"]
    assert (found["read"], found["learned"]) == (asks["read"] * pairs, asks["learned"] * pairs)


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


def test_which_recipe_for_what():
    """The rule, on rows that are made up; and what the page says follows from the shipped tables."""
    row = lambda direct, neighbours, unfinished=0: Row(*(Rate(n, 100) for n in (direct, 0, neighbours, unfinished)))
    known = {"rest": row(30, 99), "ruin": row(0, 98, 40), "fine": row(5, 90), "even": row(4, 90), "less": row(0, 80)}
    anything = lambda name: True
    assert best(known, anything) == "even" and best(known, lambda name: name == "rest") is None
    of = chosen()
    assert of[0][1] == "recommended" and "--recipe recommended" in PAGE
    assert tuple(name for _, name, _ in of[-2:]) == PAPER
    for (_, name, found), fits in zip(of[1:], (merges, small, withstanding().__contains__, small)):
        assert name is None or (fits(name) and found.direct.value <= LEFT)
    table = choice_table()
    assert all(f"| {need} | {f'`{name}` |' if name else choice.NONE}" in table for need, name, _ in of)
    also = choice.also_withstanding(name for _, name, _ in of)
    assert not {name for _, name, _ in of} & set(also) and set(also) <= withstanding()
    assert set(choice.also_withstanding(())) > set(also), "that of the table is one of them"
    assert all(f"`{name}` (neighbours" in table for name in also)


def test_who_finishes_the_begun_picture_of_one_concept_does_not_withstand(monkeypatch):
    def of(**hits):
        return {(name, "prefix"): Rate(k, 12) for name, k in ({"oracle": 2} | hits).items()}

    def standing(**each):
        monkeypatch.setattr(choice, "attack_rates", lambda: {choice.ALL: {}} | each)
        return withstanding()

    assert standing(church=of(some=2), nudity=of(some=3)) == {"some"}
    assert standing(church=of(some=2), nudity=of(some=11)) == set()
    assert standing(church=of(some=2, other=2), nudity=of(some=3)) == {"some"}, "the other was attacked on one only"
    assert standing() == set()


@pytest.mark.parametrize("name", [name for name, known in PRESETS.items() if isinstance(known, Recipe)])
def test_what_can_be_merged(name):
    """Is what `Erasure.merged` takes."""
    generator = tiny_janus()
    erasure = Erasure(name, recipe(name, generator).as_dict(), "church", generator.fingerprint, {})
    if merges(name):
        assert erasure.merged(generator)
    else:
        with pytest.raises(UserError, match="acts where words stand"):
            erasure.merged(generator)


def test_what_the_page_merges_is_loaded_by_its_lines(tmp_path, monkeypatch):
    section = merge_section()
    assert merges(re.search(r"--recipe (\S+)", section)[1]) and "`leace` and `recommended`" in section
    monkeypatch.chdir(tmp_path)
    generator, found = tiny_janus(), {}
    write_merged(
        generator, Erasure("ear", recipe("ear", generator).as_dict(), "c", generator.fingerprint, {}), "church-free"
    )
    exec(re.search(r"```python\n(.*?)```", section, re.S)[1], found)
    assert found["model"].config.model_type == "janus" and found["processor"].tokenizer


def test_what_attacks_bring_back():
    """Both recipes, the one against attacks and the oracle, with every attack and every concept of the table."""
    table, rows = attacks_table(), read.rows("attacks", complete=False)
    names = ("`recommended`", *(f"`{name}`" for name in PAPER), f"`{AGAINST}`", "the oracle")
    assert all(f"| {name} | " in table for name in names)
    assert all(
        row["concept"] in table and row["settings"]["attack"].replace("none", "by name") in table for row in rows
    )


def test_how_much_longer_than_the_bound(tmp_path):
    row = {"what": "drawing", "case": "earlib", "n": 1, "times_floor": 9.0, "times_floor_of_cores": 8.0}
    rows = [row, row | {"n": 64, "times_floor_of_cores": 4.0}, row | {"what": "erasing, ear", "n": 30}]
    write_json(tmp_path / "cost" / "benchmark.json", {"rows": rows + [row | {"case": "one by one"}]})
    assert "8 times such a bound to draw one picture, 4 times to draw 64 together" in factor_sentence(tmp_path)
    assert factor_sentence(tmp_path / "none") == ""


def test_the_concept_that_the_page_shows():
    """Is read, judged by a judge that there is, and has phrases for `ecgvf`."""
    concept = earlib.load_concept(ROOT / "book" / "lantern.json")
    assert concept.judge["name"] in JUDGES and concept.phrases and concept.pairs
    assert "```{literalinclude} lantern.json" in PAGE


def test_commands_that_are_made_are_understood():
    """Those that stand in the page are read in test_house.py."""
    commands = re.findall(r"^python -m earlib (.+)$", merge_section().replace("\\\n", " "), re.M)
    asked = [parser().parse_args(shlex.split(line)) for line in commands]
    assert [one.command for one in asked] == ["erase", "merge"] and asked[0].out in asked[1].erasure
    assert f"hf download {PROFILES['janus-pro-1b']} " in weights_sentence()


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
