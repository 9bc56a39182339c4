"""Guided decoding: how a `Generator` draws.

The noise of every token is a hash of (picture seed, position, code): a picture does not depend on the other pictures of
its batch, on their order or on the batch size, and a model before and after erasure can be drawn with the same noise.
All guidance arithmetic is float32.
"""

from __future__ import annotations

from functools import partial

import torch
from transformers.cache_utils import Cache, DynamicLayer

from ..errors import UserError
from .base import Generator, Past, PromptBatch


class SlabLayer(DynamicLayer):
    """Keys and values of one layer in one preallocated slab, written in place.

    transformers' dynamic cache copies all of itself at every token and its static one attends to slots not yet written;
    here a step writes one slot and reads only what is there.
    """

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity, self.length = capacity, 0

    def update(self, key_states, value_states, *args, **kwargs):
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


def gumbel_noise(seeds_B: torch.Tensor, step, codes: int) -> torch.Tensor:
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


def choose(
    logits_RV: torch.Tensor, seeds_B: torch.Tensor, step, guidance: float, temperature: float, steering=None
) -> torch.Tensor:
    """The next token of every picture, int64 [B], from the logits of its rows (`guided_rows`), by Gumbel-max;
    temperature 0 takes the likeliest token."""
    logits_BV = guided(logits_RV, len(seeds_B), guidance, steering)
    if temperature > 0:
        logits_BV = logits_BV / temperature + gumbel_noise(seeds_B, step, logits_BV.shape[-1])
    return logits_BV.argmax(-1)


def guided(logits_RV: torch.Tensor, pictures: int, guidance: float, steering=None) -> torch.Tensor:
    """Logits [B, ..., V] that are drawn from, in float32, from those of the rows of `guided_rows`: u + guidance (c -
    u), or what `steering` makes of them."""
    parts = logits_RV.float().split(pictures)
    if steering is not None:
        return steering.combine(parts, guidance)
    if len(parts) == 1:
        return parts[0]
    conditional, unconditional = parts
    return unconditional + guidance * (conditional - unconditional)


def guided_rows(generator: Generator, prompts: PromptBatch, guidance: float) -> PromptBatch:
    """The prompts, and below them their unconditional twins; guidance 1 needs no twins.

    `generator.steering`, where it is set, brings other rows: an object with `rows(generator, prompts, guidance)`, the
    prompts first, and `combine(parts, guidance)`, which makes one of the logits of all rows.
    """
    if generator.steering is not None:
        return generator.steering.rows(generator, prompts, guidance)
    return prompts.stack(generator.null_like(prompts)) if guidance != 1 else prompts


@torch.no_grad()
def draw_batch(
    generator: Generator,
    prompts: PromptBatch,
    seeds_B: torch.Tensor,
    guidance: float,
    temperature: float = 1.0,
    prefix_BK: torch.Tensor | None = None,
    tick=lambda: None,
) -> torch.Tensor:
    """Image tokens [B, T] of one batch, token by token over a slab cache. The first K are `prefix_BK` if it is given;
    `tick()` follows each token."""
    B, T = len(prompts), generator.num_image_tokens
    rows = guided_rows(generator, prompts, guidance)
    repeats = len(rows) // B
    past = Past(cache=slab_cache(len(generator.decoder_layers), rows.ids_BP.shape[1] + generator.positions(T)))
    tokens_BT = torch.zeros(B, T, dtype=torch.long, device=generator.device)
    given = 0
    if prefix_BK is not None and prefix_BK.shape[1]:
        given = prefix_BK.shape[1]
        tokens_BT[:, :given] = prefix_BK.to(generator.device)
        generator.hidden_states(rows, tokens_BT[:, :given].repeat(repeats, 1), past)
    for t in range(given, T):
        # the state that predicts token t needs the tokens before it; the token fed as "t" itself is read only in the
        # next step
        if t:
            past.pending_B1 = tokens_BT[:, t - 1 : t].repeat(repeats, 1)
        h = generator.hidden_states(rows, tokens_BT[:, t : t + 1].repeat(repeats, 1), past)
        tokens_BT[:, t] = choose(generator.image_logits(h)[:, 0], seeds_B, t, guidance, temperature, generator.steering)
        tick()
    return tokens_BT


def sample_batches(
    generator,
    prompts: list[str],
    seeds: list[int],
    guidance: float,
    temperature: float = 1.0,
    batch_size: int | None = None,
    progress: bool = False,
    prefix_NK: torch.Tensor | None = None,
    graphs: bool | None = None,
):
    """Draw `prompts`, one seed each, in batches: yields (which prompts, their image tokens int64 [B, T]) until all are
    drawn.

    `batch_size` None takes 64 on a CPU, and on a GPU as many as fit into its free memory. `graphs` (default: on a GPU)
    draws with `static.StaticDrawer`. `prefix_NK` gives the first K tokens of every picture.
    """
    from tqdm.auto import tqdm

    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed for each prompt")
    if prefix_NK is not None and (len(prefix_NK) != len(prompts) or prefix_NK.shape[1] > generator.num_image_tokens):
        raise ValueError(
            f"prefix of shape {tuple(prefix_NK.shape)} for {len(prompts)} pictures of {generator.num_image_tokens} tokens"
        )
    if prompts:  # said before anything is drawn
        check_length(generator, max(prompts, key=len))
    batch_size = min(batch_size or fitting_batch(generator), max(1, len(prompts)))
    if graphs is None:
        graphs = generator.device.type == "cuda"
    if graphs and generator.embed_image_tokens is not None and prefix_NK is None:
        from .static import StaticDrawer

        drawer = StaticDrawer(generator)
    else:
        drawer = partial(draw_batch, generator)
    # pictures of like prompt length go together, so that little padding is computed
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    shape = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
    with tqdm(
        total=len(prompts),
        unit="picture",
        desc="drawing",
        disable=not (progress and prompts),
        leave=False,
        bar_format=shape,
    ) as bar:
        for start in range(0, len(prompts), batch_size):
            rows = order[start : start + batch_size]
            batch = generator.encode([prompts[i] for i in rows])
            seeds_B = torch.tensor([seeds[i] for i in rows], device=generator.device)
            prefix = None if prefix_NK is None else prefix_NK[rows]
            tick = partial(
                bar.update, len(rows) / (generator.num_image_tokens - (0 if prefix is None else prefix.shape[1]) or 1)
            )
            yield rows, drawer(batch, seeds_B, guidance, temperature, prefix, tick)


def check_length(generator, prompt: str) -> None:
    """UserError if `prompt` and a picture do not fit into the model's context together."""
    context = generator.trunk.config.max_position_embeddings
    room = context - generator.positions(generator.num_image_tokens)
    length = generator.encode([prompt]).ids_BP.shape[1]
    if length > room:
        raise UserError(
            f"a prompt of {length} tokens is too long for {generator.name}: {room} fit before a picture; it begins '{prompt[:40]}'"
        )


def sample_tokens(generator, prompts: list[str], *args, **more) -> torch.Tensor:
    """Image tokens int64 [N, T] on the CPU for `prompts`, in their order; the arguments are those of `sample_batches`."""
    out = torch.empty(len(prompts), generator.num_image_tokens, dtype=torch.long)
    for rows, tokens_BT in sample_batches(generator, prompts, *args, **more):
        out[rows] = tokens_BT.cpu()
    return out


def fitting_batch(generator) -> int:
    """Pictures to draw at a time."""
    if generator.device.type == "cpu":
        return 64
    from ..memory import batch_that_fits

    return batch_that_fits(generator, largest=128)
