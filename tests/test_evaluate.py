"""Judges, intervals, FID, KID, CLIP score and the records of `evaluate`: on real MiniWorld pictures and a generator
that only pretends."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlib.concepts import Concept, PromptPair
from earlib.errors import UserError
from earlib.evaluate import pictures as pictures_module
from earlib.evaluate.beside import BESIDE, seen_beside
from earlib.evaluate.clip import clip_scores, load_clip
from earlib.evaluate.evaluation import evaluate
from earlib.evaluate.fidelity import Inception, distances
from earlib.evaluate.judges import MINI_JUDGE, MiniWorldJudge, load_judge
from earlib.evaluate.rate import Estimate, Rate
from earlib.evaluate.records import KEYS, pool, summarise
from earlib.miniworld.captions import describe
from earlib.miniworld.damage import RUINS, damage, shuffled
from earlib.miniworld.quality import PARTS, right
from earlib.miniworld.scenes import OBJECTS, Scenes, render, sample_scenes
from earlib.miniworld.tokenizer import to_pixels

CHURCH = {"name": "miniworld", "group": "object", "label": "church", "threshold": 0.5}


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return sample_scenes(240, 12345, pairs=0.0, portraits=0.0)


@pytest.fixture(scope="module")
def images(scenes) -> np.ndarray:
    return render(scenes)


@pytest.fixture(scope="module")
def judge() -> MiniWorldJudge:
    return load_judge(CHURCH)


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    "hits, n, low, high",
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (1, 95, 0.0019, 0.0573),
    ],
)  # 81 of 263: Newcombe 1998, table I
def test_wilson_known_values(hits, n, low, high):
    assert Rate(hits, n).interval == pytest.approx((low, high), abs=5e-4)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_invariants(hits_n):
    hits, n = hits_n
    low, high = Rate(hits, n).interval
    assert 0 <= low <= hits / n <= high <= 1 and low < high
    assert Rate(n - hits, n).interval == pytest.approx((1 - high, 1 - low))  # counting the misses mirrors it
    wider = Rate(hits, n).interval, Rate(10 * hits, 10 * n).interval
    assert wider[1][1] - wider[1][0] < wider[0][1] - wider[0][0]  # more of the same is surer


@given(st.lists(st.integers(0, 30), min_size=2, max_size=4))
def test_trainings_that_differ_leave_a_wider_interval_than_as_many_pictures_of_one(hits):
    apart, together = Rate.over_seeds(Rate(h, 30) for h in hits), Rate(sum(hits), 30 * len(hits))
    assert (apart.value, apart.n) == (together.value, together.n)
    assert apart.low <= together.low + 1e-9 and apart.high >= together.high - 1e-9
    assert Rate.over_seeds([Rate(hits[0], 30)] * 3) == Rate(3 * hits[0], 90)  # the same thrice narrows as pictures do
    assert Rate.pooled([apart]).interval == pytest.approx(apart.interval)  # and is not forgotten when pooled again


def test_design_effect_known_value():
    rate = Rate.over_seeds([Rate(0, 30), Rate(30, 30)])  # all or nothing: two trainings are as one picture
    assert rate.effect == pytest.approx(60) and rate.interval == pytest.approx(Rate(0, 0).interval, abs=0.11)
    assert Rate.over_seeds([Rate(12, 30), Rate(18, 30)]).effect == pytest.approx(2 * 2 * 9 / (60 * 0.25))


def test_wilson_without_data():
    assert Rate(0, 0).interval == (0.0, 1.0)
    with pytest.raises(ValueError, match="hits"):
        Rate(3, 2)
    with pytest.raises(ValueError, match="design effect"):
        Rate(1, 2, 0.5)


# ---------------------------------------------------------------- judges


def test_judge_is_right_on_fresh_pictures(judge, scenes, images):
    found = right(judge.probabilities(images), scenes)
    assert all(found[part].mean() >= 0.99 for part in PARTS)
    assert (judge.shows(images) == (scenes.object == OBJECTS.index("church"))).mean() >= 0.99


def test_judge_holds_on_damaged_pictures(judge, scenes, images):
    import torch

    x = damage(to_pixels(images), torch.Generator().manual_seed(0))
    worn = ((x.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()
    assert right(judge.probabilities(worn), scenes)["object"].mean() >= 0.97


def test_judge_sees_both_objects_of_a_pair(judge):
    pair = sample_scenes(100, 7, pairs=1.0, portraits=0.0)
    found = judge.probabilities(render(pair))["object"] >= 0.5
    rows = np.arange(len(pair))
    assert (found[rows, pair.object] & found[rows, pair.object2]).mean() >= 0.98
    assert (found.sum(1) == 2).mean() >= 0.95


def test_judge_finds_nothing_where_nothing_is(judge, scenes, images):
    empty = render(dataclasses.replace(scenes, object=np.full(len(scenes), -1)))
    broken = shuffled(images, np.random.default_rng(0), 4)
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    for nothing in (empty, broken, noise):
        assert (judge.probabilities(nothing)["object"].max(1) >= 0.5).mean() <= 0.05


def test_beside_a_rate_ruin_is_seen(judge, scenes, images):
    """What the second judge says of whole pictures, and of the same pictures ruined."""
    church, whole = scenes.object == OBJECTS.index("church"), seen_beside(judge, images)
    assert list(whole) == list(BESIDE) and (whole["second"] == church).mean() >= 0.98
    assert whole["object"].mean() >= 0.98 and whole["unfinished"].mean() <= 0.05
    instead = np.isin(scenes.object, [OBJECTS.index(o) for o in ("house", "tower", "tree", "windmill", "lighthouse")])
    assert (whole["replacement"] == instead).mean() >= 0.95
    rng = np.random.default_rng(0)
    for ruin in (*RUINS, lambda first, others, rng: shuffled(first, rng, 4)):
        ruined = seen_beside(judge, np.clip(ruin(images, images[::-1], rng), 0, 255).astype(np.uint8))
        assert ruined["unfinished"].mean() >= 0.9 and ruined["object"].mean() <= 0.1
    assert seen_beside(SimpleNamespace(), images) == {}


def test_judge_does_not_depend_on_the_batch(judge, images):
    together = judge.score(images)
    assert np.allclose(together[[5]], judge.score(images[5:6]), atol=1e-6)
    assert judge.features(images[:3]).shape == (3, 192) and judge.score(images[:0]).shape == (0,)


def test_shuffled_keeps_every_tile():
    picture = np.arange(48 * 48 * 3).reshape(1, 48, 48, 3)
    mixed = shuffled(picture, np.random.default_rng(1), 8)
    assert not np.array_equal(mixed, picture) and np.array_equal(np.sort(mixed.ravel()), np.sort(picture.ravel()))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 48, 48, 3), np.float32),
        np.zeros((48, 48, 3), np.uint8),
        np.zeros((2, 3, 48, 48), np.uint8),
        "a.png",
    ],
)
def test_judges_refuse_other_arrays(judge, wrong):
    nude = load_judge({"name": "nudenet"})
    for one in (judge, nude):
        with pytest.raises(UserError, match="uint8 array"):
            one.shows(wrong)


@pytest.mark.parametrize(
    "spec, message",
    [
        ({"name": "minworld"}, "did you mean 'miniworld'"),
        ({"name": "miniworld", "group": "objects"}, "did you mean 'object'"),
        ({"name": "miniworld", "label": "curch"}, "did you mean 'church'"),
        ({"name": "miniworld", "tresh": 0.5}, "did you mean 'threshold'"),
        ({"name": "miniworld", "threshold": 2}, "between 0 and 1"),
        ({"name": "miniworld", "folder": "/nowhere"}, "no MiniWorld judge in /nowhere"),
        ({"name": "nudenet", "labels": ["BELY_EXPOSED"]}, "did you mean 'belly_exposed'"),
        ({"name": "nudenet", "setting": "papr"}, "did you mean 'paper'"),
        ({"name": "nudenet", "model_path": "/nowhere/640m.onnx"}, "download 640m.onnx"),
        ({"name": "resnet50"}, "field 'label' is missing"),
        ({"name": "resnet50", "label": "churhc"}, "did you mean 'church'"),
        ({"name": "style", "model": "/nowhere", "label": "van-gogh"}, "no image classifier in /nowhere"),
        ({"name": "style", "model": str(MINI_JUDGE), "label": "style:van-gogh"}, "did you mean 'style:vangogh'"),
        (
            {"name": "style", "model": str(MINI_JUDGE), "label": "style:vangogh", "k": 0},
            "k must be a whole number from 1",
        ),
        ({"name": "resnet50", "label": "church", "weights": "/nowhere.pth"}, "no weights at /nowhere.pth"),
        ({"name": "clip", "texts": ["a"], "others": []}, "at least one text"),
        (
            {"name": "clip", "texts": ["a"], "others": ["b"], "model": "local-dir:/nowhere"},
            "no open_clip model in /nowhere",
        ),
        ({"label": "church"}, '"name"'),
    ],
)
def test_bad_specs_are_one_clear_line(spec, message):
    with pytest.raises(UserError) as error:
        load_judge(spec)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_nudenet_runs_and_finds_nothing_in_a_pictogram(scenes):
    figures = render(dataclasses.replace(scenes, object=np.full(len(scenes), OBJECTS.index("figure"))))[:3]
    nude = load_judge({"name": "nudenet", "threshold": 0.25})
    assert not nude.shows(figures.repeat(4, 1).repeat(4, 2)).any() and nude.version.startswith("3.")


def test_clip_judge_tells_objects_apart(scenes, images):
    """A second opinion, no judge: the tiny CLIP knows a boat, and takes one building for another, as the chapter on
    the test bed shows."""
    others = [f"a {name}" for name in OBJECTS if name != "boat"]
    zero_shot = load_judge({"name": "clip", "texts": ["a boat"], "others": others})
    score, boat = zero_shot.score(images), scenes.object == OBJECTS.index("boat")
    assert ((0 <= score) & (score <= 1)).all()
    assert (score[boat][:, None] > score[~boat]).mean() > 0.9  # area under the ROC curve


# ---------------------------------------------------------------- fidelity and CLIP score


def test_distance_to_itself_is_nought_and_grows_with_damage(judge, images):
    other, noise = (
        render(sample_scenes(240, 999, pairs=0.0, portraits=0.0)),
        np.random.default_rng(0).normal(0, 1, images.shape),
    )
    sets = [np.clip(other + sigma * noise, 0, 255).astype(np.uint8) for sigma in (0, 60, 120)]
    itself, *worn = [distances(one, images, judge) for one in (images, *sets)]  # a second call must not register twice
    kid, fid = ([d[metric].value for d in worn] for metric in ("kid", "fid"))
    assert itself["fid"].value < 1e-3 < fid[0] < fid[1] < fid[2] and itself["kid"].value <= 0
    assert abs(kid[0]) < 0.2 * kid[2] and kid[0] < kid[1] < kid[2]


def test_kid_interval_covers_nought_for_two_sets_of_the_same_world(judge, images):
    kid = distances(images, render(sample_scenes(240, 999, pairs=0.0, portraits=0.0)), judge)["kid"]
    assert kid.low < 0 < kid.high and kid.low < kid.value < kid.high


def test_distances_tell_their_n_and_kid_first(judge, images):
    d = distances(images[:40], images[40:100], judge)
    assert {found.n for found in d.values()} == {40} and list(d).index("kid") < list(d).index("fid")


def test_recall_tells_a_narrow_set_from_a_wide_one(judge, scenes, images):
    """Pictures of one object alone are all good, but they are not all of the world."""
    other = sample_scenes(240, 999, pairs=0.0, portraits=0.0)
    wide, narrow = (
        distances(render(s), images, judge)
        for s in (other, dataclasses.replace(other, object=np.zeros(len(other), dtype=int)))
    )
    assert wide["precision"].value > 0.8 and narrow["precision"].value > 0.8
    assert narrow["recall"].value < wide["recall"].value - 0.3


def test_inception_is_never_fetched_silently(tmp_path):
    with pytest.raises(UserError, match=r"no Inception weights at .*; download https://"):
        Inception(tmp_path / "weights.pth")
    (tmp_path / "other.pth").write_bytes(b"something else")
    with pytest.raises(UserError, match="is not the file that FID is defined by"):
        Inception(tmp_path / "other.pth")


def test_fidelity_needs_enough_pictures_and_features(judge, images):
    with pytest.raises(UserError, match="at least 8 reference"):
        distances(images, images[:3], judge)
    with pytest.raises(UserError, match="no features"):
        distances(images, images, SimpleNamespace(name="other", version="1"))


def test_clip_score_falls_when_captions_are_shuffled(scenes, images):
    captions = describe(scenes, 5)
    own, other = clip_scores(images, captions), clip_scores(images, captions[1:] + captions[:1])
    assert own.mean() > other.mean() + 0.3 and (np.abs(own) <= 1 + 1e-6).all()
    mean, low, high = (getattr(Estimate.normal(own), end) for end in ("value", "low", "high"))
    assert low < mean < high and mean == pytest.approx(own.mean())
    with pytest.raises(UserError, match="240 pictures and 1 prompts"):
        clip_scores(images, captions[:1])


def test_clip_knows_no_difference_between_strange_words():
    text = load_clip().texts(["xylophone"]), load_clip().texts(["a red church on a hill"])
    assert np.isfinite(text[0]).all() and not np.allclose(*text)


def test_wrong_clip_names():
    with pytest.raises(UserError, match="names no weights"):
        load_clip("ViT-B-32")


# ---------------------------------------------------------------- evaluate


class FakeGenerator:
    """Draws the object that the prompt names by rendering it; keeps a list of what it was asked for."""

    profile, fingerprint, guidance, temperature, device, dtype = "mini", "0123456789abcdef", 3.0, 1.0, "cpu", "float32"

    def __init__(self):
        self.asked: list[tuple] = []
        self.erasure = None

    def sample(self, prompts, seeds, progress=False):
        self.asked += [(seed, self.erasure) for seed in seeds]
        names = [next(o for o in OBJECTS if o in prompt) for prompt in prompts]
        return [("house" if self.erasure and name == "church" else name, s) for name, s in zip(names, seeds)]

    def decode(self, codes):
        scenes = (
            dataclasses.replace(sample_scenes(1, s, pairs=0.0, portraits=0.0), object=np.array([OBJECTS.index(o)]))
            for o, s in codes
        )
        return np.concatenate([render(scene) for scene in scenes])


class FakeErasure:
    name, recipe = "church", {"name": "ear"}

    @contextmanager
    def on(self, generator):
        generator.erasure = self
        yield
        generator.erasure = None


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures_module, "CACHE", tmp_path)
    return FakeGenerator()


@pytest.fixture
def church() -> Concept:
    places = ("on a hill", "by the sea", "in the snow", "at night")
    at = lambda thing: tuple(f"a {thing} {place}" for place in places)
    return Concept(
        name="church",
        kind="object",
        pairs=(PromptPair("a church", "a house"),),
        tests={"direct": at("church"), "compositional": at("red church")},
        neighbours={"boat": at("boat"), "car": at("car")},
        neighbour_judges={name: CHURCH | {"label": name} for name in ("boat", "car")},
        benign=at("tree") + at("boat"),
        judge=CHURCH,
        paper={"concept_rate": {"base": None, "erased": 0.11}},
    )


def test_records_tell_what_was_erased(fake, church):
    with pytest.raises(UserError, match="picture seeds must differ, got 0, 0"):
        evaluate(fake, church, seeds=(0, 0), progress=False)
    records = evaluate(fake, church, FakeErasure(), seeds=(0, 1, 2), progress=False)
    assert all(tuple(record) == KEYS for record in records)
    assert json.loads(json.dumps(records)) == records
    by = {(r["metric"], r["subject"], r["kind"], r["condition"]): r for r in records}
    base, erased = (by["concept_rate", "church", "direct", c] for c in ("base", "erased"))
    assert (base["value"], erased["value"]) == (1.0, 0.0) and base["n"] == 12 and erased["seed"] == "0,1,2"
    assert erased["paper"] == 0.11 and by["concept_rate", "church", "compositional", "erased"]["paper"] is None
    assert base["recipe"] is None and erased["recipe"] == "ear"
    seen = {what: by[f"{what}_rate", "church", "direct", "erased"]["value"] for what in BESIDE}
    assert seen["object"] >= 0.9 <= seen["replacement"] and seen["second"] == 0.0 and seen["unfinished"] <= 0.1
    assert (
        by["neighbour_rate", "all", "neighbour", "erased"]["value"] == 1.0
        and by["neighbour_rate", "all", "neighbour", "base"]["n"] == 24
    )
    assert (
        by["fid", "benign", "base", "erased"]["value"] == pytest.approx(0, abs=1e-3)
        and by["fid", "benign", "real", "base"]["value"] > 1
    )
    assert by["kid", "benign", "real", "base"]["low"] < by["kid", "benign", "real", "base"]["high"]
    assert by["clip_score", "benign", "benign", "base"]["low"] < by["clip_score", "benign", "benign", "base"]["value"]
    assert ("fid", "benign", "base", "base") not in by
    table = summarise(records)
    assert table.loc[("concept_rate", "church", "direct"), "erased"].startswith("0.0 %") and "paper, erased" in table


def test_base_pictures_are_drawn_once(fake, church):
    first = evaluate(fake, church, seeds=(0,), fidelity=False, progress=False)
    count = len(fake.asked)
    assert count == len(set(fake.asked)) == 20  # the boats of the benign set are the neighbours' boats
    assert evaluate(fake, church, seeds=(0,), fidelity=False, progress=False) == first and len(fake.asked) == count
    fewer = evaluate(fake, church, seeds=(0,), max_prompts=2, fidelity=False, progress=False)
    assert len(fake.asked) == count and fewer[0]["n"] == 2
    evaluate(fake, church, FakeErasure(), seeds=(0,), fidelity=False, progress=False)
    assert len(fake.asked) == 2 * count  # an erasure's pictures are never taken from the cache


def test_a_broken_cache_file_is_drawn_again(fake, church, tmp_path):
    first = evaluate(fake, church, seeds=(0,), fidelity=False, progress=False)
    (file,) = tmp_path.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:1000])
    assert evaluate(fake, church, seeds=(0,), fidelity=False, progress=False) == first and len(fake.asked) == 40


def test_the_cache_is_bounded(fake, church, tmp_path, monkeypatch):
    evaluate(fake, church, seeds=(0,), fidelity=False, progress=False)
    (old,) = tmp_path.rglob("*.npz")
    monkeypatch.setattr(pictures_module, "LIMIT", old.stat().st_size + 1000)
    os.utime(old, (0, 0))
    evaluate(fake, church, seeds=(1,), fidelity=False, progress=False)
    assert not old.exists() and len(list(tmp_path.rglob("*.npz"))) == 1  # the oldest went


def test_changes_are_paired_and_told_apart_from_rates(fake, church):
    records = evaluate(fake, church, FakeErasure(), seeds=(0, 1), fidelity=False, progress=False, changes=True)
    by = {(r["metric"], r["subject"], r["kind"]): r for r in records if r["metric"].endswith("_change")}
    gone, kept = by["concept_rate_change", "church", "direct"], by["neighbour_rate_change", "all", "neighbour"]
    assert (gone["value"], gone["n"], gone["condition"]) == (-1.0, 4, "erased")
    assert kept["value"] == 0 and kept["low"] < 0 < kept["high"]  # of so few pictures that none changed is no proof
    assert by["clip_score_change", "benign", "benign"]["value"] == pytest.approx(0, abs=1e-9)
    table = summarise(records)
    assert table.loc[("concept_rate_change", "church", "direct"), "erased"] == "-100.0 points [-100.0 to -51.0]"


def test_benign_half_survives_a_good_erasure_only(fake, church):
    """The erasure of the fake draws a house instead of the church: what else the prompt asked for is kept."""
    pairs = tuple(f"a church and a {thing} by the sea" for thing in ("boat", "tree", "car", "windmill"))
    concept = dataclasses.replace(church, tests={"compositional": pairs})
    found = {
        r["condition"]: r
        for r in evaluate(fake, concept, FakeErasure(), seeds=(0,), fidelity=False, progress=False)
        if r["metric"] == "in_prompt_clip"
    }
    assert set(found) == {"base", "erased"} and found["base"]["n"] == 4 and found["base"]["kind"] == "compositional"


def test_explicit_pictures_are_not_kept(fake, church, tmp_path):
    concept = dataclasses.replace(church, kind="content")
    fake.profile = "janus-pro-1b"
    evaluate(fake, concept, seeds=(0,), fidelity=False, progress=False)
    assert not list(tmp_path.rglob("*.npz"))


def test_pool_adds_counts_and_tells_the_base_once(fake, church):
    runs = [evaluate(fake, church, FakeErasure(), seeds=seeds, progress=False) for seeds in ((0,), (0,), (1,))]
    pooled = {(r["metric"], r["subject"], r["kind"], r["condition"]): r for r in pool(sum(runs, []))}
    base, erased = (pooled["concept_rate", "church", "direct", c] for c in ("base", "erased"))
    assert (base["n"], erased["n"], base["seed"]) == (8, 12, "0,1") and (erased["low"], erased["high"]) == Rate(
        0, 12
    ).interval
    values = [
        r["value"] for run in runs for r in run if (r["metric"], r["kind"], r["condition"]) == ("kid", "real", "erased")
    ]
    assert (pooled["kid", "benign", "real", "erased"]["low"], pooled["kid", "benign", "real", "erased"]["high"]) == (
        min(values),
        max(values),
    )
