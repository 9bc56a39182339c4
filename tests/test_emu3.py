"""Emu3 behind the generator interface: what Janus is tested for, and the line ends, the header and the vocabulary that
only Emu3 has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from earlib.erasure import erase
from earlib.erasure.train import train
from earlib.errors import UserError
from earlib.generators.base import Past
from earlib.generators.emu3 import Emu3Generator
from earlib.generators.sampling import slab_cache

from .conftest import tiny_emu3

# These run here with this module's `generator`, a small Emu3: one interface, one set of tests.
from .test_erasure import CONCEPT, FAST, PAIRS, token_by_token, with_length
from .test_generators import PROMPTS


@pytest.fixture(scope="module")
def generator():
    return tiny_emu3()


def test_a_models_own_guidance_and_temperature_are_read(generator):
    assert (generator.guidance, generator.temperature) == (3.0, 1.0)  # which is what transformers takes for none
    config = generator.model.generation_config
    old = config.guidance_scale, config.temperature
    config.guidance_scale, config.temperature = 2.0, 0.7
    other = Emu3Generator(generator.model, generator.processor)
    config.guidance_scale, config.temperature = old
    assert (other.guidance, other.temperature) == (2.0, 0.7)
    assert torch.equal(other.sample(PROMPTS, [0, 1, 2]), generator.sample(PROMPTS, [0, 1, 2], 2.0, 0.7))
    assert not torch.equal(other.sample(PROMPTS, [0, 1, 2]), generator.sample(PROMPTS, [0, 1, 2], 2.0))


WIDE = dict(seed=2, width=96, heads=6, kv_heads=1, layers=2, codes=48, grid=(3, 5), scattered=True)


def drawn_by_transformers(generator, prompts, null_prompt):
    """Greedy output [B, S] of `generate` after its prompts, with the documented constraint: rows of image tokens, each
    with its end, then the tail."""
    tokenizer, (rows, columns) = generator.tokenizer, generator.grid
    size = dict(ratio=generator.ratio, image_area=generator.area)
    asked = dict(return_for_image_generation=True, padding=True, return_tensors="pt", **size)
    inputs = generator.processor(text=prompts, **asked)
    negative = generator.processor(text=[null_prompt] * len(prompts), **asked)
    end_of_line = tokenizer.convert_tokens_to_ids("<|extra_200|>")
    tail = [tokenizer.eof_token_id, tokenizer.eoi_token_id, tokenizer.eos_token_id]
    codes = generator.model.model.vocabulary_mapping.image_tokens

    def allowed(_, ids):
        drawn = len(ids) - 1 - (ids == tokenizer.image_wrapper_token_id).nonzero().max().item()
        row, column = divmod(drawn, columns + 1)
        if row == rows:
            return [tail[column]]
        return [end_of_line] if column == columns else codes

    out = generator.model.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        prefix_allowed_tokens_fn=allowed,
        guidance_scale=3.0,
        negative_prompt_ids=negative["input_ids"],
        negative_prompt_attention_mask=negative["attention_mask"],
        do_sample=False,
        max_new_tokens=rows * (columns + 1) + len(tail),
    )
    return out[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize(
    "null_prompt", ["", "snow , night , a sketch of a car and a boat and a tree and a house and a tower by the sea"]
)
@pytest.mark.parametrize("shape", [dict(seed=1), WIDE])
def test_greedy_tokens_and_pictures_equal_transformers_own(shape, null_prompt):
    generator = tiny_emu3(**shape, null_prompt=null_prompt)
    rows, columns = generator.grid
    ours = generator.sample(PROMPTS, [0] * 3, temperature=0.0)  # at the default guidance, which is 3
    out = drawn_by_transformers(generator, PROMPTS, null_prompt)
    theirs = generator.model.model.vocabulary_mapping.convert_bpe2img(out[:, :-3].view(-1, rows, columns + 1)).flatten(
        1
    )
    assert len(set(map(tuple, ours.tolist()))) > 1, "every prompt gives one picture: the test would compare constants"
    assert torch.equal(ours, theirs.long())
    pixels = generator.model.decode_image_tokens(image_tokens=out, height=rows, width=columns)
    pictures = generator.processor.postprocess(list(pixels.float()), return_tensors="PIL.Image.Image")["pixel_values"]
    difference = np.stack([np.asarray(p) for p in pictures]).astype(int) - generator.decode(ours)
    assert abs(difference).max() <= 1 and np.stack(pictures).std() > 5


def test_a_row_begins_after_the_line_end_has_been_read():
    """The states are those of the plain sequence: prompt, then rows of image tokens with a line end after each; the
    line ends' own targets are left out."""
    generator = tiny_emu3(**WIDE)
    batch = generator.encode(["a red church on a hill"])
    tokens = torch.randint(0, generator.codebook_size, (1, 15))
    names = [[f"<|visual token {code:06d}|>" for code in row] + ["<|extra_200|>"] for row in tokens.view(3, 5).tolist()]
    ids = [generator.model.model.vocabulary_mapping.vocab_map[name] for row in names for name in row]
    states = generator.trunk(input_ids=torch.cat([batch.ids_BP, torch.tensor([ids])], 1)).last_hidden_state[
        :, batch.ids_BP.shape[1] - 1 :
    ]
    assert generator.tokenizer.convert_ids_to_tokens(batch.ids_BP[0])[-5:] == [
        "<|image start|>",
        "3",
        "*",
        "5",
        "<|image token|>",
    ]
    predicts_a_code = [i for i in range(len(ids)) if i % 6 != 5]
    torch.testing.assert_close(generator.hidden_states(batch, tokens), states[:, predicts_a_code], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("split", [[1] * 15, [5, 5, 5], [2, 4, 5, 3, 1], [14, 1], [15]])
def test_any_split_over_a_slab_that_just_fits(split):
    generator = tiny_emu3(**WIDE)
    generator.model.double()
    tokens = torch.randint(0, generator.codebook_size, (3, 15))
    batch = generator.encode(PROMPTS)
    whole = generator.hidden_states(batch, tokens)
    past = Past(cache=slab_cache(len(generator.decoder_layers), batch.ids_BP.shape[1] + generator.positions(14)))
    parts = [generator.hidden_states(batch, part, past) for part in tokens.split(split, 1)]
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-9
    assert generator.image_logits(whole).shape == (3, 15, 48)


@pytest.mark.parametrize("null_prompt", ["", "snow and night and a car and a boat and a tree by the sea"])
def test_the_null_prompt_has_the_header_and_no_word_of_the_prompt(null_prompt):
    generator = tiny_emu3(grid=(3, 4), null_prompt=null_prompt)
    batch = generator.encode(["a red church", "a boat"])
    null = generator.null_like(batch)
    assert null.ids_BP.shape == batch.ids_BP.shape
    for ids, mask in zip(null.ids_BP, null.mask_BP):
        text = generator.tokenizer.convert_ids_to_tokens(ids[mask.bool()])
        assert text == ["<|extra_203|>", *null_prompt.split(), "<|image start|>", "3", "*", "4", "<|image token|>"]
        assert (ids[~mask.bool()] == generator.tokenizer.pad_token_id).all() and mask[-len(text) :].all()


@pytest.mark.parametrize("length", [1, 3, 16])
def test_a_window_equals_its_tokens_one_by_one(length):
    """EAR's identity, also where a window begins or ends in the middle of a row."""
    generator = tiny_emu3(seed=1)
    generator.model.double()
    r = with_length(FAST, length)
    windowed, _ = train(generator, PAIRS, r, seed=0)
    plain = token_by_token(generator, PAIRS, r, seed=0)
    for name in plain:
        moved = (plain[name] - generator.trunk.get_parameter(name)).abs().max()
        assert moved > 1e-4, f"{name} did not train"
        assert (windowed[name] - plain[name]).abs().max() < 1e-9, name


def test_the_released_loop_of_janus_is_refused(generator):
    with pytest.raises(UserError, match="context=full"):
        erase(generator, CONCEPT, "ear-released", progress=False)


def test_captions_equal_transformers_own(generator):
    tokens = torch.randint(0, generator.codebook_size, (3, generator.num_codes))
    pictures = generator.decode(tokens)
    ours = generator.caption(pictures, "what is this ?", max_new_tokens=12)
    processor = generator.processor
    content = [{"type": "image"}, {"type": "text", "text": "what is this ?"}]
    chat = [
        {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
        {"role": "user", "content": content},
    ]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "downsample_ratio", 4)  # the processor takes 8 for granted
        inputs = processor(images=list(pictures), text=[text] * 3, return_tensors="pt")
    out = generator.model.generate(**inputs, do_sample=False, guidance_scale=1.0, max_new_tokens=12)
    theirs = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    # transformers 5.15 leaves the pictures out of its own, and says the same of all
    assert len(set(ours)) > 1 and (ours == [t.strip() for t in theirs] or len(set(theirs)) == 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "chat_template", None)
        with pytest.raises(UserError, match="no conversation format"):
            generator.caption(pictures)


def test_saved_and_loaded_draws_the_same(tmp_path, generator):
    from earlib import load_generator

    generator.model.save_pretrained(
        tmp_path
    )  # under the names of the published checkpoints, which are not the class's own
    generator.processor.save_pretrained(tmp_path)
    again = load_generator(str(tmp_path), "cpu", "float32")
    assert (again.fingerprint, again.grid, again.guidance) == (generator.fingerprint, (4, 4), 3.0)
    assert torch.equal(again.sample(PROMPTS, [1, 2, 3]), generator.sample(PROMPTS, [1, 2, 3]))


def test_a_vocabulary_without_all_codes_is_one_clear_line(generator):
    ids = dict(generator.model.model.vocabulary_mapping.vocab_map)
    del ids["<|visual token 000007|>"]
    broken = tiny_emu3().model
    broken.model.vocabulary_mapping = type(broken.model.vocabulary_mapping)(ids)
    with pytest.raises(UserError, match="31 image tokens in its vocabulary, 32 in its codebook"):
        Emu3Generator(broken, generator.processor)
