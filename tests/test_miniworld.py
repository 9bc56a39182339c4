"""MiniWorld, its language, and the training loop of the mini models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earlib.miniworld.captions import INDIRECT, NOUNS, describe, vocabulary, words
from earlib.miniworld.fit import fit, learning_rate
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


def test_learning_rate_warms_up_and_ends_at_zero():
    rates = [learning_rate(s, 1000, 1.0) for s in range(1000)]
    assert rates[0] < 0.05 and max(rates) == pytest.approx(1.0) and rates[-1] < 1e-4
    assert all(a >= b for a, b in zip(rates[60:], rates[61:]))


@pytest.mark.parametrize("muon", [False, True])
def test_training_goes_on_where_it_stopped(tmp_path, muon):
    """Stopped after 30 of 60 steps and started again: the same weights as never stopped."""

    def run(folder, stop=None):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

        def loss_at(step):
            if step == stop:
                raise KeyboardInterrupt
            x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
            return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}

        matrices = [model[0].weight] if muon else ()
        try:
            log = fit(
                {"model": model},
                loss_at,
                folder=folder,
                steps=60,
                lr=5e-2,
                save_every=0.0,
                matrices=matrices,
                matrix_lr=0.2,
            )
        except KeyboardInterrupt:
            return None
        return model, log

    whole, log = run(tmp_path / "whole")
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert run(tmp_path / "broken", stop=30) is None
    again, log_again = run(tmp_path / "broken")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))
    assert log == log_again
