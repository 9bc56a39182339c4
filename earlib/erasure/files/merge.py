"""An erasure merged into a plain checkpoint: what `python -m earlib merge` writes.

W + B A in place of W, and whole matrices as they are; the folder is one that transformers loads alone (next-scale
models: `load_generator`), and nothing in it can be switched off. `merged.json` says what was merged into what.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import UserError
from ...generators.base import Generator, NextToken
from ...generators.profiles import MERGED
from ...generators.weights import check_room
from ...runs import write_json
from ..change import frozen, scaled, switched

if TYPE_CHECKING:
    from ..compose import Membranes
    from ..store import Erasure


def write_merged(generator: Generator, erasure: Erasure | Membranes, folder: str | Path) -> Path:
    """Write the model with the erasure in it to `folder`, which appears whole or not at all (an empty one that is there
    gets its config.json last, without which it is no model).

    The weights are written in the number format in which the model was loaded, so that what the folder computes is what
    the generator computes with the erasure switched on (next-scale models of this library are kept in half precision).

    Args:
        generator: of either family, loaded with all its parts.
        erasure: acts at every position; its strength counts.
        folder: new, or empty.

    Raises:
        UserError: the erasure guides or acts at some positions only, the model came without its captions' parts or from
            the authors' own files, or there is no room.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is not empty; a merged model needs a folder of its own")
    whole = erasure.merged(generator)  # of several its strength is in the matrices already
    tensors = scaled(generator.trunk, whole.tensors, whole.strength)
    model: Any = getattr(generator, "model", None)
    if not hasattr(model, "save_pretrained"):
        raise UserError(f"{generator.name} was read from its authors' own files, a layout that is not written here")
    if isinstance(generator, NextToken) and getattr(model, "lm_head", True) is None:
        raise UserError(f"{generator.name} was loaded to draw only; load it with parts='all' to write all of it")
    check_room(folder, sum(t.numel() * t.element_size() for t in model.state_dict().values()))
    there = folder.exists()  # where a shell may stand: it stays the same folder
    temporary = (folder if there else folder.parent) / f".{folder.name}.{os.getpid()}.tmp"
    try:
        with switched(generator.trunk, frozen(tensors, generator.device)):
            model.save_pretrained(temporary)
        if isinstance(generator, NextToken):
            generator.processor.save_pretrained(temporary)  # type: ignore[attr-defined]
        about: dict[str, Any] = {
            "model": generator.name,
            "profile": generator.profile,
            "fingerprint": generator.fingerprint,
        }
        about |= {"erasure": erasure.name, "concept": erasure.concept, "strength": erasure.strength}
        write_json(temporary / MERGED, about | {"recipe": erasure.recipe, "version": __version__})
        if not there:
            os.replace(temporary, folder)
            return folder
        for file in sorted(temporary.iterdir(), key=lambda file: file.name == "config.json"):  # with it, it is a model
            os.replace(file, folder / file.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
