"""An `Erasure`: the tensors that a recipe changed, switchable, kept as safetensors and JSON; adapters in peft's layout
(`files/peft.py`)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from .. import __version__
from ..errors import UserError
from ..generators.base import Generator, NextScale
from ..runs import read_json, write_bytes, write_json
from .change import applied, frozen, merged, scaled
from .files.peft import (
    CONFIG,
    OLD_WEIGHTS,
    WEIGHTS,
    check_adapters,
    fits_peft,
    fresh,
    peft_folder,
    read_foreign,
    read_peft,
    write_peft,
)
from .recipe_scale import Scales
from .spans import learning_span
from .steering import METHODS, steered, steering_of, wrong_setting

# where a change may act: a recipe's positions, and in words
WHERE = {"all": "everywhere", "words": "where words stand", "scales": "at some scales"}
TENSORS = "erasure.safetensors"  # of a change that peft's files cannot say
# in erasure.json, and of which kind
KEPT = {"name": str, "recipe": dict, "concept": str, "generator_fingerprint": str, "info": dict, "seed": int}


@dataclass
class Erasure:
    """A small change: of weights (`tensors` maps names relative to the trunk to their new values) or, without tensors,
    of guidance, by its recipe."""

    name: str
    recipe: dict
    concept: str
    generator_fingerprint: str
    tensors: dict[str, torch.Tensor]
    info: dict = field(default_factory=dict)  # seconds, windows trained and skipped, ...
    seed: int = 0
    # times the change, wherever it is switched on: 0 is the base model, 1 what `erase` made; any number is allowed
    strength: float = 1.0

    @contextmanager
    def on(self, generator: Generator, strength: float | None = None) -> Iterator[Generator]:
        """Within the context `generator` draws with the concept erased; afterwards it is the base model again, bit for
        bit.

        Args:
            generator: the model that the erasure was made for.
            strength: stands in for the erasure's own; it scales the change, of weights or of guidance.
        """
        self.check(generator)
        strength = strength_of(self.strength if strength is None else strength, f"of '{self.concept}'")
        tensors = frozen(scaled(generator.trunk, self.tensors, strength), generator.device)
        where = self._where(generator)
        with steered(generator, steering_of(self.recipe, strength)), applied(generator, tensors, where):
            yield generator

    def _where(self, generator: Generator) -> str | slice:
        """Where the change acts, as `applied` has it."""
        if self.recipe.get("positions") == "scales" and isinstance(generator, NextScale):
            return learning_span(generator, Scales(**self.recipe["scales"]))
        return self.recipe.get("positions", "all")

    def merged(self, generator: Generator) -> Erasure:
        """The same erasure with its adapters added into whole matrices. UserError if it acts at some positions only, or
        guides: no matrix can do that."""
        self.check(generator)
        if steering_of(self.recipe):
            raise UserError(
                f"erasure '{self.name}' steers the drawing and changes no weights, so that there is nothing to "
                "merge into the model"
            )
        positions = self.recipe.get("positions", "all")
        if positions != "all":
            line = f"erasure '{self.name}' acts {WHERE[positions]} only; whole matrices act everywhere, so that it "
            line += "cannot be merged"
            leace = any(".leace." in name for name in self.tensors)
            raise UserError(line + ("" if leace else "; one made with --set positions=all can"))
        return replace(self, tensors=merged(generator.trunk, self.tensors))

    def check(self, generator: Generator) -> None:
        """UserError if this erasure was made for another model, or has adapters for layers that this one does
        not have."""
        whose = f"erasure '{self.name}' of '{self.concept}'"
        if generator.fingerprint != self.generator_fingerprint:
            line = f"{whose} was made for a model with fingerprint {self.generator_fingerprint}"
            line += f", not for '{generator.name}' ({generator.fingerprint})"
            raise UserError(f"{line}; name with --model the one that it was made for")
        check_adapters(generator, self.tensors, whose)
        own = {name: tensor.shape for name, tensor in generator.trunk.named_parameters()}
        for name, t in self.tensors.items():
            if ".lora_" not in name and ".leace." not in name and own.get(name) != t.shape:
                size = "x".join(map(str, t.shape))
                raise UserError(f"{whose} has {name} of {size}, which {generator.name} has not; it is damaged")

    @property
    def change_hash(self) -> str:
        """16 hex digits that change with any number of it, with its recipe, and with its strength; "" if it changes
        nothing."""
        return hash_of(self.recipe, self.tensors, self.strength)

    def save(self, folder: str | Path) -> Path:
        """Write erasure.json into `folder`, and erasure.safetensors, or peft's two files for adapters at every
        position. The strength is no part of it. What an erasure before it left there of the other kind is removed."""
        folder = Path(folder)
        if as_peft := fits_peft(self.tensors, self.recipe.get("positions", "all")):
            write_peft(self.tensors, folder)
        else:
            tensors = {name: t.contiguous().cpu() for name, t in self.tensors.items()}
            write_bytes(folder / TENSORS, to_bytes(tensors))
        for name in (TENSORS,) if as_peft else (CONFIG, WEIGHTS, OLD_WEIGHTS):
            (folder / name).unlink(missing_ok=True)
        about = {key: getattr(self, key) for key in KEPT} | {"version": __version__}
        write_json(folder / "erasure.json", about)  # last: a folder with it is complete
        return folder

    @classmethod
    def load(cls, folder: str | Path, generator: Generator | None = None) -> Erasure:
        """The erasure kept in `folder`, the EAR authors' in a `.pt` file, or anybody's adapters in a folder of peft's;
        these two need the generator to change.

        UserError if there is none, if it is broken, or if it was not made for `generator`.
        """
        folder = Path(folder)
        if folder.suffix == ".pt":
            from .files.released import read_released

            return cls(**read_released(folder, generator))
        if not (folder / "erasure.json").is_file():
            if (others := peft_folder(folder)) is not None:
                return cls(**read_foreign(others, generator))
            make = "python -m earlib erase --concept NAME --out DIR"
            raise UserError(f"{folder}: holds no erasure (no erasure.json); make one with: {make}")
        about = read_json(folder / "erasure.json")
        make_anew = "copy its folder anew, or make it again with `erase`"
        if wrong := _wrong_with(about):
            raise UserError(f"{folder}: broken erasure (erasure.json {wrong}); {make_anew}")
        try:
            tensors = read_peft(folder) if (folder / CONFIG).is_file() else load_file(folder / TENSORS)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{folder}: broken erasure ({(str(error).splitlines() or [''])[0]}); {make_anew}") from None
        if not tensors and about["recipe"].get("method") not in METHODS:
            raise UserError(f"{folder}: broken erasure (it changes neither weights nor guidance); {make_anew}")
        erasure = cls(tensors=fresh(tensors), **{key: about[key] for key in KEPT})
        for name, t in erasure.tensors.items():
            if not t.is_floating_point() or not t.isfinite().all():
                raise UserError(
                    f"{folder}: {name} holds infinite numbers or NaN, or whole numbers; the erasure is damaged"
                )
        if generator is not None:
            erasure.check(generator)
        return erasure

    @property
    def megabytes(self) -> float:
        return sum(t.numel() * t.element_size() for t in self.tensors.values()) / 2**20


def _wrong_with(about: Any) -> str:
    """What is wrong with the content of an erasure.json; "" if nothing is."""
    if not isinstance(about, dict):
        return "holds no fields"
    for key, kind in KEPT.items():
        if not isinstance(about.get(key), kind):
            return f"has no {key} that can be used" if key in about else f"lacks {key}"
    recipe = about["recipe"]
    if recipe.get("positions", "all") not in [*WHERE]:  # it may be of any kind
        return f"has recipe positions {recipe['positions']!r}"
    return f"has recipe {wrong}" if (wrong := wrong_setting(recipe)) else ""


def hash_of(recipe: dict, tensors: Mapping[str, torch.Tensor], strength: float) -> str:
    """`Erasure.change_hash`."""
    if not (tensors or recipe):
        return ""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    if strength != 1:
        digest.update(f"strength {float(strength)}".encode())
    return digest.hexdigest()[:16]


def strength_of(value: Any, whose: str) -> float:
    """A strength as a finite number; UserError if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        line = f"the strength {whose} is {value!r}, which is no number"
        raise UserError(f"{line}; 0 is the base model, 1 what was trained")
    return value


class NoErasure:
    """The base model, with an erasure's interface."""

    name, concept, seed, strength = "base", "", 0, 1.0
    recipe: dict[str, Any] = {}
    info: dict[str, Any] = {}
    tensors: dict[str, torch.Tensor] = {}
    change_hash = ""

    def on(self, generator: Generator) -> AbstractContextManager[Generator]:
        return nullcontext(generator)

    def check(self, generator: Generator) -> None:
        pass
