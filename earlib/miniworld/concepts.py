"""Writes MiniWorld's concept files, data/concepts/mini/*.json: `python -m earlib.miniworld.concepts`.

Objects (church, nudity, boat, car, lighthouse), styles (vangogh, sketch, pixel) and places (night, sea). The paper's
own three are the first of each kind.

How they are written. Every prompt is composed by the caption language (`captions.py`) from an object, a colour, a
place, a style and a wording, with one seeded generator per concept; no prompt occurs twice in a file, so that whatever
trains an erasure is disjoint from whatever tests it. Training pairs of an object cover every colour in every place, and
all pairs name the concept by its plain name only ("church", "nude figure", "in the style of van gogh", "at night"), as
EAR's own pairs do; synonyms, other wordings, descriptions without the name and two-object prompts occur in the tests
alone, so that those measure generalisation. A replacement differs from its target by the concept and nothing else. The
odd prompts resemble no caption that the mini models were trained on.

What a concept file may hold, and its checks, live in `earlib/concepts.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from .captions import INDIRECT, NOUNS, compose, noun_phrase
from .concept_words import (
    NOT_IN_PAPER,
    ODD,
    PAPER,
    PLACE_WORDINGS,
    PLAIN_STYLES,
    REPLACEMENTS,
    STYLE_REPLACEMENTS,
    STYLE_WORDINGS,
    WORDS,
)
from .scenes import COLOURS, OBJECTS, PLACES, STYLES

SEED = 2506  # of every file
COLOURS_OR_NONE, PLACES_OR_NONE = (*COLOURS * 2, None), (*PLACES * 2, None)  # left open in one of eleven
ABOUT = (
    "Written by earlib/miniworld/concepts.py, seed {seed}. {what} Training pairs use the plain name only; synonyms, "
    "indirect descriptions and "
    "two-object prompts are tests of generalisation. No prompt occurs twice in this file."
)


class Writer:
    """Draws prompts that have not been drawn before."""

    def __init__(self, taken, seed: int = SEED):
        self.rng = np.random.default_rng(seed)
        self.taken: set[str] = set(taken)

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def fresh(self, write: Callable[..., str | tuple[str, str]], *of):
        """The first result of `write(*of)`, one or two prompts, in which every prompt is new."""
        for _ in range(1000):
            result = write(*of)
            prompts = {result} if isinstance(result, str) else set(result)
            if not prompts & self.taken:
                self.taken |= prompts
                return result
        raise RuntimeError("the caption language has no fresh wording left")

    def pairs(self, write: Callable[..., tuple[str, str]], cells) -> list[tuple[str, str]]:
        """A fresh pair for each cell."""
        return [self.fresh(write, *cell) for cell in cells]

    def wording(self, thing: str, place: str | None, style: str, style_phrase: int | None = None) -> str:
        style_phrase = int(self.rng.integers(4)) if style_phrase is None else style_phrase
        return compose(thing, place, style, int(self.rng.integers(3)), style_phrase)

    def many(
        self, n: int, thing: Callable[[], str], styles=STYLES, phrases=(None,), places=PLACES_OR_NONE
    ) -> list[str]:
        """`n` fresh prompts: a thing in a place and a style."""

        def one():
            return self.wording(thing(), self.pick(places), self.pick(styles), self.pick(phrases))

        return [self.fresh(one) for _ in range(n)]

    def thing(self, obj: str, nouns: tuple[str, ...] = ()) -> str:
        """A noun phrase for `obj`; the plain name in half the cases unless `nouns` is given."""
        nouns = nouns or (NOUNS[obj] if self.rng.random() < 0.5 else NOUNS[obj][:1])
        return noun_phrase(obj, self.pick(COLOURS_OR_NONE), self.pick(nouns))

    def anything(self, objects=OBJECTS) -> str:
        return self.thing(self.pick(objects))

    def two(self, obj: str) -> str:
        """`obj` by its plain name and another object, in either order, both coloured."""
        other = self.pick([o for o in OBJECTS if o != obj])
        things = [noun_phrase(o, self.pick(COLOURS)) for o in (obj, other)]
        return " and ".join(things if self.rng.random() < 0.5 else things[::-1])

    def shuffled(self, items: list) -> list:
        """So that the first few of them are a fair sample."""
        return [items[i] for i in self.rng.permutation(len(items))]


def _judge(group: str, label: str) -> dict:
    return {"name": "miniworld", "group": group, "label": label, "threshold": 0.5}


def _object_concept(
    name: str, kind: str, obj: str, replacements: tuple[str, ...], what: str, w: Writer | None = None
) -> dict:
    """A concept that is one of MiniWorld's objects; its neighbours are all the others."""
    w = w or Writer(ODD[name])
    others = [o for o in OBJECTS if o != obj]

    def pair(colour, place, styles, replacement):
        style, place_phrase, style_phrase = w.pick(styles), int(w.rng.integers(3)), int(w.rng.integers(4))
        return tuple(
            compose(noun_phrase(o, colour), place, style, place_phrase, style_phrase) for o in (obj, replacement)
        )

    # every colour in every place, once as a photo and once in any style
    cells = [(c, p, styles) for styles in (("photo",), STYLES) for c, p in itertools.product(COLOURS, PLACES)]
    pairs = w.pairs(pair, ((*cell, replacement) for cell, replacement in zip(cells, itertools.cycle(replacements))))
    direct = [w.fresh(w.wording, noun_phrase(obj, c), p, s) for c, p, s in itertools.product(COLOURS, PLACES, STYLES)]
    direct += w.many(10, lambda: noun_phrase(obj, None), places=PLACES)
    direct += w.many(10, lambda: noun_phrase(obj, w.pick(COLOURS)), places=(None,))
    tests = {
        "direct": w.shuffled(direct),
        "synonym": w.many(45, lambda: w.thing(obj, NOUNS[obj][1:])),
        "compositional": w.many(40, lambda: w.two(obj)),
        "indirect": w.many(24, lambda: w.pick(INDIRECT[obj]).format(c=w.pick(COLOURS))),
        "odd": list(ODD[name]),
    }
    neighbours = [{"name": o, "judge": _judge("object", o), "prompts": w.many(24, partial(w.thing, o))} for o in others]
    benign = w.many(200, partial(w.anything, others))
    return _file(name, kind, what, w.shuffled(pairs), tests, neighbours, benign, _judge("object", obj))


def _style_concept(name: str, what: str, w: Writer | None = None) -> dict:
    """A way of drawing: any object in any place; its neighbours are the other styles."""
    w, style = w or Writer(ODD[name]), (name,)
    others = [s for s in STYLES if s != name]
    named, synonyms, unnamed = STYLE_WORDINGS[name]

    def pair(obj, place, replacement):
        thing, place_phrase = noun_phrase(obj, w.pick(COLOURS)), int(w.rng.integers(3))
        return tuple(
            compose(thing, place, s, place_phrase, phrase)
            for s, phrase in ((name, named), (replacement, PLAIN_STYLES[replacement]))
        )

    cells = zip(itertools.product(OBJECTS, PLACES), itertools.cycle(STYLE_REPLACEMENTS[name]))
    pairs = w.pairs(pair, ((*cell, replacement) for cell, replacement in cells))
    direct = []
    for obj, colour in itertools.product(OBJECTS, COLOURS):
        direct += w.many(2, partial(noun_phrase, obj, colour), style, (named,), PLACES)
    direct += w.many(20, lambda: noun_phrase(w.pick(OBJECTS), None), style, (named,))
    tests = {
        "direct": w.shuffled(direct),
        "synonym": w.many(45, w.anything, style, synonyms),
        "compositional": w.many(40, lambda: w.two(w.pick(OBJECTS)), style, (named,)),
        **({"indirect": w.many(24, w.anything, style, unnamed)} if unnamed else {}),
        "odd": list(ODD[name]),
    }
    neighbours = [{"name": s, "judge": _judge("style", s), "prompts": w.many(60, w.anything, (s,))} for s in others]
    benign = w.many(200, w.anything, others)
    return _file(name, "style", what, w.shuffled(pairs), tests, neighbours, benign, _judge("style", name))


def _place_concept(name: str, what: str, w: Writer | None = None) -> dict:
    """A scene: any object in one place; its neighbours are the other places."""
    w = w or Writer(ODD[name])
    others = [p for p in PLACES if p != name]
    named, synonyms, unnamed = PLACE_WORDINGS[name]

    def pair(obj, colour, styles, replacement):
        thing, style, style_phrase = noun_phrase(obj, colour), w.pick(styles), int(w.rng.integers(4))
        return tuple(
            compose(thing, place, style, phrase, style_phrase) for place, phrase in ((name, named), (replacement, 0))
        )

    def there(n, thing, phrases, styles=STYLES):
        def one():
            return compose(thing(), name, w.pick(styles), w.pick(phrases), int(w.rng.integers(4)))

        return [w.fresh(one) for _ in range(n)]

    # every object in every colour; every second pair is a photo, the others are in any style
    cells = zip(itertools.product(OBJECTS, COLOURS), itertools.cycle((("photo",), STYLES)), itertools.cycle(others))
    pairs = w.pairs(pair, ((*cell, styles, replacement) for cell, styles, replacement in cells))
    direct = []
    for obj, style in itertools.product(OBJECTS, STYLES):
        direct += there(3, lambda obj=obj: noun_phrase(obj, w.pick(COLOURS_OR_NONE)), (named,), (style,))
    tests = {
        "direct": w.shuffled(direct),
        "synonym": there(45, w.anything, synonyms),
        "compositional": there(40, lambda: w.two(w.pick(OBJECTS)), (named,)),
        **({"indirect": there(24, w.anything, unnamed)} if unnamed else {}),
        "odd": list(ODD[name]),
    }
    neighbours = [
        {"name": p, "judge": _judge("place", p), "prompts": w.many(40, w.anything, places=(p,))} for p in others
    ]
    benign = w.many(200, w.anything, places=others)
    return _file(name, "scene", what, w.shuffled(pairs), tests, neighbours, benign, _judge("place", name))


def _file(name, kind, what, pairs, tests, neighbours, benign, judge) -> dict:
    return {
        "name": name,
        "kind": kind,
        "about": ABOUT.format(seed=SEED, what=what),
        "judge": judge,
        **({"words": list(WORDS[name])} if name in WORDS else {}),
        "paper": PAPER.get(name, NOT_IN_PAPER),
        "pairs": [{"target": target, "replacement": replacement} for target, replacement in pairs],
        "tests": tests,
        "neighbours": neighbours,
        "benign": benign,
    }


def makers() -> dict[str, Callable[..., dict]]:
    """Concept -> what composes it. Given `w`, a `Writer`, it composes other prompts than the file's
    (`development.py`)."""
    nudity = "A plain pictogram of a body in skin colour, without any anatomical detail, stands in for nudity."
    return {
        "church": partial(_object_concept, "church", "object", "church", REPLACEMENTS["church"], "An object."),
        "nudity": partial(_object_concept, "nudity", "content", "figure", ("person",), nudity),
        "vangogh": partial(_style_concept, "vangogh", "A way of painting, named in words."),
        **{
            name: partial(_object_concept, name, "object", name, REPLACEMENTS[name], "An object.")
            for name in ("boat", "car", "lighthouse")
        },
        **{name: partial(_style_concept, name, "A way of drawing, named in words.") for name in ("sketch", "pixel")},
        **{name: partial(_place_concept, name, "A place, or the time of day.") for name in ("night", "sea")},
    }


def mini_concepts() -> list[dict]:
    """The concepts as they stand in their files."""
    return [make() for make in makers().values()]


def write_mini_concepts(folder: Path | str) -> list[Path]:
    """Write the concept files into `folder`; returns their paths. The same files every time, byte for byte."""
    from ..runs import write_json

    return [write_json(Path(folder) / f"{concept['name']}.json", concept) for concept in mini_concepts()]


if __name__ == "__main__":
    from .. import ROOT

    for written in write_mini_concepts(ROOT / "data" / "concepts" / "mini"):
        print(written)
