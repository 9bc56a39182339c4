"""How MiniWorld looks: places, times of day and styles, drawn once as vector art at eight times the size and reduced.

Kept as sprites and backgrounds, from which `scenes.py` lays pictures together.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from .objects import CREAM, DARK, DRAW, GOLD, OBJECTS, PALE, PORTRAIT_H, PORTRAIT_W, SPRITE_H, SPRITE_W, WOOD, portrait
from .styles import PAPER, blocks, blur, strokes, styled

SIZE = 48  # pixels a side
PATCH = 4  # pixels a side of what one image token covers
ZOOM = 8  # vector art is drawn this much larger, then averaged down
VARIANTS = 4  # backgrounds per place, time and style
HORIZON = 30  # pixel row

COLOURS = ("red", "blue", "yellow", "green", "purple")
PLACES = ("hill", "sea", "desert", "snow", "street", "forest")
TIMES = ("day", "night")
STYLES = ("photo", "sketch", "pixel", "vangogh", "watercolor", "cyberpunk")

_RGB = {
    "red": (206, 52, 44),
    "blue": (44, 88, 196),
    "yellow": (245, 200, 40),
    "green": (36, 128, 66),
    "purple": (138, 62, 160),
}
_PENCIL, _MAGENTA = (62, 62, 72), (92, 24, 110)
_DUSK, _VOID = (16, 20, 58), (16, 9, 38)  # what night and cyberpunk mix into every colour
_SKY = {  # by day, by night
    "hill": ((142, 196, 240), (24, 30, 84)),
    "sea": ((166, 214, 244), (20, 32, 78)),
    "desert": ((250, 208, 150), (52, 36, 88)),
    "snow": ((190, 206, 232), (44, 56, 104)),
    "street": ((196, 208, 222), (34, 28, 62)),
    "forest": ((176, 220, 214), (34, 62, 104)),
}
_LAND = {
    "hill": (104, 170, 70),
    "sea": (40, 104, 168),
    "desert": (220, 168, 92),
    "snow": (246, 249, 255),
    "street": (92, 94, 104),
    "forest": (74, 112, 56),
}


def mix(a, b, share):
    """Colour `a` with a `share` of colour `b` in it."""
    return tuple(int(round(x * (1 - share) + y * share)) for x, y in zip(a, b))


def _neon(colour):
    """The colour as a glowing tube shows it: as bright and saturated as can be; greys glow cyan."""
    low, high = min(colour), max(colour)
    if high - low < 26:
        return (96, 232, 255) if high > 100 else (150, 84, 230)
    return tuple(int(40 + 215 * (x - low) / (high - low)) for x in colour)


class Pen:
    """Draws in pixel units on a canvas ZOOM times as large, with the ink of a style.

    Args:
        width, height: of the canvas, in pixels.
        style: one of STYLES.
        night: share of the night's blue in every colour, except of lit windows; 0 by day.
        background: colour of the canvas; transparent without one.
    """

    def __init__(self, width: int, height: int, style: str, night: float = 0.0, background=None):
        self.style, self.night, self.light = style, night, (255, 214, 96) if night else PALE
        fill = (*background, 255) if background else (0, 0, 0, 0)
        self.image = Image.new("RGBA", (width * ZOOM, height * ZOOM), fill)
        self.draw = ImageDraw.Draw(self.image)

    def tone(self, colour):
        """The colour as it looks at this time of day in this style."""
        if self.style in ("sketch", "cyberpunk") or not self.night or colour in (self.light, GOLD):
            return colour
        return mix(colour, _DUSK, self.night)

    def _ink(self, fill):
        fill = self.tone(fill)
        if self.style == "sketch":
            return {"fill": (*mix(PAPER, fill, 0.64), 255), "outline": (*_PENCIL, 255), "width": int(0.9 * ZOOM)}
        if self.style == "watercolor":
            return {"fill": (*mix(fill, PAPER, 0.14), 255)}
        if self.style == "cyberpunk":
            return {"fill": (*mix(fill, _VOID, 0.66), 255), "outline": (*_neon(fill), 255), "width": int(1.1 * ZOOM)}
        return {"fill": (*fill, 255)}

    def poly(self, points, fill):
        """A filled polygon with corners `points`."""
        self.draw.polygon([(x * ZOOM, y * ZOOM) for x, y in points], **self._ink(fill))

    def box(self, x0, y0, x1, y1, fill):
        """A filled rectangle."""
        self.draw.rectangle((x0 * ZOOM, y0 * ZOOM, x1 * ZOOM - 1, y1 * ZOOM - 1), **self._ink(fill))

    def disc(self, x, y, r, fill, ry=None):
        """A filled disc, or an ellipse with vertical radius `ry`."""
        ry = ry or r
        self.draw.ellipse(((x - r) * ZOOM, (y - ry) * ZOOM, (x + r) * ZOOM, (y + ry) * ZOOM), **self._ink(fill))

    def line(self, points, fill, width=1.0):
        """A line through `points`."""
        colour = {"sketch": _PENCIL, "cyberpunk": _neon(fill)}.get(self.style, self.tone(fill))
        scaled = [(x * ZOOM, y * ZOOM) for x, y in points]
        self.draw.line(scaled, fill=(*colour, 255), width=int(width * ZOOM), joint="curve")

    def array(self) -> np.ndarray:
        """float32 [H, W, 4], colours 0..255 not premultiplied."""
        premultiplied = np.asarray(self.image.convert("RGBa").reduce(ZOOM), np.float32)
        alpha = premultiplied[..., 3:]
        return np.concatenate([premultiplied[..., :3] * 255 / np.maximum(alpha, 1), alpha], -1)


def _sprite(draw, colour: str, style: str, time: str, width: int = SPRITE_W, height: int = SPRITE_H) -> np.ndarray:
    pen = Pen(width, height, style, 0.2 if time == "night" else 0.0)
    c = _RGB[colour]
    draw(pen, c, mix(c, DARK, 0.38))
    return styled(pen.array(), style)


# ---------------------------------------------------------------- places


def _heaven(p: Pen, place: str, sky, high: bool) -> None:
    """Sun and clouds, or moon and stars."""
    if p.night:
        p.disc(8, 8, 4.8, GOLD if p.style == "cyberpunk" else p.light)
        p.disc(10.4, 6.8, 4.0, PAPER if p.style == "sketch" else _VOID if p.style == "cyberpunk" else sky)
        low = ((18, 10), (26, 4), (34, 8), (44, 6), (40, 16), (14, 18))
        for x, y in ((20, 6), (30, 10), (38, 4), (42, 14), (16, 16), (26, 18)) if high else low:
            p.disc(x, y, 1.1, p.light)
        return
    if p.style == "cyberpunk":  # a striped sun
        p.draw.ellipse((1.5 * ZOOM, 1.5 * ZOOM, 14.5 * ZOOM, 14.5 * ZOOM), fill=(255, 150, 96, 255))
        for y in (8, 10.4, 12.4):
            p.draw.rectangle((ZOOM, y * ZOOM, 15 * ZOOM, (y + 1) * ZOOM), fill=(*_MAGENTA, 255))
        return
    p.disc(8, 8, 4.6, (255, 226, 110) if place != "snow" else (255, 240, 190))
    cloud_y = 7 if high else 12
    if place == "desert":
        p.line([(28, cloud_y), (31, cloud_y - 2), (34, cloud_y), (37, cloud_y - 2), (40, cloud_y)], WOOD, 1.1)
    else:
        for dx, r in ((-4, 2.6), (0, 3.6), (4, 2.8)):
            p.disc(36 + dx, cloud_y, r, (252, 253, 255), ry=r * 0.8)


def _hill(p, land, sky):
    p.disc(6, 44, 22, mix(land, sky, 0.35), ry=16)
    p.disc(40, 46, 28, mix(land, DARK, 0.08), ry=14)
    p.box(-2, 40, 50, 50, land)
    p.disc(24, 46, 40, land, ry=9)


def _sea(p, land, sky):
    p.box(-2, HORIZON, 50, 50, land)
    for i, y in enumerate((33, 37, 41, 45)):
        for x in range(2 + 4 * (i % 2), 48, 12):
            p.line([(x, y), (x + 2.5, y - 1), (x + 5, y)], (150, 200, 232), 0.9)


def _desert(p, land, sky):
    p.poly([(24, 32), (36, 18), (48, 32)], mix(land, DARK, 0.22))
    p.poly([(36, 18), (40, 32), (48, 32)], mix(land, DARK, 0.38))
    p.box(-2, HORIZON, 50, 50, land)
    for y in (35, 40, 45):
        p.line([(0, y), (12, y - 1.5), (24, y), (36, y - 1.5), (48, y)], mix(land, WOOD, 0.35), 0.9)


def _snow(p, land, sky):
    p.poly([(-6, 32), (10, 15), (26, 32)], (150, 166, 196))
    p.poly([(5, 20.5), (10, 15), (15, 20.5), (12, 19.5), (10, 22), (8, 19.5)], (255, 255, 255))
    p.box(-2, HORIZON, 50, 50, land)
    for x, y in ((30, 6), (44, 22), (20, 26), (34, 20), (16, 4), (26, 12)):
        p.disc(x, y, 1.0, (255, 255, 255))
    for y in (37, 44):
        p.line([(0, y), (16, y + 1), (32, y), (48, y + 1)], (206, 218, 238), 0.9)


def _street(p, land, sky):
    walls = ((110, 120, 142), (140, 130, 132), (96, 104, 124))
    for i, (x0, x1, top) in enumerate(
        ((-2, 8, 19), (8, 16, 14), (16, 26, 22), (26, 34, 16), (34, 41, 12), (41, 50, 20))
    ):
        p.box(x0, top, x1, 36, walls[i % 3])
        for y in range(top + 2, 32, 4):
            for x in range(max(x0, 0) + 2, min(x1, 48) - 2, 4):
                p.draw.rectangle(
                    (x * ZOOM, y * ZOOM, (x + 1.6) * ZOOM, (y + 2) * ZOOM),
                    fill=(255, 214, 96, 255) if p.night or p.style == "cyberpunk" else (222, 230, 238, 255),
                )
    p.box(-2, 32, 50, 37, (176, 172, 168))
    p.box(-2, 37, 50, 50, land)
    for x in range(1, 48, 12):
        p.box(x, 44, x + 6, 45.5, CREAM)


def _forest(p, land, sky):
    for row, (step, top, shade) in enumerate(((8, 10, 0.25), (12, 15, 0.0))):
        green = mix((34, 84, 52), sky, shade)
        for i, x in enumerate(range(-2 + 4 * row, 54, step)):
            t = top + (3 if i % 2 else 0)
            p.box(x - 1, 28, x + 1, 36, mix(WOOD, DARK, 0.3))
            p.poly([(x - 5, 33), (x, t + 8), (x + 5, 33)], green)
            p.poly([(x - 4, 25), (x, t), (x + 4, 25)], green)
    p.box(-2, 33, 50, 50, land)
    for i, y in enumerate((38, 43)):
        for x in range(3 + 6 * i, 48, 12):
            p.line([(x - 2, y), (x - 1, y - 2.4), (x, y), (x + 1.4, y - 2.4), (x + 2, y)], (44, 78, 36), 0.9)


_DRAW_PLACE = dict(zip(PLACES, (_hill, _sea, _desert, _snow, _street, _forest)))


def _background(place: str, time: str, style: str, variant: int) -> np.ndarray:
    """float32 [48, 48, 3] in 0..255."""
    mirrored, high, night = variant % 2 == 1, variant >= 2, time == "night"
    sky, land = _SKY[place][night], _LAND[place]
    if style == "vangogh":
        sky = mix(sky, (30, 60, 150), 0.3) if place != "desert" or night else (240, 186, 84)
    canvas = {"sketch": PAPER, "watercolor": mix(sky, PAPER, 0.1), "cyberpunk": _VOID if night else _MAGENTA}
    p = Pen(SIZE, SIZE, style, 0.42 if night else 0.0, canvas.get(style, sky))
    _heaven(p, place, sky, high)
    _DRAW_PLACE[place](p, land, sky)
    art = p.array()[..., :3]
    if mirrored:
        art = art[:, ::-1]
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    if style == "photo":  # a soft gradient, a little haze above the horizon
        shade = np.linspace(0.90, 1.06, SIZE, dtype=np.float32)[:, None, None]
        shade[HORIZON:] = np.linspace(1.05, 0.86, SIZE - HORIZON, dtype=np.float32)[:, None, None]
        art = art * shade
    elif style == "sketch":
        hatch = ((x + y) % 8 < 1) & (y >= 34)
        if night:
            hatch |= ((x - y) % 4 < 1) & (y < 34)
        art = np.where(hatch[..., None], art * 0.72, art)
    elif style == "pixel":
        art = blocks(np.concatenate([art, np.full((SIZE, SIZE, 1), 255, np.float32)], -1))[..., :3]
    elif style == "vangogh":
        cx = 39 if mirrored else 8
        halo = 1.05 * np.hypot(x - cx, y - 8)
        swirl = 1.05 * np.hypot(x - (47 - cx) + 4, 1.15 * (y - 20))
        phase = np.where(halo < swirl, halo, swirl)
        art = strokes(art, np.where(y > 32, 1.05 * y + 1.6 * np.sin(x / 4.0), phase))
    elif style == "watercolor":
        bloom = 0.5 + 0.5 * np.sin(x / 4.2 + 0.5) * np.sin(y / 3.6 + (2.0 if high else 0.0))
        paper = np.array(PAPER, np.float32)
        art = blur(art) + (0.1 if night else 0.2) * bloom[..., None] * (paper - blur(art))
        ragged = np.minimum(np.minimum(x, 47 - x), np.minimum(y, 47 - y)) + 1.1 * np.sin(x / 1.9) * np.cos(y / 2.3)
        art = art + np.clip(1 - ragged / 2.4, 0, 1)[..., None] * (paper - art)
    else:  # cyberpunk: the sky glows over the horizon
        glow = np.exp(-np.abs(y - HORIZON) / 9)[..., None] * np.array((60, 70, 110) if night else (150, 30, 90))
        art = art + glow * (y < HORIZON)[..., None] * 0.8
    return np.clip(art, 0, 255)


@lru_cache(1)
def sprites() -> tuple[np.ndarray, np.ndarray]:
    """Colours [style, time, object, colour, flip, H, W, 3] in 0..255 and alpha [..., 1] in 0..1, float32."""
    art = np.stack([[[[_sprite(DRAW[o], c, s, t) for c in COLOURS] for o in OBJECTS] for t in TIMES] for s in STYLES])
    return _with_flips(art)


@lru_cache(1)
def portraits() -> tuple[np.ndarray, np.ndarray]:
    """Colours [style, time, colour, flip, H, W, 3] in 0..255 and alpha [..., 1] in 0..1, float32."""
    one = lambda c, s, t: _sprite(portrait, c, s, t, PORTRAIT_W, PORTRAIT_H)
    return _with_flips(np.stack([[[one(c, s, t) for c in COLOURS] for t in TIMES] for s in STYLES]))


def _with_flips(art: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    art = np.stack([art, art[..., ::-1, :]], -4).astype(np.float32)
    return art[..., :3], art[..., 3:]


@lru_cache(1)
def backgrounds() -> np.ndarray:
    """float32 [style, place, time, variant, 48, 48, 3] in 0..255."""
    rows = [[[[_background(p, t, s, v) for v in range(VARIANTS)] for t in TIMES] for p in PLACES] for s in STYLES]
    return np.stack(rows).astype(np.float32)
