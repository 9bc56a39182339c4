"""The understanding side: does a model that can no longer draw a concept still recognise one?

A unified model reads pictures and draws them with one trunk, so that an erasure that changes the trunk may take
recognition with it. Pictures with the concept and pictures without it are captioned, and asked about, before and after
erasure. They come from MiniWorld's renderer, from a folder (`pictures.read_pictures`) or from the model's own drawings;
nothing is drawn here.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from ..concepts import Concept, holds_word
from ..generators.base import NextToken
from .clip import concept_phrases
from .judge import MiniWorldJudge
from .rate import Estimate, Rate

if TYPE_CHECKING:
    from ..erasure.store import Erasure


def recognition(
    generator: NextToken,
    concept: Concept,
    shows: np.ndarray,
    without: np.ndarray,
    erasure: Erasure | None = None,
    question: str | None = None,
) -> list[dict]:
    """How often the model says that the concept is there, of pictures with it and without it.

    Args:
        generator: a model that reads pictures.
        concept: what is looked for.
        shows, without: uint8 pictures [N, H, W, 3] of the model's own size, with the concept and without it.
        erasure: is asked too, if it is given.
        question: its answer must begin with "yes". Without one, the model's caption must name
            the concept (`clip.concept_phrases`).

    Returns:
        list: {"condition": base or erased, "pictures": "with the concept" or "without it", "rate", "answers"}, and of
        the erasure "change": the paired difference.
    """
    words = concept_phrases(concept)
    said: dict[tuple[str, str], np.ndarray] = {}
    rows = []
    for condition, change in (("base", None), ("erased", erasure)):
        if condition == "erased" and erasure is None:
            continue
        with change.on(generator) if change is not None else nullcontext():
            for pictures, images in (("with the concept", shows), ("without it", without)):
                answers = generator.caption(images) if question is None else generator.caption(images, question)
                names_it = says_yes if question else lambda answer: holds_word(answer, words) is not None
                found = said[condition, pictures] = np.array([names_it(answer) for answer in answers], dtype=bool)
                row = {"condition": condition, "pictures": pictures, "rate": Rate.of(found), "answers": answers}
                if change is not None:
                    row["change"] = Estimate.paired(said["base", pictures], found)
                rows.append(row)
    return rows


def says_yes(answer: str) -> bool:
    """Does an answer begin with "yes", whatever follows."""
    return answer.strip().casefold().startswith("yes")


def question_about(concept: Concept) -> str:
    """A yes-or-no question about the concept, for models that were taught to answer questions. MiniJanus was taught to
    caption only."""
    name = concept.words[0] if concept.words and concept.kind != "content" else concept.name.replace("-", " ")
    what = {"object": f"Is there a {name} in this picture?", "style": f"Is this picture in the style {name}?"}
    return what.get(concept.kind, f"Does this picture show {name}?") + " Answer yes or no."


def world_pictures(judge: MiniWorldJudge, n: int = 100, seed: int = 2027) -> tuple[np.ndarray, np.ndarray]:
    """`n` MiniWorld pictures with what `judge` looks for and the same `n` scenes without it (another object, place, ...
    in its stead), one object each, in whole view unless portraits are looked for.

    Both uint8 [n, 48, 48, 3]; always the same for the same seed.
    """
    import dataclasses

    from ..miniworld.scenes import render, sample_scenes

    scenes = sample_scenes(n, [seed, 0], pairs=0.0, portraits=0.0)
    names = judge.groups[judge.group]
    label = names.index(judge.label)
    own = getattr(scenes, judge.group)
    other = (label + 1 + np.arange(n) % (len(names) - 1)) % len(names)  # each of the others in turn, never the label
    with_it, without = (
        dataclasses.replace(scenes, **{judge.group: values})
        for values in (np.full(n, label), np.where(own == label, other, own))
    )
    return render(with_it), render(without)
