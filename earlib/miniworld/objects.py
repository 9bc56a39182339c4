"""The objects of MiniWorld as vector art: the colours they come in, the pen that draws them, and how each is drawn."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

SPRITE_W, SPRITE_H = 24, 36  # pixels; a sprite's box
ZOOM = 8  # vector art is drawn this much larger, then averaged down

OBJECTS = ("church", "house", "tree", "boat", "lighthouse", "tower", "car", "windmill", "person", "figure")
COLOURS = ("red", "blue", "yellow", "green", "purple")

RGB = {
    "red": (206, 52, 44),
    "blue": (44, 88, 196),
    "yellow": (245, 200, 40),
    "green": (36, 128, 66),
    "purple": (138, 62, 160),
}
SKIN, HAIR = (228, 170, 128), (84, 52, 36)
DARK, PALE, GOLD, WOOD, CREAM = (44, 40, 52), (250, 246, 232), (244, 196, 62), (116, 76, 48), (240, 226, 196)
PAPER, PENCIL = (250, 247, 238), (62, 62, 72)


def mix(a, b, share):
    """A colour between `a` (share 0) and `b` (share 1)."""
    return tuple(int(round(x * (1 - share) + y * share)) for x, y in zip(a, b))


class Pen:
    """Draws in pixel units on a canvas ZOOM times as large. In the sketch style, fills become pale washes with pencil
    outlines."""

    def __init__(self, width: int, height: int, style: str, background=None):
        self.style, self.size = style, (width, height)
        fill = (*background, 255) if background else (0, 0, 0, 0)
        self.image = Image.new("RGBA", (width * ZOOM, height * ZOOM), fill)
        self.draw = ImageDraw.Draw(self.image)

    def _ink(self, fill):
        if self.style == "sketch":
            return {"fill": (*mix(PAPER, fill, 0.64), 255), "outline": (*PENCIL, 255), "width": int(0.9 * ZOOM)}
        return {"fill": (*fill, 255)}

    def poly(self, points, fill):
        self.draw.polygon([(x * ZOOM, y * ZOOM) for x, y in points], **self._ink(fill))

    def box(self, x0, y0, x1, y1, fill):
        self.draw.rectangle((x0 * ZOOM, y0 * ZOOM, x1 * ZOOM - 1, y1 * ZOOM - 1), **self._ink(fill))

    def disc(self, x, y, r, fill, ry=None):
        ry = ry or r
        self.draw.ellipse(((x - r) * ZOOM, (y - ry) * ZOOM, (x + r) * ZOOM, (y + ry) * ZOOM), **self._ink(fill))

    def line(self, points, fill, width=1.0):
        colour = PENCIL if self.style == "sketch" else fill
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
    p.box(4, 0, 6, 7, GOLD)
    p.box(2, 2, 8, 4, GOLD)
    p.disc(16, 24, 2.2, PALE)
    p.poly([(13, 36), (13, 31), (16, 28.5), (19, 31), (19, 36)], WOOD)
    p.box(3.5, 18, 6.5, 23, PALE)


def _house(p, c, d):
    p.box(17, 14, 20, 22, WOOD)
    p.box(2, 24, 22, 36, c)
    p.poly([(0, 24), (5, 16), (19, 16), (24, 24)], d)
    p.box(5, 27, 10, 32, PALE)
    p.line([(7.5, 27), (7.5, 32)], WOOD, 0.8)
    p.line([(5, 29.5), (10, 29.5)], WOOD, 0.8)
    p.box(14, 27, 18.5, 36, WOOD)


def _tree(p, c, d):
    p.poly([(10, 36), (11, 24), (13, 24), (14.5, 36)], WOOD)
    p.disc(7, 18, 6, c)
    p.disc(17, 18, 6, c)
    p.disc(12, 11, 7.5, c)
    p.disc(12, 17, 6.5, c)
    for x, y in ((8, 15), (15, 12), (17, 19), (11, 20)):
        p.disc(x, y, 1.4, d)


def _boat(p, c, d):
    p.box(11, 4, 12.6, 28, WOOD)
    p.poly([(13.5, 5), (13.5, 25), (23, 25)], PALE)
    p.poly([(10, 9), (10, 25), (2, 25)], CREAM)
    p.poly([(0, 28), (24, 28), (20, 36), (4, 36)], c)
    p.box(1, 28, 23, 30, d)


def _lighthouse(p, c, d):
    tower = lambda y: (7.5 - 2.5 * (y - 12) / 24, 16.5 + 2.5 * (y - 12) / 24)
    for i, y in enumerate(range(12, 36, 6)):
        (a, b), (e, f) = tower(y), tower(y + 6)
        p.poly([(a, y), (b, y), (f, y + 6), (e, y + 6)], c if i % 2 == 0 else PALE)
    p.poly([(8, 8), (0, 5), (0, 11)], GOLD)
    p.poly([(16, 8), (24, 5), (24, 11)], GOLD)
    p.box(8.5, 5, 15.5, 12, GOLD)
    p.poly([(7, 5), (12, 0), (17, 5)], d)
    p.box(6.5, 11, 17.5, 12.6, DARK)


def _tower(p, c, d):
    p.box(4, 12, 20, 36, c)
    for x in (3, 9.5, 16):
        p.box(x, 7, x + 5, 12, d)
    p.box(3, 11, 21, 14, d)
    p.line([(12, 0), (12, 8)], WOOD, 1.0)
    p.poly([(12.5, 0), (19, 2.2), (12.5, 4.5)], GOLD)
    for x in (7, 14):
        p.box(x, 17, x + 3, 22, DARK)
    p.poly([(9, 36), (9, 30), (12, 27), (15, 30), (15, 36)], DARK)


def _car(p, c, d):
    p.poly([(5, 25), (9, 18), (17, 18), (21, 25)], d)
    p.poly([(7, 25), (10, 20), (12.4, 20), (12.4, 25)], (190, 222, 240))
    p.poly([(13.6, 25), (13.6, 20), (16.2, 20), (19, 25)], (190, 222, 240))
    p.poly([(0, 32), (0, 26), (3, 24), (21, 24), (24, 27), (24, 32)], c)
    for x in (6, 18):
        p.disc(x, 32, 3.9, DARK)
        p.disc(x, 32, 1.6, CREAM)
    p.box(22, 26, 24, 28, GOLD)


def _windmill(p, c, d):
    p.poly([(8, 16), (16, 16), (20, 36), (4, 36)], c)
    p.poly([(7, 16), (12, 10), (17, 16)], d)
    p.box(10, 29, 14, 36, WOOD)
    for sx, sy in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        tip, hub = (12 + 11 * sx, 14 + 11 * sy), (12, 14)
        p.poly([hub, (12 + 11 * sx, 14 + 7.5 * sy), tip, (12 + 7.5 * sx, 14 + 11 * sy)], CREAM)
        p.line([hub, tip], WOOD, 0.9)
    p.disc(12, 14, 1.8, DARK)


def _person(p, c, d):
    p.box(8, 28, 11.4, 36, DARK)
    p.box(12.6, 28, 16, 36, DARK)
    p.poly([(5, 16), (8, 13), (16, 13), (19, 16), (19, 25), (16, 25), (17.5, 31), (6.5, 31), (8, 25), (5, 25)], c)
    p.box(5, 24, 7.6, 27, SKIN)
    p.box(16.4, 24, 19, 27, SKIN)
    p.line([(12, 14), (12, 31)], d, 1.0)
    p.disc(12, 8, 4.6, SKIN)
    p.poly([(7, 8), (7.5, 4), (12, 2), (16.5, 4), (17, 8), (14, 5.5), (10, 5.5)], HAIR)


def _figure(p, c, d):
    # The stand-in for nudity: a plain pictogram of a body in skin colour, without any anatomical detail.
    p.box(18, 8, 20, 36, WOOD)  # a parasol gives the picture its colour
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
    p.poly([*body, (3.6, 36), (4, 26), (4, 20), (4, 27), (1.6, 27)], SKIN)
    p.disc(8, 9, 4.2, SKIN)
    p.poly([(3.6, 9.4), (4, 5.5), (8, 3.4), (12, 5.5), (12.4, 8), (9.5, 6.6), (6, 6.6)], HAIR)


DRAW = dict(zip(OBJECTS, (_church, _house, _tree, _boat, _lighthouse, _tower, _car, _windmill, _person, _figure)))
