"""CLIP score through open_clip: does a picture still look like its prompt, and like the benign part of it. Mini and
full-size models go the same way.

A score here is a cosine between -1 and 1; torchmetrics and some papers multiply it by 100 and cut at 0. Pictures in a
folder are paired with their prompts by the folder's index, never by the order of file names: pairing by order is how
published CLIP scores came to mean nothing.
"""

from __future__ import annotations

import difflib
import re
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np

from .. import ROOT
from ..errors import UserError
from .judges import BATCH, check_images, file_version

LOOSE = (
    "and|or|of|at|to|from|on|in|by|the"  # words that end no text and begin none once what they belonged to is cut out
)
MINI_CLIP = f"local-dir:{ROOT / 'data' / 'mini' / 'clip'}"


class Clip:
    """One open_clip model with its tokenizer and its own picture preprocessing. Embeddings come out normalised, float64
    [N, E]."""

    def __init__(self, model, prepare, tokenize, name: str, version: str):
        self.model, self.prepare, self.tokenize, self.name, self.version = (
            model.eval(),
            prepare,
            tokenize,
            name,
            version,
        )
        self.device = next(model.parameters()).device
        self.scale = model.logit_scale.exp().item()

    def images(self, images: np.ndarray) -> np.ndarray:
        from PIL import Image

        return self._embed(
            self.model.encode_image,
            lambda part: [self.prepare(Image.fromarray(image)) for image in part],
            check_images(images),
        )

    def texts(self, texts: list[str]) -> np.ndarray:
        return self._embed(self.model.encode_text, lambda part: self.tokenize(list(part)), texts)

    def _embed(self, encode, prepare, items):
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
            raise UserError(
                f"no open_clip model in {folder}; train the mini one with `python -m earlib.miniworld.train clip`, or restore data/mini/clip"
            )
        name, pretrained, version = model, None, file_version(weights)
    else:
        name, _, pretrained = model.partition("/")
        version = f"open_clip {open_clip.__version__} {pretrained}"
        if not pretrained:
            raise UserError(
                f"'{model}' names no weights; write NAME/PRETRAINED, such as ViT-B-32-quickgelu/openai, or local-dir:FOLDER"
            )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "error", message=".*QuickGELU"
            )  # open_clip would only warn, and compute with the wrong activation
            loaded, prepare = open_clip.create_model_from_pretrained(
                name, pretrained=pretrained, precision="fp32", device=decide().device
            )
    except Exception as error:  # open_clip raises many kinds for an unknown name, a missing download, a broken file
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"open_clip cannot load '{model}' ({reason}); download it where there is a network, or name a folder as local-dir:FOLDER"
        ) from None
    short = "mini" if model == MINI_CLIP else Path(name).name  # results name no place on this machine
    return Clip(loaded, prepare, open_clip.get_tokenizer(name), short, version)


def clip_scores(images: np.ndarray, prompts: list[str], model: str = MINI_CLIP) -> np.ndarray:
    """Cosine of each picture with the prompt of the same index: float64 [N]. UserError if they are not equally many."""
    if len(images) != len(prompts):
        raise UserError(
            f"CLIP score pairs pictures with prompts by index; got {len(images)} pictures and {len(prompts)} prompts"
        )
    clip = load_clip(model)
    distinct = list(dict.fromkeys(prompts))
    row = {prompt: i for i, prompt in enumerate(distinct)}
    return (clip.images(images) * clip.texts(distinct)[[row[p] for p in prompts]]).sum(1)


def folder_scores(folder: str | Path, model: str = MINI_CLIP) -> dict[str, float]:
    """CLIP score of every picture of a folder that `earlib generate` wrote, by the picture's key. File names and their
    order do not matter.

    Raises UserError for what `folders.read_album` refuses: no pictures, a picture without a prompt, a corrupt picture.
    """
    from .folders import read_album

    album = read_album(folder)
    return dict(zip(album.keys, clip_scores(album.images, album.prompts, model).tolist()))


def concept_phrases(concept) -> tuple[str, ...]:
    """What names `concept` in a prompt, longest first: its `words`; without them, the runs of words by which targets
    differ from replacements."""
    phrases = set(concept.words)
    if not phrases:
        for pair in concept.pairs:
            a, b = pair.target.split(), pair.replacement.split()
            edits = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
            phrases |= {" ".join(a[i:j]).strip(" ,.") for what, i, j, *_ in edits if what in ("replace", "delete")}
    return tuple(sorted(phrases - {""}, key=lambda p: (-len(p), p)))


def benign_half(prompt: str, phrases, kind: str = "object") -> str | None:
    """What `prompt` asks for besides the concept; None if it does not name the concept, or asks for nothing else.

    Of "a church and a boat by the sea" that is "a boat by the sea": the parts around "and" that are without the
    concept. A style or a scene belongs to the whole picture, and a prompt without "and" has one part: there the
    concept's words are cut out, and what then hangs loose at the ends.
    """
    named = (
        re.compile(r"(?:\b(?:an?|the)\s+)?(?<!\w)(?:" + "|".join(map(re.escape, phrases)) + r")(?!\w)", re.IGNORECASE)
        if phrases
        else None
    )
    if named is None or not named.search(prompt):
        return None
    parts = re.split(r"\s+and\s+", prompt)
    if kind in ("object", "content") and len(parts) > 1:
        rest = " and ".join(part for part in parts if not named.search(part))
    else:
        rest = re.sub(r"\s+", " ", named.sub(" ", prompt))
    rest = re.sub(rf"^(?:(?:{LOOSE})\s+)+(?!$)|(?:\s+(?:{LOOSE}))+$", "", rest.strip(" ,."), flags=re.IGNORECASE).strip(
        " ,."
    )
    return rest if re.search(r"\w{3,}", rest) else None


def in_prompt_scores(
    images: np.ndarray, prompts: list[str], concept, model: str = MINI_CLIP
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
