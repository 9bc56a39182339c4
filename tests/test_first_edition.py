"""Erasures that the first edition saved, of both families: their folders are still read. The models that they were made
for are gone, and they are not switched on in others."""

from __future__ import annotations

import json

import pytest
import torch

from earlib import ROOT
from earlib.erasure.store import Erasure
from earlib.errors import UserError

FOLDER = ROOT / "tests" / "data" / "first-edition"
RECIPES = json.loads((FOLDER / "recipes.json").read_text())


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_an_erasure_of_the_first_edition_is_read(name, tmp_path):
    erasure = Erasure.load(FOLDER / name)
    assert type(erasure) is Erasure and erasure.name == RECIPES[name] and erasure.concept == "church"
    erasure.save(tmp_path / name)
    again = Erasure.load(tmp_path / name)
    assert again.recipe == erasure.recipe and again.tensors.keys() == erasure.tensors.keys()
    assert all(torch.equal(tensor, again.tensors[part]) for part, tensor in erasure.tensors.items())


def test_it_is_not_taken_for_one_of_this_model(mini):
    with pytest.raises(UserError, match="was made for a model with fingerprint .*, not for 'mini'"):
        Erasure.load(FOLDER / "mini-spm", mini)
