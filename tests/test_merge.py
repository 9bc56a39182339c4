"""An erasure merged into a plain checkpoint: transformers alone computes what the generator computes with the erasure
switched on; what no checkpoint can hold is refused, and nothing is left behind."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from earlib import load_generator
from earlib.__main__ import main
from earlib.erasure.change import student_parameters, tensor_names
from earlib.erasure.compose import Transport, compose
from earlib.erasure.files.merge import write_merged
from earlib.erasure.presets import recipe
from earlib.erasure.store import Erasure, NoErasure
from earlib.errors import UserError
from earlib.generators.files.convert import convert

from . import original
from .conftest import tiny_emu3, tiny_janus

PROMPTS = ["a red church on a hill", "a boat"]


def change(generator, name, concept="church", **settings):
    """An erasure of `generator` that was not trained: random numbers in its tensors."""
    chosen = recipe(name, generator, **settings)
    names = tensor_names(chosen, len(generator.decoder_layers), generator.trunk)
    tensors = student_parameters(generator.trunk, names, rank=chosen.rank, seed=len(concept))
    noise = torch.Generator().manual_seed(len(concept))
    tensors = {n: t.detach() + torch.randn(t.shape, generator=noise) / 20 for n, t in tensors.items()}
    return Erasure(name, chosen.as_dict(), concept, generator.fingerprint, tensors)


BASE = NoErasure()


def states(generator, trunk, erasure=BASE):
    batch = generator.encode(PROMPTS)
    with torch.no_grad(), erasure.on(generator):
        return trunk(input_ids=batch.ids_BP, attention_mask=batch.mask_BP).last_hidden_state


@pytest.mark.parametrize("name", ["ear", "spm"])
def test_transformers_alone_computes_the_same(name, mini, tmp_path, capsys):
    """On the shipped model, by the command, logits bit for bit; and what was merged is a mini model still."""
    from transformers import AutoProcessor, JanusForConditionalGeneration

    erasure = change(mini, name)
    erasure.save(tmp_path / "erasure")
    line = ["merge", "--device", "cpu", "--erasure", str(tmp_path / "erasure"), "--out", str(tmp_path / "merged")]
    assert main(line) == 0 and f"use it with --model {tmp_path / 'merged'}" in capsys.readouterr().out
    model = JanusForConditionalGeneration.from_pretrained(tmp_path / "merged")
    processor = AutoProcessor.from_pretrained(tmp_path / "merged")
    chats = [[{"role": "user", "content": [{"type": "text", "text": prompt}]}] for prompt in PROMPTS]
    texts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    read = processor(text=texts, generation_mode="image", padding=True, return_tensors="pt")
    with torch.no_grad():
        h = model.model.language_model(**{key: read[key] for key in ("input_ids", "attention_mask")}).last_hidden_state
        alone = model.model.generation_head(h)
        ours, base = (mini.image_logits(states(mini, mini.trunk, e)) for e in (erasure.merged(mini), BASE))
    assert torch.equal(alone, ours) and (alone - base).abs().max() > 0.1
    torch.testing.assert_close(ours, mini.image_logits(states(mini, mini.trunk, erasure)), atol=1e-3, rtol=1e-3)
    again = load_generator(tmp_path / "merged", device="cpu")
    assert again.profile == "mini" and again.fingerprint != mini.fingerprint and again.guidance == mini.guidance
    about = json.loads((tmp_path / "merged" / "merged.json").read_text())
    assert (about["erasure"], about["concept"], about["model"]) == (name, "church", "mini")
    assert main(line) == 2 and "merged: is not empty" in capsys.readouterr().err


def test_whole_matrices_are_merged_as_they_are(tmp_path):
    """In 16 bits, bit for bit, however far they are from the model's own; and switched on they are used as they are."""
    generator = tiny_janus()
    generator.model.to(torch.bfloat16)
    erasure = change(generator, "ear")
    noise = torch.Generator().manual_seed(0)
    erasure.tensors = {n: torch.randn(t.shape, generator=noise).bfloat16() for n, t in erasure.tensors.items()}
    write_merged(generator, erasure, tmp_path / "merged")
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(stored[f"model.language_model.{name}"], t) for name, t in erasure.tensors.items())
    with erasure.on(generator):
        assert all(torch.equal(generator.trunk.get_parameter(name), t) for name, t in erasure.tensors.items())


def test_into_the_folder_where_one_stands(tmp_path, generator, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_merged(generator, change(generator, "spm"), ".")
    assert load_generator(".", device="cpu").fingerprint != generator.fingerprint
    assert (tmp_path / "here" / "merged.json").samefile("merged.json")  # it is the same folder still
    assert [path.name for path in tmp_path.iterdir()] == ["here"] and not list(Path().glob(".*"))


def test_a_full_disk(tmp_path, generator, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1000) if place.exists() else None)
    line = "new/out: the weights to write take 0.0 GB, and the disk has 0.0 GB free"
    with pytest.raises(UserError, match=line):
        write_merged(generator, change(generator, "spm"), tmp_path / "new" / "out")
    with pytest.raises(UserError, match=line):
        convert(original.write(tmp_path / "in", original.tensors()), tmp_path / "new" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_every_family_and_strength(tmp_path):
    generator = tiny_emu3()
    both = compose([change(generator, "spm"), change(generator, "spm", "boat")], [1, 0.5])
    both.strength = 0.5
    model = type(generator.model).from_pretrained(write_merged(generator, both, tmp_path / "two"))
    ours = states(generator, generator.trunk, both)
    torch.testing.assert_close(states(generator, model.model.text_model), ours, atol=1e-4, rtol=1e-4)
    var = load_generator("mini-var", device="cpu")
    erasure = change(var, "s-vare")
    codes = var.sample(PROMPTS, [0, 1], temperature=0)
    again = load_generator(write_merged(var, erasure, tmp_path / "var"), device="cpu")
    with erasure.on(var):
        ours = var.log_probabilities(PROMPTS, codes)
    assert (again.log_probabilities(PROMPTS, codes) - ours).abs().max() < 0.1  # half precision is what it is kept in
    assert (var.log_probabilities(PROMPTS, codes) - ours).abs().max() > 1


def test_what_no_checkpoint_can_hold(generator, tmp_path):
    words, plain = change(generator, "spm", positions="words"), change(generator, "spm")
    guides = dataclasses.replace(
        plain, recipe=recipe("negative-prompt", generator, text="a church").as_dict(), tensors={}
    )
    opened = compose([plain], transport=Transport({"church": ("church",)}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    lines = {"acts where words stand.*positions=all": words, "steers the drawing and changes no weights": guides}
    for line, erasure in (lines | {"switched on prompt by prompt": opened}).items():
        with pytest.raises(UserError, match=line):
            write_merged(generator, erasure, tmp_path / "out")
    with pytest.raises(UserError, match="full: is not empty"):
        write_merged(generator, plain, tmp_path / "full")
    head, generator.model.lm_head = generator.model.lm_head, None
    try:
        with pytest.raises(UserError, match="load it with parts='all'"):
            write_merged(generator, plain, tmp_path / "out")
    finally:
        generator.model.lm_head = head
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
