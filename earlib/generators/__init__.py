"""Text-to-image autoregressive models behind one interface: `load_generator` finds one, `draw` makes pictures with it."""

from __future__ import annotations

import hashlib

from .load import PROFILES, load_generator

__all__ = ["PROFILES", "default_keys", "draw", "load_generator", "picture_seeds"]


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
    generator,
    prompts,
    seed: int = 0,
    keys=None,
    guidance=None,
    temperature: float | None = None,
    erasure=None,
    batch_size: int | None = None,
    progress: bool = True,
):
    """Pictures of `prompts`: uint8 [N, H, W, 3]. A picture depends only on (seed, key, model, erasure); keys default to
    text and occurrence.

    `guidance` and `temperature` default to the model's own.
    """
    from contextlib import nullcontext

    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    seeds = picture_seeds(seed, keys or default_keys(prompts))
    with erasure.on(generator) if erasure is not None else nullcontext():
        tokens = generator.sample(
            prompts,
            seeds,
            guidance,
            generator.temperature if temperature is None else temperature,
            batch_size,
            progress,
        )
    return generator.decode(tokens)
