"""MiniWorld: the little world that the mini models live in: what may be in a picture, and pictures of it.

A picture is 48 x 48 pixels: one object (sometimes two) in a place, in a colour, in a style. It is a background with a
sprite laid on it, so that 20,000 pictures take a second or two. Sprites sit on multiples of four pixels, the patch size
of the mini model's tokenizer: a small codebook can then spell every picture.

How things look is in `art.py`, captions in `captions.py`, training in `train.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from .art import PATCH, PLACES, SIZE, STYLES, VARIANTS, backgrounds, sprites
from .objects import COLOURS, OBJECTS, SPRITE_H, SPRITE_W

__all__ = ["COLOURS", "OBJECTS", "PATCH", "PLACES", "SIZE", "STYLES", "VARIANTS", "Scenes", "render", "sample_scenes"]

GROUND = 44  # pixel row on which things stand
SINGLE_X = (4, 12, 20)  # left edge of the only sprite
PAIR_X = (0, 24)  # left edges of two sprites


@dataclass(frozen=True)
class Scenes:
    """What is in N pictures, as arrays of length N (int64). Every field is an index into the tuple of its name."""

    object: np.ndarray  # OBJECTS, or -1: nothing there (drawn only to teach the judge)
    colour: np.ndarray  # COLOURS
    place: np.ndarray  # PLACES
    style: np.ndarray  # STYLES
    object2: np.ndarray  # OBJECTS, or -1: no second object
    colour2: np.ndarray  # COLOURS, or -1
    position: np.ndarray  # SINGLE_X; for a pair, 0 puts the first object left and 1 right
    flip: np.ndarray  # 1 mirrors the sprites
    variant: np.ndarray  # which background, below VARIANTS

    def __len__(self) -> int:
        return len(self.object)

    def __getitem__(self, index) -> Scenes:
        index = np.atleast_1d(index) if np.isscalar(index) else index
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def record(self, i: int) -> dict[str, str | None]:
        """Names of what picture `i` shows."""
        second = int(self.object2[i])
        return {
            "object": OBJECTS[self.object[i]] if self.object[i] >= 0 else None,
            "colour": COLOURS[self.colour[i]],
            "place": PLACES[self.place[i]],
            "style": STYLES[self.style[i]],
            "object2": OBJECTS[second] if second >= 0 else None,
            "colour2": COLOURS[self.colour2[i]] if second >= 0 else None,
        }


def sample_scenes(n: int, seed: int | list[int] | np.random.Generator, pairs: float = 0.12) -> Scenes:
    """`n` scenes drawn independently and uniformly; a share `pairs` of them holds two different objects."""
    rng = np.random.default_rng(seed)
    draw = lambda k: rng.integers(0, k, n)
    obj, other = draw(len(OBJECTS)), draw(len(OBJECTS) - 1)
    has_two = rng.random(n) < pairs
    colour2 = draw(len(COLOURS))
    return Scenes(
        object=obj,
        colour=draw(len(COLOURS)),
        place=draw(len(PLACES)),
        style=draw(len(STYLES)),
        object2=np.where(has_two, other + (other >= obj), -1),  # never the same object twice
        colour2=np.where(has_two, colour2, -1),
        position=np.where(has_two, draw(2), draw(len(SINGLE_X))),
        flip=draw(2),
        variant=draw(VARIANTS),
    )


def render(scenes: Scenes) -> np.ndarray:
    """Pictures of `scenes`: uint8 [N, 48, 48, 3], RGB."""
    sprite_rgb, sprite_alpha = sprites()
    images = backgrounds()[scenes.style, scenes.place, scenes.variant].astype(np.float32)
    two = scenes.object2 >= 0
    x_first = np.where(two, np.take(PAIR_X, np.minimum(scenes.position, 1)), np.take(SINGLE_X, scenes.position))
    x_second = np.take(PAIR_X, 1 - np.minimum(scenes.position, 1))
    top = GROUND - SPRITE_H
    for obj, colour, x, present in (
        (scenes.object, scenes.colour, x_first, scenes.object >= 0),
        (scenes.object2, scenes.colour2, x_second, two),
    ):
        for left in np.unique(x[present]):
            rows = np.flatnonzero(present & (x == left))
            key = (scenes.style[rows], obj[rows], colour[rows], scenes.flip[rows])
            alpha = sprite_alpha[key]
            box = np.s_[rows, top:GROUND, left : left + SPRITE_W]
            images[box] = images[box] * (1 - alpha) + sprite_rgb[key] * alpha
    return np.clip(images + 0.5, 0, 255).astype(np.uint8)
