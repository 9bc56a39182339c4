"""What may be in a picture of MiniWorld, and the pictures.

A picture is 48 x 48 pixels: one object, or two in a relation, in a colour, in a place, by day or night, in a style; or
the portrait of a person. It is a background with sprites laid on it, so that 20,000 pictures take seconds. Sprites sit
on multiples of four pixels, the patch size of the mini models' tokenizer: a small codebook can then spell every
picture.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from .art import COLOURS, PATCH, PLACES, SIZE, STYLES, TIMES, VARIANTS, backgrounds, portraits, sprites
from .objects import OBJECTS, PORTRAIT_H, PORTRAIT_W, SPRITE_H

__all__ = ["COLOURS", "FRAMINGS", "NAMES", "OBJECTS", "PATCH", "PLACES", "RELATIONS", "SIZE", "STYLES", "TIMES"]
__all__ += ["VARIANTS", "Scenes", "render", "sample_scenes"]

HELD_OUT = Path(__file__).with_name("held_out.json")
FRAMINGS = ("whole", "portrait")
RELATIONS = ("left of", "behind", "beside")
NAMES = {  # attribute -> the names of its values
    "object": OBJECTS,
    "colour": COLOURS,
    "place": PLACES,
    "time": TIMES,
    "style": STYLES,
    "framing": FRAMINGS,
    "object2": OBJECTS,
    "colour2": COLOURS,
    "relation": RELATIONS,
}
GROUND = 44  # pixel row on which things stand
BACK = 36  # pixel row on which a thing stands that is behind another
SINGLE_X = (4, 12, 20)  # left edge of the only sprite
PAIR_X = (0, 24)  # left edges of two sprites side by side
BEHIND_X = (4, 20)  # left edges of two sprites of which one hides a part of the other
PERSON = OBJECTS.index("person")


@dataclass(frozen=True)
class Scenes:
    """What is in N pictures, as int64 arrays of length N: indices into NAMES[field], except the last three."""

    object: np.ndarray  # -1: nothing there (drawn only to teach judges)
    colour: np.ndarray
    place: np.ndarray
    time: np.ndarray
    style: np.ndarray
    framing: np.ndarray  # a portrait shows a person, alone
    object2: np.ndarray  # -1: no second object
    colour2: np.ndarray  # -1: no second object
    relation: np.ndarray  # of the first object to the second; -1: no second object
    position: np.ndarray  # of one object: into SINGLE_X; of two beside or behind: 1 puts the first one right
    flip: np.ndarray  # 1 mirrors the sprites
    variant: np.ndarray  # which background, below VARIANTS

    def __len__(self) -> int:
        return len(self.object)

    def __getitem__(self, index) -> Scenes:
        index = np.atleast_1d(index) if np.isscalar(index) else index
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def replaced(self, rows: np.ndarray, others: Scenes) -> Scenes:
        """These scenes with `others` in place of those at `rows`."""
        columns = {f.name: getattr(self, f.name).copy() for f in fields(self)}
        for name, column in columns.items():
            column[rows] = getattr(others, name)
        return Scenes(**columns)

    def record(self, i: int) -> dict[str, str | None]:
        """Names of what picture `i` shows, by attribute; None where there is nothing."""
        values = {name: int(getattr(self, name)[i]) for name in NAMES}
        return {name: NAMES[name][value] if value >= 0 else None for name, value in values.items()}


def sample_scenes(
    n: int,
    seed: int | list[int] | np.random.Generator,
    pairs: float = 0.22,
    portraits: float = 0.09,
    seen: bool = False,
) -> Scenes:
    """Draw scenes independently and uniformly.

    Args:
        n: how many.
        seed: whatever `numpy.random.default_rng` takes.
        pairs: share of scenes with two different objects.
        portraits: share of scenes that are portraits.
        seen: leave out the combinations of object, place and style that models are not trained on (`held_out.json`).
    """
    rng = np.random.default_rng(seed)
    draw = lambda k: rng.integers(0, k, n)
    first, other, kind = draw(len(OBJECTS)), draw(len(OBJECTS) - 1), rng.random(n)
    close, two = kind < portraits, kind >= 1 - pairs
    first = np.where(close, PERSON, first)
    colour2, relation, side, place = draw(len(COLOURS)), draw(len(RELATIONS)), draw(2), draw(len(SINGLE_X))
    scenes = Scenes(
        object=first,
        colour=draw(len(COLOURS)),
        place=draw(len(PLACES)),
        time=draw(len(TIMES)),
        style=draw(len(STYLES)),
        framing=close.astype(np.int64),
        object2=np.where(two, other + (other >= first), -1),  # never the same object twice
        colour2=np.where(two, colour2, -1),
        relation=np.where(two, relation, -1),
        position=np.where(two, side, place),
        flip=draw(2),
        variant=draw(VARIANTS),
    )
    while seen and (bad := np.flatnonzero(is_held_out(scenes))).size:
        scenes = scenes.replaced(bad, sample_scenes(len(bad), rng, pairs, portraits))
    return scenes


@lru_cache(1)
def held_out() -> dict:
    """`held_out.json`: {"descriptions": {"kind:name": texts}, "combinations": [[object, place, style]]}."""
    return json.loads(HELD_OUT.read_text("utf-8"))


def is_held_out(scenes: Scenes) -> np.ndarray:
    """Which scenes show a combination of object, place and style that training leaves out: bool [N]."""
    table = np.zeros((len(OBJECTS) + 1, len(PLACES), len(STYLES)), bool)  # the last row: no object
    for obj, place, style in held_out()["combinations"]:
        table[OBJECTS.index(obj), PLACES.index(place), STYLES.index(style)] = True
    return table[scenes.object, scenes.place, scenes.style] | table[scenes.object2, scenes.place, scenes.style]


def render(scenes: Scenes) -> np.ndarray:
    """Pictures of `scenes`: uint8 [N, 48, 48, 3], RGB."""
    images = backgrounds()[scenes.style, scenes.place, scenes.time, scenes.variant]
    look, two = (scenes.style, scenes.time), scenes.object2 >= 0
    close = scenes.framing == 1
    behind = scenes.relation == RELATIONS.index("behind")
    side = np.where(scenes.relation == RELATIONS.index("left of"), 0, np.minimum(scenes.position, 1))
    pair = lambda k: np.where(behind, np.take(BEHIND_X, k), np.take(PAIR_X, k))
    x_first = np.where(two, pair(side), np.take(SINGLE_X, scenes.position))
    y_first = np.where(behind, BACK, GROUND)
    alone = (scenes.object >= 0) & ~close
    whole = lambda obj, colour: (*look, obj, colour, scenes.flip)
    _lay(images, sprites(), whole(scenes.object, scenes.colour), x_first, y_first - SPRITE_H, alone)
    ground = np.full(len(scenes), GROUND - SPRITE_H)
    _lay(images, sprites(), whole(scenes.object2, scenes.colour2), pair(1 - side), ground, two)
    middle, top = (np.full(len(scenes), v) for v in ((SIZE - PORTRAIT_W) // 2, SIZE - PORTRAIT_H))
    _lay(images, portraits(), (*look, scenes.colour, scenes.flip), middle, top, close & (scenes.object >= 0))
    return np.clip(images + 0.5, 0, 255).astype(np.uint8)


def _lay(images: np.ndarray, art, key, x: np.ndarray, y: np.ndarray, present: np.ndarray) -> None:
    """Lay sprites `art[key]` on `images` where `present`, each with its upper left corner at (x, y); in place."""
    colours, alphas = art
    height, width = colours.shape[-3:-1]
    for left, top in {(int(a), int(b)) for a, b in zip(x[present], y[present])}:
        rows = np.flatnonzero(present & (x == left) & (y == top))
        which = tuple(k[rows] for k in key)
        alpha, box = alphas[which], np.s_[rows, top : top + height, left : left + width]
        images[box] = images[box] * (1 - alpha) + colours[which] * alpha
