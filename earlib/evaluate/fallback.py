"""Prompts that a model does not understand: what it falls back to, how that is told, and what to do about it.

Signals of a prompt c, of a picture x that the model draws for it, in nats a code:

    pull        1/L sum_t KL( p(. | x_<t, c) || p(. | x_<t, 0) ): how much the prompt says; words that are unknown or
                contradict each other pull little
    entropy     1/L sum_t H( p(. | x_<t, c) ): how sure the model is

How alike two pictures of other noise come out is `drift.token_agreement`. That the model knows a picture by heart is
told by the training pictures only (`nearest`): to every test by likelihood a model's own samples look like members
(arXiv 2606.23872).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..concepts import list_concepts, load_concept
from ..erasure.objective import entropy, kl
from ..errors import UserError
from ..generators.base import Generator
from .drift import distributions, draw_tokens

if TYPE_CHECKING:
    import torch

    from ..erasure.store import Erasure
    from ..generators.album import Plan
    from .judge import Judge

MANY = 4  # pieces of one word, from which on it is odd
KNOWN = 24  # prompts that the model knows, which others are compared with
LEAST = 0.05  # a prompt is unsure that pulls less than this share of those
HOTTER = 1.3  # times the temperature, where unsure prompts are drawn hotter


@dataclass(frozen=True)
class Told:
    """What is told of one prompt: see the head of this file. `unknown` are words that the vocabulary lacks, `pieces`
    words that it cuts into many."""

    prompt: str
    unknown: tuple[str, ...]
    pieces: tuple[str, ...]
    pull: float
    entropy: float


def inspect(
    generator: Generator,
    prompts: Sequence[str],
    erasure: Erasure | None = None,
    seed: int = 0,
    codes: torch.Tensor | None = None,
) -> list[Told]:
    """Read prompts as the model's tokenizer does, draw a picture of each, unless its `codes` are given, and look at
    what the model says along it."""
    prompts = list(prompts)
    codes = draw_tokens(generator, prompts, seed, erasure) if codes is None else codes
    pull_N, entropy_N = np.zeros(len(prompts)), np.zeros(len(prompts))
    of = lambda null: distributions(generator, prompts, codes, erasure, null=null)
    for (rows, p_BLCV), (_, free_BLCV) in zip(of(False), of(True)):
        pull_N[rows] = kl(p_BLCV, free_BLCV).sum(-1).mean(1).numpy()
        entropy_N[rows] = entropy(p_BLCV).sum(-1).mean(1).numpy()
    words = [(tuple(generator.unknown_words([prompt])), odd_pieces(generator, prompt)) for prompt in prompts]
    return [Told(*told) for told in zip(prompts, *zip(*words), pull_N.tolist(), entropy_N.tolist())]


def odd_pieces(generator: Generator, prompt: str) -> tuple[str, ...]:
    """Words of a prompt that the tokenizer cuts into many pieces."""
    count = lambda word: len(generator.tokenizer_of_words(f" {word}", add_special_tokens=False)["input_ids"])
    return tuple(word for word in dict.fromkeys(prompt.split()) if count(word) >= MANY)


def known_prompts(profile: str) -> list[str]:
    """Prompts that a model of this profile knows: replacements of its concepts' training pairs, in turn."""
    concepts = [load_concept(name, profile) for name in list_concepts(profile)]
    return list(dict.fromkeys(c.pairs[i].replacement for i in range(3) for c in concepts if len(c.pairs) > i))[:KNOWN]


def unsure(told: Sequence[Told], known: Sequence[Told]) -> list[str]:
    """Why each prompt may not be understood, "" where it may: words that are odd, or less pull than all but `LEAST` of
    the `known` ones have."""
    least = float(np.quantile([one.pull for one in known], LEAST))
    why = []
    for one in told:
        parts = [f"never seen: {', '.join(one.unknown)}"] if one.unknown else []
        parts += [f"in {MANY} pieces or more: {', '.join(one.pieces)}"] if one.pieces else []
        weak = f"says little: {one.pull:.3f} nats a code, where known prompts say {least:.3f} or more"
        why.append("; ".join([*parts, *([weak] if one.pull < least else [])]))
    return why


def set_apart(
    plan: Plan, generator: Generator, erasure: Erasure | None, how: str | None
) -> list[tuple[Plan, float | None]]:
    """What `generate` does with prompts that the model may not understand; says a line for each on stderr.

    Args:
        plan: all pictures.
        generator, erasure: who draws.
        how: "hotter", "decline", or None to warn only.

    Returns:
        Pictures, and the temperature at which they are drawn (None for the model's own).
    """
    texts = list(dict.fromkeys(plan.texts))
    known = inspect(generator, known_prompts(generator.profile), erasure)
    why_of = dict(zip(texts, unsure(inspect(generator, texts, erasure), known)))
    why = [why_of[text] for text in plan.texts]
    said = {"decline": "declined", "hotter": "drawn hotter"}.get(how or "", "warning")
    for text, reason in why_of.items():
        if reason:
            print(f"{said}: '{text}': {reason}", file=sys.stderr)
    if how is None or not any(why):
        return [(plan, None)]
    some = lambda each, odd: [one for one, reason in zip(each, why) if bool(reason) == odd]
    part = lambda odd: replace(plan, prompts=some(plan.prompts, odd), files=some(plan.files, odd))
    return [(part(False), None), *([(part(True), HOTTER * generator.temperature)] if how == "hotter" else [])]


@dataclass(frozen=True)
class Nearest:
    """The nearest of the training pictures to one picture.

    Attributes:
        index: its number among them.
        distance: root mean square of the differences, of pixels from 0 to 255 or of features.
        image: uint8 [H, W, 3].
    """

    index: int
    distance: float
    image: np.ndarray


def nearest(images: np.ndarray, training: Iterable[np.ndarray], judge: Judge | None = None) -> list[Nearest]:
    """Exact search over all training pictures.

    Args:
        images: uint8 [N, H, W, 3].
        training: the training pictures in parts, uint8 [M, H, W, 3] each, such as `miniworld.trunk.trained_on`.
        judge: compare by its features; None for pixels.

    Raises:
        UserError: no training pictures, or of another size.
    """
    features = getattr(judge, "features", None)
    flat = lambda some: (features(some) if features else some.reshape(len(some), -1)).astype(np.float32)
    mine_ND, seen = flat(images), 0
    best: dict[int, Nearest] = {}
    for part in training:
        if part.shape[1:] != images.shape[1:]:
            raise UserError(f"training pictures are {part.shape[1:3]}, and those that are searched {images.shape[1:3]}")
        other_MD = flat(part)
        far_NM = (mine_ND**2).sum(1)[:, None] + (other_MD**2).sum(1) - 2 * mine_ND @ other_MD.T
        for i, k in enumerate(far_NM.argmin(1)):
            distance = float(np.sqrt(np.mean((mine_ND[i] - other_MD[k]) ** 2)))
            if i not in best or distance < best[i].distance:
                best[i] = Nearest(seen + int(k), distance, part[k])
        seen += len(part)
    if not seen:
        raise UserError("there are no training pictures to search")
    return [best[i] for i in range(len(images))]
