"""An erasure of a next-scale model: `erasure.store.Erasure`, files and all, where a change may be confined to scales,
and guidance is that of scales."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..errors import UserError
from .change import applied, scaled
from .scale_recipe import ScaleRecipe, Scales
from .scale_steering import steered, steering_of
from .scale_terms import learning_span
from .store import Erasure, strength_of


@dataclass
class NextScaleErasure(Erasure):
    """A change of weights, of guidance, or none; saved and loaded as the next-token family's: safetensors or peft's two
    files, and JSON."""

    @contextmanager
    def on(self, generator, strength: float | None = None):
        """Within the context `generator` draws with the concept erased; afterwards it is the base model again, bit for
        bit. `strength` scales the change."""
        self.check(generator)
        strength = strength_of(self.strength if strength is None else strength, f"of '{self.concept}'")
        tensors = self.tensors if strength == 1 else scaled(generator.trunk, self.tensors, strength)
        tensors = {n: torch.nn.Parameter(t.to(generator.device), requires_grad=False) for n, t in tensors.items()}
        positions, span = self.recipe.get("positions", "all"), None
        if positions == "scales":
            span = learning_span(generator, Scales(**self.recipe["scales"]))
        with steered(generator, steering_of(self.recipe, strength)), applied_at(generator, tensors, positions, span):
            yield generator

    def merged(self, generator) -> NextScaleErasure:
        """The same erasure with its adapters added into whole matrices. UserError if it acts on some scales only, or
        guides: no matrix can do that."""
        if "method" in self.recipe:
            raise UserError(f"erasure '{self.name}' guides and changes no weights; there is nothing to merge")
        if self.recipe.get("positions") == "scales":
            raise UserError(
                f"erasure '{self.name}' acts at some scales only; whole matrices act at all of them, so that it cannot be merged"
            )
        return super().merged(generator)


@contextmanager
def applied_at(
    generator, tensors: dict[str, torch.Tensor], positions: str = ScaleRecipe.positions, span: slice | None = None
):
    """Within the context the generator's trunk computes with the change `tensors`: everywhere ("all"), or at the
    positions `span` only ("scales")."""
    with applied(generator, tensors, "all" if positions == "all" else span):
        yield generator
