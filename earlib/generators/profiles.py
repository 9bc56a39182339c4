"""What models there are: profiles and where their weights come from, transformers' model types, and whether one fits
into memory."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import DATA, ROOT, memory
from ..errors import UserError

if TYPE_CHECKING:
    from ..device import Placement

PROFILES = {  # profile -> where its weights are; a shape has none
    "mini": str(DATA / "mini" / "janus"),
    "mini-var": str(DATA / "mini" / "var"),
    "mini-emu3": str(DATA / "mini" / "emu3"),
    "mini-never": str(DATA / "mini" / "janus-never-church-nudity-vangogh"),  # an oracle: it was never shown these three
    "janus-pro-1b": "deepseek-community/Janus-Pro-1B",
    "janus-pro-7b": "deepseek-community/Janus-Pro-7B",
    "janus-pro-1b-shape": "",
    "janus-pro-7b-shape": "",
}
MAKERS = {  # what `python -m earlib.miniworld.make --out data/mini` is told to make it
    "mini": "tokenizer eye janus",
    "mini-var": "var-tokenizer var",
    "mini-emu3": "emu3-tokenizer emu3",
    "mini-never": "--without church,nudity,vangogh",
}
INFINITY = "infinity_*"  # files and folders that only a folder of Infinity holds
RECORD = "conversion.json"  # written by `convert` before the first weight; config.json comes last
MERGED = "merged.json"  # written beside a model into which an erasure was merged: what into what
NEEDED = ("*.json", "*.jinja", "*.safetensors", "tokenizer.model")  # of a hub repository
SMALL = 10**9  # bytes of weights below which nothing is said, and below which leaving parts out is not worth it
OLDEST = (5, 15)  # transformers that reads these configurations


@dataclass(frozen=True)
class Family:
    """How one of transformers' model types becomes a `NextToken`.

    Attributes:
        transformers_class: its class in transformers.
        generator: where its class is in this package, "module.class".
        caption_parts: prefixes of the names of tensors that only captions need.
        picture: configuration -> (image tokens of a picture, entries of the codebook).
        stored_as: (prefix of stored names, prefix of the class's own), where transformers renames on loading.
    """

    transformers_class: str
    generator: str
    caption_parts: tuple[str, ...]
    picture: Callable[[Any], tuple[int, int]]
    stored_as: tuple[tuple[str, str], ...] = ()


FAMILIES = {
    "janus": Family(
        "JanusForConditionalGeneration",
        "janus.JanusGenerator",
        ("model.vision_model.", "model.aligner.", "lm_head."),
        lambda config: (config.vq_config.num_patches**2, config.vq_config.num_embeddings),
    ),
    "emu3": Family(
        "Emu3ForConditionalGeneration",
        "emu3.Emu3Generator",
        (),
        lambda config: (getattr(config, "image_area", 720 * 720) // 64, config.vq_config.codebook_size),
        (
            ("text_model.lm_head.", "lm_head."),
            ("text_model.model.", "model.text_model."),
            ("vqmodel.", "model.vqmodel."),
        ),
    ),
}


def not_made(model: str) -> str | None:
    """What to say of a mini model whose folder has no config.json, though it may have a log. None for one that
    is there, and for what is no mini model."""
    folder = Path(PROFILES[model]) if model in MAKERS else None
    if folder is None or (folder / "config.json").is_file():
        return None
    where = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    how = f"make it with: python -m earlib.miniworld.make --out {where.parent} {MAKERS[model]}"
    return f"the model '{model}' is missing from {where}; {how}"


def renewal(version: str) -> str | None:
    """The command that brings a newer transformers, if `version` is one that cannot read these models."""
    old = tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST
    return f"pip install -U 'transformers>={'.'.join(map(str, OLDEST))}'" if old else None


def check_transformers(model: str) -> None:
    """UserError if the transformers that is installed is too old to read any model; it would blame its files."""
    version = metadata.version("transformers")
    if command := renewal(version):
        raise UserError(f"transformers {version} is too old for '{model}'; run: {command}")


def check_memory(model: str, sizes: memory.Sizes, place: Placement, parts: str | None) -> str:
    """Decide which parts to load, and say on stderr what a large model will take.

    Raises:
        UserError: there is no room for the weights and for drawing one picture.
    """
    from ..device import free_memory

    free = free_memory(place.device)
    if parts is None:
        spare = memory.bytes_of(place.dtype) * sizes.caption_parameters
        parts = "draw" if place.device.type == "cuda" and spare > SMALL // 10 else "all"
    weights, need = memory.weight_bytes(sizes, place.dtype, parts), memory.to_draw(sizes, place.dtype, 1, parts)
    dtype = str(place.dtype).removeprefix("torch.")
    if free is not None and need > free:
        raise UserError(
            f"{model} in {dtype} takes {memory.gigabytes(need)} to draw one picture, and {place.device} has "
            f"{memory.gigabytes(free)} free; "
            f"{memory.advice(sizes, place.dtype, free)}"
        )
    if weights > SMALL:
        room = f" of {memory.gigabytes(free)} free" if free is not None else ""
        print(f"{model} on {place.reason}; weights {memory.gigabytes(weights)}{room}", file=sys.stderr)
    return parts
