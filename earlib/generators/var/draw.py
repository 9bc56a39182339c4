"""How a next-scale model draws: one pass of the transformer a scale, over the keys and values of the scales before.

The noise of a code is a hash of (picture seed, position, code): a picture does not depend on its batch, and two
drawings with one seed differ only where their logits do. Guidance is the same at every scale (as in Infinity; VAR's own
ramp leaves scale 0 without any).

Letters: B rows of one batch, N positions of one scale, L of all, C bits of a code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...errors import UserError
from ..base import NextScale, PromptBatch


def guided(guidance: float) -> Callable:
    """Of the logits with the prompt and without (or with a negative one): `u + guidance (c - u)`, at every scale."""
    return lambda k, logits: logits[1] + guidance * (logits[0] - logits[1]) if len(logits) > 1 else logits[0]


def way(generator: NextScale, prompts: list[str], guidance: float) -> tuple[list[list[str] | None], Callable]:
    """How pictures of `prompts` are guided: by `generator.steering` if an erasure has set it, else as usual.

    Returns:
        (the prompts that are read beside each of `prompts`, None for the unconditional one; `combine` of `draw_batch`)
    """
    if generator.steering is not None:
        return generator.steering.beside(prompts, guidance), generator.steering.combine(guidance)
    return [None] if guidance != 1 else [], guided(guidance)


def rows_of(generator: NextScale, prompts: list[str], beside: list[list[str] | None]) -> list[PromptBatch]:
    """`prompts`, and the lists of prompts beside them, each encoded; None stands for the unconditional twins."""
    batch = generator.encode(prompts)
    twin = lambda other: generator.null_like(batch) if other is None else generator.encode(other)
    return [batch, *(twin(other) for other in beside)]


@torch.no_grad()
def draw_batch(
    generator: NextScale,
    rows: list[PromptBatch],
    combine: Callable,
    seeds_B: torch.Tensor,
    temperature: float,
    given: torch.Tensor | None = None,
    look: Callable | None = None,
) -> torch.Tensor:
    """Codes of one batch, scale by scale: int64 [B, L] or [B, L, C].

    All `rows` (each a PromptBatch of B prompts) read the same codes. `combine(k, logits)`, with the float32 logits of
    each row at scale k, [B, N, C, 2] or [B, N, V], gives those that codes are sampled from. `given` [B, K] or [B, K, C]
    holds the codes of the first scales, which are then not drawn. `look(logits)` sees what was combined, at scales that
    are given too.
    """
    trunk, tokenizer, config, quantiser = generator.trunk, generator.tokenizer, generator.config, generator.quantiser
    kept = 0 if given is None else given.shape[1]
    if kept not in (0, *(span.stop for span in config.spans)):
        raise UserError(
            f"{kept} given codes are no whole scales; those end at {', '.join(str(span.stop) for span in config.spans)}"
        )
    condition = trunk.condition(torch.cat([r.ids_BP for r in rows]), torch.cat([r.mask_BP for r in rows]))
    cache: list[list] = [[] for _ in trunk.blocks]
    f_hat = torch.zeros(
        len(seeds_B),
        config.code_width,
        config.latent_size,
        config.latent_size,
        device=generator.device,
        dtype=tokenizer.down0.dtype,
    )
    codes = []
    for k, span in enumerate(config.spans):
        inputs_BNC = tokenizer.next_input(f_hat, k).to(generator.dtype)
        head = trunk(condition, inputs_BNC.repeat(len(rows), 1, 1), span, cache)
        if span.stop > kept or look:  # a scale that is given is read for the cache's sake
            logits = combine(k, [quantiser.split(part.float()) for part in head.chunk(len(rows))])
        if look:
            look(logits)
        if span.stop <= kept:
            codes.append(given[:, span].to(generator.device))
        else:
            codes.append(quantiser.choose(logits, seeds_B, span.start, temperature))
        f_hat = f_hat + tokenizer.spread(quantiser.vectors(codes[-1]).to(f_hat.dtype), k)
    return torch.cat(codes, 1)


def scale_drawer(
    generator: NextScale,
    prompts: list[str],
    guidance: float,
    temperature: float,
    beside: list[list[str] | None] | None = None,
    combine: Callable | None = None,
) -> Callable[..., torch.Tensor]:
    """`NextScale.drawer`.

    Args:
        generator: the model.
        prompts: N prompts.
        guidance: scale of the usual guidance.
        temperature: 0 takes the likeliest codes.
        beside: other prompts that are read along with each picture: lists of N prompts, or None for the unconditional
            prompt. By default that one alone, unless guidance is 1. One list of prompts is guided away from.
        combine: what to make of the logits of `prompts` and of those `beside` them; see `draw_batch`.

    Raises:
        UserError: `beside` or `combine` where an erasure that guides is switched on, which brings both.
    """
    if generator.steering is not None and (beside is not None or combine is not None):
        raise UserError(
            "an erasure that guides is switched on, which says itself what stands beside a prompt; give neither beside nor combine"
        )
    usual, follow = way(generator, prompts, guidance)
    beside, combine = usual if beside is None else beside, combine or follow
    if any(other is not None and len(other) != len(prompts) for other in beside):
        raise ValueError(f"every list beside {len(prompts)} prompts must have as many")

    def drawn(rows, seeds_B, given, tick):
        texts = lambda all_prompts: [all_prompts[i] for i in rows]
        batches = rows_of(generator, texts(prompts), [other and texts(other) for other in beside])
        codes = draw_batch(generator, batches, combine, seeds_B, temperature, given)
        tick(1)
        return codes

    return drawn


def logits_along(
    generator: NextScale, prompts: list[str], codes: torch.Tensor, guidance: float, null: bool
) -> torch.Tensor:
    """`NextScale.log_probabilities` before the softmax: logits float32 [B, L, C, 2] or [B, L, 1, V]."""
    seen: list[torch.Tensor] = []
    if null or guidance == 1:
        batch = generator.encode(prompts)
        rows, combine = [generator.null_like(batch) if null else batch], guided(1)
    else:
        beside, combine = way(generator, prompts, guidance)
        rows = rows_of(generator, prompts, beside)
    nobodys = torch.zeros(len(prompts), dtype=torch.long)  # seeds: nothing is drawn
    draw_batch(generator, rows, combine, nobodys, 0.0, codes, seen.append)
    logits = torch.cat(seen, 1)
    return logits if generator.code_shape else logits[:, :, None]
