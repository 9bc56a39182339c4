"""Text-to-image autoregressive models behind one interface: `load_generator` finds one, `draw` makes pictures with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .. import ROOT
from ..errors import UserError, nearest

PROFILES = {  # profile -> where its weights are
    "mini": str(ROOT / "data" / "mini" / "janus"),
    "janus-pro-1b": "deepseek-community/Janus-Pro-1B",
    "janus-pro-7b": "deepseek-community/Janus-Pro-7B",
}


def load_generator(model: str = "mini", device: str | None = None, dtype: str | None = None):
    """The generator called `model`: a profile, a hub id (`owner/name`) or a folder in transformers' layout.

    `device` and `dtype` default to what `device.decide` finds best. Raises UserError with one line if there is no such model.
    """
    source = PROFILES.get(model, model)
    folder = Path(source)
    if model not in PROFILES and not folder.exists() and "/" not in model:
        raise UserError(f"no model '{model}': not a profile ({nearest(model, PROFILES)}), not a folder, not a hub id (owner/name)")
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no model folder: it holds no config.json; give a folder written by save_pretrained")
    if model == "mini" and not folder.exists():
        raise UserError("the mini model is missing from data/mini/janus; make it with: python -m earlib.miniworld.train")

    from transformers import AutoConfig, AutoProcessor, JanusForConditionalGeneration
    from transformers.utils import logging

    from ..device import decide
    from .janus import JanusGenerator

    place = decide(device, dtype)
    logging.disable_progress_bar()
    try:
        kind = AutoConfig.from_pretrained(source).model_type
        if kind != "janus":
            raise UserError(f"{model} is a '{kind}' model; earlib draws with Janus models (model_type 'janus')")
        loaded, info = JanusForConditionalGeneration.from_pretrained(source, dtype=place.dtype, output_loading_info=True)
        processor = AutoProcessor.from_pretrained(source)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"cannot load '{model}': {str(error).strip().splitlines()[0]}") from error
    except Exception as error:  # safetensors raises its own class for a truncated file
        if type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"cannot load '{model}': broken weights ({error})") from error
    if info["missing_keys"]:
        raise UserError(f"cannot load '{model}': {len(info['missing_keys'])} tensors are missing, the first is {sorted(info['missing_keys'])[0]}")
    known = {Path(v).resolve() if Path(v).exists() else v: k for k, v in PROFILES.items()}
    profile = known.get(folder.resolve() if folder.exists() else source, "custom")
    return JanusGenerator(loaded.to(place.device), processor, name=model, profile=profile)


def picture_seeds(seed: int, keys: list[str]) -> list[int]:
    """One 62-bit seed a picture, from the run's seed and the picture's key."""
    return [int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big") >> 2 for key in keys]


def default_keys(prompts: list[str]) -> list[str]:
    """`text#occurrence` for each prompt, so that a prompt given twice gives two pictures."""
    seen: dict[str, int] = {}
    keys = []
    for prompt in prompts:
        keys.append(f"{prompt}#{seen.get(prompt, 0)}")
        seen[prompt] = seen.get(prompt, 0) + 1
    return keys


def draw(
    generator, prompts, seed: int = 0, keys=None, guidance=None, temperature: float = 1.0, erasure=None, batch_size: int = 64, progress: bool = True
):
    """Pictures of `prompts`: uint8 [N, H, W, 3]. A picture depends only on (seed, key, model, erasure); keys default to text and occurrence."""
    from contextlib import nullcontext

    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    seeds = picture_seeds(seed, keys or default_keys(prompts))
    with erasure.on(generator) if erasure is not None else nullcontext():
        tokens = generator.sample(prompts, seeds, guidance, temperature, batch_size, progress)
    return generator.decode(tokens)
