"""Finding and loading a generator: by profile, hub id or folder.

Weights go from safetensors files straight to the device, one tensor at a time, in the dtype they will have there:
neither the CPU nor the GPU ever holds them twice, and what is not needed is never read. Before the first one is read it
is known what the model will take and whether that fits (`earlib/memory.py`). What a family's weights mean is in
`janus.py` and `emu3.py`; the authors' own layout is read by `convert.py` only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .. import ROOT, memory
from ..errors import UserError, nearest
from ..runs import read_json

if TYPE_CHECKING:
    from ..device import Placement
    from .base import Generator, NextToken

PROFILES = {  # profile -> where its weights are; a shape has none
    "mini": str(ROOT / "data" / "mini" / "janus"),
    "mini-var": str(ROOT / "data" / "mini-var"),  # a code is 16 bits
    "mini-var-vq": str(ROOT / "data" / "mini-var-vq"),  # a code is a row of a codebook
    "janus-pro-1b": "deepseek-community/Janus-Pro-1B",
    "janus-pro-7b": "deepseek-community/Janus-Pro-7B",
    "janus-pro-1b-shape": "",
    "janus-pro-7b-shape": "",
}
MAKERS = {"mini": "train", "mini-var": "train_var", "mini-var-vq": "train_var"}  # what in earlib.miniworld trains it
INFINITY = "infinity_*.pth"  # files that only a folder of Infinity holds
RECORD = "conversion.json"  # written by `convert` before the first weight; config.json comes last
NEEDED = ("*.json", "*.jinja", "*.safetensors", "tokenizer.model")  # of a hub repository
SMALL = 10**9  # bytes of weights below which nothing is said, and below which leaving parts out is not worth it


@dataclass(frozen=True)
class Family:
    """How one of transformers' model types becomes a `Generator`."""

    transformers_class: str
    module: str  # of this package
    generator_class: str
    caption_parts: tuple[str, ...]  # prefixes of tensors that only captions need
    picture: Callable  # config -> (image tokens of a picture, entries of the codebook)
    stored_as: tuple[
        tuple[str, str], ...
    ] = ()  # prefixes of stored names, and of the class's own: transformers renames on loading and back on saving


FAMILIES = {
    "janus": Family(
        "JanusForConditionalGeneration",
        "janus",
        "JanusGenerator",
        ("model.vision_model.", "model.aligner.", "lm_head."),
        lambda config: (config.vq_config.num_patches**2, config.vq_config.num_embeddings),
    ),
    "emu3": Family(
        "Emu3ForConditionalGeneration",
        "emu3",
        "Emu3Generator",
        (),
        lambda config: (getattr(config, "image_area", 720 * 720) // 64, config.vq_config.codebook_size),
        (
            ("text_model.lm_head.", "lm_head."),
            ("text_model.model.", "model.text_model."),
            ("vqmodel.", "model.vqmodel."),
        ),
    ),
}


def load_generator(
    model: str | Path = "mini", device: str | None = None, dtype: str | None = None, parts: str | None = None
) -> Generator:
    """Load the generator called `model`, of either family.

    Args:
        model: a profile, a hub id (`owner/name`), or a folder: in transformers' layout (Janus, Emu3), written by
            `save_pretrained` of a next-scale model, or with Infinity's own files.
        device: by default what `device.decide` finds best.
        dtype: the same.
        parts: "all", or "draw" to leave out what only captions need (a Janus's vision tower, aligner and text head). By
            default large models on a GPU are loaded to draw. Next-scale models have nothing to leave out.

    Returns:
        A `NextToken` or a `NextScale`. The profiles `janus-pro-*-shape` have the true size and random weights: for speed
        and memory only.

    Raises:
        UserError: there is no such model, it is broken, or it cannot fit into free memory; nothing has been loaded then.
    """
    from ..device import decide

    model = str(model)
    if parts not in (None, "all", "draw"):
        raise UserError(f"unknown parts '{parts}'; {nearest(parts, ('all', 'draw'))}")
    place = decide(device, dtype)
    if model in PROFILES and not PROFILES[model]:
        from .files.shapes import build_shape

        return build_shape(model, place, parts)
    folder = _locate(model)
    if folder and any(folder.glob(INFINITY)):
        from .files.infinity import load_infinity

        return load_infinity(folder, device=device, dtype=dtype)
    about = folder or _download(PROFILES.get(model, model), ("*.json",))
    if _has_schedule(about):
        from .var.model import load_nextscale

        return load_nextscale(folder or _download(model, NEEDED), model, _profile(model), place)
    return _load_janus_or_emu3(folder, about, model, place, parts)


def _load_janus_or_emu3(folder: Path | None, about: Path, model: str, place: Placement, parts: str | None) -> NextToken:
    """A model of transformers' classes: from `folder`, or from the hub if only its JSON files are there, in `about`."""
    config, family = read_config(about, model)
    empty = empty_model(config, family)
    sizes = memory.sizes_of(empty, *family.picture(config), family.caption_parts)
    parts = check_memory(model, sizes, place, parts)
    folder = folder or _download(PROFILES.get(model, model), NEEDED)
    left_out = family.caption_parts if parts == "draw" else ()
    hashes = fill(empty, folder, place, left_out, family.stored_as)
    processor = _from_folder(folder, model, empty, place)

    home = import_module(f"{__package__}.{family.module}")
    generator = getattr(home, family.generator_class)(empty, processor, name=model, profile=_profile(model))
    not_hashed = getattr(home, "NOT_HASHED", ())
    generator.fingerprint = import_module(f"{__package__}.base").combined(
        h for name, h in hashes.items() if not name.startswith(not_hashed)
    )
    return generator


def family_of(model: str | Path) -> str:
    """ "next-token" or "next-scale": the family of a model that is not loaded yet, by what is on this machine; a hub id that
    was not fetched counts as next-token."""
    folder = Path(PROFILES.get(str(model), model))
    return (
        "next-scale"
        if any(folder.glob(INFINITY)) or _has_schedule(folder) or "var" in MAKERS.get(str(model), "")
        else "next-token"
    )


def _has_schedule(folder: Path) -> bool:
    """Whether the config.json in `folder` is that of a next-scale model of this library."""
    file = folder / "config.json"
    flags = read_json(file) if file.is_file() else None
    return isinstance(flags, dict) and "schedule" in flags


# ------------------------------------------------------------------ where it is


def _locate(model: str) -> Path | None:
    """The model's folder; None if it is on the hub."""
    source = PROFILES.get(model, model)
    folder = Path(source)
    if model in MAKERS and not (folder / "config.json").is_file():
        where = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        raise UserError(
            f"the model '{model}' is missing from {where}; make it as said by: python -m earlib.miniworld.{MAKERS[model]} --help"
        )
    if not folder.exists():
        if model not in PROFILES and (source.count("/") != 1 or source.startswith(("/", "."))):
            raise UserError(
                f"no model '{model}': not a profile ({nearest(model, PROFILES)}), not a folder, not a hub id (owner/name)"
            )
        return None
    if (folder / "config.json").is_file() or any(folder.glob(INFINITY)):
        return folder
    if (folder / RECORD).is_file():
        raise UserError(
            f"{folder} holds a conversion that was interrupted; go on with: python -m earlib convert SRC {folder}"
        )
    raise UserError(f"{folder} is no model folder: it holds no config.json; give a folder written by save_pretrained")


def _profile(model: str) -> str:
    """The profile that `model` is, by name, by hub id or by folder; "custom" for others."""
    known = {
        Path(where).resolve() if Path(where).exists() else where: name for name, where in PROFILES.items() if where
    }
    return model if model in PROFILES else known.get(Path(model).resolve() if Path(model).exists() else model, "custom")


def _download(source: str, patterns: tuple[str, ...]) -> Path:
    """The local copy of a hub repository's files that match `patterns`; what is in the hub's cache is not fetched
    again."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns)))
    except RepositoryNotFoundError:
        raise UserError(
            f"no model '{source}' on the hub, or it is private; give a folder, or a hub id such as {PROFILES['janus-pro-1b']}"
        ) from None
    except Exception as error:  # its client has errors of its own, and those of two libraries below it
        raise UserError(
            f"'{source}' is no folder here, and the hub cannot be reached ({type(error).__name__}); where it can, run: "
            f"hf download {source} --local-dir FOLDER, then copy FOLDER here and give it as the model"
        ) from None


def read_config(folder: Path, model: str):
    """(transformers' configuration, family) of a model folder."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():  # a hub repository without one
        raise UserError(f"cannot load '{model}': it has no config.json")
    about = read_json(folder / "config.json")
    kind = about.get("model_type") if isinstance(about, dict) else None
    if kind == "multi_modality":
        raise UserError(
            f"{model} is in the layout of deepseek-ai's own code; convert it once with: python -m earlib convert {model} FOLDER, and load FOLDER"
        )
    if kind not in FAMILIES:
        raise UserError(
            f"{model} is a '{kind}' model; earlib draws with Janus and Emu3 models (model_type {' or '.join(map(repr, FAMILIES))})"
        )
    try:
        return AutoConfig.from_pretrained(folder), FAMILIES[kind]
    except Exception as error:  # its own classes of validation errors
        raise UserError(f"cannot load '{model}': wrong config.json ({' '.join(str(error).split())[:200]})") from error


# ------------------------------------------------------------------ what it takes


def check_memory(model: str, sizes: memory.Sizes, place, parts: str | None) -> str:
    """Which parts to load; UserError if there is no room for them and for drawing one picture. Says what a large model
    will take."""
    from ..device import free_memory

    free = free_memory(place.device)
    if parts is None:
        spare = memory.bytes_of(place.dtype) * sizes.caption_parameters
        parts = "draw" if place.device.type == "cuda" and spare > SMALL // 10 else "all"
    weights = memory.weight_bytes(sizes, place.dtype, parts)
    need = memory.to_draw(sizes, place.dtype, 1, parts)
    dtype = str(place.dtype).removeprefix("torch.")
    if free is not None and need > free:
        raise UserError(
            f"{model} in {dtype} takes {memory.gigabytes(need)} to draw one picture, and {place.device} has {memory.gigabytes(free)} free; "
            f"{memory.advice(sizes, place.dtype, free)}"
        )
    if weights > SMALL:
        room = f" of {memory.gigabytes(free)} free" if free is not None else ""
        print(f"{model} on {place.reason}; weights {memory.gigabytes(weights)}{room}", file=sys.stderr)
    return parts


# ------------------------------------------------------------------ weights


def empty_model(config, family: Family):
    """transformers' model of `config` on the meta device: all shapes, no memory."""
    import torch
    import transformers

    with torch.device("meta"):
        return getattr(transformers, family.transformers_class)(config).eval()


def drop(model, prefixes: tuple[str, ...]) -> None:
    """Take the submodules called `prefixes` (with their final dot) out of `model`."""
    for prefix in prefixes:
        parent, _, leaf = prefix.rstrip(".").rpartition(".")
        setattr(model.get_submodule(parent), leaf, None)


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a folder; UserError if one is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    else:
        files = [folder / "model.safetensors"]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        there = len(files) - len(missing)
        raise UserError(
            f"{folder}: {missing[0]} is missing ({there} of {len(files)} files of weights are there); fetch it again"
        )
    return files


def fill(model, folder: Path, place, left_out: tuple[str, ...] = (), stored_as=()) -> dict[str, bytes]:
    """Give an empty model its weights from `folder`, on the device and in the dtype of `place`; returns each stored
    tensor's hash by name.

    Tensors whose names begin with one of `left_out` are not read, and their modules are dropped. Names are those of the
    model's class; `stored_as` gives the prefixes that differ in files.
    """
    from safetensors import SafetensorError, safe_open

    from .base import tensor_hash

    drop(model, left_out)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    files = shards(folder)
    hashes = {}
    for file in files:  # all headers before the first tensor: a file that was cut short is found at once
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: broken or cut short ({error}); fetch it again") from None
    for file in files:
        with safe_open(file, "pt", device=str(place.device)) as tensors:
            for stored in tensors.keys():
                name = next(
                    (own + stored.removeprefix(prefix) for prefix, own in stored_as if stored.startswith(prefix)),
                    stored,
                )
                if name not in wanted:
                    continue
                tensor = tensors.get_tensor(stored)
                if tensor.shape != wanted[name]:
                    raise UserError(
                        f"{file}: {name} has shape {list(tensor.shape)}, but config.json makes it {list(wanted[name])}; they do not belong together"
                    )
                hashes[name] = tensor_hash(name, tensor)
                # a copy even where nothing changes: what safetensors gives on a CPU is the file itself, mapped into
                # memory
                put(model, name, tensor.to(place.dtype, copy=True) if tensor.is_floating_point() else tensor.clone())
    if "lm_head.weight" in wanted.keys() - hashes.keys() and model.config.tie_word_embeddings:  # saved once for both
        model.lm_head.weight = model.get_input_embeddings().weight
        hashes["lm_head.weight"] = b""
    missing = sorted(wanted.keys() - hashes.keys())
    if missing:
        raise UserError(f"cannot load '{folder}': {len(missing)} tensors are missing, the first is {missing[0]}")
    settle(model, place.device)
    return hashes


def put(model, name: str, tensor) -> None:
    """Make `tensor` the parameter or buffer called `name`."""
    import torch

    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if leaf in module._parameters:
        module._parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor


def settle(model, device) -> None:
    """Compute the buffers that no file stores (rotary frequencies, position numbers), which are still on the meta
    device."""
    import torch

    for module in model.modules():
        empty = [name for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta]
        for name in empty:
            module._buffers[name] = torch.empty_like(module._buffers[name], device=device)
        if empty:
            model._init_weights(module)


def _from_folder(folder: Path, model: str, loaded, place):
    """The processor; and the generation settings and dtype, which go into `loaded`."""
    from transformers import AutoProcessor, GenerationConfig

    try:
        processor = AutoProcessor.from_pretrained(folder)
        if (folder / "generation_config.json").is_file():
            loaded.generation_config = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot load '{model}': {str(error).strip().splitlines()[0]}") from error
    loaded.config.dtype = place.dtype
    return processor
