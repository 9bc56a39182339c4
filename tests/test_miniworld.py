"""MiniWorld, its language, and the training loop of the mini models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlib.miniworld.captions import INDIRECT, NOUNS, describe, vocabulary, words
from earlib.miniworld.models import build_processor
from earlib.miniworld.scenes import COLOURS, OBJECTS, PLACES, STYLES, Scenes, render, sample_scenes


def scene(**fields) -> Scenes:
    values = {
        "object": 0,
        "colour": 0,
        "place": 0,
        "style": 0,
        "object2": -1,
        "colour2": -1,
        "position": 1,
        "flip": 0,
        "variant": 0,
    } | fields
    return Scenes(**{k: np.array([v]) for k, v in values.items()})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_one_seed_one_world(seed, n):
    a, b = sample_scenes(n, seed), sample_scenes(n, seed)
    assert np.array_equal(render(a), render(b)) and describe(a, seed) == describe(b, seed)
    images = render(a)
    assert images.shape == (n, 48, 48, 3) and images.dtype == np.uint8
    assert np.array_equal(images[n // 2], render(a[n // 2])[0]), "a picture does not depend on its batch"


@pytest.mark.parametrize(
    "field, count",
    [("object", 10), ("colour", 5), ("place", 5), ("style", 4), ("position", 3), ("flip", 2), ("variant", 4)],
)
def test_every_attribute_is_visible(field, count):
    images = [render(scene(**{field: v}))[0].astype(int) for v in range(count)]
    for i in range(count):
        for j in range(i):
            assert np.abs(images[i] - images[j]).max() > 40, f"{field} {i} and {j} look the same"


def test_two_things_are_both_there_and_different():
    scenes = sample_scenes(4000, 0, pairs=0.5)
    two = scenes.object2 >= 0
    assert abs(two.mean() - 0.5) < 0.03
    assert (scenes.object[two] != scenes.object2[two]).all()
    assert ((scenes.colour2 >= 0) == two).all()


def test_captions_are_true_and_every_word_is_known():
    scenes = sample_scenes(3000, 1)
    known = set(vocabulary())
    for i, (caption, plain) in enumerate(zip(describe(scenes, 2), describe(scenes, 0, plain=True))):
        record = scenes.record(i)
        assert set(words(caption)) <= known and set(words(plain)) <= known
        assert record["colour"] in plain and NOUNS[record["object"]][0] in plain
        said = [
            c for c in COLOURS if c in words(caption.replace("green hill", "hill"))
        ]  # a hill may be green whatever stands on it
        assert set(said) <= {record["colour"], record["colour2"]}, caption
        told = [o for o in OBJECTS for noun in NOUNS[o] if f" {noun} " in f" {caption} "]
        indirect = any(t.format(c=record["colour"]) in caption for t in INDIRECT[record["object"]])
        assert indirect or record["object"] in told, caption


def test_tokenizer_spells_the_language_and_nothing_else():
    tokenizer = build_processor().tokenizer
    unk = tokenizer.unk_token_id
    for caption in describe(sample_scenes(500, 3), 3):
        assert unk not in tokenizer(caption)["input_ids"], caption
    assert unk in tokenizer("a zeppelin")["input_ids"]
    assert tokenizer("A Red CHURCH")["input_ids"] == tokenizer("a red church")["input_ids"]


def test_names_and_counts():
    assert len(OBJECTS) * len(COLOURS) * len(PLACES) * len(STYLES) == 1000 and "figure" in OBJECTS
