"""Pictures for a prompt file, one PNG each, with an index: what `python -m earlib generate` does.

`index.jsonl` has one row a picture: `key`, `prompt`, `file`, `seed`, `model`, `erasure`, `guidance`, and `fingerprint`, a hash of the model's
and the erasure's weights. A picture whose file exists and whose row says that the same things made it is not drawn again.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .prompts import Prompt, read_prompts, slugs
from .runs import read_lines, write_bytes, write_text


@dataclass(frozen=True)
class Plan:
    """What is to be in a folder, and what its index says is there."""

    folder: Path
    prompts: list[Prompt]
    files: list[str]  # one file name a prompt
    rows: dict[str, dict]  # file name -> row of index.jsonl

    @property
    def texts(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]


def plan_pictures(prompts: Path, folder: Path) -> Plan:
    """Read the prompt file and what the folder holds; writes nothing.

    Raises UserError for a bad prompt file, a folder that cannot be written, or an index that is none.
    """
    found = read_prompts(prompts)
    check_folder(folder)
    index = folder / "index.jsonl"
    rows = read_lines(index)
    if not all(isinstance(row, dict) and isinstance(row.get("file"), str) for row in rows):
        raise UserError(f"{index}: is no index of pictures; choose another folder")
    files = [f"{slug}.png" for slug in slugs([prompt.key for prompt in found])]
    return Plan(folder, found, files, {row["file"]: row for row in rows})


def draw_pictures(
    plan: Plan, generator, erasure, erasure_folder: Path | None = None, seed: int = 0, guidance: float | None = None, batch_size: int = 64
) -> int:
    """Draw what `plan` still lacks; returns how many pictures that were.

    The index is written after every batch: a run that is stopped loses one batch at most.
    """
    from PIL import Image
    from tqdm import tqdm

    from .generators import draw

    guidance = generator.guidance if guidance is None else guidance
    fingerprint = _fingerprint(generator, erasure_folder)
    same = {"seed": seed, "model": generator.name, "erasure": erasure.name, "guidance": guidance, "fingerprint": fingerprint}
    wanted = {file: {"key": p.key, "prompt": p.text, "file": file, **same} for file, p in zip(plan.files, plan.prompts)}
    missing = [file for file, row in wanted.items() if plan.rows.get(file) != row or not (plan.folder / file).is_file()]
    rows = dict(plan.rows)
    with tqdm(total=len(missing), unit="picture", disable=not missing) as bar:
        for start in range(0, len(missing), batch_size):
            files = missing[start : start + batch_size]
            texts, keys = ([wanted[file][name] for file in files] for name in ("prompt", "key"))
            images = draw(generator, texts, seed=seed, keys=keys, guidance=guidance, erasure=erasure, batch_size=batch_size, progress=False)
            stale = [rows.pop(file) for file in files if file in rows]
            if stale:  # while a picture is replaced, no row may speak for the old one
                _write_index(plan.folder, rows, wanted)
            for file, image in zip(files, images):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                write_bytes(plan.folder / file, png.getvalue())
                rows[file] = wanted[file]
            _write_index(plan.folder, rows, wanted)
            bar.update(len(files))
    return len(missing)


def _write_index(folder: Path, rows: dict[str, dict], first: dict[str, dict]) -> None:
    """This prompt file's rows in its order, then those of earlier ones."""
    ordered = [rows[file] for file in first if file in rows] + [row for file, row in rows.items() if file not in first]
    write_text(folder / "index.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))


def _fingerprint(generator, erasure_folder: Path | None) -> str:
    """The generator's own, and a hash of the erasure's weights if there is one."""
    if erasure_folder is None:
        return generator.fingerprint
    digest = hashlib.sha256()
    for file in sorted(erasure_folder.glob("*.safetensors")) or sorted(erasure_folder.glob("*.json")):
        digest.update(file.read_bytes())
    return f"{generator.fingerprint}+{digest.hexdigest()[:16]}"


def check_folder(folder: Path) -> None:
    """Raises UserError unless files can be written into `folder`, which need not exist yet. Leaves nothing behind."""
    made = []
    try:
        missing, there = [], folder
        while not there.exists():
            missing, there = [there, *missing], there.parent
        for path in missing:
            path.mkdir()
            made.append(path)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose a folder that you may write to") from None
    finally:
        for path in reversed(made):
            path.rmdir()
