"""What the student should match, and how far it is from it: the equations, one a function.

z stands for what is compared, states h or logits. c is the prompt with the concept, r its replacement, 0 no prompt; a
star marks the teacher. p and q are distributions, given by their logarithms. Which tokens count is in `gates.py`.

Letters: B rows, T tokens, L codes of all scales, C parts of a code (bits, or one part for a codebook), V values of a
part.
"""

from __future__ import annotations

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


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """log softmax over the last dimension, in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL( p || q ) of log-probabilities [..., V], in nats, float [...]."""
    return (p.exp() * (p - q)).sum(-1)


def square(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """| p - q |^2 of log-probabilities [..., V], float [...]."""
    return (p.exp() - q.exp()).square().sum(-1)


def entropy(q: torch.Tensor) -> torch.Tensor:
    """-sum q log q of log-probabilities [..., V], in nats, float [...]."""
    return -(q.exp() * q).sum(-1)


def divergence(student_BTV: torch.Tensor, target_BTV: torch.Tensor, kind: str) -> torch.Tensor:
    """KL of two distributions given by their logits, in nats, float32 [B, T]:

    kl:          KL( softmax target || softmax student )
    reverse-kl:  KL( softmax student || softmax target )
    """
    student, target = log_probabilities(student_BTV), log_probabilities(target_BTV)
    return kl(target, student) if kind == "kl" else kl(student, target)


def log_likelihood(logits_BTV: torch.Tensor, tokens_BT: torch.Tensor) -> torch.Tensor:
    """log p(x_t | x_<t, c), float32 [B, T]."""
    return log_probabilities(logits_BTV).gather(-1, tokens_BT[..., None])[..., 0]


def nats_of(q_BLCV: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """-log q(code) of codes int64 [B, L, C] or [B, L], given log-probabilities of every part's values: float
    [B, L, C]."""
    return -q_BLCV.gather(-1, codes.reshape(*codes.shape[:2], -1, 1))[..., 0]


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
