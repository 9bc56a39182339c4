"""The caption language of MiniWorld: how pictures are told, which wordings are held out, and every word of it.

A caption names or describes what the picture shows; a part of it may be left open. A style left open means a photo, a
time left open means day. The plain name stands in about two thirds of the captions that tell of a thing; the others use
another name or a description put together from parts (`words.py`). `held_out.json` lists descriptions that no training
caption uses and combinations of object, place and style that no training picture shows; `python -m
earlib.miniworld.captions` writes it.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from itertools import combinations, product

import numpy as np

from .scenes import COLOURS, HELD_OUT, OBJECTS, PLACES, STYLES, Scenes, held_out
from .words import ANY_RELATION, FEATURES, LEADS, NAMES, QUESTION, RELATION_WORDINGS, SPARE

LONGEST = 27  # words of a caption; what would be longer is told by names alone
PLAIN, OTHER = 0.62, 0.16  # shares of plain names and of other names; the rest are descriptions


# ---------------------------------------------------------------- descriptions


def descriptions(kind: str, name: str) -> list[str]:
    """Every description of a thing without its name, with `{c}` for the colour and `{x}` for the rest; objects have
    those with two features too."""
    leads, features = LEADS[kind][name], FEATURES[kind][name]
    if kind == "object" and name not in ("person", "figure"):  # people have but one colour to tell
        features = (*features, *(f"{a} and {b}" for a, b in combinations(features, 2)))
    texts = [f"{lead} {feature}" for lead, feature in product(leads, features)]
    return [f"{{x}} , {text}" for text in texts] if kind == "style" else texts


def held_out_lists() -> dict:
    """What `held_out.json` holds: {"descriptions": {"kind:name": texts}, "combinations": [[object, place, style]]}.

    Of each thing about a fifth of its descriptions: every lead and every feature stays in training, in other company.
    Twelve combinations, in which each object, place and style occurs.
    """
    texts = {}
    for kind in LEADS:
        for name in LEADS[kind]:
            every = descriptions(kind, name)
            leads, per_lead = len(LEADS[kind][name]), len(every) // len(LEADS[kind][name])
            texts[f"{kind}:{name}"] = [
                text for i, text in enumerate(every) if (i % per_lead + 2 * (i // per_lead) + leads) % 5 == 0
            ]
    triples = [(OBJECTS[k % 10], PLACES[(k + k // 6) % 6], STYLES[(2 * k + k // 3) % 6]) for k in range(12)]
    return {"descriptions": texts, "combinations": [list(t) for t in triples]}


@lru_cache
def told_as(kind: str, name: str, held: bool) -> tuple[str, ...]:
    """The descriptions of a thing that training captions use, or those held out."""
    out = held_out()["descriptions"][f"{kind}:{name}"]
    return tuple(out) if held else tuple(t for t in descriptions(kind, name) if t not in out)


# ---------------------------------------------------------------- captions


def noun_phrase(obj: str, colour: str | None, noun: str | None = None) -> str:
    """`a red church`, `a person in red clothes`, `a nude figure with a red parasol`; `noun` overrides the plain
    name."""
    noun = noun or NAMES["object"][obj][0]
    people = {"person": f" in {colour} clothes", "figure": f" with a {colour} parasol"}
    if obj in people:
        return f"{_article(noun)} {noun}{people[obj] if colour else ''}"
    text = f"{colour} {noun}" if colour else noun
    return f"{_article(text)} {text}"


def _article(text: str) -> str:
    return "an" if text[0] in "aeiou" else "a"


def compose(thing: str, place: str | None = None, time: str | None = None, style: str = "{x}") -> str:
    """A whole caption from its parts in words; `style` holds `{x}` for the rest."""
    return style.format(x=" ".join(part for part in (thing, place, time) if part))


class Teller:
    """Chooses the wording of captions.

    Args:
        rng: where the choices come from.
        plain, other: shares of plain names and of other names; what remains are descriptions.
        held: use the held-out descriptions instead of those of training.
        open_parts: leave colour, place, time or style open now and then.
    """

    def __init__(self, rng, plain: float = PLAIN, other: float = OTHER, held: bool = False, open_parts: bool = True):
        self.rng, self.plain, self.other, self.held, self.open_parts = rng, plain, other, held, open_parts

    def pick(self, options):
        """One of `options`."""
        return options[self.rng.integers(len(options))]

    def wording(self, kind: str, name: str, described: bool) -> tuple[str, bool]:
        """A name or a description of a thing, and whether it is a description."""
        names, chance = NAMES[kind][name], self.rng.random()
        if chance < self.plain or (chance >= self.plain + self.other and not described):
            return names[0], False
        if chance < self.plain + self.other:
            return self.pick(names[1:]), False
        return self.pick(told_as(kind, name, self.held)), True

    def says(self, share: float) -> bool:
        """Whether a part is told that is told in a `share` of the captions."""
        return not self.open_parts or self.rng.random() < share

    def thing(self, obj: str, colour: str, described: bool) -> str:
        """One object in words."""
        colour = colour if self.says(0.88) else None
        text, is_description = self.wording("object", obj, described)
        if is_description:
            return re.sub(" +", " ", text.replace("{c}", colour or ""))
        return noun_phrase(obj, colour, text)

    def caption(self, r: dict, described: bool = True) -> str:
        """The caption of a record (`Scenes.record`); `described=False` makes do with names."""
        thing = self.thing(r["object"], r["colour"], described)
        if r["object2"]:
            form = (
                ANY_RELATION
                if self.open_parts and self.rng.random() < 0.15
                else self.pick(RELATION_WORDINGS[r["relation"]])
            )
            thing = form.format(a=thing, b=self.thing(r["object2"], r["colour2"], described))
        if r["framing"] == "portrait":
            form, is_description = self.wording("framing", "portrait", described)
            thing = form.format(x=thing)
        place = self.wording("place", r["place"], described)[0] if self.says(0.9) else None
        time = self.wording("time", r["time"], described)[0] if r["time"] != "day" or self.says(0.4) else None
        silent = r["style"] == "photo" and not self.says(0.5)
        style = "{x}" if silent else self.wording("style", r["style"], described)[0]
        text = compose(thing, place, time, style)
        if described and text.count(" ") >= LONGEST:
            return self.caption(r, described=False)
        return text


def describe(scenes: Scenes, seed, **options) -> list[str]:
    """One training caption per scene; `options` are those of `Teller`."""
    teller = Teller(np.random.default_rng(seed), **options)
    return [teller.caption(scenes.record(i)) for i in range(len(scenes))]


def plain_caption(r: dict) -> str:
    """The full, direct caption of a record: what a mini model answers when it is asked what it sees."""
    thing = noun_phrase(r["object"], r["colour"])
    if r["object2"]:
        thing = f"{thing} {r['relation']} {noun_phrase(r['object2'], r['colour2'])}"
    if r["framing"] == "portrait":
        thing = NAMES["framing"]["portrait"][0].format(x=thing)
    time = NAMES["time"]["night"][0] if r["time"] == "night" else None
    return compose(thing, NAMES["place"][r["place"]][0], time, NAMES["style"][r["style"]][0])


# ---------------------------------------------------------------- words


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks, as the mini tokenizer splits them."""
    return re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*|[^\sa-z0-9]", text.lower())


def vocabulary() -> list[str]:
    """Every word of the language, sorted."""
    texts = [QUESTION, ". , a an and in with clothes parasol", *SPARE, *COLOURS, ANY_RELATION]
    for table in (NAMES, LEADS, FEATURES):
        texts += [text for things in table.values() for options in things.values() for text in options]
    texts += [text for options in RELATION_WORDINGS.values() for text in options]
    return sorted({w for text in texts for w in words(re.sub(r"\{.\}", " ", text))})


def main() -> None:
    from ..runs import write_text

    write_text(HELD_OUT, json.dumps(held_out_lists(), indent=1) + "\n")
    print(HELD_OUT)


if __name__ == "__main__":
    main()
