"""CLIP score through open_clip: does a picture still look like its prompt. Mini and full-size models go the same way.

A score here is a cosine between -1 and 1; torchmetrics and some papers multiply it by 100 and cut at 0.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from .. import ROOT
from ..errors import UserError
from .judges import BATCH, check_images, file_version

MINI_CLIP = f"local-dir:{ROOT / 'data' / 'mini' / 'clip'}"


class Clip:
    """One open_clip model with its tokenizer and its own picture preprocessing. Embeddings come out normalised, float64 [N, E]."""

    def __init__(self, model, prepare, tokenize, name: str, version: str):
        self.model, self.prepare, self.tokenize, self.name, self.version = model.eval(), prepare, tokenize, name, version
        self.scale = model.logit_scale.exp().item()

    def images(self, images: np.ndarray) -> np.ndarray:
        from PIL import Image

        return self._embed(self.model.encode_image, lambda part: [self.prepare(Image.fromarray(image)) for image in part], check_images(images))

    def texts(self, texts: list[str]) -> np.ndarray:
        return self._embed(self.model.encode_text, lambda part: self.tokenize(list(part)), texts)

    def _embed(self, encode, prepare, items):
        import torch

        with torch.inference_mode():
            parts = [encode(torch.stack(list(prepare(items[i : i + BATCH]))), normalize=True) for i in range(0, len(items), BATCH)]
        return torch.cat(parts).double().numpy()


@lru_cache(2)
def load_clip(model: str = MINI_CLIP) -> Clip:
    """`local-dir:FOLDER` (open_clip_config.json and weights), or `NAME/PRETRAINED` of open_clip's list, such as `ViT-B-32-quickgelu/openai`.

    Raises UserError if the folder or the weights are not there.
    """
    import open_clip

    if model.startswith("local-dir:"):
        folder = Path(model.removeprefix("local-dir:"))
        weights = folder / "open_clip_model.safetensors"
        if not weights.is_file():
            raise UserError(f"no open_clip model in {folder}; train the mini one with `python -m earlib.miniworld.train clip`, or restore data/mini/clip")
        name, pretrained, version = model, None, file_version(weights)
    else:
        name, _, pretrained = model.partition("/")
        version = f"open_clip {open_clip.__version__} {pretrained}"
        if not pretrained:
            raise UserError(f"'{model}' names no weights; write NAME/PRETRAINED, such as ViT-B-32-quickgelu/openai, or local-dir:FOLDER")
    try:
        loaded, prepare = open_clip.create_model_from_pretrained(name, pretrained=pretrained, precision="fp32")
    except Exception as error:  # open_clip raises many kinds for an unknown name, a missing download, a broken file
        raise UserError(f"open_clip cannot load '{model}': {str(error).splitlines()[0][:160]}") from None
    return Clip(loaded, prepare, open_clip.get_tokenizer(name), model, version)


def clip_scores(images: np.ndarray, prompts: list[str], model: str = MINI_CLIP) -> np.ndarray:
    """Cosine of each picture with the prompt of the same index: float64 [N]. UserError if they are not equally many."""
    if len(images) != len(prompts):
        raise UserError(f"CLIP score pairs pictures with prompts by index; got {len(images)} pictures and {len(prompts)} prompts")
    clip = load_clip(model)
    distinct = list(dict.fromkeys(prompts))
    row = {prompt: i for i, prompt in enumerate(distinct)}
    return (clip.images(images) * clip.texts(distinct)[[row[p] for p in prompts]]).sum(1)


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval by the normal approximation."""
    half = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    mean = float(np.mean(values))
    return mean, mean - half, mean + half
