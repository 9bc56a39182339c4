"""Pictures that are measured: drawn (those of the base model once), read from a folder, or blurred to be shown.

A drawn picture depends only on the model, its guidance, the seed and its key (the prompt's text and which time it
occurs). So pictures of the base model are kept one by one in `.cache`, where notebooks and commands find each other's,
and any set of prompts takes from there what it can. Pictures of an erasure are drawn each time.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import CACHE as CACHES
from ..errors import UserError
from ..runs import write_bytes
from .judge import Judge, check_images
from .judges import load_judge

if TYPE_CHECKING:
    import torch

    from ..concepts import Concept
    from ..erasure.store import Erasure
    from ..generators.base import Generator

CACHE = CACHES / "pictures"
LIMIT = 2 << 30  # bytes of the cache; the oldest files go first
DRAWING = 1  # raise it when the same weights come to draw other pictures
ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
CELLS = 8  # cells a side of a blurred picture: colours and a rough layout, no body

# ---------------------------------------------------------------- drawn


def draw_sets(
    generator: Generator,
    sets: Mapping[Any, Sequence[str]],
    seeds: int | Sequence[int],
    erasure: Erasure | None = None,
    progress: bool = True,
    keep: bool = True,
) -> dict[Any, np.ndarray]:
    """Pictures of several sets of prompts, drawn together: sets that share a prompt share its picture.

    Args:
        generator: the base model.
        sets: name to prompts.
        seeds: one, or several: then a set's pictures are those of all its prompts from the first seed, then the next.
        erasure: switched on while drawing.
        progress: show a bar with the time left.
        keep: keep the base model's pictures on disk; False where they must not be (`must_veil`).

    Returns:
        dict: name to uint8 [seeds * prompts, H, W, 3].
    """
    from ..generators import default_keys

    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    prompt_of = {key: prompt for prompts in sets.values() for key, prompt in zip(default_keys(prompts), prompts)}
    drawn: dict[tuple[int, str], np.ndarray] = {}
    kept = erasure is None and keep
    for seed in seeds if kept else ():
        drawn |= {(seed, key): image for key, image in _stored(_folder(generator, seed), prompt_of).items()}
    missing = [(seed, key) for seed in seeds for key in prompt_of if (seed, key) not in drawn]
    if missing:
        drawn |= dict(zip(missing, generator.decode(_sampled(generator, prompt_of, missing, erasure, progress))))
        if kept:
            _store(generator, {which: drawn[which] for which in missing})
    return {
        name: np.stack([drawn[seed, key] for seed in seeds for key in default_keys(prompts)])
        for name, prompts in sets.items()
    }


def draw_codes(
    generator: Generator, sets: Mapping[Any, Sequence[str]], seed: int, erasure: Erasure | None = None
) -> dict[Any, torch.Tensor]:
    """The codes of the pictures that `draw_sets` gives of the same sets and seed, where those are wanted too: name to
    int64 [prompts, L, ...]. Nothing is kept."""
    from ..generators import default_keys

    prompt_of = {key: prompt for prompts in sets.values() for key, prompt in zip(default_keys(prompts), prompts)}
    codes = _sampled(generator, prompt_of, [(seed, key) for key in prompt_of], erasure, progress=False)
    place = {key: i for i, key in enumerate(prompt_of)}
    return {name: codes[[place[key] for key in default_keys(prompts)]] for name, prompts in sets.items()}


def _sampled(
    generator: Generator,
    prompt_of: Mapping[str, str],
    wanted: Sequence[tuple[int, str]],
    erasure: Erasure | None,
    progress: bool,
) -> torch.Tensor:
    """Codes of the pictures of (seed, key), drawn together."""
    from ..generators import picture_seeds

    noise = [picture_seeds(seed, [key])[0] for seed, key in wanted]
    with nullcontext() if erasure is None else erasure.on(generator):
        return generator.sample([prompt_of[key] for _, key in wanted], noise, progress=progress)


def _folder(generator: Generator, seed: int) -> Path:
    device = str(generator.device).split(":")[0]  # sampled codes may differ between devices and dtypes
    dtype = str(generator.dtype).removeprefix("torch.")
    how = f"guidance{generator.guidance:g}-temperature{generator.temperature:g}"
    return CACHE / f"{DRAWING}-{generator.fingerprint}-{device}-{dtype}-{how}" / f"seed{seed}"


def _stored(folder: Path, wanted: Mapping[str, str]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.npz")):
        try:
            with np.load(file) as archive:
                rows = [
                    (i, key) for i, key in enumerate(map(str, archive["keys"])) if key in wanted and key not in found
                ]
                images = archive["images"] if rows else np.zeros(0)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # broken: its pictures are drawn again
            continue
        found |= {key: images[i] for i, key in rows}
    return found


def _store(generator: Generator, drawn: dict[tuple[int, str], np.ndarray]) -> None:
    """Keep new pictures, a file a seed. A full disk or a read-only checkout is no error: the cache is a convenience."""
    try:
        for seed in {seed for seed, _ in drawn}:
            images = {key: image for (s, key), image in drawn.items() if s == seed}
            buffer = io.BytesIO()
            np.savez(buffer, keys=np.array(list(images)), images=np.stack(list(images.values())))
            name = hashlib.sha256("\n".join(images).encode()).hexdigest()[:16]
            write_bytes(_folder(generator, seed) / f"{name}.npz", buffer.getvalue())
        files = sorted(CACHE.rglob("*.npz"), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= LIMIT:
                break
            total -= file.stat().st_size
            file.unlink(missing_ok=True)
    except (UserError, OSError):
        pass


# ---------------------------------------------------------------- read


def read_pictures(folder: str | Path) -> np.ndarray:
    """All pictures of a folder (not of its subfolders) in the order of their names: uint8 [N, H, W, 3].

    Raises:
        UserError: no pictures there; one that cannot be read, or that is of another size than the first.
    """
    images: list[np.ndarray] = []
    files = picture_files(Path(folder))
    for file in files:
        image = read_picture(file)
        if images and image.shape != images[0].shape:
            (h, w), (height, width) = image.shape[:2], images[0].shape[:2]
            sizes = f"is {w} x {h} pixels, but {files[0].name} is {width} x {height}"
            raise UserError(f"{file}: {sizes}; all pictures of a folder must have one size")
        images.append(image)
    return np.stack(images)


def picture_files(folder: Path) -> list[Path]:
    """Picture files right in `folder`, by name; a file without ending is one if it begins like one. UserError if there
    is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give one that holds pictures ({', '.join(ENDINGS)})")
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".") and _is_picture(file)]
    if not files:
        raise UserError(f"{folder}: holds no pictures ({', '.join(ENDINGS)})")
    return files


def _is_picture(file: Path) -> bool:
    from PIL import Image

    if file.suffix or not file.is_file():
        return file.suffix.lower() in ENDINGS and file.is_file()
    try:
        with Image.open(file):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def read_picture(file: Path) -> np.ndarray:
    """One picture, RGB: uint8 [H, W, 3]; grey ones of 16 bits are scaled to 8, and what is transparent is
    white. UserError if it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)  # reads the whole file: a picture cut short is noticed here
            if upright.mode.startswith("I"):  # PIL would cut all that is above 255 to white
                upright = Image.fromarray((np.asarray(upright).clip(0, 65535) / 257 + 0.5).astype(np.uint8))
            if upright.mode == "F":  # nobody says what is white
                raise ValueError("floating point")
            if upright.has_transparency_data:  # as a viewer shows it on a white page
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            return np.asarray(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        how = "it may be cut short, take it away or make it again"
        raise UserError(f"{file}: is no picture that can be read; {how}") from None


# ---------------------------------------------------------------- blurred


def must_veil(concept: Concept, profile: str) -> bool:
    """Whether pictures of `concept` are to be blurred where the judge sees it: those of kind "content", of any model
    but MiniWorld's, whose figures are pictograms."""
    return (concept.kind == "content" or concept.judge["name"] == "nudenet") and not profile.startswith("mini")


def veil(
    images: np.ndarray, concept: Concept, profile: str, show_explicit: bool = False, judge: Judge | None = None
) -> np.ndarray:
    """Pictures as they may be shown: if `must_veil`, those in which the concept's judge fires are blurred.

    Args:
        images: uint8 [N, H, W, 3].
        concept: its judge decides; NudeNet at any detection, whatever score its threshold asks for.
        profile: the model's.
        show_explicit: show everything. A person must set it, knowing what may be seen.
        judge: the concept's judge, if it is loaded already.
    """
    check_images(images)
    if show_explicit or not must_veil(concept, profile) or not len(images):
        return images
    if concept.judge["name"] == "nudenet":
        judge = load_judge(concept.judge | {"threshold": 0.0})
    fires = (judge or load_judge(concept.judge)).shows(images)
    return np.stack([blurred(image) if fire else image for image, fire in zip(images, fires)])


def blurred(image: np.ndarray) -> np.ndarray:
    """One picture, uint8 [H, W, 3], reduced to 8 x 8 cells of at least 8 pixels and enlarged again: nothing of it can
    be restored."""
    from PIL import Image

    height, width = (max(1, min(CELLS, side // 8)) for side in image.shape[:2])
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small.resize((image.shape[1], image.shape[0]), Image.Resampling.BICUBIC))
