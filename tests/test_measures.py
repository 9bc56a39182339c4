"""Intervals, public judges, folders of pictures, CLIP by key, what autoregressive models let one measure, recognition,
and the veil."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from earlib.concepts import Concept, PromptPair, load_concept
from earlib.erasure.change import switched
from earlib.errors import UserError
from earlib.evaluate import drift
from earlib.evaluate.attacks.draws import guidance_sweep
from earlib.evaluate.attacks.prefix import prefix_probe
from earlib.evaluate.clip import MINI_CLIP, benign_half, concept_phrases, in_prompt_scores
from earlib.evaluate.judges import MINI_JUDGE, Judge, describe, load_judge
from earlib.evaluate.pictures import blurred, read_pictures, veil
from earlib.evaluate.rate import Estimate, Rate
from earlib.evaluate.understanding import question_about, recognition, world_pictures
from earlib.generators import protocol
from earlib.generators.base import Past
from earlib.miniworld.scenes import OBJECTS, render, sample_scenes

PROMPTS = ["a red church on a hill", "a boat by the sea", "a church at night", "a blue house in the snow"]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return render(sample_scenes(12, 4, pairs=0.0))


# ---------------------------------------------------------------- intervals


def test_bootstrap_is_seeded_and_counts_prompts():
    values = np.random.default_rng(3).normal(5, 2, 60)
    found = Estimate.mean(values)
    assert found == Estimate.mean(values) and found.low < found.value < found.high and found.n == 60
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 60**0.5, rel=0.15)
    prompts = [f"prompt {i % 6}" for i in range(60)]
    grouped = Estimate.mean(values, prompts)
    assert grouped.n == 6 and grouped.value == pytest.approx(values.mean())
    with pytest.raises(ValueError, match="no values"):
        Estimate.mean([])


def test_repeated_pictures_of_a_prompt_add_no_certainty():
    values = np.random.default_rng(3).normal(5, 2, 12)
    once, ten_times = Estimate.mean(values), Estimate.mean(np.tile(values, 10), list(range(12)) * 10)
    assert ten_times.low == pytest.approx(once.low) and ten_times.high == pytest.approx(once.high)


def test_pairing_takes_out_what_both_have_in_common():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, 50)
    erased = base - 1 + rng.normal(0, 0.1, 50)
    paired, apart = Estimate.paired(base, erased), Estimate.paired(base, rng.permutation(erased))
    assert paired.high < -0.9 and paired.low > -1.1 and apart.low < paired.low and apart.high > 0
    assert Estimate.paired(np.array([True, True]), np.array([False, True])).value == -0.5
    with pytest.raises(ValueError, match="pairs"):
        Estimate.paired(base, erased[1:])


def test_a_design_effect_moves_no_end_to_the_end():
    """35 of 60 that say as much as 35 independent pictures: not all of them are hits."""
    rate = Rate(35, 60, 60 / 35)
    assert rate.low == pytest.approx(0.42, abs=0.005) and rate.high == pytest.approx(0.73, abs=0.005)
    assert Rate(60, 60, 2).high == 1 and Rate(0, 60, 2).low == 0


@pytest.mark.parametrize("now", [True, False])
def test_a_change_that_all_pictures_share_is_as_sure_as_a_rate_of_all(now):
    seen = np.ones(12, bool)
    change = Estimate.paired(seen, np.full(12, now))
    doubt = 1 - Rate(12, 12).low
    assert change.value == now - 1 and change.low == max(change.value - doubt, -1)
    assert change.high == pytest.approx(change.value + doubt) and 0.2 < doubt < 0.3
    exact = Estimate.paired(
        seen.astype(float), np.full(12, float(now))
    )  # scores, which may well be equal to the last digit
    assert exact.low == exact.high == exact.value


# ---------------------------------------------------------------- judges


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    from torchvision.models import resnet50

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("resnet") / "resnet50.pth"
    torch.save(resnet50().state_dict(), file)
    return file


def test_resnet_looks_its_label_up_by_name_and_counts_ranks(resnet):
    from torchvision.models import ResNet50_Weights

    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    judge = load_judge({"name": "resnet50", "label": "church", "weights": str(resnet)})
    names = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    p = judge.probabilities(pictures)
    assert (
        names[judge.index] == "church"
        and np.allclose(p.sum(1), 1, atol=1e-5)
        and np.allclose(judge.score(pictures), p[:, names.index("church")])
    )
    likeliest = load_judge({"name": "resnet50", "label": names[p[0].argmax()], "weights": str(resnet)})
    assert likeliest.shows(pictures[:1]).all() and likeliest.ranks(pictures)[0] == 1
    rank = int(judge.ranks(pictures)[0])
    assert rank == 1 + (p[0] > p[0, judge.index]).sum()
    for k, expected in ((rank, True), (rank - 1, False)):
        if k:
            judge.k = k
            assert judge.shows(pictures[:1])[0] == expected
    assert "church top-1" in describe(judge) and "torchvision" in describe(judge) and describe(judge).endswith(">= 0")


def test_broken_weights_are_one_line(tmp_path):
    (tmp_path / "resnet50.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="holds no weights of a ResNet-50; download https://") as error:
        load_judge({"name": "resnet50", "label": "church", "weights": str(tmp_path / "resnet50.pth")})
    assert "\n" not in str(error.value)


def test_style_judge_soft_maxes_once(images):
    from transformers import AutoImageProcessor, ResNetForImageClassification

    judge = load_judge({"name": "style", "model": str(MINI_JUDGE), "label": "style:vangogh"})
    model = ResNetForImageClassification.from_pretrained(MINI_JUDGE, dtype=torch.float32).eval()
    pixels = AutoImageProcessor.from_pretrained(MINI_JUDGE)(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(pixels).logits.double().numpy()
    odds = judge.probabilities(images).astype(float)
    # a second softmax would flatten the odds: their logarithms would no longer differ as the logits do
    assert np.allclose(np.log(odds[:, 0] / odds[:, 1]), logits[:, 0] - logits[:, 1], atol=1e-2)
    assert judge.name == "style style:vangogh top-1" and judge.version.startswith("judge ")


def drawn_face() -> np.ndarray:
    """A cartoon of a face that NudeNet takes for one: uint8 [320, 320, 3]."""
    from PIL import ImageDraw, ImageFilter

    skin, hair, c, s = (235, 190, 160), (60, 40, 25), 160, 60
    picture = Image.new("RGB", (2 * c, 2 * c), (180, 190, 200))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((c - 0.95 * s, c - 1.35 * s, c + 0.95 * s, c + s), fill=hair)
    pen.rectangle((c - 0.3 * s, c + 0.8 * s, c + 0.3 * s, c + 1.6 * s), fill=skin)
    pen.ellipse((c - 0.75 * s, c - s, c + 0.75 * s, c + 1.05 * s), fill=skin)
    for x in (c - 0.3 * s, c + 0.3 * s):
        pen.ellipse((x - 0.16 * s, c - 0.25 * s, x + 0.16 * s, c - 0.08 * s), fill=(250, 250, 250))
        pen.ellipse((x - 0.07 * s, c - 0.24 * s, x + 0.07 * s, c - 0.09 * s), fill=(60, 40, 30))
        pen.line((x - 0.2 * s, c - 0.38 * s, x + 0.2 * s, c - 0.4 * s), fill=hair, width=3)
    pen.polygon([(c, c - 0.1 * s), (c - 0.12 * s, c + 0.25 * s), (c + 0.12 * s, c + 0.25 * s)], fill=(199, 161, 136))
    pen.ellipse((c - 0.28 * s, c + 0.45 * s, c + 0.28 * s, c + 0.62 * s), fill=(180, 70, 70))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(4)))


def test_nudenet_sees_colours_as_they_are():
    """The same picture as a file and as our array gives the same detections; with red and blue exchanged it
    does not."""
    every = [f"{p}_{w}" for p in ("BELLY", "FEET", "ARMPITS") for w in ("COVERED", "EXPOSED")] + [
        "FACE_FEMALE",
        "FACE_MALE",
    ]
    judge, face = load_judge({"name": "nudenet", "labels": every, "threshold": 0.0}), drawn_face()
    file = io.BytesIO()
    Image.fromarray(face).save(file, "PNG")
    truth = [(d["class"], pytest.approx(d["score"], abs=1e-4)) for d in judge.detector.detect(file.getvalue())]
    assert truth and [(d["class"], d["score"]) for d in judge.detections(face[None])[0]] == truth
    assert [(d["class"], d["score"]) for d in judge.detections(face[None, ..., ::-1].copy())[0]] != truth
    assert sum(judge.counts(face[None]).values()) == len(truth) and judge.shows(face[None]).all()


def test_nudenet_settings_say_what_they_count():
    paper, flag = load_judge({"name": "nudenet", "setting": "paper"}), load_judge({"name": "nudenet"})
    assert len(paper.labels) == 9 and paper.threshold == 0 and len(flag.labels) == 6 and flag.threshold == 0.6
    blank = np.full((2, 64, 64, 3), 200, np.uint8)
    assert (
        paper.counts(blank) == dict.fromkeys(paper.labels, 0) and not paper.shows(blank).any()
    )  # threshold 0 does not flag everything
    assert "paper" in describe(paper) and "320n.onnx" in describe(paper)


# ---------------------------------------------------------------- folders and CLIP


@pytest.mark.parametrize(
    "what, message",
    [
        ("cut short", "03.png: is no picture that can be read"),
        ("other size", "03.png: is 20 x 30 pixels"),
        ("no pictures", "holds no pictures"),
        ("no folder", "there is no such folder"),
    ],
)
def test_a_broken_folder_is_one_line(images, tmp_path, what, message):
    for i, image in enumerate(images[:4]):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    if what == "cut short":
        (tmp_path / "03.png").write_bytes((tmp_path / "03.png").read_bytes()[:300])
    elif what == "other size":
        Image.new("RGB", (20, 30)).save(tmp_path / "03.png")
    elif what == "no pictures":
        for file in tmp_path.glob("*.png"):
            file.unlink()
    with pytest.raises(UserError) as error:
        read_pictures(tmp_path / "nowhere" if what == "no folder" else tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_pictures_of_every_kind_are_read_as_they_are(tmp_path):
    grey = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "0.png")  # 16 bits
    for i, (name, mode) in enumerate((("PNG", "L"), ("JPG", "L"), ("bmp", "RGB"), ("tif", "RGBA"), ("gif", "P")), 1):
        Image.fromarray(grey).convert(mode).save(tmp_path / f"{i}.{name}")
    (tmp_path / "1.PNG").rename(tmp_path / "1")  # no ending
    (tmp_path / "2.JPG").rename(tmp_path / "2.jfif")
    seen = np.dstack([np.zeros((16, 16, 3), np.uint8), 255 - grey])  # black ink on a white page
    Image.fromarray(seen, "RGBA").save(tmp_path / "6.png")
    for other in ("prompts.txt", "LICENSE", ".hidden.png"):
        (tmp_path / other).write_text("no picture")
    images = read_pictures(tmp_path)
    assert images.shape == (7, 16, 16, 3)
    assert (np.abs(images.astype(int) - grey[..., None]) <= 6).all() and (images[0] == grey[..., None]).all()
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "7.tif")
    with pytest.raises(UserError, match="7.tif: is no picture that can be read"):
        read_pictures(tmp_path)


@pytest.mark.parametrize(
    "prompt, kind, half",
    [
        ("a blue car and a green church , as a sketch", "object", "a blue car"),
        ("a sketch of a red church and a boat in the snow", "object", "a boat in the snow"),
        ("a churchyard in the fog", "object", None),
        ("Church", "object", None),
        ("a church by a lake", "object", "a lake"),
        ("a red sofa in the middle of a church", "scene", "a red sofa in the middle"),
        ("a dog and a cat in a church style", "style", "a dog and a cat in style"),
    ],
)
def test_benign_half(prompt, kind, half):
    assert benign_half(prompt, ("church",), kind) == half


def test_concepts_without_words_are_named_by_their_pairs():
    pairs = (
        PromptPair("a red church on a hill", "a red house on a hill"),
        PromptPair("a boat , in the style of van gogh", "a boat"),
    )
    concept = Concept("church", "object", pairs, {}, {}, {}, (), {"name": "miniworld"})
    assert set(concept_phrases(concept)) == {"church", "in the style of van gogh"}
    assert concept_phrases(dataclasses.replace(concept, words=("nave", "church"))) == ("church", "nave")


def test_in_prompt_score_tells_a_kept_half_from_a_lost_one():
    concept = dataclasses.replace(load_concept("church"), words=("church",))
    scenes = sample_scenes(40, 21, pairs=0.0)
    scenes = dataclasses.replace(scenes, object=np.full(40, OBJECTS.index("boat")))
    prompts = [
        "a church and a boat",
        "a boat",
    ] * 20  # every second one has no benign half: it does not name the concept
    lost = render(dataclasses.replace(scenes, object=np.full(40, OBJECTS.index("tree"))))
    rows, kept = in_prompt_scores(render(scenes), prompts, concept)
    assert (
        rows.tolist() == list(range(0, 40, 2))
        and kept.mean() > in_prompt_scores(lost, prompts, concept)[1].mean() + 0.1
    )


def test_wrong_activation_is_an_error():
    from earlib.evaluate.clip import load_clip

    with pytest.raises(UserError, match="open_clip cannot load"):
        load_clip("ViT-B-32/no-such-weights")
    assert load_clip(MINI_CLIP).version == load_clip().version


# ---------------------------------------------------------------- what autoregressive models allow


class Change:
    """An erasure that adds noise of a given size to one tensor of the trunk."""

    def __init__(self, generator, size: float):
        own, name = dict(generator.trunk.named_parameters()), "layers.0.self_attn.v_proj.weight"
        noise = torch.randn(own[name].shape, generator=torch.Generator().manual_seed(1))
        self.tensors = {name: torch.nn.Parameter(own[name] + size * noise, requires_grad=False)}

    def on(self, generator):
        return switched(generator.trunk, self.tensors)


@pytest.fixture(scope="module")
def tokens(generator):
    return drift.draw_tokens(generator, PROMPTS)


def test_nll_is_that_of_drawing_token_by_token(generator, tokens):
    """The exact likelihood of a picture is the product of what the model gave each token when it fed on the ones
    before."""
    for null in (False, True):
        batch = generator.encode(PROMPTS)
        batch, past, total = generator.null_like(batch) if null else batch, Past(), torch.zeros(len(PROMPTS))
        with torch.no_grad():
            for t in range(generator.num_codes):
                logits = generator.image_logits(generator.hidden_states(batch, tokens[:, t : t + 1], past))[:, 0]
                total -= logits.log_softmax(-1).gather(1, tokens[:, t : t + 1])[:, 0]
        assert drift.nll(generator, PROMPTS, tokens, null=null) == pytest.approx(
            (total / generator.num_codes).numpy(), rel=1e-4
        )


def test_guided_log_probabilities_are_what_is_drawn_from(generator, tokens):
    """At temperature 0 every drawn token is the likeliest one of the guided distribution."""
    from earlib.generators import default_keys, picture_seeds

    greedy = generator.sample(PROMPTS, picture_seeds(0, default_keys(PROMPTS)), 4.0, temperature=0)
    logp = generator.log_probabilities(PROMPTS, greedy, 4.0)[:, :, 0]
    assert torch.equal(logp.argmax(-1), greedy)
    assert torch.allclose(logp.exp().sum(-1), torch.ones(greedy.shape), atol=1e-4)


def test_small_batches_change_nothing(generator, tokens, monkeypatch):
    whole = drift.nll(generator, PROMPTS, tokens)
    monkeypatch.setattr(protocol, "LOGITS", 1)
    assert drift.nll(generator, PROMPTS, tokens) == pytest.approx(whole, rel=1e-5)


def test_drift_of_nothing_is_nought_and_grows(generator, tokens):
    none, small, large = (
        drift.kl_drift(generator, Change(generator, size), PROMPTS, tokens) for size in (0.0, 0.05, 0.3)
    )
    assert abs(none.value) < 1e-6 < small.low <= small.value <= small.high < large.value and large.n == len(PROMPTS)


def test_kl_drift_is_the_kullback_leibler_divergence(generator, tokens):
    change = Change(generator, 0.1)
    (_, p), *_ = drift.distributions(generator, PROMPTS, tokens)
    (_, q), *_ = drift.distributions(generator, PROMPTS, tokens, change)
    direct = (
        torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
        )
        .mean()
        .item()
    )
    assert drift.kl_drift(generator, change, PROMPTS, tokens).value == pytest.approx(direct, rel=1e-4)


def test_agreement_under_common_random_numbers(generator, tokens):
    same = drift.token_agreement(PROMPTS, tokens, drift.draw_tokens(generator, PROMPTS, erasure=Change(generator, 0.0)))
    assert same["agreement"].value == same["identical"].value == same["untouched"].value == 1.0
    slight, strong = (
        drift.token_agreement(PROMPTS, tokens, drift.draw_tokens(generator, PROMPTS, erasure=Change(generator, s)))
        for s in (0.01, 0.5)
    )
    other = drift.token_agreement(PROMPTS, tokens, drift.draw_tokens(generator, PROMPTS, seed=1))
    assert (
        slight["agreement"].value > strong["agreement"].value
        and slight["agreement"].value > 2 * other["agreement"].value
    )
    hand = drift.token_agreement(
        ["a", "b"], torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]]), torch.tensor([[1, 2, 0, 4], [1, 2, 3, 4]])
    )
    assert (hand["agreement"].value, hand["untouched"].value, hand["identical"].value) == (0.875, 0.75, 0.5)


def test_likelihood_gap_is_that_of_the_prompt(generator, tokens):
    gap = drift.likelihood_gap(generator, Change(generator, 0.0), PROMPTS, tokens)
    assert (
        gap["base"].value > 0
        and gap["base"].value == pytest.approx(gap["erased"].value)
        and gap["change"].value == pytest.approx(0, abs=1e-6)
    )
    swapped = drift.likelihood_gap(generator, Change(generator, 0.0), PROMPTS[1:] + PROMPTS[:1], tokens)
    assert swapped["base"].value < gap["base"].value  # a picture is best explained by its own prompt


def test_first_row_tells_collapse(generator, tokens):
    found = drift.first_row_entropy(generator, PROMPTS, tokens)
    ceiling = math.log(generator.codebook_size)
    assert 0 < found["entropy"].value <= found["spread"].value <= ceiling + 1e-6
    one = drift.first_row_entropy(
        generator, PROMPTS[:1] * 4, tokens[:1].repeat(4, 1)
    )  # one and the same picture four times: collapsed
    assert (
        one["spread"].value == pytest.approx(one["entropy"].value, rel=1e-5)
        and one["spread"].value < found["spread"].value
    )


class Bright(Judge):
    """Judges by the mean of a picture's lower half."""

    name, version, threshold = "bright", "1", 0.5

    def score(self, images):
        return images[:, images.shape[1] // 2 :].mean((1, 2, 3)) / 255


def test_guidance_sweep_draws_the_same_seeds_at_every_scale(generator, tokens):
    rows = guidance_sweep(generator, PROMPTS, Bright(), scales=(1.0, generator.guidance))
    assert list(rows) == [1.0, generator.guidance] and all(r.n == len(PROMPTS) for r in rows.values())
    assert (
        rows[generator.guidance].value == Bright().shows(generator.decode(tokens)).mean()
    )  # at the model's own guidance these are its own pictures


def test_prefix_probe_gives_what_it_says(generator, tokens):
    W = generator.grid[1]
    again = drift.draw_tokens(generator, PROMPTS, given=tokens[:, : 2 * W])
    assert torch.equal(again, tokens)  # the same seed continues its own picture as it was
    other = drift.draw_tokens(generator, PROMPTS, seed=5, given=tokens[:, : 2 * W])
    assert torch.equal(other[:, : 2 * W], tokens[:, : 2 * W]) and not torch.equal(other, tokens)
    filler = torch.zeros_like(tokens)
    rows = prefix_probe(generator, PROMPTS, tokens, Bright(), filler=filler, shares=(0.0, 0.5, 1.0))
    assert [r["rows"] for r in rows] == [0, generator.grid[0] // 2, generator.grid[0]]
    own, dark = (Bright().shows(generator.decode(t)).mean() for t in (tokens, filler))
    assert (
        rows[2]["rate"].value == rows[2]["alone"].value == own
        and rows[0]["alone"].value == rows[1]["alone"].value == dark
    )


# ---------------------------------------------------------------- recognition


def test_world_pictures_differ_by_the_concept_alone():
    for concept in ("church", "vangogh", "forest", "night", "portrait"):
        judge = load_judge(load_concept(concept).judge)
        shows, without = world_pictures(judge, 20)
        assert (
            judge.shows(shows).mean() >= 0.95
            and judge.shows(without).mean() <= 0.05
            and len(shows) == len(without) == 20
        )


class Talker:
    """Captions a picture by what MiniWorld's judge sees; with the erasure on, it no longer knows churches."""

    def __init__(self):
        self.judge, self.blind = load_judge(load_concept("church").judge), False

    def caption(self, images, question=None):
        names = self.judge.groups["object"]
        found = [names[i] for i in self.judge.probabilities(images)["object"].argmax(1)]
        found = ["house" if self.blind and name == "church" else name for name in found]
        return [
            ("Yes, it is." if name == "church" else "No.") if question else f"A photo of a {name}" for name in found
        ]


class Blinding:
    def on(self, generator):
        from contextlib import contextmanager

        @contextmanager
        def blinded():
            generator.blind = True
            yield
            generator.blind = False

        return blinded()


@pytest.mark.parametrize("question", [None, "Is there a church in this picture? Answer yes or no."])
def test_recognition_before_and_after(question):
    concept, talker = load_concept("church"), Talker()
    rows = {
        (r["condition"], r["pictures"]): r
        for r in recognition(talker, concept, *world_pictures(talker.judge, 20), Blinding(), question=question)
    }
    seen = {key: row["rate"].value for key, row in rows.items()}
    assert (
        seen["base", "with the concept"] >= 0.95
        and seen["erased", "with the concept"] == 0.0
        and seen["base", "without it"] <= 0.05
    )
    assert (
        rows["erased", "with the concept"]["change"].value
        == seen["erased", "with the concept"] - seen["base", "with the concept"]
    )
    assert (
        rows["erased", "with the concept"]["change"].high < -0.8
        and len(rows["base", "without it"]["answers"]) == rows["base", "without it"]["rate"].n == 20
    )


def test_questions_of_a_concept():
    assert question_about(load_concept("church")).endswith("Answer yes or no.") and "church" in question_about(
        load_concept("church")
    )


def test_a_caption_is_read_the_same_whatever_the_erasure(generator):
    """A real model, random as it is: it is asked within the erasure, and is itself again afterwards."""
    pictures = generator.decode(drift.draw_tokens(generator, PROMPTS[:2]))
    before = generator.caption(pictures)
    rows = recognition(generator, load_concept("church"), pictures, pictures, Change(generator, 3.0))
    answers = {row["condition"]: row["answers"] for row in rows if "answers" in row}
    assert answers["base"] == before == generator.caption(pictures) and answers["erased"] != before


# ---------------------------------------------------------------- the veil


def test_explicit_pictures_are_blurred_where_the_judge_fires():
    concept = load_concept("nudity")
    scenes = sample_scenes(20, 3, pairs=0.0)
    objects = np.arange(20) % len(OBJECTS)
    pictures = render(dataclasses.replace(scenes, object=objects))
    fires = load_judge(concept.judge).shows(pictures)
    shown = veil(pictures, concept, "janus-pro-1b")
    changed = (shown != pictures).any((1, 2, 3))
    assert fires.any() and (changed == fires).all() and (fires == (objects == OBJECTS.index("figure"))).mean() > 0.9
    steps = lambda images: np.abs(np.diff(images[fires].astype(int), axis=2)).max()
    assert steps(pictures) > 128 and steps(shown) < 64  # no edge is left
    assert (
        veil(pictures, concept, "mini") is pictures
        and veil(pictures, load_concept("church"), "janus-pro-1b") is pictures
    )
    assert veil(pictures, concept, "janus-pro-1b", show_explicit=True) is pictures


def test_a_blurred_picture_holds_no_detail():
    checks = np.indices((64, 64)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    assert np.ptp(blurred(checks.astype(np.uint8)).astype(int)) <= 2 and blurred(checks.astype(np.uint8)).shape == (
        64,
        64,
        3,
    )
