"""Folders of pictures, read for an evaluation: those that `earlib generate` wrote, with their prompts, and plain ones
of whatever source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..runs import read_lines

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Album:
    """Pictures with their keys and prompts, in the order of the folder's index."""

    keys: list[str]
    prompts: list[str]
    images: np.ndarray  # uint8 [N, H, W, 3]


def read_album(folder: str | Path) -> Album:
    """The pictures of `folder` with the prompts that its index.jsonl gives them (`album.py` writes it), paired row by
    row.

    Raises UserError, one line: no pictures; a picture that the index does not know; a row without its picture, key or
    prompt; a file that two rows or a key that two pictures claim; a picture that cannot be read or has another size.
    """
    folder = Path(folder)
    files = picture_files(folder)
    rows = read_lines(folder / "index.jsonl")
    if not rows:
        raise UserError(
            f"{folder}: has no index.jsonl that says which picture belongs to which prompt; `python -m earlib generate` writes one"
        )
    prompts, keys = {}, {}
    for number, row in enumerate(rows, 1):
        where = f"{folder / 'index.jsonl'}: line {number}"
        for field in ("key", "prompt", "file"):
            if not isinstance(row, dict) or not isinstance(row.get(field), str) or not row[field].strip():
                raise UserError(
                    f"{where}: the field '{field}' is missing or empty; every row names key, prompt and file of one picture"
                )
        if row["file"] in prompts or row["key"] in keys.values():
            raise UserError(
                f"{where}: the picture {row['file']} or the key '{row['key']}' stands in an earlier line too"
            )
        prompts[row["file"]], keys[row["file"]] = row["prompt"], row["key"]
    for file in files:
        if file.name not in prompts:
            raise UserError(
                f"{file}: has no prompt in index.jsonl; take it away, or add a row with its key, prompt and file"
            )
    present = {file.name for file in files}
    for name in prompts:
        if name not in present:
            raise UserError(
                f"{folder / name}: there is no such picture, but index.jsonl names it; draw it again with `python -m earlib generate`"
            )
    return Album(list(keys.values()), list(prompts.values()), _stack([folder / name for name in prompts], None))


def read_pictures(folder: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """All pictures of a folder (not of its subfolders) in the order of their names: uint8 [N, H, W, 3].

    `size` is the (height, width) that each is scaled to, after cutting its longer side to that shape around the middle;
    without it all must have one size. Raises UserError for a folder without pictures, and for one that cannot be read
    or has another size.
    """
    return _stack(picture_files(Path(folder)), size)


def picture_files(folder: Path) -> list[Path]:
    """Picture files right in `folder`, by name. UserError if there is no such folder or no picture in it."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give one that holds pictures ({', '.join(ENDINGS)})")
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in ENDINGS and not file.name.startswith(".")
    )
    if not files:
        raise UserError(f"{folder}: holds no pictures ({', '.join(ENDINGS)})")
    return files


def _stack(files: list[Path], size) -> np.ndarray:
    images = []
    for file in files:
        image = read_picture(file, size)
        if images and image.shape != images[0].shape:
            (h, w), (height, width) = image.shape[:2], images[0].shape[:2]
            raise UserError(
                f"{file}: is {w} x {h} pixels, but {files[0].name} is {width} x {height}; all pictures of a folder must have one size"
            )
        images.append(image)
    return np.stack(images)


def read_picture(file: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """One picture, RGB: uint8 [H, W, 3]. UserError if it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            image = ImageOps.exif_transpose(image).convert(
                "RGB"
            )  # reads the whole file: a picture cut short is noticed here
            return np.asarray(image if size is None else ImageOps.fit(image, size[::-1], Image.Resampling.LANCZOS))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(
            f"{file}: is no picture that can be read; it may be cut short, take it away or make it again"
        ) from None
