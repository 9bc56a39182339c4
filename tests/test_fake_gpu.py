"""Code for GPUs, run where there is none (`fake_gpu.py`): Janus-Pro, Emu3 and Infinity in their true widths with a few
layers, in both 16-bit formats."""

from __future__ import annotations

import shutil
from unittest.mock import patch

import numpy as np
import pytest
import torch

from earlib import load_generator
from earlib.concepts import load_concept
from earlib.device import decide
from earlib.erasure import checkpoint, erase
from earlib.erasure.presets import PRESETS, SCALE_PRESETS, recipe
from earlib.erasure.settings import fields_of
from earlib.erasure.store import Erasure
from earlib.erasure.train import train
from earlib.generators.files import infinity, shapes
from earlib.generators.weights import empty_model
from earlib.runs import Run

from . import test_infinity
from .fake_gpu import fake_gpu

save = checkpoint.save
MODELS = ("janus-pro-1b-shape", "janus-pro-7b-shape", "emu3", "infinity")
LAYERS, SIDE = 2, 4  # of few layers and small pictures, as operations cost time here, and numbers nothing
PROMPTS = ["a red church on a hill", "a boat"]


def janus(name, dtype):
    few = {"layers": LAYERS, "vision_layers": 1, "side": SIDE}
    with patch.dict(shapes.SHAPES, {name: shapes.SHAPES[name] | few}):
        return load_generator(name, "cuda", dtype, parts="all")


def emu3(name, dtype):
    """Emu3's width, heads and codebook."""
    from transformers import GenerationConfig

    from earlib.generators.emu3 import Emu3Generator
    from earlib.generators.profiles import FAMILIES
    from earlib.miniworld.models_emu3 import build_processor, emu3_config

    place, processor = decide("cuda", dtype), build_processor(32768, (SIDE, SIDE))
    config = emu3_config(processor, 4096, LAYERS, 128, 8, 14336, 32768, 256)
    config.text_config.max_position_embeddings = 9216
    model = empty_model(config, FAMILIES["emu3"])
    shapes.fill_at_random(model, place)
    special = {key: getattr(processor.tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(guidance_scale=3.0, **special)
    return Emu3Generator(model, processor, name)


def infinity_2b(name, dtype, pixels=64):
    """The authors' files with Infinity-2B's widths, two blocks, and a small T5, through the loader."""
    from transformers import T5Config, T5EncoderModel

    from earlib.miniworld.models import build_tokenizer

    true = {"WIDTH": 2048, "HEADS": 16, "TEXT": 2048, "LENGTH": 512, "BITS": 32, "HIDDEN": 8192}
    words, place = build_tokenizer(), decide("cuda", dtype)
    text = T5EncoderModel(T5Config(d_model=2048, d_kv=64, d_ff=128, num_layers=1, num_heads=32, vocab_size=len(words)))
    text = text.to(place.device, place.dtype).eval()
    with patch.multiple(test_infinity, **true):
        stored = test_infinity.stored_trunk()
    found = {
        "_only": lambda *args: None,
        "_trunk_file": lambda file: stored,
        "_decoder": lambda file: infinity.PixelDecoder(32, (128, 256, 256, 512, 512)),
        "_text": lambda *args: (text, words),
    }
    with patch.multiple(infinity, **found):
        return infinity.load_infinity("infinity", pixels, "cuda", dtype)


MAKERS = {"emu3": emu3, "infinity": infinity_2b}


BOTH = [(model, dtype) for model in MODELS for dtype in ("bfloat16", "float16")]
NAMES = ("ear", "spm", "concept-ablation", "uce")  # of next-token models, everywhere
MORE = ("leace", "forget-me-not", "rmu", "dpo")  # and in float16, of one model
OF_SCALES = ("s-vare", "sace-style", "uce")


@pytest.fixture(scope="module", params=BOTH, ids="-".join)
def generator(request):
    name, dtype = request.param
    with fake_gpu():
        yield MAKERS.get(name, janus)(name, dtype)


@pytest.fixture(autouse=True)
def few_prompts_to_keep(monkeypatch):
    monkeypatch.setattr("earlib.erasure.retain_prompts", lambda *args: ["a boat", "a red tree"])


def _short(generator) -> dict:
    """As few steps as there can be of each kind."""
    return {"batch": 1, "passes": 1} if generator.code_shape else {"windows.length": generator.num_codes // 2}


def right(generator, tensors) -> bool:
    return all(t.device.type == "cuda" and t.dtype == generator.dtype for t in tensors)


def test_a_picture_is_drawn_read_and_told_of(generator):
    codes = generator.sample(PROMPTS, [1, 2])
    assert codes.device.type == "cpu" and codes.shape == (2, generator.num_codes, *generator.code_shape)
    p = generator.log_probabilities(PROMPTS, codes)
    assert p.device.type == "cpu" and p.dtype == torch.float32 and p.shape[:2] == codes.shape[:2]
    pictures = generator.decode(codes)
    assert pictures.dtype == np.uint8 and len(pictures) == 2
    if generator.code_shape:
        return  # Infinity reads no pictures
    assert generator.tokenize(pictures).shape == codes.shape
    if hasattr(generator.processor, "chat_template") and generator.processor.chat_template:
        assert len(generator.caption(pictures)) == 2


CASES = [(case, name) for case in BOTH for name in (OF_SCALES if case[0] == "infinity" else NAMES)]
CASES += [((MODELS[0], "float16"), name) for name in MORE]


@pytest.mark.parametrize(
    "generator, name",
    CASES,
    indirect=["generator"],
    scope="module",
    ids=["-".join([*case, name]) for case, name in CASES],
)
def test_a_concept_is_erased_and_the_erasure_kept(generator, name, tmp_path):
    known = SCALE_PRESETS if generator.code_shape else PRESETS
    few = {"pairs": 2, "passes": 1} | (_short(generator) if name == "ear" else {})
    settings = {key: value for key, value in few.items() if key in fields_of(known[name])}
    erasure = erase(generator, load_concept("church", "mini"), recipe(name, generator, **settings), progress=False)
    if "leace" not in name:
        assert right(generator, erasure.tensors.values())
    erasure.save(tmp_path)
    loaded = Erasure.load(tmp_path, generator)
    with loaded.on(generator):
        assert len(generator.decode(generator.sample(PROMPTS, [1, 2]))) == 2
    shutil.rmtree(tmp_path)  # the true widths are a hundred megabytes


def test_a_run_goes_on_after_a_kill(generator, tmp_path):
    """Adam's fused step wants its count of steps on the GPU, as everything else."""
    r = recipe("s-vare" if generator.code_shape else "ear", generator, pairs=2, rank=1, **_short(generator))
    pairs = load_concept("church", "mini").pairs

    class Killed(Exception):
        pass

    def killed(run, next_lesson, *state):
        save(run, next_lesson, *state)
        raise Killed

    config = {"recipe": r.as_dict()}
    with patch.object(checkpoint, "save", killed), pytest.raises(Killed):
        train(generator, pairs, r, 0, Run(tmp_path, config), checkpoint_every=1)
    tensors, info = train(generator, pairs, r, 0, Run(tmp_path, config), checkpoint_every=1)
    assert right(generator, tensors.values()) and {row["lesson"] for row in Run(tmp_path, config).metrics} == {0, 1}
