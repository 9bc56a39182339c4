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
from ..base import PromptBatch

BATCH = 128  # pictures drawn at a time


def guided(guidance: float) -> Callable:
    """Of the logits with the prompt and without (or with a negative one): `u + guidance (c - u)`, at every scale."""
    return lambda k, logits: logits[1] + guidance * (logits[0] - logits[1]) if len(logits) > 1 else logits[0]


def way(generator, prompts: list[str], guidance: float) -> tuple[list, Callable]:
    """(what stands beside the prompts, how the logits of all are combined): as an erasure that guides has it, or the
    usual guidance."""
    if generator.steering is not None:
        return generator.steering.beside(prompts, guidance), generator.steering.combine(guidance)
    return [None] if guidance != 1 else [], guided(guidance)


def rows_of(generator, prompts: list[str], beside: list, some: slice = slice(None)) -> list[PromptBatch]:
    """Those of `prompts` and of what stands beside them, each encoded; None stands for the unconditional twin."""
    batch = generator.encode(prompts[some])
    return [
        batch,
        *(generator.null_like(batch) if other is None else generator.encode(other[some]) for other in beside),
    ]


@torch.no_grad()
def draw_batch(
    generator,
    rows: list[PromptBatch],
    combine: Callable,
    seeds_B: torch.Tensor,
    temperature: float,
    given: torch.Tensor | None = None,
    look=None,
):
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


def sample_batches(
    generator,
    prompts: list[str],
    seeds: list[int],
    guidance: float,
    temperature: float,
    batch_size: int | None = None,
    progress: bool = False,
    beside: list[list[str] | None] | None = None,
    combine: Callable | None = None,
    given: torch.Tensor | None = None,
):
    """Draw `prompts`, one int seed each, in batches: yields (which prompts, their codes int64 [B, L] or [B, L, C] on
    the CPU) until all are drawn.

    `beside` lists other prompts for every picture, N of them each, or None for the unconditional one; by default that,
    unless guidance is 1. One list of negative prompts is guided away from. `combine` (see `draw_batch`) makes something
    else of the logits of `prompts` and those `beside` them. An erasure that guides (`generator.steering`) brings both,
    so that neither can be given beside it: UserError.
    """
    from tqdm.auto import tqdm

    if generator.steering is not None and (beside is not None or combine is not None):
        raise UserError(
            "an erasure that guides is switched on, which says itself what stands beside a prompt; give neither beside nor combine"
        )
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed for each prompt")
    usual, follow = way(generator, prompts, guidance)
    beside, combine = usual if beside is None else beside, combine or follow
    if any(other is not None and len(other) != len(prompts) for other in beside):
        raise ValueError(f"every list beside {len(prompts)} prompts must have as many")
    size = batch_size or BATCH
    with tqdm(
        total=len(prompts), unit="picture", desc="drawing", disable=not (progress and prompts), leave=False
    ) as bar:
        for start in range(0, len(prompts), size):
            some = slice(start, min(start + size, len(prompts)))
            rows = rows_of(generator, prompts, beside, some)
            seeds_B = torch.tensor(seeds[some], dtype=torch.long, device=generator.device)
            codes = draw_batch(
                generator, rows, combine, seeds_B, temperature, None if given is None else given[some]
            ).cpu()
            bar.update(len(seeds_B))
            yield range(some.start, some.stop), codes


def sample_codes(
    generator, prompts: list[str], seeds: list[int], guidance: float, temperature: float, *args, **more
) -> torch.Tensor:
    """Codes int64 [N, L] or [N, L, C] on the CPU for `prompts`: what `sample_batches` yields, all of it."""
    none = torch.zeros(0, generator.num_image_tokens, *generator.quantiser.code_shape, dtype=torch.long)
    return torch.cat(
        [none, *(codes for _, codes in sample_batches(generator, prompts, seeds, guidance, temperature, *args, **more))]
    )


def log_probabilities(
    generator, prompts: list[str], codes: torch.Tensor, erasure=None, guidance: float | None = None
) -> torch.Tensor:
    """log p of every value of every part of a code, as it is drawn from at temperature 1: float32 [B, L, C, 2] or [B,
    L, 1, V], on the CPU.

    Scale by scale along `codes` ([B, L] or [B, L, C], other pictures' than these prompts', if you like), with guidance
    (the model's own by default) or as an erasure that guides makes it.
    """
    from contextlib import nullcontext

    from ...erasure.scale_terms import log_probabilities as of_logits

    seen: list[torch.Tensor] = []
    guidance = generator.guidance if guidance is None else guidance
    with erasure.on(generator) if erasure is not None else nullcontext():
        beside, combine = way(generator, prompts, guidance)
        nobodys = torch.zeros(len(prompts), dtype=torch.long)  # seeds: nothing is drawn
        draw_batch(generator, rows_of(generator, prompts, beside), combine, nobodys, 0.0, codes, seen.append)
    return of_logits(generator, torch.cat(seen, 1)).cpu()


def prompt_switch(
    generator,
    before: list[str],
    after: list[str],
    scale: int,
    seeds: list[int],
    guidance=None,
    temperature=None,
    **more,
) -> torch.Tensor:
    """Codes of pictures that follow `before` at scales below `scale` and `after` from it on, with the noise of one
    drawing (briefs/var.md 2.3).

    Only codes pass from the first prompt to the second: keys and values of the early scales, as later ones see them,
    are those that `after` gives. `scale` 0 draws `after`, the number of scales draws `before`. Other arguments are
    those of `sample_batches`. UserError for another `scale`.
    """
    if not 0 <= scale <= len(generator.schedule):
        raise UserError(f"prompts can switch at scale 0 to {len(generator.schedule)} of this model, not at {scale}")
    guidance = generator.guidance if guidance is None else guidance
    temperature = generator.temperature if temperature is None else temperature
    follow = guided(guidance)
    switch = lambda k, logits: follow(k, [logits[0] if k < scale else logits[1], *logits[2:]])
    beside = [after, None] if guidance != 1 else [after]
    return sample_codes(generator, before, seeds, guidance, temperature, beside=beside, combine=switch, **more)
