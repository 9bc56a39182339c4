"""Erasures of the book's notebooks, trained once: kept in .cache/erasures, as base pictures and trajectories are in
their own folders there. Notebooks that ask for the same one find each other's."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .. import ROOT
from ..runs import locked, plain, read_lines

if TYPE_CHECKING:
    from ..concepts import Concept
    from ..erasure.store import Erasure
    from ..generators.base import Generator

CACHE = ROOT / ".cache" / "erasures"


def erased(generator: Generator, concept: Concept, recipe=None, seed: int = 0, progress: bool = False) -> Erasure:
    """`earlib.erase`, whose result is kept for every notebook.

    The same call trains once, and again when the code of generators or of erasure changes. A second process that asks
    for it meanwhile waits; a killed one goes on where it was.

    Args and Raises: those of `earlib.erase`.
    """
    from ..erasure import erase
    from ..erasure.presets import recipe as preset

    recipe = preset(recipe, generator) if recipe is None or isinstance(recipe, str) else recipe
    run = _run(generator, concept, recipe, seed)
    run.parent.mkdir(parents=True, exist_ok=True)
    (run.parent / "lock").touch()
    with locked(run.parent / "lock"):  # notebooks may run on several machines
        return erase(generator, concept, recipe, seed, run, progress=progress)


def windows(generator: Generator, concept: Concept, recipe, seed: int = 0) -> list[dict]:
    """What the training of `erased`, called with the same arguments before, logged: a row for each window, or for each
    update of recipes without windows."""
    return read_lines(_run(generator, concept, recipe, seed) / "metrics.jsonl")


def _run(generator: Generator, concept: Concept, recipe, seed: int) -> Path:
    """The run folder of an erasure; its name hangs on all that decides what is trained."""
    from ..erasure import window_length
    from ..erasure.presets import with_settings
    from ..erasure.recipe import Recipe

    if isinstance(recipe, Recipe):  # a window that is left to the paper is the one that is given in numbers
        recipe = with_settings(recipe, {"windows.length": window_length(recipe, concept, generator)})
    decides = {
        "model": [generator.fingerprint, str(generator.device).split(":")[0], str(generator.dtype)],
        "concept": [concept.name, repr(concept.pairs), concept.words, concept.paper],
        "recipe": [type(recipe).__name__, plain(dataclasses.asdict(recipe))],
        "seed": seed,
        "code": _code(),
    }
    key = hashlib.sha256(json.dumps(plain(decides), sort_keys=True).encode()).hexdigest()[:16]
    return CACHE / f"{concept.name}-{recipe.name}-{key}" / "run"


@lru_cache
def _code() -> str:
    """A hash of the code that an erasure hangs on."""
    files = sorted(file for part in ("generators", "erasure") for file in (ROOT / "earlib" / part).rglob("*.py"))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
