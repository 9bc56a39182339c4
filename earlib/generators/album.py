"""Pictures for a prompt file, one PNG each, with an index: what `python -m earlib generate` does.

`index.jsonl` has one row a picture: `key`, `prompt`, `file`, `seed` (the run's; null, and `picture_seed`, where the
prompt file has the picture's own), `model`, `erasure`, `guidance`, and `fingerprint`, a hash of the model's and the
erasure's weights. A picture whose file exists and whose row says that the same things made it is not drawn again.
"""

from __future__ import annotations

import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..prompts import Prompt, read_prompts, slugs
from ..runs import locked, read_lines, write_bytes, write_text

if TYPE_CHECKING:
    from ..erasure.store import Erasure, NoErasure
    from .base import Generator


@dataclass(frozen=True)
class Plan:
    """What is to be in a folder, and what its index says is there."""

    folder: Path
    prompts: list[Prompt]
    files: list[str]  # one file name a prompt
    rows: dict[str, dict]  # file name -> row of index.jsonl
    shard: tuple[int, int] = (1, 1)  # which part of the prompts, of how many

    @property
    def texts(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]


def plan_pictures(prompts: Path, folder: Path, shard: tuple[int, int] = (1, 1)) -> Plan:
    """Read a prompt file and what a folder of pictures holds already; nothing is written.

    Args:
        prompts: the prompt file.
        folder: where the pictures will be; it need not exist.
        shard: (3, 8) is every eighth prompt, from the third on.

    Raises:
        UserError: the prompt file is wrong, the folder cannot be written, or its index is none.
    """
    found = read_prompts(prompts)
    check_folder(folder)
    rows = _rows_in(folder)
    files = [f"{slug}.png" for slug in slugs([p.key for p in found])]  # a name may depend on its neighbours
    mine = slice(shard[0] - 1, None, shard[1])
    return Plan(folder, found[mine], files[mine], rows, shard)


def draw_pictures(
    plan: Plan,
    generator: Generator,
    erasure: Erasure | NoErasure,
    seed: int = 0,
    guidance: float | None = None,
    batch_size: int | None = None,
    temperature: float | None = None,
) -> int:
    """Draw what `plan` still lacks.

    The index is written after every batch: a run that is stopped loses one batch at most. Runs with other prompts may
    draw into the folder at the same time. A shard keeps an index of its own; a run without shards draws what is missing
    and makes one index of them all.

    Args:
        plan: what `plan_pictures` found.
        generator: draws.
        erasure: is switched on meanwhile.
        seed: of the run, for prompts that bring none of their own.
        guidance: None for the model's own.
        batch_size: pictures at a time; None for as many as there is room for.
        temperature: None for the model's own. It stands in the index unless it is 1.

    Returns:
        How many pictures were drawn now.
    """
    from PIL import Image

    from . import picture_seeds

    guidance = generator.guidance if guidance is None else guidance
    temperature = generator.temperature if temperature is None else temperature
    same = {
        "model": generator.name,
        "erasure": erasure.name,
        "guidance": guidance,
        "fingerprint": "+".join(filter(None, (generator.fingerprint, erasure.change_hash))),
    }
    same |= {"temperature": temperature} if temperature != 1 else {}  # as in folders from when it was always 1
    of_prompt = {file: p for file, p in zip(plan.files, plan.prompts)}
    seed_of = lambda p: {"seed": seed} if p.seed is None else {"seed": None, "picture_seed": p.seed}
    wanted = {f: {"key": p.key, "prompt": p.text, "file": f, **seed_of(p), **same} for f, p in of_prompt.items()}
    missing = [file for file, row in wanted.items() if plan.rows.get(file) != row or not (plan.folder / file).is_file()]
    sharded = plan.shard != (1, 1)
    index = plan.folder / ("index.{}-of-{}.jsonl".format(*plan.shard) if sharded else "index.jsonl")
    todo = [of_prompt[file] for file in missing]
    texts, by_key = [p.text for p in todo], picture_seeds(seed, [p.key for p in todo])
    seeds = [made if p.seed is None else p.seed for p, made in zip(todo, by_key)]
    with erasure.on(generator):
        for batch, codes in generator.sample_batches(texts, seeds, guidance, temperature, batch_size, True):
            files = [missing[i] for i in batch]
            if any(file in plan.rows for file in files):  # no row may speak for a picture that is being replaced
                with locked(plan.folder):
                    for other in plan.folder.glob("index*.jsonl"):
                        _write_index(other, {f: row for f, row in _rows_in(other).items() if f not in files}, wanted)
            for file, image in zip(files, generator.decode(codes)):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                write_bytes(plan.folder / file, png.getvalue())
            with locked(plan.folder):  # another run may have added rows of its own
                _write_index(index, _rows_in(index) | {file: wanted[file] for file in files}, wanted)
    parts = list(plan.folder.glob("index.*-of-*.jsonl"))
    if parts and not sharded:
        with locked(plan.folder):
            _write_index(index, _rows_in(plan.folder), wanted)
            for part in parts:
                part.unlink()
    return len(missing)


def _rows_in(place: Path) -> dict[str, dict]:
    """File name -> row of an index, or of all indexes in a folder; UserError if one is none."""
    rows = {}
    for index in sorted(place.glob("index*.jsonl")) if place.suffix != ".jsonl" else [place] * place.is_file():
        part = read_lines(index)
        if not all(isinstance(row, dict) and isinstance(row.get("file"), str) for row in part):
            raise UserError(f"{index}: is no index of pictures; choose another folder")
        rows |= {row["file"]: row for row in part}
    return rows


def _write_index(index: Path, rows: dict[str, dict], first: dict[str, dict]) -> None:
    """This prompt file's rows in its order, then those of earlier ones."""
    ordered = [rows[file] for file in first if file in rows] + [row for file, row in rows.items() if file not in first]
    write_text(index, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))


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
        line = f"{folder}: cannot be written ({error.strerror})"
        raise UserError(f"{line}; choose a folder that you may write to") from None
    finally:
        for path in reversed(made):
            path.rmdir()
