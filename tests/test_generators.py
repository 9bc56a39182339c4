"""The generator interface and guided drawing: the same tokens as transformers' own `generate`, whatever the batch."""

from __future__ import annotations

import json
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.rivals import own_cache, transformers_generate
from earlib import DATA, load_generator
from earlib.errors import UserError
from earlib.generators import default_keys, picture_seeds
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
    ours = generator.sample(PROMPTS, [0] * 3, guidance=3.0, temperature=0.0)  # of three lengths in one batch
    theirs = transformers_generate(generator, PROMPTS, 3.0, do_sample=False)
    assert len(set(map(tuple, ours.tolist()))) > 1, "every prompt gives one picture: the test would compare constants"
    assert torch.equal(ours, theirs)


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

    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):
        pytest.skip(f"dynamo of torch {torch.__version__} does not follow transformers' caches")
    drawer = StaticDrawer(generator)
    drawer(generator.encode(PROMPTS), torch.arange(3), 3.0)
    with torch.no_grad():
        drawer.position.fill_(20), drawer.step.fill_(2)
        torch.compile(drawer.one_step, fullgraph=True, backend="eager")(128)
    assert drawer.position.item() == 21 and drawer.step.item() == 3


def test_a_prompt_that_does_not_fit_is_said_before_anything_is_drawn(generator):
    long = "a red church on a hill " * 60
    with pytest.raises(
        UserError,
        match=r"a prompt of \d+ tokens is too long for tiny: \d+ fit before a picture; it begins 'a red church",
    ):
        generator.sample(["a boat", long], [0, 1], progress=False)


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


@pytest.mark.parametrize("name", ["mini", "mini-var", "mini-emu3"])
def test_a_picture_is_the_same_whatever_is_decoded_beside_it(name):
    shipped = load_generator(name)
    noise = np.random.default_rng(0).integers(0, 256, (19, 48, 48, 3), np.uint8)
    codes = shipped.tokenize(noise)
    together = shipped.decode(codes)
    for some in (slice(0, 1), slice(4, 7), slice(9, 17), slice(18, 19)):
        assert np.array_equal(shipped.decode(codes[some]), together[some])


def test_decode_formula_and_round_trip(generator):
    tokens = torch.randint(0, generator.codebook_size, (2, generator.num_codes))
    images = generator.decode(tokens)
    side = generator.grid[0] * 4
    assert images.shape == (2, side, side, 3) and images.dtype == np.uint8
    with pytest.raises(UserError, match="uint8"):
        generator.tokenize(images.astype(np.float32))
    again = generator.tokenize(images)
    assert again.shape == tokens.shape and again.max() < generator.codebook_size


def test_the_shipped_model_draws_in_transformers_what_it_draws_here(monkeypatch):
    """Both read guidance and temperature from its generation_config.json; here `generate` gets our noise, too. In
    double precision, as in the test of the static step."""
    generator = load_generator("mini", device="cpu", dtype="float64")
    own = json.loads((DATA / "mini" / "janus" / "generation_config.json").read_text())
    assert (generator.guidance, generator.temperature) == (own["guidance_scale"], own["temperature"]) != (5.0, 1.0)
    batch, seeds, steps = generator.encode(PROMPTS[:2]), torch.tensor(picture_seeds(0, PROMPTS[:2])), count()

    def drawn(probabilities_BV, num_samples):
        noise = gumbel_noise(seeds, next(steps), probabilities_BV.shape[-1])
        return (probabilities_BV.log() + noise).argmax(-1, keepdim=True)

    monkeypatch.setattr(torch, "multinomial", drawn)
    more = dict(generation_mode="image", attention_mask=batch.mask_BP, **own_cache(generator, batch))
    theirs = generator.model.generate(batch.ids_BP, **more)
    assert torch.equal(generator.sample(PROMPTS[:2], seeds.tolist()), theirs)
    assert not torch.equal(generator.sample(PROMPTS[:2], seeds.tolist(), temperature=1.0), theirs)
