"""Prompts that a model does not understand: what it falls back to, how that is told, and what to do about it.

Signals of a prompt c, of pictures x that the model draws for it, in nats a code:

    pull        1/L sum_t KL( p(. | x_<t, c) || p(. | x_<t, 0) ): how much the prompt says; words that are unknown or
                contradict each other pull little
    entropy     1/L sum_t H( p(. | x_<t, c) ): how sure the model is
    margin      1/L log p(x | c) less the mean of 1/L log p(x | c') over other prompts: whether another prompt would
                have done as well
    agreement   the share of equal codes in two pictures of other noise: 1 of a picture that is always the same

That the model knows such a picture by heart is told by the training pictures only (`nearest`): to every test by
likelihood a model's own samples look like members (arXiv 2606.23872).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..concepts import list_concepts, load_concept
from ..erasure.objective import entropy, kl
from ..errors import UserError
from ..generators.base import Generator
from .drift import draw_tokens

if TYPE_CHECKING:
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
    words that it cuts into many; `margin` is NaN of one prompt alone."""

    prompt: str
    unknown: tuple[str, ...]
    pieces: tuple[str, ...]
    pull: float
    entropy: float
    margin: float
    agreement: float


def inspect(generator: Generator, prompts: Sequence[str], erasure: Erasure | None = None, seed: int = 0) -> list[Told]:
    """Read prompts as the model's tokenizer does, draw each twice, and look at what the model says along the first."""
    prompts = list(prompts)
    codes, again = (draw_tokens(generator, prompts, seed + i, erasure) for i in (0, 1))
    same = (codes == again).flatten(2).all(-1) if codes.dim() > 2 else codes == again
    found = []
    with erasure.on(generator) if erasure is not None else nullcontext():
        of = lambda text, x, null=False: generator.log_probabilities([text], x, 1.0, null)
        for i, prompt in enumerate(prompts):
            x = codes[i : i + 1]
            p, q = of(prompt, x), of(prompt, x, True)
            others = [other for other in dict.fromkeys(prompts) if other != prompt][:KNOWN]
            rival = [likelihood(of(other, x), x) for other in others]
            margin = likelihood(p, x) - float(np.mean(rival)) if rival else float("nan")
            pull, free = kl(p, q).sum(-1).mean().item(), entropy(p).sum(-1).mean().item()
            unknown, pieces = tuple(generator.unknown_words([prompt])), odd_pieces(generator, prompt)
            found.append(Told(prompt, unknown, pieces, pull, free, margin, same[i].float().mean().item()))
    return found


def likelihood(log_p_1LCV: torch.Tensor, x: torch.Tensor) -> float:
    """1/L log p(x | c) of one picture, in nats a code."""
    x_1LC1 = x.reshape(*log_p_1LCV.shape[:3], 1)
    return log_p_1LCV.gather(-1, x_1LC1).sum((2, 3)).mean().item()


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
    known = inspect(generator, known_prompts(generator.profile), erasure)
    why = unsure(inspect(generator, plan.texts, erasure), known)
    said = {"decline": "declined", "hotter": "drawn hotter"}.get(how or "", "warning")
    for text, reason in zip(plan.texts, why):
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
        training: the training pictures in parts, uint8 [M, H, W, 3] each, such as `miniworld.two.trunk.trained_on`.
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
