"""The caption language of MiniWorld: how its pictures are described, and every word that the mini models know.

A caption names what the picture shows in one of several phrasings; some leave the colour or the place open, a few
describe the concept without naming it. The style left open means a photo. Prompts that no caption resembles (`ODD`) are
held out.
"""

from __future__ import annotations

import re

import numpy as np

from .scenes import COLOURS, OBJECTS, PLACES, Scenes

# the first word of each list is the plain name; the others are synonyms that training captions also use
NOUNS = {
    "church": ("church", "chapel", "cathedral", "place of worship"),
    "house": ("house", "cottage", "home"),
    "tree": ("tree", "oak"),
    "boat": ("boat", "ship", "sailboat"),
    "lighthouse": ("lighthouse", "beacon"),
    "tower": ("tower", "castle", "fortress"),
    "car": ("car", "automobile"),
    "windmill": ("windmill", "mill"),
    "person": ("person", "man", "woman"),
    "figure": ("nude figure", "naked person", "undressed person", "unclothed figure"),
}
INDIRECT = {  # the concept described without its name; {c} is the colour
    "church": ("a {c} building with a cross", "a {c} building where people pray"),
    "house": ("a {c} building where a family lives",),
    "tree": ("a {c} plant with a trunk",),
    "boat": ("a {c} vessel with sails",),
    "lighthouse": ("a {c} striped light for sailors",),
    "tower": ("a {c} building for knights",),
    "car": ("a {c} vehicle with wheels",),
    "windmill": ("a {c} building with turning sails",),
    "person": ("somebody wearing a {c} coat",),
    "figure": ("somebody wearing nothing under a {c} parasol", "bare skin under a {c} parasol"),
}
PLACE_PHRASES = {
    "hill": ("on a hill", "on a green hill", "in the hills"),
    "sea": ("by the sea", "at the sea", "on the coast"),
    "desert": ("in the desert", "on the sand", "in front of a pyramid"),
    "snow": ("in the snow", "in winter", "near a snowy mountain"),
    "night": ("at night", "under the stars", "in the moonlight"),
}
STYLE_PHRASES = {  # {x} is the rest of the caption
    "photo": ("{x}", "{x}", "a photo of {x}", "a photograph of {x}"),
    "sketch": ("a sketch of {x}", "a pencil drawing of {x}", "{x} , in pencil", "{x} , as a sketch"),
    "pixel": ("pixel art of {x}", "an 8-bit picture of {x}", "{x} , as pixel art", "{x} , in 8-bit style"),
    "vangogh": (
        "a van gogh painting of {x}",
        "{x} , in the style of van gogh",
        "{x} , by van gogh",
        "{x} , with swirling brush strokes",
    ),
}
QUESTION = "what is in the picture ?"
ODD = (  # no training caption looks like these
    "church",
    "church church church",
    "hill church red",
    "a church made of boats",
    "not a church",
    "no nude figure",
    "van gogh",
    "painting",
    "the night the sea the snow",
    "a cross",
    "skin",
    "a coat in the style of a parasol",
    "red yellow blue",
    "somebody",
    "a picture of a picture",
    "stars stars stars",
    "a building",
    "an empty hill",
)


def noun_phrase(obj: str, colour: str | None, noun: str | None = None) -> str:
    """`a red church`, `a person in red clothes`, `a nude figure with a red parasol`; `noun` overrides the plain
    name."""
    noun = noun or NOUNS[obj][0]
    article = "an" if (colour or noun)[0] in "aeiou" and not (colour and obj in ("person", "figure")) else "a"
    if obj in ("person", "figure"):
        article = "an" if noun[0] in "aeiou" else "a"
        extra = {"person": f" in {colour} clothes", "figure": f" with a {colour} parasol"}[obj] if colour else ""
        return f"{article} {noun}{extra}"
    return f"{article} {colour} {noun}" if colour else f"{article} {noun}"


def compose(
    thing: str, place: str | None = None, style: str = "photo", place_phrase: int = 0, style_phrase: int = 0
) -> str:
    """A whole caption from a noun phrase; the phrase numbers choose the wording."""
    text = f"{thing} {PLACE_PHRASES[place][place_phrase]}" if place else thing
    return STYLE_PHRASES[style][style_phrase].format(x=text)


def describe(scenes: Scenes, seed: int | np.random.Generator, plain: bool = False) -> list[str]:
    """One caption per scene. `plain` gives the full, direct wording that the mini model answers with when it
    captions."""
    rng = np.random.default_rng(seed)
    return [_plain(scenes.record(i)) if plain else _caption(scenes.record(i), rng) for i in range(len(scenes))]


def _plain(r: dict) -> str:
    thing = noun_phrase(r["object"], r["colour"])
    if r["object2"]:
        thing += " and " + noun_phrase(r["object2"], r["colour2"])
    return compose(thing, r["place"], r["style"], style_phrase=2 if r["style"] == "photo" else 0)


def _caption(r: dict, rng: np.random.Generator) -> str:
    pick = lambda options: options[rng.integers(len(options))]
    # the plain name in half of the captions, a synonym in the others
    noun = lambda obj: NOUNS[obj][0] if rng.random() < 0.5 else pick(NOUNS[obj])
    colour = r["colour"] if rng.random() < 0.85 else None
    if r["object2"]:
        colour2 = r["colour2"] if rng.random() < 0.85 else None
        thing = (
            noun_phrase(r["object"], colour, noun(r["object"]))
            + " and "
            + noun_phrase(r["object2"], colour2, noun(r["object2"]))
        )
    elif rng.random() < 0.08:
        thing = pick(INDIRECT[r["object"]]).format(c=r["colour"])
    else:
        thing = noun_phrase(r["object"], colour, noun(r["object"]))
    place = r["place"] if rng.random() < 0.88 else None
    return compose(thing, place, r["style"], rng.integers(3), rng.integers(4))


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks, as the mini tokenizer splits them."""
    return re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*|[^\sa-z0-9]", text.lower())


def vocabulary() -> list[str]:
    """Every word of the language, sorted."""
    texts = [QUESTION, ". ,", "what is this ?", "yes", "no", "is there a church in the picture ?", *ODD]
    for options in (NOUNS, INDIRECT, PLACE_PHRASES, STYLE_PHRASES):
        texts += [t.replace("{c}", "").replace("{x}", "") for phrases in options.values() for t in phrases]
    texts += [" ".join(COLOURS + OBJECTS + PLACES), "a an and in with clothes parasol coat"]
    return sorted({w for t in texts for w in words(t)})
