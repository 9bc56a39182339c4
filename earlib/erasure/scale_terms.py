"""What a next-scale student should match, which of its tokens, and how much each counts: the terms of VARE, S-VARE and
kin, one a function.

p_t(. | c) is the distribution of the code at position t, given prompt c and the scales before t's own in some picture.
c* is a pair's target prompt, c its replacement. A code has parts: C bits of two values, or one part of V values for a
codebook; everything here is written for parts.

    naive   sum_i | p_student(r_i | r_<i, c*) - p_teacher(r'_i | r'_<i, c) |^2     r the student's picture of c*, r' the
            teacher's of c    (VARE, Eq. 6)
    VARE    sum_i | p_student(r_i | r'_<i, c*) - p_teacher(r_i | r'_<i, c) |^2     one history for both
            (VARE, Eq. 7)
    S-VARE  L_FCE + lambda L_Pre, cross entropy behind a filter and preservation   `Lesson.erase` and `Lesson.retain` in
    `lessons.py`

(arXiv 2509.22400; Eq. 6 and 7 with one distribution for all codes of a scale, here a mean over the parts of a code and
a weighted mean over positions.) The training loop is in `train.py`, the grid of choices in `recipe.py`.

Letters: B pictures, L positions, C parts of a code, V values of a part, N positions that learn (those of whole scales,
from the first one on).
"""

from __future__ import annotations

import torch

from ..errors import UserError

# ------------------------------------------------------------------ parts of codes


def log_probabilities(generator, logits: torch.Tensor) -> torch.Tensor:
    """Of every value of every part, [B, L, C, V], in float32 at least, from logits [B, L, C, 2] (bsq) or [B, L, V]
    (vq)."""
    logits = logits if generator.quantiser.code_shape else logits.unsqueeze(2)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def nats_of(q_BLCV: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """-log q(code), float [B, L, C], of codes [B, L, C] or [B, L]."""
    return -q_BLCV.gather(-1, codes.reshape(*codes.shape[:2], -1, 1))[..., 0]


def kl_of(p_BLCV: torch.Tensor, q_BLCV: torch.Tensor) -> torch.Tensor:
    """KL( p || q ) of log-probabilities, in nats, float [B, L, C]."""
    return (p_BLCV.exp() * (p_BLCV - q_BLCV)).sum(-1)


def square_of(p_BLCV: torch.Tensor, q_BLCV: torch.Tensor) -> torch.Tensor:
    """| p - q |^2 of log-probabilities, float [B, L, C]."""
    return (p_BLCV.exp() - q_BLCV.exp()).square().sum(-1)


def entropy_of(q_BLCV: torch.Tensor) -> torch.Tensor:
    """-sum q log q of log-probabilities, in nats, float [B, L, C]."""
    return -(q_BLCV.exp() * q_BLCV).sum(-1)


# ------------------------------------------------------------------ scales


def learning_span(generator, scales) -> slice:
    """The positions of the scales that learn. UserError if the model has no such scales."""
    last = scales.first + (scales.count or len(generator.schedule) - scales.first)
    if not 0 <= scales.first < last <= len(generator.schedule):
        raise UserError(
            f"scales.first={scales.first}, scales.count={scales.count}: {generator.name} has scales 0 to {len(generator.schedule) - 1}; choose some of those"
        )
    return slice(generator.spans[scales.first].start, generator.spans[last - 1].stop)


def weights(generator, scales) -> torch.Tensor:
    """w_N, float32, sum 1, over the positions up to the last scale that learns; 0 for scales before the first one.

    "token": alike. "side": proportional to 1 / side of the scale, as Infinity trains. "equal": to 1 / side^2, so that
    each of K scales has 1 / K in all.
    """
    span = learning_span(generator, scales)
    power = {"token": 0, "side": 1, "equal": 2}[scales.weight]
    weight_L = torch.cat(
        [torch.full((side * side,), 1.0 / side**power, dtype=torch.float64) for side in generator.schedule]
    )
    weight_L[: span.start] = 0
    weight_N = weight_L[: span.stop]
    return (weight_N / weight_N.sum()).float().to(generator.device)


# ------------------------------------------------------------------ the filter


def is_wrong(q_BLCV: torch.Tensor, labels: torch.Tensor, gamma: float) -> torch.Tensor:
    """Whether a part's label has -log q > gamma; with gamma = ln 2, less than one half. bool [B, L, C]."""
    return nats_of(q_BLCV, labels) > gamma


def wrong_tokens(
    generator, q_BLCV: torch.Tensor, p_BLCV: torch.Tensor | None, labels: torch.Tensor, rule
) -> torch.Tensor:
    """F_t of S-VARE, bool [B, L]: tokens of which a share of alpha is wrong. p, the teacher's, is only asked for with a
    codebook.

        bits       mean_b 1[ -log q(y_b) > gamma ]  against alpha
        codebook   1 - q(y) / p(y)                  against alpha: so much of the teacher's probability is lost (for a
                   codebook nothing is published)

    "exceeds" asks for more than alpha, "reaches" for at least as much.
    """
    if generator.quantiser.code_shape:
        share_BL = is_wrong(q_BLCV, labels, rule.gamma).float().mean(-1)
    else:
        share_BL = 1 - (nats_of(p_BLCV, labels) - nats_of(q_BLCV, labels))[..., 0].exp()
    return share_BL > rule.alpha if rule.compare == "exceeds" else share_BL >= rule.alpha
