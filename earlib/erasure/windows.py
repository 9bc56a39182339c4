"""How long a window should be, told by the base model alone before anything is trained.

The loss L_t of token t is that of the recipe's first lesson, where the student still is the teacher. Its gradients
tell, with a tolerance d:

    decay         what a window cuts off: gradients do not reach tokens before its start, and phi(k) = mean_t
                  |dL_t/dx_(t-k)| falls with the lag k; W is the least for which the share lost, a mean over its tokens,
                  1/W sum_(j<W) sum_(k>j) phi(k) / sum_k phi(k), is at most d (adaptive truncation of backpropagation,
                  Aicher et al. 2019, arXiv 1905.07473, whose tail is a fitted one)
    correlation   how far tokens pull alike: the least lag k at which the mean cosine of dL_t/dw and dL_(t+k)/dw is at
                  most d
    noise         how many tokens it takes until a step's mean gradient stands above its noise: tr S / |G|^2 of dL_t/dw
                  (gradient noise scale, McCandlish et al. 2018, arXiv 1812.06162)
    entropy       between cuts where the base model is unsure: the mean distance of tokens whose entropy lies more than
                  a standard deviation above the mean (patches cut at entropy, DPAR, arXiv 2512.21867)

x are the states that the first layer that trains reads, w the weights that train. Letters: T tokens, N tokens whose
gradients are taken, F numbers of a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UserError
from ..generators.base import NextToken
from .change import applied, hooked, layer_range, student_parameters, tensor_names
from .settings import WHOLE, with_settings

if TYPE_CHECKING:
    from ..concepts import PromptPair
    from .recipe import Recipe

TOLERANCE = 0.1  # d
PAIRS = 4  # whose pictures are looked at
TOKENS = 144  # of each picture, evenly, whose gradients are taken
NUMBERS = 2**16  # of a gradient, evenly

_last: dict[str, Signals] = {}  # those asked for last: a run's folder, its training and its log ask in turn


@dataclass(frozen=True)
class Signals:
    """What a base model tells of a recipe on some pairs.

    Attributes:
        reach_T: phi by lag, float64 [T]; 0 at lags that were not looked at.
        alike_T: mean cosine by lag, float64 [T]; NaN at lags that were not looked at.
        noise_scale: tr S / |G|^2, in tokens.
        entropies: float64 [T] of each picture, in nats.
    """

    reach_T: np.ndarray
    alike_T: np.ndarray
    noise_scale: float
    entropies: list[np.ndarray]

    def window(self, rule: str) -> int:
        """The window that a rule of RULES predicts, in tokens: from 1 to the whole picture."""
        return max(1, min(getattr(self, rule)(), len(self.reach_T)))

    def decay(self) -> int:
        """See the head of this file."""
        lost_T = 1 - np.cumsum(self.reach_T) / self.reach_T.sum()  # by a token with so many tokens before it
        means_T = np.cumsum(lost_T) / np.arange(1, len(lost_T) + 1)
        return int(np.argmax(means_T <= TOLERANCE)) + 1 if (means_T <= TOLERANCE).any() else len(lost_T)

    def correlation(self) -> int:
        """See the head of this file."""
        apart = np.flatnonzero(self.alike_T <= TOLERANCE)  # NaN is none
        return int(apart[0]) if len(apart) else len(self.alike_T)

    def noise(self) -> int:
        """See the head of this file."""
        return round(min(self.noise_scale, len(self.reach_T)))

    def entropy(self) -> int:
        """See the head of this file."""
        cuts = [np.sum(each > each.mean() + each.std()) + 1 for each in self.entropies]
        return round(len(self.reach_T) / float(np.mean(cuts)))


def signals(generator: NextToken, pairs: Sequence[PromptPair], recipe: Recipe, seed: int = 0) -> Signals:
    """Look at the gradients of `recipe` on the base model.

    Raises:
        UserError: the recipe does not look at tokens in windows.
    """
    from .lessons import Lessons
    from .matching import Matching

    recipe, T = with_settings(recipe, {"windows.length": WHOLE, "pairs": PAIRS, "batch": 1}), generator.num_codes
    key = repr((generator.fingerprint, tuple(pairs), recipe, seed))
    if key in _last:
        return _last[key]
    lessons = Lessons(generator, pairs, recipe, seed)
    if lessons.kind is not Matching:
        raise UserError(f"recipe '{recipe.name}' has no windows of tokens to predict; give windows.length a number")
    student = student_parameters(
        generator.trunk, tensor_names(recipe, len(generator.decoder_layers)), rank=recipe.rank, seed=seed
    )
    first = generator.decoder_layers[layer_range(recipe.layers, len(generator.decoder_layers))[0]]
    every = -(-T // TOKENS)
    reach_T, looks_T, cosines, squares, sums, entropies = np.zeros(T), np.zeros(T), [], [], [], []
    for i in range(len(lessons.pairs)):
        lesson = lessons.begin(i, nullcontext)
        assert isinstance(lesson, Matching)
        with applied(generator, student, recipe.positions), reading(first) as found:
            losses_T = lesson.losses(0, T)
        gradients = []
        for t in range(0, T, every):
            inner, *outer = torch.autograd.grad(
                losses_T[t], [found[0], *student.values()], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            sizes = inner[:, -T:].float().square().sum((0, 2)).sqrt().cpu().numpy()[t::-1]  # by lag
            reach_T[: t + 1] += sizes
            looks_T[: t + 1] += 1
            flat = torch.cat([part.flatten() for part in outer])
            gradients.append(flat[:: -(-len(flat) // NUMBERS)].float())
        g_NF = torch.stack(gradients)
        unit_NF = torch.nn.functional.normalize(g_NF, dim=1)
        cosines.append((unit_NF @ unit_NF.T).cpu().numpy())
        squares.append(g_NF.square().sum(1).mean().item())
        sums.append(g_NF.sum(0))
        log_p = generator.log_probabilities([lessons.pairs[i].target], lesson.tokens_RT[:1].cpu(), guidance=1.0)
        entropies.append(torch.special.entr(log_p[0, :, 0].exp()).sum(-1).double().numpy())
    alike_T = np.full(T, np.nan)
    for lag in range(0, T, every):
        alike_T[lag] = np.mean([np.diagonal(each, lag // every).mean() for each in cosines])
    N = len(cosines[0]) * len(cosines)
    mean_F = torch.stack(sums).sum(0) / N
    square = sum(squares) / len(squares)
    spread = (square - mean_F.square().sum().item()) * N / (N - 1)
    noise = spread / (square - spread) if square > spread else math.inf  # |G|^2 without what noise adds to it
    _last.clear()
    _last[key] = Signals(reach_T / np.maximum(looks_T, 1), alike_T, noise, entropies)
    return _last[key]


@contextmanager
def reading(layer: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The context in which what a layer reads is kept, as the beginning of all gradients."""
    found: list[torch.Tensor] = []

    def keep(module: Any, args: Any, kwargs: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        found.append(states.detach().requires_grad_())
        return ((found[0], *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": found[0]})

    with hooked(layer.register_forward_pre_hook(keep, with_kwargs=True)):
        yield found
