"""Janus checkpoints in the layout of deepseek-ai's own code, rewritten for transformers: what `python -m earlib convert
SRC DST` does.

SRC holds `config.json` of model type multi_modality, `pytorch_model*.bin`, and the tokenizer. Everything that can be
wrong with it is found before DST is touched. Then weights are written in parts of at most `PART` bytes, so that no more
than one shard is ever in memory; each part appears whole or not at all, and the same call goes on after the last one.
`config.json` is written last: a folder without it is not yet a model. How the authors' names map to transformers' is in
`original.py`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...runs import read_json, write_json, write_text
from ..profiles import FAMILIES, RECORD
from ..weights import check_room, empty_model, stored_files
from .original import Piece, derive_config, generation_settings, pieces_of, processor_of, read_shard

PART = 2 * 10**9  # bytes of weights in one file
TAIL = 10**6  # bytes at the end of a shard that identify it: a zip's directory has a checksum of every tensor


@dataclass(frozen=True)
class Part:
    """One file of weights to write, with the shard that its tensors come from."""

    file: str
    shard: Path
    pieces: tuple[Piece, ...]

    @property
    def bytes(self) -> int:
        return sum(piece.bytes for piece in self.pieces)


def convert(source: str | Path, target: str | Path, progress: bool = True, part_bytes: int = PART) -> Path:
    """Write the model in `source` to the folder `target`, in transformers' layout; returns the folder.

    Raises UserError with one line if `source` is no such model, lacks a shard or has a broken one, or if `target` holds
    something else or has too little room. A conversion that was interrupted goes on.
    """
    source, target = Path(source), Path(target)
    about = _read_about(source)
    files = stored_files(source, "pytorch_model.bin")
    processor, blank_id = processor_of(source)
    plan, config = _plan(source, files, about, processor, part_bytes)
    record = {"source": about | {"files": [_identity(file) for file in files]}, "parts": [part.file for part in plan]}
    if _is_finished(target, record):
        return target

    missing = [part for part in plan if not _is_whole(target / part.file, part)]
    check_room(target, sum(part.bytes for part in missing))
    write_json(target / RECORD, record)
    _write_parts(target, missing, progress, sum(part.bytes for part in plan))

    settings = generation_settings(processor.tokenizer, blank_id)
    processor.save_pretrained(target)
    settings.save_pretrained(target)
    weight_map = {piece.name: part.file for part in plan for piece in part.pieces}
    write_json(
        target / "model.safetensors.index.json",
        {"metadata": {"total_size": sum(p.bytes for p in plan)}, "weight_map": weight_map},
    )
    write_text(target / "config.json", config.to_json_string())
    return target


# ------------------------------------------------------------------ before anything is written


def _read_about(source: Path) -> dict:
    """SRC's config.json; UserError if it is none of deepseek-ai's Janus models."""
    if not source.is_dir():
        line = f"{source}: there is no such folder; fetch the model first"
        raise UserError(f"{line}, for example with: hf download deepseek-ai/Janus-Pro-1B --local-dir FOLDER")
    if not (source / "config.json").is_file():
        raise UserError(f"{source}: holds no config.json, so it is no model folder")
    about = read_json(source / "config.json")
    kind = about.get("model_type") if isinstance(about, dict) else None
    if kind in FAMILIES:
        raise UserError(f"{source}: is in transformers' layout already; use it as it is: --model {source}")
    if kind != "multi_modality" or "gen_head_config" not in about:
        raise UserError(
            f"{source}: is a '{kind}' model; `convert` reads Janus and Janus-Pro in the layout of deepseek-ai "
            "(model_type 'multi_modality')"
        )
    return about


def _plan(source: Path, files: list[Path], about: dict, processor, part_bytes: int):
    """(parts to write, transformers' configuration), after checking that the tensors are all there and of the sizes
    that the model wants."""
    by_shard = {file: pieces_of(file) for file in files}
    pieces = [piece for found in by_shard.values() for piece in found]
    config = derive_config({piece.name: piece.shape for piece in pieces}, about, processor)
    config.dtype = pieces[0].dtype
    wanted = {name: tuple(tensor.shape) for name, tensor in empty_model(config, FAMILIES["janus"]).state_dict().items()}
    found = {piece.name: piece.shape for piece in pieces}
    if len(found) < len(pieces):
        raise UserError(f"{source}: a tensor is in two files; fetch the model again into an empty folder")
    for name in wanted.keys() | found.keys():
        if wanted.get(name) != found.get(name):
            here, there = (list(shapes[name]) if name in shapes else "missing" for shapes in (found, wanted))
            line = f"{source}: {name} (its name in transformers) is {here}"
            raise UserError(f"{line}, and a Janus of this configuration has it as {there}")
    groups = [(file, group) for file, shard in by_shard.items() for group in _groups(shard, part_bytes)]
    plan = [
        Part(f"model-{i:05d}-of-{len(groups):05d}.safetensors", file, tuple(group))
        for i, (file, group) in enumerate(groups, 1)
    ]
    return plan, config


def _groups(pieces: list[Piece], limit: int) -> Iterator[list[Piece]]:
    """Pieces in order, in groups of at most `limit` bytes (or of one piece that is larger)."""
    group: list[Piece] = []
    for piece in pieces:
        if group and sum(p.bytes for p in group) + piece.bytes > limit:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _identity(file: Path) -> dict:
    with open(file, "rb") as data:
        data.seek(max(0, file.stat().st_size - TAIL))
        return {"name": file.name, "bytes": file.stat().st_size, "tail": hashlib.sha256(data.read()).hexdigest()[:16]}


def _is_finished(target: Path, record: dict) -> bool:
    """Whether `target` holds this conversion already; UserError if it holds anything but this conversion, finished or
    not."""
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file; the converted model needs a folder")
    if not target.exists() or not any(target.iterdir()):
        return False
    if not (target / RECORD).is_file():
        raise UserError(f"{target}: is not empty and holds no conversion to go on with; choose another folder")
    if read_json(target / RECORD) != record:
        raise UserError(f"{target}: holds the conversion of another model; choose another folder")
    return (target / "config.json").is_file()


def _is_whole(file: Path, part: Part) -> bool:
    """Whether an earlier call wrote this part. Files are renamed when they are complete, so the header is proof
    enough."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return False
    try:
        with safe_open(file, "pt") as tensors:
            return set(tensors.keys()) == {piece.name for piece in part.pieces}
    except (SafetensorError, OSError):
        return False


# ------------------------------------------------------------------ writing


def _write_parts(target: Path, parts: list[Part], progress: bool, total: int) -> None:
    """Write what is missing; a shard is open only while its own parts are written."""
    from ...runs import progress_bar

    for leftover in target.glob(".*.tmp"):  # of a call that was killed
        leftover.unlink()
    done = total - sum(part.bytes for part in parts)
    with progress_bar(
        total=total, initial=done, unit="B", unit_scale=True, desc="converting", disable=not progress, leave=False
    ) as bar:
        for shard in dict.fromkeys(part.shard for part in parts):
            tensors = read_shard(shard)
            for part in (p for p in parts if p.shard == shard):
                _write(target / part.file, {piece.name: piece.take(tensors) for piece in part.pieces})
                bar.update(part.bytes)
            del tensors


def _write(file: Path, tensors: dict) -> None:
    """Write one safetensors file: whole, or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = file.with_name(f".{file.name}.tmp")
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, file)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        line = f"{file}: cannot be written ({error})"
        raise UserError(f"{line}; what is finished is kept, and the same command goes on") from None
