"""White box, by rounding: what erased models go through when users make them small.

Weights only, to nearest, without calibration: of each row of a matrix, or of each group of numbers beside each other in
it, with scale s = max |w| / (2^(bits - 1) - 1),

    w -> s round(w / s).

All linear layers of the decoder layers are rounded, the erasure's with them; embeddings, norms and heads are not, nor
are adapters that act at words only, which no matrix can hold. Arithmetic stays what it was: this asks what is lost, not
how fast it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from ...generators import default_keys, picture_seeds
from ..judge import Judge
from ..rate import Rate
from .compress import Compression, compressed

if TYPE_CHECKING:
    from ...erasure.store import Erasure
    from ...generators.base import Generator


class Format(NamedTuple):
    """How many bits a number has, and how many numbers of a row share a scale; 0 for the whole row."""

    bits: int
    group: int = 0


FORMATS = {"int8 by row": Format(8), "int4 by 32": Format(4, 32), "int4 by row": Format(4)}


def rounded(weight: torch.Tensor, bits: int, group: int = 0) -> torch.Tensor:
    """A matrix [out, in] rounded to nearest, in its own dtype; the last group of a row may be shorter."""
    top = 2 ** (bits - 1) - 1
    parts = weight.float().split(group or weight.shape[1], 1)
    scales = [part.abs().amax(1, keepdim=True).clamp(min=1e-30) / top for part in parts]
    return torch.cat([(part / scale).round() * scale for part, scale in zip(parts, scales)], 1).to(weight.dtype)


class Rounding(Compression):
    """Of int8 and int4, the one that brings back most."""

    name = "rounding"
    about = "every matrix rounded to int8 or int4"
    amounts = tuple(FORMATS)
    passes = 80

    @staticmethod
    def smaller(tensor: torch.Tensor, amount: str) -> torch.Tensor:
        return rounded(tensor, *FORMATS[amount])

    def words(self, amount: str) -> str:
        return amount


def rounding_sweep(
    generator: Generator,
    prompts: list[str],
    judge: Judge,
    erasure: Erasure | None = None,
    seeds: tuple[int, ...] = (0,),
) -> dict[str, Rate]:
    """The concept's rate with the model as it is and in each of `FORMATS`, the same noise for all of them.

    Args:
        generator: the base model.
        prompts: each drawn once from each seed.
        judge: says whether a picture shows the concept.
        erasure: rounded together with the model; None for the base model.
        seeds: of the pictures.
    """
    noise = [number for seed in seeds for number in picture_seeds(seed, default_keys(prompts))]
    rates = {}
    for name, format in {"as it is": None, **FORMATS}.items():
        small = None if format is None else lambda tensor, format=format: rounded(tensor, *format)
        with compressed(generator, erasure, small):
            codes = generator.sample(prompts * len(seeds), noise)
        rates[name] = judge.rate(generator.decode(codes))
    return rates
