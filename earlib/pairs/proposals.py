"""What writers are asked and what they propose: replies taken apart, proposals checked, duplicates found. Asking,
drawing and judging are in `ecgvf.py`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..concepts import Concept, holds_word, normal

# of dropping a proposal, in the order in which they are looked for
REASONS = ("malformed", "duplicate", "false_negative", "false_positive")
UnknownWords = Callable[[list[str]], list[str]]  # of prompts: those that the model cannot spell
LONGEST = 300  # characters of a prompt


@dataclass(frozen=True)
class Settings:
    """How many pairs are asked for, and which are kept.

    Args:
        count: pairs asked from every writer.
        a_time: pairs in one request.
        pictures: drawn of every prompt.
        threshold: the concept must show in at least this share of a target's pictures, and in at most 1 - this of a
            replacement's.
        seed: of the writers' choices and of the pictures.
    """

    count: int = 40
    a_time: int = 10
    pictures: int = 4
    threshold: float = 0.75
    seed: int = 0


DEFAULTS = Settings()


@dataclass(frozen=True)
class Request:
    """One question to a writer. Equal requests get equal replies from the grammar and from local models."""

    concept: Concept
    index: int  # the writer's first, second, ... request; chooses persona, manner and examples
    count: int  # pairs asked for
    seed: int = 0
    vocabulary: tuple[str, ...] = ()  # the only words that the generator knows; empty if it knows all

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.index])


class WriterFailed(Exception):
    """A writer gave up; its text says why."""


class Writer(Protocol):
    name: str  # tags the pairs

    def write(self, request: Request, stop: threading.Event) -> str:
        """The reply. Raises WriterFailed; returns soon once `stop` is set."""


@dataclass(frozen=True)
class Candidate:
    """One proposal and what became of it."""

    writer: str
    target: str  # of a malformed one, the beginning of what was there instead
    replacement: str
    reason: str | None = None  # of dropping it: one of REASONS
    detail: str = ""


def parse(reply: str) -> list[dict | str]:
    """What a reply holds: every JSON object in it, in order, and as text whatever began like one and is none (a reply
    cut short, for example)."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while opening := re.compile(r"[\[{]").search(reply, at):
        try:
            value, at = decoder.raw_decode(reply, opening.start())
        except (json.JSONDecodeError, RecursionError):
            if opening[0] == "{":
                found.append(reply[opening.start() :])
            at = opening.end()
            continue
        lists = [v for v in value.values() if isinstance(v, list)] if isinstance(value, dict) else []
        if len(lists) == 1 and "target" not in value:
            value = lists[0]  # {"pairs": [...]}
        found += value if isinstance(value, list) else [value]
    return found or [reply]


def proposals(concept: Concept, order: list[str], replies: list[dict], unknown_words: UnknownWords) -> list[Candidate]:
    """Every proposal in the order of writers and requests, whenever the replies came; those that need no picture to be
    dropped have their reason."""
    groups = (*concept.tests.values(), *concept.neighbours.values(), concept.benign)
    in_file = [p for group in groups for p in group] + [p for pair in concept.pairs for p in asdict(pair).values()]
    taken = dict.fromkeys(map(normal, in_file), "a prompt in the concept file")
    targets: dict[str, str] = {}
    replacements: dict[str, str] = {}
    candidates = []
    for row in sorted(replies, key=lambda row: (order.index(row["writer"]), row["index"])):
        for item in parse(row["reply"]):
            candidate = _wellformed(concept, row["writer"], item, unknown_words)
            if candidate.reason is None:
                target, other = normal(candidate.target), normal(candidate.replacement)
                places = ((taken, target), (taken, other), (targets, target), (replacements, target), (targets, other))
                if first := next((where[prompt] for where, prompt in places if prompt in where), None):
                    candidate = replace(candidate, reason="duplicate", detail=f"of {first}")
                else:
                    targets[target] = replacements[other] = f"one by {row['writer']}"
            candidates.append(candidate)
    return candidates


def _wellformed(concept: Concept, writer: str, item: Any, unknown_words: UnknownWords) -> Candidate:
    """The proposal, malformed or not yet dropped."""
    target, other = (item.get(side) for side in ("target", "replacement")) if isinstance(item, dict) else (None, None)
    if not (isinstance(target, str) and isinstance(other, str) and target.strip() and other.strip()):
        text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
        return Candidate(writer, _one_line(text)[:100], "", "malformed", "is no object with target and replacement")
    target, other = target.strip(), other.strip()
    complaint = None
    if any(not text.isprintable() or len(text) > LONGEST for text in (target, other)):
        complaint = f"must be one printable line of at most {LONGEST} characters"
    elif normal(target) == normal(other):
        complaint = "target and replacement are the same prompt"
    elif concept.words and not holds_word(target, concept.words):
        complaint = "the target does not name the concept"
    elif found := holds_word(other, concept.words):
        complaint = f"the replacement holds '{found}'"
    elif unknown := unknown_words([target, other]):
        complaint = f"the model does not know: {', '.join(unknown)}"
    if complaint:
        return Candidate(writer, _one_line(target)[:LONGEST], _one_line(other)[:LONGEST], "malformed", complaint)
    return Candidate(writer, target, other)


def _one_line(text: str) -> str:
    """`text` as a report can hold it: one line, and nothing that UTF-8 cannot say."""
    return " ".join(text.encode("utf-8", "replace").decode().split())
