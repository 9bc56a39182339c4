"""Adapters that others made: folders as peft writes them, for whatever model it wrapped, read exactly or refused by
name. The folders are written here, and what they mean is computed here, without peft."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from earlib.erasure.change import adapters
from earlib.erasure.store import Erasure
from earlib.errors import UserError

from .conftest import tiny_emu3, tiny_janus

# LoraConfig's fields as peft 0.21 writes them
CONFIG = dict(alora_invocation_tokens=None, alpha_pattern={}, arrow_config=None, auto_mapping=None, bias="none")
CONFIG |= dict(base_model_name_or_path="deepseek-community/Janus-Pro-1B", corda_config=None, ensure_weight_tying=False)
CONFIG |= dict(eva_config=None, exclude_modules=None, fan_in_fan_out=False, inference_mode=True, init_lora_weights=True)
CONFIG |= dict(layer_replication=None, layers_pattern=None, layers_to_transform=None, loftq_config={}, lora_alpha=6)
CONFIG |= dict(lora_bias=False, lora_dropout=0.05, megatron_config=None, megatron_core="megatron.core", r=4)
CONFIG |= dict(modules_to_save=None, peft_type="LORA", peft_version="0.21.2", qalora_group_size=16, rank_pattern={})
CONFIG |= dict(revision=None, target_modules=["q_proj", "up_proj"], target_parameters=None, task_type="CAUSAL_LM")
CONFIG |= dict(trainable_token_indices=None, use_dora=False, use_qalora=False, use_rslora=False)
AROUND = {tiny_janus: "model.language_model.", tiny_emu3: "model.text_model."}


def write(folder, generator, around="", adapter=None, old=False, more=(), **changed):
    """A folder of adapters beside q_proj and up_proj of every layer, as peft saves one that trained inside a model in
    which the trunk is called `around`. Returns module -> what is added to its matrix, by peft's rules."""
    config = CONFIG | changed
    own = lambda pattern, module, otherwise: next(
        (value for key, value in config[pattern].items() if re.match(rf"(.*\.)?({key})$", around + module)), otherwise
    )
    tensors, added = {}, {}
    middle = f".{adapter}" if adapter else ""
    for module, layer in generator.trunk.named_modules():
        if module.endswith(("q_proj", "up_proj")):
            r = own("rank_pattern", module, config["r"])
            a, b = torch.randn(r, layer.in_features) / 8, torch.randn(layer.out_features, r) / 8
            key = f"base_model.model.{around}{module}.lora_"
            tensors |= {f"{key}A{middle}.weight": a, f"{key}B{middle}.weight": b}
            alpha = own("alpha_pattern", module, config["lora_alpha"])
            added[module] = alpha / (r**0.5 if config["use_rslora"] else r) * b @ a
    folder.mkdir(parents=True, exist_ok=True)
    tensors |= dict(more)
    if old:
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return added


def check(folder, generator, added):
    """What is read adds the same to the same matrices."""
    read = {module: b @ a for module, (a, b) in adapters(Erasure.load(folder, generator).tensors).items()}
    assert read.keys() == added.keys()
    for module in added:
        torch.testing.assert_close(read[module], added[module])


PATTERN = {r"layers\.[0-1]\.self_attn\.q_proj": 3, "up_proj": 16}
SETTINGS = [
    {},
    {"use_rslora": True},
    {"alpha_pattern": PATTERN},
    {"rank_pattern": {r".*\.1\.mlp\.up_proj": 2, "q_proj": 1}, "alpha_pattern": PATTERN, "use_rslora": True},
    {"adapter": "default"},
    {"adapter": "church_v2"},
    {"old": True},
    {"init_lora_weights": "gaussian", "lora_dropout": 0.5, "some_field_of_tomorrow": None},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ", ".join(s) or "plain")
def test_what_peft_may_say_is_read(settings, generator, tmp_path):
    check(tmp_path / "lora", generator, write(tmp_path / "lora", generator, **settings))


@pytest.mark.parametrize("make", AROUND)
def test_whatever_was_wrapped(make, tmp_path):
    """The whole model, with adapters beside the vision tower that never learned; the authors' class; the trunk; an
    adapter with a name, in a folder of its own."""
    generator = make()
    vision = "base_model.model.model.vision_model.encoder.layers.0.self_attn.q_proj.lora_"
    idle = {f"{vision}A.weight": torch.randn(4, 64), f"{vision}B.weight": torch.zeros(64, 4)}
    by_layer = {r"layers\.0\.self_attn\.q_proj": 12}
    for around in (AROUND[make], AROUND[make].removeprefix("model."), "language_model.model.", "model.", ""):
        folder = tmp_path / (around or "trunk")
        check(folder, generator, write(folder, generator, around, more=idle, alpha_pattern=by_layer))
    named = tmp_path / "run"
    added = write(named / "church", generator, AROUND[make])
    check(named, generator, added)
    assert Erasure.load(named, generator).concept == "church"
    write(named / "boat", generator)
    with pytest.raises(UserError, match="holds the adapters boat, church; give one of them"):
        Erasure.load(named, generator)


KEY = "base_model.model.layers.0.self_attn.q_proj"
HEAD = "base_model.model.model.generation_head.proj_out.lora_"
REFUSED = [  # what is written, what the line says
    ({"use_dora": True}, "use_dora=true cannot be read"),
    ({"bias": "lora_only"}, 'bias="lora_only" cannot be read'),
    ({"modules_to_save": ["gen_head"]}, r'modules_to_save=\["gen_head"\] cannot be read'),
    ({"init_lora_weights": "olora"}, 'init_lora_weights="olora" cannot be read'),
    ({"init_lora_weights": "pissa_niter_4"}, 'init_lora_weights="pissa_niter_4" cannot be read'),
    ({"fan_in_fan_out": True}, "fan_in_fan_out=true"),
    ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication="),
    ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens="),
    ({"trainable_token_indices": [3]}, "trainable_token_indices="),
    ({"some_field_of_tomorrow": 2}, "some_field_of_tomorrow=2 cannot be read"),
    ({"peft_type": "ADALORA"}, "holds ADALORA of peft's; only LORA can be read"),
    ({"alpha_pattern": {"q_proj": "much"}}, "lora_alpha and alpha_pattern must be a number"),
    ({"alpha_pattern": {"(": 3}}, "lora_alpha and alpha_pattern must be a number"),
    ({"more": {f"{KEY}.lora_magnitude_vector": torch.ones(64)}}, "lora_magnitude_vector is no adapter"),
    ({"more": {f"{KEY}.lora_A.other.weight": torch.ones(4, 64)}}, "holds the adapters"),
    ({"more": {"base_model.model.model.gen_head.weight": torch.ones(4, 4)}}, "gen_head.weight is no adapter"),
    (
        {"more": {f"{HEAD}A.weight": torch.ones(1, 64), f"{HEAD}B.weight": torch.ones(64, 1)}},
        "generation_head.proj_out",
    ),
    ({"more": {f"{KEY}.lora_A.weight": torch.full((4, 64), torch.nan)}}, "holds infinite numbers or NaN"),
    ({"more": {f"{KEY}.lora_A.weight": torch.ones(4, 32)}}, "was made for another model"),
]


@pytest.mark.parametrize("written, line", REFUSED, ids=[line for _, line in REFUSED])
def test_what_cannot_be_read_is_refused_by_name(written, line, generator, tmp_path):
    write(tmp_path, generator, more=(written := dict(written)).pop("more", {}))
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG | written))
    with pytest.raises(UserError, match=line) as error:
        Erasure.load(tmp_path, generator)
    assert "\n" not in str(error.value)


def test_a_pickle_of_more_than_tensors_is_refused(generator, tmp_path):
    write(tmp_path, generator, old=True)
    torch.save({"x": print}, tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match="adapter_model.bin: is broken, or holds more than tensors"):
        Erasure.load(tmp_path, generator)
