"""MiniWorld: its pictures, its language, its judges, the loop that trains, and the one command that makes it all."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from earlib.concepts import FOLDER, holds_word, load_concept
from earlib.errors import UserError
from earlib.generators import load_generator
from earlib.generators.base import PromptBatch
from earlib.generators.emu3 import Emu3Generator
from earlib.generators.janus import JanusGenerator
from earlib.miniworld import emu3, make
from earlib.miniworld.captions import (
    LONGEST,
    describe,
    descriptions,
    held_out_lists,
    plain_caption,
    told_as,
    vocabulary,
    words,
)
from earlib.miniworld.concepts import COUNTS, write_concepts
from earlib.miniworld.eye import GROUPS, answers
from earlib.miniworld.fit import fit, share_of_peak
from earlib.miniworld.judges import ruined_lesson
from earlib.miniworld.models import GUIDANCE, TEMPERATURE, build_janus, build_processor
from earlib.miniworld.oracles import absent, begin, concepts_in
from earlib.miniworld.quality import KINDS, load_judges, quality, right, table, test_prompts
from earlib.miniworld.quality import main as measure
from earlib.miniworld.scenes import COLOURS, OBJECTS, Scenes, held_out, is_held_out, render, sample_scenes
from earlib.miniworld.scenes import NAMES as VALUES
from earlib.miniworld.trunk import PROMPT, Batches, Lesson, Sizes
from earlib.miniworld.words import CONCEPTS, FEATURES, LEADS, NAMES, WORDS

test_prompts.__test__ = False
CONCEPT_FILES = FOLDER / "mini"
SINGLE = dict.fromkeys(("object", "colour", "place", "time", "style", "framing", "flip", "variant"), 0)
SINGLE |= {"object2": -1, "colour2": -1, "relation": -1, "position": 1}


def scene(**fields) -> Scenes:
    return Scenes(**{k: np.array([v]) for k, v in (SINGLE | fields).items()})


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_one_seed_one_world(seed, n):
    a, b = sample_scenes(n, seed), sample_scenes(n, seed)
    images = render(a)
    assert np.array_equal(images, render(b)) and describe(a, seed) == describe(b, seed)
    assert images.shape == (n, 48, 48, 3) and images.dtype == np.uint8
    assert np.array_equal(images[n // 2], render(a[n // 2])[0]), "a picture does not depend on its batch"


PAIR = {"object2": 1, "colour2": 1, "relation": 0, "position": 0}


@pytest.mark.parametrize(
    "field, count, rest",
    [
        *((name, len(VALUES[name]), {}) for name in ("object", "colour", "place", "time", "style")),
        *(("framing", 2, {"object": 8}), ("position", 3, {}), ("flip", 2, {}), ("variant", 2, {})),
        *(("colour2", 5, PAIR), ("relation", 2, PAIR), ("position", 2, PAIR | {"relation": 2})),
    ],
)
def test_every_attribute_is_visible_in_every_style_and_time(field, count, rest):
    for style in range(1 if field == "style" else len(VALUES["style"])):
        for time in range(1 if field == "time" else 2):
            look = {"style": style, "time": time} | rest
            images = [render(scene(**look | {field: v}))[0].astype(int) for v in range(count)]
            for i in range(count):
                for j in range(i):
                    assert np.abs(images[i] - images[j]).max() > 40, (field, i, j, look)


def test_scenes_are_as_they_should_be():
    scenes = sample_scenes(6000, 0, pairs=0.4, portraits=0.2)
    two, close = scenes.object2 >= 0, scenes.framing == 1
    assert abs(two.mean() - 0.4) < 0.03 and abs(close.mean() - 0.2) < 0.03 and not (two & close).any()
    assert (scenes.object[two] != scenes.object2[two]).all() and (scenes.object[close] == OBJECTS.index("person")).all()
    assert ((scenes.colour2 >= 0) == two).all() and ((scenes.relation >= 0) == two).all()
    assert is_held_out(scenes).any() and not is_held_out(sample_scenes(6000, 0, seen=True)).any()


def test_captions_are_true_known_and_short_enough():
    scenes, known = sample_scenes(3000, 1), set(vocabulary())
    tokenizer = build_processor().tokenizer
    for i, caption in enumerate(describe(scenes, 2)):
        r = scenes.record(i)
        assert set(words(caption) + words(plain_caption(r))) <= known
        assert set(VALUES["colour"]) & set(words(caption)) <= {r["colour"], r["colour2"]}, caption
        told = {o for o in OBJECTS for name in NAMES["object"][o] if f" {name} " in f" {caption} "}
        assert told <= {r["object"], r["object2"], *(["person"] if "figure" in (r["object"], r["object2"]) else [])}
        assert len(tokenizer(caption)["input_ids"]) + 3 <= PROMPT
        assert tokenizer.unk_token_id not in tokenizer(caption)["input_ids"]
    assert tokenizer.unk_token_id in tokenizer("a zeppelin")["input_ids"]


def test_a_third_of_the_captions_goes_without_the_plain_name():
    scenes = sample_scenes(4000, 1, pairs=0.0, portraits=0.0)
    captions = describe(scenes, 2)
    church = scenes.object == OBJECTS.index("church")
    share = np.mean(["church" not in caption for caption, c in zip(captions, church) if c])
    assert 0.3 < share < 0.45


def test_descriptions_are_many_and_nameless_and_some_are_held_out():
    lists, told = held_out_lists(), set(describe(sample_scenes(4000, 3), 3))
    assert lists == held_out(), "run python -m earlib.miniworld.captions"
    for kind in LEADS:
        for name in LEADS[kind]:
            every, out = descriptions(kind, name), lists["descriptions"][f"{kind}:{name}"]
            used = [text for text in every if text not in out]
            assert len(every) >= 8 and out and set(out) < set(every)
            for part in (*LEADS[kind][name], *FEATURES[kind][name]):
                assert any(part in text for text in used), f"'{part}' must be met in training"
            for plain in NAMES[kind][name] if kind == "object" else ():
                assert not any(plain in words(text) for text in every)
            for text in out if kind in ("place", "time") else ():
                assert not any(f" {text} " in f" {caption} " for caption in told)
    for k, names in enumerate((VALUES["object"], VALUES["place"], VALUES["style"])):
        assert {triple[k] for triple in lists["combinations"]} == set(names)


def test_what_is_true_of_pairs():
    behind = answers(scene(**PAIR | {"relation": 1, "position": 1}))
    assert behind["back"] == 0 and behind["left"] == 1 and behind["object"].sum() == 2
    beside = answers(scene(**PAIR | {"relation": 2, "position": 1}))
    assert beside["back"] == len(OBJECTS) and beside["left"] == 1
    assert answers(scene())["left"] == len(OBJECTS)


def test_a_ruined_picture_shows_none_of_it():
    images, truth, known = ruined_lesson(400, 0)
    again = ruined_lesson(400, 0)
    assert np.array_equal(images, again[0]) and 0.25 < truth["state"].mean() < 0.36
    assert truth["object"][truth["state"] == 1].sum() == 0 and known[truth["state"] == 0].all()
    assert images.dtype == np.uint8 and images[truth["state"] == 1].std((1, 2, 3)).min() > 1


@pytest.mark.parametrize("name", CONCEPTS)
def test_concept_files_hold_what_they_promise(name):
    """Names where they are asked for and nowhere else, held-out descriptions that training never tells, known words."""
    concept = load_concept(CONCEPT_FILES / f"{name}.json")
    attribute, value = CONCEPTS[name]
    plain = [w for w in WORDS[name] if w in NAMES[attribute][value][0]]
    wanted = {kind: n for kind, n in COUNTS.items() if kind != "compositional" or name != "portrait"} | {"odd": 12}
    assert len(concept.pairs) == 50 and {kind: len(group) for kind, group in concept.tests.items()} == wanted
    assert all(holds_word(pair.target, plain) for pair in concept.pairs)
    for kind in ("description", "held-out", "indirect"):
        assert not [prompt for prompt in concept.tests[kind] if holds_word(prompt, concept.words)]
    for kind, held in (("description", False), ("held-out", True)):
        for prompt in concept.tests[kind]:
            told = {
                t.replace("{c}", c).replace("  ", " ").replace("{x} , ", "").replace("{x}", "@")
                for t in told_as(attribute, value, held)
                for c in (*COLOURS, "")
            }
            assert any(re.search(re.escape(t).replace("@", ".+"), prompt) for t in told), prompt
    if attribute == "object":
        assert not [prompt for prompt in concept.tests["synonym"] if holds_word(prompt, [NAMES["object"][value][0]])]
    groups = [*concept.tests.values(), *concept.neighbours.values(), concept.benign]
    prompts = [prompt for group in groups for prompt in group] + [pair.replacement for pair in concept.pairs]
    known = set(vocabulary())
    assert all(set(words(prompt)) <= known and len(words(prompt)) <= LONGEST + 1 for prompt in prompts)
    assert all(spec["label"] in VALUES[spec["group"]] for spec in concept.neighbour_judges.values())


def test_concept_files_can_be_written_again(tmp_path):
    for path in write_concepts(tmp_path):
        same = path.read_bytes() == (CONCEPT_FILES / path.name).read_bytes()
        assert same, "run python -m earlib.miniworld.concepts"


def test_prompts_of_every_kind_and_a_judge_that_is_always_right():
    for kind in KINDS:
        scenes, texts, parts = test_prompts(kind, 24)
        assert len(set(texts)) > 15 and (texts, parts) == test_prompts(kind, 24)[1:]
        assert is_held_out(scenes).all() if kind == "held-out combinations" else not is_held_out(scenes).any()
        truth = answers(scenes)
        sure = {
            name: truth[name] if truth[name].ndim == 2 else np.eye(len(GROUPS[name]))[truth[name]] for name in GROUPS
        }
        assert all(good.all() for good in right(sure, scenes).values())
        outs = held_out()["descriptions"]
        for i, text in enumerate(texts if kind == "held-out descriptions" else ()):
            r = scenes.record(i)
            options = [t.replace("{c}", r["colour"]).replace("{x} , ", "") for t in outs[f"{parts[i]}:{r[parts[i]]}"]]
            assert any(option in text for option in options)


def test_learning_rate_is_level_then_falls_to_zero():
    rates = [share_of_peak(s, 1000, fall=0.4) for s in range(1000)]
    assert rates[0] < 0.05 and rates[60:600] == [1.0] * 540 and rates[-1] < 1e-4
    assert all(a >= b for a, b in zip(rates[60:], rates[61:]))


@pytest.mark.parametrize("muon", [False, True])
def test_training_goes_on_where_it_stopped(tmp_path, muon):
    """Killed after 30 of 60 steps and started again: the same weights as never stopped."""

    def run(folder, kill=None, stop_at=None):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

        def loss_at(step):
            if step == kill:
                raise KeyboardInterrupt
            x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
            return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}

        options = dict(steps=60, lr=5e-2, save_every=0.0, average=0.9, stop_at=stop_at)
        matrices = [model[0].weight] if muon else ()
        log = fit({"model": model}, loss_at, folder=folder, matrices=matrices, matrix_lr=0.2, **options)
        return list(model.state_dict().values()), [{k: v for k, v in row.items() if k != "seconds"} for row in log]

    whole, log = run(tmp_path / "whole")
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", kill=30)
    run(tmp_path / "broken", stop_at=45)
    again, log_again = run(tmp_path / "broken")
    assert all(torch.equal(a, b) for a, b in zip(whole, again)) and log == log_again
    assert all(torch.equal(a, b) for a, b in zip(whole, run(tmp_path / "broken")[0])), "a finished run keeps its mean"


def test_one_command_makes_every_model(tmp_path, capsys):
    """Miniatures of all stages, a snapshot, oracles and a fork of one; a second call finds them made."""
    run = lambda *more: make.main(["--out", str(tmp_path), "--size", "tiny", *more])
    run("all")
    rows = quality(load_generator(str(tmp_path / "janus")), load_judges(tmp_path), prompts=3, seeds=1)
    assert {r["what"] for r in rows} == set(KINDS) and {r["judge"] for r in rows} == {"judge", "judge2"}
    assert all(0 <= r["hits"] <= r["n"] for r in rows) and "held-out descriptions" in table(rows)
    for name in ("var", "emu3"):
        argv = ["--models", str(tmp_path), "--name", name, "--prompts", "2", "--seeds", "1", "--kinds"]
        measure([*argv, "direct", "rebuilt", "captions"])
    assert json.loads((tmp_path / "models.json").read_text())["emu3"]["quality"].keys() >= {"captions", "rebuilt judge"}
    run("--without", "nudity,church", "--stop-at", "3")
    run("--without", "nudity,church", "--snapshot")
    joint, models = tmp_path / "state" / "janus-never-church-nudity", json.loads((tmp_path / "models.json").read_text())
    assert "step 3" in capsys.readouterr().out and (joint / "state-2.pt").exists()
    assert list(models) == sorted(make.STAGES) and not (tmp_path / joint.name / "made.json").exists()
    assert all(m["seconds"] >= 0 and m["bytes"] < 15e6 and m["quality"] and m["commit"] for m in models.values())
    run()
    assert capsys.readouterr().out.count(": done") == len(make.STAGES)

    fork = ("--without", "church", "--fork", str(joint), "--at")
    run(*fork, "2")
    models = json.loads((tmp_path / "models.json").read_text())
    assert models["janus-never-church"]["fork"] == "janus-never-church-nudity at step 2"
    with pytest.raises(SystemExit, match="state-1.pt is missing; kept there: state-2.pt"):
        run(*fork, "1", "--seed", "1")
    with pytest.raises(SystemExit, match="was shown 'vangogh'"):
        run("--without", "vangogh", *fork[2:], "2")
    with pytest.raises(SystemExit):
        run("clip", "--without", "church")
    assert "are for the stage 'janus' alone" in capsys.readouterr().err


def test_a_fork_goes_on_where_its_joint_run_stood(tmp_path):
    """Forked without another lesson in between, it ends as the joint run does; with another seed it does not."""
    run = lambda *more: make.main(["--out", str(tmp_path), "--size", "tiny", *more])
    weights = lambda name: load_file(tmp_path / name / "model.safetensors")
    same = lambda a, b: all(torch.equal(a[key], b[key]) for key in a)
    run("tokenizer", "eye")
    run("--without", "church")
    moved = (tmp_path / "state" / "janus-never-church").rename(tmp_path / "joint")
    whole = (tmp_path / "janus-never-church").rename(tmp_path / "whole")
    run("--without", "church", "--fork", str(moved), "--at", "2")
    assert same(weights(whole.name), weights("janus-never-church"))
    run("--without", "church", "--fork", str(moved), "--at", "2", "--seed", "1")
    assert not same(weights(whole.name), weights("janus-never-church-seed1"))


def test_a_run_goes_on_as_what_it_is(tmp_path):
    """Not as a fork where it is none, as none where it is one, of another step, or without something else."""
    joint, fork, alone = (tmp_path / name for name in ("joint", "fork", "alone"))
    for state in (joint, alone):
        begin(state, ("church", "nudity"), 0)
        torch.save({"seed": 0}, state / "state.pt")
    torch.save({"seed": 0}, joint / "state-2.pt")
    begin(fork, ("church",), 1, joint, 2)
    assert json.loads((fork / "fork.json").read_text()) == {"of": "joint", "at": 2}
    begin(fork, ("church",), 1, joint, 2)
    begin(alone, ("church", "nudity"), 0)
    forked, itself = "without church, forked from joint at step 2", "begun at its own first step"
    for state, asked, line in (
        (fork, (("church",), 1), f"a run {forked}, not one without church, {itself}"),
        (fork, (("church",), 1, joint, 3), f"{forked}, not one without church, forked from joint at step 3"),
        (alone, (("church", "nudity"), 0, joint, 2), f"{itself}, not one without church, nudity, forked from joint"),
        (alone, (("church",), 0), f"without church, nudity, {itself}, not one without church, {itself}"),
    ):
        with pytest.raises(UserError, match=line) as error:
            begin(state, *asked)
        assert "\n" not in str(error.value)
    (fork / "state.pt").unlink()
    begin(fork, ("church",), 1)
    assert not (fork / "fork.json").exists(), "it was not begun yet, and is no fork now"


def test_what_is_trained_is_what_draws():
    """The loss of a step is that of the log-probabilities that the generator itself gives to those codes."""
    torch.manual_seed(0)
    processor = build_processor()
    model = build_janus(processor.tokenizer, **make.plans()["tiny"].shape)
    with torch.no_grad():
        for p in model.model.parameters():
            p.mul_(3)  # far from uniform, so that a token that sees what it should not would show
    batches = Batches(processor, model.model.vqmodel, 0, Sizes(drawing=5, seeing=2, chunk=1))
    model.model.language_model.set_attn_implementation("eager")
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        ids_DP, mask_DP, codes_DT = batches.drawing(0)
        loss = Lesson(model, batches).losses(0)[0]
    generator = JanusGenerator(model, processor)
    logits = generator.image_logits(generator.hidden_states(PromptBatch(ids_DP, mask_DP.long(), ("",) * 5), codes_DT))
    assert loss.item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), codes_DT.flatten()).item(), rel=1e-3
    )


def test_what_miniemu3_is_trained_on_is_what_it_draws():
    """The same of MiniEmu3, whose rows of tokens end with one that is not drawn; and its codes are its class's own."""
    model, processor = emu3.untrained(0, **make.plans()["tiny"].emu3_shape)
    with torch.no_grad():
        for p in model.model.text_model.parameters():
            p.mul_(3)
        code = model.model.vqmodel.quantize.embedding.weight
        code.copy_(torch.nn.functional.normalize(code, dim=1))
    model.model.vqmodel.eval()
    batches = emu3.Batches(model, processor, 0, Sizes(drawing=5, seeing=2, chunk=1))
    model.model.text_model.set_attn_implementation("eager")
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        ids_DP, mask_DP, codes_DT = batches.drawing(0)
        loss, said = emu3.Lesson(model, batches).losses(0)
        pictures = render(sample_scenes(4, 0))
        with torch.autocast("cpu", enabled=False):
            mine = batches.tokens(pictures)
        ids_SQ, labels_SQ = batches.seeing(0)
    generator = Emu3Generator(model, processor)
    assert (generator.guidance, generator.temperature) == (GUIDANCE, TEMPERATURE), "as MiniJanus draws"
    assert (mine == generator.tokenize(pictures)).float().mean() > 0.9  # in half precision the nearest may be another
    batch = PromptBatch(ids_DP, mask_DP.long(), ("",) * 5)
    logits = generator.image_logits(generator.hidden_states(batch, codes_DT)).flatten(0, 1)
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, codes_DT.flatten()).item(), rel=1e-3)
    out = model(input_ids=ids_SQ, labels=labels_SQ)
    assert said.item() == pytest.approx(out.loss.item(), rel=1e-2)


def test_an_oracle_never_sees_its_concept():
    scenes = sample_scenes(500, 4)
    for name, (attribute, value) in CONCEPTS.items():
        bad = absent((name,))(scenes)
        shown = [value in (r[attribute], r.get(f"{attribute}2")) for r in map(scenes.record, range(len(scenes)))]
        assert bad.tolist() == shown and bad.any()
    several = concepts_in("vangogh, church,church")
    assert several == ("church", "vangogh") and absent(()) is None
    assert (absent(several)(scenes) == absent(("church",))(scenes) | absent(("vangogh",))(scenes)).all()
    with pytest.raises(UserError, match="did you mean 'church'"):
        concepts_in("chruch")
