"""Guided decoding with fixed addresses: one step of drawing that can be recorded once as a CUDA graph and replayed for
every token.

A step of a small batch is bound by the launching of its hundreds of kernels; a replayed graph launches once. Everything
that a step reads or writes (keys and values, mask, position, tokens) lies in tensors that are allocated once and
changed in place. Attention looks at a bucket of positions, the smallest multiple of `BUCKET` that holds what has been
read, so that empty slots cost little; each bucket has its own graph. The tokens are those of `sampling.draw_batch`, up
to rounding. Without a GPU the same step runs unrecorded, which is how it is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from ..device import check_finite
from ..memory import SPARE, slots
from .batch import Past, PromptBatch
from .sampling import SlabLayer, choose, guided_rows, stacked

if TYPE_CHECKING:
    from .base import NextToken


class FixedLayer(DynamicLayer):
    """Keys and values [R, heads, C, width] of one layer; a step writes the slot that the tensor `position` names and
    sees the first `bucket`."""

    def __init__(self, slab: SlabLayer, position: torch.Tensor):
        super().__init__()
        self.slab_keys, self.slab_values, self.position, self.bucket = slab.slab_keys, slab.slab_values, position, 0
        self.dtype, self.device, self.is_initialized = slab.dtype, slab.device, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.slab_keys.index_copy_(2, self.position, key_states)
        self.slab_values.index_copy_(2, self.position, value_states)
        return self.slab_keys[:, :, : self.bucket], self.slab_values[:, :, : self.bucket]

    def get_seq_length(self, *args) -> int:
        return self.bucket


class StaticDrawer:
    """Draws batches of one size for one generator; smaller batches are filled up. Make a new one when an erasure is
    switched on or off."""

    def __init__(self, generator: NextToken):
        self.generator = generator
        self.record = generator.device.type == "cuda"
        self.slabs = None  # allocated for the first batch

    def _allocate(self, rows: int, pictures: int, prompt: int) -> None:
        g, T = self.generator, self.generator.num_codes
        self.rows, self.pictures = rows, pictures
        self.capacity = slots(prompt + T + SPARE)
        self.slabs = [SlabLayer(self.capacity) for _ in g.decoder_layers]
        whole = dict(dtype=torch.long, device=g.device)
        self.position, self.step = torch.zeros(1, **whole), torch.zeros(1, **whole)
        self.tokens_BT, self.last_B1 = torch.zeros(pictures, T + SPARE, **whole), torch.zeros(pictures, 1, **whole)
        self.seeds_B = torch.zeros(pictures, **whole)
        self.mask_R11C = torch.zeros(rows, 1, 1, self.capacity, dtype=torch.bool, device=g.device)
        self.cache, self.graphs = None, {}

    @torch.no_grad()
    def __call__(
        self,
        prompts: PromptBatch,
        seeds_B: torch.Tensor,
        guidance: float,
        temperature: float = 1.0,
        given_BK: None = None,
        tick: Callable[[float], Any] = lambda share: None,
    ) -> torch.Tensor:
        """Image tokens [B, T] of one batch; see `sampling.draw_batch`. It draws whole pictures only: `given_BK` is
        None."""
        g, B, T = self.generator, len(prompts), self.generator.num_codes
        kinds = guided_rows(g, prompts, guidance, g.steering)
        repeats, P = len(kinds), stacked(kinds).ids_BP.shape[1]
        fits = self.slabs and B <= self.pictures and self.rows == repeats * self.pictures
        if not fits or P + T + SPARE > self.capacity:
            self._allocate(repeats * B, B, P)
        self.guidance, self.temperature = guidance, temperature
        # the last batch is smaller: draw some of its pictures again
        fill = torch.arange(self.pictures, device=g.device) % B
        rows = stacked(guided_rows(g, prompts[fill], guidance, g.steering))
        self.seeds_B.copy_(seeds_B[fill])

        for slab in self.slabs:
            slab.length = 0
        nothing_R1 = torch.zeros(self.rows, 1, dtype=torch.long, device=g.device)
        h = g.hidden_states(rows, nothing_R1, Past(cache=Cache(layers=self.slabs)))
        z_RV = check_finite(g.image_logits(h)[:, 0], f"the logits of {g.name}")
        first = choose(z_RV, self.seeds_B, 0, guidance, temperature, g.steering)
        self.last_B1.copy_(first[:, None])
        self.tokens_BT[:, :1] = self.last_B1
        self.mask_R11C.zero_()
        self.mask_R11C[:, 0, 0, :P] = rows.mask_BP.bool()
        self.position.fill_(P)
        self.step.fill_(1)
        if self.cache is None:
            self.cache = Cache(layers=[FixedLayer(slab, self.position) for slab in self.slabs])
        tick(1 / T)
        for t in range(1, T):
            self._advance(slots(P + t))
            tick(1 / T)
        return self.tokens_BT[:B, :T].clone()

    def _advance(self, bucket: int) -> None:
        if not self.record:
            return self.one_step(bucket)
        key = (bucket, self.guidance, self.temperature)  # numbers are recorded as constants
        if key not in self.graphs:
            self.graphs[key] = self._recorded(bucket)
        self.graphs[key].replay()

    def one_step(self, bucket: int) -> None:
        """Read the last token, choose the next one, write it down; all in place, nothing that waits for the device."""
        g = self.generator
        for layer in self.cache.layers:
            layer.bucket = bucket
        self.mask_R11C.index_fill_(3, self.position, True)
        x_R1D = g.embed_image_tokens(self.last_B1).repeat(self.rows // self.pictures, 1, 1)
        h_R1D = g.trunk(
            inputs_embeds=x_R1D,
            attention_mask=self.mask_R11C[..., :bucket],
            position_ids=self.position[None],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        z_RV = g.image_logits(h_R1D)[:, 0]
        tokens_B = choose(z_RV, self.seeds_B, self.step, self.guidance, self.temperature, g.steering)
        self.last_B1.copy_(tokens_B[:, None])
        self.tokens_BT.index_copy_(1, self.step, self.last_B1)
        self.position += 1
        self.step += 1

    def _recorded(self, bucket: int):
        """A CUDA graph of one step. Two steps run before it, as libraries set themselves up in the first; what they
        changed is put back."""
        changed = (self.position, self.step, self.tokens_BT, self.last_B1, self.mask_R11C)
        before = [tensor.clone() for tensor in changed]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.one_step(bucket)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.one_step(bucket)
        for tensor, old in zip(changed, before):
            tensor.copy_(old)
        return graph
