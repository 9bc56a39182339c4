"""The chapters about erasing from a next-scale model: their tables and sentences, from made-up rows whose answers are
known, and a tiny model's scales."""

from __future__ import annotations

import json

import pytest
import torch

from earlib.chapters import next_scale_concepts, next_scale_filter, next_scale_methods
from earlib.concepts import load_concept
from earlib.erasure import erase
from earlib.erasure.presets import SCALE_PRESETS as PRESETS
from earlib.erasure.presets import recipe
from earlib.errors import UserError
from earlib.evaluate.rate import Estimate, Rate
from earlib.sweeps import compare, rates, read, several
from earlib.sweeps.plan import load_sweeps

from .test_nextscale import published
from .test_svare import CONCEPT, PAIRS, heeding
from .test_sweep import row_of

KINDS = ("direct", "synonym", "description", "compositional")
N = 300  # pictures of a kind in the rows of all seeds that are made up


def made(asked, n, concept=50, neighbours=80, **more):
    """A row as measured of n pictures of every kind of prompt and of the neighbours: so many of 100 are hits."""
    of = lambda share, n: [share * n // 100, n]
    kept, n_boat = of(neighbours, n)[0], n // 2  # the two neighbours' hits add up, however n is cut by seeds
    rates = {
        "concept": {kind: of(concept, n) for kind in KINDS},
        "neighbours": {"boat": [kept // 2, n_boat], "car": [kept - kept // 2, n - n_boat]},
    }
    if "+" in asked.concept:
        rates["parts"] = dict.fromkeys(asked.concept.split("+"), {kind: of(concept, n) for kind in KINDS[:2]})
    found = row_of(
        asked, rates=rates, kl_drift=0.2 if asked.recipe else 0.0, kid=[0.05, 24], diversity=[3.0, 24], change_size=1.0
    )
    return found | {"windows_trained": None, "windows_skipped": None} | more


@pytest.fixture
def measured(tmp_path):
    """Makes the table `name` of book/sweeps.yml with what `make(row)` adds to each row; gives what `read.load`
    needs."""

    def write(name, make):
        asked = load_sweeps()[name].rows()
        rows = [made(row, N // len({row.seed for row in asked}), **make(row)) for row in asked]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"folder": tmp_path}

    return write


@pytest.fixture
def main(measured):
    """Naive falls apart, VARE erases, S-VARE erases as much and keeps more; on nudity both keep the same; one run of
    sace-style diverges on Van Gogh."""

    def make(row):
        rates = {
            None: (94, 95),
            "naive": (60, 20),
            "vare": (10, 60),
            "s-vare": (9, 90),
            "s-vare-released": (40, 91),
            "negative-prompt": (30, 92),
        }
        concept, neighbours = rates.get(row.recipe, (50, 80))
        if (row.concept, row.recipe) == ("nudity", "vare"):
            neighbours = 90
        more = {
            "diversity": [
                (3.0 + row.seed)
                * (1.0 if row.recipe is None else 0.8 if row.recipe == "vare" else 0.9 + 0.1 * row.seed),
                24,
            ]
        }
        if (row.concept, row.recipe) == ("vangogh", "sace-style"):
            more["failed"] = "the loss is nan at update 3"
        return {"concept": concept, "neighbours": neighbours} | more

    found = measured("var-main", make)
    return read.load("var-main", **found)


# ------------------------------------------------------------------ methods


def test_the_grid_says_what_each_recipe_is():
    grid = next_scale_methods.grid()
    assert set(grid.index) == {name for name, preset in PRESETS.items() if hasattr(preset, "lr")}
    assert grid.loc["naive", "student reads"] == "its own picture"
    assert grid.loc["naive", "teacher reads"] == "the replacement's"
    assert grid.loc["vare", "of"] == "all tokens" and grid.loc["vare", "preserves"] == "–"
    assert "teacher guided by 2" in grid.loc["s-vare-released", "preserves"]
    assert grid.loc["s-vare-released", "update"] == "a step on each loss"
    assert "entropy" in grid.loc["sace-style", "compares"]


def test_claims_follow_the_intervals(main):
    found = next_scale_methods.claims(main).reset_index().set_index(["claimed", "concept"]).verdict
    assert found["a history for each is worse for the rest than one for both", "church"] == "as claimed"
    assert found["S-VARE erases more than VARE", "church"] == compare.NOT_TOLD
    assert (
        found["S-VARE keeps more than VARE", "church"] == "as claimed"
        and found["S-VARE keeps more than VARE", "nudity"] == compare.NOT_TOLD
    )
    assert found["S-VARE leaves the rest as it was", "church"] == "not so: less is drawn"
    assert (
        found["the released code erases as the paper has it", "church"] == "not so: more is drawn"
    )  # churches: it erases less
    assert found["and keeps as much", "church"] == "no difference that can be told"
    less = Estimate(-0.2, 9, -0.3, -0.1)
    assert [next_scale_methods.verdict(less, sign) for sign in (1, 0, -1)] == [
        "the opposite",
        "not so: less is drawn",
        "as claimed",
    ]


def test_the_papers_numbers_stand_beside_ours(main):
    shown = next_scale_methods.beside_paper(main)
    assert list(shown.loc[("church", "the concept", "s-vare")]) == ["4.4", "9 [6–13]", "300"]
    assert shown.loc[("nudity", "the concept", "s-vare"), "the paper's"] == "3.2"
    assert ("vangogh", "the concept", "vare") not in shown.index


def test_the_rule_takes_the_greatest_margin(measured):
    called = lambda row: rates.CHOSEN_AS.get(row.recipe, row.recipe)
    has = lambda row: recipe(called(row), "mini-var", **row.settings) == recipe(called(row), "mini-var")

    def make(row):
        fails = row.recipe == "naive" and row.settings["lr"] == 3e-3
        return {"concept": 10 if row.recipe and has(row) else 60} | (
            {"failed": "the loss is nan at update 1"} if fails else {}
        )

    frame = read.load("var-dev", **measured("var-dev", make))
    shown, sentence = rates.rule(frame)
    lr = recipe("s-vare", "mini-var").lr
    assert (
        shown.loc[("s-vare", f"lr {lr:g}"), "greatest"] == "yes"
        and shown.loc[("naive", "lr 0.003"), "margin"] == "diverged"
    )
    assert (
        f"`s-vare` lr {lr:g}" in sentence
        and "`recommended` routes both, strength 1.5" in sentence
        and "For `vare`" not in sentence
    )
    worst = next(
        settings["lr"]
        for name, settings in zip(frame.recipe, frame.settings)
        if name == "vare" and settings["lr"] != recipe("vare", "mini-var").lr
    )
    other = frame.assign(
        direct=[
            Rate(0, 9) if (r, lr) == ("vare", worst) else d for r, lr, d in zip(frame.recipe, frame.lr, frame.direct)
        ]
    )
    level = rates.rule(frame.assign(direct=[d and Rate(0, 100) for d in frame.direct]))[1]
    assert "`recommended` routes both, strength 1.5 (one of 9 that are level)" in level
    assert (
        f"For `vare` the rule takes lr {worst:g}, and the recipe has lr {recipe('vare', 'mini-var').lr:g}."
        in rates.rule(other)[1]
    )


# ------------------------------------------------------------------ the filter


def test_switches_are_held_against_the_published_recipe(measured):
    rates = {"own rollouts": (5, 99), "equal mass per scale": (80, 70), "adapters": (52, 81)}
    frame = read.load(
        "var-switches",
        **measured("var-switches", lambda row: dict(zip(("concept", "neighbours"), rates.get(row.label, (50, 80))))),
    )
    found = next_scale_filter.better(frame, "as published")
    assert (
        found["above"] == ["own rollouts"]
        and found["below"] == ["equal mass per scale"]
        and "adapters" in found["same"]
    )
    shown = next_scale_filter.switched(frame, "as published")
    assert shown.loc["own rollouts", "the concept ±"].startswith("-45 [")
    assert not shown.loc["as published", "margin ±"] and not shown.loc["base", "KL drift"]


def test_each_term_with_and_without_the_other(measured):
    rates = {
        "cross entropy": (40, 50),
        "+ filter": (20, 50),
        "+ preservation, no filter": (40, 90),
        "+ filter + preservation": (20, 90),
    }
    found = next_scale_filter.steps(
        read.load(
            "var-terms",
            **measured("var-terms", lambda row: dict(zip(("concept", "neighbours"), rates.get(row.label, (50, 80))))),
        )
    )
    assert list(found.index) == list(next_scale_filter.STEPS)
    for what in ("the filter, without preservation", "the filter, with preservation"):
        assert found.loc[what, "the concept"].startswith("-20 [") and found.loc[what, "its neighbours"].endswith(
            compare.NOT_TOLD
        )
    assert (
        found.loc["preservation, with the filter", "its neighbours"].startswith("+40 [")
        and found.loc["the filter, with preservation", "KL drift"] == "0.2 → 0.2"
    )


def test_what_is_drawn_in_place_of_a_concept():
    """Pictures of the world show what they are; a mean of two of them, or noise, shows nothing for sure."""
    from earlib.evaluate.judges import load_judge
    from earlib.miniworld.scenes import render, sample_scenes

    images = render(sample_scenes(12, [3, 1], pairs=0.0))
    judge = load_judge(load_concept("church", "mini").judge)
    noise = torch.randint(0, 256, images.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy()
    found = next_scale_methods.instead({"world": images, "noise": noise}, judge)
    assert found.loc["world", "something (%)"].startswith("100 [") and found.loc["world", "n"] == "12"
    counts = [part.rsplit(" ", 1) for part in found.loc["world", "most often"].split(", ")]
    assert {name for name, _ in counts} <= set(judge.groups[judge.group]) and sum(int(n) for _, n in counts) <= 12
    share = int(found.loc["noise", "something (%)"].split(" [")[0])
    sure = judge.probabilities(noise)[judge.group].max(1) >= judge.threshold
    assert share == round(100 * sure.mean())


def test_what_each_scale_has_of_the_loss():
    generator = heeding("bsq")
    plain, filtered = (published("s-vare", **{"retain.weight": 0.0, "filter.kind": kind}) for kind in ("none", "wrong"))
    shares = next_scale_filter.by_scale(generator, PAIRS, plain)
    assert list(shares.side) == list(generator.schedule) and (shares.kept == 1).all() and (shares.nats > 0).all()
    sides = torch.tensor(generator.schedule).double()
    for way, power in (("token", 2), ("side", 1), ("equal", 0)):
        wanted = (sides**power / (sides**power).sum()).tolist()
        assert shares[f"weight: {way}"].tolist() == pytest.approx(wanted, abs=1e-5) and shares[
            f"loss: {way}"
        ].sum() == pytest.approx(1)
    # without a filter, a scale's share is its weight times its mean loss
    mass = shares["weight: side"] * shares.nats
    assert shares["loss: side"].tolist() == pytest.approx((mass / mass.sum()).tolist(), rel=1e-4)
    some = next_scale_filter.by_scale(generator, PAIRS, filtered)
    assert (some.kept < 1).any() and next_scale_filter.loss_shares({"before": shares, "filtered": some}).axes


def test_learning_curves(tmp_path):
    generator = heeding("bsq")
    erase(generator, CONCEPT, published("s-vare", passes=2, batch=1), out=tmp_path / "run", progress=False)
    from earlib.runs import read_lines

    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    fig = next_scale_filter.learning(rows, generator.schedule, smooth=2)
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    assert labels == [*(f"{side} × {side}" for side in generator.schedule), "all tokens"]
    kept, loss = fig.axes[:2]
    assert kept.get_ylim()[0] == loss.get_ylim()[0] == 0 and len(kept.lines) == 2 * len(labels)


# ------------------------------------------------------------------ several concepts, other words


def test_several_concepts_are_read_as_the_other_familys(measured):
    def make(row):
        count = row.concept.count("+") + 1
        concept, neighbours = (90, 90) if row.recipe is None else (5 * count, 90 - 9 * count)
        return {"concept": concept, "neighbours": neighbours, "kl_drift": 0.1 * count}

    frame = several.counted(read.load("var-concepts", **measured("var-concepts", make)))
    numbers = several.by_number(frame)
    ours = numbers[numbers.form == "joint"].set_index("count")
    assert list(ours.index) == [1, 2, 5] and ours.direct[1].value == 0.05
    assert ours.direct[5].value == 0.25 and ours.neighbours[2].value == 0.72
    each = several.each_part(frame)
    assert list(each.columns) == ["before", "alone", "joint, 2", "joint, 5"]
    assert each.loc["boat", "joint, 2"].startswith("10 [")
    told = next_scale_concepts.together(frame).loc["church + boat"]
    assert told["of the base model's"] == "80%" and told["product of parts"] == "81%" and told["sum of parts"] == "0.20"


def test_pairs_that_lead_to_another_part():
    boat, car = (load_concept(name, "mini") for name in ("boat", "car"))
    to_cars = sum("car" in pair.replacement.split() for pair in boat.pairs)
    to_boats = sum("boat" in pair.replacement.split() for pair in car.pairs)
    assert to_cars > 0 and next_scale_concepts.crossed("boat+car") == (to_cars + to_boats) / 100
    assert next_scale_concepts.crossed("church") == 0


def test_other_words_for_the_name():
    class Judge:
        def shows(self, images):
            return torch.ones(len(images), dtype=torch.bool).numpy()

    generator = heeding("bsq")
    prompts = ["a red church on a hill", "a blue church"]
    erasure = erase(generator, CONCEPT, published("negative-prompt"), progress=False)
    rates, drawn = next_scale_concepts.wordings(
        generator, prompts, "church", ["chapel"], {"before": None, "after": erasure}, Judge()
    )
    assert list(rates.columns) == ["church", "chapel"] and rates.loc["after", "chapel"] == 2
    assert drawn["before"]["chapel"].shape[0] == 2 and (drawn["before"]["church"] != drawn["before"]["chapel"]).any()
    with pytest.raises(UserError, match="lacks the word 'boat'"):
        next_scale_concepts.wordings(generator, prompts, "boat", ["ship"], {"before": None}, Judge())


def test_a_vector_in_place_of_a_word():
    generator, prompts = heeding("bsq"), ["a red church on a hill", "a blue church by the sea"]
    own = generator.trunk.text.word.weight[next_scale_concepts.token_of(generator, "church")].detach().clone()
    draw = lambda texts: generator.sample(texts, [1, 2])
    base, boats = draw(prompts), draw(["a red boat on a hill", "a blue boat by the sea"])
    for vector in (own, None):
        with next_scale_concepts.spelt(generator, "church", vector):
            assert torch.equal(draw(prompts), base)
    boat = generator.trunk.text.word.weight[next_scale_concepts.token_of(generator, "boat")].detach()
    with next_scale_concepts.spelt(generator, "church", boat):
        assert torch.equal(draw(prompts), boats) and not torch.equal(boats, base)
    assert torch.equal(draw(prompts), base)
    for wrong in ("blick", "place of worship"):
        with pytest.raises(UserError, match=f"'{wrong}' is not one word"):
            next_scale_concepts.token_of(generator, wrong)


def test_what_an_erased_model_can_be_told_again():
    """Part of what an erasure taught is undone by a vector; the model and the word's own vector stay as they were."""
    generator, prompts = heeding("bsq"), ["a red church on a hill", "a blue church by the sea", "a church at night"]
    erasure = erase(generator, CONCEPT, published("s-vare", pairs=2, passes=4, lr=3e-3), progress=False)
    own = generator.trunk.text.word.weight.detach().clone()
    vector, losses = next_scale_concepts.recalled(generator, prompts, "church", erasure, steps=30, batch=3, lr=0.05)
    assert len(losses) == 30 and losses[-1] < losses[0] - 0.01 and vector.shape == own[0].shape
    assert torch.equal(own, generator.trunk.text.word.weight) and not generator.trunk.text.word._forward_hooks
    base, unchanged = next_scale_concepts.recalled(generator, prompts, "church", None, steps=1, batch=3)
    assert unchanged[0] != losses[0], "with an erasure it is the erased model that is asked"


def test_gaps_are_of_methods_that_erase_the_name(main):
    frame = main.assign(synonym=[rate and Rate(150, 300) for rate in main.synonym])
    found = next_scale_concepts.gaps(frame, most=0.1)
    assert {label for _, label in found.index} == {"vare", "s-vare"}
    assert found.loc[("church", "vare"), "synonym"].startswith("+40 [")
    assert found.loc[("church", "vare"), "described"].endswith(compare.NOT_TOLD)
    assert next_scale_concepts.gaps(frame, most=0.01).empty
