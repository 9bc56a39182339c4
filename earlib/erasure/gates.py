"""What is worth learning from: EAR's thresholded loss masking (TLM), and S-VARE's filter of wrong tokens."""

from __future__ import annotations

from functools import reduce

import torch

from .objective import nats_of
from .recipe import Gate
from .recipe_scale import Filter


def window_loss(loss_T: torch.Tensor, gate: Gate) -> tuple[torch.Tensor, bool, int]:
    """The loss of a window (WGA), and whether it may teach (TLM).

    "window": the sum teaches if it exceeds mu (EAR, as published). "token": tokens whose own loss does not exceed mu,
    or that are among the `quantile` of least loss, are dropped; the window is skipped when none is left. "none": every
    window teaches. The choice itself carries no gradient.

    Args:
        loss_T: L_t of the window's tokens.
        gate: the recipe's.

    Returns:
        The sum of L_t over the tokens that count, whether it teaches, and how many tokens count.
    """
    if gate.kind == "token":
        level = loss_T.detach()
        keep = level > gate.threshold
        if gate.quantile > 0:
            keep &= level > torch.quantile(level, gate.quantile)
        return (loss_T * keep).sum(), bool(keep.any()), int(keep.sum())
    half = loss_T.dtype in (torch.bfloat16, torch.float16)  # the released code: rounded sums depend on their order
    total = reduce(torch.add, loss_T) if half else loss_T.sum()
    return total, gate.kind == "none" or total.item() > gate.threshold, len(loss_T)


def is_wrong(q_BLCV: torch.Tensor, labels: torch.Tensor, gamma: float) -> torch.Tensor:
    """Whether a part's label has -log q > gamma; with gamma = ln 2, less than one half. bool [B, L, C]."""
    return nats_of(q_BLCV, labels) > gamma


def wrong_tokens(q_BLCV: torch.Tensor, p_BLCV: torch.Tensor, labels: torch.Tensor, rule: Filter) -> torch.Tensor:
    """F_t of S-VARE: tokens of which a share of alpha is wrong.

        bits       mean_b 1[ -log q(y_b) > gamma ]  against alpha
        codebook   1 - q(y) / p(y)                  against alpha: so much of the teacher's probability is lost (for a
                   codebook nothing is published)

    Args:
        q_BLCV: the student's log-probabilities.
        p_BLCV: the teacher's, only looked at with a codebook.
        labels: int64 [B, L, C] for bits, [B, L] for a codebook.
        rule: compare="exceeds" asks for more than alpha, "reaches" for at least as much.

    Returns:
        bool [B, L].
    """
    if labels.dim() == 3:
        share_BL = is_wrong(q_BLCV, labels, rule.gamma).float().mean(-1)
    else:
        share_BL = 1 - (nats_of(p_BLCV, labels) - nats_of(q_BLCV, labels))[..., 0].exp()
    return share_BL > rule.alpha if rule.compare == "exceeds" else share_BL >= rule.alpha
