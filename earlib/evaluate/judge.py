"""What a judge is, and MiniWorld's own: does a picture show the concept, and how surely.

Every judge takes uint8 pictures [N, H, W, 3], RGB, and refuses anything else: a float picture would be judged black
without a word. Judges with public weights, and `load_judge`, which makes one from a concept file, are in `judges.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import DATA
from ..errors import UserError, nearest
from .rate import Rate

MINI_JUDGE, SECOND_JUDGE = DATA / "mini" / "judge", DATA / "mini" / "judge2"
BATCH = 256  # pictures judged at once


class Judge:
    """Says whether pictures show one thing."""

    name: str  # what is asked of whom: "miniworld object:church"
    version: str  # of the package and the weights: "3.4.2 320n.onnx c15d8273"
    threshold: float  # a picture shows it from this score on

    def score(self, images: np.ndarray) -> np.ndarray:
        """How surely each picture shows it: float64 [N], from 0 to 1."""
        raise NotImplementedError

    def shows(self, images: np.ndarray) -> np.ndarray:
        """Whether each picture shows it: bool [N]."""
        return self.score(images) >= self.threshold

    def rate(self, images: np.ndarray) -> Rate:
        """In how many of the pictures it is seen."""
        return Rate.of(self.shows(images))


def describe(judge: Judge) -> str:
    """Who judged, with which weights, from which score on: the text that stands in every result."""
    return f"{judge.name} {judge.version} >= {judge.threshold:g}"


def describe_all(judges: Iterable[Judge]) -> str:
    """What several judges have in common, and how many they are where they differ: "miniworld ba31fd1b >= 0.5"."""
    texts = {f"{j.name.split()[0]} {j.version} >= {j.threshold:g}" for j in judges}
    return texts.pop() if len(texts) == 1 else f"{len(texts)} judges, named with each neighbour"


def check_images(images: np.ndarray) -> np.ndarray:
    """`images` if they are uint8 [N, H, W, 3]; UserError otherwise."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        got = f"{images.dtype} {list(images.shape)}" if hasattr(images, "dtype") else type(images).__name__
        raise UserError(f"judges take pictures as a uint8 array [N, H, W, 3]; got {got}")
    return images


def in_batches(function: Callable, images: np.ndarray, width: int, size: int = BATCH) -> np.ndarray:
    """`function` of `size` pictures at a time, joined; [0, width] for no pictures."""
    parts = [function(images[i : i + size]) for i in range(0, len(images), size)]
    return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)


def file_version(path: str | Path) -> str:
    """The first eight hex digits of the file's SHA-256: the version of weights that have no other."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8]


class MiniWorldJudge(Judge):
    """One of MiniWorld's two classifiers (`earlib/miniworld/judges.py`): objects and colours by sigmoid, all else by
    softmax.

    Args:
        group: object, colour, style, place, time, framing, left, back; of the second judge also state.
        label: what is looked for, one of the group's names.
        threshold: least probability.
        folder: where the classifier lies.

    Raises:
        UserError: no such group or label, or no classifier in the folder.
    """

    def __init__(
        self, group: str = "object", label: str = "church", threshold: float = 0.5, folder: str | Path = MINI_JUDGE
    ):
        self.model, self.processor, self.groups, self.version = _miniworld(str(folder))
        if group not in self.groups:
            raise UserError(f"judge 'miniworld': unknown group '{group}'; {nearest(group, self.groups)}")
        if label not in self.groups[group]:
            raise UserError(f"judge 'miniworld': no {group} is called '{label}'; {nearest(label, self.groups[group])}")
        self.group, self.label, self.threshold = group, label, threshold
        who = "miniworld-second" if Path(folder) == SECOND_JUDGE else "miniworld"
        self.name = f"{who} {group}:{label}"

    def probabilities(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What each picture shows: group to float64 [N, names], columns as in `self.groups`."""
        run = lambda part: self._run(self.model, part).logits.numpy()
        logits = in_batches(run, check_images(images), sum(map(len, self.groups.values()))).astype(np.float64)
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
        """Pooled features of the first judge before its last layer: float32 [N, 192]. FID and KID are computed on
        these."""
        pooled = lambda part: self._run(self.model.resnet, part).pooler_output.flatten(1).numpy()
        return in_batches(pooled, check_images(images), self.model.config.hidden_sizes[-1])

    def score(self, images: np.ndarray) -> np.ndarray:
        return self.probabilities(images)[self.group][:, self.groups[self.group].index(self.label)]

    def _run(self, model: Any, images: np.ndarray) -> Any:
        import torch

        pixels_B3HW = torch.from_numpy(images).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return model(self.processor(images=pixels_B3HW, return_tensors="pt")["pixel_values"])


@contextmanager
def no_bars() -> Iterator[None]:
    """Within the context transformers shows no bars: a judge is loaded in a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@lru_cache(2)
def _miniworld(folder: str) -> tuple[Any, Any, dict[str, list[str]], str]:
    """Model (float32), image processor, names by group, version: loaded once, as all judges of an evaluation share
    them."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    weights = Path(folder) / "model.safetensors"
    if not weights.is_file():
        how = "make it with `python -m earlib.miniworld.make --out data/mini judge judge2`, or restore data/mini"
        raise UserError(f"no MiniWorld judge in {folder}; {how}")
    with no_bars():
        model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    groups: dict[str, list[str]] = {}
    for i in range(len(model.config.id2label)):
        group, name = model.config.id2label[i].split(":")
        groups.setdefault(group, []).append(name)
    return model, AutoImageProcessor.from_pretrained(folder), groups, file_version(weights)
