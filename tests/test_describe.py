"""What `doctor --erasure` says of an erasure; and that one of no steps is the base model, bit for bit."""

import dataclasses
import json
import re

import pytest
import torch
from safetensors.torch import save_file

from earlib import load_generator, memory
from earlib.__main__ import main
from earlib.erasure.change import merged, student_parameters, tensor_names
from earlib.erasure.describe import describe
from earlib.erasure.presets import PRESETS, SCALE_PRESETS
from earlib.erasure.settings import Training
from earlib.erasure.store import Erasure
from earlib.errors import UserError
from earlib.generators.profiles import PROFILES

from .conftest import tiny_emu3, tiny_janus
from .test_loading import save
from .test_merge import change
from .test_nextscale import tiny as tiny_scales
from .test_peft import CONFIG, write

JANUS_1B, JANUS_7B = memory.KNOWN.values()


def told(place, model=None):
    (title, rows), (_, fits) = describe(place, model).items()
    assert title == f"erasure {place}"
    return dict(rows), dict(fits)


def test_an_erasure_of_ours(mini, tmp_path, capsys):
    """Of mini: what it is, that it fits mini's weights, and no other model's."""
    change(mini, "spm").save(tmp_path)
    about, fits = told(tmp_path)
    assert about["what"] == "spm of 'church', seed 0"
    assert about["made for"].endswith(f"(fingerprint {mini.fingerprint})")
    assert about["changes"] == "adapters of rank 1 beside 32 matrices in layers 0-7, everywhere"
    assert about["size"] == "12,288 numbers, 49.2 kB" and about["merge"].startswith("python -m earlib merge")
    assert fits["mini"] == "yes, it was made for these weights"
    assert fits["mini-var"].startswith("no: it has no layers.") and fits["janus-pro-1b"].startswith("no: 1x192 beside")
    dataclasses.replace(change(mini, "spm"), generator_fingerprint="0" * 16).save(tmp_path)
    assert told(tmp_path, "mini")[1] == {"mini": "in size only: it was made for other weights"}
    assert main(["doctor", "--erasure", str(tmp_path), "--model", "mini"]) == 0
    assert "  made for  a model (fingerprint 0000000000000000)\n" in capsys.readouterr().out


def test_names_that_transformers_changes_on_loading(tmp_path):
    """Emu3's weights are stored under other names than those that are hashed."""
    folder = str(save(tiny_emu3(), tmp_path / "emu3"))
    change(load_generator(folder, device="cpu"), "spm").save(tmp_path / "erasure")
    assert told(tmp_path / "erasure", folder)[1] == {folder: "yes, it was made for these weights"}


@pytest.mark.parametrize("names", [("spm", "ear"), ("ear", "spm")], ids=" then ".join)
def test_one_saved_over_another(names, generator, tmp_path):
    """Nothing is left of the first, which is kept in other files."""
    for name in names:
        change(generator, name).save(tmp_path / "both")
    alone = change(generator, names[1])
    assert sorted(f.name for f in (tmp_path / "both").iterdir()) == sorted(
        f.name for f in alone.save(tmp_path / "alone").iterdir()
    )
    again = Erasure.load(tmp_path / "both", generator)
    assert again.name == names[1] and again.tensors.keys() == alone.tensors.keys()
    assert all(torch.equal(again.tensors[n], t) for n, t in alone.tensors.items())


def test_what_others_made(tmp_path):
    """peft's folders and the authors' files do not say for which model they were made; their sizes do."""
    around = "base_model.model.model.language_model.layers.{}.self_attn.v_proj.lora_{}.weight"
    idle = "base_model.model.model.vision_model.encoder.layers.0.self_attn.v_proj.lora_{}.weight"
    tensors = {around.format(i, "A"): torch.ones(4, 2048) for i in range(24)}
    tensors |= {around.format(i, "B"): torch.ones(2048, 4) for i in range(24)}
    tensors |= {idle.format("A"): torch.ones(4, 1024), idle.format("B"): torch.zeros(1024, 4)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    about, fits = told(tmp_path)
    assert "in peft's files, by others" in about["what"] and about["made for"] == "deepseek-community/Janus-Pro-1B"
    assert about["changes"] == "adapters of rank 4 beside 24 matrices in layers 0-23, everywhere"
    need = memory.gigabytes(memory.to_draw(JANUS_1B, "bfloat16") + 4 * 24 * 4 * 4096)
    assert fits["janus-pro-1b"] == f"in size; both draw in {need} in bfloat16"
    assert fits["janus-pro-7b"].startswith("no: 4x2048 beside 4096x4096") and fits["mini"].startswith("no: ")
    torch.save({"layers.0.self_attn.q_proj": {"weight": torch.zeros(4096, 4096)}}, tmp_path / "church.pt")
    about, fits = told(tmp_path / "church.pt")
    assert (
        about["what"] == "an erasure of the EAR authors"
        and about["changes"] == "1 whole tensors in layer 0, everywhere"
    )
    assert fits["janus-pro-7b"].startswith("in size; both draw in") and fits["janus-pro-1b"].startswith("no: 4096x4096")


@pytest.mark.parametrize("part", ["generation_head.proj_out", "vision_model.encoder.layers.0.self_attn.q_proj"])
def test_what_cannot_be_loaded_is_not_said_to_fit(part, generator, tmp_path):
    """Adapters that learned beside other parts than the language model, with others beside it or without."""
    learned = {f"base_model.model.model.{part}.lora_{side}.weight": torch.ones(4, 4) for side in "AB"}
    write(tmp_path / "both", generator, "model.language_model.", more=learned)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "adapter_config.json").write_text(json.dumps(CONFIG))
    save_file(learned, tmp_path / "alone" / "adapter_model.safetensors")
    for folder in (tmp_path / "both", tmp_path / "alone"):
        for read in (describe, lambda place: Erasure.load(place, generator)):
            with pytest.raises(UserError, match=f"has an adapter for model.{part}, which is none of the layers of"):
                read(folder)
    half = {f"base_model.model.layers.0.self_attn.q_proj.lora_{side}.weight": torch.ones(4, 64) for side in "A"}
    save_file(half, tmp_path / "alone" / "adapter_model.safetensors")
    with pytest.raises(UserError, match="an adapter needs both lora_A and lora_B, and there is no layers.0"):
        describe(tmp_path / "alone")


def test_what_cannot_be_described(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for flags, line in {
        ("--model", "mini"): "--model says for which model --erasure is looked at; give both",
        ("--erasure", str(tmp_path / "nowhere")): "holds no erasure",
        ("--erasure", str(tmp_path / "empty")): "holds no erasure",
    }.items():
        assert main(["doctor", *flags]) == 2 and line in capsys.readouterr().err
    change(tiny_janus(), "spm").save(tmp_path / "spm")
    with pytest.raises(UserError, match="no model 'jannus': not a profile .*, not a folder"):
        describe(tmp_path / "spm", "jannus")
    for absent in ("somebody/janus", "janus-pro-1b-shape"):
        with pytest.raises(UserError, match=f"{absent} has no weights here to compare with"):
            describe(tmp_path / "spm", absent)


def test_a_damaged_erasure_is_named(tmp_path):
    """Its numbers, and what says where they act: at no known place it would act nowhere, and nobody would see it."""
    generator = tiny_janus()
    good = change(generator, "ear")
    name = next(iter(good.tensors))
    wrong = {
        "holds infinite numbers or NaN": dataclasses.replace(
            good, tensors=good.tensors | {name: good.tensors[name] * torch.nan}
        ),
        "recipe positions 'nowhere'": dataclasses.replace(good, recipe=good.recipe | {"positions": "nowhere"}),
        r"recipe positions \['words'\]": dataclasses.replace(good, recipe=good.recipe | {"positions": ["words"]}),
        "of 3x3, which tiny has not": dataclasses.replace(good, tensors=good.tensors | {name: torch.zeros(3, 3)}),
    }
    for i, (line, erasure) in enumerate(wrong.items()):
        with pytest.raises(UserError, match=line):
            Erasure.load(erasure.save(tmp_path / str(i)), generator)
    about = json.loads((good.save(tmp_path / "good") / "erasure.json").read_text())
    (tmp_path / "good" / "erasure.json").write_text(json.dumps(about | {"recipe": "ear"}))
    with pytest.raises(UserError, match="has no recipe that can be used"):
        Erasure.load(tmp_path / "good", generator)


# ---------------------------------------------------------------- no steps

TRAINED = [name for name, recipe in (PRESETS | SCALE_PRESETS).items() if isinstance(recipe, Training)]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def families(request):
    """A model of each family, in one number format."""
    made = {False: tiny_janus(), True: tiny_scales(text_length=24)}
    for generator in made.values():
        generator.model.to(request.param)
    return made


@pytest.mark.parametrize("name", TRAINED)
def test_no_steps_are_the_base_model(name, families, tmp_path):
    """Of every recipe that trains: what it begins with changes no code, no likelihood, and merged no weight."""
    recipe = (PRESETS | SCALE_PRESETS)[name]
    generator = families[recipe.by_scales]
    names = tensor_names(recipe, len(generator.decoder_layers), generator.trunk)
    start = student_parameters(generator.trunk, names, recipe.masters, recipe.rank, seed=1)
    start = {n: t.detach().to(generator.dtype) for n, t in start.items()}
    erasure = Erasure(name, recipe.as_dict(), "church", generator.fingerprint, start)
    again = Erasure.load(erasure.save(tmp_path), generator)
    prompts = ["a red church", "a boat"]
    base = generator.sample(prompts, [0, 1])
    likely = generator.log_probabilities(prompts, base)
    with again.on(generator):
        assert torch.equal(generator.sample(prompts, [0, 1]), base)
        assert torch.equal(generator.log_probabilities(prompts, base), likely)
    for tensor, own in ((t, generator.trunk.get_parameter(n)) for n, t in merged(generator.trunk, start).items()):
        assert torch.equal(tensor, own)


@pytest.mark.parametrize("begun", [False, True], ids=["no folder", "unfinished"])
def test_a_mini_model_that_is_not_made_yet(begun, mini, tmp_path, monkeypatch, capsys):
    """It is not among the models that are told, though its training has begun; who names it learns what to type."""
    change(mini, "spm").save(tmp_path)
    monkeypatch.setitem(PROFILES, "mini-emu3", str(tmp_path / "begun"))
    if begun:
        (tmp_path / "begun").mkdir()
        (tmp_path / "begun" / "train_log.jsonl").write_text("")
    assert "mini-emu3" not in told(tmp_path)[1]
    line = "the model 'mini-emu3' is missing from .*begun; make it with: python -m earlib.miniworld.make --out .* emu3"
    for read in (lambda: describe(tmp_path, "mini-emu3"), lambda: load_generator("mini-emu3")):
        with pytest.raises(UserError, match=line):
            read()
    assert main(["doctor"]) == 0 and re.search(line, capsys.readouterr().out)
