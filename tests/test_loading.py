"""Loading by profile, hub id and folder; what models take in memory and what fits; the EAR authors' published erasures.
All on small random models."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from earlib import ROOT, device, memory
from earlib.__main__ import main
from earlib.erasure.presets import EAR, SPM
from earlib.erasure.room import check_training, trained_parameters
from earlib.erasure.settings import with_settings
from earlib.erasure.store import Erasure
from earlib.errors import UserError
from earlib.generators import load_generator
from earlib.generators.base import Past
from earlib.generators.files import shapes
from earlib.generators.files.shapes import SHAPES, build_shape, shape_config
from earlib.generators.janus import normalised
from earlib.generators.load import FAMILIES, PROFILES
from earlib.generators.weights import empty_model

from .conftest import tiny_janus

GB = 10**9
FREE_16, FREE_24 = 15.6 * GB, 23.4 * GB  # what a T4 and an L4 have free when nothing runs
JANUS = FAMILIES["janus"]
SMALL = dict(
    width=64, mlp=96, layers=3, heads=2, vocab=256, side=4, codes=32, vq_channels=32, vision_width=64, vision_layers=1
)


def save(generator, folder, **more):
    generator.model.save_pretrained(folder, **more)
    generator.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model as save_pretrained leaves it, in several files."""
    return save(tiny_janus(seed=1), tmp_path_factory.mktemp("model"), max_shard_size="100KB")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


# ------------------------------------------------------------------ loading


def test_loading_gives_what_transformers_own_loading_gives(folder):
    from transformers import JanusForConditionalGeneration

    ours = load_generator(str(folder), device="cpu").model
    theirs = JanusForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    assert len(list(folder.glob("*.safetensors"))) > 2
    expected = dict(theirs.named_buffers()) | theirs.state_dict()  # rotary frequencies and the like are in no file
    assert {*dict(ours.named_buffers()), *ours.state_dict()} == {*expected}
    for name, tensor in (dict(ours.named_buffers()) | ours.state_dict()).items():
        assert torch.equal(tensor, expected[name]) and tensor.dtype == expected[name].dtype, name


def test_codes_are_normalised_once():
    """What was saved with codes of length 1 has the same codes when it is loaded, to the last bit; others are brought
    to it."""
    torch.manual_seed(0)
    stored = torch.randn(2000, 8)
    for dtype in (torch.float32, torch.bfloat16):
        codes = normalised(stored.to(dtype))
        assert torch.equal(normalised(codes), codes) and codes.dtype == dtype
        assert (codes.double().norm(dim=-1) - 1).abs().max() <= 2 * torch.finfo(dtype).eps


def test_a_changed_file_changes_no_loaded_model(copy):
    generator = load_generator(str(copy), device="cpu")
    before = {name: tensor.clone() for name, tensor in generator.model.state_dict().items()}
    for file in copy.glob("*.safetensors"):
        size = file.stat().st_size
        with open(file, "rb+") as data:  # in place: a mapped file would change under the model
            data.seek(size // 2)
            data.write(b"\xff" * (size - size // 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.model.state_dict().items())


def test_the_fingerprint_is_that_of_the_stored_weights(folder):
    whole, half, lean = (
        load_generator(str(folder), device="cpu", **how) for how in ({}, {"dtype": "bfloat16"}, {"parts": "draw"})
    )
    assert whole.fingerprint == half.fingerprint == lean.fingerprint == tiny_janus(seed=1).fingerprint
    assert half.dtype == torch.bfloat16 and half.fingerprint != tiny_janus(seed=2).fingerprint


def test_without_the_parts_for_captions_it_draws_the_same_and_says_why_it_cannot_caption(folder):
    whole, lean = load_generator(str(folder), device="cpu"), load_generator(str(folder), device="cpu", parts="draw")
    assert torch.equal(*(g.sample(["a red church"], [1]) for g in (whole, lean)))
    count = [sum(p.numel() for p in g.model.parameters()) for g in (whole, lean)]
    assert count[0] - count[1] == memory.sizes_of(whole.model, 16, 32, JANUS.caption_parts).caption_parameters > 0
    images = np.zeros((1, 16, 16, 3), np.uint8)
    assert lean.tokenize(images).shape == (1, 16) and isinstance(whole.caption(images)[0], str)
    with pytest.raises(
        UserError, match=r"without the parts that captions need; load it with load_generator\(..., parts='all'\)"
    ):
        lean.caption(images)


def test_a_head_that_was_saved_once_for_both_is_found(tmp_path):
    from earlib.miniworld.models import build_janus

    generator = tiny_janus()
    model = build_janus(generator.tokenizer, width=64, layers=1, head_dim=32, mlp=96, codes=32, grid=4, vision_width=64)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    generator.processor.save_pretrained(tmp_path)
    again = load_generator(str(tmp_path), device="cpu").model
    assert again.lm_head.weight is again.get_input_embeddings().weight and torch.equal(
        again.lm_head.weight, model.lm_head.weight
    )


WRONG = (
    "a shard is missing",
    "a shard is cut short",
    "a tensor is missing",
    "sizes differ",
    "another family",
    "the authors' layout",
    "no weights",
    "bad config",
    "NaN",
    "no conversation format",
    "weights in a .bin file",
)


@pytest.mark.parametrize("kind", WRONG)
def test_a_broken_folder_gets_one_line(kind, copy, capfd):
    from safetensors.torch import load_file, save_file

    config, file = json.loads((copy / "config.json").read_text()), sorted(copy.glob("*.safetensors"))[1]
    if kind == "a shard is missing":
        file.unlink()
        expected = f"{file.name} is missing ("
    elif kind == "a shard is cut short":
        file.write_bytes(file.read_bytes()[:-1000])
        expected = f"{file.name}: broken or cut short"
    elif kind == "a tensor is missing":
        tensors = load_file(file)
        name = sorted(tensors)[0]
        save_file({n: t for n, t in tensors.items() if n != name}, file)
        expected = f"1 tensors are missing, the first is {name}"
    elif kind == "sizes differ":
        config["text_config"]["intermediate_size"] = 128
        expected = "they do not belong together"
    elif kind == "another family":
        config["model_type"] = "llama"
        expected = "is a 'llama' model; earlib draws with"
    elif kind == "the authors' layout":
        config["model_type"] = "multi_modality"
        expected = "python -m earlib convert"
    elif kind == "NaN":
        tensors = load_file(file)
        name = sorted(n for n, t in tensors.items() if t.is_floating_point())[0]
        tensors[name].view(-1)[-1] = float("nan")
        save_file(tensors, file)
        expected = f"{name} holds infinite numbers or NaN; the weights are damaged"
    elif kind == "no conversation format":
        (copy / "chat_template.jinja").unlink()
        expected = "has no conversation format (chat_template.jinja)"
    elif kind == "weights in a .bin file":
        for shard in copy.glob("model*"):
            shard.unlink()
        (copy / "pytorch_model.bin").write_bytes(b"")
        expected = "its weights are in pytorch_model.bin, and earlib reads model.safetensors only"
    elif kind == "no weights":
        for shard in copy.glob("model*"):
            shard.unlink()
        expected = "model.safetensors is missing"
    else:
        config["vision_config"]["image_size"] = "large"
        expected = "wrong config.json"
    (copy / "config.json").write_text(json.dumps(config))
    prompts = copy.parent / "prompts.txt"
    prompts.write_text("a red church\n")
    assert (
        main(
            [
                "generate",
                "--model",
                str(copy),
                "--prompts",
                str(prompts),
                "--out",
                str(copy.parent / "out"),
                "--device",
                "cpu",
            ]
        )
        == 2
    )
    out, err = capfd.readouterr()
    assert expected in err and err.startswith("error: ") and err.count("\n") == 1, err
    assert not out and not (copy.parent / "out").exists()


@pytest.mark.parametrize(
    "name, change",
    [
        ("tokenizer_config.json", {"padding_side": "right", "model_input_names": ["input_ids"]}),
        ("tokenizer_config.json", {"model_max_length": 4, "truncation_side": "left"}),
        ("config.json", {"_attn_implementation": "flash_attention_2", "use_cache": False, "return_dict": False}),
        ("config.json", {"text_config": {"return_dict": False, "use_cache": False, "output_hidden_states": True}}),
    ],
)
def test_what_a_folder_sets_for_others_changes_no_picture(name, change, copy):
    prompts = ["a boat", "a red church on a hill"]
    own = load_generator(str(copy), device="cpu").sample(prompts, [0, 1])
    about = json.loads((copy / name).read_text())
    for key, value in change.items():
        about[key] = about[key] | value if isinstance(value, dict) else value
    (copy / name).write_text(json.dumps(about))
    assert torch.equal(load_generator(str(copy), device="cpu").sample(prompts, [0, 1]), own)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("content", ["[]", "3", '{"weight_map": []}', "{"])
def test_a_broken_file_of_a_model_is_named(name, content, copy):
    if name == "tokenizer.json" and content.startswith('{"'):
        content = '"x"'
    (copy / name).write_text(content)
    with pytest.raises(UserError, match=name if "weight_map" not in content else "index.json|cannot load") as error:
        load_generator(str(copy), device="cpu")
    assert "\n" not in str(error.value)


def test_prompts_are_padded_on_the_left_whatever_the_folder_says(copy):
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": "right"}))
    generator = load_generator(str(copy), device="cpu")
    batch = generator.encode(["a boat", "a red church on a hill"])
    assert batch.mask_BP[:, -1].all() and not batch.mask_BP.all()


def test_a_hub_id_without_a_network_says_what_to_fetch(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"hub cannot be reached .* hf download deepseek-community/Janus-Pro-7B --local-dir FOLDER"
    ):
        load_generator("janus-pro-7b", device="cpu", dtype="float16")


@pytest.mark.parametrize("model", ["jannus-pro-1b", "/no/such/folder", "./nowhere", "a/b/c"])
def test_what_is_no_model_at_all(model):
    with pytest.raises(UserError, match="not a profile .* not a folder, not a hub id"):
        load_generator(model)


@pytest.mark.parametrize("size", ["1B", "7B"])
def test_the_authors_hub_id_is_answered_by_the_one_that_works(size):
    """Before anything is fetched: those repositories hold 4 and 15 GB of pickles."""
    with pytest.raises(UserError, match=f"pickles of another class.* deepseek-community/Janus-Pro-{size}; .*convert"):
        load_generator(f"deepseek-ai/Janus-Pro-{size}", device="cpu")


def test_unknown_parts():
    with pytest.raises(UserError, match="unknown parts 'drew'; did you mean 'draw'"):
        load_generator("mini", parts="drew")


# ------------------------------------------------------------------ shapes


@pytest.mark.parametrize(
    "profile, total, to_draw", [("janus-pro-1b", 2076.6e6, 3.11 * GB), ("janus-pro-7b", 7407.8e6, 13.33 * GB)]
)
def test_true_shapes_have_the_published_size(profile, total, to_draw):
    assert f"{profile}-shape" in PROFILES
    config = shape_config(**SHAPES[f"{profile}-shape"])
    sizes = memory.sizes_of(empty_model(config, JANUS), *JANUS.picture(config), JANUS.caption_parts)
    assert sizes == memory.KNOWN[profile], "the table of known sizes must be the class's own"
    assert sizes.draw_parameters + sizes.caption_parameters == pytest.approx(total, rel=1e-4)
    assert memory.weight_bytes(sizes, "bfloat16") == pytest.approx(to_draw, rel=2e-3)


def test_a_shape_draws_and_is_the_same_every_time():
    place = device.decide("cpu", "bfloat16")
    a, b = (build_shape("janus-pro-1b-shape", place, parts, **SMALL) for parts in ("all", "draw"))
    assert a.fingerprint == b.fingerprint
    assert a.profile == "janus-pro-1b-shape" and a.dtype == torch.bfloat16 and b.model.lm_head is None
    again = build_shape("janus-pro-1b-shape", place, "all", **SMALL)
    assert again.fingerprint == a.fingerprint
    tokens = a.sample(["a red church", "a boat"], [1, 2])
    assert (
        tokens.shape == (2, 16) and a.decode(tokens).shape == (2, 64, 64, 3) and len(set(tokens.flatten().tolist())) > 4
    )
    assert all(torch.isfinite(tensor.float()).all() for tensor in a.model.state_dict().values())


# ------------------------------------------------------------------ memory


def test_what_fits_on_common_gpus():
    one, seven = memory.KNOWN.values()
    assert (
        memory.cache_bytes(seven, "bfloat16", 1, 1) == 491_520 and memory.cache_bytes(one, "bfloat16", 1, 1) == 196_608
    )
    assert memory.decode_bytes(seven, "bfloat16") == pytest.approx(0.3 * GB, rel=0.02)
    assert trained_parameters(seven, EAR) == pytest.approx(335.5e6, rel=1e-3)
    assert trained_parameters(one, EAR) == 4 * 4 * 2048 * 2048, "4 of 24 layers"
    for modules, membranes in (("attention", 983_040), ("mlp", 1_359_360), ("both", 2_342_400)):
        assert trained_parameters(seven, with_settings(SPM, {"modules": modules})) == membranes


def test_what_fits_where():
    one, seven = memory.KNOWN.values()
    for window in (24, 48, 100):  # Van Gogh, church, nudity
        assert memory.to_train(one, "float16", trained_parameters(one, EAR), window) < FREE_16, "1B trains on 16 GB"
        assert memory.to_train(seven, "bfloat16", trained_parameters(seven, EAR), window) < FREE_24, (
            "7B trains on 24 GB"
        )
        assert memory.to_train(seven, "float16", trained_parameters(seven, EAR), window) > FREE_16, (
            "7B does not train on 16 GB"
        )
    assert memory.to_draw(seven, "float16") < FREE_16, "7B draws on 16 GB"
    assert (
        memory.to_draw(seven, "float32") > FREE_24
        and memory.to_draw(seven, "float16", parts="all") > memory.to_draw(seven, "float16") + GB
    )
    free = int(FREE_16) - memory.weight_bytes(seven, "float16")
    assert 1 <= memory.pictures_that_fit(seven, "float16", free) <= 4
    free = int(FREE_16) - memory.weight_bytes(one, "float16")
    assert 16 <= memory.pictures_that_fit(one, "float16", free) <= 64, "dozens of pictures of 1B on a T4"


def test_pictures_that_fit_do_fit_and_one_more_does_not():
    for sizes in memory.KNOWN.values():
        for free in (GB, 2 * GB, 10 * GB, 60 * GB):
            n = memory.pictures_that_fit(sizes, "bfloat16", free)
            assert memory.draw_bytes(sizes, "bfloat16", n + 1) > free and (
                n == 0 or memory.draw_bytes(sizes, "bfloat16", n) <= free
            )


@pytest.mark.parametrize("prefix, dtype", [(0, "float32"), (12, "float32"), (12, "bfloat16")])
def test_activations_of_a_window_are_as_estimated(prefix, dtype):
    """Bytes that autograd really keeps for one window, counted once per storage, against the formula."""
    generator = tiny_janus(width=128, layers=4, heads=4, grid=6)
    generator.model.to(getattr(torch, dtype))
    sizes = memory.sizes_of_generator(generator)
    batch = generator.encode(["a red church on a hill"] * 2)
    tokens, past, window = torch.zeros(2, 36, dtype=torch.long), Past(), 24
    if prefix:
        with torch.no_grad():
            generator.hidden_states(batch, tokens[:, :prefix], past)
    weights = {tensor.untyped_storage().data_ptr() for tensor in generator.model.parameters()}
    kept = {}
    for name, p in generator.trunk.named_parameters():
        p.requires_grad_("self_attn" in name and "layers.0." in name)

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        h = generator.hidden_states(batch, tokens[:, prefix : prefix + window], past)
        h.square().sum().backward()
    measured = sum(size for _, size in kept.values())
    positions = 2 * (window + (batch.ids_BP.shape[1] if not prefix else 0))  # the first window reads the prompt too
    prompt = batch.ids_BP.shape[1]
    estimate = positions * sizes.layers * memory._layer_bytes(sizes, dtype) + memory.cache_bytes(
        sizes, dtype, 2, prompt + prefix + window
    )
    print(measured / estimate)
    assert 0.6 < measured / estimate < 1.05, f"{measured} bytes kept, {estimate} estimated"


class Gpu:
    """A generator as far as `memory` looks at it, with its free memory."""

    def __init__(self, generator, monkeypatch, free):
        self.__dict__ |= {
            k: getattr(generator, k) for k in ("model", "name", "num_codes", "codebook_size", "dtype", "device")
        }
        monkeypatch.setattr(device, "free_memory", lambda *_: free)


def test_the_batch_follows_free_memory(generator, monkeypatch):
    sizes = memory.sizes_of_generator(generator)
    for room, expected in ((10, 10), (1000, 64)):
        free = memory.draw_bytes(sizes, "float32", room, prompt=20)
        assert memory.batch_that_fits(Gpu(generator, monkeypatch, free), prompt=20) == expected
    assert (
        memory.decode_chunk_that_fits(
            Gpu(generator, monkeypatch, memory.RESERVE + 3 * memory.decode_bytes(sizes, "float32"))
        )
        == 3
    )
    assert memory.decode_chunk_that_fits(Gpu(generator, monkeypatch, 0)) == 1
    assert memory.batch_that_fits(Gpu(generator, monkeypatch, None)) == 64, "a system that does not tell"
    with pytest.raises(UserError, match="drawing one picture with tiny takes 0.5 GB beside the weights"):
        memory.batch_that_fits(Gpu(generator, monkeypatch, 1000))


def test_training_that_cannot_fit_says_what_would(generator, monkeypatch):
    sizes, recipe = memory.sizes_of_generator(generator), with_settings(EAR, {"windows.length": 16, "batch": 64})
    need = {w: memory.train_bytes(sizes, "float32", trained_parameters(sizes, recipe), w, 128) for w in (16, 4)}
    assert check_training(Gpu(generator, monkeypatch, need[16]), recipe) is None
    with pytest.raises(UserError, match="windows.length=4 would fit"):
        check_training(Gpu(generator, monkeypatch, need[4]), recipe)
    with pytest.raises(UserError, match="use a smaller model or a larger GPU"):
        check_training(Gpu(generator, monkeypatch, memory.RESERVE), recipe)


HINTS = [
    (20, "float32", "in bfloat16 or float16"),
    (10, "bfloat16", "janus-pro-1b in 16-bit numbers would fit, with"),
    (1, "bfloat16", "only the mini model"),
]


@pytest.mark.parametrize("free, dtype, hint", HINTS)
def test_a_model_that_cannot_fit_is_refused_before_anything_is_made(monkeypatch, free, dtype, hint):
    monkeypatch.setattr(device, "free_memory", lambda *_: free * GB)
    monkeypatch.setattr(shapes, "fill_at_random", None)  # weights may not be made
    with pytest.raises(UserError, match=f"janus-pro-7b-shape in {dtype} takes .* cpu has {free}.0 GB free; .*{hint}"):
        load_generator("janus-pro-7b-shape", device="cpu", dtype=dtype)


def test_doctor_shows_the_room(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "janus-pro-7b" in out and "draws in" in out and "trains in" in out and "here: " in out


# ------------------------------------------------------------------ number formats


def test_numbers_that_are_not_finite_are_said():
    x = torch.tensor([1.0, 70000.0])
    assert device.check_finite(x, "the teacher's states") is x
    with pytest.raises(
        UserError, match="the teacher's states: infinite or not a number in float16; use --dtype bfloat16"
    ):
        device.check_finite(x.half(), "the teacher's states")


@pytest.mark.parametrize("capability, expected", [((7, 5), "float16"), ((8, 0), "bfloat16"), ((12, 0), "bfloat16")])
def test_the_format_follows_the_gpu_with_a_reason(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    place = device.decide()
    assert str(place.dtype) == f"torch.{expected}" and "{}.{}".format(*capability) in place.reason


def test_an_unknown_dtype():
    with pytest.raises(UserError, match="unknown dtype 'fp8'"):
        load_generator("mini", dtype="fp8")


# ------------------------------------------------------------------ the authors' erasures


def released(generator, layers=(0, 1)) -> dict:
    """What the authors' code saves of `generator`, changed: modules of the first layers, and the rotary entries of
    older versions."""
    g = torch.Generator().manual_seed(0)
    state = {}
    for i in layers:
        for part in "qkvo":
            weight = generator.trunk.layers[i].self_attn.get_submodule(f"{part}_proj").weight
            state[f"layers.{i}.self_attn.{part}_proj"] = {
                "weight": (weight + 0.1 * torch.randn(weight.shape, generator=g)).bfloat16()
            }
        state[f"layers.{i}.self_attn.rotary_emb"] = {"inv_freq": torch.ones(16)}
    return state


def test_an_authors_erasure_changes_what_it_holds_and_nothing_else(generator, tmp_path):
    state = released(generator)
    torch.save(state, tmp_path / "church.pt")
    erasure = Erasure.load(tmp_path / "church.pt", generator)
    assert (
        erasure.concept == "church"
        and erasure.generator_fingerprint == generator.fingerprint
        and len(erasure.tensors) == 8
    )
    batch, tokens = generator.encode(["a red church"]), torch.zeros(1, 16, dtype=torch.long)
    base = generator.hidden_states(batch, tokens)
    with erasure.on(generator):
        erased = generator.hidden_states(batch, tokens)
        assert torch.equal(
            generator.trunk.layers[1].self_attn.o_proj.weight.bfloat16(), state["layers.1.self_attn.o_proj"]["weight"]
        )
    assert (erased - base).abs().max() > 1e-2 and torch.equal(generator.hidden_states(batch, tokens), base)
    again = Erasure.load(erasure.save(tmp_path / "kept"), generator)
    assert all(torch.equal(tensor, erasure.tensors[name]) for name, tensor in again.tensors.items())
    with pytest.raises(UserError, match="made for a model with fingerprint"):
        erasure.check(tiny_janus(seed=9))


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in a file was run')",)


def test_what_is_no_authors_erasure_of_this_model_gets_one_line(generator, tmp_path):
    file = tmp_path / "x.pt"

    def line(content) -> str:
        torch.save(content, file)
        with pytest.raises(UserError) as error:
            Erasure.load(file, generator)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "has layers 0-2; it was made for another model" in line(
        {"layers.4.self_attn.q_proj": {"weight": torch.zeros(64, 64)}}
    )
    assert "(128x128 and 64x64); it was made for a model of another size" in line(
        {"layers.0.self_attn.q_proj": {"weight": torch.zeros(128, 128)}}
    )
    assert "changes layers.0.self_attn.q_proj.bias, which tiny does not have" in line(
        {"layers.0.self_attn.q_proj": {"bias": torch.zeros(64)}}
    )
    assert "numbers that are not finite" in line(
        {"layers.0.self_attn.q_proj": {"weight": torch.full((64, 64), torch.nan)}}
    )
    for other in (
        {"unet.down": {"weight": torch.zeros(2)}},
        {"layers.0.self_attn.q_proj": torch.zeros(64, 64)},
        [torch.zeros(2)],
        {},
    ):
        assert "is no erasure of the EAR authors" in line(other)
    assert "refused" in line({"layers.0.self_attn.q_proj": {"weight": Evil()}})
    torch.save(released(generator), file)
    with pytest.raises(UserError, match="load it together with a generator"):
        Erasure.load(file)
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UserError, match="broken"):
        Erasure.load(file, generator)
    with pytest.raises(UserError, match="there is no such file"):
        Erasure.load(tmp_path / "nowhere.pt", generator)


@pytest.mark.skipif(not (ROOT / "data" / "mini" / "janus").is_dir(), reason="data/mini/janus is not there")
def test_the_command_line_takes_an_authors_erasure(mini, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red church on a hill\n")
    torch.save(released(mini), tmp_path / "church.pt")
    line = ["generate", "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*line, "--erasure", str(tmp_path / "church.pt")]) == 0
    row = json.loads((tmp_path / "out" / "index.jsonl").read_text())
    assert row["erasure"] == "ear-authors" and row["fingerprint"].startswith(f"{mini.fingerprint}+")
    capsys.readouterr()
    torch.save(released(tiny_janus(width=96, heads=3)), tmp_path / "other.pt")
    assert main([*line, "--erasure", str(tmp_path / "other.pt")]) == 2
    assert "another size" in capsys.readouterr().err
    assert main([*line, "--erasure", str(tmp_path / "missing.pt")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
