"""The offline writer of prompt pairs: a grammar of templates. It asks nobody, and equal requests get equal replies.

For MiniWorld's concepts it writes as their files are written (`miniworld/concepts.py`); for others it puts the
`phrases` of the concept file into frames.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..concepts import Concept
from ..errors import UserError
from .proposals import Request


class GrammarWriter:
    """The offline default: pairs from templates. MiniWorld's caption language for its concepts; for others the
    concept's `phrases` in frames."""

    name = "grammar"

    def write(self, request: Request, stop: threading.Event | None = None) -> str:
        concept, rng = request.concept, request.rng
        if concept.judge["name"] == "miniworld":
            pairs = [_mini_pair(concept.judge["group"], concept.judge["label"], rng) for _ in range(request.count)]
        elif concept.phrases:
            pairs = [_english_pair(concept, rng) for _ in range(request.count)]
        else:
            how = "add some to its file, or choose another --writer"
            raise UserError(f"writer 'grammar': concept '{concept.name}' has no 'phrases' to write with; {how}")
        return json.dumps([dict(zip(("target", "replacement"), pair)) for pair in pairs], ensure_ascii=False)


def _pick(options: Sequence, rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


def _mini_pair(group: str, label: str, rng: np.random.Generator) -> tuple[str, str]:
    """Two captions of MiniWorld that differ by one object, style, place, time or framing."""
    from ..miniworld.concepts import ConceptFile, Writer
    from ..miniworld.words import CONCEPTS

    name = next((name for name, what in CONCEPTS.items() if what == (group, label)), None)
    if name is None:
        known = f"MiniWorld's concepts ({', '.join(CONCEPTS)})"
        raise UserError(f"writer 'grammar': knows {known}, no {group} '{label}'; choose another --writer")
    return ConceptFile(name, Writer(seed=rng)).any_pair()


LOOKS = (
    "{x}; {x}; a photo of {x}; an oil painting of {x}; a pencil sketch of {x}; a wide shot of {x}; an "
    "illustration of {x}; a postcard of {x}"
).split("; ")
SETTINGS = (
    "",
    *(
        "beside a lake; under a cloudy sky; at the end of a long road; in the snow; on a summer afternoon; in a "
        "quiet town; near a river; in the early morning; with mountains in the distance; seen from a train; in "
        "heavy rain; behind an iron fence; in the middle of a field"
    ).split("; "),
)
TAILS = ("", "", ", soft light", ", high contrast", ", from a low angle", ", muted tones", ", sharp details")
SUBJECTS = (
    "a red bicycle; two horses; a small bakery; an old man on a bench; a fox crossing a path; a stone bridge; "
    "a steam train; a sailing boat; a woman with an umbrella; a white dog; a market stall full of fruit; a "
    "lighthouse; a farmhouse with a red roof; a street musician; a yellow tram; an empty swing; a picnic "
    "table with bread and cheese; a deer beside a stream; a child's kite; a wooden rowing boat; a row of "
    "parked cars; a fisherman mending a net; a fountain with pigeons; a cat on a wall; a tent with a flag; an "
    "orchard of apple trees; a motorcycle; a windmill; three friends around a table; a snow-covered car; a "
    "telephone box; a waterfall; a flower seller; an owl on a post"
).split("; ")


def _english_pair(concept: Concept, rng: np.random.Generator) -> tuple[str, str]:
    """A phrase of the concept and its replacement, both in the same frame."""
    phrase, tail = _pick(concept.phrases, rng), _pick(TAILS, rng)
    if "{x}" in phrase.target:  # a style or a scene: the subject goes into the phrase
        subject = _pick(SUBJECTS, rng)
        return tuple(side.replace("{x}", subject) + tail for side in (phrase.target, phrase.replacement))
    look = _pick(LOOKS, rng) if concept.kind == "object" else "{x}"
    setting = _pick(SETTINGS, rng)
    sides = (look.replace("{x}", side) for side in (phrase.target, phrase.replacement))
    return tuple(f"{side} {setting}".strip() + tail for side in sides)
