"""Erasures that the first edition saved, of both families: they load, and draw the same codes."""

from __future__ import annotations

import hashlib
import json

import pytest

import earlib
from earlib import ROOT
from earlib.erasure.store import Erasure

FOLDER = ROOT / "tests" / "data" / "first-edition"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@pytest.fixture(scope="module")
def models():
    return {name: earlib.load_generator(name) for name in ("mini", "mini-var")}


@pytest.mark.parametrize("name", sorted(EXPECTED["erasures"]))
def test_an_erasure_of_the_first_edition_draws_the_same_codes(name, models):
    expected = EXPECTED["erasures"][name]
    generator = models["mini-var" if name.startswith("mini-var") else "mini"]
    erasure = Erasure.load(FOLDER / name, generator)
    assert type(erasure) is Erasure and erasure.name == expected["recipe"]
    with erasure.on(generator):
        codes = generator.sample(EXPECTED["prompts"], EXPECTED["seeds"])
    assert hashlib.sha256(codes.numpy().tobytes()).hexdigest()[:16] == expected["codes"]
