"""Sweeps: what is asked for, one row of a table, tables read and pooled, and the command that fills them, killed and
resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import yaml

from earlib import ROOT, compose, erase
from earlib.__main__ import main
from earlib.chapters import composition
from earlib.concepts import holds_word, list_concepts, load_concept, normal
from earlib.erasure.change import change_size
from earlib.erasure.joint import load_joint, telling_words
from earlib.erasure.naming import name_of
from earlib.erasure.presets import recipe as preset
from earlib.errors import UserError
from earlib.evaluate.drift import draw_tokens
from earlib.evaluate.rate import Estimate, Rate
from earlib.miniworld.development import development, nonsense
from earlib.runs import read_json
from earlib.sweeps import attacked, check, compare, read, several, workers, written
from earlib.sweeps.keys import concept_of, weights
from earlib.sweeps.measure import choose, erasure_of, known_to_oracle, load_model, measure
from earlib.sweeps.plan import ASKED, TABLE_VERSION, load_sweeps
from earlib.sweeps.read import flat_records, load, rows
from earlib.sweeps.run import sweep
from earlib.sweeps.workers import Queues
from tests.conftest import tiny_janus

FEW = {"direct": 4, "synonym": 2, "description": 1, "held-out": 1, "compositional": 2, "indirect": 2}
FEW |= {"neighbours": 9, "benign": 3}
QUICK = {"pairs": 2, "windows.length": 8, "gate.threshold": 0.0}
TINY = {
    "question": "Does it work?",
    "concepts": ["church"],
    "seeds": [0, 1],
    "pictures": FEW,
    "cases": [{"recipe": "ear-shared", "label": "both", "settings": QUICK | {"windows.length": [4, 8]}}],
}


@pytest.fixture(scope="module")
def tiny():
    return tiny_janus()


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    """The folder of a tiny model, for processes that load one."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.model.save_pretrained(folder)
    tiny.processor.save_pretrained(folder)
    return str(folder)


def write_sweeps(folder, **entries):
    file = folder / "sweeps.yml"
    file.write_text(yaml.safe_dump(entries))
    return file


# ---------------------------------------------------------------- what is asked for


def test_the_plan_is_a_product_with_a_base_row(tmp_path):
    entry = TINY | {
        "cases": [
            {"recipe": "ear", "settings": {"windows.length": [3, 6], "eta": [0.5, 1.0], "pairs": 3}},
            {"recipe": "ear-shared"},
        ]
    }
    plan = load_sweeps(write_sweeps(tmp_path, one=entry))["one"]
    asked = plan.rows()
    assert len(asked) == 2 * (1 + 4 + 1) and [row.recipe for row in asked].count(None) == 2
    assert asked[1].settings == {"windows.length": 3, "eta": 0.5, "pairs": 3} and asked[5].label == "ear-shared"
    assert asked[1].preset().windows.length == 3 and asked[1].preset().lr == 3e-5, "at the scale of the mini models"
    twice = plan.rows(effort=2)
    assert [row.seed for row in twice[::6]] == [0, 1, 2, 3] and twice[0].pictures["direct"] == 8
    assert not {row.key() for row in asked} & {row.key() for row in twice}


def test_a_key_holds_what_decides_the_numbers(tmp_path):
    row = load_sweeps(write_sweeps(tmp_path, one=TINY))["one"].rows()[1]
    changed = [
        {"concept": "boat"}, {"recipe": "ear"}, {"settings": QUICK | {"windows.length": 5}},
        {"seed": 7}, {"split": "dev"},
        {"fidelity": True},
        {"pictures": row.pictures | {"direct": 5}},
    ]  # fmt: skip
    assert len({row.key(), *(replace(row, **change).key() for change in changed)}) == 1 + len(changed)
    assert replace(row, label="another", sweep="another").key() == row.key()
    assert replace(row, settings=row.settings | {"eta": 1.0}).key() == row.key(), "a value that it has anyway"


WRONG = {  # what is changed of an entry -> what the line must hold
    "recipe 'eer'": ({"cases": [{"recipe": "eer"}]}, "did you mean 'ear'"),
    "a field": ({"cases": [{"recipe": "ear", "settings": {"windows.lenght": 3}}]}, "windows.length"),
    "out of range": ({"cases": [{"recipe": "ear", "settings": {"eta": [1.0, -1.0]}}]}, "eta=-1.0 is out of range"),
    "contradiction": (
        {"cases": [{"recipe": "ear", "settings": {"objective": "replacement", "eta": 2}}]},
        "eta has no meaning",
    ),
    "an empty axis": ({"cases": [{"recipe": "ear", "settings": {"eta": []}}]}, "case 1: settings are"),
    "twice": ({"cases": [{"recipe": "ear"}, {"recipe": "ear"}]}, "asks twice for church ear seed 0"),
    "concept": ({"concepts": ["chruch"]}, "did you mean 'church'"),
    "split": ({"split": "tset"}, "did you mean 'test'"),
    "seeds": ({"seeds": [0, "1"]}, "seeds cannot be"),
    "a seed too large": ({"seeds": [2**63]}, "seeds cannot be"),
    "size": ({"size": 0}, "size cannot be 0"),
    "no size": ({"size": float("inf")}, "size cannot be inf"),
    "a recipe": ({"cases": [{"recipe": ["uce"]}]}, "cases cannot be"),
    "pictures": ({"pictures": {"dierct": 3}}, "did you mean 'direct'"),
    "an entry's field": ({"szie": 1}, "did you mean 'size'"),
    "cases": ({"cases": []}, "cases cannot be []"),
    "a part": ({"concepts": ["church", "church+baot"]}, "unknown concept 'baot'; did you mean 'boat'"),
    "no part": ({"concepts": ["church+"]}, "unknown concept ''"),
    "a part twice": (
        {"concepts": ["church+boat+church"]},
        "'church+boat+church' names one concept twice; name each once",
    ),
    "parts and KID": ({"concepts": ["church+boat"], "fidelity": True}, "'church+boat' has 2; leave fidelity out"),
    "an oracle": ({"oracle": 3}, "oracle cannot be 3"),
    "parts and an oracle": ({"concepts": ["church+boat"], "oracle": "mini"}, "'church+boat' has 2; leave oracle out"),
    "form": (
        {"cases": [{"recipe": "spm", "settings": {"erasure.form": "compsed"}}]},
        "unknown erasure.form 'compsed'; did you mean 'composed'",
    ),
    "a share": (
        {"cases": [{"recipe": "ear", "settings": {"pairs.writers": "one", "pairs.wrong": 2}}]},
        "pairs.wrong is a share from 0 to 1, not 2",
    ),
    "no writers": ({"cases": [{"recipe": "ear", "settings": {"pairs.filter": "visual"}}]}, "name one"),
    "no adapter": (
        {"cases": [{"recipe": "ear", "settings": {"erasure.transport": ["none", "overlap"]}}]},
        "give the recipe a rank",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_sweep_is_one_line_before_anything_runs(what, tmp_path):
    change, line = WRONG[what]
    file = write_sweeps(tmp_path, fine=TINY, wrong=TINY | change)
    with pytest.raises(UserError, match="sweep 'wrong'") as caught:
        sweep(out=tmp_path / "out", sweeps=file, model="nowhere")
    assert line in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_window_longer_than_a_picture(model, tmp_path):
    file = write_sweeps(tmp_path, wrong=TINY | {"cases": [{"recipe": "ear", "settings": {"windows.length": [16, 17]}}]})
    with pytest.raises(UserError, match="windows.length=17 is longer than a picture of 16 tokens"):
        sweep(out=tmp_path / "out", sweeps=file, model=model)
    with pytest.raises(UserError, match="no weights in .*nowhere"):
        sweep(
            out=tmp_path / "out",
            sweeps=write_sweeps(tmp_path, base=TINY | {"cases": [{"recipe": "negative-prompt"}]}),
            model=str(tmp_path / "nowhere"),
        )


def test_broken_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_sweeps(tmp_path / "sweeps.yml")
    (tmp_path / "sweeps.yml").write_text("window: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_sweeps(tmp_path / "sweeps.yml")
    for name in ("../../outside", 5, None):
        with pytest.raises(UserError, match="its table is a file"):
            (tmp_path / "sweeps.yml").write_text(yaml.safe_dump({name: TINY}))
            load_sweeps(tmp_path / "sweeps.yml")


def test_the_shipped_sweeps(capsys):
    """Every recipe that is asked for can be trained; the command plans without loading a model."""
    plan = load_sweeps()
    assert {"window", "threshold", "order", "layers", "steps", "bars"} <= set(plan)
    assert main(["sweep", "window", "--effort", "2", "--dry-run"]) == 0
    assert f"window: {2 * len(plan['window'].rows())} rows, " in capsys.readouterr().out
    assert main(["sweep", "windw"]) == 2
    assert "did you mean 'window'" in capsys.readouterr().err


def test_seeds_take_different_prompts(tmp_path):
    base = [
        row
        for row in load_sweeps(write_sweeps(tmp_path, one=TINY | {"pictures": {}, "seeds": [0, 1, 2, 3]}))["one"].rows()
        if row.recipe is None
    ]
    concept = load_concept("church")
    taken = [choose(concept, row) for row in base]
    direct = [set(sets["test", "direct"]) for sets in taken]
    assert all(len(d) == 30 for d in direct) and len(set().union(*direct)) == 120 == len(concept.tests["direct"])
    assert {name: len(prompts) for (role, name), prompts in taken[0].items() if role == "neighbour"} == dict.fromkeys(
        concept.neighbours, 4
    )
    assert len(taken[0]["benign", ""]) == 24 and ("test", "odd") not in taken[0]
    many = choose(concept, replace(base[0], pictures=base[0].pictures | {"synonym": 50, "neighbours": 11}))
    assert many["test", "synonym"][45:] == list(concept.tests["synonym"][:5]), "after the last comes the first"
    assert sorted(len(prompts) for (role, _), prompts in many.items() if role == "neighbour") == [1] * 7 + [2] * 2


# ---------------------------------------------------------------- development prompts


@pytest.mark.parametrize("name", list_concepts("mini"))
def test_development_prompts_are_in_no_test(name):
    concept = load_concept(name)
    dev = development(concept)
    groups = lambda c: [*c.tests.values(), *c.neighbours.values(), c.benign]
    fresh = [normal(prompt) for group in groups(dev) for prompt in group]
    known = {normal(prompt) for group in groups(concept) for prompt in group}
    known |= {
        normal(prompt)
        for other in list_concepts("mini")
        for pair in load_concept(other).pairs
        for prompt in (pair.target, pair.replacement)
    }
    assert len(set(fresh)) == len(fresh) and not set(fresh) & known
    assert dev.pairs == concept.pairs and dev == development(concept)
    assert {k: len(v) for k, v in dev.tests.items()} == {k: len(v) for k, v in concept.tests.items() if k != "odd"}
    assert {k: len(v) for k, v in dev.neighbours.items()} == {k: len(v) for k, v in concept.neighbours.items()}


def test_development_prompts_of_another_concept():
    with pytest.raises(UserError, match="no development prompts for concept 'mine'"):
        development(replace(load_concept("church"), name="mine"))


def test_nonsense_changes_what_trains_and_nothing_else():
    church = load_concept("church", "mini")
    blick = nonsense(church)
    assert replace(blick, pairs=church.pairs, words=church.words) == church
    assert name_of(blick) == "blick" and not any("church" in pair.target for pair in blick.pairs)
    assert [pair.target.replace("blick", "church") for pair in blick.pairs] == [pair.target for pair in church.pairs]
    for name in list_concepts("mini"):
        concept = load_concept(name, "mini")
        assert not [pair for pair in nonsense(concept).pairs if holds_word(pair.target, concept.words)], name
    with pytest.raises(UserError, match="lacks the word 'boat', so that 'blick' cannot be put"):
        nonsense(replace(church, words=("boat",)))


# ---------------------------------------------------------------- one row


def test_a_row(tiny, model, tmp_path):
    base, erased, *_ = load_sweeps(write_sweeps(tmp_path, one=TINY))["one"].rows(model=model)
    first, again, nothing = measure(tiny, erased), measure(tiny, erased), measure(tiny, base)
    seconds = [name for name in first if name.startswith("seconds")]
    assert {k: v for k, v in first.items() if k not in seconds} == {k: v for k, v in again.items() if k not in seconds}
    counts = {kind: n for kind, (_, n) in first["rates"]["concept"].items()}
    assert counts == {kind: n for kind, n in FEW.items() if kind not in ("neighbours", "benign")}
    assert (
        [n for _, n in first["rates"]["neighbours"].values()] == [1] * 9
        and first["clip"][1] == 3
        and first["kid"] is None
    )
    assert first["kl_drift"] > 0 == nothing["kl_drift"] and nothing["recipe"] is None and "seconds" not in nothing
    assert first["windows_trained"] == 2 * 4 and first["megabytes"] == 4 * 64 * 64 * 4 / 2**20
    assert first["key"] == erased.key() and first["fingerprint"] == tiny.fingerprint
    json.dumps(first)


def test_a_row_with_an_oracle(tiny, model, tmp_path):
    """A model is no way from itself as its oracle, and some way from it erased."""
    entry = TINY | {"oracle": model, "pictures": dict.fromkeys(FEW, 0) | {"direct": 8, "neighbours": 9}}
    base, erased = load_sweeps(write_sweeps(tmp_path, one=entry))["one"].rows(model=model)[:2]
    assert base.key() != replace(base, oracle="").key()
    none, some = measure(tiny, base), measure(tiny, erased)
    assert none["oracle_concept"] == [0.0, 8] and none["oracle_neighbours"] == [0.0, 9]
    assert some["oracle_concept"][0] > 0 and some["oracle_neighbours"][0] > 0 and some["oracle_kid"][1] == 8
    assert "oracle_benign" not in some, "it has no such prompts"
    assert some["rates"] == measure(tiny, replace(erased, oracle=""))["rates"], "the pictures are the same"
    assert read.mean_of(some, "oracle_concept") == some["oracle_concept"][0]
    asked = ["a red boat , by vincent", "a boat at noon", "a church at noon", "a naked person"]
    assert known_to_oracle(replace(base, oracle="mini-never"), asked) == asked[1:3], "its own concept is church"
    assert known_to_oracle(base, asked) == asked


def test_training_that_diverges_is_a_row(tiny, model, tmp_path):
    row = load_sweeps(write_sweeps(tmp_path, one=TINY))["one"].rows(model=model)[1]
    failed = measure(tiny, replace(row, settings=QUICK | {"lr": 1e30}))
    assert ("the loss is" in failed["failed"] or "not a number" in failed["failed"]) and "rates" not in failed
    with pytest.raises(UserError, match="longer than a picture"):  # a mistake is none
        measure(tiny, replace(row, settings=QUICK | {"windows.length": 17}))


def test_kid_and_development_prompts(tiny, model, tmp_path):
    entry = TINY | {"split": "dev", "fidelity": True, "pictures": dict.fromkeys(FEW, 1) | {"benign": 8}}
    row = measure(tiny, load_sweeps(write_sweeps(tmp_path, one=entry))["one"].rows(model=model)[0])
    assert row["split"] == "dev" and row["kid"][1] == 8 and row["kid"][0] > 0


def test_rows_of_a_next_scale_model(tmp_path):
    """The same questions and the same prompts, another family of models; a method that guides is measured where it
    acts."""
    from earlib.miniworld.var import untrained

    model = untrained(0, width=32, layers=2, text_width=32, channels=(8, 8, 8))
    for layer in (
        model.trunk.head,
        model.trunk.modulation,
        model.trunk.head_modulation,
    ):  # which begin at 0: every picture alike
        torch.nn.init.normal_(layer.weight, std=0.3)
    model.save_pretrained(tmp_path / "model")
    scales = {"pairs": 2, "batch": 2, "passes": 1, "lr": 3e-2}
    cases = [{"recipe": "s-vare", "settings": scales}, {"recipe": "scale-erasure-style"}]
    entry = TINY | {
        "model": "mini-var",
        "fidelity": True,
        "cases": cases,
        "pictures": dict.fromkeys(FEW, 1) | {"neighbours": 9, "benign": 8},
    }
    file = write_sweeps(tmp_path, one=entry)
    plan = load_sweeps(file)["one"].rows(model=str(tmp_path / "model"))[:3]
    generator = load_model(plan[0].model)
    base, trained, guided = (measure(generator, row) for row in plan)
    assert len({row["key"] for row in (base, trained, guided)}) == 3 and trained["chosen"]["lr"] == 3e-2
    assert base["kl_drift"] == 0 < trained["kl_drift"] and guided["kl_drift"] > 0
    assert (
        trained["change_size"] > 0
        and guided["change_size"] is None
        and base["diversity"][0] > 0
        and base["diversity"][1] == 8
    )
    assert trained["seconds"] > 0 and trained["kid"][1] == 8 and trained["rates"]["concept"]["direct"][1] == 1
    again = measure(generator, plan[1])
    assert {k: v for k, v in again.items() if "seconds" not in k} == {
        k: v for k, v in trained.items() if "seconds" not in k
    }
    with pytest.raises(UserError, match="recipe 'ear' is for next-token models"):
        load_sweeps(write_sweeps(tmp_path, one=entry | {"cases": [{"recipe": "ear"}]}))
    with pytest.raises(UserError, match="with next-token models only"):
        load_sweeps(
            write_sweeps(tmp_path, one=entry | {"cases": [{"recipe": "s-vare", "settings": {"erasure.form": "joint"}}]})
        )


# ---------------------------------------------------------------- attacks


def test_attacks_on_erasures_that_are_trained_once(tiny, model, tmp_path, monkeypatch):
    """A row an attack, of the base model and of each erasure; numbers that are pooled; a wrong attack is one line."""
    entry = TINY | {"seeds": [0], "attacks": {"wordings": 6, "soft-prompt": 12}}
    entry["cases"] = [{"recipe": "ear-shared", "settings": QUICK}]
    file, church = write_sweeps(tmp_path, one=entry), load_concept("church")
    plan = load_sweeps(file)["one"].rows(model=model)
    assert [row.attack for row in plan] == ["none", "soft-prompt", "wordings"] * 2
    assert len({row.key() for row in plan}) == 6 and len({row.training() for row in plan[3:]}) == 1
    assert [len(rows) for rows in Queues({row.key(): row for row in plan}).groups.values()] == [3, 3]
    trained = []
    monkeypatch.setattr("earlib.erasure.erase", lambda *a, **k: trained.append(1) or erase(*a, **k))
    sure = lambda spec: spec | {"threshold": 0.0}  # judges fire at every picture
    others = {name: sure(spec) for name, spec in church.neighbour_judges.items()}
    seen = replace(church, judge=sure(church.judge), neighbour_judges=others)
    monkeypatch.setattr("earlib.sweeps.attacked.concept_of", lambda *which: seen)
    found = [measure(tiny, row) for row in plan]
    assert len(trained) == 1 and found[0]["rates"]["concept"] == {"direct": [4, 4]}
    assert {kind: n for kind, (_, n) in found[4]["rates"]["concept"].items()} == {"direct": 4, "control": 4}
    assert {row["kind"] for row in found[5]["more"]["erased"]["by wording"]} <= {*church.tests}, "a rate for each kind"
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    table = attacked.load("one", folder=tmp_path, sweeps=file, model=model).set_index(["label", "attack"])
    row = table.loc["ear-shared", "soft-prompt"]
    assert row["with"] == row["without"] == Rate(4, 4) and row["oracle"] is None and row["beyond"].value == 0
    with pytest.raises(UserError, match="unknown attack 'soft-promt'; did you mean 'soft-prompt'"):
        load_sweeps(write_sweeps(tmp_path, one=entry | {"attacks": {"soft-promt": 6}}))


# ---------------------------------------------------------------- several concepts at once


MEMBRANES = {"pairs": 3, "batch": 2, "passes": 1, "prefix": "target"}
TOGETHER = TINY | {
    "concepts": ["church", "church+boat"],
    "seeds": [0],
    "cases": [
        {
            "recipe": "spm",
            "settings": MEMBRANES | {"erasure.form": ["composed", "joint"], "erasure.transport": ["none", "overlap"]},
        }
    ],
}


def test_joined_concepts(tmp_path):
    """Their pairs in turn, as many of each as alone; beside them only what is none of them. One concept has no form,
    and its key no trace of one."""
    alone, *_, joint, opened = load_sweeps(write_sweeps(tmp_path, one=TOGETHER))["one"].rows()
    church, boat, both = (concept_of(name) for name in ("church", "boat", "church+boat"))
    assert joint.trained_on == both and both.pairs[:4] == (
        church.pairs[0],
        boat.pairs[0],
        church.pairs[1],
        boat.pairs[1],
    )
    assert (
        joint.preset().pairs == 6
        and replace(joint, settings=joint.settings | {"erasure.form": "composed"}).preset().pairs == 3
    )
    assert set(both.neighbours) == {*church.neighbours, *boat.neighbours} - {"church", "boat"}
    assert "chapel" in telling_words(church) and "ship" in telling_words(boat)
    left = {p for group in (*both.neighbours.values(), both.benign) for p in group}
    assert left < {p for c in (church, boat) for group in (*c.neighbours.values(), c.benign) for p in group}
    assert not [p for p in left if {"church", "chapel", "cathedral", "boat", "ship", "yacht"} & set(p.split())]
    ours = replace(alone, recipe="spm", settings=MEMBRANES)
    forms = [{}, {"erasure.form": "composed"}, {"erasure.transport": "none"}, {"erasure.transport": "overlap"}]
    keys = lambda concept: [replace(ours, concept=concept, settings=MEMBRANES | more).key() for more in forms]
    assert (
        len(set(keys("church"))) == 2
        and keys("church")[0] == keys("church")[2] != keys("church")[3]
        and len(set(keys("church+boat"))) == 3
    )
    assert joint.training() == opened.training() == joint.key() != opened.key()


def test_several_concepts_by_the_command(tmp_path, capsys):
    """As many pairs of each as of one alone; a recipe that knows one name is refused before anything is written."""
    ask = ["erase", "--model", "mini", "--device", "cpu", "--concept", "church+nudity"]
    assert main([*ask, "--recipe", "leace", "--set", "layers=0,0.13", "--out", str(tmp_path / "both")]) == 0
    about = read_json(tmp_path / "both" / "erasure.json")
    assert (about["concept"], about["recipe"]["pairs"]) == ("church+nudity", 100)
    assert main([*ask, "--recipe", "negative-prompt", "--out", str(tmp_path / "no")]) == 2
    assert "steers away from one name" in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert load_joint("church", "mini") == load_concept("church")
    for names in ("church+church", "church+"):
        with pytest.raises(UserError, match="names a concept twice, or none beside a"):
            load_joint(names, "mini")


def test_rows_of_several_concepts(tiny, model, tmp_path):
    """Each part is tested as it is alone; what is composed is the sum of what trained alone; prompts that name nothing
    draw as before."""
    asked = load_sweeps(write_sweeps(tmp_path, one=TOGETHER))["one"].rows(model=model)
    base, composed, opened, joint = (measure(tiny, row) for row in asked[5:9])
    for row in (base, composed, opened, joint):
        parts = row["rates"]["parts"]
        assert {name: {kind: n for kind, (_, n) in part.items()} for name, part in parts.items()} == dict.fromkeys(
            ("church", "boat"), {kind: n for kind, n in FEW.items() if kind not in ("neighbours", "benign")}
        )
        assert row["rates"]["concept"]["direct"] == [
            parts["church"]["direct"][i] + parts["boat"]["direct"][i] for i in (0, 1)
        ]
        assert (
            "boat" not in row["rates"]["neighbours"]
            and sum(n for _, n in row["rates"]["neighbours"].values()) == 9
            and row["clip"][1] == 3
        )
    assert (
        base["kl_drift"] == opened["kl_drift"] == 0 < min(composed["kl_drift"], joint["kl_drift"])
        and base["recipe"] is None
    )
    assert opened["rates"]["neighbours"] == base["rates"]["neighbours"] and opened["clip"][0] == pytest.approx(
        base["clip"][0], abs=1e-4
    )
    assert (
        composed["windows_trained"] == 4
        and joint["windows_trained"] == 3
        and composed["megabytes"] == pytest.approx(2 * joint["megabytes"], rel=0.02)
    )
    alone = [
        erase(tiny, load_concept(name), asked[7].preset(), seed=seed, progress=False)
        for name, seed in (("church", 0), ("boat", 100))
    ]
    whole = compose(alone).together()
    assert composed["change_size"] == pytest.approx(change_size(tiny.trunk, whole.tensors), abs=1e-3)
    assert replace(asked[5], concept="church").key() == asked[0].key()


@pytest.mark.parametrize("recipe", ["ear-shared", "spm"])
def test_one_after_another_and_added_up(tiny, recipe, tmp_path):
    """After one another the second learns from what the first left; added up each learns from the base model."""
    settings = (QUICK if recipe != "spm" else MEMBRANES) | {"erasure.form": ["composed", "sequential"]}
    entry = TINY | {"concepts": ["church+boat"], "seeds": [0], "cases": [{"recipe": recipe, "settings": settings}]}
    base, added, after = load_sweeps(write_sweeps(tmp_path, one=entry))["one"].rows()
    sums, then, own = erasure_of(tiny, added)[0], erasure_of(tiny, after)[0], tiny.fingerprint
    church = erase(tiny, load_concept("church"), added.preset(), seed=0, progress=False)
    boat = erase(tiny, load_concept("boat"), added.preset(), seed=100, progress=False)
    whole = lambda erasure: erasure.merged(tiny).tensors
    for name, w in tiny.trunk.named_parameters():
        if name in whole(church):
            both = whole(church)[name] + whole(boat)[name] - w
            torch.testing.assert_close(whole(sums)[name], both, atol=1e-6, rtol=0)
            assert not torch.allclose(whole(then)[name], both, atol=1e-6) or torch.equal(both, w)
    with church.on(tiny):
        left = draw_tokens(tiny, ["a red church"])
    none = replace(asked := after.alone()[-1], settings=asked.settings | {"lr": 1e-12}).preset()
    with several.afterwards(tiny, church):
        assert tiny.fingerprint != own
        nothing = erase(tiny, load_concept("boat"), none, seed=0, progress=False)
    with several.on_top(church, nothing).on(tiny):
        assert torch.equal(draw_tokens(tiny, ["a red church"]), left), "the first is still there"
    assert tiny.fingerprint == own and then.concept == "church + boat" and then.info["pairs"] == sums.info["pairs"]
    with pytest.raises(UserError, match="acts at positions=words only"):
        several.check_form(preset("uce", "mini"), "sequential", "none")
    with pytest.raises(UserError, match="changes no weights"):
        several.check_form(preset("negative-prompt", "mini"), "composed", "none")


# ---------------------------------------------------------------- pairs of writers


def test_written_pairs(tiny, monkeypatch, tmp_path):
    """One writer names the concept plainly, several by all its names; a tenth is wrong in two ways; the judge drops
    what it does not see; no test prompt is written."""
    church = load_concept("church", "mini")
    tests = {p for group in (*church.tests.values(), *church.neighbours.values(), church.benign) for p in group}
    for who, names in (("one", {"church"}), ("several", {"church", "cathedral", None})):
        made = written.Writers(church, who, 0.2, 0).write(30)
        right = [pair for pair, fine in made if fine]
        assert len(right) == 24 and not tests & {p for pair, _ in made for p in (pair.target, pair.replacement)}
        assert names <= {holds_word(pair.target, church.words) for pair in right}
        assert not any(holds_word(pair.replacement, church.words) for pair in right)
        wrong = [pair for pair, fine in made if not fine]
        assert sum(bool(holds_word(pair.replacement, church.words)) for pair in wrong) == 3
        assert sum(not holds_word(pair.target, church.words) for pair in wrong) >= 3
    assert written.Writers(church, "one", 0, 5).write(4) == written.Writers(church, "one", 0, 5).write(4)
    sees = lambda generator, concept, pairs, seed: ["church" in p.target.split() for p in pairs]
    monkeypatch.setattr(written, "confirmed", sees)
    concept, counts = written.written(tiny, church, "several", 0.1, True, 10, 0)
    assert len(concept.pairs) == 10 and all(holds_word(pair.target, ["church"]) for pair in concept.pairs)
    assert counts["proposed"] > 10 and counts["kept_wrong"] <= counts["wrong"]
    settings = QUICK | {"pairs.writers": ["one", "several"], "pairs.wrong": 0.5}
    entry = TINY | {"cases": [{"recipe": "ear", "settings": settings}], "seeds": [0]}
    base, one, several_ = load_sweeps(write_sweeps(tmp_path, one=entry))["one"].rows()
    assert one.key() != several_.key() != replace(several_, settings=several_.settings | {"pairs.wrong": 0}).key()
    assert measure(tiny, one)["written"] == {"proposed": 2, "wrong": 1, "kept_wrong": 1}


def test_the_controls_pairs(tiny):
    """The concept stays what it is; only what trains has nothing to do with it."""
    church = load_concept("church", "mini")
    for who, pair_of_its in (
        ("another", lambda p: "boat" in p.target),
        ("nothing", lambda p: p.target == p.replacement),
    ):
        concept, _ = written.written(tiny, church, who, 0, False, 30, 0)
        assert len(concept.pairs) == 30 and all(pair_of_its(pair) for pair in concept.pairs)
        assert not any(holds_word(p, church.words) for pair in concept.pairs for p in (pair.target, pair.replacement))
        assert replace(concept, pairs=church.pairs) == church
    with pytest.raises(UserError, match="name one"):
        written.check_written({"pairs.writers": "nothing", "pairs.wrong": 0.5})


def test_the_chapters_tables(model, tmp_path):
    """One concept is the mean over those erased alone; parts are told apart; what is composed stands beside the sum of
    its parts."""
    file = write_sweeps(tmp_path, composition=TOGETHER | {"concepts": ["church", "boat", "church+boat"]})
    counts = {"church": [0, 4], "boat": [1, 4], "church+boat": [4, 8]}

    def measured(row):
        hits = counts[row.concept] if row.recipe else [counts[row.concept][1]] * 2
        rates = {
            "concept": {"direct": hits, "synonym": hits},
            "neighbours": {"car": [4 if row.recipe is None else 2, 4]},
        }
        parts = {"parts": {"church": {"direct": [1, 4]}, "boat": {"direct": [3, 4]}}} if "+" in row.concept else {}
        return row_of(
            row, rates=rates | parts, kl_drift=0.1 * (row.recipe is not None) * (5 if row.form == "composed" else 1)
        )

    (tmp_path / "composition.jsonl").write_text(
        "".join(json.dumps(measured(row)) + "\n" for row in load_sweeps(file)["composition"].rows(model=model))
    )
    table = read.load("composition", folder=tmp_path, sweeps=file, model=model)
    frame = several.counted(table)
    assert list(frame.form) == ["base", "alone", "alone"] * 2 + ["base"] + ["composed"] * 2 + ["joint"] * 2
    numbers = several.by_number(frame).set_index(["form", "transport", "count"])
    assert numbers.direct["composed", "none", 1] == numbers.direct["joint", "none", 1] == Rate(1, 8)
    assert numbers.direct["composed", "overlap", 2].value == 1 / 2 and numbers.direct["base", "none", 2].value == 1
    told = composition.interference(frame).loc["church + boat"]
    assert told["drift, sum of parts"] == pytest.approx(0.2)
    assert told["drift, composed"] == 0.5 and told["drift, joint"] == 0.1
    assert told["kept, product of parts"] == 0.25 and told["kept, composed"] == 0.5
    each = several.each_part(frame[frame.form != "joint"])
    assert each.loc["boat", "composed, 2"].startswith("75 [") and each.loc["boat", "alone"].startswith("25 [")
    assert list(each.columns)[0] == "before"
    assert read.one(table, concept="boat", recipe=None).direct == read.one(frame, form="base", concept="boat").direct
    with pytest.raises(UserError, match="no row with concept='boot'"):
        read.one(table, concept="boot")
    json.dumps(read.flat_records(table))


def test_forms_of_two_tables_side_by_side():
    """A recipe without a form is joint; one concept alone begins the line of every form; a place in an order is beside
    the same concept alone."""
    import pandas as pd

    from earlib.chapters import several as chapter

    def made(concept, recipe, form=None, **hits):
        parts = {name: {"direct": Rate(n, 4), "synonym": Rate(0, 2)} for name, n in hits.items()}
        own = {"concept": concept, "recipe": recipe, "parts": parts, "direct": Rate(sum(hits.values()), 4 * len(hits))}
        rest = dict.fromkeys(("synonym", "neighbours"), Rate(2, 4)) | dict.fromkeys(("kl_drift", "clip", "unfinished"))
        return own | rest | ({"erasure.form": form} if form else {})

    one = [made("church", "ear", church=1), made("boat", "ear", boat=2), made("church+boat", "ear", church=3, boat=0)]
    two = [made("boat+church", "ear", "sequential", boat=4, church=0), made("boat", "spm", "joint", boat=0)]
    frame = several.counted(pd.concat([pd.DataFrame(one), pd.DataFrame(two)], ignore_index=True))
    assert list(frame.form) == ["alone", "alone", "joint", "sequential"], "a single one's joint stands there once"
    numbers = several.by_number(frame).set_index(["form", "count"])
    assert numbers.direct["joint", 1] == numbers.direct["sequential", 1] == Rate(3, 8)
    assert numbers.direct["sequential", 2] == Rate(4, 8) and numbers.unfinished["joint", 2] is None
    placed = chapter.places(frame[frame.form == "sequential"], frame[frame.form == "alone"])
    assert list(placed.called) == ["boat, first of 2", "church, last of 2"] and list(placed.after) == [1, 0]
    assert list(placed["any"]) == [Rate(4, 6), Rate(0, 6)] and list(placed.any_alone) == [Rate(2, 6), Rate(1, 6)]
    matrix = chapter.by_part(frame[frame.form != "sequential"], ["church"])
    assert matrix == {("alone", "church"): Rate(1, 4), ("joint, 2", "church"): Rate(3, 4)}


# ---------------------------------------------------------------- tables


def row_of(asked, hits=3, **more):
    """A row as `measure` writes it, with numbers of our own."""
    found = {name: getattr(asked, name) for name in ASKED} | {
        "key": asked.key(),
        "version": TABLE_VERSION,
        "weights": weights(asked.model),
    }
    found |= {
        "fingerprint": "f" * 16,
        "rates": {"concept": {"direct": [hits, 4]}, "neighbours": {"boat": [2, 4], "car": [4, 4]}},
    }
    found |= {
        "kl_drift": 0.1 * hits,
        "clip": [0.5, 3],
        "in_prompt": None,
        "kid": None,
        "judge": {"concept": "a judge", "neighbours": "another"},
    }
    if asked.recipe:
        found |= {
            "seconds": 10.0,
            "seconds_sampling": 5.0,
            "seconds_core": 4.0,
            "windows_trained": 6,
            "windows_skipped": 2,
            "megabytes": 0.1,
        }
    return found | more


@pytest.fixture
def tables(tmp_path, model):
    """(the rows asked for, a function that writes them as the table and gives what `load` needs)."""
    file = write_sweeps(tmp_path, one=TINY)

    def write(measured, tail=""):
        (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in measured) + tail)
        return {"folder": tmp_path, "sweeps": file, "model": model}

    return load_sweeps(file)["one"].rows(model=model), write


def test_seeds_are_pooled(tables, model):
    asked, write = tables
    measured = [row_of(row, hits=4 if row.recipe is None else row.seed) for row in asked]
    measured[1] |= {"rates": {"concept": {"direct": [0, 4]}, "neighbours": {"boat": [1, 4], "car": [2, 4]}}}
    measured[-1] = {k: v for k, v in measured[-1].items() if k != "rates"} | {"failed": "the loss is nan at pair 1"}
    frame = load("one", **write(measured[::-1]))  # in whatever order they came
    assert list(frame["label"]) == ["base", "both", "both"] and list(frame["windows.length"])[1:] == [4, 8]
    base, four, eight = frame.to_dict("records")
    assert base["direct"] == Rate(8, 8) and base["neighbours"].value == 0.75 and base["kept"] == 1.0
    assert (four["direct"], four["direct_base"], four["direct_by_seed"]) == (
        Rate.over_seeds([Rate(0, 4), Rate(1, 4)]),
        Rate(8, 8),
        {0: Rate(0, 4), 1: Rate(1, 4)},
    )
    assert four["neighbours"] == Rate.over_seeds([Rate(6, 8), Rate(3, 8)]) and four["kept"] == 9 / 16 / 0.75
    each = {"boat": Rate.over_seeds([Rate(2, 4), Rate(1, 4)]), "car": Rate.over_seeds([Rate(4, 4), Rate(2, 4)])}
    assert four["each_neighbour"] == each
    assert four["parts"] == {"church": {"direct": four["direct"]}} and four["synonym"] is None and four["kid"] is None
    assert four["kl_drift"] == Estimate(0.05, 2, 0.0, 0.1) and four["kl_drift_by_seed"] == {0: 0.0, 1: 0.1}
    assert four["seconds"].value == 2.0, "of one core, without the half of the time in which trajectories were drawn"
    assert four["skipped"] == 0.25 and four["updates"] == 6 and (four["seeds"], four["failed"]) == (2, 0)
    assert (eight["seeds"], eight["failed"], eight["direct"].n) == (2, 1, 4)
    assert compare.told(base, four) == "-88 [-98 to -38] points, in 2 of 2 seeds" and compare.agreeing(base, four) == (
        2,
        2,
    )
    assert compare.told(base, four, "neighbours").endswith(compare.NOT_TOLD)
    first, others = compare.best(frame[frame.recipe.notna()])
    assert first["windows.length"] == 8 and list(others["windows.length"]) == [4, 8]
    shown = compare.summary(frame, {"windows.length": "W"}, ("direct", "neighbours", "kl_drift", "n", "seeds"))
    assert list(shown.index) == ["base", "4", "8"] and list(shown.columns) == [
        "the concept",
        "neighbours",
        "KL drift",
        "n",
        "seeds",
    ]
    assert (
        list(shown.loc["4"]) == ["12 [2–50]", "56 [24–84]", "0.05", "8/16", "2"] and shown.loc["base", "KL drift"] == ""
    )

    frame["paper"] = [None, 0.11, None]
    records = flat_records(frame)
    rate = [r for r in records if r["metric"] == "concept_rate" and r["settings"].get("windows.length") == 4]
    assert len(rate) == 1 and rate[0] | {"settings": 0} == {
        "metric": "concept_rate", "subject": "church", "kind": "direct", "condition": "erased", "value": 1 / 8, "n": 8,
        "low": four["direct"].low,
        "high": four["direct"].high, "seed": "0,1", "profile": model, "recipe": "ear-shared", "judge": "a judge",
            "paper": 0.11, "concept": "church", "settings": 0, "label": "both",
    }  # fmt: skip
    assert {"neighbour_rate", "neighbours_kept", "kl_drift", "clip_score", "failed_seeds"} <= {
        r["metric"] for r in records
    }
    skipped = [(r["value"], r["n"]) for r in records if r["metric"] == "windows_skipped_rate"]
    assert skipped == [(0.25, 16), (0.25, 8)], "windows of all seeds that did not diverge"
    json.dumps(records)


def test_tables_that_cannot_be_read(tables, model):
    asked, write = tables
    measured = [row_of(row) for row in asked]
    for wrong, line in (
        (
            measured[:4],
            r"one.jsonl: lacks 2 of the 6 rows that .*sweeps.yml asks for; run `python -m earlib sweep one`",
        ),
        (
            [{**row, "version": 0, "key": str(i)} for i, row in enumerate(measured)],
            f"lacks 6 of the 6 rows .* of version 0, now it is {TABLE_VERSION}",
        ),
        ([{**measured[0], "version": 0}, *measured[1:]], "holds rows of 2 versions"),
        ([{**measured[0], "fingerprint": "0"}, *measured[1:]], "holds rows of 2 fingerprints"),
        ([{"church": 3}, *measured], "line 1 is no row of a results table"),
    ):
        with pytest.raises(UserError, match=line):
            load("one", **write(wrong))
    broken = write(measured)
    (broken["folder"] / "one.jsonl").write_text("{\n" + json.dumps(measured[0]) + "\n")
    with pytest.raises(UserError, match="line 1 is not valid JSON"):
        load("one", **broken)
    with pytest.raises(UserError, match="no sweep 'two'"):
        load("two", **broken)
    assert len(rows("one", complete=False, **write(measured[:4]))) == 4
    assert len(rows("one", **write(measured, tail='{"cut sho'))) == 6, "a line that a kill cut short is dropped"


def test_rows_that_disagree_are_named(tables, monkeypatch, capsys, tmp_path):
    """`sweep --check` measures the cheapest trained row again: seconds may differ, hits may not. It goes on where it
    was, unless the code has changed."""
    monkeypatch.setattr(check, "CHECKED", tmp_path / "checked.jsonl")
    asked, write = tables
    measured = [row_of(row, seconds_measuring=9.0) for row in asked]
    measured[4] |= {"seconds": 1.0}  # the cheapest
    where = write(measured)
    now = [measured[4] | {"seconds": 99.0, "kl_drift": measured[4]["kl_drift"] + 5e-5}]
    monkeypatch.setattr(
        workers, "measured_by_workers", lambda asked, jobs: [(row, {"row": now[0]}) for row in asked.values()]
    )
    assert check.main(["one"], **where) == 0 and capsys.readouterr().out.endswith("\n1 of 1 rows agree\n")
    measure, counted = workers.measured_by_workers, []
    monkeypatch.setattr(
        workers, "measured_by_workers", lambda asked, jobs: counted.append(len(asked)) or measure(asked, jobs)
    )
    assert (
        check.main(["one"], **where) == 0 and "1 rows of 1 tables, 1 of them measured before" in capsys.readouterr().out
    )
    monkeypatch.setattr(check, "code_version", lambda: "another")
    now = [measured[4] | {"rates": row_of(asked[4], hits=2)["rates"], "kl_drift": 0.4}]
    assert check.main(["one"], **where) == 1
    said = capsys.readouterr()
    assert "direct: 3 of 4 there, 2 of 4 now; kl_drift: 0.30" in said.err and said.out.endswith("\n0 of 1 rows agree\n")
    assert counted == [0, 1]
    with pytest.raises(UserError, match="no sweep 'two'"):
        check.main(["two"], **where)


def test_every_row_that_the_book_asks_for_is_shipped():
    """Whatever is renamed or moved in the library: the keys of data/sweeps stay."""
    shipped = {json.loads(line)["key"] for file in (ROOT / "data" / "sweeps").glob("*.jsonl") for line in open(file)}
    asked = {name: {row.key() for row in sweep.rows()} for name, sweep in load_sweeps().items()}
    assert {name: keys - shipped for name, keys in asked.items() if keys - shipped} == {}
    assert asked.keys() == {file.stem for file in (ROOT / "data" / "sweeps").glob("*.jsonl")}
    assert min(map(len, asked.values())) > 1, "a base row and another"


# ---------------------------------------------------------------- the command


def test_workers_stay_with_a_concept_and_seed():
    pending = {
        f"{c}{s}{i}": replace(load_sweeps()["window"].rows()[0], concept=c, seed=s, label=str(i))
        for c in ("a", "b")
        for s in (0, 1)
        for i in range(3)
    }
    queues, order = Queues(pending), {1: [], 2: []}
    held = {1: None, 2: None}
    for turn in range(len(pending)):
        worker = 1 if turn % 3 else 2  # the first is twice as quick
        held[worker], row = queues.next(held[worker])
        order[worker].append((row.concept, row.seed, row.label))
    assert order[2][:3] == [("a", 0, "0"), ("a", 0, "1"), ("a", 0, "2")], order
    assert order[1][:6] == [("a", 1, "0"), ("a", 1, "1"), ("a", 1, "2"), ("b", 0, "0"), ("b", 0, "1"), ("b", 0, "2")], (
        order
    )
    assert len({*order[1], *order[2]}) == 12 and queues.next(held[1]) == (None, None)


@pytest.mark.slow
def test_a_sweep_killed_and_resumed(model, tiny, tmp_path, capsys):
    """SIGKILL in the middle: what is finished stays, the same command measures the rest and nothing twice; another
    sweep takes the rows that it shares."""
    entry = TINY | {
        "seeds": [0],
        "cases": [{"recipe": "ear-shared", "label": "both", "settings": QUICK | {"windows.length": [1, 2, 4, 8]}}],
    }
    shares = entry | {
        "cases": [{"recipe": "ear-shared", "label": "under another name", "settings": QUICK | {"windows.length": 4}}]
    }
    file, out = write_sweeps(tmp_path, one=entry, two=shares), tmp_path / "out"
    code = "import sys; from pathlib import Path; from earlib.sweeps.run import sweep\n"
    code += "if __name__ == '__main__':\n"
    code += "    sweep(['one'], 1, out=Path(sys.argv[1]), sweeps=Path(sys.argv[2]), model=sys.argv[3])"
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, out, file, model], env=env, start_new_session=True, stdout=subprocess.DEVNULL
    )
    lines = lambda: (out / "one.jsonl").read_text().splitlines() if (out / "one.jsonl").exists() else []
    until = time.time() + 300
    while len(lines()) < 2 and time.time() < until and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = lines()
    assert 2 <= len(kept) < 5
    with open(out / "one.jsonl", "a") as half:
        half.write('{"key": "cut sho')

    assert sweep([], 2, out=out, sweeps=file, model=model) == []
    found = [json.loads(line) for line in lines()]
    assert [row["settings"].get("windows.length") for row in found] == [None, 1, 2, 4, 8] and found[: len(kept)] == [
        json.loads(line) for line in kept
    ]
    plan = load_sweeps(file)["one"].rows(model=model)
    here = measure(tiny, plan[3])
    assert {k: v for k, v in here.items() if not k.startswith("seconds")} == {
        k: v for k, v in found[3].items() if not k.startswith("seconds")
    }
    two = [json.loads(line) for line in (out / "two.jsonl").read_text().splitlines()]
    assert [(row["label"], row["sweep"]) for row in two] == [("base", "two"), ("under another name", "two")] and two[1][
        "key"
    ] == found[3]["key"]

    before = (out / "one.jsonl").read_bytes()
    assert sweep(["one"], 2, out=out, sweeps=file, model=model) == [] and (out / "one.jsonl").read_bytes() == before
    assert "one: 5 rows, 0 to measure" in capsys.readouterr().out
    shipped, now = check.spot_check("one", generator=tiny, folder=out, sweeps=file, model=model)
    assert shipped["rates"] == now["rates"] and shipped["kl_drift"] == now["kl_drift"]

    file = write_sweeps(
        tmp_path,
        one=entry
        | {"cases": [{"recipe": "ear-shared", "label": "both", "settings": QUICK | {"windows.length": [8, 4]}}]},
    )
    assert sweep(["one"], 2, out=out, sweeps=file, model=model) == []
    assert [json.loads(line)["settings"].get("windows.length") for line in lines()] == [None, 8, 4], (
        "what is not asked for any more is dropped"
    )


# ---------------------------------------------------------------- what ships


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "data" / "sweeps").glob("*.jsonl")))
def test_shipped_tables_are_complete_and_up_to_date(name):
    frame = load(name)
    assert set(frame["concept"]) == set(load_sweeps()[name].concepts) and frame["seeds"].min() >= 1
