"""The transformer of a next-scale model: block-causal over scales, with the text entering by three routes.

The routes are Infinity's: text pooled by attention is what scale 0 reads (its start token); the same pooled text
modulates every norm (adaptive norm, its large matrix shared by all blocks); and every block attends to all words. A
position of scale k sees all positions of scales up to k.

Letters: B rows, P words, L positions of all scales (N of those at hand), D width, E text width, C channels of the
latent, O numbers of the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .config import NextScaleConfig


@dataclass(frozen=True)
class Condition:
    """What the transformer knows of a prompt: `words_BPE`, `mask_BP` (True where there is a word), pooled `start_BD`,
    and its modulation [B, 6, D]."""

    words_BPE: torch.Tensor
    mask_BP: torch.Tensor
    start_BD: torch.Tensor
    modulation_B6D: torch.Tensor


def norm(x: torch.Tensor) -> torch.Tensor:
    """Layer norm without weights: what scales and shifts its result is the modulation, or a weight beside it."""
    return F.layer_norm(x, x.shape[-1:])


def attend(
    q_BND: torch.Tensor, k_BSD: torch.Tensor, v_BSD: torch.Tensor, head_width: int, mask: torch.Tensor | None
) -> torch.Tensor:
    """Scaled dot-product attention, written out: on a CPU its backward pass is much faster than the fused one's."""
    q, k, v = (x.unflatten(-1, (-1, head_width)).transpose(1, 2) for x in (q_BND, k_BSD, v_BSD))
    scores = q @ k.transpose(-1, -2) * head_width**-0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def extended(k_BND: torch.Tensor, v_BND: torch.Tensor, cache: list | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values behind those of the scales before, which `cache` holds; it is given all of them."""
    if cache:
        k_BND, v_BND = torch.cat([cache[0], k_BND], 1), torch.cat([cache[1], v_BND], 1)
    if cache is not None:
        cache[:] = [k_BND, v_BND]
    return k_BND, v_BND


class SelfAttention(nn.Module):
    def __init__(self, width: int, head_width: int):
        super().__init__()
        self.head_width = head_width
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BND: torch.Tensor, mask: torch.Tensor | None = None, cache: list | None = None) -> torch.Tensor:
        q, k, v = self.qkv(x_BND).chunk(3, -1)
        k, v = extended(k, v, cache)
        return self.out(attend(q, k, v, self.head_width, mask))


class CrossAttention(nn.Module):
    attend = staticmethod(attend)

    def __init__(self, width: int, text_width: int, head_width: int):
        super().__init__()
        self.head_width = head_width
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(text_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BND: torch.Tensor, words_BPE: torch.Tensor, mask_BP: torch.Tensor) -> torch.Tensor:
        k, v = self.kv(words_BPE).chunk(2, -1)
        return self.out(self.attend(self.q(x_BND), k, v, self.head_width, mask_BP[:, None, None]))


class FeedForward(nn.Module):
    def __init__(self, width: int, ratio: float):
        super().__init__()
        self.up = nn.Linear(width, int(width * ratio))
        self.down = nn.Linear(int(width * ratio), width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward; the first and last are scaled, shifted and gated by the pooled
    text, the middle one is not."""

    def __init__(self, config: NextScaleConfig):
        super().__init__()
        self.self_attention = SelfAttention(config.width, config.head_width)
        self.cross_norm = nn.Parameter(torch.ones(config.width))
        self.cross_attention = CrossAttention(config.width, config.text_width, config.head_width)
        self.ffn = FeedForward(config.width, config.mlp_ratio)
        bias = torch.zeros(6, config.width)
        bias[2] = bias[5] = 1  # gates start open
        self.modulation = nn.Parameter(bias)  # this block's own part of the shared modulation

    def forward(
        self, x_BND: torch.Tensor, condition: Condition, mask: torch.Tensor | None = None, cache: list | None = None
    ) -> torch.Tensor:
        modulation_B61D = (condition.modulation_B6D + self.modulation).unsqueeze(2)
        scale1, shift1, gate1, scale2, shift2, gate2 = modulation_B61D.unbind(1)
        x = x_BND + gate1 * self.self_attention(norm(x_BND) * (1 + scale1) + shift1, mask, cache)
        x = x + self.cross_attention(norm(x) * self.cross_norm, condition.words_BPE, condition.mask_BP)
        return x + gate2 * self.ffn(norm(x) * (1 + scale2) + shift2)


class TextBlock(nn.Module):
    def __init__(self, config: NextScaleConfig):
        super().__init__()
        self.attention = SelfAttention(config.text_width, config.head_width)
        self.ffn = FeedForward(config.text_width, config.text_mlp_ratio)

    def forward(self, x_BPE: torch.Tensor, mask_BP: torch.Tensor) -> torch.Tensor:
        x = x_BPE + self.attention(norm(x_BPE), mask_BP[:, None, None])
        return x + self.ffn(norm(x))


class TextEncoder(nn.Module):
    """A small bidirectional encoder of words, trained together with the transformer: ids and mask [B, P] to
    words_BPE."""

    def __init__(self, config: NextScaleConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocabulary, config.text_width)
        self.position = nn.Embedding(config.text_length, config.text_width)
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.text_layers))
        for table in (self.word, self.position):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, ids_BP: torch.Tensor, mask_BP: torch.Tensor) -> torch.Tensor:
        x = self.word(ids_BP) + self.position.weight[: ids_BP.shape[1]]
        for block in self.blocks:
            x = block(x, mask_BP)
        return norm(x)


class Transformer(nn.Module):
    """Text encoder, blocks and head of a `NextScaleConfig`; `outputs` numbers for every position."""

    def __init__(self, config: NextScaleConfig, outputs: int):
        super().__init__()
        self.config = config
        self.reading = slice(None)  # the positions that are read now, for `NextScale.acting`
        D = config.width
        self.text = TextEncoder(config)
        self.pool_query = nn.Parameter(torch.randn(config.text_width) / config.text_width**0.5)
        self.pool = nn.Linear(config.text_width, D)
        self.modulation = nn.Linear(D, 6 * D)
        self.enter = nn.Linear(config.code_width, D)
        self.level = nn.Embedding(len(config.schedule), D)
        self.position = nn.Embedding(config.length, D)  # absolute, of its own for every scale
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head_modulation = nn.Linear(D, 2 * D)
        self.head = nn.Linear(D, outputs)
        for table in (self.level, self.position):
            nn.init.normal_(table.weight, std=0.1)
        for layer in (self.modulation, self.head_modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        scale_L = torch.cat([torch.full((side * side,), k) for k, side in enumerate(config.schedule)])
        self.register_buffer("scale_L", scale_L, persistent=False)
        # may row attend to column?
        self.register_buffer("mask_LL", scale_L[None, :] <= scale_L[:, None], persistent=False)

    def condition(self, ids_BP: torch.Tensor, mask_BP: torch.Tensor) -> Condition:
        """Read prompts (int64 ids, mask 0 where padded) once, for all scales."""
        mask = mask_BP.bool()
        words = self.text(ids_BP, mask)
        weight_BP = (words @ self.pool_query).masked_fill(~mask, float("-inf")).softmax(-1)
        start = self.pool((weight_BP.unsqueeze(1) @ words)[:, 0])
        return Condition(words, mask, start, self.modulation(F.silu(start)).unflatten(-1, (6, self.config.width)))

    def words_read(self, ids_BP: torch.Tensor, mask_BP: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """(what the matrix that makes the start token reads, by its name; what those of cross-attention read), each [B,
        P, E]: a state for every word.

        The start token is made of a weighted mean of words, which is the weighted mean of what the matrix makes of
        each.
        """
        words = self.text(ids_BP, mask_BP.bool())
        return {"pool": words}, words

    def forward(
        self, condition: Condition, inputs_BNC: torch.Tensor, span: slice = slice(None), cache: list[list] | None = None
    ) -> torch.Tensor:
        """The head's numbers [B, N, O] for the positions `span`.

        Without `cache`, `span` is everything, or the first scales: one masked pass over them (teacher forcing). With
        one (a list for every block, empty at first) the scales come one after the other, and no mask is needed. The
        inputs of scale 0 are not read: the pooled text stands there.
        """
        self.reading = span
        x = self.enter(inputs_BNC)
        if span.start in (None, 0):
            x = torch.cat([condition.start_BD.to(x.dtype).unsqueeze(1), x[:, 1:]], 1)
        x = x + self.level(self.scale_L[span]) + self.position.weight[span]
        mask = self.mask_LL[span, span] if cache is None else None
        for i, block in enumerate(self.blocks):
            x = block(x, condition, mask, None if cache is None else cache[i])
        scale, shift = self.head_modulation(F.silu(condition.start_BD)).unsqueeze(1).chunk(2, -1)
        return self.head(norm(x) * (1 + scale) + shift)
