"""How a next-scale model draws: one pass of the transformer a scale, over the keys and values of the scales before.

The noise of a code is a hash of (picture seed, position, code), as in `generators/sampling.py`. Guidance is the same at
every scale (as in Infinity; VAR's own ramp leaves scale 0 without any).

Letters: B pictures of one batch, R rows of all that is read for them, N positions of one scale, L of all, C bits of a
code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ...device import check_finite
from ...errors import UserError
from ..batch import PromptBatch
from ..sampling import guided

if TYPE_CHECKING:
    from ..base import NextScale, Steering


@torch.no_grad()
def draw_batch(
    generator: NextScale,
    rows: list[PromptBatch],
    seeds_B: torch.Tensor,
    guidance: float,
    temperature: float,
    given: torch.Tensor | None = None,
    steering: Steering | None = None,
    look: Callable[[torch.Tensor], Any] | None = None,
) -> torch.Tensor:
    """Codes of one batch, scale by scale.

    Args:
        generator: the model.
        rows: what is read for the pictures (`sampling.guided_rows`), batches of B prompts; all read the same codes.
        seeds_B: one seed a picture.
        guidance: the scale of guidance.
        temperature: 0 takes the likeliest codes.
        given: int64 [B, K] or [B, K, C], the codes of the first scales, which are then not drawn.
        steering: what makes one of the logits of all rows; None for the usual guidance.
        look: is called with the logits that each scale is drawn from, float32 [B, N, C, 2] or [B, N, V]; of scales that
            are given, too.

    Returns:
        int64 [B, L] or [B, L, C].

    Raises:
        UserError: the given codes are no whole scales.
    """
    trunk, tokenizer, config, quantiser = generator.trunk, generator.tokenizer, generator.config, generator.quantiser
    kept = 0 if given is None else given.shape[1]
    if kept not in (0, *(span.stop for span in config.spans)):
        line = f"{kept} given codes are no whole scales"
        raise UserError(f"{line}; those end at {', '.join(str(span.stop) for span in config.spans)}")
    condition = trunk.condition(torch.cat([r.ids_BP for r in rows]), torch.cat([r.mask_BP for r in rows]))
    cache: list[list] = [[] for _ in trunk.blocks]
    f_hat = tokenizer.nothing(len(seeds_B))
    codes = []
    for k, span in enumerate(config.spans):
        inputs_BNC = tokenizer.next_input(f_hat, k).to(generator.dtype)
        head = trunk(condition, inputs_BNC.repeat(len(rows), 1, 1), span, cache)  # a given scale is read for the cache
        if span.stop > kept or look:
            check_finite(head, f"the logits of {generator.name}")
            logits = guided([quantiser.split(part.float()) for part in head.chunk(len(rows))], guidance, steering, k)
        if look:
            look(logits)
        if span.stop <= kept:
            codes.append(given[:, span].to(generator.device))
        else:
            codes.append(quantiser.choose(logits, seeds_B, span.start, temperature))
        f_hat = f_hat + tokenizer.spread(quantiser.vectors(codes[-1]).to(f_hat.dtype), k)
    return torch.cat(codes, 1)
