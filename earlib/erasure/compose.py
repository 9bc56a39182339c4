"""Several erasures at once, each as far open as a prompt asks for: SPM's composition and facilitated transport (Lyu et
al. 2024, arXiv 2312.16145, Eq. 9-11).

    y = W x + sum_c gamma_c(p) B_c A_c x

One pair of stacked matrices does this: A is all A_c above each other, B all B_c side by side, and gamma scales the
numbers between them. (SPM's released code scales both matrices by gamma and adds them up, which gives gamma squared and
terms that mix concepts.) How a single adapter is made, switched and merged is in `change.py` and `store.py`; files
for other tools are in `files/peft.py`.

Letters: B rows, C concepts, R ranks of all concepts together, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..concepts import words_of
from ..errors import UserError
from ..generators.base import Generator, NextToken
from .change import adapters, applied, frozen
from .closed_form import reads
from .store import Erasure, hash_of, strength_of

RECIPE = "composed"


@dataclass(frozen=True)
class Transport:
    """Facilitated transport: gamma_c(p) = max( overlap, similarity ), from 0 to 1, of each prompt for itself. A concept
    of several names takes the nearest.

        overlap      |T(c) & T(p)| / |T(c)|, T the set of a text's lower-cased words (Eq. 11)
        similarity   cos( s(c), s(p) ), s the mean state at a text's words (Eq. 10, there by CLIP's text encoder)

    States of a language model share a large part, so that all cosines are near 1: the mean state of the prompts in
    `centre`, where there are any, is taken off first. SPM has no such step. A prompt without words has similarity 0.

    names: concept -> what prompts call it.
    layer: where states are read, as a share of the depth; 0: input embeddings; None: no similarity, overlap only.
    """

    names: dict[str, tuple[str, ...]]
    layer: float | None = 0.5
    centre: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for concept, names in self.names.items():
            if isinstance(names, str) or not names or not all(map(words_of, names)):
                line = (
                    f"facilitated transport needs a list of words that name concept '{concept}', such as "
                    "['church', 'chapel']"
                )
                raise UserError(f"{line}, not {names!r}")
        if self.layer is not None and not 0 <= strength_of(self.layer, "the layer of facilitated transport") <= 1:
            line = f"facilitated transport reads states at layer={self.layer}"
            raise UserError(f"{line}, but a layer is given as a share of the depth, from 0 (the first) to 1 (the last)")

    def gamma(self, generator: Generator, prompt: str) -> dict[str, float]:
        """gamma_c of one prompt, read alone, so that it cannot hang on a batch; with the model as it is now."""
        words = words_of(prompt)
        overlap = lambda name: len(words_of(name) & words) / len(words_of(name))
        found = {concept: max(map(overlap, names)) for concept, names in self.names.items()}
        if self.layer is not None:
            state_D = self._state(generator, prompt)
            for concept, names in self.names.items():
                near = max(F.cosine_similarity(state_D, self._state(generator, name), dim=0).item() for name in names)
                found[concept] = max(found[concept], min(near, 1.0))
        return found

    def _state(self, generator: Generator, text: str) -> torch.Tensor:
        """s(text), less the centre; zeros for a text without words. float64 [D]."""
        key = (generator.fingerprint, text)
        if key not in self._states:
            own_D = pooled_state(generator, text, self.layer or 0.0)
            self._states[key] = torch.zeros(1).double() if own_D is None else own_D - self._centre(generator)
        return self._states[key]

    def _centre(self, generator: Generator) -> torch.Tensor:
        key = (generator.fingerprint, None)
        if key not in self._states:
            states = [pooled_state(generator, prompt, self.layer or 0.0) for prompt in self.centre]
            found = [state_D for state_D in states if state_D is not None]
            self._states[key] = torch.stack(found).mean(0) if found else torch.zeros(1).double()
        return self._states[key]

    @cached_property
    def _states(self) -> dict[tuple[str, str | None], torch.Tensor]:
        return {}


@torch.no_grad()
def pooled_state(generator: Generator, text: str, layer: float) -> torch.Tensor | None:
    """Mean of what decoder layer round(layer x depth) reads at a text's words, float64 [D] on the CPU; None for a text
    without words. UserError for a next-scale model, which does not read words in its layers."""
    if not isinstance(generator, NextToken):
        raise UserError(
            f"facilitated transport by similarity works with next-token models only, and {generator.name} is a "
            "next-scale model; use transport by overlap of words"
        )
    batch = generator.encode([text])
    words_P = generator.word_mask(batch)[0]
    if not words_P.any():
        return None
    depth = len(generator.decoder_layers)
    module = f"layers.{min(round(layer * depth), depth - 1)}"
    return reads(generator, [module], batch)[module][0][words_P].double().mean(0).cpu()


@dataclass
class Membranes:
    """Adapters of several concepts, switched on together; the same interface as an `Erasure`. Made by `compose`."""

    parts: tuple[Erasure, ...]  # each with its own strength
    transport: Transport | None = None  # how far a prompt opens them; None: as far as their strengths say
    strength: float = 1.0  # times all of them
    info: dict = field(default_factory=dict)
    seed: int = 0

    name = RECIPE

    @property
    def concept(self) -> str:
        return " + ".join(part.concept for part in self.parts)

    @property
    def generator_fingerprint(self) -> str:
        return self.parts[0].generator_fingerprint

    @property
    def recipe(self) -> dict[str, Any]:
        """What made it; it has no field of a recipe that trains."""
        parts = [{"concept": p.concept, "strength": p.strength, "recipe": p.recipe} for p in self.parts]
        transport = dataclasses.asdict(self.transport) if self.transport else None
        return {"name": RECIPE, "parts": parts, "transport": transport, "strength_of_all": self.strength}

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All adapters stacked, each times its strength and that of all."""
        return stacked(dict(enumerate(self.parts)), self.strength)[0]

    @property
    def change_hash(self) -> str:
        """As an `Erasure` has it."""
        return hash_of(self.recipe, self.tensors, self.strength)

    @property
    def megabytes(self) -> float:
        return sum(part.megabytes for part in self.parts)

    def _by_positions(self) -> dict[str, dict[int, Erasure]]:
        """The parts by number, in groups that act at the same positions."""
        groups: dict[str, dict[int, Erasure]] = {}
        for i, part in enumerate(self.parts):
            groups.setdefault(part.recipe.get("positions", "all"), {})[i] = part
        return groups

    @contextmanager
    def on(self, generator: Generator, strength: float | None = None) -> Iterator[Generator]:
        """Within the context `generator` draws with all concepts erased; afterwards it is the base model again, bit for
        bit."""
        self.check(generator)
        factor = strength_of(self.strength if strength is None else strength, f"of {self.concept}")
        gates = Gates(self.transport, [part.concept for part in self.parts]) if self.transport else None
        with ExitStack() as stack:
            for positions, parts in self._by_positions().items():
                tensors, owners = stacked(parts, factor)
                opened = None
                if gates:
                    opened = {module: gates.opening(owner, generator.device) for module, owner in owners.items()}
                tensors = frozen(tensors, generator.device)
                stack.enter_context(applied(generator, tensors, positions, opened))
            if gates:
                stack.enter_context(gates.attached(generator))
            yield generator

    def gamma(self, generator: Generator, prompt: str) -> dict[str, float]:
        """How far `prompt` opens each concept's membrane; 1 for all without transport."""
        return self.transport.gamma(generator, prompt) if self.transport else {part.concept: 1.0 for part in self.parts}

    def together(self) -> Erasure:
        """One erasure that does the same: an adapter whose rank is the sum of all. UserError with transport, and for
        parts that act at different positions."""
        whose, groups = f"the membranes of {self.concept}", self._by_positions()
        if self.transport:
            line = f"{whose} are switched on prompt by prompt, which one adapter alone cannot do"
            raise UserError(f"{line}; compose them without transport, or save them one by one")
        if len(groups) > 1:
            raise UserError(f"{whose} act at different positions; they cannot be one adapter")
        recipe = self.recipe | {"positions": next(iter(groups))}
        return Erasure(RECIPE, recipe, self.concept, self.generator_fingerprint, self.tensors, self.info, self.seed)

    def merged(self, generator: Generator) -> Erasure:
        """The same in whole matrices, W + sum_c B_c A_c."""
        return self.together().merged(generator)

    def save(self, folder: str | Path) -> Path:
        return self.together().save(folder)

    def check(self, generator: Generator) -> None:
        """UserError if a part was made for another model, or for layers that this one does not have."""
        for part in self.parts:
            part.check(generator)


def compose(
    erasures: Sequence[Erasure], strengths: Sequence[float] | None = None, transport: Transport | None = None
) -> Membranes:
    """Erasures by adapters (rank 1 or more), one a concept, as one: y = W x + sum_c strength_c gamma_c(p) B_c A_c x.

    Changes of whole matrices (`recommended`) are added up by sweeps only (`sweeps.several.added_up`).

    `strengths` stand in for the erasures' own. UserError, one line, for an erasure that is not made of adapters, for
    two of one concept, for a strength that is no number, for erasures of different models, and for a transport without
    a name for one of them.
    """
    erasures = list(erasures)
    if not erasures:
        raise UserError("there is nothing to compose; give several erasures, each of its own concept")
    strengths = [erasure.strength for erasure in erasures] if strengths is None else list(strengths)
    if len(strengths) != len(erasures):
        raise UserError(f"{len(strengths)} strengths for {len(erasures)} erasures; give one for each")
    first, parts = erasures[0], {}
    for erasure, strength in zip(erasures, strengths):
        concept = erasure.concept
        if not erasure.tensors or any(".lora_" not in name for name in erasure.tensors):
            line = f"erasure '{erasure.name}' of '{concept}' is not made of adapters"
            raise UserError(f"{line}; only adapters can be composed: train it anew with --set rank=1 or more")
        if concept in parts:
            line = f"two erasures of '{concept}'; give one for each concept"
            raise UserError(f"{line}, or give one of them another concept name")
        if erasure.generator_fingerprint != first.generator_fingerprint:
            line = f"the erasures of '{first.concept}' and '{concept}' were made for different models"
            raise UserError(f"{line}; they cannot be composed")
        if transport and concept not in transport.names:
            line = f"facilitated transport has no name for concept '{concept}'"
            raise UserError(f"{line}; it has: {', '.join(transport.names)}")
        parts[concept] = dataclasses.replace(erasure, strength=strength_of(strength, f"of '{concept}'"))
    return Membranes(tuple(parts.values()), transport)


def stacked(parts: Mapping[int, Erasure], factor: float = 1.0) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
    """(A and B of all parts as one adapter for each module, B times the strengths; module -> the number of the part
    that each of its ranks is of)."""
    sides: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    owners: dict[str, list[int]] = {}
    for i, part in parts.items():
        for module, (a, b) in adapters(part.tensors).items():
            sides.setdefault(module, []).append((a, b * (part.strength * factor)))
            owners.setdefault(module, []).extend([i] * len(a))
    tensors = {}
    for module, pairs in sides.items():
        tensors[f"{module}.lora_A.weight"] = torch.cat([a for a, _ in pairs])
        tensors[f"{module}.lora_B.weight"] = torch.cat([b for _, b in pairs], 1)
    return tensors, owners


class Gates:
    """gamma of the rows that are being read. A generator tells what each row was asked for; a blanked row opens what
    its prompt does, so that a prompt which opens nothing is drawn as by the base model."""

    def __init__(self, transport: Transport, concepts: list[str]):
        self.transport, self.concepts = transport, concepts
        self.texts: tuple[str, ...] | None = None
        self.gamma_BC: torch.Tensor | None = None
        self.known: dict[str, list[float]] = {}

    @contextmanager
    def attached(self, generator: Generator) -> Iterator[None]:
        """Within the context the generator tells this object what it reads; next-token models do."""
        if not isinstance(generator, NextToken):
            raise UserError(
                f"erasures are switched on prompt by prompt in next-token models only, and {generator.name} is a "
                "next-scale model"
            )
        if generator.gates is not None:
            raise UserError(
                "erasures with facilitated transport are switched on already; to use more at once, give them all "
                "to one compose()"
            )
        generator.gates = self
        try:
            yield
        finally:
            generator.gates = None

    def read(self, generator: Generator, texts: tuple[str, ...]) -> None:
        """Called before rows are read."""
        if texts == self.texts and texts:
            return
        if not texts:
            line = "facilitated transport hangs on prompts; these rows do not say what they were asked for"
            raise ValueError(f"{line} (PromptBatch.texts)")
        before, self.gamma_BC = self.gamma_BC, None  # shut: gamma is read from the base model
        generator.gates = None
        try:
            for text in dict.fromkeys(text for text in texts if text not in self.known):
                found = self.transport.gamma(generator, text)
                self.known[text] = [found[concept] for concept in self.concepts]
        finally:
            generator.gates = self
        gamma_BC = torch.tensor([self.known[text] for text in texts], device=generator.device)
        if before is not None and before.shape == gamma_BC.shape:
            gamma_BC = before.copy_(gamma_BC)  # in place: a recorded drawing step reads this address
        self.texts, self.gamma_BC = texts, gamma_BC

    def opening(self, owner: list[int], device: torch.device) -> Callable[[], torch.Tensor | None]:
        """gamma_BR for the ranks of one module, or None while shut; see `change.applied`."""
        owner_R = torch.tensor(owner, device=device)
        return lambda: None if self.gamma_BC is None else self.gamma_BC[:, owner_R]
