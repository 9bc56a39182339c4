"""Text-to-image autoregressive models behind one interface: `load_generator` finds one, `draw` makes pictures
with it."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ..prompts import default_keys
from .load import PROFILES, load_generator

if TYPE_CHECKING:
    import numpy as np

    from ..erasure.store import Erasure
    from .base import Generator

__all__ = ["PROFILES", "default_keys", "draw", "load_generator", "picture_seeds"]


def picture_seeds(seed: int, keys: list[str]) -> list[int]:
    """One 62-bit seed a picture, from the run's seed and the picture's key."""
    return [int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big") >> 2 for key in keys]


def draw(
    generator: Generator,
    prompts: str | list[str],
    seed: int = 0,
    keys: list[str] | None = None,
    guidance: float | None = None,
    temperature: float | None = None,
    erasure: Erasure | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Draw a picture for each of `prompts`, with a generator of either family.

    A picture depends on (seed, key, model, erasure) and on nothing else.

    Args:
        generator: what `load_generator` gives.
        prompts: one prompt, or several.
        seed: of the run.
        keys: one name a picture, from which its noise is made; by default its prompt and which occurrence it is.
        guidance, temperature, batch_size: as in `Generator.sample`; None for the model's own.
        erasure: is switched on while the pictures are drawn.
        progress: show a bar on stderr.

    Returns:
        uint8 [N, H, W, 3].
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    seeds = picture_seeds(seed, keys or default_keys(prompts))
    with erasure.on(generator) if erasure is not None else nullcontext():
        codes = generator.sample(prompts, seeds, guidance, temperature, batch_size, progress)
    return generator.decode(codes)
