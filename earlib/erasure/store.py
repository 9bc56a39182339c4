"""An `Erasure`: the tensors that a recipe changed, switchable, kept as safetensors and JSON."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from .. import __version__
from ..errors import UserError
from ..runs import read_json, write_bytes, write_json
from .trainable import applied, merged, scaled


@dataclass
class Erasure:
    """A small change of weights. `tensors` maps names relative to the trunk to their new values; all else is the base model's."""

    name: str
    recipe: dict
    concept: str
    generator_fingerprint: str
    tensors: dict[str, torch.Tensor]
    info: dict = field(default_factory=dict)  # seconds, windows trained and skipped, ...
    seed: int = 0

    @contextmanager
    def on(self, generator, strength: float = 1.0):
        """Within the context `generator` draws with the concept erased; afterwards it is the base model again, bit for bit.

        `strength` scales the change of weights: 0 is the base model, 1 what was trained, and any number is allowed.
        """
        self.check(generator)
        tensors = self.tensors if strength == 1 else scaled(generator.trunk, self.tensors, strength)
        tensors = {n: torch.nn.Parameter(t.to(generator.device), requires_grad=False) for n, t in tensors.items()}
        with applied(generator, tensors, self.recipe.get("positions", "all")):
            yield generator

    def merged(self, generator) -> Erasure:
        """The same erasure with its adapters added into whole matrices. UserError if it acts on words only, which no matrix can do."""
        self.check(generator)
        if self.recipe.get("positions") == "words":
            raise UserError(f"erasure '{self.name}' acts where words stand; whole matrices act everywhere, so that it cannot be merged")
        return replace(self, tensors=merged(generator.trunk, self.tensors))

    def check(self, generator) -> None:
        """UserError if this erasure was made for another model."""
        if generator.fingerprint != self.generator_fingerprint:
            raise UserError(
                f"erasure '{self.name}' of '{self.concept}' was made for a model with fingerprint {self.generator_fingerprint}, "
                f"not for '{generator.name}' ({generator.fingerprint})"
            )

    def save(self, folder: str | Path) -> Path:
        """Write erasure.safetensors and erasure.json into `folder`."""
        from safetensors.torch import save

        folder = Path(folder)
        about = {key: getattr(self, key) for key in ("name", "recipe", "concept", "generator_fingerprint", "info", "seed")}
        write_bytes(folder / "erasure.safetensors", save({n: t.contiguous().cpu() for n, t in self.tensors.items()}))
        write_json(folder / "erasure.json", about | {"version": __version__})  # last: a folder with it is complete
        return folder

    @classmethod
    def load(cls, folder: str | Path, generator=None) -> Erasure:
        """The erasure kept in `folder`, or the EAR authors' in a `.pt` file, which needs the generator that it is to change.

        UserError if there is none, if it is broken, or if it was not made for `generator`.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        if folder.suffix == ".pt":
            from .released_weights import read_released

            return cls(**read_released(folder, generator))
        if not (folder / "erasure.json").is_file():
            raise UserError(f"{folder} holds no erasure (no erasure.json); make one with: python -m earlib erase --concept NAME --out DIR")
        about = read_json(folder / "erasure.json")
        try:
            tensors = load_file(folder / "erasure.safetensors")
            erasure = cls(tensors=tensors, **{k: about[k] for k in ("name", "recipe", "concept", "generator_fingerprint", "info", "seed")})
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: broken erasure ({str(error).splitlines()[0]})") from None
        if generator is not None:
            erasure.check(generator)
        return erasure

    @property
    def megabytes(self) -> float:
        return sum(t.numel() * t.element_size() for t in self.tensors.values()) / 2**20


class NoErasure:
    """The base model, with an erasure's interface."""

    name, concept, recipe, info, tensors, seed = "base", "", {}, {}, {}, 0

    def on(self, generator):
        return nullcontext(generator)

    def check(self, generator) -> None:
        pass
