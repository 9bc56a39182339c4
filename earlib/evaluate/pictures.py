"""The pictures that evaluations look at, drawn once: base pictures are kept on disk, because every notebook asks for
the same ones.

A picture depends only on the model, guidance, seed and its key (its prompt's text and which time the prompt occurs), so
that single pictures are stored, and any set of prompts takes from the store what it can. Pictures of an erasure are
drawn each time.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from .. import ROOT, __version__
from ..errors import UserError
from ..runs import write_bytes

CACHE = ROOT / ".cache" / "pictures"


def draw_sets(
    generator, sets: dict[str, list[str]], seed: int, erasure=None, progress: bool = True, keep: bool = True
) -> dict[str, np.ndarray]:
    """Pictures for several sets of prompts at once: name to uint8 [N, H, W, 3]. Sets that share a prompt share its
    picture.

    With `keep=False` nothing is written to the cache: for concepts whose pictures must not be stored
    (`veil.must_veil`).
    """
    from ..generators import default_keys, draw

    wanted = {key: prompt for prompts in sets.values() for key, prompt in zip(default_keys(prompts), prompts)}
    folder = _folder(generator, seed) if erasure is None and keep else None
    drawn = _stored(folder, wanted) if folder else {}
    missing = [key for key in wanted if key not in drawn]
    if missing:
        images = draw(
            generator, [wanted[key] for key in missing], seed=seed, keys=missing, erasure=erasure, progress=progress
        )
        drawn |= dict(zip(missing, images))
        if folder:
            _store(folder, missing, images)
    return {name: np.stack([drawn[key] for key in default_keys(prompts)]) for name, prompts in sets.items()}


def _folder(generator, seed: int) -> Path:
    device = str(generator.device).split(":")[0]  # sampled tokens may differ between devices and dtypes
    dtype = str(generator.dtype).removeprefix("torch.")
    warmth = "" if generator.temperature == 1 else f"-temperature{generator.temperature:g}"
    return (
        CACHE
        / f"{__version__}-{generator.fingerprint}-{device}-{dtype}-guidance{generator.guidance:g}{warmth}"
        / f"seed{seed}"
    )


def _stored(folder: Path, wanted) -> dict[str, np.ndarray]:
    found = {}
    for file in sorted(folder.glob("*.npz")):
        try:
            with np.load(file) as archive:
                rows = [
                    (i, str(key))
                    for i, key in enumerate(archive["keys"])
                    if str(key) in wanted and str(key) not in found
                ]
                images = archive["images"] if rows else None
        except (
            OSError,
            ValueError,
            KeyError,
            zipfile.BadZipFile,
        ):  # a broken file is as good as none: its pictures are drawn again
            continue
        found |= {key: images[i] for i, key in rows}
    return found


def _store(folder: Path, keys: list[str], images: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, keys=np.array(keys), images=images)
    name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
    try:
        write_bytes(folder / f"{name}.npz", buffer.getvalue())
    except UserError:  # a full disk or a read-only checkout: the cache is a convenience, the evaluation goes on
        pass
