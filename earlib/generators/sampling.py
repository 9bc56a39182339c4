"""Guided decoding: noise, guidance and choice, which both families share, and how a next-token model draws one batch.

The noise of every token is a hash of (picture seed, position, code): a picture does not depend on the other pictures of
its batch, on their order or on the batch size, and a model before and after erasure can be drawn with the same noise.
All guidance arithmetic is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from ..device import check_finite
from .batch import Past, PromptBatch

if TYPE_CHECKING:
    from .base import Generator, NextToken, Steering


class SlabLayer(DynamicLayer):
    """Keys and values of one layer in one preallocated slab, written in place.

    transformers' dynamic cache copies all of itself at every token and its static one attends to slots not yet written;
    here a step writes one slot and reads only what is there.
    """

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity, self.length = capacity, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            rows, heads, _, width = key_states.shape
            # zeros, as `static.py` attends to unwritten slots with weight 0, and 0 times what an empty tensor holds may
            # be NaN
            self.slab_keys = key_states.new_zeros(rows, heads, self.capacity, width)
            self.slab_values = value_states.new_zeros(rows, heads, self.capacity, value_states.shape[-1])
            self.is_initialized = True
            self.dtype, self.device = key_states.dtype, key_states.device
        end = self.length + key_states.shape[2]
        self.slab_keys[:, :, self.length : end] = key_states
        self.slab_values[:, :, self.length : end] = value_states
        self.length = end
        self.keys, self.values = self.slab_keys[:, :, :end], self.slab_values[:, :, :end]
        return self.keys, self.values

    def get_seq_length(self, *args) -> int:
        return self.length


def slab_cache(layers: int, capacity: int) -> Cache:
    """A cache for drawing, without gradients, of at most `capacity` positions."""
    return Cache(layers=[SlabLayer(capacity) for _ in range(layers)])


def _hash(x: torch.Tensor) -> torch.Tensor:
    """A well-mixed 32-bit hash of int64 values below 2^32 (Ellis's prospector constants), in int64 arithmetic."""
    for multiplier in (0x7FEB352D, 0x846CA68B):
        x = ((x ^ (x >> 16)) * multiplier) & 0xFFFFFFFF
    return x ^ (x >> 16)


def gumbel_noise(seeds_B: torch.Tensor, step: int | torch.Tensor, codes: int) -> torch.Tensor:
    """Gumbel noise float32 [B, V] that depends only on (seed, step, code): argmax(logits + noise) samples
    softmax(logits).

    `step` is an int, or an int64 tensor of one element.
    """
    row = _hash(seeds_B.long() & 0xFFFFFFFF) ^ _hash((seeds_B.long() >> 32) & 0xFFFFFFFF ^ 0x9E3779B9)
    row = _hash((row + 0x85EBCA6B * (step + 1)) & 0xFFFFFFFF)
    code = torch.arange(codes, device=seeds_B.device) * 0x9E3779B1 & 0xFFFFFFFF
    bits = _hash(_hash(row[:, None] ^ code[None, :]) ^ row[:, None])
    uniform = (bits.double() + 0.5) / 2**32
    return -torch.log(-torch.log(uniform)).float()


def guided_rows(
    generator: Generator, prompts: PromptBatch, guidance: float, steering: Steering | None
) -> list[PromptBatch]:
    """What is read for every picture: the prompts and, unless guidance is 1, their unconditional twins; or what
    `steering` asks for."""
    if steering is not None:
        return steering.rows(generator, prompts, guidance)
    return [prompts] if guidance == 1 else [prompts, generator.null_like(prompts)]


def guided(
    logits: Sequence[torch.Tensor], guidance: float, steering: Steering | None, scale: int | None = None
) -> torch.Tensor:
    """The logits that are drawn from, given those of each of `guided_rows` in float32: u + guidance (c - u), or what
    `steering` makes of them."""
    if steering is not None:
        return steering.combine(logits, guidance, scale)
    if len(logits) == 1:
        return logits[0]
    conditional, unconditional = logits
    return unconditional + guidance * (conditional - unconditional)


def stacked(batches: Sequence[PromptBatch]) -> PromptBatch:
    """All rows of several batches, one batch below the other."""
    return reduce(PromptBatch.stack, batches)


def choose(
    logits_RV: torch.Tensor,
    seeds_B: torch.Tensor,
    step: int | torch.Tensor,
    guidance: float,
    temperature: float,
    steering: Steering | None = None,
) -> torch.Tensor:
    """The next token of every picture, int64 [B], from the logits of all its rows, by Gumbel-max; temperature 0 takes
    the likeliest token."""
    logits_BV = guided(logits_RV.float().split(len(seeds_B)), guidance, steering)
    if temperature > 0:
        logits_BV = logits_BV / temperature + gumbel_noise(seeds_B, step, logits_BV.shape[-1])
    return logits_BV.argmax(-1)


@torch.no_grad()
def draw_batch(
    generator: NextToken,
    prompts: PromptBatch,
    seeds_B: torch.Tensor,
    guidance: float,
    temperature: float = 1.0,
    given_BK: torch.Tensor | None = None,
    tick: Callable[[float], Any] = lambda share: None,
) -> torch.Tensor:
    """Image tokens [B, T] of one batch, token by token over a slab cache; see `Generator.drawer`."""
    B, T = len(prompts), generator.num_codes
    rows = stacked(guided_rows(generator, prompts, guidance, generator.steering))
    repeats = len(rows) // B
    past = Past(cache=slab_cache(len(generator.decoder_layers), rows.ids_BP.shape[1] + generator.positions(T)))
    tokens_BT = torch.zeros(B, T, dtype=torch.long, device=generator.device)
    given = 0
    if given_BK is not None and given_BK.shape[1]:
        given = given_BK.shape[1]
        tokens_BT[:, :given] = given_BK.to(generator.device)
        generator.hidden_states(rows, tokens_BT[:, :given].repeat(repeats, 1), past)
    for t in range(given, T):
        # the state that predicts token t needs the tokens before it; the token fed as "t" itself is read only in the
        # next step
        if t:
            past.pending_B1 = tokens_BT[:, t - 1 : t].repeat(repeats, 1)
        h = generator.hidden_states(rows, tokens_BT[:, t : t + 1].repeat(repeats, 1), past)
        z_RV = generator.image_logits(h)[:, 0]
        if t == given:
            check_finite(z_RV, f"the logits of {generator.name}")
        tokens_BT[:, t] = choose(z_RV, seeds_B, t, guidance, temperature, generator.steering)
        tick(1 / (T - given))
    return tokens_BT
