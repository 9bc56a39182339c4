"""A next-scale picture scale by scale, on tiny random models with both quantisers: counts and identities by hand, and
the model's own distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from earlib.chapters import next_scale, which_scale
from earlib.concepts import PromptPair
from earlib.evaluate.judges import MiniWorldJudge
from earlib.evaluate.race import race
from earlib.generators import picture_seeds

from .conftest import tiny_janus
from .test_nextscale import PROMPTS, SEEDS, tiny

PAIRS = (
    PromptPair("a red church on a hill", "a red house on a hill"),
    PromptPair("a church by the sea", "a tower by the sea"),
)
K = 4  # scales of the tiny models


@pytest.fixture(scope="module", params=["bsq", "vq"])
def generator(request):
    """An untrained model to which prompts matter more than to a new one."""
    generator = tiny(request.param)
    for block in generator.trunk.blocks:
        block.cross_attention.kv.weight *= 3
    return generator


@pytest.fixture(scope="module")
def codes(generator):
    return generator.sample(PROMPTS, SEEDS)


# ------------------------------------------------------------------ pictures and codes


def test_usage_counts_codes(generator):
    """Of 40 pictures, scale 0 has one code in half of them and another in the others; the other scales have one code
    only."""
    codes = generator.sample(PROMPTS[:1] * 40, list(range(40)))
    codes[:] = codes[0, 0]
    codes[20:, 0] = (codes[0, 0] + 1) % 2
    first, *others = next_scale.usage(generator, codes)
    assert (first["codes"], first["different"], first["commonest"]) == (40, 2, 0.5) and first["even"] == pytest.approx(
        2
    )
    assert all(row["different"] == 1 and row["even"] == pytest.approx(1) for row in others) and [
        row["side"] for row in others
    ] == [2, 3, 6]


def test_race_counts_passes(generator):
    rows = race({"scales": generator, "tokens": tiny_janus()}, PROMPTS, repeats=1)
    assert [row["passes"] for row in rows] == [K, 16], "one pass a scale against one a token"
    assert [row["codes"] for row in rows] == [50, 16] and all(0 < row["seconds"] <= row["slowest"] for row in rows)


def test_qualities_stand_side_by_side():
    row = {"what": "direct", "judge": "judge", "part": "object", "value": None, "hits": 50, "n": 100}
    others = [row | {"what": "captions"}, row | {"judge": "judge2", "hits": 9}, row | {"value": "boat", "hits": 1}]
    both = next_scale.quality_table({"A": {"rows": [row, *others]}, "B": {"rows": [row | {"part": "style"}]}})
    assert both.loc[("drawn as asked", "object"), "A"] == "50.0 [40.4–59.6]" and both.shape == (2, 2)


# ------------------------------------------------------------------ self-correction


def test_spelling_anew_what_was_not_changed_comes_nearest(generator, codes):
    """From the clean first scales the tokenizer gets as near to the picture's latents as its residuals allow; from
    changed ones it mends what it can."""
    f = lambda c: generator.tokenizer.accumulate(c)[1]
    first = generator.spans[0].stop
    changed = codes[:, :first].roll(1, 0)
    again = next_scale.spelt_anew(generator, codes, changed)
    assert torch.equal(again[:, :first], changed) and again.shape == codes.shape
    left = torch.cat([changed, codes[:, first:]], 1)
    assert (f(again) - f(codes)).square().mean() < (f(left) - f(codes)).square().mean()


def test_mending(generator):
    right = lambda images: images.mean((1, 2, 3)) > 0
    rows = next_scale.turned_over(generator, PROMPTS, right, [0.0, 0.5])
    assert (
        len(rows) == (K - 1) * 2 * 3
        and {row["how"] for row in rows} == {"left as it was", "drawn on", "spelt anew"}
        and all(row["rate"].value == 1 for row in rows)
    )
    seeds = picture_seeds(0, [f"{prompt}#{i}" for i, prompt in enumerate(PROMPTS)])
    clean = generator.decode(generator.sample(PROMPTS, seeds))
    same = next_scale.turned_over(
        generator, PROMPTS, lambda images: (images == clean).all((1, 2, 3)), [0.0, 1.0], scales=[1]
    )
    assert [row["rate"].value for row in same[:3]] == [1, 1, 1], "nothing turned over is the clean picture"
    assert [row["rate"].value for row in same[3:]] == [0, 0, 0], (
        "every bit of a scale turned over is another picture, whatever follows"
    )


# ------------------------------------------------------------------ whose prompt decides


def test_told_in_turn_is_a_prompt_switch_where_the_prompt_changes_once(generator):
    told = which_scale.told_in_turn(generator, PAIRS, 3)
    some = [PAIRS[0], PAIRS[1], PAIRS[0]]
    seeds = picture_seeds(0, [f"told/{i}/{pair.target}" for i, pair in enumerate(some)])
    targets, replacements = [p.target for p in some], [p.replacement for p in some]
    assert len(told) == 2**K
    for (first, k), pattern in which_scale.switches(K).items():
        before, after = (targets, replacements) if first == "target" else (replacements, targets)
        stop = generator.spans[k - 1].stop if k else 0
        codes = generator.sample(after, seeds, given=generator.sample(before, seeds)[:, :stop])
        assert np.array_equal(told[pattern], generator.decode(codes))
    assert np.array_equal(told[(True,) * K], generator.decode(generator.sample(targets, seeds)))


def test_scenarios():
    named = which_scale.scenarios(5)
    assert named["scale 0 only"] == (True, False, False, False, False) and named["every scale but 0"] == (
        False,
        True,
        True,
        True,
        True,
    )
    assert named["scales 1–2 only"] == (False, True, True, False, False), "ScaleErasure's 2 to 7 of 13"
    assert named["every scale"] == (True,) * 5 and named["no scale"] == (False,) * 5


def test_verdicts_know_the_replacement_by_its_own_picture():
    """Four pictures of the world: a church in place of whatever was told at scale 0; the others at every other
    pattern."""
    from earlib.miniworld.scenes import OBJECTS, render, sample_scenes

    scenes = sample_scenes(400, [5, 0], pairs=0.0)
    images, church = render(scenes), OBJECTS.index("church")
    concept, others = images[scenes.object == church][:4], images[(scenes.object != church) & (scenes.object >= 0)][:4]
    pictures = {pattern: concept if pattern[0] else others for pattern in itertools.product((True, False), repeat=2)}
    found = which_scale.verdicts(pictures, MiniWorldJudge("object", "church"))
    assert found["concept"][True, False].all() and not found["concept"][False, True].any()
    assert found["replacement"][False, True].all() and not found["replacement"][True, True].any()


# ------------------------------------------------------------------ what codes say


def test_nats_are_those_of_drawing(generator):
    """Scale 0 of a picture has one position: its likelihood by hand, guided; and over many drawings the mean is the
    entropy that was drawn from."""
    prompts = PROMPTS[:1] * 400
    codes = generator.sample(prompts, list(range(400)))
    nats = which_scale.nats_by_scale(generator, prompts, codes)
    assert nats.shape == (400, K) and (nats > 0).all()
    z = [
        generator.logits(batch, codes[:1])[0, 0]
        for batch in (generator.encode(PROMPTS[:1]), generator.null_like(generator.encode(PROMPTS[:1])))
    ]
    log_p = (z[1] + generator.guidance * (z[0] - z[1])).double().log_softmax(-1)
    by_hand = -log_p.gather(-1, codes[0, 0].reshape(*log_p.shape[:-1], 1)).sum()
    assert nats[0, 0] == pytest.approx(by_hand.item(), rel=1e-4)
    entropy = -(log_p.exp() * log_p).sum().item()
    assert nats[:, 0].mean() == pytest.approx(entropy, abs=4 * nats[:, 0].std() / 20)


def test_a_prompt_is_known_where_it_matters_and_only_there(generator):
    same = which_scale.knows_prompt(generator, [PromptPair(p.target, p.target) for p in PAIRS], 4)
    assert [(row["bits"].value, row["right"]) for row in same] == [(0.0, 0.5)] * K
    rows = which_scale.knows_prompt(generator, PAIRS, 40)
    assert all(-0.5 < row["bits"].value <= 1 for row in rows)
    assert rows[-1]["bits"].value > max(0.2, rows[0]["bits"].value)


def test_what_is_written_in_a_scale_can_be_read_off_from_there_on(generator):
    """The label is written into one position of scale 1."""
    chance = torch.Generator().manual_seed(0)
    codes = generator.sample(PROMPTS[:1] * 200, list(range(200)))
    label = torch.randint(0, 2, (200,), generator=chance)
    codes[:, 2] = label.view(200, *[1] * (codes.dim() - 2))
    rows = which_scale.read_off(generator, codes, {"label": label.numpy()})
    assert (
        rows[0]["rate"].value < 0.65
        and all(row["rate"].value > 0.95 for row in rows[1:])
        and 0.5 <= rows[0]["chance"] < 0.65
    )


# ------------------------------------------------------------------ the filter, the table


def test_kept_by_scale_and_its_picture(generator):
    kept = torch.zeros(2, 14, dtype=torch.bool)
    kept[0, generator.spans[1]] = True
    kept[:, 13] = True
    assert [share.value for share in which_scale.kept_by_scale(generator, kept)] == pytest.approx([0, 0.5, 1 / 9])
    image = np.full((24, 24, 3), 255, np.uint8)
    shown = which_scale.masked(image, np.array([True, False, False, False]), 2)
    assert (shown[:12, :12] != 255).any(-1).all() and (shown[12:] == 255).all() and (shown[:, 12:] == 255).all()


def test_where_a_run_learns():
    settings = [{}, {"scales.first": 2, "scales.count": 1}, {"scales.first": 0, "scales.count": 3}, {}, {}]
    frame = pd.DataFrame({"recipe": [None, "s-vare", "s-vare", "s-vare", "sace-style"], "settings": settings})
    found = which_scale.where_learnt(frame, 5)
    assert found.called.tolist() == ["base", "2", "0–2", "0–4", "0\nsace-style"] and found["last"].tolist()[1:] == [
        2,
        2,
        4,
        0,
    ]


def test_reading_is_a_triangle_and_a_staircase():
    images = [axis.images[0].get_array().tolist() for axis in next_scale.reading((1, 2), 3).axes]
    assert images[0][1] == [1, 1] + [0] * 7 and images[1][:2] == [[True] + [False] * 4, [True] * 5]
