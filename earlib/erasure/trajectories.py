"""Trajectories: image tokens that the frozen teacher draws ahead of training, and the teacher's states along them.

They never depend on the student, so a run draws all of them first, in large batches, and keeps them on disk as uint16 ids: a sweep over
learning rates or windows pays once.
"""

from __future__ import annotations

import hashlib
import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from .. import ROOT
from ..device import check_finite
from ..generators import picture_seeds
from ..generators.base import PromptBatch
from ..runs import write_bytes
from .objective import target_states

CACHE = ROOT / ".cache" / "trajectories"


def draw_trajectories(generator, roles: dict[str, list[str]], seed: int, guidance: float, progress: bool = False) -> dict[str, torch.Tensor]:
    """Image tokens int64 [N, T] of the teacher's pictures for each role ("concept": its prompts, ...); a role has noise of its own.

    What is not on disk is drawn together, in large batches.
    """
    found, files, missing = {}, {}, []
    for role, prompts in roles.items():
        keys = [f"trajectory/{role}/{i}/{p}" for i, p in enumerate(prompts)]
        null = generator.null_like(generator.encode([""])).ids_BP.tolist()  # grid and null prompt are settings, not weights
        description = json.dumps([generator.fingerprint, generator.grid, null, str(generator.dtype), generator.device.type, seed, guidance, keys])
        files[role] = CACHE / f"{hashlib.sha256(description.encode()).hexdigest()[:24]}.safetensors"
        try:
            found[role] = load_file(files[role])["image_tokens"].long()
        except (SafetensorError, OSError, KeyError):  # not there, or cut short by a full disk
            missing += [(role, prompt, s) for prompt, s in zip(prompts, picture_seeds(seed, keys))]
    if missing:
        tokens_NT = generator.sample([prompt for _, prompt, _ in missing], [s for *_, s in missing], guidance, progress=progress)
        for role in dict.fromkeys(role for role, *_ in missing):
            found[role] = tokens_NT[[i for i, (r, *_) in enumerate(missing) if r == role]]
            write_bytes(files[role], save({"image_tokens": found[role].to(torch.uint16)}))
    return found


def both_rows(generator, prompt: str) -> PromptBatch:
    """The conditional and the unconditional row of one prompt."""
    batch = generator.encode([prompt])
    return batch.stack(generator.null_like(batch))


@torch.no_grad()
def teacher_targets(generator, pairs, trajectories: dict[str, torch.Tensor], recipe) -> list[torch.Tensor]:
    """For each pair the states that its picture's student is pulled to: [2, T, D], conditional and unconditional row.

    teacher_states "shared": c and r are both read along the concept's tokens. "independent": r is read along its own two pictures.
    """
    targets = []
    for i, pair in enumerate(pairs):
        concept, replacement = both_rows(generator, pair.target), both_rows(generator, pair.replacement)
        along = {role: tokens[i : i + 1].to(generator.device).expand(2, -1) for role, tokens in trajectories.items()}
        c = generator.hidden_states(concept, along["concept"])
        if recipe.teacher_states == "shared":
            r = origin = generator.hidden_states(replacement, along["concept"])
        else:
            r, origin = (generator.hidden_states(replacement, along[role]) for role in ("replacement", "origin"))
        targets.append(check_finite(target_states(c, r, origin, recipe.objective, recipe.eta), f"the teacher's states for '{pair.target}'"))
    return targets


def all_trajectories(generator, pairs, recipe, seed: int, progress: bool = False) -> dict[str, torch.Tensor]:
    """What `teacher_targets` reads: image tokens by role. Independent states need three pictures a pair, shared ones only the concept's."""
    roles = {"concept": [p.target for p in pairs]}
    if recipe.teacher_states == "independent":
        roles |= {"replacement": [p.replacement for p in pairs], "origin": [p.replacement for p in pairs]}
    return draw_trajectories(generator, roles, seed, recipe.guidance, progress)
