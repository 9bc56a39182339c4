"""Attacks on erased models: the budget is kept, attacks that do nothing change nothing, what is known of a base model
and of noise comes out, and the command writes its page, goes on, and refuses what cannot be."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch

from earlib.__main__ import main
from earlib.book.attacked import as_text, attack_page
from earlib.chapters import attacks as chapter
from earlib.concepts import load_concept
from earlib.erasure.change import scaled
from earlib.erasure.store import Erasure
from earlib.errors import UserError
from earlib.evaluate.attacks import battery as batteries
from earlib.evaluate.attacks.base import Budget, Victim, likelihood
from earlib.evaluate.attacks.battery import Battery
from earlib.evaluate.attacks.compress import Compressed, Pruning, compressed, small_parts
from earlib.evaluate.attacks.draws import Plain
from earlib.evaluate.attacks.goals import Goal, filled_in, goal_of, split, unrelated_to
from earlib.evaluate.attacks.prefix import Prefix, beginnings, finished
from earlib.evaluate.attacks.registry import ATTACKS, chosen
from earlib.evaluate.attacks.relearn import linear_layers
from earlib.evaluate.attacks.rounding import FORMATS, rounded, rounding_sweep
from earlib.evaluate.attacks.soft import SoftPrompt, SoftWords, numbers_of
from earlib.evaluate.attacks.states import Steering, patched
from earlib.evaluate.attacks.trying import surest
from earlib.evaluate.judge import Judge
from earlib.evaluate.rate import Rate
from earlib.generators import default_keys, picture_seeds
from tests.conftest import tiny_janus
from tests.test_nextscale import tiny as tiny_scales

SMALL = {"seeds": 1, "size": 3, "progress": False}


class Bright(Judge):
    """Sees the concept in the brighter ones of a tiny model's pictures."""

    name, version = "bright", "1"

    def __init__(self, model):
        self.threshold = 0.0
        known = goal_of(load_concept("church"), 3).slots_known[:24]
        self.threshold = float(np.median(self.score(model.decode(model.sample(filled_in(known, "church"), range(24))))))

    def score(self, images: np.ndarray) -> np.ndarray:
        return images.mean((1, 2, 3)) / 255


@pytest.fixture(scope="module", params=["next-token", "next-scale"])
def model(request):
    return tiny_janus() if request.param == "next-token" else tiny_scales(text_length=32)


@pytest.fixture(scope="module")
def goal(model) -> Goal:
    return dataclasses.replace(goal_of(load_concept("church"), 3), judge=Bright(model))


@pytest.fixture(scope="module")
def erasure(model) -> Erasure:
    """A change of one matrix."""
    name = "layers.1.self_attn.v_proj.weight" if "layers" in dict(model.trunk.named_children()) else None
    name = name or "blocks.0.cross_attention.kv.weight"
    weight = model.trunk.get_parameter(name).detach()
    return Erasure("turned", {"name": "turned"}, "church", model.fingerprint, {name: -weight})


@pytest.fixture
def victim(model, erasure, goal) -> Victim:
    return Victim(model, erasure, goal)


# ---------------------------------------------------------------- what an attack is given


def test_slots_take_out_the_name():
    assert split(["a red church on a hill", "a house"], ["church"]) == [("a red {x} on a hill", "church")]
    prompts = ["a house , in the style of van gogh", "a churchyard"]
    assert split(prompts, ["van", "gogh", "style", "church"]) == [("a house , in the style of {x}", "van gogh")]


def test_the_goal_holds_out_what_it_is_tested_on():
    concept = load_concept("church")
    goal = goal_of(concept, 5)
    assert goal.word == "church" and goal.asked == concept.tests["direct"][:5] and "house" in goal.instead
    assert not set(filled_in(goal.slots_known, "church")) & set(concept.tests["direct"])
    assert filled_in(goal.slots_asked, "church") == list(goal.asked)


def test_the_control_asks_for_an_unrelated_word(model, goal):
    concept = load_concept("church")
    other = unrelated_to(goal, concept, model)
    assert other.word in concept.neighbours and not any(other.word in pair.replacement for pair in concept.pairs)
    assert all(other.word in prompt and "church" not in prompt for prompt in other.asked)


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("passes", [1, 150])
def test_no_attack_exceeds_its_budget(victim, name, passes, monkeypatch):
    """And it says truly what it spent: the pictures that it drew and those that it learned from."""
    attack, read = ATTACKS[name], []
    try:
        attack.check(victim)
    except UserError as error:
        assert name in ("misspellings", "patching") and len(str(error).splitlines()) == 1
        return
    draw = Victim.draw

    def counted(self, prompts, seed, what="", **more):
        if what not in ("asked", "lesson"):  # an attacker has pictures to learn from
            read.append(self.cost * len(prompts))
        return draw(self, prompts, seed, what, **more)

    monkeypatch.setattr(Victim, "draw", counted)
    budget = Budget(passes)
    try:
        found = attack.run(victim, budget, seed=0)
    except UserError as error:
        assert passes == 1 and "does not buy one step" in str(error) and not budget.spent
        return
    assert len(found.codes) == len(found.prompts) > 0
    assert budget.spent <= passes
    if name in (
        "guidance",
        "random-search",
        "genetic-search",
        "wordings",
        "negations",
        "compositions",
        "pruning",
        "rounding",
        "prefix",
    ):
        assert budget.spent == sum(read)
    if passes == 150 and attack.passes >= passes and name != "prefix":  # there are few beginnings to give
        assert budget.spent >= 100  # it is used, too


def test_a_picture_of_one_row_has_no_beginning():
    one = tiny_janus(grid=1)
    goal = dataclasses.replace(goal_of(load_concept("church"), 3), judge=Bright(one))
    found = Prefix().run(Victim(one, None, goal), Budget(100), 0)
    assert found.told.startswith("0 of 1 rows") and len(found.codes) == len(found.prompts)


def test_the_surest_option_is_taken_and_all_are_paid_for(victim, monkeypatch):
    """Of those that the budget reaches, each on as many known prompts."""
    known = filled_in(victim.goal.slots_known, victim.goal.word)
    codes, asked = victim.generator.sample(known[:9], range(9)), []
    order = np.argsort(victim.goal.judge.score(victim.generator.decode(codes)))

    def draw(option, prompts):
        asked.append((option, prompts))
        return codes[[option] * len(prompts)]

    budget = Budget(3 * 2 * victim.cost + 1)
    best, rates = surest(victim, budget, order[[0, 8, 4]].tolist(), draw)
    assert best == order[8] and list(rates) == order[[0, 8, 4]].tolist() and budget.left == 1
    assert [prompts for _, prompts in asked] == [known[:2]] * 3 and rates[best].hits == 2 == rates[best].n
    budget = Budget(victim.cost)
    best, rates = surest(victim, budget, order[[0, 8, 4]].tolist(), draw)
    assert best == order[0] and len(rates) == 1 and budget.left == 0
    assert surest(victim, budget, [1, 2], draw) == (None, {})


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("wordings", "compositions", "negations")])
def test_no_attack_learns_from_what_is_asked(victim, name):
    """Without known prompts those that would need some are refused, in one line."""
    if name in ("misspellings", "best-of-n"):  # these search nothing
        return
    without = dataclasses.replace(victim.goal, slots_known=())
    with pytest.raises(UserError, match=f"attack '{name}'"):
        ATTACKS[name].check(Victim(victim.generator, victim.erasure, without))


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(UserError, match="budget of 0"):
        Budget(0)
    budget = Budget(5)
    assert budget.spend(4) and not budget.spend(2) and budget.left == 1


# ---------------------------------------------------------------- attacks that do nothing change nothing


def test_a_soft_prompt_of_no_steps_is_the_word_it_starts_from(victim):
    found = SoftPrompt(1).run(victim, Budget(1), seed=0)
    plain = filled_in(victim.goal.slots_asked, victim.goal.instead[0])
    soft = SoftWords(victim.generator, found.tensors["vectors"], [*victim.goal.slots_known, *plain])
    with victim.on() as generator:
        told = generator.log_probabilities(plain, found.codes, guidance=1.0)
        named = filled_in(victim.goal.slots_asked, soft.text)
        with soft.on(generator):
            again = generator.log_probabilities(named, found.codes, guidance=1.0)
    assert torch.allclose(told, again, atol=1e-5)


def test_a_soft_prompt_learns(victim):
    found = SoftPrompt(2).run(victim, Budget(12 * 30), seed=0)
    first, last = (float(word) for word in found.told.split(", ")[1].split(" nats")[0].split(" to "))
    assert last < first and found.tensors["vectors"].shape[0] == 2


def test_rows_that_are_all_given_come_back(model, erasure):
    prompts = ["a red church", "a boat"]
    codes = model.sample(prompts, [0, 1])
    assert beginnings(model)[-1] == model.num_codes
    assert torch.equal(finished(model, prompts, [5, 6], codes, erasure), codes)


def test_the_model_is_its_own_self_after_every_attack(victim):
    before = victim.generator.sample(["a red church"], [3])
    for name in ("soft-prompt", "steering", "relearning", "pruning", "rounding"):
        ATTACKS[name].run(victim, Budget(120), seed=1)
    assert torch.equal(victim.generator.sample(["a red church"], [3]), before)


def test_likelihoods_are_the_model_s_own(victim):
    prompts = ["a red church", "a boat at night"]
    with victim.on() as generator:
        codes = generator.sample(prompts, [0, 1])
        log_p = generator.log_probabilities(prompts, codes, guidance=1.0)
        own = log_p.gather(-1, codes.reshape(*log_p.shape[:3], 1))[..., 0].sum(-1).mean(1)  # nats a code, not a bit
        assert torch.allclose(likelihood(generator, generator.encode(prompts), codes).cpu(), own, atol=1e-4)


def test_pruning_nothing_is_the_erased_model(victim):
    attack, prompts = Pruning(), list(victim.goal.asked)
    assert torch.equal(Compressed(victim, attack, 0.0).draw(prompts, 0), victim.draw(prompts, 0))
    assert (attack.smaller(torch.arange(-5.0, 5.0), 0.5) == 0).sum() >= 5


@pytest.mark.parametrize("name, format", FORMATS.items())
def test_rounding_is_to_the_nearest_of_few_numbers(name, format):
    """2^bits - 1 of them for each row or group, none farther than half a step; a rounded matrix is left as it is."""
    weight = torch.randn(5, 80, generator=torch.Generator().manual_seed(0))
    small, (bits, group) = rounded(weight, *format), format
    for row, own in zip(small, weight):
        for part, before in zip(row.split(group or 80), own.split(group or 80)):
            step = before.abs().max() / (2 ** (bits - 1) - 1)
            assert (part - before).abs().max() <= step / 2 + 1e-6 and len(part.unique()) <= 2**bits - 1
            assert part.abs().max() == pytest.approx(before.abs().max().item())
    torch.testing.assert_close(rounded(small, *format), small)
    assert not rounded(torch.zeros(2, 8), *format).any() and rounded(weight.half(), *format).dtype == torch.float16


def test_what_is_rounded_is_the_erased_model(model, erasure, goal):
    """With the erasure in it; beside it the base model, which is its own self afterwards."""
    prompts = list(goal.asked)
    plain = model.sample(prompts, picture_seeds(0, prompts))
    found = rounding_sweep(model, prompts, goal.judge, erasure)
    base = rounding_sweep(model, prompts, goal.judge)
    assert list(found) == list(base) == ["as it is", *FORMATS] and all(rate.n == 3 for rate in found.values())
    with erasure.on(model):
        own = model.decode(model.sample(prompts, picture_seeds(0, default_keys(prompts))))
    assert found["as it is"].json() == goal.judge.rate(own).json()
    ((name, changed),) = erasure.tensors.items()
    other = next(n for n in linear_layers(model) if n != name)
    with compressed(model, erasure, lambda tensor: rounded(tensor, 4)):
        seen = {n: model.trunk.get_parameter(n).clone() for n in (name, other)}
    assert torch.equal(seen[name], rounded(changed, 4))
    assert torch.equal(seen[other], rounded(model.trunk.get_parameter(other), 4))
    assert torch.equal(model.sample(prompts, picture_seeds(0, prompts)), plain)


def beside(victim, *, strength=1.0, positions="all"):
    """A victim whose erasure is a change of two matrices, one of them no linear layer's, and an adapter."""
    model = victim.generator
    inside = linear_layers(model)
    outside = next(n for n, p in model.trunk.named_parameters() if p.dim() == 2 and n not in inside)
    own = {name: model.trunk.get_parameter(name).detach() for name in (inside[0], outside)}
    module, shape = inside[-1].removesuffix(".weight"), model.trunk.get_parameter(inside[-1]).shape
    low = {"lora_A.weight": torch.ones(1, shape[1]), "lora_B.weight": torch.ones(shape[0], 1)}
    tensors = {name: -t for name, t in own.items()} | {f"{module}.{part}": t for part, t in low.items()}
    recipe = {"name": "turned", "positions": positions}
    return Erasure("turned", recipe, "church", model.fingerprint, tensors, strength=strength), inside, outside


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_what_is_rounded_is_every_linear_layer_and_nothing_else(victim, strength):
    """At the erasure's strength, its adapters in their matrices."""
    model, (change, inside, outside) = victim.generator, beside(victim, strength=strength)
    tensors = scaled(model.trunk, change.tensors, strength) if strength != 1 else change.tensors
    whole = dataclasses.replace(change, tensors=tensors, strength=1.0).merged(model).tensors
    with compressed(model, change, lambda tensor: rounded(tensor, 4)):
        seen = {name: model.trunk.get_parameter(name).clone() for name in (*inside, outside)}
    own = {name: model.trunk.get_parameter(name) for name in inside}
    assert all(torch.equal(seen[name], rounded(whole.get(name, own[name]), 4)) for name in inside)
    assert torch.equal(seen[outside], whole[outside])


def test_an_adapter_at_words_stays_exact(victim):
    """No matrix can hold it; the matrices on both sides of it are made smaller."""
    change, inside, _ = beside(victim, positions="words")
    small = lambda tensor: rounded(tensor, 4)
    matrices, made = small_parts(victim.generator, change, small)
    assert matrices.keys() == set(inside)
    assert torch.equal(made.tensors[inside[0]], small(change.tensors[inside[0]]))
    assert all(torch.equal(made.tensors[name], t) for name, t in change.tensors.items() if name != inside[0])


def test_a_direction_that_is_added_changes_what_is_drawn(victim):
    prompts = [*victim.goal.asked, "a boat"]
    plain = victim.draw(prompts, 0)
    width = next(victim.generator.decoder_layers[1].parameters()).shape[-1]
    for length, same in ((0.0, True), (5.0, False)):
        vector_D = length * torch.randn(width, generator=torch.Generator().manual_seed(0))
        with Steering.added(victim, 1, vector_D):
            assert torch.equal(victim.draw(prompts, 0), plain) == same
    assert torch.equal(victim.draw(prompts, 0), plain)


@pytest.mark.parametrize("fits", [64, 2])
def test_a_model_patched_with_its_own_states_draws_as_before(fits, monkeypatch):
    """Also where few pictures fit at a time, and fewer the next time; with another model's states it does not."""
    model = tiny_janus()
    goal = goal_of(load_concept("church"), 3)
    same, other = Victim(model, None, goal), Victim(model, None, goal, tiny_janus(seed=1))
    prompts = [*goal.asked, "a boat", "a red church on a hill at night"]
    plain, sample, room, drawn = same.draw(prompts, 0, "asked"), model.sample, itertools.cycle([fits, 1]), []
    monkeypatch.setattr(model, "fitting_batch", lambda: next(room))
    monkeypatch.setattr(model, "sample", lambda some, *a, **more: drawn.append(len(some)) or sample(some, *a, **more))
    for layer in (0, 2):
        assert torch.equal(patched(same, layer, prompts, 0), plain)
        assert not torch.equal(patched(other, layer, prompts, 0), plain)
    assert max(drawn) == min(fits, len(prompts))


# ---------------------------------------------------------------- the battery


@pytest.fixture
def battery(model, erasure) -> Battery:
    church = load_concept("church")
    judge = church.judge | {"threshold": 0.0}  # of noise: every picture shows it
    return Battery(model, dataclasses.replace(church, judge=judge), erasure, **SMALL, names=["guidance"], budget=20)


def test_every_success_is_told_four_times(battery, tmp_path):
    battery.oracle = battery.generator  # set past the check, which would refuse it
    page, table = attack_page(battery, tmp_path / "out")
    records = json.loads((tmp_path / "out" / "results.json").read_text())
    found = {(r["kind"], r["condition"]): r for r in records}
    assert set(found) == {("none", c) for c in ("base", "erased", "oracle", "control")} | {
        ("guidance", c) for c in ("erased", "oracle", "control")
    }
    assert all(r["value"] == 1 and r["n"] == 3 and r["low"] < 1 for r in records)
    assert found["guidance", "erased"]["passes"] == 20 and found["none", "erased"]["passes"] == 0
    text = page.read_text()
    assert "<th>oracle</th>" in text and "<th>control</th>" in text and "guidance" in text
    assert text.count("data:image/png") == 1
    assert [line.split()[0] for line in as_text(table).splitlines()] == ["attack", "none", "guidance"]


def test_a_second_call_goes_on(battery, tmp_path, monkeypatch):
    attack_page(battery, tmp_path / "out")
    (tmp_path / "out" / "cells" / "guidance-control-0.json").unlink()
    before = (tmp_path / "out" / "results.json").read_bytes()
    ran = []
    run = batteries.run_cell
    monkeypatch.setattr(batteries, "run_cell", lambda *cell: ran.append(cell[1].name) or run(*cell))
    attack_page(battery, tmp_path / "out")
    after = (tmp_path / "out" / "results.json").read_bytes()
    plain = lambda text: [{k: v for k, v in row.items() if k != "seconds"} for row in json.loads(text)]
    assert ran == ["guidance"] and plain(before) == plain(after)
    more = dataclasses.replace(battery, names=["best-of-n"])
    assert "guidance" in attack_page(more, tmp_path / "out")[0].read_text()  # a table of all that the folder holds


def test_a_folder_is_of_one_concept_and_one_change(battery, erasure, tmp_path):
    """Cells of an edited concept file, or of another strength, are not put beside those before."""
    attack_page(battery, tmp_path / "out")
    church = battery.concept
    edited = dataclasses.replace(church, tests=church.tests | {"direct": church.tests["direct"][1:]})
    for other in ({"concept": edited}, {"erasure": dataclasses.replace(erasure, strength=0.5)}):
        with pytest.raises(UserError, match="different configuration"):
            attack_page(dataclasses.replace(battery, **other), tmp_path / "out")


def test_the_hash_of_a_change(erasure):
    of = lambda **more: dataclasses.replace(erasure, **more).change_hash
    (name, tensor), recipe = next(iter(erasure.tensors.items())), {"layers": (0.0, 1.0)}
    different = {of(), of(strength=2.0), of(recipe=recipe), of(tensors={name: -tensor}), of(tensors={})}
    assert len(different) == 5 and of(recipe=recipe) == of(recipe={"layers": [0.0, 1.0]}), "JSON has no tuples"
    assert of(tensors={}, recipe={}) == ""


def test_what_a_model_does_not_admit(battery, model):
    church = load_concept("church")
    everything = Battery(model, church, None, **SMALL)
    assert "misspellings" in everything.left_out
    assert ("patching" in everything.left_out) == (not hasattr(model, "grid"))
    with pytest.raises(UserError, match="whole words only"):
        Battery(model, church, None, names=["misspellings"], **SMALL)
    with pytest.raises(UserError, match="unknown attack 'guidence'.*guidance"):
        chosen(["guidence"])
    with pytest.raises(UserError, match="budget of 0"):
        Battery(model, church, None, budget=0, **SMALL)
    with pytest.raises(UserError, match="has no neighbours"):
        Battery(model, dataclasses.replace(church, neighbours={}), None, **SMALL)
    with pytest.raises(UserError, match="the oracle is .* itself"):
        Battery(model, church, None, model, **SMALL)


@pytest.mark.parametrize("name", ["wordings", "soft-prompt", "guidance"])
def test_a_budget_that_buys_nothing_is_no_failed_attack(battery, name, tmp_path):
    page, table = attack_page(dataclasses.replace(battery, names=[name], budget=1), tmp_path / "out")
    assert [row["attack"] for row in table] == ["none"]
    assert f"attack &#x27;{name}&#x27;: a budget of 1 passes does not buy one step" in page.read_text()


@pytest.mark.parametrize("name, content", [("none-base-0.npz", b"junk"), ("none-base-0.json", b"{"), ("x.json", b"{}")])
def test_a_damaged_cell(battery, tmp_path, name, content):
    attack_page(battery, tmp_path / "out")
    (tmp_path / "out" / "cells" / name).write_bytes(content)
    with pytest.raises(UserError, match="remove it"):
        attack_page(battery, tmp_path / "out")


def test_an_oracle_of_another_world_and_an_erasure_of_another_model(battery, model, erasure):
    church = load_concept("church")
    other = tiny_scales() if hasattr(model, "grid") else tiny_janus()
    with pytest.raises(UserError, match="another world"):
        Battery(model, church, erasure, other, **SMALL)
    foreign = tiny_janus(seed=1) if hasattr(model, "grid") else tiny_scales(seed=1)
    with pytest.raises(UserError, match="another world"):
        Battery(model, church, erasure, foreign, **SMALL)
    with pytest.raises(UserError, match="made for a model with fingerprint"):
        Battery(foreign, church, erasure, **SMALL)


# ---------------------------------------------------------------- what is known of the mini model


def test_the_base_model_draws_it_and_noise_does_not(mini):
    """Under an attack, too: the pictures that noise draws are judged, not believed."""
    goal = goal_of(load_concept("church"), 4)
    noise = copy.deepcopy(mini)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in noise.trunk.parameters():
            tensor.copy_(torch.randn_like(tensor) * tensor.std())
    rate = lambda model, attack, passes: goal.judge.rate(
        mini.decode(attack.run(Victim(model, None, goal, mini), Budget(passes), 0).codes)
    )
    assert rate(mini, Plain(), 1).value >= 0.5 and rate(noise, Plain(), 1).hits == 0
    assert rate(mini, ATTACKS["best-of-n"], 16).value >= 0.75 and rate(noise, ATTACKS["best-of-n"], 16).hits == 0


def test_help_names_every_attack(capsys):
    with pytest.raises(SystemExit):
        main(["attack", "--help"])
    told = "".join(capsys.readouterr().out.split())
    assert all(name in told for name in ATTACKS)


def test_the_command_refuses_what_cannot_be(tmp_path, capsys):
    there = ["attack", "--concept", "church", "--erasure", str(tmp_path), "--out", str(tmp_path / "out")]
    for more, line in (
        (["--attack", "soft-promt"], "unknown attack 'soft-promt'; did you mean 'soft-prompt'"),
        (["--budget", "0"], "'0' is not a whole number from 1"),
        (["--runs", "0"], "'0' is not a whole number from 1"),
    ):
        assert main([*there, *more]) == 2
        error = capsys.readouterr().err
        assert line in error and error.count("\n") == 1


# ---------------------------------------------------------------- words in pieces, as Janus-Pro reads them


@pytest.fixture(scope="module")
def in_pieces():
    """A tiny Janus whose tokenizer has pieces of words, with the space before them: byte-level BPE."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from earlib.miniworld import models as makers

    texts = [pair.target for pair in load_concept("church").pairs] + list(load_concept("church").benign)
    special = [*makers.SPECIAL.values(), *makers.ROLES]
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tok.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    )
    shape = makers.build_tokenizer()
    names = {key: getattr(shape, key) for key in ("pad_token", "bos_token", "eos_token")}
    extra = {key: makers.SPECIAL[part] for key, part in (("image_token", "image"), ("boi_token", "boi"))}
    extra["eoi_token"] = makers.SPECIAL["eoi"]
    words = type(shape)(tokenizer_object=tok, padding_side="left", extra_special_tokens=extra, **names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(makers, "build_tokenizer", lambda words_=None: words)
        return tiny_janus()


@pytest.mark.parametrize("name", ["misspellings", "soft-prompt-4", "token-search", "genetic-search", "patching"])
def test_attacks_on_a_model_that_reads_pieces_of_words(in_pieces, name):
    goal = dataclasses.replace(goal_of(load_concept("church"), 3), judge=Bright(in_pieces))
    victim, budget = Victim(in_pieces, None, goal), Budget(100)
    ATTACKS[name].check(victim)
    found = ATTACKS[name].run(victim, budget, 0)
    assert len(found.codes) == len(found.prompts) and 30 <= budget.spent <= 100
    if name == "token-search":  # what is found is read as the tokens that it was made of
        words = found.told.split("'")[1]
        assert len(numbers_of(in_pieces, f"a {words}")) == 1 + len(words.split())


def test_a_learned_word_stands_at_its_own_place_in_pieces(in_pieces):
    """Also where it begins a prompt, and nowhere in prompts without it."""
    goal = goal_of(load_concept("church"), 3)
    soft = SoftWords(in_pieces, torch.full((1, 64), 5.0), [*goal.slots_known, *goal.asked])
    batch = in_pieces.encode([f"a red {soft.text} on a hill", f"{soft.text} at night", "a red church on a hill"])
    with soft.on(in_pieces):
        there_BP = (in_pieces.word_embeddings(batch.ids_BP) == 5.0).all(-1)
    assert there_BP.sum(1).tolist() == [1, 1, 0] and not (there_BP & ~in_pieces.word_mask(batch)).any()


def test_what_counts_as_brought_back():
    """More than by name, and more than the same attack draws of the oracle; a sentence says why."""
    found = {("oracle", "prefix"): Rate(18, 30), ("oracle", "none"): Rate(0, 30), ("base", "prefix"): Rate(30, 30)}
    for name, none, soft, prefix in (("uce", 0, 20, 20), ("ear", 1, 2, 29), ("npo", 0, 0, 0), ("rmu", 20, 21, 20)):
        found |= {(name, "none"): Rate(none, 30), (name, "soft-prompt"): Rate(soft, 30)}
        found |= {(name, "prefix"): Rate(prefix, 30)}
    back = {name: list(chapter.beyond(found, name)) for name in ("uce", "ear", "npo", "rmu", "base", "oracle")}
    assert back == {"uce": ["soft-prompt"], "ear": ["prefix"], "npo": [], "rmu": [], "base": [], "oracle": []}
    words, drawing, likelihoods = chapter.sentences({"church": found, "boat": {}}, ["uce", "ear", "npo"])
    assert (
        "`uce`" in words
        and "`soft-prompt` (`uce` church; 67 [49–81] % over these methods and all concepts)" in words
        and chapter.WHY["soft-prompt"] in words
    )
    assert "the oracle 60 [42–75]" in drawing and likelihoods.endswith(chapter.NOT_BACK)
    figure = chapter.heat({"all": found}, ["base", "uce", "ear", "oracle"])
    bold = {text.get_text() for text in figure.axes[0].texts if text.get_fontweight() == "bold"}
    assert bold == {"67", "97"}


def test_a_recipe_against_its_bars():
    """Of several concepts the worst counts."""
    row = lambda concept, hits, kept: (
        {"concept": concept, "label": "a", "neighbours": Rate(kept, 100)}
        | {kind: Rate(hits, 100) for kind in chapter.BARS}
    )
    table = pd.DataFrame([row("church", 4, 99), row("boat", 1, 90)]).assign(neighbours_base=Rate(100, 100))
    of = lambda erased, oracle: {("a", "prefix"): Rate(erased, 100), ("oracle", "prefix"): Rate(oracle, 100)}
    found = chapter.against_bars(table, {"church": of(12, 10), "boat": of(25, 5)}, "a")
    assert found["asked by name, at most 3 %"] == "4 % (church): missed"
    assert found["by other names, at most 5 %"] == "4 % (church): met"
    assert found["`prefix`, at most 10 points over the oracle"] == "20 points (boat): missed"
    assert found["neighbours, at least 97 % of before"] == "90 % (boat): missed"


def test_rates_on_the_way_are_pooled_by_kind():
    table = lambda given, drawn, pasted: [{"given": given, "drawn on": [drawn, 4], "pasted": [pasted, 4]}]
    rows = [
        {
            "recipe": recipe,
            "label": recipe or "base",
            "settings": {"attack": "prefix"},
            "more": {way: {"by rows": points}},
        }
        for recipe, way, points in (
            ("uce", "erased", table(2, 1, 0)),
            ("leace", "erased", table(2, 3, 0)),
            ("esd-x", "erased", table(2, 4, 0)),
            (None, "oracle", table(2, 0, 4)),
            ("uce", "control", table(2, 4, 4)),
        )
    ]
    erasing = ["uce", "leace"]  # `esd-x` did not erase: what was never gone cannot come back
    panels = chapter.on_the_way(rows, "prefix", "given", erasing)
    assert {kind: {s.name: dict(s.points) for s in series} for kind, series in panels.items()} == {
        "words": {"erased": {2: Rate(4, 8)}, "oracle": {2: Rate(0, 4)}, chapter.ALONE: {2: Rate(0, 8)}}
    }
    assert chapter.behind(panels) == "A mark counts: words 8, oracle 4 pictures."
    assert chapter.ticks_of(panels) == {2: "2"} and chapter.on_the_way(rows, "relearning", "steps", erasing) == {}
