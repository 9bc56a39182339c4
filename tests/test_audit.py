"""The audit: what it says of the released loop is what that loop does, and its control convicts and acquits rightly."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from earlib import load_concept
from earlib.book.ledger import Ledger, findings
from earlib.chapters import audit
from earlib.concepts import PromptPair
from earlib.erasure import erase
from earlib.erasure.lessons import Lessons
from earlib.erasure.presets import EAR, EAR_RELEASED, EAR_SHARED, recipe, with_settings
from earlib.errors import UserError
from earlib.evaluate.rate import Estimate, Rate
from earlib.miniworld.captions import plain_caption
from earlib.miniworld.scenes import render, sample_scenes
from earlib.sweeps.written import control_concepts

from .conftest import tiny_janus
from .test_erasure import CONCEPT

PROMPTS = [pair.target for pair in CONCEPT.pairs]
FAST = {"lr": 1e-3, "windows.length": 4}


@pytest.fixture(scope="module")
def tokens(generator):
    return torch.randint(
        0, generator.codebook_size, (len(PROMPTS), generator.num_codes), generator=torch.Generator().manual_seed(0)
    )


def test_released_states_have_read_the_prompt_once(generator, tokens):
    """The loop's calls, written out: the raw prompt for the first state, one embedded token for each later one."""
    found = audit.released_states(generator, PROMPTS, tokens)
    ids = torch.tensor([generator.tokenizer(PROMPTS[1])["input_ids"]])
    first = generator.trunk(
        inputs_embeds=generator.model.get_input_embeddings()(ids), use_cache=False
    ).last_hidden_state[0, -1]
    x = generator.model.prepare_embeddings_for_image_generation(tokens[1:2, 4:5])
    later = generator.trunk(inputs_embeds=x, use_cache=False).last_hidden_state[0, 0]
    assert torch.allclose(found[1, 0], first, atol=1e-5) and torch.allclose(found[1, 5], later, atol=1e-5)


def test_words_reach_later_tokens_in_drawing_and_not_in_the_loop(generator, tokens):
    reach = audit.reach(generator, CONCEPT.pairs, tokens)
    assert all(values.shape == tokens.shape for values in reach.values())
    assert (reach["released"][:, 1:] == 0).all() and (reach["released"][:, 0] > 0).all()
    assert (reach["full"][:, 1:] > 0).all() and (reach["apart"] > 0).all()


def test_released_pictures_are_those_that_training_draws(generator):
    r = with_settings(EAR_RELEASED, {"windows.length": 4, "guidance": 3})
    lessons = Lessons(generator, CONCEPT.pairs, r, seed=5)
    begun = [lessons.begin(i, None) for i in range(len(lessons))]
    assert torch.equal(
        audit.released_pictures(generator, PROMPTS, 5, 3.0), torch.stack([lesson.tokens_T for lesson in begun])
    )


def test_three_streams_are_unrelated(mini):
    pairs = load_concept("church").pairs[:30]
    loss, same_prompt = audit.three_streams(mini, pairs, 0, 1.75)
    assert loss.low < 6 < loss.high + 0.5 and 0.8 < same_prompt.value < 1.1


def test_every_step_is_watched():
    generator = tiny_janus(seed=4)
    base = {
        name: generator.trunk.get_parameter(name).clone()
        for name in erase(generator, CONCEPT, with_settings(EAR, FAST), progress=False).tensors
    }
    released, full = (audit.step_study(generator, CONCEPT, with_settings(r, FAST)) for r in (EAR_RELEASED, EAR))
    assert [row["tensor"] for row in released] == list(base)
    for row in released:
        if row["part"] in ("q_proj", "k_proj"):
            assert row["later"] < 1e-3 * row["first"] and row["noise"] < 0.01, "only momentum moves them"
            assert row["moved"] > 0 and row["later_path"] > 0.5
        else:
            assert row["later"] > 0.1 * row["first"] and row["noise"] > 0.1
    assert all(row["later"] > 0.01 * row["first"] for row in full)
    assert all(torch.equal(generator.trunk.get_parameter(name), t) for name, t in base.items()), (
        "watching leaves the model as it was"
    )
    with pytest.raises(UserError, match="one step a window"):
        audit.step_study(generator, CONCEPT, with_settings(EAR_SHARED, FAST | {"batch": 3}))


def test_control_sets_name_the_concept_only_where_they_should():
    church, car = load_concept("church"), load_concept("car")
    sets = control_concepts(church, car, 30)
    assert list(sets) == ["church", "car", "nothing"] and all(
        len(c.pairs) == 30 and c.paper == church.paper for c in sets.values()
    )
    assert not any("church" in p.target + p.replacement for name in ("car", "nothing") for p in sets[name].pairs)
    assert all(p.target == p.replacement for p in sets["nothing"].pairs)
    with pytest.raises(UserError, match="only 40 pairs of 'car' are without church; 50 are needed"):
        control_concepts(church, car, 50)


@pytest.mark.parametrize("name, harmless", [("ear-shared", True), ("ear", False), ("ear-released", False)])
def test_nothing_to_erase_changes_nothing_only_along_one_picture(generator, name, harmless, tokens):
    nothing = dataclasses.replace(CONCEPT, name="nothing", pairs=tuple(PromptPair(p, p) for p in PROMPTS))
    erasure = erase(generator, nothing, recipe(name, **FAST), progress=False)
    assert bool(audit.change_of(generator, erasure).any()) is not harmless
    assert (erasure.info["windows_trained"] == 0) is harmless
    same = audit.alike(generator, erasure, erasure)
    assert same is None if harmless else same == pytest.approx(1, abs=1e-4)
    found = audit.unlearned(generator, erasure, tokens)
    assert found == {"slope": 0, "share": 0} if harmless else found["slope"] != 0
    assert name != "ear-released" or found["slope"] > 0, "towards the average token"


def test_control_in_small(mini, tmp_path, monkeypatch):
    monkeypatch.setattr("earlib.evaluate.pictures.CACHE", tmp_path / "pictures")
    church = load_concept("church")
    sets = control_concepts(church, load_concept("boat"), 1)
    stream = audit.released_pictures(mini, PROMPTS, 0, 1.75)
    wanted = {name: sets[name] for name in ("church", "nothing")}
    caps = {"direct": 2, "neighbours": 1}
    base = audit.rates(mini, church, None, 0, caps)
    records, rows, erasures = audit.control(
        mini, church, wanted, recipe("ear-shared", "mini", pairs=1), [0], caps, stream, tmp_path
    )
    assert (
        set(erasures) == {("church", 0), ("nothing", 0)}
        and [r["trained_on"] for r in records] == ["church"] * 3 + ["nothing"] * 3
    )
    assert [r["value"] for r in base] == [r["value"] for r in records[3:]] and {r["n"] for r in records} == {2, 9}
    assert {r["condition"] for r in base} == {"base"} and {r["condition"] for r in records} == {"erased"}
    one, none = rows
    assert one["cosine_concept"] is None and one["slope"] != 0 and one["skipped"] == 0 and min(one["losses"]) > 0.05
    assert (
        none["cosine_concept"] is None
        and none["slope"] == 0
        and none["skipped"] == len(none["losses"]) == 12
        and max(none["losses"]) < 1e-9
    )


def test_scores_fall_when_pictures_stand_beside_other_prompts():
    scenes = sample_scenes(24, [3], pairs=0.0)
    images, prompts = render(scenes), [plain_caption(scenes.record(i)) for i in range(len(scenes))]
    chance = np.random.default_rng(0)
    mixed = audit.pairings(images, prompts, np.stack([chance.permutation(len(images)) for _ in range(200)]))
    in_order = audit.pairings(images, prompts, np.arange(len(images))[None])
    assert mixed["by key"].mean() > 0.6 > 0.4 > mixed["as released"].mean()
    assert np.allclose(in_order["as released"], mixed["by key"]) and np.allclose(in_order["by key"], mixed["by key"])


def test_padding_that_is_read_shifts_predictions(generator, tokens):
    prompts = ["a church", "a red church on a hill by the sea", "a church by the sea"]
    found, padded = audit.padding_drift(generator, prompts, tokens)
    assert found.value > 0 and found.n == 2 and padded == pytest.approx(2 / 3)
    with pytest.raises(UserError, match="equally long"):
        audit.padding_drift(generator, ["a church", "a house"], tokens[:2])


def test_ledger_keeps_records_and_words():
    ledger = Ledger(subject="church", profile="mini")
    found = {"value": 0.125, "n": 8, "low": 0.1, "high": 0.5, "rows": []}
    assert ledger.keep("share", "some_rate", "windows", found, ".0f", 100, recipe="ear") == "12 [10–50]"
    assert ledger.keep("plain", "length", "windows", 3, ".1f") == "3.0" == ledger.words["plain"]
    assert Ledger().keep("rate", "some_rate", "windows", Rate(3, 4)) == Rate(3, 4).text()
    assert Ledger().keep("gap", "gap", "windows", Estimate(-0.2, 8, -0.5, 0.1)) == "-0.2 [-0.5 to 0.1]"
    assert Ledger().keep("none", "gap", "windows", Estimate(-0.001, 8, -0.002, 0.001), "+.1f") == "+0.0 [+0.0 to +0.0]"
    ledger.keep("share", "some_rate", "windows", found, ".0f", 100, recipe="ear")
    first, second = ledger.records
    assert first["value"] == 0.125 and first["recipe"] == "ear" and first["subject"] == "church" and "rows" not in first
    assert second["n"] == 1 and second["low"] is None


def test_findings_are_all_twenty_with_their_lines_and_say_what_was_not_measured():
    text = findings({"tail_mini": "13.2%"})
    parts = re.split(r"(?m)^(?=\*\*D\d+ )", text)[1:]
    assert [re.match(r"\*\*(D\d+) ", part).group(1) for part in parts] == [f"D{i}" for i in range(1, 21)]
    assert all(re.search(r"/blob/[0-9a-f]{40}/\S+\)", part) and "What follows:" in part for part in parts)
    d9 = next(part for part in parts if "**D9 " in part)
    assert "13.2%" in d9 and "not measured in this run" in d9 and "ear_train_nudity.py#L101-L111" in d9
