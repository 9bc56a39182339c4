"""What only autoregressive models let one measure: exact likelihoods, code by code.

Throughout, p* is the base model and p the same model with the erasure on; x are a picture's codes, L of them, c is a
prompt and 0 its unconditional twin. A code is a token of a next-token model, or one code of all scales of a next-scale
model, whose parts (bits) add up. Means are over codes first and over prompts last; intervals are bootstrapped over
prompts. No picture is judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ..erasure.objective import divergence
from ..generators.base import Generator, NextToken
from .rate import Estimate, Rate

if TYPE_CHECKING:
    from ..erasure.store import Erasure


class Model(NamedTuple):
    """A model as it is to be measured: with an erasure on, or as it was trained."""

    generator: Generator
    erasure: Erasure | None = None


def draw_tokens(
    generator: Generator,
    prompts: Sequence[str],
    seed: int = 0,
    erasure: Erasure | None = None,
    guidance: float | None = None,
    given: torch.Tensor | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """Codes of the pictures that `generators.draw` makes of the same prompts and seed, int64 [N, L, ...]; the first K
    may be `given`."""
    from ..generators import default_keys, picture_seeds

    prompts = list(prompts)
    with _on(erasure, generator):
        seeds = picture_seeds(seed, default_keys(prompts))
        return generator.sample(prompts, seeds, guidance, progress=progress, given=given)


def distributions(
    generator: Generator,
    prompts: list[str],
    codes: torch.Tensor,
    erasure: Erasure | None = None,
    guidance: float | None = 1.0,
    null: bool = False,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """`Generator.log_probabilities` with the erasure on, in batches that fit into memory: yields (which pictures,
    float32 [B, L, parts, values])."""
    for rows in generator.logit_batches(codes):
        with _on(erasure, generator):
            log_p = generator.log_probabilities(prompts[rows], codes[rows], guidance, null)
        yield rows, log_p


def _on(erasure: Erasure | None, generator: Generator) -> AbstractContextManager:
    return erasure.on(generator) if erasure is not None else nullcontext()


# ---------------------------------------------------------------- how far the model moved where it should not


def kl_by_code(
    drawer: Model, other: Model, prompts: list[str], codes: torch.Tensor, guidance: float | None = 1.0
) -> torch.Tensor:
    """KL( drawer(. | x_<t, c) || other(. | x_<t, c) ) at every code of given pictures, in nats: float64 [N, L].

    Args:
        drawer, other: the two models, of the same codes; often one generator without its erasure and with it.
        prompts: N prompts.
        codes: N pictures, one of each prompt, int64 [N, L, ...]: what `drawer` drew, for a mean to be a divergence.
        guidance: of both distributions; None for each model's own, with whatever steers it.
    """
    kl_NL = torch.zeros(codes.shape[:2], dtype=torch.float64)
    of = lambda model: distributions(model.generator, prompts, codes, model.erasure, guidance)
    for (rows, own_BLCV), (_, other_BLCV) in zip(of(drawer), of(other)):
        kl_NL[rows] = divergence(other_BLCV, own_BLCV, "kl").double().sum(-1)
    return kl_NL


def kl_drift(generator: Generator, erasure: Erasure | None, prompts: list[str], codes: torch.Tensor) -> Estimate:
    """Drift on prompts to retain, in nats a code, along the base model's own pictures x ~ p*(. | c):

        1/L sum_t KL( p*(. | x_<t, c) || p(. | x_<t, c) )

    0 for an erasure that changes nothing, never negative. `codes` are the base's (`draw_tokens`).
    """
    kl_NL = kl_by_code(Model(generator), Model(generator, erasure), prompts, codes)
    return Estimate.mean(kl_NL.mean(1).numpy(), prompts)


def token_agreement(prompts: list[str], base: torch.Tensor, erased: torch.Tensor) -> dict[str, Rate | Estimate]:
    """How much of a picture the erasure left as it was, when both are drawn with the same noise (common random
    numbers):

        agreement   1/L sum_t [x_t = x*_t]       mean share of equal codes
        identical   share of pictures in which every code is equal, with a Wilson interval
        untouched   mean share of the picture before the first code that differs

    Sampling with noise that hangs on (picture seed, position, code) makes an unchanged model agree with itself to the
    last code; two unrelated models agree by chance only. After the first difference the pictures go separate ways:
    `agreement` falls faster than `kl_drift` rises.
    """
    same_NL = (base == erased).flatten(2).all(-1).numpy() if base.dim() > 2 else (base == erased).numpy()
    first = np.where(same_NL.all(1), same_NL.shape[1], same_NL.argmin(1))
    return {
        "agreement": Estimate.mean(same_NL.mean(1), prompts),
        "identical": Rate.of(np.asarray(same_NL.all(1))),
        "untouched": Estimate.mean(first / same_NL.shape[1], prompts),
    }


# ---------------------------------------------------------------- what the model still knows of the concept


def nll(
    generator: Generator, prompts: list[str], codes: torch.Tensor, erasure: Erasure | None = None, null: bool = False
) -> np.ndarray:
    """-1/L log p(x | c) of every picture, in nats a code, exact: float64 [N]. With `null`, under the unconditional
    twin."""
    found = np.zeros(len(codes))
    for rows, log_p_BLCV in distributions(generator, prompts, codes, erasure, null=null):
        codes_BLC1 = codes[rows].reshape(*log_p_BLCV.shape[:3], 1)
        found[rows] = -log_p_BLCV.gather(-1, codes_BLC1)[..., 0].double().sum(-1).mean(1).numpy()
    return found


def likelihood_gap(
    generator: Generator, erasure: Erasure | None, prompts: list[str], codes: torch.Tensor
) -> dict[str, Estimate]:
    """How much naming the concept helps the model to explain pictures of it, in nats a code:

        gap = NLL(x | 0) - NLL(x | c)

    `codes` are pictures of the concept (real ones, or the base's own), `prompts` what they show. Near 0 the name
    has lost its meaning, below 0 the model shuns what it names; a gap that stays while no concept is drawn says that
    the knowledge is hidden, not gone. Returns `base`, `erased` and `change`, the paired difference.
    """
    gaps = {}
    for name, change in (("base", None), ("erased", erasure)):
        of = lambda null, change=change: nll(generator, prompts, codes, change, null)
        gaps[name] = of(null=True) - of(null=False)
    summaries = {name: Estimate.mean(gap, prompts) for name, gap in gaps.items()}
    return summaries | {"change": Estimate.paired(gaps["base"], gaps["erased"], prompts)}


def first_row_entropy(
    generator: NextToken, prompts: list[str], codes: torch.Tensor, erasure: Erasure | None = None
) -> dict[str, Estimate]:
    """How free a model's first row is, in nats, along pictures it drew itself (`codes`), from the guided distribution q
    that it draws from:

        entropy   mean over pictures and first-row positions of H( q(. | x_<t, c) )
        spread    mean over first-row positions of H( mean over pictures of q(. | x_<t, c) )

    A model that collapsed to one picture, whatever the prompt, has a small spread; one that is merely sure of itself
    has a small entropy and keeps its spread. The spread's interval resamples pictures, and an average of few of them is
    too small by itself: compare equal numbers.
    """
    first_row = codes[:, : generator.grid[1]]
    parts = (log_p.exp()[:, :, 0] for _, log_p in distributions(generator, prompts, first_row, erasure))
    q_NWV = torch.cat(list(parts))
    entropy_of = lambda p: torch.special.entr(p).sum(-1)
    spread_of = lambda rows: entropy_of(q_NWV[rows].mean(0)).mean().item()
    rng, n = np.random.default_rng(0), len(q_NWV)
    ends: list[float] = []
    if n > 1:
        resampled = [spread_of(rng.integers(0, n, n)) for _ in range(200)]
        ends = [float(end) for end in np.quantile(resampled, (0.025, 0.975))]
    return {
        "entropy": Estimate.mean(entropy_of(q_NWV).mean(1).double().numpy(), prompts),
        "spread": Estimate(spread_of(np.arange(n)), n, *ends),
    }
