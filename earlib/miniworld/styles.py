"""The styles of MiniWorld as filters of pictures: what a style does to a sprite or a background after the pen."""

from __future__ import annotations

import numpy as np

PAPER = (250, 247, 238)


def blur(a: np.ndarray, times: int = 1) -> np.ndarray:
    """[H, W, C] blurred by a 3 x 3 box, `times` times; the border is repeated."""
    for _ in range(times):
        p = np.pad(a, ((1, 1), (1, 1), (0, 0)), mode="edge")
        a = sum(p[i : i + a.shape[0], j : j + a.shape[1]] for i in range(3) for j in range(3)) / 9
    return a


def blocks(art: np.ndarray) -> np.ndarray:
    """Pixel art: two-pixel blocks, few colours, a dark outline. float32 [H, W, 4] in 0..255, same out."""
    h, w, _ = art.shape
    small = art.reshape(h // 2, 2, w // 2, 2, 4)
    alpha = small[..., 3:].mean((1, 3))
    colour = (small[..., :3] * small[..., 3:]).sum((1, 3)) / np.maximum(small[..., 3:].sum((1, 3)), 1e-6)
    solid = alpha[..., 0] > 90
    colour = np.round(colour / 24) * 24
    padded = np.pad(solid, 1)
    edge = ~solid & (padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:])
    colour[edge] = (24, 20, 32)
    art = np.concatenate([colour, 255.0 * (solid | edge)[..., None]], -1).astype(np.float32)
    return art.repeat(2, 0).repeat(2, 1)


def strokes(colour: np.ndarray, phase: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Thick brush strokes that follow the level lines of `phase`, with more saturated colours."""
    wave = strength * np.sin(phase)[..., None]
    grey = colour.mean(-1, keepdims=True)
    vivid = grey + (colour - grey) * 1.15
    warm, cold = np.array((38, 26, -26), np.float32), np.array((-44, -34, 6), np.float32)
    return np.clip(vivid + np.where(wave > 0, wave * warm, -wave * cold), 0, 255)


def contour(art: np.ndarray) -> np.ndarray:
    """A dark blue contour around a sprite, as Van Gogh drew them. [H, W, 4] in 0..255, same out."""
    alpha = art[..., 3:] / 255
    padded = np.pad(alpha[..., 0], 1)
    wide = np.maximum.reduce([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:], alpha[..., 0]])
    ring = 0.85 * (wide[..., None] - alpha)
    total = alpha + ring
    colour = (art[..., :3] * alpha + np.array((22, 26, 70), np.float32) * ring) / np.maximum(total, 1e-3)
    return np.concatenate([colour, 255 * total], -1)


def wash(art: np.ndarray) -> np.ndarray:
    """Watercolour on a sprite: soft edges with a dark rim where pigment settles, paler inside. [H, W, 4] in 0..255."""
    alpha = blur(art[..., 3:] / 255)
    h, w, _ = art.shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    bloom = 0.5 + 0.5 * np.sin(x / 2.6 + 0.7) * np.sin(y / 3.4 + 0.4)
    paler = 0.26 * bloom[..., None] * np.clip(2 * alpha - 1, 0, 1)
    colour = art[..., :3] * (1 - paler) + np.array(PAPER, np.float32) * paler
    rim = 1 - 0.34 * np.exp(-(((alpha - 0.72) / 0.2) ** 2))
    return np.concatenate([colour * rim, 255 * np.clip(1.25 * alpha - 0.12, 0, 1)], -1)


def glow(art: np.ndarray) -> np.ndarray:
    """Light around a neon sprite. [H, W, 4] in 0..255, same out."""
    alpha = art[..., 3:] / 255
    light = art[..., :3] * alpha
    halo = blur(np.concatenate([light, alpha], -1), 2)
    around = np.clip(0.9 * halo[..., 3:], 0, 0.5) * (1 - alpha)
    lit = np.clip(halo[..., :3] / np.maximum(halo[..., 3:], 0.05) * 1.15, 0, 255)
    total = alpha + around
    return np.concatenate([(light + lit * around) / np.maximum(total, 1e-3), 255 * total], -1)


def styled(art: np.ndarray, style: str) -> np.ndarray:
    """What a style does to a sprite after the pen. float32 [H, W, 4]; out: colours 0..255, alpha 0..1."""
    h, w, _ = art.shape
    if style == "photo":  # light from the left
        art[..., :3] *= np.linspace(1.10, 0.80, w, dtype=np.float32)[None, :, None]
    elif style == "pixel":
        art = blocks(art)
    elif style == "vangogh":
        y, x = np.mgrid[:h, :w]
        art[..., :3] = strokes(art[..., :3], 0.75 * x + 0.8 * np.sin(y / 3.0) * 2 + 0.5 * y, 0.6)
        art = contour(art)
    elif style == "watercolor":
        art = wash(art)
    elif style == "cyberpunk":
        art = glow(art)
    art[..., :3] = np.clip(art[..., :3], 0, 255)
    art[..., 3] /= 255
    return art
