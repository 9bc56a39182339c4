"""How each thing of MiniWorld looks: objects (`objects.py`) and places in their styles, drawn once as vector art at
eight times the size and reduced.

Kept as sprites and backgrounds, from which `scenes.py` lays pictures together.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .objects import COLOURS, DARK, DRAW, OBJECTS, PAPER, RGB, SPRITE_H, SPRITE_W, WOOD, Pen, mix

SIZE = 48  # pixels a side
PATCH = 4  # pixels a side of what one image token covers
PLACES = ("hill", "sea", "desert", "snow", "night")
STYLES = ("photo", "sketch", "pixel", "vangogh")

VARIANTS = 4  # backgrounds per place and style


def _sprite(obj: str, colour: str, style: str) -> np.ndarray:
    pen = Pen(SPRITE_W, SPRITE_H, style)
    c = RGB[colour]
    DRAW[obj](pen, c, mix(c, DARK, 0.38))
    art = pen.array()
    if style == "photo":  # light from the left
        art[..., :3] *= np.linspace(1.10, 0.80, SPRITE_W, dtype=np.float32)[None, :, None]
    elif style == "pixel":
        art = _blocks(art)
    elif style == "vangogh":
        y, x = np.mgrid[:SPRITE_H, :SPRITE_W]
        art[..., :3] = _strokes(art[..., :3], 0.75 * x + 0.8 * np.sin(y / 3.0) * 2 + 0.5 * y)
    art[..., :3] = np.clip(art[..., :3], 0, 255)
    art[..., 3] /= 255
    return art


def _blocks(art: np.ndarray) -> np.ndarray:
    """Pixel art: two-pixel blocks, few colours, a dark outline."""
    h, w, _ = art.shape
    small = art.reshape(h // 2, 2, w // 2, 2, 4)
    alpha = small[..., 3:].mean((1, 3))
    colour = (small[..., :3] * small[..., 3:]).sum((1, 3)) / np.maximum(small[..., 3:].sum((1, 3)), 1e-6)
    solid = alpha[..., 0] > 90
    colour = np.round(colour / 36) * 36
    padded = np.pad(solid, 1)
    edge = ~solid & (padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:])
    colour[edge] = (24, 20, 32)
    art = np.concatenate([colour, 255.0 * (solid | edge)[..., None]], -1).astype(np.float32)
    return art.repeat(2, 0).repeat(2, 1)


def _strokes(colour: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Thick brush strokes that follow the level lines of `phase`, with more saturated colours."""
    wave = np.sin(phase)[..., None]
    grey = colour.mean(-1, keepdims=True)
    vivid = grey + (colour - grey) * 1.15
    warm, cold = np.array((38, 26, -26), np.float32), np.array((-44, -34, 6), np.float32)
    return np.clip(vivid + np.where(wave > 0, wave * warm, -wave * cold), 0, 255)


_SKY = {
    "hill": (142, 196, 240),
    "sea": (166, 214, 244),
    "desert": (250, 208, 150),
    "snow": (196, 210, 232),
    "night": (22, 26, 74),
}
_LAND = {
    "hill": (104, 170, 70),
    "sea": (40, 104, 168),
    "desert": (220, 168, 92),
    "snow": (246, 249, 255),
    "night": (40, 52, 60),
}


def _background(place: str, style: str, variant: int) -> np.ndarray:
    mirrored, high = variant % 2 == 1, variant >= 2
    sky, land = _SKY[place], _LAND[place]
    if style == "vangogh":
        sky = {
            "hill": (84, 140, 206),
            "sea": (104, 168, 206),
            "desert": (240, 186, 84),
            "snow": (150, 176, 216),
            "night": (30, 44, 120),
        }[place]
    p = Pen(SIZE, SIZE, style, PAPER if style == "sketch" else sky)
    sun = (8, 8)
    if place == "night":
        p.disc(*sun, 4.6, (250, 240, 190))
        p.disc(sun[0] + 2.2, sun[1] - 1, 3.8, sky if style != "sketch" else PAPER)
        stars = (
            ((20, 6), (30, 10), (38, 4), (42, 14), (16, 16), (26, 18))
            if high
            else ((18, 10), (26, 4), (34, 8), (44, 6), (40, 18), (14, 20))
        )
        for x, y in stars:
            p.disc(x, y, 1.1, (255, 250, 214))
    else:
        p.disc(*sun, 4.4, (255, 226, 110) if place != "snow" else (255, 244, 206))
        cloud_y = 8 if high else 14
        if place in ("hill", "sea", "snow"):
            for dx, r in ((-4, 2.6), (0, 3.6), (4, 2.8)):
                p.disc(36 + dx, cloud_y, r, (252, 253, 255), ry=r * 0.8)
        if place == "desert":
            p.line([(28, cloud_y), (31, cloud_y - 2), (34, cloud_y), (37, cloud_y - 2), (40, cloud_y)], WOOD, 1.1)
    horizon = 30
    if place == "hill":
        p.disc(6, 44, 22, mix(land, sky, 0.35), ry=16)
        p.disc(40, 46, 28, mix(land, DARK, 0.08), ry=14)
        p.box(-1, 40, 49, 49, land)
        p.disc(24, 46, 40, land, ry=9)
    elif place == "sea":
        p.box(-1, horizon, 49, 49, land)
        for i, y in enumerate((33, 37, 41, 45)):
            for x in range(2 + 4 * (i % 2), 48, 12):
                p.line([(x, y), (x + 2.5, y - 1), (x + 5, y)], (150, 200, 232), 0.9)
    elif place == "desert":
        p.poly([(24, 32), (36, 18), (48, 32)], mix(land, DARK, 0.22))
        p.poly([(36, 18), (40, 32), (48, 32)], mix(land, DARK, 0.38))
        p.box(-1, horizon, 49, 49, land)
        for y in (35, 40, 45):
            p.line([(0, y), (12, y - 1.5), (24, y), (36, y - 1.5), (48, y)], mix(land, WOOD, 0.35), 0.9)
    elif place == "snow":
        p.poly([(-6, 32), (10, 16), (26, 32)], (150, 166, 196))
        p.poly([(5, 21), (10, 16), (15, 21), (12, 20), (10, 22), (8, 20)], (255, 255, 255))
        p.box(-1, horizon, 49, 49, land)
        for x, y in ((30, 6), (44, 22), (20, 26), (34, 20), (16, 4), (26, 12)):
            p.disc(x, y, 0.9, (255, 255, 255))
        for y in (37, 44):
            p.line([(0, y), (16, y + 1), (32, y), (48, y + 1)], (206, 218, 238), 0.9)
    else:
        p.disc(12, 42, 20, (30, 40, 66), ry=12)
        p.box(-1, 34, 49, 49, land)
    art = p.array()[..., :3]
    if mirrored:
        art = art[:, ::-1]
    if style == "photo":  # a soft gradient, a little haze above the horizon
        shade = np.linspace(0.90, 1.06, SIZE, dtype=np.float32)[:, None, None]
        shade[horizon:] = np.linspace(1.05, 0.86, SIZE - horizon, dtype=np.float32)[:, None, None]
        art = art * shade
    elif style == "sketch":
        y, x = np.mgrid[:SIZE, :SIZE]
        hatch = ((x + y) % 8 < 1) & (y >= 34)
        if place == "night":
            hatch |= ((x - y) % 4 < 1) & (y < 34)
        art = np.where(hatch[..., None], art * 0.72, art)
    elif style == "pixel":
        art = _blocks(np.concatenate([art, np.full((SIZE, SIZE, 1), 255, np.float32)], -1))[..., :3]
    else:
        y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
        cx = 39 if mirrored else 8
        halo = 1.05 * np.hypot(x - cx, y - 8)
        swirl = 1.05 * np.hypot(x - (47 - cx) + 4, 1.15 * (y - 20))
        phase = np.where(halo < swirl, halo, swirl)
        phase = np.where(y > 32, 1.05 * y + 1.6 * np.sin(x / 4.0), phase)
        art = _strokes(art, phase)
    return np.clip(art, 0, 255)


@lru_cache(1)
def sprites() -> tuple[np.ndarray, np.ndarray]:
    """Colours [style, object, colour, flip, H, W, 3] and alpha [..., 1], float32."""
    art = np.stack([[[_sprite(o, c, s) for c in COLOURS] for o in OBJECTS] for s in STYLES])
    art = np.stack([art, art[..., ::-1, :]], 3)
    return art[..., :3].astype(np.float32), art[..., 3:].astype(np.float32)


@lru_cache(1)
def backgrounds() -> np.ndarray:
    """float32 [style, place, variant, 48, 48, 3]."""
    return np.stack([[[_background(p, s, v) for v in range(VARIANTS)] for p in PLACES] for s in STYLES]).astype(
        np.float32
    )
