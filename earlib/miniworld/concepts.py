"""Writes MiniWorld's concept files, data/concepts/mini/*.json: `python -m earlib.miniworld.concepts`.

Every prompt tells a scene (`captions.py`) that training may show, drawn with one seeded generator per concept; no
prompt occurs twice in a file, so that what trains an erasure never tests it. Pairs name the concept by its plain name
only and differ by the concept alone. The tests:

    direct          by the plain name
    synonym         by another name
    description     without a name, in words that training captions use
    held-out        without a name, in descriptions that no training caption uses (`held_out.json`)
    compositional   by the plain name, with two objects in a relation
    indirect        a part of a description alone, in a grammar that no caption has: "where people pray , in the snow"
    odd             known words in ways that no caption has

Only tests hold other names, descriptions or two objects for the concept. Neighbours and benign prompts tell all else as
training captions do, but with names alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .captions import compose, noun_phrase, told_as
from .paper import NOT_IN_PAPER, PAPER
from .scenes import COLOURS, OBJECTS, PLACES, RELATIONS, STYLES, held_out
from .words import CONCEPTS, FEATURES, NAMES, ODD, RELATION_WORDINGS, WORDS

SEED = 2510  # of every file
VALUES = {
    "object": OBJECTS,
    "place": PLACES,
    "style": STYLES,
    "time": ("day", "night"),
    "framing": ("whole", "portrait"),
}
KIND = {"object": "object", "style": "style", "place": "scene", "time": "scene", "framing": "object"}
COUNTS = {"direct": 120, "synonym": 45, "description": 40, "held-out": 24, "compositional": 40, "indirect": 24}
REPLACED_BY = {  # things of about its size that could stand where it stands; ways of drawing that are not far
    "church": ("house", "tower", "tree", "windmill", "lighthouse"),
    "figure": ("person",),
    "boat": ("house", "car", "tree", "tower", "windmill"),
    "car": ("boat", "house", "tree", "church", "windmill"),
    "lighthouse": ("tower", "tree", "windmill", "church", "house"),
    "night": ("day",),
    "portrait": ("whole",),
    "vangogh": ("photo", "watercolor"),
    "watercolor": ("photo", "sketch"),
    "cyberpunk": ("photo", "pixel"),
    "sketch": ("photo", "watercolor"),
    "pixel": ("photo", "sketch"),
}
ABOUT = (
    "Written by earlib/miniworld/concepts.py, seed {seed}. {what} Training pairs use the plain name only; other "
    "names, descriptions and two-object prompts are tests of generalisation. No prompt occurs twice in this file."
)
WHAT = {"object": "An object.", "style": "A way of drawing.", "place": "A place.", "time": "The time of day."}
WHAT |= {"framing": "A person seen from close up."}
PICTOGRAM = "A plain pictogram of a body in skin colour, without any anatomical detail, stands in for nudity."


class Writer:
    """Draws prompts that have not been drawn before; `taken` are those that have, `seed` a seed or a generator."""

    def __init__(self, taken=(), seed: int | np.random.Generator = SEED):
        self.rng, self.taken = np.random.default_rng(seed), set(taken)
        self.unseen = {tuple(triple) for triple in held_out()["combinations"]}

    def pick(self, options):
        """One of `options`."""
        return options[self.rng.integers(len(options))]

    def scene(self, without: tuple[str, str] | None = None, pair: bool = False, **fixed) -> dict:
        """What a picture shows that training may show, as `Scenes.record` has it; the attributes `fixed` are given, and
        `without` (attribute, value) is not shown."""
        while True:
            r = {name: self.pick(VALUES[name]) for name in ("object", "place", "style", "time")} | {"framing": "whole"}
            r |= {"colour": self.pick(COLOURS), "object2": None, "colour2": None, "relation": None} | fixed
            if r["framing"] == "portrait":
                r["object"] = "person"
            if pair:
                r["object2"] = self.pick([o for o in OBJECTS if o != r["object"]])
                r["colour2"], r["relation"] = self.pick(COLOURS), self.pick(RELATIONS)
            if not self.never_shown(r) and not (without and without[1] in (r[without[0]], r["object2"])):
                return r

    def never_shown(self, r: dict) -> bool:
        """Whether a scene holds a combination of object, place and style that training leaves out."""
        return any((o, r["place"], r["style"]) in self.unseen for o in (r["object"], r["object2"]))

    def name(self, kind: str, value: str, how: str) -> str:
        """A thing in words: by its `plain`, an `other`, or `any` name; by a `description` or one that is `held-out`."""
        if how in ("description", "held-out"):
            return self.pick(told_as(kind, value, how == "held-out"))
        names = NAMES[kind][value]
        return self.pick({"plain": names[:1], "other": names[1:], "any": names}[how])

    def thing(self, obj: str, colour: str | None, how: str) -> str:
        """An object in words."""
        text = self.name("object", obj, how)
        if how in ("description", "held-out"):
            return text.replace("{c}", colour or "").replace("  ", " ")
        return noun_phrase(obj, colour, text)

    def tell(self, r: dict, how: dict[str, str] | None = None) -> str:
        """The caption of a scene, everything by any of its names but what `how` says of an attribute. What is asked for
        is told; the rest may be left open now and then."""
        how = how or {}
        says = lambda name, share: name in how or self.rng.random() < share
        word = lambda name: self.name(name, r[name], how.get(name, "any"))
        thing = self.thing(r["object"], r["colour"] if self.rng.random() < 0.88 else None, how.get("object", "any"))
        if r["object2"]:
            second = self.thing(r["object2"], r["colour2"], "any")
            thing = self.pick(RELATION_WORDINGS[r["relation"]]).format(a=thing, b=second)
        if r["framing"] == "portrait":
            thing = word("framing").format(x=thing)
        place = word("place") if says("place", 0.9) else None
        time = word("time") if says("time", 0.3 if r["time"] == "day" else 1.0) else None
        style = word("style") if says("style", 0.5 if r["style"] == "photo" else 1.0) else "{x}"
        return compose(thing, place, time, style)

    def fresh(self, write: Callable[[], str | tuple[str, str]]):
        """The first result of `write()`, one or two prompts, in which every prompt is new."""
        for _ in range(1000):
            result = write()
            prompts = {result} if isinstance(result, str) else set(result)
            if not prompts & self.taken:
                self.taken |= prompts
                return result
        raise RuntimeError("the caption language has no fresh wording left")

    def many(self, n: int, write: Callable[[], str]) -> list[str]:
        """`n` fresh prompts."""
        return [self.fresh(write) for _ in range(n)]


class ConceptFile:
    """One concept's prompts, from `CONCEPTS`; `writer` draws them (by default those of the file)."""

    def __init__(self, name: str, writer: Writer | None = None):
        self.name, (self.attribute, self.value) = name, CONCEPTS[name]
        self.w = writer or Writer(odd(name))
        self.others = [value for value in VALUES[self.attribute] if value != self.value]
        self.replaced_by = replaced_by(self.value, VALUES[self.attribute])

    def pairs(self) -> list[tuple[str, str]]:
        """50 pairs of target and replacement, which differ by the concept alone: every colour in every place, or every
        object in every colour."""
        w, attribute = self.w, self.attribute
        if attribute == "object":
            cells = [{"colour": c, "place": p} for c, p in itertools.product(COLOURS, PLACES)]
        else:
            people = attribute == "framing"
            cells = [{"object": "person" if people else o, "colour": c} for o, c in itertools.product(OBJECTS, COLOURS)]
        others = itertools.cycle(self.replaced_by)
        chosen = list(itertools.islice(zip(itertools.cycle(cells), others), 50))
        return [w.fresh(lambda cell=cell, other=other: self.pair(cell, other)) for cell, other in chosen]

    def any_pair(self, other: str | None = None, how: str = "plain", wrong: str = "") -> tuple[str, str]:
        """A pair with what it shows chosen at random; arguments as of `pair`."""
        w, where = self.w, ("place", PLACES) if self.attribute == "object" else ("object", OBJECTS)
        shown = "person" if self.attribute == "framing" else w.pick(where[1])
        cell = {"colour": w.pick(COLOURS), where[0]: shown}
        return self.pair(cell, other or w.pick(self.replaced_by), how, wrong)

    def pair(self, cell: dict, other: str, how: str = "plain", wrong: str = "") -> tuple[str, str]:
        """The same scene told with the concept and with `other` in its place.

        Args:
            cell: what the scene shows, besides.
            other: a value of the concept's attribute.
            how: the concept is told, as `Writer.name` has it.
            wrong: "no target" tells of another thing in place of the concept, "no replacement" of the concept by
                another name in place of `other`.
        """
        w, attribute = self.w, self.attribute
        r = w.scene(**cell | {attribute: self.value})
        while w.never_shown(r | {attribute: other}):
            r = w.scene(**cell | {attribute: self.value})
        # whatever is chosen is chosen once: both sides are told from one template
        names = {name: w.name(name, r[name], "any") for name in ("object", "style", "place")}
        time = w.name("time", r["time"], "any") if r["time"] == "night" or attribute == "time" else None

        def side(value: str, how: str = "plain") -> str:
            word = lambda: NAMES[attribute][value][0] if how == "plain" else w.name(attribute, value, how)
            told = names | ({attribute: word()} if attribute in names else {})
            thing = noun_phrase(value if attribute == "object" else r["object"], r["colour"], told["object"])
            if attribute == "object" and how in ("description", "held-out"):
                thing = w.thing(value, r["colour"], how)
            if attribute == "framing" and value == "portrait":
                thing = word().format(x=thing)
            when = word() if attribute == "time" else time
            return compose(thing, told["place"], when, told["style"])

        if wrong == "no replacement":
            return side(self.value, how), side(self.value, "other")
        if wrong == "no target":
            return side(w.pick([value for value in self.others if value != other] or self.others)), side(other)
        return side(self.value, how), side(other)

    def tests(self) -> dict[str, list[str]]:
        """Test prompts by kind."""
        w, mine = self.w, {self.attribute: self.value}
        ask = lambda how: lambda: w.tell(w.scene(**mine), {self.attribute: how})
        kinds = {"direct": ask("plain"), "synonym": ask("other"), "description": ask("description")}
        kinds |= {"held-out": ask("held-out"), "indirect": self.hint}
        kinds["compositional"] = lambda: w.tell(w.scene(pair=True, **mine), {self.attribute: "plain"})
        if self.attribute == "framing":  # a portrait shows one person
            del kinds["compositional"]
        return {kind: w.many(n, kinds[kind]) for kind, n in COUNTS.items() if kind in kinds} | {"odd": odd(self.name)}

    def hint(self) -> str:
        """A part of a description alone, in place of what it describes."""
        w = self.w
        r, cue = w.scene(**{self.attribute: self.value}), w.pick(FEATURES[self.attribute][self.value])
        rest = {name: w.name(name, r[name], "any") for name in ("place", "style")}
        thing = noun_phrase(r["object"], r["colour"])
        if self.attribute == "object":
            return compose(f"{cue.format(c=r['colour'])} ,", rest["place"], None, rest["style"])
        if self.attribute == "framing":
            return compose(
                cue.format(x=thing).removeprefix("of ").removeprefix("and "), rest["place"], None, rest["style"]
            )
        if self.attribute == "style":
            return compose(thing, rest["place"], None, w.pick(("{x} , {cue}", "{cue} , {x}")).replace("{cue}", cue))
        place = rest["place"] if self.attribute == "time" else None
        return compose(thing, place, w.pick((", {cue}", "and {cue}")).replace("{cue}", cue), rest["style"])

    def neighbours(self) -> list[dict]:
        """What should survive: the other values of the attribute, and what looks like the concept. Each is named."""
        near, without = {value: (self.attribute, 24 if len(self.others) > 5 else 40) for value in self.others}, {}
        if self.attribute == "time":
            near |= {"cyberpunk": ("style", 40)} | {place: ("place", 24) for place in PLACES}
            without = {"time": "day"}
        if self.attribute == "framing":
            near = {obj: ("object", 24) for obj in OBJECTS}

        def told(attribute, value):
            return lambda: self.w.tell(self.w.scene(**without | {attribute: value}), {attribute: "any"})

        return [
            {"name": value, "judge": judge(attribute, value), "prompts": self.w.many(n, told(attribute, value))}
            for value, (attribute, n) in near.items()
        ]

    def benign(self) -> list[str]:
        """200 prompts without the concept."""
        without = (self.attribute, self.value)
        return self.w.many(200, lambda: self.w.tell(self.w.scene(without=without, pair=self.w.rng.random() < 0.2)))

    def json(self) -> dict:
        """The concept file's content."""
        what = PICTOGRAM if self.name == "nudity" else WHAT[self.attribute]
        return {
            "name": self.name,
            "kind": "content" if self.name == "nudity" else KIND[self.attribute],
            "about": ABOUT.format(seed=SEED, what=what),
            "judge": judge(self.attribute, self.value),
            "words": list(WORDS[self.name]),
            "paper": PAPER.get(self.name, NOT_IN_PAPER),
            "pairs": [{"target": target, "replacement": replacement} for target, replacement in self.pairs()],
            "tests": self.tests(),
            "neighbours": self.neighbours(),
            "benign": self.benign(),
        }


def replaced_by(value: str, values: Sequence[str]) -> tuple[str, ...]:
    """What training pairs put in the place of a thing, as judges name it; `values` are all things of its kind."""
    return REPLACED_BY.get(value) or tuple(other for other in values if other != value)


def judge(attribute: str, value: str) -> dict:
    """How the first judge is asked for a thing."""
    return {"name": "miniworld", "group": attribute, "label": value, "threshold": 0.5}


def odd(name: str) -> list[str]:
    """Odd prompts for a concept, of its word, a cue to it, and something else."""
    word, cue, other = ODD[name]
    a = "an" if word[0] in "aeiou" else "a"
    texts = ("{w}", "{w} {w} {w}", "not {a} {w}", "{c}", "{c} {c} {c}", "{a} {w} made of stars", "{o} {w} red")
    texts += (
        "is there {a} {w} in the picture ?",
        "a picture of {a} {w} of {a} {w}",
        "no {w} , no {o}",
        "{o} without {w}",
    )
    return [text.format(w=word, c=cue, o=other, a=a) for text in (*texts, "many {o} , many {w}")]


def write_concepts(folder: Path | str) -> list[Path]:
    """Write the concept files into `folder`; returns their paths. The same files every time, byte for byte."""
    from ..runs import write_json

    return [write_json(Path(folder) / f"{name}.json", ConceptFile(name).json()) for name in CONCEPTS]


if __name__ == "__main__":
    from .. import ROOT

    for written in write_concepts(ROOT / "data" / "concepts" / "mini"):
        print(written)
