"""Lessons about what happens inside the decoder layers: states pushed to a random direction (RMU), attention taken off
the concept's words (Forget-Me-Not).

The layer that is looked at is the last one that trains. Conditional rows only; along the teacher's pictures of the
concept.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F

from ..concepts import PromptPair
from .change import layer_range
from .matching import Material, WindowLesson
from .retain import own_words


class Inside(WindowLesson):
    """random: the states after the last trained layer become a fixed random direction, eta times as long as they were,
    at the prompt's words and at image tokens (RMU; Li et al. 2024, arXiv 2403.03218, Eq. 1). unattend: the squared
    attention that image tokens pay to the concept's own words, in every trained layer, becomes zero (Forget-Me-Not;
    Zhang et al. 2023, arXiv 2303.17591, Eq. 3: attention re-steering)."""

    def __init__(self, material: Material, number: int, pairs: list[PromptPair], prefix: dict[str, torch.Tensor]):
        super().__init__(material, number, pairs)
        generator, self.tokens_BT = self.generator, prefix["prefix"].to(self.generator.device)
        layers = layer_range(self.recipe.layers, len(generator.decoder_layers))
        self.layers = [generator.decoder_layers[i] for i in layers]
        words_BP = generator.word_mask(self.prompts)
        if self.recipe.objective == "unattend":
            self.concept_BP = words_BP & own_words(generator, self.prompts, pairs)
        else:
            with torch.no_grad():
                h_BSD = self._states()
            self.where_BS = F.pad(words_BP, (0, h_BSD.shape[1] - words_BP.shape[1]), value=True)
            chance = torch.Generator().manual_seed(self.seed)
            direction_D = torch.randn(h_BSD.shape[-1], generator=chance).to(h_BSD)
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
        found = []
        hook = self.layers[-1].register_forward_hook(
            lambda module, args, out: found.append(out[0] if isinstance(out, tuple) else out)
        )
        try:
            self.generator.hidden_states(self.prompts, self.tokens_BT)
        finally:
            hook.remove()
        return found[0]

    def _attention(self) -> torch.Tensor:
        """Squared attention weights from image tokens to the concept's words: the mean over image tokens of their sum,
        over heads and layers."""
        found, P = [], self.prompts.ids_BP.shape[1]
        with ExitStack() as stack:
            stack.enter_context(attention_weights(self.generator.trunk))
            for layer in self.layers:
                stack.callback(
                    layer.self_attn.register_forward_hook(lambda module, args, out: found.append(out[1])).remove
                )
            self.generator.hidden_states(self.prompts, self.tokens_BT)
        to_concept = [
            (a_BHSS[:, :, P - 1 :, :P].float() * self.concept_BP[:, None, None, :]).square().sum(-1).mean()
            for a_BHSS in found
        ]
        return torch.stack(to_concept).mean()


@contextmanager
def attention_weights(trunk: torch.nn.Module):
    """Within the context the trunk's attention blocks return their weights, which fused kernels never write down."""
    before = trunk.config._attn_implementation
    trunk.set_attn_implementation("eager")
    try:
        yield
    finally:
        trunk.set_attn_implementation(before)
