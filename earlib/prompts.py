"""Prompt files, the keys of prompts, and file names made from keys. A picture depends on its key: see
`generators.picture_seeds`."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import UserError

LONGEST_SLUG = 80  # characters; file systems allow 255 bytes, people read fewer
KINDS = "one prompt a line, JSON lines with key and prompt, or a table (CSV) with a column 'prompt'"
KEYS = ("key", "case_number", "image_id")  # columns or fields that name a picture; the first that a file has
SEEDS = ("seed", "evaluation_seed", "sd_seed")  # and that are its seed
UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # what no prompt can hold


@dataclass(frozen=True)
class Prompt:
    """What is drawn for one picture.

    Args:
        key: names the picture; unique in its file.
        text: the prompt, one line.
        seed: the picture's own, from 0; None where it is made of the run's seed and the key.
    """

    key: str
    text: str
    seed: int | None = None


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a file, a pipe or /dev/stdin.

    What it is is told by the ending or, without a telling one, by how it begins:

    - text: one prompt a line; blank lines are skipped;
    - JSON lines: objects with `prompt`; an array of such objects, or of prompts, will do too;
    - a table: comma, semicolon or tab between cells, with a header that has `prompt` (ESD's, UCE's and I2P's files are
      such);
    - YAML (.yaml, .yml): a list of prompts, or of objects with `prompt`.

    `key`, `case_number` or `image_id` names a picture; without, it is `text#occurrence`. `seed`, `evaluation_seed` or
    `sd_seed` is the picture's seed. Other fields and columns are ignored. A table's rows without a prompt, and rows
    that say the same of one key twice, are left out, which is said on stderr.

    Raises:
        UserError: with the file and the line, for anything else and for a file without prompts.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise UserError(f"{path}: {what}; a prompt file has {KINDS}")
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from None
    lines = []
    for number, raw in enumerate(re.split(rb"\r\n|\n|\r", data), 1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise UserError(f"{path}:{number}: is not UTF-8 text; save the file as UTF-8") from None
        if line:
            lines.append((number, line))
    if not lines:
        raise UserError(f"{path}: holds no prompts; write {KINDS}")
    ending, first = path.suffix.lower(), lines[0][1]
    if ending == ".jsonl" or first.startswith("{"):
        return _checked(path, _json_lines(path, lines))
    if ending == ".json" or re.match(r"\[\s*(?:[\[{\"]|$)", first):
        return _checked(path, _items(path, _json(path, data.decode("utf-8"))))
    if ending in (".yaml", ".yml"):
        return _checked(path, _items(path, _yaml(path, data.decode("utf-8"))))
    separator = _separator(first)
    if ending in (".csv", ".tsv") or separator:
        return _checked(path, _table_rows(path, data.decode("utf-8"), separator), blank=True)
    if re.match(r"(-\s+)?(key|prompts?)\s*(:|$)|---$", first, re.IGNORECASE):
        raise UserError(f"{path}:{lines[0][0]}: '{first[:40]}' looks like YAML or a header; a prompt file has {KINDS}")
    texts = [_printable(text, f"{path}:{number}", "the prompt") for number, text in lines]
    return [Prompt(key, text) for key, text in zip(default_keys(texts), texts)]


def default_keys(prompts: Sequence[str]) -> list[str]:
    """`text#occurrence` for each prompt, so that a prompt given twice gives two pictures."""
    seen: Counter[str] = Counter()
    keys = []
    for prompt in prompts:
        keys.append(f"{prompt}#{seen[prompt]}")
        seen[prompt] += 1
    return keys


def _json_lines(path: Path, lines: list[tuple[int, str]]) -> list[tuple[str, Any]]:
    rows = []
    for number, line in lines:
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            row = None
        if not isinstance(row, dict):
            like = '{"key": "one", "prompt": "a red church"}'
            raise UserError(f"{path}:{number}: is not a JSON object; a line of this file looks like {like}")
        rows.append((str(number), row))
    return rows


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}:{getattr(error, 'lineno', 1)}: is not valid JSON") from None


def _yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{path}:{mark.line + 1 if mark else 1}: is not valid YAML") from None


def _items(path: Path, value: Any) -> list[tuple[str, Any]]:
    """A list of prompts, or of objects, as rows; the place of an item is its number."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{path}: must be a list of prompts, or of objects with 'prompt'")
    rows = [{"prompt": item} if isinstance(item, str) else item for item in value]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: item {number} is neither a prompt nor an object with 'prompt'")
    return [(f" item {number}", row) for number, row in enumerate(rows, 1)]


def _separator(header: str) -> str | None:
    """What stands between the cells of a table's first line; None if it is not the header of one."""
    cells = lambda by: [cell.strip().strip('"').lower() for cell in header.split(by)]
    return next((by for by in "\t,;" if "prompt" in (found := cells(by)) and len(found) > 1), None)


def _table_rows(path: Path, text: str, separator: str | None) -> list[tuple[str, Any]]:
    default = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator or default, strict=True)
    rows: list[tuple[str, Any]] = []
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip().lower() for cell in cells]
                if header.count("prompt") != 1:
                    raise UserError(f"{path}:{reader.line_num}: the header of a table must have one column 'prompt'")
            elif len(cells) != len(header):
                how = "quotes must be around a prompt that holds the separator"
                found = f"{len(cells)} cells, but the header has {len(header)}"
                raise UserError(f"{path}:{reader.line_num}: {found}; {how}")
            else:
                row = {name: " ".join(cell.split()) for name, cell in zip(header, cells)}
                rows.append((str(reader.line_num), row))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: is no table that can be read ({error})") from None
    if not rows:
        raise UserError(f"{path}: holds no prompts, only a header")
    return rows


def _checked(path: Path, rows: list[tuple[str, Any]], blank: bool = False) -> list[Prompt]:
    """Prompts of rows, each with where it stands in the file. `blank`: rows without a prompt are left out."""
    has = lambda names: next((name for name in names if any(name in row for _, row in rows)), None)
    key_name, seed_name = has(KEYS), has(SEEDS)
    found: list[Prompt] = []
    first: dict[str, tuple[str, Prompt]] = {}
    empty, again = [], []
    for place, row in rows:
        where = f"{path}:{place}"
        if blank and not row["prompt"]:
            empty.append(place)
            continue
        texts = {}
        for name in (key_name, "prompt") if key_name else ("prompt",):
            if name not in row:
                raise UserError(
                    f"{where}: the field '{name}' is missing; every line needs {key_name or 'key'} and prompt"
                )
            number = name not in ("key", "prompt") and type(row[name]) is int
            text = str(row[name]) if number else row[name]
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"{where}: the field '{name}' must be text that is not empty")
            texts[name] = _printable(text.strip(), where, f"the field '{name}'")
        seed = _seed(row.get(seed_name), f"{where}: the field '{seed_name}'") if seed_name else None
        prompt = Prompt(texts[key_name] if key_name else "", texts["prompt"], seed)
        if key_name and prompt.key in first:
            before, other = first[prompt.key]
            if other != prompt:
                line = f"the key '{prompt.key}' was used in line {before.strip()} already; keys must differ"
                raise UserError(f"{where}: {line}")
            again.append(place)
            continue
        first[prompt.key] = (place, prompt)
        found.append(prompt)
    for places, why in ((empty, "no prompt"), (again, "what an earlier line has")):
        if places:
            some = ", ".join(place.strip() for place in places[:5]) + (", ..." if len(places) > 5 else "")
            print(f"note: {path}: left out {len(places)} of {len(rows)} rows, with {why}: line {some}", file=sys.stderr)
    if not found:
        raise UserError(f"{path}: holds no prompts; its rows have none")
    if key_name:
        return found
    return [replace(prompt, key=key) for key, prompt in zip(default_keys([p.text for p in found]), found)]


def _seed(value: Any, what: str) -> int | None:
    """A seed as a number; None if the cell is empty. Tables written by pandas may have 7.0 for 7."""
    text = "" if value is None else str(value).strip()
    if text.lower() in ("", "nan"):
        return None
    whole = re.fullmatch(r"([0-9]+)(?:\.0+)?", text)
    if isinstance(value, bool) or not whole or int(whole[1]) >= 2**63:
        raise UserError(f"{what} is {text[:40]}, which is no seed; a seed is a whole number from 0")
    return int(whole[1])


def _printable(text: str, where: str, what: str) -> str:
    if bad := UNPRINTABLE.search(text):
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
    words, occurrence = re.findall(r"(?s)^(.*?)(?:#([0-9]+))?\Z", key)[0]
    name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    tail = f"_{occurrence}" if occurrence not in ("", "0") else ""
    faithful = re.fullmatch(r"[a-z0-9]+( [a-z0-9]+)*", words) and len(name + tail) <= LONGEST_SLUG
    return name + tail if faithful else _hashed(name + tail, key)


def _hashed(name: str, key: str) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_SLUG - 9].rstrip('-_') or 'prompt'}-{digest}"
