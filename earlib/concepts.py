"""What to erase: concepts and their prompt pairs, read from data/concepts and checked field by field.

A concept file is JSON: `name`, `kind`, `pairs`, `tests`, `neighbours`, `benign`, `judge`, and the optional `words`,
`phrases`, `paper` and `about`. MiniWorld's files live in data/concepts/mini (written by
`earlib/miniworld/concepts.py`), those of full-size models, written by hand, in data/concepts itself. Where `words` are
given they are checked: a target and a direct test prompt hold one of them, a replacement, a neighbour and a benign
prompt hold none. How prompts are written and filtered automatically lives in `earlib/ecgvf.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from . import ROOT
from .errors import UserError, nearest

FOLDER = ROOT / "data" / "concepts"
KINDS = ("object", "style", "content", "scene")
_REQUIRED = ("name", "kind", "pairs", "tests", "neighbours", "benign", "judge")
_OPTIONAL = ("words", "phrases", "paper", "about")


@dataclass(frozen=True)
class PromptPair:
    """Two prompts that differ by the concept and nothing else."""

    target: str  # names the concept: "a red church on a hill"
    replacement: str  # what to draw instead: "a red house on a hill"


@dataclass(frozen=True)
class Concept:
    """A concept to erase, and everything needed to tell whether it went and what went with it."""

    name: str
    kind: str  # one of KINDS
    pairs: tuple[PromptPair, ...]  # for training
    tests: dict[str, tuple[str, ...]]  # kind of prompt (direct, synonym, compositional, indirect, odd, ...) -> prompts
    neighbours: dict[str, tuple[str, ...]]  # what should survive -> prompts
    neighbour_judges: dict[str, dict]  # the same names -> judge spec
    benign: tuple[str, ...]  # prompts without the concept, for fidelity and drift
    judge: dict  # spec of the judge that says whether a picture shows the concept: `evaluate.judges.load_judge`
    paper: dict = field(default_factory=dict)  # the paper's settings and numbers for this concept, with their source
    about: str = ""  # how the file was written
    phrases: tuple[
        PromptPair, ...
    ] = ()  # pieces of prompts for ECGVF's template grammar: "a church", or "{x} at night" with a place for the rest
    words: tuple[
        str, ...
    ] = ()  # names of the concept ("church", "churches"); a target holds one of them, a replacement none


def concept_folders(profile: str = "mini") -> list[Path]:
    """Where the concept files for `profile` live. A model of one's own (`custom`) is most often a full-size one: those
    files first, then MiniWorld's."""
    mini = FOLDER / "mini"
    return [mini] if profile.startswith("mini") else [FOLDER, mini] if profile == "custom" else [FOLDER]


def list_concepts(profile: str = "mini") -> list[str]:
    """Names that `load_concept` knows for `profile`, sorted."""
    return sorted({path.stem for folder in concept_folders(profile) for path in folder.glob("*.json")})


def load_concept(name_or_path: str | Path, profile: str = "mini") -> Concept:
    """The concept of that name (`profile` chooses the folder), or the one in that JSON file.

    Raises UserError, one line: an unknown name with the nearest known one; a broken file with the file and the field.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".json") or "/" in text or "\\" in text:
        path = Path(name_or_path)
        if not path.is_file():
            raise UserError(
                f"{path}: there is no such concept file; give a JSON file, or a name: {', '.join(list_concepts(profile))}"
            )
        return _read(path)
    known = list_concepts(profile)
    if text not in known:
        hint = (
            nearest(text, known)
            if known
            else f"none is shipped for '{profile}', give a JSON file like {FOLDER / 'mini' / 'church.json'}"
        )
        raise UserError(f"unknown concept '{text}'; {hint}")
    path = next(path for folder in concept_folders(profile) if (path := folder / f"{text}.json").is_file())
    concept = _read(path)
    if concept.name != text:
        raise UserError(f"{path}: name: is '{concept.name}', but a shipped file is called after its concept")
    return concept


def normal(prompt: str) -> str:
    """A prompt as it is compared: two that differ by case, spaces or a final full stop are the same one."""
    return " ".join(prompt.casefold().split()).rstrip(" .")


def holds_word(prompt: str, words) -> str | None:
    """The first of `words` (or phrases) that stands in `prompt` as a whole word, whatever its case; None if none does."""
    return next(
        (word for word in words if re.search(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", prompt.casefold())), None
    )


def words_of(text: str) -> set[str]:
    """The words of a text, lower-cased: not tokens, as " mickey" and "Mickey" are different tokens."""
    return set(re.findall(r"[\w-]+", text.casefold()))


def renamed(prompts, word: str, other: str) -> list[str]:
    """`prompts` with `other` in place of `word`. UserError for a prompt that does not have it."""
    name = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    if without := [p for p in prompts if not name.search(p)]:
        raise UserError(f"'{without[0]}' does not have the word '{word}', which '{other}' is to replace")
    return [name.sub(other, p) for p in prompts]


def _read(path: Path) -> Concept:
    from .runs import read_json

    return _check(read_json(path), path)


def _check(raw, path: Path) -> Concept:
    """A Concept out of parsed JSON; every complaint names the file and the field."""
    top = _fields(raw, "the file", path, _REQUIRED, _OPTIONAL)
    name, kind = _text(top["name"], "name", path), _text(top["kind"], "kind", path)
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        _complain(path, "name", f"is '{name}', but must be lower-case letters and digits with dashes")
    if kind not in KINDS:
        _complain(path, "kind", f"is '{kind}'; {nearest(kind, KINDS)}")

    words = _prompts(top["words"], "words", path) if "words" in top else ()

    pairs, prompts = _pairs(top["pairs"], "pairs", path)
    phrases, pieces = _pairs(top["phrases"], "phrases", path) if "phrases" in top else ((), [])
    for i, phrase in enumerate(phrases):
        if {phrase.target.count("{x}"), phrase.replacement.count("{x}")} not in ({0}, {1}):
            _complain(
                path,
                f"phrases[{i}]",
                "target and replacement must both hold {x} once, where the rest of the prompt goes, or both be without it",
            )

    tests = _dict(top["tests"], "tests", path)
    if not tests:
        _complain(path, "tests", "is empty; give at least 'direct'")
    tests = {test: _prompts(group, f"tests.{test}", path) for test, group in tests.items()}

    neighbours, judges = {}, {}
    for i, item in enumerate(_list(top["neighbours"], "neighbours", path, may_be_empty=True)):
        where = f"neighbours[{i}]"
        item = _fields(item, where, path, ("name", "prompts", "judge"))
        other = _text(item["name"], f"{where}.name", path)
        if other in neighbours:
            _complain(path, f"{where}.name", f"'{other}' occurs twice")
        neighbours[other] = _prompts(item["prompts"], f"{where}.prompts", path)
        judges[other] = _judge(item["judge"], f"{where}.judge", path)
    benign = _prompts(top["benign"], "benign", path)

    groups = {f"tests.{test}": group for test, group in tests.items()}
    groups |= {f"neighbours[{i}].prompts": group for i, group in enumerate(neighbours.values())} | {"benign": benign}
    prompts += [(f"{where}[{i}]", prompt) for where, group in groups.items() for i, prompt in enumerate(group)]
    _check_repeats(prompts, path)
    _check_words(prompts + pieces, words, path)
    about = _text(top["about"], "about", path) if "about" in top else ""
    paper = _dict(top.get("paper", {}), "paper", path)
    return Concept(
        name,
        kind,
        pairs,
        tests,
        neighbours,
        judges,
        benign,
        _judge(top["judge"], "judge", path),
        paper,
        about,
        phrases,
        words,
    )


def _pairs(value, where: str, path: Path) -> tuple[tuple[PromptPair, ...], list[tuple[str, str]]]:
    """A list of pairs, and each of their prompts with where it stands. A pair may also say who wrote it."""
    pairs, prompts = [], []
    for i, item in enumerate(_list(value, where, path)):
        here = f"{where}[{i}]"
        item = _fields(item, here, path, ("target", "replacement"), ("writer",))
        pair = PromptPair(*(_text(item[side], f"{here}.{side}", path) for side in ("target", "replacement")))
        if normal(pair.target) == normal(pair.replacement):
            _complain(path, here, "target and replacement are the same prompt")
        pairs.append(pair)
        prompts += [(f"{here}.target", pair.target), (f"{here}.replacement", pair.replacement)]
    return tuple(pairs), prompts


def _check_repeats(prompts: list[tuple[str, str]], path: Path) -> None:
    """No prompt stands in two places: what trains an erasure never tests it. One replacement may serve several targets."""
    first: dict[str, str] = {}
    for where, prompt in prompts:
        before = first.setdefault(normal(prompt), where)
        if before != where and not (before.endswith("].replacement") and where.endswith("].replacement")):
            _complain(path, where, f"'{prompt}' occurs twice, first in {before}")


def _check_words(prompts: list[tuple[str, str]], words: tuple[str, ...], path: Path) -> None:
    """A target and a direct test name the concept; a replacement, a neighbour and a benign prompt do not. Nothing to
    check without `words`."""
    if not words:
        return
    names = ", ".join(f"'{word}'" for word in words)
    for where, prompt in prompts:
        found = holds_word(prompt, words)
        if not found and (where.endswith("].target") or where.startswith("tests.direct[")):
            _complain(path, where, f"'{prompt}' does not name the concept by any of its words ({names})")
        if found and (where.endswith("].replacement") or where.startswith(("neighbours[", "benign["))):
            _complain(path, where, f"'{prompt}' holds '{found}', a word of the concept that it should be without")


def _complain(path: Path, where: str, what: str):
    raise UserError(f"{path}: {where}: {what}")


def _fields(value, where: str, path: Path, required, optional=()) -> dict:
    """`value` as an object with these fields, no more and no fewer."""
    value = _dict(value, where, path)
    for key in value:
        if key not in (*required, *optional):
            _complain(path, where, f"unknown field '{key}'; {nearest(key, (*required, *optional))}")
    for key in required:
        if key not in value:
            _complain(path, where, f"field '{key}' is missing")
    return value


def _dict(value, where: str, path: Path) -> dict:
    if not isinstance(value, dict):
        _complain(path, where, f"must be an object, is {_kind(value)}")
    return value


def _list(value, where: str, path: Path, may_be_empty: bool = False) -> list:
    if not isinstance(value, list):
        _complain(path, where, f"must be a list, is {_kind(value)}")
    if not value and not may_be_empty:
        _complain(path, where, "is empty")
    return value


def _text(value, where: str, path: Path) -> str:
    if not isinstance(value, str):
        _complain(path, where, f"must be text, is {_kind(value)}")
    if not value.strip():
        _complain(path, where, "is empty text")
    return value


def _prompts(value, where: str, path: Path) -> tuple[str, ...]:
    prompts = tuple(_text(prompt, f"{where}[{i}]", path) for i, prompt in enumerate(_list(value, where, path)))
    _check_repeats([(f"{where}[{i}]", prompt) for i, prompt in enumerate(prompts)], path)
    return prompts


def _judge(value, where: str, path: Path) -> dict:
    """Only what every judge needs; the rest of the spec is checked by the judge that reads it."""
    value = _dict(value, where, path)
    if "name" not in value:
        _complain(path, where, "field 'name' is missing")
    _text(value["name"], f"{where}.name", path)
    threshold = value.get("threshold", 0.5)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        _complain(path, f"{where}.threshold", f"must be a number from 0 to 1, is {threshold!r}")
    return value


def _kind(value) -> str:
    names = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names[type(value)]
