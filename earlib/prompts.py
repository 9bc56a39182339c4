"""Prompt files, the keys of prompts, and file names made from keys. A picture depends on its key: see
`generators.picture_seeds`."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .generators import default_keys

LONGEST_SLUG = 80  # characters; file systems allow 255 bytes, people read fewer


@dataclass(frozen=True)
class Prompt:
    key: str  # names the picture; unique in its file
    text: str


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a file: text with one prompt a line, or JSON lines with `key` and `prompt` (further fields are
    ignored).

    A file is JSON lines if its name ends in .jsonl or its first line that is not blank begins with '{'. Blank lines are
    skipped.
    Raises UserError with the file and the line for anything else, and for a file without prompts.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise UserError(f"{path}: {what}; a prompt file has one prompt a line, or JSON lines with key and prompt")
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from None
    lines = []
    for number, raw in enumerate(re.split(rb"\r\n|\n|\r", data), 1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise UserError(
                f"{path}:{number}: is not UTF-8 text; a prompt file is plain text, one prompt a line"
            ) from None
        if line:
            lines.append((number, line))
    if not lines:
        raise UserError(f"{path}: holds no prompts; write one prompt a line, or JSON lines with key and prompt")
    if path.suffix == ".jsonl" or lines[0][1].startswith("{"):
        return _json_lines(path, lines)
    texts = [_printable(text, f"{path}:{number}", "the prompt") for number, text in lines]
    return [Prompt(key, text) for key, text in zip(default_keys(texts), texts)]


def _json_lines(path: Path, lines: list[tuple[int, str]]) -> list[Prompt]:
    prompts, first = [], {}
    for number, line in lines:
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(
                f'{where}: is not a JSON object; a line of this file looks like {{"key": "one", "prompt": "a red church"}}'
            )
        for name in ("key", "prompt"):
            if name not in row:
                raise UserError(f"{where}: the field '{name}' is missing; every line needs key and prompt")
            if not isinstance(row[name], str) or not row[name].strip():
                raise UserError(f"{where}: the field '{name}' must be text that is not empty")
        key, text = (_printable(row[name].strip(), where, f"the field '{name}'") for name in ("key", "prompt"))
        if key in first:
            raise UserError(f"{where}: the key '{key}' was used in line {first[key]} already; keys must differ")
        first[key] = number
        prompts.append(Prompt(key, text))
    return prompts


def _printable(text: str, where: str, what: str) -> str:
    if bad := re.search(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]", text):
        raise UserError(f"{where}: {what} holds the character {ascii(bad[0])[1:-1]}, which no prompt can hold")
    return text


def slugs(keys: list[str]) -> list[str]:
    """One file name (without ending) per key: lower-case ASCII letters, digits, - and _, at most 80 characters, all
    different.

    A name depends on its key alone, and readable keys give readable names: "a red church#0" -> "a-red-church", "a red
    church#1" -> "a-red-church_1". Where the name would lose something of the key, a hash of the key follows. Only if
    two such names are equal all the same does a name depend on its neighbours: both get the hash.
    """
    names = [_slug(key) for key in keys]
    counts = Counter(names)
    return [_hashed(name, key) if counts[name] > 1 else name for name, key in zip(names, keys)]


def _slug(key: str) -> str:
    if re.fullmatch(r"[a-z0-9]+([_-][a-z0-9]+)*", key) and len(key) <= LONGEST_SLUG:
        return key  # a safe name already
    words, occurrence = re.fullmatch(r"(.*?)(?:#([0-9]+))?", key, re.DOTALL).groups()
    name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    tail = f"_{occurrence}" if occurrence not in (None, "0") else ""
    faithful = re.fullmatch(r"[a-z0-9]+( [a-z0-9]+)*", words) and len(name + tail) <= LONGEST_SLUG
    return name + tail if faithful else _hashed(name + tail, key)


def _hashed(name: str, key: str) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_SLUG - 9].rstrip('-_') or 'prompt'}-{digest}"
