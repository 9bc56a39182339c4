"""Lessons about what happens inside the decoder layers: states pushed to a random direction (RMU), attention taken off
the concept's words (Forget-Me-Not).

The layer that is looked at is the last one that trains. Conditional rows only; along the teacher's pictures of the
concept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ..concepts import PromptPair
from .change import hooked, layer_range
from .matching import WindowLesson
from .retain import own_words

if TYPE_CHECKING:
    from .lessons import Lessons


class Inside(WindowLesson):
    """random: the states after the last trained layer become a fixed random direction, eta times as long as they were,
    at the prompt's words and at image tokens (RMU; Li et al. 2024, arXiv 2403.03218, Eq. 1). unattend: the squared
    attention that image tokens pay to the concept's own words, in every trained layer, becomes zero (Forget-Me-Not;
    Zhang et al. 2023, arXiv 2303.17591, Eq. 3: attention re-steering)."""

    def __init__(self, lessons: Lessons, number: int, pairs: list[PromptPair], prefix: dict[str, Any]):
        super().__init__(lessons, number, pairs, prefix)
        generator, self.tokens_BT = self.generator, prefix["prefix"].to(self.generator.device)
        layers = layer_range(self.recipe.layers, len(generator.decoder_layers))
        self.layers: list[Any] = [generator.decoder_layers[i] for i in layers]
        words_BP = generator.word_mask(self.prompts)
        if self.recipe.objective == "unattend":
            self.concept_BP = words_BP & own_words(generator, self.prompts, pairs)
            return
        with torch.no_grad():
            h_BSD = self._states()
        self.where_BS = F.pad(words_BP, (0, h_BSD.shape[1] - words_BP.shape[1]), value=True)
        direction_D = torch.randn(h_BSD.shape[-1], generator=torch.Generator().manual_seed(self.seed)).to(h_BSD)
        length = self.recipe.eta * h_BSD[self.where_BS].norm(dim=-1).mean()
        self.target_D = length * direction_D / direction_D.norm()

    def losses(self, start: int, stop: int) -> torch.Tensor:
        """The mean over positions, shared alike by the tokens of the picture."""
        if self.recipe.objective == "unattend":
            return self._attention().expand(stop - start)
        loss = (self._states()[self.where_BS].float() - self.target_D.float()).square().mean()
        return loss.expand(stop - start)

    def _states(self) -> torch.Tensor:
        """States h_BSD after the last trained layer, at every position that is read."""
        found: list[torch.Tensor] = []
        keep = lambda module, args, out: found.append(out[0] if isinstance(out, tuple) else out)
        with hooked(self.layers[-1].register_forward_hook(keep)):
            self.generator.hidden_states(self.prompts, self.tokens_BT)
        return found[0]

    def _attention(self) -> torch.Tensor:
        """Squared attention weights from image tokens to the concept's words: the mean over image tokens of their sum,
        over heads and layers."""
        found: list[torch.Tensor] = []
        P, concept_B11P = self.prompts.ids_BP.shape[1], self.concept_BP[:, None, None, :]
        hooks = [
            layer.self_attn.register_forward_hook(lambda module, args, out: found.append(out[1]))
            for layer in self.layers
        ]
        with attention_weights(self.generator.trunk), hooked(*hooks):
            self.generator.hidden_states(self.prompts, self.tokens_BT)
        to_concept = [(a_BHSS[:, :, P - 1 :, :P].float() * concept_B11P).square().sum(-1).mean() for a_BHSS in found]
        return torch.stack(to_concept).mean()


@contextmanager
def attention_weights(trunk: Any) -> Iterator[None]:
    """Within the context the trunk's attention blocks return their weights, which fused kernels never write down."""
    before = trunk.config._attn_implementation
    trunk.set_attn_implementation("eager")
    try:
        yield
    finally:
        trunk.set_attn_implementation(before)
