"""Finding and loading a generator of either family: by profile, hub id or folder.

Before the first weight is read it is known what the model will take and whether that fits (`earlib/memory.py`); how
weights are read is in `weights.py`. The layout of deepseek-ai's own code is read by `files/convert.py` only.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import memory
from ..errors import UserError, nearest
from ..runs import read_json
from .profiles import (
    FAMILIES,
    INFINITY,
    MAKERS,
    MERGED,
    NEEDED,
    PROFILES,
    RECORD,
    Family,
    check_memory,
    check_transformers,
    not_made,
)

if TYPE_CHECKING:
    from ..device import Placement
    from .base import Generator, NextToken


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
        A `NextToken` or a `NextScale`. The profiles `janus-pro-*-shape` have the true size and random weights, for
        speed and memory only.

    Raises:
        UserError: there is no such model, it is broken, or it cannot fit into free memory; nothing has been loaded
            then.
    """
    from ..device import decide

    model = str(model)
    if parts not in (None, "all", "draw"):
        raise UserError(f"unknown parts '{parts}'; {nearest(parts, ('all', 'draw'))}")
    check_transformers(model)
    place = decide(device, dtype)
    if model in PROFILES and not PROFILES[model]:
        from .files.shapes import build_shape

        return build_shape(model, place, parts)
    folder = locate(model)
    if folder and any(folder.glob(INFINITY)):
        from .files.infinity import load_infinity

        return load_infinity(folder, device=device, dtype=dtype)
    about = folder or _download(PROFILES.get(model, model), ("*.json",))
    if _has_schedule(about):
        from .var.model import load_nextscale

        return load_nextscale(folder or _download(model, NEEDED), model, _profile(model), place)
    return _load_next_token(folder, about, model, place, parts)


def family_of(model: str | Path | Generator) -> str:
    """Say "next-token" or "next-scale" of a generator, or of what `load_generator` would load by a name, by what is on
    this machine; a hub id counts as next-token."""
    if not isinstance(model, (str, Path)):
        from .base import NextScale

        return "next-scale" if isinstance(model, NextScale) else "next-token"
    folder = Path(PROFILES.get(str(model), model))
    var = "var" in str(MAKERS.get(str(model), "")).split() or any(folder.glob(INFINITY)) or _has_schedule(folder)
    return "next-scale" if var else "next-token"


def _has_schedule(folder: Path) -> bool:
    """Whether the config.json in `folder` is that of a next-scale model of this library."""
    file = folder / "config.json"
    flags = read_json(file) if file.is_file() else None
    return isinstance(flags, dict) and "schedule" in flags


# ------------------------------------------------------------------ where it is


def locate(model: str) -> Path | None:
    """The model's folder; None if it is on the hub, or a shape.

    Raises:
        UserError: there is no such model, or its folder holds none.
    """
    source = PROFILES.get(model, model)
    folder = Path(source)
    if line := not_made(model):
        raise UserError(line)
    if not source:
        return None
    if not folder.exists():
        if pickled := re.fullmatch(r"deepseek-ai/Janus-Pro-(\w+)", source, re.IGNORECASE):
            instead = f"the same for transformers is deepseek-community/Janus-Pro-{pickled[1].upper()}"
            convert = "or fetch it and run: python -m earlib convert FOLDER TARGET"
            raise UserError(f"{model} holds pickles of another class, which are not loaded; {instead}; {convert}")
        if model not in PROFILES and (source.count("/") != 1 or source.startswith(("/", "."))):
            line = f"no model '{model}': not a profile ({nearest(model, PROFILES)}), not a folder"
            raise UserError(f"{line}, not a hub id (owner/name)")
        return None
    if (folder / "config.json").is_file() or any(folder.glob(INFINITY)):
        return folder
    if (folder / RECORD).is_file():
        line = f"{folder} holds a conversion that was interrupted"
        raise UserError(f"{line}; go on with: python -m earlib convert SRC {folder}")
    raise UserError(f"{folder} is no model folder: it holds no config.json; give a folder written by save_pretrained")


def _profile(model: str) -> str:
    """The profile that `model` is, by name, by hub id or by folder, or that an erasure was merged into; "custom" for
    others."""
    if (merged := Path(model) / MERGED).is_file():
        about = read_json(merged)
        return about["profile"] if isinstance(about, dict) and about.get("profile") in PROFILES else "custom"
    same = lambda where: str(Path(where).resolve()) if Path(where).exists() else where
    known = {same(where): name for name, where in PROFILES.items() if where}
    return model if model in PROFILES else known.get(same(model), "custom")


def _download(source: str, patterns: tuple[str, ...]) -> Path:
    """The local copy of a hub repository's files that match `patterns`; what is in the hub's cache is not fetched
    again."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns)))
    except RepositoryNotFoundError:
        line = f"no model '{source}' on the hub, or it is private"
        raise UserError(f"{line}; give a folder, or a hub id such as {PROFILES['janus-pro-1b']}") from None
    except Exception as error:  # its client has errors of its own, and those of two libraries below it
        raise UserError(
            f"'{source}' is no folder here, and the hub cannot be reached ({type(error).__name__}); where it can, run: "
            f"hf download {source} --local-dir FOLDER, then copy FOLDER here and give it as the model"
        ) from None


# ------------------------------------------------------------------ models of transformers' classes


def _load_next_token(folder: Path | None, about: Path, model: str, place: Placement, parts: str | None) -> NextToken:
    """A Janus or Emu3: from `folder`, or from the hub where only its JSON files have been fetched, into `about`."""
    from .weights import combined, empty_model, fill

    config, family = read_config(about, model)
    empty = empty_model(config, family)
    sizes = memory.sizes_of(empty, *family.picture(config), family.caption_parts)
    parts = check_memory(model, sizes, place, parts)
    folder = folder or _download(PROFILES.get(model, model), NEEDED)
    hashes = fill(empty, folder, place, family.caption_parts if parts == "draw" else (), family.stored_as)
    processor = _processor(folder, model, empty)
    empty.config.dtype = place.dtype

    module, kind = family.generator.split(".")
    home = import_module(f"{__package__}.{module}")
    generator = getattr(home, kind)(empty, processor, name=model, profile=_profile(model))
    left_out = getattr(home, "NOT_HASHED", ())
    generator.fingerprint = combined(digest for name, digest in hashes.items() if not name.startswith(left_out))
    return generator


def read_config(folder: Path, model: str) -> tuple[Any, Family]:
    """(transformers' configuration, family) of a model folder.

    Raises:
        UserError: it has none, one of another model, or one that transformers cannot read.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():  # a hub repository without one
        raise UserError(f"cannot load '{model}': it has no config.json")
    about = read_json(folder / "config.json")
    kind = about.get("model_type") if isinstance(about, dict) else None
    if kind == "multi_modality":
        line = f"{model} is in the layout of deepseek-ai's own code"
        raise UserError(f"{line}; convert it once with: python -m earlib convert {model} FOLDER, and load FOLDER")
    if kind not in FAMILIES:
        raise UserError(
            f"{model} is a '{kind}' model; earlib draws with Janus and Emu3 models (model_type "
            f"{' or '.join(map(repr, FAMILIES))})"
        )
    try:
        return _settled(AutoConfig.from_pretrained(folder)), FAMILIES[kind]
    except Exception as error:  # its own classes of validation errors
        raise UserError(f"cannot load '{model}': wrong config.json ({' '.join(str(error).split())[:200]})") from error


def _settled(config: Any) -> Any:
    """A configuration without what others set for themselves and drawing cannot do with: a kernel of attention that
    must be installed, tuples for named outputs."""
    if getattr(config, "_attn_implementation", None) not in (None, "sdpa", "eager"):
        config._attn_implementation = "sdpa"
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))):
        if getattr(part, "return_dict", True) is False:
            part.return_dict = True
    return config


# JSON files of a model folder that hold an object
OBJECTS = "generation_config preprocessor_config processor_config special_tokens_map tokenizer tokenizer_config".split()


def _check_objects(folder: Path) -> None:
    """UserError if one of them is there and broken, by its name; transformers would speak of a list."""
    for file in (folder / f"{name}.json" for name in OBJECTS):
        if file.is_file() and not isinstance(read_json(file), dict):
            raise UserError(f"{file}: is no JSON object; fetch it again")


def _processor(folder: Path, model: str, loaded: Any) -> Any:
    """transformers' processor of a folder; its generation settings go into the model `loaded`."""
    from transformers import AutoProcessor, GenerationConfig

    _check_objects(folder)
    try:
        processor = AutoProcessor.from_pretrained(folder)
        if (folder / "generation_config.json").is_file():
            loaded.generation_config = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot load '{model}': {str(error).strip().splitlines()[0]}") from error
    return processor
