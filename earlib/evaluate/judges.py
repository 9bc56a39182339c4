"""Judges: does a picture show the concept, and how surely. The interface, the function that makes one from a spec, and
MiniWorld's own judge.

Judges whose weights come from elsewhere (ResNet-50, NudeNet, style classifiers, CLIP) are in `public_judges.py`. A spec
is the `judge` field of a concept file:

    {"name": "miniworld", "group": "object", "label": "church", "threshold": 0.5}
    {"name": "nudenet", "setting": "paper"}
    {"name": "resnet50", "label": "church", "k": 1, "weights": "resnet50.pth"}
    {"name": "style", "model": "folder or hub id", "label": "vincent-van-gogh", "k": 1}
    {"name": "clip", "model": "local-dir:data/mini/clip", "texts": ["a church"], "others": ["a house", "a tree"],
    "threshold": 0.5}

Every judge takes uint8 pictures [N, H, W, 3], RGB, and refuses anything else: a float picture would be judged black
without a word.
"""

from __future__ import annotations

import hashlib
import inspect
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from .. import ROOT
from ..errors import UserError, nearest

MINI_JUDGE = ROOT / "data" / "mini" / "judge"
BATCH = 256  # pictures judged at once


class Judge(Protocol):
    """Says whether pictures show one thing."""

    name: str  # what is asked of whom: "miniworld object:church"
    version: str  # of the package and the weights: "3.4.2 320n.onnx c15d8273"
    threshold: float  # `shows` is score >= threshold, and where a rank is asked for, a rank of at most k

    def score(self, images: np.ndarray) -> np.ndarray: ...  # float64 [N]
    def shows(self, images: np.ndarray) -> np.ndarray: ...  # bool [N]


def describe(judge: Judge) -> str:
    """Who judged, with which weights, from which score on: the text that stands in every result."""
    return f"{judge.name} {judge.version} >= {judge.threshold:g}"


def check_images(images) -> np.ndarray:
    """`images` if they are uint8 [N, H, W, 3]; UserError otherwise."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        got = f"{images.dtype} {list(images.shape)}" if hasattr(images, "dtype") else type(images).__name__
        raise UserError(f"judges take pictures as a uint8 array [N, H, W, 3]; got {got}")
    return images


def load_judge(spec: dict) -> Judge:
    """The judge that `spec` describes. Raises UserError for an unknown judge, field, group or label, and for weights
    that are not there."""
    judges = _judges()
    if not isinstance(spec, dict) or "name" not in spec:
        raise UserError(f'a judge is described by an object with a "name" ({", ".join(sorted(judges))}); got {spec!r}')
    fields = {k: v for k, v in spec.items() if k != "name"}
    if spec["name"] not in judges:
        raise UserError(f"unknown judge '{spec['name']}'; {nearest(spec['name'], judges)}")
    make = judges[spec["name"]]
    known = inspect.signature(make).parameters
    for field in fields:
        if field not in known:
            raise UserError(f"judge '{spec['name']}': unknown field '{field}'; {nearest(field, known)}")
    for field, parameter in known.items():
        if parameter.default is parameter.empty and field not in fields:
            raise UserError(f"judge '{spec['name']}': field '{field}' is missing")
    if not 0 <= (0.5 if fields.get("threshold") is None else fields["threshold"]) <= 1:
        raise UserError(f"judge '{spec['name']}': threshold must lie between 0 and 1, got {fields['threshold']}")
    return make(**fields)


def in_batches(function, images: np.ndarray, width: int, size: int = BATCH) -> np.ndarray:
    """`function` on `size` pictures at a time, joined; [0, width] for no pictures."""
    parts = [function(images[i : i + size]) for i in range(0, len(images), size)]
    return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)


def file_version(path: Path) -> str:
    """The first eight hex digits of the file's SHA-256: the version of weights that have no other."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8]


class ByThreshold:
    """`shows` for judges whose score is a probability."""

    def shows(self, images):
        return self.score(images) >= self.threshold


class MiniWorldJudge(ByThreshold):
    """MiniWorld's classifier (`earlib/miniworld/train_judges.py`): objects and colours by sigmoid, style and place by
    softmax."""

    def __init__(
        self, group: str = "object", label: str = "church", threshold: float = 0.5, folder: str | Path = MINI_JUDGE
    ):
        self.model, self.processor, self.groups, self.version = _miniworld(str(folder))
        if group not in self.groups:
            raise UserError(f"judge 'miniworld': unknown group '{group}'; {nearest(group, self.groups)}")
        if label not in self.groups[group]:
            raise UserError(f"judge 'miniworld': no {group} is called '{label}'; {nearest(label, self.groups[group])}")
        self.group, self.label, self.threshold = group, label, threshold
        self.name = f"miniworld {group}:{label}"

    def probabilities(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What each picture shows: {"object": [N, 10], "colour": [N, 5], "style": [N, 4], "place": [N, 5]}, float64,
        columns as in `self.groups`."""
        logits = in_batches(
            lambda part: self._run(part).logits.numpy(), check_images(images), sum(map(len, self.groups.values()))
        ).astype(np.float64)
        found, column = {}, 0
        for group, names in self.groups.items():
            z = logits[:, column : column + len(names)]
            column += len(names)
            if group in ("object", "colour"):
                found[group] = 1 / (1 + np.exp(-z))
            else:
                e = np.exp(z - z.max(1, keepdims=True))
                found[group] = e / e.sum(1, keepdims=True)
        return found

    def features(self, images: np.ndarray) -> np.ndarray:
        """Pooled features before the last layer: float32 [N, 192]. FID and KID are computed on these."""
        pooled = lambda part: self._run(part, features=True).pooler_output.flatten(1).numpy()
        return in_batches(pooled, check_images(images), self.model.config.hidden_sizes[-1])

    def score(self, images):
        return self.probabilities(images)[self.group][:, self.groups[self.group].index(self.label)]

    def _run(self, images, features=False):
        import torch

        pixels = self.processor(images=torch.from_numpy(images).permute(0, 3, 1, 2), return_tensors="pt")[
            "pixel_values"
        ]
        with torch.inference_mode():
            return (self.model.resnet if features else self.model)(pixels)


@lru_cache(2)
def _miniworld(folder: str):
    """Model (float32), image processor, names by group, version: loaded once a folder, as ten judges of one evaluation
    share them."""
    import torch
    from transformers import AutoImageProcessor, ResNetForImageClassification

    weights = Path(folder) / "model.safetensors"
    if not weights.is_file():
        raise UserError(
            f"no MiniWorld judge in {folder}; train it with `python -m earlib.miniworld.train judge`, or restore data/mini/judge"
        )
    model = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    groups: dict[str, list[str]] = {}
    for i in range(len(model.config.id2label)):
        group, name = model.config.id2label[i].split(":")
        groups.setdefault(group, []).append(name)
    return model, AutoImageProcessor.from_pretrained(folder), groups, file_version(weights)


def _judges() -> dict:
    from .public_judges import ClipJudge, NudeNetJudge, ResNet50Judge, StyleJudge

    return {
        "miniworld": MiniWorldJudge,
        "nudenet": NudeNetJudge,
        "resnet50": ResNet50Judge,
        "style": StyleJudge,
        "clip": ClipJudge,
    }
