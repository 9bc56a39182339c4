"""What the student should match, and how far it is from it: the equations of EAR, one a function."""

from __future__ import annotations

from functools import reduce

import torch


def target_states(concept_BTD: torch.Tensor, replacement_BTD: torch.Tensor, origin_BTD: torch.Tensor, objective: str, eta: float) -> torch.Tensor:
    """The states that the student is pulled to (EAR, the loss's right-hand side):

        negated:      h*(r) - eta (h*(c) - h*(r'))
        replacement:  h*(r)

    `concept` is h*(c), `replacement` h*(r) and `origin` h*(r'): the same states when they are read along one picture, two samples otherwise.
    """
    if objective == "replacement":
        return replacement_BTD
    return replacement_BTD - eta * (concept_BTD - origin_BTD)


def token_loss(student_BTD: torch.Tensor, target_BTD: torch.Tensor) -> torch.Tensor:
    """L_t, float32 [T]: squared error, averaged over the width and over the rows (conditional and unconditional)."""
    at_least_float = torch.promote_types(student_BTD.dtype, torch.float32)
    return (student_BTD.to(at_least_float) - target_BTD.to(at_least_float)).square().mean((0, 2))


def window_loss(loss_T: torch.Tensor, gate) -> tuple[torch.Tensor, bool, int]:
    """Sum of L_t over a window, whether it may teach (TLM), and how many of its tokens count.

    gate "window": the sum teaches if it exceeds mu (EAR, as published). gate "token": tokens whose own loss does not exceed mu, or that are
    among the `quantile` of least loss, are dropped; the window is skipped when none is left. The choice itself carries no gradient.
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
