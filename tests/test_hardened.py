"""The recipe against attacks: its adversary gets better, begun pictures are taught from where they were begun on, and a
training that was killed goes on with what its adversaries had found."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from earlib.erasure import erase, hardened
from earlib.erasure.lessons import Lessons
from earlib.erasure.objective import log_likelihood
from earlib.erasure.presets import recipe
from earlib.erasure.room import _rows_and_logits
from earlib.errors import UserError
from tests.conftest import tiny_janus
from tests.test_gates import CONCEPT, PAIRS, small


def test_the_adversary_finds_words_that_bring_the_concept_back():
    g = tiny_janus(seed=3)
    lessons = Lessons(g, PAIRS, small("robust", **{"adversary": 12}), 0)
    before = lessons.memory["adversaries"].clone()
    lesson = lessons.begin(0, nullcontext)
    after = lessons.memory["adversaries"]
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1:], after[1:])

    def likely(vectors_KD):
        with torch.no_grad(), hardened.spoken(g, lesson.place_BP, vectors_KD):
            z_BTV = g.image_logits(g.hidden_states(lesson.alone, lesson.concept_BT))
            return log_likelihood(z_BTV, lesson.concept_BT).mean().item()

    assert likely(after[0]) > likely(before[0]) + 1e-3
    assert all(p.grad is None for p in g.trunk.parameters())


@pytest.mark.parametrize("axes", [{"adversary": 2}, {"begun": 0.5}, {"adversary": 2, "begun": 0.5}])
def test_the_room_that_is_asked_for_has_every_row(axes):
    chosen = small("robust", **{"adversary": 0, "begun": 0.0} | axes)
    lesson = Lessons(tiny_janus(seed=3), PAIRS, chosen, 0).begin(0, nullcontext)
    kept = chosen.retain.pictures if chosen.retain.weight else 0
    assert _rows_and_logits(chosen)[0] == len(lesson.tokens_RT) + kept


def test_begun_pictures_teach_from_where_they_were_begun_on():
    lesson = Lessons(tiny_janus(seed=3), PAIRS, small("robust", adversary=0, begun=0.5), 0).begin(0, nullcontext)
    plain, begun = lesson.tokens_RT.split(2)
    given = (~lesson.counts_RT[2:]).sum(1)
    assert ((given >= 4) & (given <= 8) & (given % 4 == 0)).all()  # whole rows of four, half of the picture at most
    for row in range(2):
        n = given[row]
        assert torch.equal(begun[row, :n], lesson.concept_BT[row, :n]) and torch.equal(begun[row, n:], plain[row, n:])
    assert torch.isfinite(lesson.losses(0, 16)).all()


def test_a_killed_training_goes_on_with_what_was_found(tmp_path, monkeypatch):
    g, r = tiny_janus(seed=3), small("robust", batch=1, passes=6, adversary=1)
    whole = erase(g, CONCEPT, r, progress=False)
    found, calls = hardened.Hardened.find_words, []

    def killed(lesson, student):
        calls.append(lesson.number)
        if lesson.number == 11 and len(calls) == 12:
            raise KeyboardInterrupt
        return found(lesson, student)

    monkeypatch.setattr(hardened.Hardened, "find_words", killed)
    with pytest.raises(KeyboardInterrupt):
        erase(g, CONCEPT, r, out=tmp_path / "run", progress=False)
    again = erase(g, CONCEPT, r, out=tmp_path / "run", progress=False)
    assert calls[12:] == [10, 11] and all(torch.equal(whole.tensors[n], t) for n, t in again.tensors.items())


def test_what_cannot_be_hardened():
    with pytest.raises(UserError, match="adversary and begun need divergence=kl"):
        recipe("ear", "mini", begun=0.5)
