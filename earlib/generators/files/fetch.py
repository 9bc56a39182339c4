"""Public prompt sets that are not shipped: fetched on request, or copied from a folder; never put where git would track
them.

A set lands in .cache/fetched/NAME, each file beside its prompts as JSON lines for `generate --prompts` and `evaluate
--prompts`. Addresses name a commit, so that what they hold should never change. No checksum was published with these
files, and none is invented here: the SHA-256 of the first copy is recorded in data/fetched.json (trust on first use),
and every later copy, fetched or from a folder, must have the same. Licences are the authors': EAR's repository states
none, COCO's captions are CC BY 4.0, so look before you pass anything on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

from ... import CACHE as CACHES
from ... import CHECKOUT, DATA
from ...errors import UserError, nearest
from ...runs import read_json, write_bytes, write_json, write_text

CACHE = CACHES / "fetched"
LOCK = (DATA if CHECKOUT else CACHE) / "fetched.json"  # "NAME/FILE" -> SHA-256 of the first copy
_EAR = "https://raw.githubusercontent.com/immc-lab/ear/fd6952a93cf3dcb7a0c1488a564c02d550735dc3/data/"
_ESD = "https://raw.githubusercontent.com/rohitgandikota/erasing/"
# name -> file -> (address, column or field of the prompt, column of its key or None)
SETS = {
    "ear": {  # the authors' own; their train_nudity.json is left out, because it holds slurs and little about nudity
        "test_church.json": (_EAR + "test_church.json", "prompt", None),
        "train_church.json": (_EAR + "train_church.json", "original_prompt", None),
        "train_van_gogh.csv": (_EAR + "train_van_gogh.csv", "unsafe_prompt", None),
    },
    "vangogh": {  # 50 titles of paintings, from the ESD authors
        "vangogh_prompts.csv": (
            _ESD + "6eb7dc8f266e3cdcbbf6ae9e030fbd44f03bb2ab/oldcode_erasing_compvis/data/vangogh_prompts.csv",
            "prompt",
            "case_number",
        )
    },
    "coco": {
        "coco_30k.csv": (_ESD + "3d10dd1b2df4ec4e74edcadac4200c7401585138/data/coco_30k.csv", "prompt", "image_id")
    },
}


def fetch(name: str, folder: str | Path | None = None, timeout: float = 60) -> list[tuple[Path, int]]:
    """Get the set `name`, over the network or from `folder`, which holds files of the same names; returns its prompt
    files with their lengths.

    What is there already is checked and kept. UserError, one line: an unknown set, no network, a file that is missing,
    changed or none of its kind.
    """
    if name not in SETS:
        raise UserError(f"unknown set '{name}'; {nearest(name, SETS)}")
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"{folder}: there is no such folder; --from names one that holds {', '.join(SETS[name])}")
    known = read_json(LOCK) if LOCK.exists() else {}
    done = []
    for file, (address, field, key) in SETS[name].items():
        path = CACHE / name / file
        data = path.read_bytes() if path.is_file() and folder is None else _get(address, file, folder, timeout)
        digest = hashlib.sha256(data).hexdigest()
        if known.get(f"{name}/{file}", digest) != digest:
            where = path if path.is_file() and folder is None else Path(folder) / file if folder else address
            first = f"{known[f'{name}/{file}'][:12]}... in {LOCK}"
            line = f"{where}: is not the file that was recorded first ({first})"
            raise UserError(f"{line}; use that one, or delete its line there")
        prompts = _prompts(data, file, field, key)
        write_bytes(path, data)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in prompts)
        done.append((write_text(path.with_suffix(".prompts.jsonl"), lines), len(prompts)))
        if f"{name}/{file}" not in known:
            known[f"{name}/{file}"] = digest
            write_json(LOCK, known)
    return done


def _get(address: str, file: str, folder, timeout: float) -> bytes:
    from http.client import HTTPException
    from urllib.request import urlopen

    if folder is not None:
        path = Path(folder) / file
        if not path.is_file():
            raise UserError(f"{path}: there is no such file; download it from {address}")
        return path.read_bytes()
    try:
        with urlopen(address, timeout=timeout) as answer:
            return answer.read()
    except (OSError, HTTPException) as error:
        line = f"cannot fetch {address} ({getattr(error, 'reason', None) or error})"
        raise UserError(f"{line}; download it elsewhere and use --from FOLDER") from None


def _prompts(data: bytes, file: str, field: str, key: str | None) -> list[dict]:
    """Rows of key and prompt. A prompt that occurs twice gets two keys: a picture depends on its key."""
    from .. import default_keys

    try:
        text = data.decode("utf-8-sig")
        rows = json.loads(text) if file.endswith(".json") else list(csv.DictReader(io.StringIO(text)))
        texts = [" ".join(row[field].split()) for row in rows]
        keys = [str(row[key]) for row in rows] if key else texts
        keys = keys if len(set(keys)) == len(keys) and key else default_keys(keys)
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        line = f"{file}: is not the file it should be"
        raise UserError(f"{line}: no rows with '{field}' ({type(error).__name__})") from None
    if not texts or not all(texts):
        raise UserError(f"{file}: is not the file it should be: it holds no prompts, or empty ones")
    return [{"key": key, "prompt": prompt} for key, prompt in zip(keys, texts)]
