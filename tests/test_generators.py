"""The generator interface and guided drawing: the same tokens as transformers' own `generate`, whatever the batch."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earlib.errors import UserError
from earlib.generators import default_keys, draw, picture_seeds
from earlib.generators.base import Past
from earlib.generators.sampling import gumbel_noise

from .conftest import sample, tiny_janus

PROMPTS = ["a red church on a hill", "a boat", "a van gogh painting of a green tree by the sea at night"]


@pytest.mark.parametrize(
    "shape",
    [
        dict(seed=1),
        dict(seed=2, width=96, heads=3, layers=2, codes=48),
        dict(seed=3, width=32, heads=1, layers=4, grid=3),
    ],
)
def test_greedy_tokens_equal_transformers_own(shape):
    generator = tiny_janus(**shape)
    batch = generator.encode(PROMPTS)  # prompts of three lengths in one batch
    ours = generator.sample(PROMPTS, [0] * 3, guidance=3.0, temperature=0.0)
    theirs = generator.model.generate(
        batch.ids_BP, attention_mask=batch.mask_BP, generation_mode="image", guidance_scale=3.0, do_sample=False
    )
    assert len(set(map(tuple, ours.tolist()))) > 1, "every prompt gives one picture: the test would compare constants"
    assert torch.equal(ours, theirs)


def test_a_picture_does_not_depend_on_its_batch(generator):
    prompts = PROMPTS * 3
    seeds = picture_seeds(0, default_keys(prompts))
    together = generator.sample(prompts, seeds, batch_size=9)
    for batch_size in (1, 4):
        assert torch.equal(together, generator.sample(prompts, seeds, batch_size=batch_size))
    order = [5, 2, 8, 0, 1, 7, 3, 6, 4]
    assert torch.equal(
        together[order], generator.sample([prompts[i] for i in order], [seeds[i] for i in order], batch_size=2)
    )
    assert len(set(map(tuple, together.tolist()))) > 3, "different seeds must give different pictures"


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_static_step_draws_the_same_tokens(guidance):
    """Over fixed addresses, in buckets, with a last batch that is filled up: pictures of 144 tokens cross a bucket's
    end. In double precision, as masked slots change the order of sums, and one token that rounds the other way makes
    another picture."""
    generator = tiny_janus(seed=3, grid=12)
    generator.model.double()
    prompts = PROMPTS * 2 + PROMPTS[:1]
    seeds = picture_seeds(0, default_keys(prompts))
    plain, static = (
        sample(generator, prompts, seeds, guidance, batch_size=3, graphs=graphs) for graphs in (False, True)
    )
    assert torch.equal(plain, static) and len(set(map(tuple, plain.tolist()))) > 3


def test_slots_not_yet_written_cannot_spoil_a_picture(generator):
    """A masked slot has weight 0, but 0 times NaN is NaN: what an allocation leaves behind must be finite."""
    from earlib.generators.sampling import SlabLayer

    layer = SlabLayer(300)
    with torch.no_grad():
        layer.update(torch.ones(2, 2, 3, 8), torch.ones(2, 2, 3, 8))
    assert (layer.slab_keys[:, :, 3:] == 0).all() and (layer.slab_values[:, :, 3:] == 0).all()


def test_the_static_step_can_be_recorded(generator):
    """Nothing in a step asks the device for a value: dynamo captures it whole (a CUDA graph needs the same)."""
    from earlib.generators.static import StaticDrawer

    drawer = StaticDrawer(generator)
    drawer(generator.encode(PROMPTS), torch.arange(3), 3.0)
    with torch.no_grad():
        drawer.position.fill_(20), drawer.step.fill_(2)
        torch.compile(drawer.one_step, fullgraph=True, backend="eager")(128)
    assert drawer.position.item() == 21 and drawer.step.item() == 3


def test_a_given_prefix_is_continued(generator):
    seeds = picture_seeds(0, default_keys(PROMPTS))
    whole = generator.sample(PROMPTS, seeds)
    for length in (0, 1, 7, generator.num_codes):
        assert torch.equal(generator.sample(PROMPTS, seeds, given=whole[:, :length], batch_size=2), whole)
    other = generator.sample(PROMPTS, seeds, given=whole[[1, 2, 0], :8])
    assert torch.equal(other[:, :8], whole[[1, 2, 0], :8]) and not torch.equal(other[:, 8:], whole[:, 8:])


def test_a_prompt_that_does_not_fit_is_said_before_anything_is_drawn(generator):
    long = "a red church on a hill " * 60
    with pytest.raises(
        UserError,
        match=r"a prompt of \d+ tokens is too long for tiny: \d+ fit before a picture; it begins 'a red church",
    ):
        generator.sample(["a boat", long], [0, 1], progress=False)


def test_guidance_one_is_plain_sampling(generator):
    seeds = picture_seeds(1, PROMPTS)
    assert torch.equal(
        generator.sample(PROMPTS, seeds, guidance=1.0), generator.sample(PROMPTS, seeds, guidance=1.0 + 1e-7)
    )


def test_windows_of_a_past_give_the_states_of_the_whole(generator):
    tokens = torch.randint(0, generator.codebook_size, (3, generator.num_codes))
    batch = generator.encode(PROMPTS)
    whole = generator.hidden_states(batch, tokens)
    past = Past()
    parts = [generator.hidden_states(batch, part, past) for part in tokens.split([1, 5, 7, 3], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-4)


def test_left_padding_changes_nothing(generator):
    tokens = torch.randint(0, generator.codebook_size, (1, generator.num_codes))
    alone = generator.hidden_states(generator.encode(PROMPTS[1:2]), tokens)
    padded = generator.hidden_states(generator.encode(PROMPTS)[1:2], tokens)
    torch.testing.assert_close(alone, padded, atol=2e-5, rtol=1e-4)


def test_the_prompt_reaches_the_last_token(generator):
    tokens = torch.randint(0, generator.codebook_size, (1, generator.num_codes))
    a, b = (generator.hidden_states(generator.encode([p]), tokens)[:, -1] for p in ("a red church", "a blue church"))
    assert (a - b).abs().max() > 1e-3


def test_the_null_prompt_keeps_only_what_janus_keeps(generator):
    batch = generator.encode(PROMPTS)
    null = generator.null_like(batch)
    special = {generator.tokenizer.bos_token_id, generator.tokenizer.pad_token_id, generator.boi_token_id}
    assert set(null.ids_BP.unique().tolist()) == special
    assert torch.equal(null.mask_BP, batch.mask_BP), "blanked words are attended to"
    assert (null.ids_BP[:, -1] == generator.boi_token_id).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**62), st.integers(0, 575))
def test_noise_is_gumbel_and_belongs_to_its_picture(seed, step):
    noise = gumbel_noise(torch.tensor([seed, seed ^ 1]), step, 4096)
    assert torch.equal(noise[:1], gumbel_noise(torch.tensor([seed]), step, 4096))
    assert abs(noise.mean().item() - 0.5772) < 0.12 and abs(noise.var().item() - 1.645) < 0.35
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.1
    assert abs(np.corrcoef(noise[0], gumbel_noise(torch.tensor([seed]), step + 1, 4096)[0])[0, 1]) < 0.1


def test_noise_samples_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    draws = (logits + gumbel_noise(torch.arange(20_000), 7, 4)).argmax(-1)
    share = torch.bincount(draws, minlength=4) / 20_000
    assert (share - logits.softmax(0)).abs().max() < 0.015


def test_decode_formula_and_round_trip(generator):
    tokens = torch.randint(0, generator.codebook_size, (2, generator.num_codes))
    images = generator.decode(tokens)
    side = generator.grid[0] * 4
    assert images.shape == (2, side, side, 3) and images.dtype == np.uint8
    with pytest.raises(UserError, match="uint8"):
        generator.tokenize(images.astype(np.float32))
    again = generator.tokenize(images)
    assert again.shape == tokens.shape and again.max() < generator.codebook_size


def test_drawing_twice_gives_the_same_pictures(generator):
    a, b = draw(generator, PROMPTS, seed=3, progress=False), draw(generator, PROMPTS, seed=3, progress=False)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, draw(generator, PROMPTS, seed=4, progress=False))


@pytest.mark.parametrize("sign", ["<image>", "<pad>", "<|User|>:"])
def test_tokens_that_are_no_words_are_refused(generator, sign):
    sign = sign if sign in generator.tokenizer.get_vocab() else generator.tokenizer.pad_token
    with pytest.raises(UserError, match=f"a prompt holds '{re.escape(sign)}', which is no word to tiny"):
        generator.encode(["a boat", f"a red {sign} church"])


def test_a_picture_of_numbers_that_are_not_finite_is_not_drawn():
    broken = tiny_janus(seed=5)
    broken.decoder_layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    for graphs in (False, True):
        with pytest.raises(UserError, match="the logits of tiny: infinite or not a number in float32"):
            sample(broken, ["a boat"], [1], graphs=graphs)


def test_unknown_words_are_named(generator):
    assert generator.unknown_words(["a red church with a zeppelin", "Quark!"]) == ["quark", "zeppelin"]


def test_fingerprint_changes_with_any_weight():
    a, b = tiny_janus(seed=5), tiny_janus(seed=5)
    assert a.fingerprint == b.fingerprint
    with torch.no_grad():
        b.trunk.layers[1].mlp.up_proj.weight[0, 0] += 1
    from earlib.generators.weights import fingerprint

    assert fingerprint(b.model) != a.fingerprint
