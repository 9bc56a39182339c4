"""Guided decoding: how a `Generator` draws.

The noise of every token is a hash of (picture seed, position, code): a picture does not depend on the other pictures of its batch, on their
order or on the batch size, and a model before and after erasure can be drawn with the same noise. All guidance arithmetic is float32.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer

from .base import Generator, Past, PromptBatch


class SlabLayer(DynamicLayer):
    """Keys and values of one layer in one preallocated slab, written in place.

    transformers' dynamic cache copies all of itself at every token and its static one attends to slots not yet written; here a step
    writes one slot and reads only what is there.
    """

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity, self.length = capacity, 0

    def update(self, key_states, value_states, *args, **kwargs):
        if self.length == 0:
            rows, heads, _, width = key_states.shape
            self._keys = key_states.new_empty(rows, heads, self.capacity, width)
            self._values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
            self.is_initialized = True
            self.dtype, self.device = key_states.dtype, key_states.device
        end = self.length + key_states.shape[2]
        self._keys[:, :, self.length : end] = key_states
        self._values[:, :, self.length : end] = value_states
        self.length = end
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
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


def gumbel_noise(seeds_B: torch.Tensor, step: int, codes: int) -> torch.Tensor:
    """Gumbel noise float32 [B, V] that depends only on (seed, step, code): argmax(logits + noise) samples softmax(logits)."""
    row = _hash(seeds_B.long() & 0xFFFFFFFF) ^ _hash((seeds_B.long() >> 32) & 0xFFFFFFFF ^ 0x9E3779B9)
    row = _hash((row + 0x85EBCA6B * (step + 1)) & 0xFFFFFFFF)
    code = torch.arange(codes, device=seeds_B.device) * 0x9E3779B1 & 0xFFFFFFFF
    bits = _hash(_hash(row[:, None] ^ code[None, :]) ^ row[:, None])
    uniform = (bits.double() + 0.5) / 2**32
    return -torch.log(-torch.log(uniform)).float()


@torch.no_grad()
def draw_batch(generator: Generator, prompts: PromptBatch, seeds_B: torch.Tensor, guidance: float, temperature: float = 1.0) -> torch.Tensor:
    """Image tokens [B, T] of one batch: `u + guidance (c - u)` on logits, then Gumbel-max; temperature 0 takes the likeliest token."""
    B, T = len(prompts), generator.num_image_tokens
    rows = prompts.stack(generator.null_like(prompts)) if guidance != 1 else prompts
    past = Past(cache=slab_cache(len(generator.decoder_layers), prompts.ids_BP.shape[1] + T))
    tokens_BT = torch.zeros(B, T, dtype=torch.long, device=generator.device)
    repeats = len(rows) // B
    for t in range(T):
        # the state that predicts token t needs the tokens before it; the token fed as "t" itself is read only in the next step
        if t:
            past.pending_B1 = tokens_BT[:, t - 1 : t].repeat(repeats, 1)
        h = generator.hidden_states(rows, tokens_BT[:, t : t + 1].repeat(repeats, 1), past)
        logits = generator.image_logits(h)[:, 0].float()
        if repeats == 2:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + guidance * (conditional - unconditional)
        if temperature > 0:
            logits = logits / temperature + gumbel_noise(seeds_B, t, logits.shape[-1])
        tokens_BT[:, t] = logits.argmax(-1)
    return tokens_BT


def sample_tokens(
    generator, prompts: list[str], seeds: list[int], guidance: float, temperature: float, batch_size: int, progress: bool
) -> torch.Tensor:
    """Image tokens int64 [N, T] on the CPU for `prompts`, one seed each, drawn in batches of at most `batch_size` pictures."""
    from tqdm.auto import tqdm

    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed for each prompt")
    # pictures of like prompt length go together, so that little padding is computed; results return to their own places
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    out = torch.empty(len(prompts), generator.num_image_tokens, dtype=torch.long)
    with tqdm(total=len(prompts), unit="picture", desc="drawing", disable=not progress, leave=False) as bar:
        for start in range(0, len(prompts), batch_size):
            rows = order[start : start + batch_size]
            batch = generator.encode([prompts[i] for i in rows])
            seeds_B = torch.tensor([seeds[i] for i in rows], device=generator.device)
            out[rows] = draw_batch(generator, batch, seeds_B, guidance, temperature).cpu()
            bar.update(len(rows))
    return out
