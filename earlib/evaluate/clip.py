"""CLIP score through open_clip: does a picture still look like its prompt, and like the benign part of it. Mini and
full-size models go the same way.

A score here is a cosine between -1 and 1; torchmetrics and some papers multiply it by 100 and cut at 0.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import DATA
from ..concepts import Concept
from ..errors import UserError
from .judge import BATCH, check_images, file_version

# words that end no text and begin none once what they belonged to is cut out
LOOSE = "and|or|of|at|to|from|on|in|by|the"
MINI_CLIP = f"local-dir:{DATA / 'mini' / 'clip'}"


class Clip:
    """One open_clip model with its tokenizer and its own picture preprocessing. Embeddings come out normalised, float64
    [N, E]."""

    def __init__(self, model: Any, prepare: Callable, tokenize: Callable, name: str, version: str):
        self.model, self.prepare, self.tokenize = model.eval(), prepare, tokenize
        self.name, self.version = name, version
        self.device = next(model.parameters()).device
        self.scale = model.logit_scale.exp().item()

    def images(self, images: np.ndarray) -> np.ndarray:
        from PIL import Image

        prepare = lambda part: [self.prepare(Image.fromarray(image)) for image in part]
        return self._embed(self.model.encode_image, prepare, check_images(images))

    def texts(self, texts: list[str]) -> np.ndarray:
        return self._embed(self.model.encode_text, lambda part: self.tokenize(list(part)), texts)

    def _embed(self, encode: Callable, prepare: Callable, items: Any) -> np.ndarray:
        import torch

        with torch.inference_mode():
            batches = (
                torch.stack(list(prepare(items[i : i + BATCH]))).to(self.device) for i in range(0, len(items), BATCH)
            )
            parts = [encode(batch, normalize=True).double().cpu() for batch in batches]
        return torch.cat(parts).numpy()


@lru_cache(2)
def load_clip(model: str = MINI_CLIP) -> Clip:
    """`local-dir:FOLDER` (open_clip_config.json and weights), or `NAME/PRETRAINED` of open_clip's list, such as
    `ViT-B-32-quickgelu/openai`.

    Raises UserError if the folder or the weights are not there, and for a pair whose activation is not the one it was
    trained with.
    """
    import open_clip

    from ..device import decide

    if model.startswith("local-dir:"):
        folder = Path(model.removeprefix("local-dir:"))
        weights = folder / "open_clip_model.safetensors"
        if not weights.is_file():
            how = "`python -m earlib.miniworld.make --out data/mini clip` makes the mini one; or restore data/mini/clip"
            raise UserError(f"no open_clip model in {folder}; {how}")
        name, pretrained, version = model, None, file_version(weights)
    else:
        name, _, pretrained = model.partition("/")
        version = f"open_clip {open_clip.__version__} {pretrained}"
        if not pretrained:
            how = "write NAME/PRETRAINED, such as ViT-B-32-quickgelu/openai, or local-dir:FOLDER"
            raise UserError(f"'{model}' names no weights; {how}")
    try:
        with warnings.catch_warnings():
            # open_clip would only warn, and compute with the wrong activation
            warnings.filterwarnings("error", message=".*QuickGELU")
            loaded, prepare = open_clip.create_model_from_pretrained(
                name, pretrained=pretrained, precision="fp32", device=decide().device
            )
    except Exception as error:  # open_clip raises many kinds for an unknown name, a missing download, a broken file
        reason = " ".join(str(error).split())[:160]
        how = "download it where there is a network, or name a folder as local-dir:FOLDER"
        raise UserError(f"open_clip cannot load '{model}' ({reason}); {how}") from None
    short = "mini" if model == MINI_CLIP else Path(name).name  # results name no place on this machine
    return Clip(loaded, prepare, open_clip.get_tokenizer(name), short, version)


def clip_scores(images: np.ndarray, prompts: list[str], model: str = MINI_CLIP) -> np.ndarray:
    """Cosine of each picture with the prompt of the same index: float64 [N]. UserError if they are not equally many."""
    if len(images) != len(prompts):
        got = f"got {len(images)} pictures and {len(prompts)} prompts"
        raise UserError(f"CLIP score pairs pictures with prompts by index; {got}")
    clip = load_clip(model)
    distinct = list(dict.fromkeys(prompts))
    row = {prompt: i for i, prompt in enumerate(distinct)}
    return (clip.images(images) * clip.texts(distinct)[[row[p] for p in prompts]]).sum(1)


def concept_phrases(concept: Concept) -> tuple[str, ...]:
    """What names `concept` in a prompt, longest first: its `words`; without them, the runs of words by which targets
    differ from replacements."""
    phrases = set(concept.words)
    if not phrases:
        for pair in concept.pairs:
            a, b = pair.target.split(), pair.replacement.split()
            edits = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
            phrases |= {" ".join(a[i:j]).strip(" ,.") for what, i, j, *_ in edits if what in ("replace", "delete")}
    return tuple(sorted(phrases - {""}, key=lambda p: (-len(p), p)))


def benign_half(prompt: str, phrases: Iterable[str], kind: str = "object") -> str | None:
    """What `prompt` asks for besides the concept; None if it does not name the concept, or asks for nothing else.

    Of "a church and a boat by the sea" that is "a boat by the sea": the parts around "and" that are without the
    concept. A style or a scene belongs to the whole picture, and a prompt without "and" has one part: there the
    concept's words are cut out, and what then hangs loose at the ends.
    """
    if not phrases:
        return None
    some = "|".join(map(re.escape, phrases))
    named = re.compile(rf"(?:\b(?:an?|the)\s+)?(?<!\w)(?:{some})(?!\w)", re.IGNORECASE)
    if not named.search(prompt):
        return None
    parts = re.split(r"\s+and\s+", prompt)
    if kind in ("object", "content") and len(parts) > 1:
        rest = " and ".join(part for part in parts if not named.search(part))
    else:
        rest = re.sub(r"\s+", " ", named.sub(" ", prompt))
    loose_ends = rf"^(?:(?:{LOOSE})\s+)+(?!$)|(?:\s+(?:{LOOSE}))+$"
    rest = re.sub(loose_ends, "", rest.strip(" ,."), flags=re.IGNORECASE).strip(" ,.")
    return rest if re.search(r"\w{3,}", rest) else None


def in_prompt_scores(
    images: np.ndarray, prompts: list[str], concept: Concept, model: str = MINI_CLIP
) -> tuple[np.ndarray, np.ndarray]:
    """In-prompt CLIP (Six-CD, arXiv 2406.14855): cosine of pictures of the concept with the benign half of their own
    prompts.

    An erasure that answers a prompt by ignoring all of it scores low here, one that leaves out the concept alone does
    not. Returns the indices of the prompts that have a benign half, int64 [M], and their scores, float64 [M].
    """
    phrases = concept_phrases(concept)
    halves = {i: half for i, prompt in enumerate(prompts) if (half := benign_half(prompt, phrases, concept.kind))}
    rows = np.array(sorted(halves), dtype=np.int64)
    return rows, clip_scores(images[rows], [halves[i] for i in rows], model) if len(rows) else np.zeros(0)
