"""What only autoregressive models let one measure: exact likelihoods, token by token, and pictures continued from given
tokens.

Throughout, p* is the base model and p the same model with the erasure on; x is a picture's image tokens, T of them, V
codes, c a prompt and 0 its unconditional twin. Means are over tokens first and over prompts last; intervals are
bootstrapped over prompts. Letters in tensor names as in `generators/base.py`. The measures judge no pictures, but for
the two that draw: there a judge is given.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch

from .rate import Estimate, Rate

PROBED = (0.0, 0.25, 0.5, 0.75)  # shares of the rows that the prefix probe gives away
SCALES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)


def draw_tokens(
    generator, prompts: list[str], seed: int = 0, erasure=None, guidance=None, given=None, progress: bool = False
) -> torch.Tensor:
    """Image tokens int64 [N, T] of the pictures that `generators.draw` makes of the same prompts and seed; the first K
    may be `given`."""
    from ..generators import default_keys, picture_seeds

    prompts = list(prompts)
    with _on(erasure, generator):
        seeds = picture_seeds(seed, default_keys(prompts))
        return generator.sample(prompts, seeds, guidance, progress=progress, given=given)


def distributions(
    generator, prompts: list[str], codes: torch.Tensor, erasure=None, guidance: float = 1.0, null: bool = False
):
    """Yields (rows, log-probabilities) of pictures in batches that fit into memory: `Generator.log_probabilities` with the
    erasure switched on, float32 [B, L, parts, values]."""
    for rows in generator.logit_batches(codes):
        with _on(erasure, generator):
            log_p = generator.log_probabilities(prompts[rows], codes[rows], guidance, null)
        yield rows, log_p


def _on(erasure, generator):
    return erasure.on(generator) if erasure is not None else nullcontext()


# ---------------------------------------------------------------- how far the model moved where it should not


def kl_drift(generator, erasure, prompts: list[str], tokens_NT: torch.Tensor) -> Estimate:
    """Drift on prompts to retain, in nats a token, along the base model's own pictures x ~ p*(. | c):

        1/T sum_t KL( p*(. | x_<t, c) || p(. | x_<t, c) )

    0 for an erasure that changes nothing, never negative. `tokens_NT` are the base's (`draw_tokens`).
    """
    kl_NT = torch.zeros(tokens_NT.shape[:2], dtype=torch.float64)
    pairs = zip(distributions(generator, prompts, tokens_NT), distributions(generator, prompts, tokens_NT, erasure))
    for (rows, base), (_, erased) in pairs:
        kl_NT[rows] = (base.exp() * (base - erased)).sum(-1).double().sum(-1)  # the parts of a code add up
    return Estimate.mean(kl_NT.mean(1).numpy(), prompts)


def token_agreement(prompts: list[str], base_NT: torch.Tensor, erased_NT: torch.Tensor) -> dict[str, Rate | Estimate]:
    """How much of a picture the erasure left as it was, when both are drawn with the same noise (common random
    numbers):

        agreement   1/T sum_t [x_t = x*_t]       mean share of equal tokens
        identical   share of pictures in which every token is equal, with a Wilson interval
        untouched   mean share of the picture before the first token that differs

    Sampling with noise that hangs on (picture seed, position, code) makes an unchanged model agree with itself to the
    last token; two unrelated models agree by chance only. After the first difference the pictures go separate ways:
    `agreement` falls faster than `kl_drift` rises.
    """
    same_NT = (base_NT == erased_NT).numpy()
    first = np.where(same_NT.all(1), same_NT.shape[1], same_NT.argmin(1))
    return {
        "agreement": Estimate.mean(same_NT.mean(1), prompts),
        "identical": Rate.of(same_NT.all(1)),
        "untouched": Estimate.mean(first / same_NT.shape[1], prompts),
    }


# ---------------------------------------------------------------- what the model still knows of the concept


def nll(generator, prompts: list[str], tokens_NT: torch.Tensor, erasure=None, null: bool = False) -> np.ndarray:
    """-1/T log p(x | c) of every picture, in nats a token, exact: float64 [N]. With `null`, under the unconditional
    twin."""
    found = np.zeros(len(tokens_NT))
    for rows, log_p in distributions(generator, prompts, tokens_NT, erasure, null=null):
        codes_BLC1 = tokens_NT[rows].reshape(*log_p.shape[:3], 1)
        found[rows] = -log_p.gather(-1, codes_BLC1)[..., 0].double().sum(-1).mean(1).numpy()
    return found


def likelihood_gap(generator, erasure, prompts: list[str], tokens_NT: torch.Tensor) -> dict[str, Estimate]:
    """How much naming the concept helps the model to explain pictures of it, in nats a token:

        gap = NLL(x | 0) - NLL(x | c)

    `tokens_NT` are pictures of the concept (real ones, or the base's own), `prompts` what they show. Near 0 the name
    has lost its meaning, below 0 the model shuns what it names; a gap that stays while no concept is drawn says that
    the knowledge is hidden, not gone. Returns `base`, `erased` and `change`, the paired difference.
    """
    gaps = {}
    for name, change in (("base", None), ("erased", erasure)):
        gaps[name] = nll(generator, prompts, tokens_NT, change, null=True) - nll(generator, prompts, tokens_NT, change)
    summaries = {name: Estimate.mean(gap, prompts) for name, gap in gaps.items()}
    return summaries | {"change": Estimate.paired(gaps["base"], gaps["erased"], prompts)}


def first_row_entropy(
    generator, prompts: list[str], tokens_NT: torch.Tensor, erasure=None, guidance=None
) -> dict[str, Estimate]:
    """How free a model's first row is, in nats, along pictures it drew itself (`tokens_NT`), from the guided
    distribution q that it draws from:

        entropy   mean over pictures and first-row positions of H( q(. | x_<t, c) )
        spread    mean over first-row positions of H( mean over pictures of q(. | x_<t, c) )

    A model that collapsed to one picture, whatever the prompt, has a small spread; one that is merely sure of itself
    has a small entropy and keeps its spread. The spread's interval resamples pictures, and an average of few of them is
    too small by itself: compare equal numbers.
    """
    W = generator.grid[1]
    guidance = generator.guidance if guidance is None else guidance
    q_NWV = [
        log_p.exp()[:, :, 0] for _, log_p in distributions(generator, prompts, tokens_NT[:, :W], erasure, guidance)
    ]
    q_NWV = torch.cat(q_NWV)
    entropy_N = _entropy(q_NWV).mean(1).double().numpy()
    spread = lambda rows: _entropy(q_NWV[rows].mean(0)).mean().item()
    rng, n = np.random.default_rng(0), len(q_NWV)
    low, high = (
        (float(x) for x in np.quantile([spread(rng.integers(0, n, n)) for _ in range(200)], (0.025, 0.975)))
        if n > 1
        else (None, None)
    )
    return {"entropy": Estimate.mean(entropy_N, prompts), "spread": Estimate(spread(np.arange(n)), n, low, high)}


def _entropy(p: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(p).sum(-1)


# ---------------------------------------------------------------- can it be brought back


def guidance_sweep(
    generator, prompts: list[str], judge, erasure=None, scales=SCALES, seed: int = 0, progress: bool = False
) -> dict[float, Rate]:
    """The concept's rate at each guidance scale w, the pictures drawn from u + w (c - u): scale to Rate.

    An erasure that weakened the conditional branch and left its direction can be amplified back by a larger w; one that
    turned the direction round is made stronger by it. The same picture seeds at every scale.
    """
    rates = {}
    for scale in scales:
        tokens_NT = draw_tokens(generator, prompts, seed, erasure, scale, progress=progress)
        rates[scale] = Rate.of(judge.shows(generator.decode(tokens_NT)))
    return rates


def prefix_probe(
    generator,
    prompts: list[str],
    tokens_NT: torch.Tensor,
    judge,
    erasure=None,
    filler_NT=None,
    shares=PROBED,
    seed: int = 1,
    progress: bool = False,
) -> list[dict]:
    """Do the first rows of a picture of the concept bring it back? Rows {"rows", "rate", "alone"},
    one for each share of the grid.

    The first k rows of `tokens_NT` (the base's pictures of the concept) are given, the model draws the rest under
    `prompts` from another seed, and `rate` is the rate at which the judge sees the concept in the whole. Rows that
    show the concept by themselves prove nothing: `alone`, a rate too, is what is seen when the rest is filled with the
    rows of `filler_NT` [N, T], pictures without the concept (None without them). The visual- context probe of When Are
    Concepts Erased (arXiv 2505.17013), for image tokens.
    """
    H, W = generator.grid
    rows = []
    for k in sorted({round(share * H) for share in shares}):
        given_NK = tokens_NT[:, : k * W]
        found = Rate.of(
            judge.shows(
                generator.decode(draw_tokens(generator, prompts, seed, erasure, given=given_NK, progress=progress))
            )
        )
        alone = None
        if filler_NT is not None:
            alone = Rate.of(judge.shows(generator.decode(torch.cat([given_NK, filler_NT[:, k * W :]], 1))))
        rows.append({"rows": k, "rate": found, "alone": alone})
    return rows
