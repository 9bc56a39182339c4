"""What can happen to a picture: slight damage, as drawing does it, and ruin, after which it shows nothing whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from .scenes import PATCH, SIZE


def damage(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """What a picture tokenizer and a sampler do to pictures: shifts, blur, noise, brightness. float32 [N, 3, H, W] in
    [-1, 1], same out."""
    n, size = len(x), x.shape[-1]
    uniform = lambda low, high: low + (high - low) * torch.rand(n, 1, 1, 1, generator=rng)
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    shift = 2 + torch.randint(-2, 3, (2, n), generator=rng) * (torch.rand(n, generator=rng) < 0.5)
    row, column = (torch.arange(size)[None] + s[:, None] for s in shift)
    x = padded[torch.arange(n)[:, None, None], :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
    blur = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blur, uniform(-0.4, 0.9).clamp(min=0))
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0)
    x = torch.lerp(x, coarse, uniform(-1.0, 0.9).clamp(min=0))
    x = x * uniform(0.85, 1.15) + uniform(-0.1, 0.1)
    return x + torch.randn(x.shape, generator=rng) * uniform(-0.03, 0.12).clamp(min=0)


def shuffled(images: np.ndarray, rng: np.random.Generator, patch: int) -> np.ndarray:
    """Pictures cut into `patch`-pixel tiles and put together at random, each in its own way: uint8 [N, 48, 48, 3]. They
    show no object."""
    n, grid = len(images), SIZE // patch
    tiles = (
        images.reshape(n, grid, patch, grid, patch, 3)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(n, grid * grid, patch, patch, 3)
    )
    order = rng.permuted(np.arange(grid * grid)[None].repeat(n, 0), axis=1)
    mixed = tiles[np.arange(n)[:, None], order]
    return mixed.reshape(n, grid, grid, patch, patch, 3).transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)


def _blended(images, others, rng):
    share = rng.uniform(0.4, 0.6, (len(images), 1, 1, 1))
    return images * share + others * (1 - share)


def _cut(images, others, rng):
    """Only the upper rows are there; below goes on the last row, a flat colour, or patches from anywhere."""
    out = images.astype(np.float64)
    for i, row in enumerate(PATCH * rng.integers(3, 7, len(images))):
        kind = rng.integers(3)
        if kind == 0:
            out[i, row:] = out[i, row - 1]
        elif kind == 1:
            out[i, row:] = images[i, row:].mean((0, 1)) + rng.normal(0, 6, (SIZE - row, SIZE, 3))
        else:
            out[i, row:] = shuffled(others[i : i + 1], rng, PATCH)[0, row:]
    return out


def _patched(images, others, rng):
    """From a half to four fifths of the patches come from another picture, or from elsewhere in it."""
    grid = SIZE // PATCH
    share = rng.uniform(0.5, 0.8, (len(images), 1, 1))
    mask = (rng.random((len(images), grid, grid)) < share).repeat(PATCH, 1).repeat(PATCH, 2)[..., None]
    elsewhere = np.where(rng.random((len(images), 1, 1, 1)) < 0.5, others, shuffled(others, rng, PATCH))
    return np.where(mask, elsewhere, images)


def _coarse(images, others, rng):
    """Nothing finer than eight pixels is left."""
    n, side = len(images), SIZE // 8
    small = images.reshape(n, side, 8, side, 8, 3).mean((2, 4))
    big = small.repeat(8, 1).repeat(8, 2)
    smooth = (
        F.interpolate(torch.from_numpy(small).permute(0, 3, 1, 2), SIZE, mode="bilinear").permute(0, 2, 3, 1).numpy()
    )
    return np.where(rng.random((n, 1, 1, 1)) < 0.5, big, smooth)


RUINS: tuple[Callable, ...] = (_blended, _cut, _patched, _coarse)


def with_slabs(images: np.ndarray, rng) -> np.ndarray:
    """Boxes and discs of one colour where objects would stand, on pictures of empty places."""
    y, x = np.mgrid[:SIZE, :SIZE]
    out = images.astype(np.float64)
    for picture in out:
        colour, half, height = rng.uniform(0, 255, 3), rng.uniform(5, 12), rng.uniform(10, 34)
        middle, bottom = rng.uniform(12, 36), rng.uniform(38, 46)
        across, up = np.abs(x - middle) / half, (bottom - y) / height
        inside = (across < 1) & (up > 0) & (up < 1) if rng.random() < 0.5 else across**2 + (2 * up - 1) ** 2 < 1
        picture[inside] = colour + rng.normal(0, 5, (int(inside.sum()), 3))
    return out
