"""Trajectories: image tokens that the frozen teacher draws ahead of training, and the teacher's states along them.

They never depend on the student, so a run draws all of them first, in large batches, and keeps them on disk as uint16
ids: a sweep over learning rates or windows pays once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from .. import CACHE as CACHES
from ..device import check_finite
from ..errors import UserError
from ..generators import picture_seeds
from ..generators.base import NextToken, PromptBatch
from ..runs import write_bytes
from .objective import target_states

if TYPE_CHECKING:
    from ..concepts import PromptPair
    from .recipe import Recipe

CACHE = CACHES / "trajectories"


def draw_trajectories(
    generator: NextToken, roles: dict[str, list[str]], seed: int, guidance: float, progress: bool = False
) -> dict[str, torch.Tensor]:
    """Image tokens int64 [N, T] of the teacher's pictures for each role ("concept": its prompts, ...); a role has noise
    of its own.

    What is not on disk is drawn together, in large batches.
    """
    # weights have a fingerprint; grid, null prompt, number format, device and temperature are settings
    null = generator.null_like(generator.encode([""])).ids_BP.tolist()
    settings = [generator.grid, null, str(generator.dtype), generator.device.type, generator.temperature]
    about = [generator.fingerprint, *settings, seed, guidance]
    found, files, missing = {}, {}, []
    for role, prompts in roles.items():
        keys = [f"trajectory/{role}/{i}/{p}" for i, p in enumerate(prompts)]
        digest = hashlib.sha256(json.dumps([*about, keys]).encode()).hexdigest()
        files[role] = CACHE / f"{digest[:24]}.safetensors"
        try:
            found[role] = load_file(files[role])["image_tokens"].long()
        except (SafetensorError, OSError, KeyError):  # not there, or cut short by a full disk
            missing += [(role, prompt, s) for prompt, s in zip(prompts, picture_seeds(seed, keys))]
    if missing:
        asked, seeds = [prompt for _, prompt, _ in missing], [s for *_, s in missing]
        tokens_NT = generator.sample(asked, seeds, guidance, progress=progress)
        for role in dict.fromkeys(role for role, *_ in missing):
            found[role] = tokens_NT[[i for i, (r, *_) in enumerate(missing) if r == role]]
            with suppress(UserError):  # kept for convenience: where they cannot be, the next run draws them again
                write_bytes(files[role], save({"image_tokens": found[role].to(torch.uint16)}))
    return found


def both_rows(generator: NextToken, prompts: list[str] | str) -> PromptBatch:
    """The conditional rows of the prompts, and below them the unconditional ones."""
    batch = generator.encode([prompts] if isinstance(prompts, str) else list(prompts))
    return batch.stack(generator.null_like(batch))


@torch.no_grad()
def teacher_target(
    generator: NextToken, pairs: Sequence[PromptPair], prefix: dict[str, torch.Tensor], recipe: Recipe
) -> torch.Tensor:
    """What the students of these pairs are pulled to: [R, T, D] states, or [R, T, V] logits. R counts the conditional
    rows and, for rows="both", below them the unconditional ones.

    `prefix` are the pairs' image tokens [B, T] by role. teacher_states "shared": everything is read along the "prefix"
    tokens. "independent": c is read along those, r along two pictures of its own.
    """
    both, independent = recipe.rows == "both", recipe.teacher_states == "independent"

    def read(side: str | None, role: str = "prefix") -> torch.Tensor:
        """z* of the pairs' targets or replacements (with `recipe.rows`), or of no prompt, along the tokens of a
        role."""
        prompts = generator.encode([getattr(pair, side or "target") for pair in pairs])
        null = generator.null_like(prompts)  # blanked prompts say nothing but their length
        rows = null if side is None else prompts.stack(null) if both else prompts
        tokens_BT = prefix[role].to(generator.device)
        h = generator.hidden_states(rows, tokens_BT.repeat(len(rows) // len(tokens_BT), 1))
        z = h if recipe.space == "hidden" else generator.image_logits(h).float()
        return z.repeat(2, 1, 1) if side is None and both else z

    r = read(None) if recipe.origin == "null" else read("replacement", "replacement" if independent else "prefix")
    c = r if recipe.objective == "replacement" else read("target")
    origin = read("replacement", "origin") if independent else r
    target = target_states(c, r, origin, recipe.objective, recipe.eta)
    return check_finite(target, f"the teacher's states for '{pairs[0].target}'")


def all_trajectories(
    generator: NextToken, pairs: Sequence[PromptPair], recipe: Recipe, seed: int, progress: bool = False
) -> dict[str, torch.Tensor]:
    """The teacher's pictures that a recipe reads, image tokens [N, T] by role: "prefix", and "replacement" and "origin"
    where it needs them."""
    target, replacement = ([getattr(pair, side) for pair in pairs] for side in ("target", "replacement"))
    roles = {}  # a role's name is part of its noise: "concept" has been that of the target's pictures from the start
    if recipe.prefix == "replacement" or recipe.objective == "dpo" or recipe.teacher_states == "independent":
        roles["replacement"] = replacement
    if recipe.teacher_states == "independent":
        roles["origin"] = replacement
    if recipe.prefix == "target" or recipe.hardened:
        roles["concept"] = target
    drawn = draw_trajectories(generator, roles, seed, recipe.guidance, progress)
    if recipe.prefix != "student":
        drawn["prefix"] = drawn["concept" if recipe.prefix == "target" else "replacement"]
    if not recipe.hardened:
        drawn.pop("concept", None)
    return drawn
