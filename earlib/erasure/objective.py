"""What the student should match, and how far it is from it: the equations, one a function.

z stands for what is compared, states h or logits. c is the prompt with the concept, r its replacement, 0 no prompt; a
star marks the teacher.
"""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F


def target_states(
    concept_BTD: torch.Tensor, replacement_BTD: torch.Tensor, origin_BTD: torch.Tensor, objective: str, eta: float
) -> torch.Tensor:
    """The states (or logits) that the student is pulled to:

        negated:      z*(r) - eta (z*(c) - z*(r'))     EAR, the loss's right-hand side; ESD's Eq. 6 where r = r' = 0
        replacement:  z*(r)                            Concept Ablation's Eq. 3, VARE's Eq. 7

    `concept` is z*(c), `replacement` z*(r) and `origin` z*(r'): the same states when they are read along one picture,
    two samples otherwise.
    """
    if objective == "replacement":
        return replacement_BTD
    return replacement_BTD - eta * (concept_BTD - origin_BTD)


def token_loss(student_BTD: torch.Tensor, target_BTD: torch.Tensor) -> torch.Tensor:
    """L_t, float32 [T]: squared error, averaged over the width and over the rows."""
    at_least_float = torch.promote_types(student_BTD.dtype, torch.float32)
    return (student_BTD.to(at_least_float) - target_BTD.to(at_least_float)).square().mean((0, 2))


def divergence(student_BTV: torch.Tensor, target_BTV: torch.Tensor, kind: str) -> torch.Tensor:
    """KL of two distributions given by their logits, in nats, float32 [B, T]:

    kl:          KL( softmax target || softmax student )
    reverse-kl:  KL( softmax student || softmax target )
    """
    at_least_float = torch.promote_types(student_BTV.dtype, torch.float32)
    student, target = (z.to(at_least_float).log_softmax(-1) for z in (student_BTV, target_BTV))
    p, q = (target, student) if kind == "kl" else (student, target)
    return (p.exp() * (p - q)).sum(-1)


def log_likelihood(logits_BTV: torch.Tensor, tokens_BT: torch.Tensor) -> torch.Tensor:
    """log p(x_t | x_<t, c), float32 [B, T]."""
    at_least_float = torch.promote_types(logits_BTV.dtype, torch.float32)
    return logits_BTV.to(at_least_float).log_softmax(-1).gather(-1, tokens_BT[..., None])[..., 0]


def npo_loss(student_B: torch.Tensor, teacher_B: torch.Tensor, beta: float) -> torch.Tensor:
    """Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868, Eq. 3), float [B]:

        2/beta log( 1 + (p(x|c) / p*(x|c))^beta )

    The arguments are log-likelihoods averaged over a picture's tokens (as SimNPO does), as sums over hundreds of tokens
    saturate at once.
    """
    return 2 / beta * F.softplus(beta * (student_B - teacher_B))


def dpo_loss(winner_B: torch.Tensor, loser_B: torch.Tensor, beta: float) -> torch.Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, Eq. 7), float [B]: -log sigmoid( beta (winner - loser) ).

    Both arguments are log(p / p*), averaged over the tokens of a picture, under the prompt with the concept.
    """
    return -F.logsigmoid(beta * (winner_B - loser_B))


def window_loss(loss_T: torch.Tensor, gate) -> tuple[torch.Tensor, bool, int]:
    """Sum of L_t over a window, whether it may teach (TLM), and how many of its tokens count.

    gate "window": the sum teaches if it exceeds mu (EAR, as published). gate "token": tokens whose own loss does not
    exceed mu, or that are among the `quantile` of least loss, are dropped; the window is skipped when none is left. The
    choice itself carries no gradient.
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
