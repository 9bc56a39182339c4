"""What to erase: concepts and their prompt pairs, read from data/concepts and checked field by field.

A concept file is JSON: `name`, `kind`, `pairs`, `tests`, `neighbours`, `benign`, `judge`, and the optional `words`,
`phrases`, `paper` and `about`. MiniWorld's files live in data/concepts/mini (written by
`earlib/miniworld/concepts.py`), those of full-size models, written by hand, in data/concepts itself. Where `words` are
given they are checked: a target and a direct test prompt hold one of them, a replacement, a neighbour and a benign
prompt hold none. How prompts are written and filtered automatically lives in `earlib/pairs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from . import DATA
from .errors import UserError, nearest
from .prompts import UNPRINTABLE

FOLDER = DATA / "concepts"
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
    # pieces of prompts for ECGVF's template grammar: "a church", or "{x} at night" with a place for the rest
    phrases: tuple[PromptPair, ...] = ()
    # names of the concept ("church", "churches"); a target holds one of them, a replacement none
    words: tuple[str, ...] = ()


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
            names = ", ".join(list_concepts(profile))
            raise UserError(f"{path}: there is no such concept file; give a JSON file, or a name: {names}")
        return _read(path)
    known = list_concepts(profile)
    if text not in known:
        none = f"none is shipped for '{profile}', give a JSON file like {FOLDER / 'mini' / 'church.json'}"
        raise UserError(f"unknown concept '{text}'; {nearest(text, known) if known else none}")
    path = next(path for folder in concept_folders(profile) if (path := folder / f"{text}.json").is_file())
    concept = _read(path)
    if concept.name != text:
        raise UserError(
            f"{path}: the field 'name' is '{concept.name}', but the file's own name says '{text}'; make them the same"
        )
    return concept


def normal(prompt: str) -> str:
    """A prompt as it is compared: two that differ by case, spaces or a final full stop are the same one."""
    return " ".join(prompt.casefold().split()).rstrip(" .")


def holds_word(prompt: str, words: Iterable[str]) -> str | None:
    """The first of `words` (or phrases) that stands in `prompt` as a whole word, in any case; None if none does."""
    held = lambda word: re.search(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", prompt.casefold())
    return next(filter(held, words), None)


def words_of(text: str) -> set[str]:
    """The words of a text, lower-cased: not tokens, as " mickey" and "Mickey" are different tokens."""
    return set(re.findall(r"[\w-]+", text.casefold()))


def renamed(prompts: Iterable[str], word: str, other: str) -> list[str]:
    """`prompts` with `other` in place of `word`. UserError for a prompt that does not have it."""
    name = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    if without := [p for p in prompts if not name.search(p)]:
        raise UserError(
            f"the prompt '{without[0]}' lacks the word '{word}', so that '{other}' cannot be put in its place"
        )
    return [name.sub(other, p) for p in prompts]


def _read(path: Path) -> Concept:
    from .runs import read_json

    return _Reader(path).concept(read_json(path))


class _Reader:
    """Makes a Concept of a file's parsed JSON; every complaint names the file and the field."""

    def __init__(self, path: Path):
        self.path = path

    def complain(self, where: str, what: str) -> NoReturn:
        raise UserError(f"{self.path}: {where}: {what}")

    def concept(self, raw: Any) -> Concept:
        top = self.fields(raw, "the file", _REQUIRED, _OPTIONAL)
        name, kind = self.text(top["name"], "name"), self.text(top["kind"], "kind")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            self.complain("name", f"is '{name}', but must be lower-case letters and digits with dashes")
        if kind not in KINDS:
            self.complain("kind", f"is '{kind}'; {nearest(kind, KINDS)}")
        words = self.prompts(top["words"], "words") if "words" in top else ()
        pairs, prompts = self.pairs(top["pairs"], "pairs")
        phrases, pieces = self.pairs(top["phrases"], "phrases") if "phrases" in top else ((), [])
        for i, phrase in enumerate(phrases):
            if {phrase.target.count("{x}"), phrase.replacement.count("{x}")} not in ({0}, {1}):
                both = "target and replacement must both hold {x} once, where the rest of the prompt goes"
                self.complain(f"phrases[{i}]", f"{both}, or both be without it")
        tests = self.mapping(top["tests"], "tests")
        if not tests:
            self.complain("tests", "is empty; give at least 'direct'")
        tests = {test: self.prompts(group, f"tests.{test}") for test, group in tests.items()}
        neighbours, judges = self.neighbours(top["neighbours"])
        benign = self.prompts(top["benign"], "benign")

        groups = {f"tests.{test}": group for test, group in tests.items()} | {"benign": benign}
        groups |= {f"neighbours[{i}].prompts": group for i, group in enumerate(neighbours.values())}
        prompts += [(f"{where}[{i}]", prompt) for where, group in groups.items() for i, prompt in enumerate(group)]
        self.check_repeats(prompts)
        self.check_words(prompts + pieces, words)
        about = self.text(top["about"], "about") if "about" in top else ""
        paper, judge = self.mapping(top.get("paper", {}), "paper"), self.judge(top["judge"], "judge")
        return Concept(name, kind, pairs, tests, neighbours, judges, benign, judge, paper, about, phrases, words)

    def neighbours(self, value: Any) -> tuple[dict[str, tuple[str, ...]], dict[str, dict]]:
        """Prompts and judges of the neighbours, by name."""
        prompts, judges = {}, {}
        for i, item in enumerate(self.items(value, "neighbours", may_be_empty=True)):
            where = f"neighbours[{i}]"
            item = self.fields(item, where, ("name", "prompts", "judge"))
            name = self.text(item["name"], f"{where}.name")
            if name in prompts:
                self.complain(f"{where}.name", f"'{name}' occurs twice")
            prompts[name] = self.prompts(item["prompts"], f"{where}.prompts")
            judges[name] = self.judge(item["judge"], f"{where}.judge")
        return prompts, judges

    def pairs(self, value: Any, where: str) -> tuple[tuple[PromptPair, ...], list[tuple[str, str]]]:
        """A list of pairs, and each of their prompts with where it stands. A pair may also say who wrote it."""
        pairs, prompts = [], []
        for i, item in enumerate(self.items(value, where)):
            here, sides = f"{where}[{i}]", ("target", "replacement")
            item = self.fields(item, here, sides, ("writer",))
            pair = PromptPair(*(self.text(item[side], f"{here}.{side}") for side in sides))
            if normal(pair.target) == normal(pair.replacement):
                self.complain(here, "target and replacement are the same prompt")
            pairs.append(pair)
            prompts += [(f"{here}.target", pair.target), (f"{here}.replacement", pair.replacement)]
        return tuple(pairs), prompts

    def prompts(self, value: Any, where: str) -> tuple[str, ...]:
        prompts = tuple(self.text(prompt, f"{where}[{i}]") for i, prompt in enumerate(self.items(value, where)))
        self.check_repeats([(f"{where}[{i}]", prompt) for i, prompt in enumerate(prompts)])
        return prompts

    def judge(self, value: Any, where: str) -> dict:
        """Only what every judge needs; the rest of the spec is checked by the judge that reads it."""
        value = self.mapping(value, where)
        if "name" not in value:
            self.complain(where, "field 'name' is missing")
        self.text(value["name"], f"{where}.name")
        threshold = value.get("threshold", 0.5)
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            self.complain(f"{where}.threshold", f"must be a number from 0 to 1, is {threshold!r}")
        return value

    def check_repeats(self, prompts: list[tuple[str, str]]) -> None:
        """No prompt stands in two places: what trains an erasure never tests it. One replacement may serve several
        targets."""
        first: dict[str, str] = {}
        for where, prompt in prompts:
            before = first.setdefault(normal(prompt), where)
            if before != where and not (before.endswith("].replacement") and where.endswith("].replacement")):
                self.complain(where, f"'{prompt}' occurs twice, first in {before}")

    def check_words(self, prompts: list[tuple[str, str]], words: tuple[str, ...]) -> None:
        """A target and a direct test name the concept; a replacement, a neighbour and a benign prompt do not."""
        names = ", ".join(f"'{word}'" for word in words)
        for where, prompt in prompts if words else ():
            found = holds_word(prompt, words)
            if not found and (where.endswith("].target") or where.startswith("tests.direct[")):
                self.complain(where, f"'{prompt}' does not name the concept by any of its words ({names})")
            if found and (where.endswith("].replacement") or where.startswith(("neighbours[", "benign["))):
                self.complain(where, f"'{prompt}' holds '{found}', a word of the concept that it should be without")

    def fields(self, value: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict:
        """`value` as an object with these fields, no more and no fewer."""
        value, known = self.mapping(value, where), (*required, *optional)
        for key in value:
            if key not in known:
                self.complain(where, f"unknown field '{key}'; {nearest(key, known)}")
        for key in required:
            if key not in value:
                self.complain(where, f"field '{key}' is missing")
        return value

    def mapping(self, value: Any, where: str) -> dict:
        return self.of_type(value, dict, where)

    def items(self, value: Any, where: str, may_be_empty: bool = False) -> list:
        if not self.of_type(value, list, where) and not may_be_empty:
            self.complain(where, "is empty")
        return value

    def text(self, value: Any, where: str) -> str:
        if not self.of_type(value, str, where).strip():
            self.complain(where, "is empty text")
        if bad := UNPRINTABLE.search(value):
            self.complain(where, f"holds the character {ascii(bad[0])[1:-1]}, which no text here can hold")
        return value

    def of_type(self, value: Any, wanted: type, where: str) -> Any:
        names = {
            dict: "an object",
            list: "a list",
            str: "text",
            bool: "true or false",
            int: "a number",
            float: "a number",
        }
        if not isinstance(value, wanted):
            self.complain(where, f"must be {names[wanted]}, is {names.get(type(value), 'null')}")
        return value
