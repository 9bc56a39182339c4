"""Guidance that steers away from a concept while a picture is drawn: nothing in the model changes, only what its logits
are made into.

`generator.steering` is such a way of guiding (`generators.base.Steering`). z are logits, float32 [B, V] of a next-token
model, [B, N, C, 2] or [B, N, V] of a next-scale one: z_c told of the prompt, z_u of nothing, z_n told of the concept,
z_s of something safe. g is the guidance, a the strength: 0 is the usual guidance, 1 the published method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch

from ..generators.base import Generator, NextScale, PromptBatch, Steering
from .change import hooked, layer_range


@dataclass(frozen=True)
class NegativePrompt:
    """The concept's name in place of the unconditional row (Ho and Salimans 2022 with another origin; common practice
    since Stable Diffusion):

    o = z_u + a (z_n - z_u),  z = o + g (z_c - o)
    """

    text: str
    strength: float = 1.0

    def rows(self, generator: Generator, prompts: PromptBatch, guidance: float) -> list[PromptBatch]:
        """The prompts, and below them as many rows of the concept's name; unconditional ones between them where the
        strength is not 1."""
        if guidance == 1:  # the origin drops out
            return [prompts]
        twins = [] if self.strength == 1 else [generator.null_like(prompts)]
        return [prompts, *twins, repeated(generator, self.text, len(prompts))]

    def combine(self, logits: Sequence[torch.Tensor], guidance: float, scale: int | None = None) -> torch.Tensor:
        if len(logits) == 1:
            return logits[0]
        z_c, z_n = logits[0], logits[-1]
        origin = z_n if self.strength == 1 else logits[1] + self.strength * (z_n - logits[1])
        return origin + guidance * (z_c - origin)


@dataclass(frozen=True)
class SafeGuidance:
    """Safe latent diffusion (Schramowski et al. 2023, arXiv 2211.05105, Eq. 3-6), on logits:

    z = z_u + g ( z_c - z_u - a mu (z_n - z_u) ),  mu = min(slope |z_c - z_n|, 1) where z_c - z_n < threshold, else 0

    each code by itself. Logits mean the same when a number is added to all of them, and mu would not: rows are
    normalised to log-probabilities first. Neither warm-up nor momentum: drawing a token shares no state with drawing
    the one before.
    """

    text: str
    strength: float = 1.0
    slope: float = 1.0
    threshold: float = 0.0  # in nats

    def rows(self, generator: Generator, prompts: PromptBatch, guidance: float) -> list[PromptBatch]:
        """The prompts, their unconditional twins, and as many rows of the concept's name."""
        return [prompts, generator.null_like(prompts), repeated(generator, self.text, len(prompts))]

    def combine(self, logits: Sequence[torch.Tensor], guidance: float, scale: int | None = None) -> torch.Tensor:
        z_c, z_u, z_n = (z.log_softmax(-1) for z in logits)
        ahead = z_c - z_n
        mu = (self.slope * ahead.abs()).clamp(max=1) * (ahead < self.threshold)
        return z_u + guidance * (z_c - z_u - self.strength * mu * (z_n - z_u))


def repeated(generator: Generator, text: str, times: int) -> PromptBatch:
    """`times` rows of one prompt."""
    return generator.encode([text])[[0] * times]


@dataclass
class ScaleErasureStyle:
    """Logit steering in the manner of ScaleErasure (arXiv 2606.29282): at some scales, at positions and bits that
    belong to the concept,

        z = z_u + g (z_s - z_u) - w (z_n - z_u)   in place of   z_u + g (z_c - z_u)

    positions   whose cross-attention queries fit the concept's words: over heads and some blocks, the mean of softmax(
                q . [k_n, k_s, k_0] / sqrt(d) )_n is `relevance` or more; k is the mean key of a text's words, k_0 the
                background's
    bits        with | m_n - m_c | < threshold growth^(k + 1), m = z(1) - z(0); the codes of a codebook have none, so
                that there it is whole positions

    The published method decodes greedily and lists several words for each of the three texts; here the temperature is
    the caller's and a text is one phrase.
    """

    text: str
    safe: str = ""
    background: str = ""
    strength: float = 1.0
    away: float = 3.0
    scales: tuple[float, float] = (2 / 13, 8 / 13)
    layers: tuple[float, float] = (1 / 32, 6 / 32)
    relevance: float = 0.332
    threshold: float = 0.1
    growth: float = 2.0

    def __post_init__(self) -> None:
        self.queries: list[torch.Tensor] = []  # of the scale at hand, from the blocks that are watched: [R, N, D]
        self.keys: list[torch.Tensor] = []  # of the three texts, in those blocks: [3, D]

    def rows(self, generator: Generator, prompts: PromptBatch, guidance: float) -> list[PromptBatch]:
        """The prompts, their unconditional twins, and as many rows of the safe text and of the concept's name."""
        null = generator.null_like(prompts)
        told = lambda text: repeated(generator, text, len(prompts)) if text else null
        return [prompts, null, told(self.safe), repeated(generator, self.text, len(prompts))]

    def combine(self, logits: Sequence[torch.Tensor], guidance: float, scale: int | None = None) -> torch.Tensor:
        z_c, z_u, z_s, z_n = logits
        usual = z_u + guidance * (z_c - z_u)
        # the last ones: scales that are given are read and not drawn
        queries, self.queries = self.queries[-len(self.keys) :], []
        if scale is None or scale not in self.active:
            return usual
        chosen = self.share([q[: len(z_c)] for q in queries]) >= self.relevance  # [B, N]
        other = z_u + guidance * (z_s - z_u) - self.away * (z_n - z_u)
        if z_c.dim() == 4:
            margin_n, margin_c = (z[..., 1] - z[..., 0] for z in (z_n, z_c))
            near = (margin_n - margin_c).abs() < self.threshold * self.growth ** (scale + 1)
            chosen = chosen[..., None] & near
        return torch.where(chosen[..., None], usual + self.strength * (other - usual), usual)

    def share(self, queries: list[torch.Tensor]) -> torch.Tensor:
        """How far each position is about the concept, float [B, N] from 0 to 1, by the queries of the prompt's rows in
        each watched block."""
        shares = []
        for q_BND, k_3D in zip(queries, self.keys):
            heads = lambda x: x.float().unflatten(-1, (-1, self.head_width))
            scores_BNH3 = torch.einsum("bnhd,thd->bnht", heads(q_BND), heads(k_3D)) * self.head_width**-0.5
            shares.append(scores_BNH3.softmax(-1)[..., 0].mean(-1))
        return torch.stack(shares).mean(0)

    def watching(self, generator: NextScale) -> list[Any]:
        """Read the three texts' keys, and note the queries of the watched blocks whenever the trunk runs; returns the
        hooks' handles."""
        blocks = [generator.trunk.blocks[i] for i in layer_range(self.layers, len(generator.trunk.blocks))]
        self.active = layer_range(self.scales, len(generator.schedule))
        self.head_width, self.queries = generator.config.head_width, []
        texts = (self.text, self.safe, self.background)
        self.keys = [torch.stack([_mean_key(generator, block, text) for text in texts]) for block in blocks]
        note = lambda module, args, out: self.queries.append(out)
        return [block.cross_attention.q.register_forward_hook(note) for block in blocks]


@torch.no_grad()
def _mean_key(generator: NextScale, block: Any, text: str) -> torch.Tensor:
    """Mean of the keys that `block` makes of a text's words, [D]; of the prompt that says nothing for an empty text."""
    batch = generator.encode([text])
    batch = batch if text else generator.null_like(batch)
    words_PE = generator.trunk.condition(batch.ids_BP, batch.mask_BP).words_BPE[0][batch.mask_BP[0].bool()]
    return block.cross_attention.kv(words_PE).chunk(2, -1)[0].mean(0)


METHODS: dict[str, type] = {  # what a recipe calls it -> how it guides
    "negative-prompt": NegativePrompt,
    "safe-guidance": SafeGuidance,
    "scale-erasure": ScaleErasureStyle,
}


def wrong_setting(recipe: dict[str, Any]) -> str:
    """The first setting of a recipe that guides which is not of its kind, with its value: "slope 'oops'"; "" if there
    is none, or if the recipe does not guide."""
    method = recipe.get("method", "")
    for f in fields(METHODS[method]) if isinstance(method, str) and method in METHODS else ():
        value, text = recipe.get(f.name), f.default is MISSING or isinstance(f.default, str)
        parts = value if isinstance(value, (list, tuple)) and isinstance(f.default, tuple) else [value]
        if not all(isinstance(part, str if text else (int, float)) and not isinstance(part, bool) for part in parts):
            return f"{f.name} {value!r}"
    return ""


def steering_of(recipe: dict[str, Any], strength: float = 1.0) -> Steering | None:
    """How an erasure with this recipe guides, or None if it changes weights. `strength` scales the recipe's own."""
    kind = METHODS.get(recipe.get("method", ""))
    strength *= recipe.get("strength", 1.0)
    if kind is None or not strength:
        return None
    settings = {f.name: recipe[f.name] for f in fields(kind)} | {"strength": strength}
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})  # JSON has lists


@contextmanager
def steered(generator: Generator, steering: Steering | None) -> Iterator[Generator]:
    """Within the context `generator` guides by `steering`; None leaves it as it is."""
    if steering is None:
        yield generator
        return
    before, handles = generator.steering, []
    if isinstance(steering, ScaleErasureStyle) and isinstance(generator, NextScale):
        handles = steering.watching(generator)
    with hooked(*handles):
        generator.steering = steering
        try:
            yield generator
        finally:
            generator.steering = before
