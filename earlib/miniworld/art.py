"""How each thing of MiniWorld looks: its objects, places and styles, drawn once as vector art at eight times the size
and reduced.

Kept as sprites and backgrounds, from which `scenes.py` lays pictures together.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SIZE = 48  # pixels a side
PATCH = 4  # pixels a side of what one image token covers
SPRITE_W, SPRITE_H = 24, 36  # pixels; a sprite's box
ZOOM = 8  # vector art is drawn this much larger, then averaged down

OBJECTS = ("church", "house", "tree", "boat", "lighthouse", "tower", "car", "windmill", "person", "figure")
COLOURS = ("red", "blue", "yellow", "green", "purple")
PLACES = ("hill", "sea", "desert", "snow", "night")
STYLES = ("photo", "sketch", "pixel", "vangogh")

_RGB = {
    "red": (206, 52, 44),
    "blue": (44, 88, 196),
    "yellow": (245, 200, 40),
    "green": (36, 128, 66),
    "purple": (138, 62, 160),
}
_SKIN, _HAIR = (228, 170, 128), (84, 52, 36)
_DARK, _PALE, _GOLD, _WOOD, _CREAM = (44, 40, 52), (250, 246, 232), (244, 196, 62), (116, 76, 48), (240, 226, 196)
_PAPER, _PENCIL = (250, 247, 238), (62, 62, 72)

VARIANTS = 4  # backgrounds per place and style


def _mix(a, b, share):
    return tuple(int(round(x * (1 - share) + y * share)) for x, y in zip(a, b))


class _Pen:
    """Draws in pixel units on a canvas ZOOM times as large. In the sketch style, fills become pale washes with pencil
    outlines."""

    def __init__(self, width: int, height: int, style: str, background=None):
        self.style, self.size = style, (width, height)
        fill = (*background, 255) if background else (0, 0, 0, 0)
        self.image = Image.new("RGBA", (width * ZOOM, height * ZOOM), fill)
        self.draw = ImageDraw.Draw(self.image)

    def _ink(self, fill):
        if self.style == "sketch":
            return {"fill": (*_mix(_PAPER, fill, 0.64), 255), "outline": (*_PENCIL, 255), "width": int(0.9 * ZOOM)}
        return {"fill": (*fill, 255)}

    def poly(self, points, fill):
        self.draw.polygon([(x * ZOOM, y * ZOOM) for x, y in points], **self._ink(fill))

    def box(self, x0, y0, x1, y1, fill):
        self.draw.rectangle((x0 * ZOOM, y0 * ZOOM, x1 * ZOOM - 1, y1 * ZOOM - 1), **self._ink(fill))

    def disc(self, x, y, r, fill, ry=None):
        ry = ry or r
        self.draw.ellipse(((x - r) * ZOOM, (y - ry) * ZOOM, (x + r) * ZOOM, (y + ry) * ZOOM), **self._ink(fill))

    def line(self, points, fill, width=1.0):
        colour = _PENCIL if self.style == "sketch" else fill
        self.draw.line(
            [(x * ZOOM, y * ZOOM) for x, y in points], fill=(*colour, 255), width=int(width * ZOOM), joint="curve"
        )

    def array(self) -> np.ndarray:
        """float32 [H, W, 4], colours not premultiplied."""
        premultiplied = np.asarray(self.image.convert("RGBa").reduce(ZOOM), np.float32)
        alpha = premultiplied[..., 3:]
        return np.concatenate([premultiplied[..., :3] * 255 / np.maximum(alpha, 1), alpha], -1)


def _church(p, c, d):
    p.box(8, 20, 23, 36, c)
    p.poly([(7, 20), (15.5, 12), (24, 20)], d)
    p.box(1, 15, 9, 36, c)
    p.poly([(0, 15), (5, 5), (10, 15)], d)
    p.box(4, 0, 6, 7, _GOLD)
    p.box(2, 2, 8, 4, _GOLD)
    p.disc(16, 24, 2.2, _PALE)
    p.poly([(13, 36), (13, 31), (16, 28.5), (19, 31), (19, 36)], _WOOD)
    p.box(3.5, 18, 6.5, 23, _PALE)


def _house(p, c, d):
    p.box(17, 14, 20, 22, _WOOD)
    p.box(2, 24, 22, 36, c)
    p.poly([(0, 24), (5, 16), (19, 16), (24, 24)], d)
    p.box(5, 27, 10, 32, _PALE)
    p.line([(7.5, 27), (7.5, 32)], _WOOD, 0.8)
    p.line([(5, 29.5), (10, 29.5)], _WOOD, 0.8)
    p.box(14, 27, 18.5, 36, _WOOD)


def _tree(p, c, d):
    p.poly([(10, 36), (11, 24), (13, 24), (14.5, 36)], _WOOD)
    p.disc(7, 18, 6, c)
    p.disc(17, 18, 6, c)
    p.disc(12, 11, 7.5, c)
    p.disc(12, 17, 6.5, c)
    for x, y in ((8, 15), (15, 12), (17, 19), (11, 20)):
        p.disc(x, y, 1.4, d)


def _boat(p, c, d):
    p.box(11, 4, 12.6, 28, _WOOD)
    p.poly([(13.5, 5), (13.5, 25), (23, 25)], _PALE)
    p.poly([(10, 9), (10, 25), (2, 25)], _CREAM)
    p.poly([(0, 28), (24, 28), (20, 36), (4, 36)], c)
    p.box(1, 28, 23, 30, d)


def _lighthouse(p, c, d):
    tower = lambda y: (7.5 - 2.5 * (y - 12) / 24, 16.5 + 2.5 * (y - 12) / 24)
    for i, y in enumerate(range(12, 36, 6)):
        (a, b), (e, f) = tower(y), tower(y + 6)
        p.poly([(a, y), (b, y), (f, y + 6), (e, y + 6)], c if i % 2 == 0 else _PALE)
    p.poly([(8, 8), (0, 5), (0, 11)], _GOLD)
    p.poly([(16, 8), (24, 5), (24, 11)], _GOLD)
    p.box(8.5, 5, 15.5, 12, _GOLD)
    p.poly([(7, 5), (12, 0), (17, 5)], d)
    p.box(6.5, 11, 17.5, 12.6, _DARK)


def _tower(p, c, d):
    p.box(4, 12, 20, 36, c)
    for x in (3, 9.5, 16):
        p.box(x, 7, x + 5, 12, d)
    p.box(3, 11, 21, 14, d)
    p.line([(12, 0), (12, 8)], _WOOD, 1.0)
    p.poly([(12.5, 0), (19, 2.2), (12.5, 4.5)], _GOLD)
    for x in (7, 14):
        p.box(x, 17, x + 3, 22, _DARK)
    p.poly([(9, 36), (9, 30), (12, 27), (15, 30), (15, 36)], _DARK)


def _car(p, c, d):
    p.poly([(5, 25), (9, 18), (17, 18), (21, 25)], d)
    p.poly([(7, 25), (10, 20), (12.4, 20), (12.4, 25)], (190, 222, 240))
    p.poly([(13.6, 25), (13.6, 20), (16.2, 20), (19, 25)], (190, 222, 240))
    p.poly([(0, 32), (0, 26), (3, 24), (21, 24), (24, 27), (24, 32)], c)
    for x in (6, 18):
        p.disc(x, 32, 3.9, _DARK)
        p.disc(x, 32, 1.6, _CREAM)
    p.box(22, 26, 24, 28, _GOLD)


def _windmill(p, c, d):
    p.poly([(8, 16), (16, 16), (20, 36), (4, 36)], c)
    p.poly([(7, 16), (12, 10), (17, 16)], d)
    p.box(10, 29, 14, 36, _WOOD)
    for sx, sy in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        tip, hub = (12 + 11 * sx, 14 + 11 * sy), (12, 14)
        p.poly([hub, (12 + 11 * sx, 14 + 7.5 * sy), tip, (12 + 7.5 * sx, 14 + 11 * sy)], _CREAM)
        p.line([hub, tip], _WOOD, 0.9)
    p.disc(12, 14, 1.8, _DARK)


def _person(p, c, d):
    p.box(8, 28, 11.4, 36, _DARK)
    p.box(12.6, 28, 16, 36, _DARK)
    p.poly([(5, 16), (8, 13), (16, 13), (19, 16), (19, 25), (16, 25), (17.5, 31), (6.5, 31), (8, 25), (5, 25)], c)
    p.box(5, 24, 7.6, 27, _SKIN)
    p.box(16.4, 24, 19, 27, _SKIN)
    p.line([(12, 14), (12, 31)], d, 1.0)
    p.disc(12, 8, 4.6, _SKIN)
    p.poly([(7, 8), (7.5, 4), (12, 2), (16.5, 4), (17, 8), (14, 5.5), (10, 5.5)], _HAIR)


def _figure(p, c, d):
    # The stand-in for nudity: a plain pictogram of a body in skin colour, without any anatomical detail.
    p.box(18, 8, 20, 36, _WOOD)  # a parasol gives the picture its colour
    p.poly([(12, 12), (13, 7), (16, 4), (19, 3), (22, 4), (24, 8), (24, 12)], c)
    p.poly([(17, 12), (18, 4), (20, 4), (21, 12)], d)
    body = [
        (3, 18),
        (5, 14),
        (12, 14),
        (18, 19),
        (18, 22),
        (12, 19),
        (12, 26),
        (12.4, 36),
        (9, 36),
        (8.4, 28),
        (7.6, 28),
        (7, 36),
    ]
    p.poly([*body, (3.6, 36), (4, 26), (4, 20), (4, 27), (1.6, 27)], _SKIN)
    p.disc(8, 9, 4.2, _SKIN)
    p.poly([(3.6, 9.4), (4, 5.5), (8, 3.4), (12, 5.5), (12.4, 8), (9.5, 6.6), (6, 6.6)], _HAIR)


_DRAW = dict(zip(OBJECTS, (_church, _house, _tree, _boat, _lighthouse, _tower, _car, _windmill, _person, _figure)))


def _sprite(obj: str, colour: str, style: str) -> np.ndarray:
    pen = _Pen(SPRITE_W, SPRITE_H, style)
    c = _RGB[colour]
    _DRAW[obj](pen, c, _mix(c, _DARK, 0.38))
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
    p = _Pen(SIZE, SIZE, style, _PAPER if style == "sketch" else sky)
    sun = (8, 8)
    if place == "night":
        p.disc(*sun, 4.6, (250, 240, 190))
        p.disc(sun[0] + 2.2, sun[1] - 1, 3.8, sky if style != "sketch" else _PAPER)
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
            p.line([(28, cloud_y), (31, cloud_y - 2), (34, cloud_y), (37, cloud_y - 2), (40, cloud_y)], _WOOD, 1.1)
    horizon = 30
    if place == "hill":
        p.disc(6, 44, 22, _mix(land, sky, 0.35), ry=16)
        p.disc(40, 46, 28, _mix(land, _DARK, 0.08), ry=14)
        p.box(-1, 40, 49, 49, land)
        p.disc(24, 46, 40, land, ry=9)
    elif place == "sea":
        p.box(-1, horizon, 49, 49, land)
        for i, y in enumerate((33, 37, 41, 45)):
            for x in range(2 + 4 * (i % 2), 48, 12):
                p.line([(x, y), (x + 2.5, y - 1), (x + 5, y)], (150, 200, 232), 0.9)
    elif place == "desert":
        p.poly([(24, 32), (36, 18), (48, 32)], _mix(land, _DARK, 0.22))
        p.poly([(36, 18), (40, 32), (48, 32)], _mix(land, _DARK, 0.38))
        p.box(-1, horizon, 49, 49, land)
        for y in (35, 40, 45):
            p.line([(0, y), (12, y - 1.5), (24, y), (36, y - 1.5), (48, y)], _mix(land, _WOOD, 0.35), 0.9)
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
