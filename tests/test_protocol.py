"""What every generator must do, of either family: the same checks on a small Janus, Emu3, and next-scale models of bits
and of a codebook."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from earlib.erasure.change import applied
from earlib.errors import UserError
from earlib.generators import default_keys, draw, picture_seeds
from earlib.generators.base import NextScale, NextToken
from earlib.generators.sampling import guided
from earlib.generators.weights import fingerprint

from .conftest import sample, tiny_emu3, tiny_janus
from .test_nextscale import Usual, tiny

PROMPTS = ["a red church on a hill", "a boat", "a van gogh painting of a green tree by the sea at night"]
MATRIX = re.compile(r"(layers|blocks)\.0\.(mlp\.down_proj|ffn\.down)\.weight")
SEEDS = picture_seeds(0, default_keys(PROMPTS))
MAKE = {"janus": tiny_janus, "emu3": tiny_emu3, "bits": tiny, "codebook": lambda **how: tiny("vq", **how)}


@pytest.fixture(scope="module", params=MAKE)
def generator(request):
    return MAKE[request.param]()


@pytest.fixture(scope="module")
def codes(generator):
    return generator.sample(PROMPTS, SEEDS, 2.0)


def test_the_families_are_told_apart_by_type(generator):
    assert isinstance(generator, NextToken) != isinstance(generator, NextScale)
    assert isinstance(generator, NextScale) or generator.acting("words") is None, "no prompt is being read"
    assert (
        generator.steering is None and generator.gates is None and re.fullmatch("[0-9a-f]{16}", generator.fingerprint)
    )


def test_a_picture_depends_on_its_seed_and_not_on_its_batch(generator):
    prompts = PROMPTS * 3
    seeds = picture_seeds(0, default_keys(prompts))
    together = generator.sample(prompts, seeds, batch_size=9)
    assert together.shape == (9, generator.num_codes, *generator.code_shape) and together.dtype == torch.int64
    for batch_size in (1, 4):
        assert torch.equal(together, generator.sample(prompts, seeds, batch_size=batch_size))
    order = [5, 2, 8, 0, 1, 7, 3, 6, 4]
    others = generator.sample([prompts[i] for i in order], [seeds[i] for i in order], batch_size=2)
    assert torch.equal(together[order], others)
    assert len({tuple(row.flatten().tolist()) for row in together}) > 3, "different seeds must give different pictures"
    with pytest.raises(ValueError, match="3 prompts but 2 seeds"):
        generator.sample(PROMPTS, SEEDS[:2])


def test_drawing_twice_gives_the_same_pictures(generator):
    a, b = (draw(generator, PROMPTS, seed=3, progress=False) for _ in range(2))
    assert np.array_equal(a, b) and not np.array_equal(a, draw(generator, PROMPTS, seed=4, progress=False))


def test_batches_are_all_of_the_pictures(generator, codes):
    seen = {}
    for rows, some in generator.sample_batches(PROMPTS, SEEDS, 2.0, batch_size=2):
        seen |= dict(zip(rows, some))
    assert torch.equal(torch.stack([seen[i] for i in range(3)]), codes)


def test_given_codes_are_kept_and_continued(generator, codes):
    ends = [span.stop for span in generator.spans] if isinstance(generator, NextScale) else [1, 7, generator.num_codes]
    for end in (0, *ends):
        again = generator.sample(PROMPTS, SEEDS, 2.0, given=codes[:, :end], batch_size=2)
        assert torch.equal(again, codes)
    end = ends[1]
    other = generator.sample(PROMPTS, SEEDS, 2.0, given=codes[[1, 2, 0], :end])
    assert torch.equal(other[:, :end], codes[[1, 2, 0], :end]) and not torch.equal(other[:, end:], codes[:, end:])
    with pytest.raises(ValueError, match="given codes for 3 pictures"):
        generator.sample(PROMPTS, SEEDS, given=codes[:2, :end])


def test_no_pictures(generator):
    assert generator.sample([], []).shape == (0, generator.num_codes, *generator.code_shape)
    assert generator.unknown_words([]) == []


def test_guidance_one_is_plain_sampling(generator):
    plain = generator.sample(PROMPTS, SEEDS, 1.0)
    assert torch.equal(plain, generator.sample(PROMPTS, SEEDS, 1.0 + 1e-7))


def test_log_probabilities_are_what_is_drawn_from(generator, codes):
    """At temperature 0 the likeliest values are drawn; guidance is u + w (c - u) of the two distributions; without a
    prompt nothing of it is read."""
    likeliest = generator.sample(PROMPTS, SEEDS, 3.0, temperature=0.0)
    log_p = generator.log_probabilities(PROMPTS, likeliest, 3.0)
    parts = generator.code_shape[0] if generator.code_shape else 1
    assert log_p.shape == (3, generator.num_codes, parts, generator.outputs // parts) and log_p.dtype == torch.float32
    assert (log_p.argmax(-1).reshape(likeliest.shape) == likeliest).float().mean() > 0.999
    c, u = generator.log_probabilities(PROMPTS, codes, 1.0), generator.log_probabilities(PROMPTS, codes, null=True)
    found = generator.log_probabilities(PROMPTS, codes, 3.0)
    torch.testing.assert_close(found, (u + 3 * (c - u)).log_softmax(-1), atol=2e-4, rtol=1e-3)
    others = generator.log_probabilities(
        ["a house", "a car", "a sketch of a tree by the sea at night , in the snow"], codes, null=True
    )
    torch.testing.assert_close(others, u, atol=2e-4, rtol=1e-3) if not _reads_length(generator) else None
    with pytest.raises(ValueError, match="3 prompts but 2 pictures"):
        generator.log_probabilities(PROMPTS, codes[:2])


def _reads_length(generator) -> bool:
    """Whether the unconditional prompt is as long as the prompt: a Janus's is."""
    return generator.null_like(generator.encode(PROMPTS)).mask_BP.sum(1).unique().numel() > 1


def test_another_way_of_guiding_is_asked_for_its_rows(generator, codes):
    """The usual guidance, given as a way of steering, draws the usual pictures; at guidance 1 no likelihood is
    steered."""
    usual = Usual()
    unsteered = generator.log_probabilities(PROMPTS, codes, 1.0)
    generator.steering = usual
    try:
        assert torch.equal(sample(generator, PROMPTS, SEEDS, 2.0, graphs=False), codes) and usual.seen
        seen = len(usual.seen)
        assert torch.equal(generator.log_probabilities(PROMPTS, codes, 1.0), unsteered) and len(usual.seen) == seen
    finally:
        generator.steering = None
    c, u = torch.ones(2, 3), torch.zeros(2, 3)
    assert torch.equal(guided([c, u], 5.0, None), 5 * c) and guided([c], 5.0, None) is c


def test_the_words_of_a_prompt_are_marked(generator):
    batch = generator.encode(PROMPTS)
    words = generator.word_mask(batch)
    assert words.shape == batch.ids_BP.shape and not generator.word_mask(generator.null_like(batch)).any()
    spelt = [generator.tokenizer_of_words(p, add_special_tokens=False)["input_ids"] for p in PROMPTS]
    assert [row[mask].tolist() for row, mask in zip(batch.ids_BP, words)] == spelt
    assert batch.texts == tuple(PROMPTS) == generator.null_like(batch).texts


def test_a_change_confined_to_nothing_changes_nothing(generator, codes):
    """Where nothing acts the trunk computes with its own weights; where all of it acts, with the change alone."""
    name = next(name for name, _ in generator.trunk.named_parameters() if MATRIX.fullmatch(name))
    change = {name: torch.nn.Parameter(2 * generator.trunk.get_parameter(name).detach())}
    scales = isinstance(generator, NextScale)
    read = lambda: generator.log_probabilities(PROMPTS, codes, 1.0)
    base, nowhere, everywhere = read(), slice(0, 0), slice(0, generator.num_codes)
    with applied(generator, change):
        whole = read()
    with applied(generator, change, everywhere if scales else "words"):
        acting = read()
    assert not torch.equal(acting, base) and torch.equal(acting, whole) == scales
    if scales:
        with applied(generator, change, nowhere):
            assert torch.equal(read(), base)
    assert torch.equal(read(), base)


def test_decoding_and_tokenizing(generator, codes):
    images = generator.decode(codes)
    assert images.dtype == np.uint8 and images.shape[0] == 3 and images.shape[1] == images.shape[2]
    assert np.array_equal(generator.decode(codes, chunk=1), images)
    again = generator.tokenize(images)
    assert (
        again.shape == codes.shape and again.dtype == torch.int64 and torch.equal(generator.tokenize(images, 2), again)
    )
    with pytest.raises(UserError, match="must be uint8"):
        generator.tokenize(images.astype(np.float32))


def test_words_that_a_model_does_not_know_are_named_and_signs_are_refused(generator):
    if generator.tokenizer_of_words.unk_token_id is not None:
        assert generator.unknown_words(["a red church with a zeppelin", "Quark!"]) == ["quark", "zeppelin"]
    sign = str(generator.tokenizer_of_words.pad_token)
    with pytest.raises(UserError, match=f"a prompt holds '{re.escape(sign)}', which .* reads as a control token"):
        generator.encode(["a boat", f"a red {sign} church"])


@pytest.mark.parametrize("kind", MAKE)
def test_one_damaged_weight_is_another_model_and_draws_nothing(kind):
    a, b = MAKE[kind](seed=5), MAKE[kind](seed=5)
    assert a.fingerprint == b.fingerprint
    weight = next(p for n, p in b.trunk.named_parameters() if MATRIX.fullmatch(n))
    weight[0, 0] += 1
    assert fingerprint(b.model) != a.fingerprint
    weight[0, 0] = float("nan")
    for graphs in (False, True):
        with pytest.raises(UserError, match="the logits of .*: infinite or not a number in float32"):
            sample(b, ["a boat"], [1], graphs=graphs)
