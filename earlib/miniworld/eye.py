"""The eye of MiniJanus (its vision tower) learns to tell what is in a picture, as Janus' SigLIP comes trained.

The head used here is thrown away; the trunk later learns to read the features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .fit import fit
from .scenes import NAMES, RELATIONS, Scenes, render, sample_scenes
from .tokenizer import to_pixels

# the groups of answers that eyes and judges give, in this order; several objects and colours may be there, or none
GROUPS = {name: NAMES[name] for name in ("object", "colour", "style", "place", "time", "framing")}
GROUPS |= {"left": (*NAMES["object"], "nothing"), "back": (*NAMES["object"], "nothing")}
MULTI_LABEL = ("object", "colour")
WIDTHS = [len(names) for names in GROUPS.values()]


def answers(scenes: Scenes) -> dict[str, np.ndarray]:
    """What is true of scenes: float32 [N, 10] and [N, 5] of zeros and ones for object and colour, int64 [N] for others.

    `left` is the object that stands left of another, `back` the one behind another.
    """
    found = {name: getattr(scenes, name) for name in GROUPS if hasattr(scenes, name)}
    for name in MULTI_LABEL:
        hot = np.zeros((len(scenes), len(GROUPS[name]) + 1), np.float32)
        for which in (getattr(scenes, name), getattr(scenes, f"{name}2")):
            there = np.flatnonzero((which >= 0) & (scenes.object >= 0))
            hot[there, which[there]] = 1
        found[name] = hot[:, :-1]
    two, nothing = scenes.object2 >= 0, len(NAMES["object"])
    behind = scenes.relation == RELATIONS.index("behind")
    first_left = (scenes.relation == RELATIONS.index("left of")) | (scenes.position == 0)
    found["left"] = np.where(two, np.where(first_left, scenes.object, scenes.object2), nothing)
    found["back"] = np.where(two & behind, scenes.object, nothing)
    return found


def answer_loss(logits: torch.Tensor, truth: dict[str, np.ndarray], known: np.ndarray | None = None):
    """(loss, shares of right answers): binary cross entropies for objects and colours, cross entropies for the others.

    Args:
        logits: [N, sum of WIDTHS].
        truth: as `answers` gives it.
        known: bool [N], where anything but `object` and `colour` is known; everywhere by default.
    """
    known = torch.ones(len(logits)) if known is None else torch.from_numpy(known).float()
    losses, numbers = [], {}
    for name, z in zip(GROUPS, logits.float().split(WIDTHS, 1)):
        target = torch.from_numpy(truth[name])
        if name in MULTI_LABEL:
            losses.append(F.binary_cross_entropy_with_logits(z, target, reduction="none").sum(1).mean())
            numbers[name] = ((z > 0) == (target > 0)).all(1).float().mean().item()
        else:
            losses.append((F.cross_entropy(z, target, reduction="none") * known).sum() / known.sum().clamp_min(1))
            numbers[name] = (((z.argmax(1) == target) * known).sum() / known.sum().clamp_min(1)).item()
    return sum(losses), numbers


def train_eye(
    vision, folder: Path, steps: int = 1200, batch: int = 64, lr: float = 1.5e-3, seed: int = 0
) -> list[dict]:
    """Train a JanusVisionModel in place on mean-pooled features; return the log with the shares of right answers."""
    vision.train()
    head = nn.Linear(vision.config.hidden_size, sum(WIDTHS))
    look = torch.compile(lambda x: vision(x, return_dict=True).last_hidden_state.mean(1))

    def loss_at(step):
        scenes = sample_scenes(batch, [seed, 12, step])
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(look(to_pixels(render(scenes))))
        return answer_loss(logits, answers(scenes))

    log = fit(
        {"vision": vision, "head": head}, loss_at, folder=folder, steps=steps, lr=lr, weight_decay=0.05, seed=seed
    )
    vision.eval()
    return log
