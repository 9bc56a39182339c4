"""Stage two: the eye of MiniJanus (its vision tower) learns to tell objects, colours, styles and places apart, as
Janus' SigLIP comes trained.

The heads used here are thrown away; the trunk later learns to read the features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .fit import fit
from .scenes import COLOURS, OBJECTS, PLACES, STYLES, render, sample_scenes
from .train_vq import to_pixels


def train_eye(
    vision, folder: Path, steps: int = 900, batch: int = 48, lr: float = 1.5e-3, seed: int = 0, device: str = "cpu"
):
    """Train `vision` (a JanusVisionModel) in place on mean-pooled features; returns the log with the share of right
    objects."""
    vision.to(device).train()
    sizes = [len(OBJECTS), len(COLOURS), len(STYLES), len(PLACES)]
    head = nn.Linear(vision.config.hidden_size, sum(sizes)).to(device)

    def loss_at(step):
        scenes = sample_scenes(batch, np.random.default_rng([seed, 31, step]))
        there = torch.zeros(batch, sizes[0] + sizes[1])
        rows = np.arange(batch)
        there[rows, scenes.object] = there[rows, sizes[0] + scenes.colour] = 1
        two = np.flatnonzero(scenes.object2 >= 0)
        there[two, scenes.object2[two]] = there[two, sizes[0] + scenes.colour2[two]] = 1
        features = vision(to_pixels(render(scenes)).to(device), return_dict=True).last_hidden_state.mean(1)
        things, colours, style, place = head(features).split(sizes, 1)
        several = (
            F.binary_cross_entropy_with_logits(torch.cat([things, colours], 1), there.to(device), reduction="none")
            .sum(1)
            .mean()
        )
        single = F.cross_entropy(style, torch.from_numpy(scenes.style).to(device)) + F.cross_entropy(
            place, torch.from_numpy(scenes.place).to(device)
        )
        right = there[rows, things.argmax(1).cpu()].mean()
        return several + single, {"object": right.item()}

    return fit(
        {"vision": vision, "head": head}, loss_at, folder=folder, steps=steps, lr=lr, weight_decay=0.05, seed=seed
    )
