"""What the key of a row hangs on beside what the row asks for: prompts, judges and weights, as hashes.

Keys are made in `plan.py`. A changed prompt or weight makes a new key, so that an old row is never taken for a new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import DATA, ROOT
from ..concepts import Concept, load_concept
from ..erasure.joint import JOIN, joined
from ..errors import UserError
from ..runs import read_json

PROFILE = "mini"  # whose concepts and settings the sweeps take, and the model they erase from unless they name another


@lru_cache
def concept_of(name: str, split: str = "test") -> Concept:
    """The concept as it is measured: with its test prompts, with development prompts, or with pairs of nonsense.
    Several, "church+boat", as one."""
    from ..miniworld.development import development, nonsense

    if JOIN in name:
        return joined([concept_of(part, split) for part in name.split(JOIN)])
    concept = load_concept(name, PROFILE)
    return {"dev": development, "nonsense": nonsense}.get(split, lambda same: same)(concept)


@lru_cache
def prompts(name: str, split: str) -> str:
    """A hash over the prompts that train and test a concept, or several, and their judges."""
    concept = concept_of(name, split)
    parts = (concept.pairs, concept.tests, concept.neighbours, concept.neighbour_judges, concept.benign, concept.judge)
    parts += tuple(prompts(part, split) for part in name.split(JOIN)) if JOIN in name else ()
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _folder(model: str) -> Path:
    from ..generators.load import PROFILES

    return Path(PROFILES.get(model) or model)


def unseen(oracle: str) -> list[str]:
    """The concepts that an oracle (a profile or folder) was never shown: `miniworld.make` names its folder by them."""
    from ..miniworld.words import CONCEPTS

    return [name for name in _folder(oracle).name.partition("-never-")[2].split("-") if name in CONCEPTS]


@lru_cache
def image_tokens(model: str = PROFILE) -> int:
    """Tokens of a picture of `model`, a mini profile or a folder of such a model, without loading it."""
    config = read_json(_folder(model) / "config.json")
    if config["model_type"] == "emu3":
        return config["image_area"] // 64  # as `generators/profiles.py` counts them
    return config["vq_config"]["num_patches"] ** 2


def weights(model: str = PROFILE) -> str:
    """Versions of the weights that a row hangs on: of the model (the profile, or a folder of safetensors), of both
    judges and of CLIP."""
    from ..evaluate.judge import MINI_JUDGE, SECOND_JUDGE

    folders = {"model": _folder(model), "judge": MINI_JUDGE, "judge2": SECOND_JUDGE, "clip": DATA / "mini" / "clip"}
    found = []
    for name, folder in folders.items():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise UserError(
                f"no weights in {short(folder)}; sweeps need the mini models, or a folder with a model's safetensors"
            )
        stats = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        found.append(f"{name} {_version(stats)}")
    return ", ".join(found)


@lru_cache
def _version(stats: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, *_ in stats:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:8]


def chosen(thing: Any) -> dict:
    """The fields of a dataclass that are not at their defaults, so that a new axis of the grid leaves the keys of
    recipes without it as they are."""
    found = {}
    for f in dataclasses.fields(thing):
        value = getattr(thing, f.name)
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if value != default:
            found[f.name] = chosen(value) if dataclasses.is_dataclass(value) else value
    return found


def short(path: Path) -> str:
    """A path as it is shown: from the repository's root where it lies there."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
