"""Checkpoints of deepseek-ai's own layout: converted, they compute what the original tensors compute, and drawing and
training read one prompt."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from benchmarks.rivals import own_cache
from earlib.__main__ import main
from earlib.erasure.trajectories import both_rows
from earlib.errors import UserError
from earlib.generators import load_generator
from earlib.generators.files.convert import convert

from . import original

PROMPT = "a red church"
WHOLE = "<|User|>: a red church\n\n<|Assistant|>:"


@pytest.fixture(scope="module")
def tensors():
    return original.tensors()


@pytest.fixture(scope="module")
def source(tmp_path_factory, tensors):
    return original.write(tmp_path_factory.mktemp("original") / "janus", tensors)


@pytest.fixture(scope="module")
def converted(tmp_path_factory, source):
    return convert(source, tmp_path_factory.mktemp("converted") / "janus", progress=False, part_bytes=2_000_000)


@pytest.fixture(scope="module")
def generator(converted):
    return load_generator(str(converted), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def plain_transformers(converted):
    from transformers import JanusForConditionalGeneration

    return JanusForConditionalGeneration.from_pretrained(converted, dtype=torch.float32).eval()


def some_tokens(rows: int = 2) -> torch.Tensor:
    return torch.randint(0, original.CODES, (rows, original.GRID**2), generator=torch.Generator().manual_seed(3))


# ------------------------------------------------------------------ the same numbers


def test_image_logits_are_those_of_the_original_tensors(generator, tensors):
    batch, tokens = generator.encode([PROMPT, PROMPT]), some_tokens()
    h = generator.hidden_states(batch, tokens)
    expected = original.states(tensors, batch.ids_BP, tokens)
    torch.testing.assert_close(h, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        generator.image_logits(h), original.image_logits(tensors, expected), atol=1e-3, rtol=1e-3
    )
    assert (h[0] - h[1]).abs().max() > 0.1, "the tokens must matter, or the test compares constants"


def test_pictures_are_those_of_the_original_tensors(generator, tensors):
    tokens = some_tokens()
    pixels = generator.model.decode_image_tokens(tokens).permute(0, 3, 1, 2)
    expected = original.pixels(tensors, tokens)
    torch.testing.assert_close(pixels, expected, atol=2e-4 * expected.abs().max().item(), rtol=1e-3)


def test_tokens_of_a_picture_are_the_nearest_in_direction(generator, tensors):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(generator.tokenize(images), original.picture_tokens(tensors, pixels))


def test_plain_transformers_loads_it_too(plain_transformers, tensors):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    features = plain_transformers.model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(features, original.picture_features(tensors, pixels), atol=1e-3, rtol=1e-3)
    ids = torch.tensor([[original.VOCABULARY.index(word) for word in ("a", "red", "church")]])
    h = original.trunk(tensors, tensors["language_model.model.embed_tokens.weight"][ids])
    torch.testing.assert_close(
        plain_transformers(input_ids=ids).logits, h @ tensors["language_model.lm_head.weight"].T, atol=1e-3, rtol=1e-3
    )


def test_ours_and_transformers_own_draw_the_same_tokens(generator, plain_transformers):
    prompts = [PROMPT, "a blue boat on a hill"]
    batch = generator.encode(prompts)
    ours = generator.sample(prompts, [0, 0], guidance=5.0, temperature=0.0)
    theirs = plain_transformers.generate(
        batch.ids_BP,
        attention_mask=batch.mask_BP,
        generation_mode="image",
        guidance_scale=5.0,
        do_sample=False,
        **own_cache(generator, batch),
    )
    assert torch.equal(ours, theirs) and not torch.equal(ours[0], ours[1])


# ------------------------------------------------------------------ the traps


def test_the_text_head_stays_a_matrix_of_its_own(generator, plain_transformers, tensors, converted):
    for model in (generator.model, plain_transformers):
        assert torch.equal(model.lm_head.weight, tensors["language_model.lm_head.weight"])
        assert torch.equal(model.get_input_embeddings().weight, tensors["language_model.model.embed_tokens.weight"])
    assert json.loads((converted / "config.json").read_text())["tie_word_embeddings"] is False


def test_padding_keeps_its_trained_row_and_blanked_words_have_a_token_of_their_own(generator, tensors):
    pad, blank = (original.VOCABULARY.index(token) for token in (original.PAD, original.BLANK))
    assert (
        generator.tokenizer.pad_token_id == pad and generator.model.get_input_embeddings().weight[pad].abs().max() > 0
    )
    null = generator.null_like(generator.encode([PROMPT]))
    assert (null.ids_BP[0, 1:-1] == blank).all() and null.mask_BP.all()


def test_sizes_are_written_out_and_nothing_is_cut_to_the_likeliest(converted):
    text = json.loads((converted / "config.json").read_text())["text_config"]
    assert (
        text["intermediate_size"] == original.MLP
        and text["num_attention_heads"] == 32
        and text["num_key_value_heads"] == 32
    )
    assert text["max_position_embeddings"] == 16384 and text["rope_parameters"]["rope_theta"] == 10000.0
    drawing = json.loads((converted / "generation_config.json").read_text())
    assert drawing["top_k"] == 0 and drawing["guidance_scale"] == 5.0
    assert drawing["generation_kwargs"] == {"boi_token_id": original.VOCABULARY.index(original.BOI)}
    names = json.loads((converted / "model.safetensors.index.json").read_text())["weight_map"]
    assert not any("attn_pool" in name or "codebook_used" in name or "qkv" in name for name in names)


def test_the_codebook_is_normalised_on_loading(generator, plain_transformers):
    ours, stored = (model.model.vqmodel.quantize.embedding.weight for model in (generator.model, plain_transformers))
    assert stored.norm(dim=-1).std() > 0.1
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(original.CODES))


def test_training_and_drawing_read_one_prompt(generator):
    words = [original.BOS, "<|User|>", ":", "a", "red", "church", "<|Assistant|>", ":", original.BOI]
    drawn = generator.encode([PROMPT])
    assert generator._chat(PROMPT) == WHOLE and generator._chat(f" {PROMPT}\n") == WHOLE, (
        "the original code strips what the user wrote"
    )
    assert drawn.ids_BP[0].tolist() == [original.VOCABULARY.index(word) for word in words]
    trained = both_rows(generator, PROMPT)
    assert torch.equal(trained.ids_BP[:1], drawn.ids_BP) and torch.equal(
        trained.ids_BP[1:], generator.null_like(drawn).ids_BP
    )
    assert (
        trained.ids_BP[1].tolist()[0] == trained.ids_BP[0].tolist()[0]
        and (trained.ids_BP[:, -1] == generator.boi_token_id).all()
    )


# ------------------------------------------------------------------ files


def test_one_file_without_an_index_gives_the_same_model(tmp_path, tensors, generator):
    source = original.write(tmp_path / "one", tensors, shards=1)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    assert load_generator(str(tmp_path / "out"), device="cpu", dtype="float32").fingerprint == generator.fingerprint


def test_the_original_layout_names_the_command(source):
    with pytest.raises(UserError, match=r"python -m earlib convert .* FOLDER"):
        load_generator(str(source))


def test_an_interrupted_conversion_goes_on(tmp_path, source, converted, generator):
    target = convert(source, tmp_path / "out", progress=False, part_bytes=2_000_000)
    parts = sorted(target.glob("*.safetensors"))
    assert len(parts) > 3
    before = {part.name: part.read_bytes() for part in parts}
    # as a kill leaves it: no config.json, a part missing, one being written, and (a full disk) one cut short
    (target / "config.json").unlink()
    parts[1].unlink()
    parts[2].write_bytes(before[parts[2].name][:-100])
    (target / f".{parts[1].name}.tmp").write_bytes(b"half")
    with pytest.raises(UserError, match="conversion that was interrupted; go on with: python -m earlib convert"):
        load_generator(str(target))
    untouched = parts[0].stat().st_mtime_ns
    convert(source, target, progress=False, part_bytes=2_000_000)
    assert {part.name: part.read_bytes() for part in target.glob("*.safetensors")} == before and not list(
        target.glob(".*.tmp")
    )
    assert parts[0].stat().st_mtime_ns == untouched, "what was finished must not be written again"
    assert load_generator(str(target), device="cpu", dtype="float32").fingerprint == generator.fingerprint
    written = (target / "config.json").stat().st_mtime_ns
    assert (
        convert(source, target, progress=False, part_bytes=2_000_000) == target
        and (target / "config.json").stat().st_mtime_ns == written
    )


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EARLIB_TEST_TRAP"],)


def broken(kind, source, tensors):
    """Break a checkpoint in one way; returns what the one line must say."""
    first, second = sorted(source.glob("*.bin"))
    config = json.loads((source / "config.json").read_text())
    if kind == "missing shard":
        second.unlink()
        return "pytorch_model-00002-of-00002.bin is missing (1 of 2"
    if kind == "truncated shard":
        second.write_bytes(second.read_bytes()[: second.stat().st_size // 2])
        return "broken or cut short"
    if kind == "code in a shard":
        torch.save({"a": Evil()}, second)
        return "holds more than tensors and is refused"
    if kind == "missing tensor":
        torch.save({n: t for n, t in torch.load(second).items() if "post_quant_conv.bias" not in n}, second)
        return "model.vqmodel.post_quant_conv.bias (its name in transformers) is missing"
    if kind == "wrong size":
        torch.save(torch.load(second) | {"gen_vision_model.post_quant_conv.bias": torch.zeros(3)}, second)
        return "is [3], and a Janus of this configuration has it as [24]"
    if kind == "other tensor":
        torch.save(torch.load(second) | {"vision_gen_enc_model.weight": torch.zeros(3)}, second)
        return "vision_gen_enc_model.weight belongs to no Janus"
    if kind == "other family":
        (source / "config.json").write_text(json.dumps({"model_type": "llama"}))
        return "is a 'llama' model"
    if kind == "converted already":
        (source / "config.json").write_text(json.dumps({"model_type": "janus"}))
        return "is in transformers' layout already"
    if kind == "no tokenizer":
        (source / "tokenizer.json").unlink()
        return "holds no tokenizer.json"
    if kind == "other tokenizer":
        text = (source / "tokenizer.json").read_text().replace(original.BOI, "<image>")
        (source / "tokenizer.json").write_text(text)
        return "has no token <begin_of_image>"
    assert kind == "no config", config
    (source / "config.json").unlink()
    return "holds no config.json"


KINDS = [
    *("missing shard", "truncated shard", "code in a shard", "missing tensor", "wrong size", "other tensor"),
    *("other family", "converted already", "no tokenizer", "other tokenizer", "no config"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_source_gets_one_line_and_leaves_nothing(kind, tmp_path, tensors, capfd, monkeypatch):
    monkeypatch.setenv("EARLIB_TEST_TRAP", str(tmp_path / "trap"))
    source = original.write(tmp_path / "in", tensors)
    expected = broken(kind, source, tensors)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 2
    out, err = capfd.readouterr()
    assert expected in err and err.startswith("error: ") and err.count("\n") == 1, err
    assert not out and not (tmp_path / "out").exists() and not (tmp_path / "trap").exists()


def test_a_wrong_target_is_left_alone(tmp_path, source, converted):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("precious")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="is not empty and holds no conversion"):
        convert(source, tmp_path / "full")
    with pytest.raises(UserError, match="is a file"):
        convert(source, tmp_path / "file")
    other = original.write(tmp_path / "other", original.tensors(seed=1))
    with pytest.raises(UserError, match="holds the conversion of another model"):
        convert(other, converted, part_bytes=2_000_000)
    with pytest.raises(UserError, match="there is no such folder; fetch the model first"):
        convert(tmp_path / "nowhere", tmp_path / "new")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["something"] and (
        tmp_path / "file"
    ).read_text() == "precious"
