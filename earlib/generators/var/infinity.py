"""The door to Infinity (Han et al. 2024, arXiv 2412.04431): its transformer and the decoder of its tokenizer, behind
the interface of a next-scale model.

Everything that erases or draws works on it as on MiniVAR: the parts of a block have the same names, and mean the same.
What differs from `transformer.py` is a frozen T5 for the text, cosine attention with rotary positions, and norms with
another epsilon. Reading the authors' files is in `files/infinity.py`.

Letters: B rows, P words, L positions of all scales (N of those at hand), D width, E width of T5, H heads, C channels of
the latent.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ...errors import UserError
from ..base import PromptBatch
from .config import NextScaleConfig
from .generator import NextScaleGenerator
from .quantisers import BitQuantiser
from .tokenizer import Tokenizer
from .transformer import Condition, CrossAttention, FeedForward, SelfAttention, extended

# sides of square pictures' scales; smaller pictures stop earlier
SCHEDULE = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
ROPE_GRID = 64  # cells a side on which positions of every scale, and of pictures of every size, are marked
LARGEST_SCALE = math.log(100)  # of cosine attention's learned factor
SAYS_NOTHING = -1  # a word number: the row of the learned unconditional prompt that stands at this place


def norm(x: torch.Tensor) -> torch.Tensor:
    """Layer norm without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def fused(
    q_BND: torch.Tensor,
    k_BSD: torch.Tensor,
    v_BSD: torch.Tensor,
    head_width: int,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Scaled dot-product attention by torch's fused kernels: thousands of positions would not fit otherwise. `scale`
    defaults to head_width^-1/2."""
    q, k, v = (x.unflatten(-1, (-1, head_width)).transpose(1, 2) for x in (q_BND, k_BSD, v_BSD))
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale).transpose(1, 2).flatten(2)


def rotations(schedule: tuple[int, ...], head_width: int, grid: int = ROPE_GRID) -> torch.Tensor:
    """Angles of 2-D rotary positions, float32 [L, head_width / 2]: the first half turns with the row, the second with
    the column.

    Cell i of a scale of side s stands at round(i grid / s), so that all scales share one grid.
    """
    half = head_width // 2
    frequency = 1 / 10_000 ** (torch.arange(0, half, 2) / half)
    parts = []
    for side in schedule:
        place = (torch.arange(side) * (grid / side)).round()
        angle = place[:, None] * frequency
        of_rows, of_columns = angle[:, None].expand(-1, side, -1), angle[None].expand(side, -1, -1)
        parts.append(torch.cat([of_rows, of_columns], -1).flatten(0, 1))
    return torch.cat(parts)


def rotate(x_BNHW: torch.Tensor, angle_NR: torch.Tensor) -> torch.Tensor:
    """Numbers 2r and 2r + 1 of every head turned by angle r, in float32."""
    cos, sin = (f(angle_NR)[None, :, None] for f in (torch.cos, torch.sin))
    a, b = x_BNHW.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x_BNHW.dtype)


class CosineAttention(SelfAttention):
    """Queries and keys of length 1, times a learned factor of each head; then turned by their positions."""

    def __init__(self, width: int, head_width: int):
        super().__init__(width, head_width)
        self.log_scale = nn.Parameter(torch.full((width // head_width,), math.log(4)))

    def forward(
        self, x_BND: torch.Tensor, angle_NR: torch.Tensor, mask: torch.Tensor | None = None, cache: list | None = None
    ) -> torch.Tensor:
        q, k, v = self.qkv(x_BND).chunk(3, -1)
        q, k = (F.normalize(x.unflatten(-1, (-1, self.head_width)), dim=-1) for x in (q, k))
        q = q * self.log_scale.clamp(max=LARGEST_SCALE).exp()[:, None].to(q.dtype)
        q, k = (rotate(x, angle_NR).flatten(2) for x in (q, k))
        k, v = extended(k, v, cache)
        return self.out(fused(q, k, v, self.head_width, mask, scale=1.0))


class WordAttention(CrossAttention):
    attend = staticmethod(fused)


class InfinityBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, as `transformer.Block`; the middle norm has a weight and a
    bias."""

    def __init__(self, config: NextScaleConfig):
        super().__init__()
        D = config.width
        self.self_attention = CosineAttention(D, config.head_width)
        self.cross_norm = nn.LayerNorm(D, eps=1e-6)
        self.cross_attention = WordAttention(D, D, config.head_width)
        self.ffn = FeedForward(D, config.mlp_ratio)
        self.modulation = nn.Parameter(torch.zeros(6, D))

    def forward(
        self,
        x_BND: torch.Tensor,
        condition: Condition,
        angle_NR: torch.Tensor,
        mask: torch.Tensor | None = None,
        cache: list | None = None,
    ) -> torch.Tensor:
        modulation_B61D = (condition.modulation_B6D + self.modulation).unsqueeze(2)
        scale1, shift1, gate1, scale2, shift2, gate2 = modulation_B61D.unbind(1)
        x = x_BND + gate1 * self.self_attention(norm(x_BND) * (1 + scale1) + shift1, angle_NR, mask, cache)
        x = x + self.cross_attention(self.cross_norm(x), condition.words_BPE, condition.mask_BP)
        return x + gate2 * self.ffn(norm(x) * (1 + scale2) + shift2)


class InfinityTrunk(nn.Module):
    """T5, blocks and head; `condition` and `forward` as those of `transformer.Transformer`. `text` is transformers'
    T5EncoderModel, frozen."""

    def __init__(self, config: NextScaleConfig, text: Any, levels: int = 15, pool_head_width: int = 128):
        super().__init__()
        self.config, self.pool_head_width = config, pool_head_width
        self.reading = slice(None)  # the positions that are read now, for `NextScale.acting`
        D, E = config.width, config.text_width
        self.uncond = nn.Parameter(torch.zeros(config.text_length, E))
        self.text_norm = nn.Parameter(torch.ones(E))
        self.pool_query = nn.Parameter(torch.zeros(D))
        self.pool_kv = nn.Linear(E, 2 * D)
        self.pool = nn.Linear(D, D)
        self.words = nn.Sequential(nn.Linear(E, D), nn.GELU(approximate="tanh"), nn.Linear(D, D))
        self.start = nn.Parameter(torch.zeros(D))
        self.modulation = nn.Linear(D, 6 * D)
        self.enter = nn.Linear(config.code_width, D)
        self.level = nn.Embedding(levels, D)
        self.blocks = nn.ModuleList(InfinityBlock(config) for _ in range(config.layers))
        self.head_modulation = nn.Linear(D, 2 * D)
        self.head = nn.Linear(D, 2 * config.code_width)
        self.text = text

    def make_tables(self, device: torch.device | None = None) -> InfinityTrunk:
        """What no file stores: which scale a position belongs to, what it may see, how it is turned."""
        schedule = self.config.schedule
        scale_L = torch.cat([torch.full((side * side,), k) for k, side in enumerate(schedule)]).to(device)
        self.register_buffer("scale_L", scale_L, persistent=False)
        self.register_buffer("mask_LL", scale_L[None, :] <= scale_L[:, None], persistent=False)
        # no buffer: it stays float32 whatever the weights are
        self.angle_LR = rotations(schedule, self.config.head_width).to(device)
        return self

    def condition(self, ids_BP: torch.Tensor, mask_BP: torch.Tensor) -> Condition:
        """Read prompts (T5's word numbers, mask 0 where padded) once, for all scales. Rows of `SAYS_NOTHING` are the
        learned unconditional prompt."""
        mask, x_BPE = mask_BP.bool(), self._text_states(ids_BP, mask_BP)
        k, v = self.pool_kv(x_BPE).chunk(2, -1)
        query_B1D = self.pool_query.expand(len(x_BPE), 1, -1)
        pooled_BD = self.pool(fused(query_B1D, k, v, self.pool_head_width, mask[:, None, None]))[:, 0]
        modulation_B6D = self.modulation(F.silu(pooled_BD)).unflatten(-1, (6, self.config.width))
        return Condition(self.words(x_BPE), mask, pooled_BD, modulation_B6D)

    def words_read(self, ids_BP: torch.Tensor, mask_BP: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """As `Transformer.words_read`: what the keys and values that are pooled to the start token read, and what those
        of cross-attention read."""
        x_BPE = self._text_states(ids_BP, mask_BP)
        return {"pool_kv": x_BPE}, self.words(x_BPE)

    def _text_states(self, ids_BP: torch.Tensor, mask_BP: torch.Tensor) -> torch.Tensor:
        """T5's states, normalised, [B, P, E]."""
        blank_B = ids_BP[:, 0] == SAYS_NOTHING
        x_BPE = self.uncond[: ids_BP.shape[1]].expand(len(ids_BP), -1, -1).clone()
        if not blank_B.all():
            with torch.no_grad():
                read = self.text(input_ids=ids_BP[~blank_B], attention_mask=mask_BP[~blank_B]).last_hidden_state
            x_BPE[~blank_B] = read.to(x_BPE.dtype)
        length_BP1 = torch.rsqrt(x_BPE.float().square().mean(-1, keepdim=True) + 1e-6)
        return x_BPE * length_BP1.to(x_BPE.dtype) * self.text_norm

    def forward(
        self, condition: Condition, inputs_BNC: torch.Tensor, span: slice = slice(None), cache: list[list] | None = None
    ) -> torch.Tensor:
        """The head's numbers [B, N, 2 C] for the positions `span`: one masked pass without `cache`, scale after scale
        with one."""
        self.reading = span
        x = self.enter(inputs_BNC)
        if span.start in (None, 0):
            x = torch.cat([(condition.start_BD + self.start).unsqueeze(1), x[:, 1:]], 1)
        x = x + self.level(self.scale_L[span])
        mask = self.mask_LL[span, span] if cache is None else None
        for i, block in enumerate(self.blocks):
            if torch.is_grad_enabled() and cache is None:
                # 32 blocks' activations of 10,521 positions fit nowhere: they are computed again
                x = checkpoint(block, x, condition, self.angle_LR[span], mask, use_reentrant=False)
            else:
                x = block(x, condition, self.angle_LR[span], mask, None if cache is None else cache[i])
        scale, shift = self.head_modulation(F.silu(condition.start_BD)).unsqueeze(1).chunk(2, -1)
        return self.head(norm(x) * (1 + scale) + shift)


class PixelResidual(nn.Module):
    def __init__(self, before: int, after: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(32 if n % 32 == 0 else 24, n, eps=1e-6) for n in (before, after))
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class PixelDecoder(nn.Module):
    """Latents to pictures. `channels` of each level, the finest first; all but that one double the size."""

    def __init__(self, code_width: int, channels: tuple[int, ...], blocks: int = 3):
        super().__init__()
        width = channels[-1]
        self.conv_in = nn.Conv2d(code_width, width, 3, padding=1)
        self.mid = nn.ModuleDict({"block_1": PixelResidual(width, width), "block_2": PixelResidual(width, width)})
        self.up = nn.ModuleList()
        for i, after in reversed(list(enumerate(channels))):
            level = {"block": nn.ModuleList(PixelResidual(width if j == 0 else after, after) for j in range(blocks))}
            if i:
                level["upsample"] = nn.ModuleDict({"conv": nn.Conv2d(after, after, 3, padding=1)})
            self.up.insert(0, nn.ModuleDict(level))
            width = after
        self.norm_out = nn.GroupNorm(32 if width % 32 == 0 else 24, width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = self.mid["block_2"](self.mid["block_1"](self.conv_in(z)))
        for level in reversed(self.up):
            for block in level["block"]:
                h = block(h)
            if "upsample" in level:
                h = level["upsample"]["conv"](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(h)))


class InfinityTokenizer(Tokenizer):
    """Codes to pictures; there is no encoder, which neither drawing nor erasing needs."""

    def __init__(self, config: NextScaleConfig, decoder: PixelDecoder):
        nn.Module.__init__(self)
        self.config, self.decoder = config, decoder
        self.quantiser, self.phi = BitQuantiser(config.code_width), nn.ModuleList()
        self.make_resizing()


class InfinityModel(nn.Module):
    """Tokenizer, transformer and T5's word tokenizer."""

    def __init__(self, config: NextScaleConfig, trunk: InfinityTrunk, tokenizer: InfinityTokenizer, words: Any):
        super().__init__()
        self.config, self.trunk, self.tokenizer, self.words = config, trunk, tokenizer, words


class InfinityGenerator(NextScaleGenerator):
    """A next-scale generator whose unconditional prompt is as long as the prompt that it stands beside."""

    words_learn = False  # T5 is frozen and read without gradients

    @property
    def word_embeddings(self) -> torch.nn.Embedding:
        return self.trunk.text.get_input_embeddings()

    def null_like(self, batch: PromptBatch) -> PromptBatch:
        return PromptBatch(torch.full_like(batch.ids_BP, SAYS_NOTHING), batch.mask_BP, batch.texts)

    def tokenize(self, images_BHW3: Any, chunk: int | None = None) -> torch.Tensor:
        line = f"{self.name}: pictures cannot be tokenized, as the encoder of Infinity's tokenizer is not read"
        raise UserError(f"{line}; draw codes instead")
