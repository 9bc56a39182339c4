"""Prompts that a model does not understand are told, drawn hotter or declined; training pictures are found."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from earlib.__main__ import main
from earlib.chapters import fallback as chapter
from earlib.concepts import holds_word, load_concept
from earlib.errors import UserError
from earlib.evaluate.fallback import Told, inspect, nearest, unsure
from earlib.miniworld.trunk import Sizes, trained_on
from tests.conftest import tiny_janus

FINE = Told("a church", (), (), 1.0, 2.0)


@pytest.mark.parametrize("family", ["next-token", "next-scale"])
def test_signals_of_prompts(family):
    from tests.test_nextscale import tiny as tiny_scales

    g = tiny_janus() if family == "next-token" else tiny_scales(text_length=24)
    prompts = ["a red church", "a red church", "zork zork"]
    told = inspect(g, prompts)
    assert told[2].unknown == ("zork",) and not told[0].unknown and told[0].pull >= 0 and told[0].entropy > 0
    one = inspect(g, prompts[2:])[0]  # read alone or among others, it says the same
    assert one.pull == pytest.approx(told[2].pull, rel=1e-3) and one.entropy == pytest.approx(told[2].entropy, rel=1e-3)


def test_who_is_unsure_and_why():
    known = [replace(FINE, pull=pull) for pull in np.linspace(0.5, 1, 20)]
    why = unsure([FINE, replace(FINE, unknown=("zork",)), replace(FINE, pull=0.1)], known)
    assert why[0] == "" and why[1] == "never seen: zork" and why[2].startswith("says little: 0.100 nats")


def test_the_nearest_training_picture_is_found_in_any_part():
    parts = [part for part in trained_on(3, sizes=Sizes(drawing=4, chunk=2))]
    assert [len(part) for part in parts] == [8, 4] and parts[0].shape[1:] == (48, 48, 3)
    images = np.stack([parts[1][2], 255 - parts[0][0]])
    images[0, 0, 0] ^= 1
    first, other = nearest(images, parts)
    assert first.index == 10 and 0 < first.distance < 0.1 < other.distance
    with pytest.raises(UserError, match="no training pictures"):
        nearest(images, [])


def test_generate_inspects_and_declines(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("earlib.generators.load_generator", lambda *a, **k: tiny_janus())
    monkeypatch.setattr("earlib.evaluate.fallback.known_prompts", lambda profile: ["a red church", "a boat"])
    (tmp_path / "p.txt").write_text("a boat\nzork zork\n")  # to this random model a church says less than a boat
    command = ["generate", "--model", "mini", "--prompts", str(tmp_path / "p.txt"), "--out"]
    assert main([*command, str(tmp_path / "a"), "--unsure", "decline"]) == 0
    assert "declined: 'zork zork': never seen: zork" in capsys.readouterr().err
    assert not any("zork" in file.name for file in (tmp_path / "a").glob("*.png"))
    assert main([*command, str(tmp_path / "b"), "--unsure", "hotter"]) == 0
    own = tiny_janus().temperature
    rows = [json.loads(line) for line in (tmp_path / "b" / "index.jsonl").read_text().splitlines()]
    assert {row["prompt"]: row["temperature"] for row in rows} == {"a boat": own, "zork zork": 1.3 * own}


def test_the_chapters_prompts_and_detectors():
    """Kinds of prompts share none; a contradiction says two things; a signal that separates has the whole area; odd
    prompts that train are not those that test."""
    prompts = chapter.asked(6, ["church", "night"])
    assert {kind: len(group) for kind, group in prompts.items()} == {
        "known": 12, "odd": 6, "unknown": 6, "contradictory": 6,
    }  # fmt: skip
    flat = [p for group in prompts.values() for p in group]
    assert len(set(flat)) == len(flat)
    known, odd = np.arange(10.0), np.arange(20.0, 26.0)
    assert chapter.area(known, odd).value == 1 and chapter.area(known, odd, -1).value == 0
    assert chapter.area(known, known).value == 0.5 and chapter.area(known, known).low < 0.5
    points = chapter.curve(known, odd)
    assert points[0] == (0, 0) and (0, 100) in points and points[-1] == (100, 100)
    church = load_concept("church", "mini")
    pairs, tests = chapter.halves(church)
    assert len(chapter.augmented(church).pairs) == len(church.pairs) and not {p.target for p in pairs} & set(tests)
    assert not any(holds_word(pair.replacement, church.words) for pair in pairs)
