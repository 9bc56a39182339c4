"""What writers propose: replies taken apart, proposals checked, duplicates found. Asking the writers, drawing and
judging are in `ecgvf.py`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from ..concepts import Concept, holds_word, normal

REASONS = (
    "malformed",
    "duplicate",
    "false_negative",
    "false_positive",
)  # of dropping a proposal, in the order in which they are looked for
LONGEST = 300  # characters of a prompt


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
        if (
            isinstance(value, dict)
            and "target" not in value
            and len(lists := [v for v in value.values() if isinstance(v, list)]) == 1
        ):
            value = lists[0]  # {"pairs": [...]}
        found += value if isinstance(value, list) else [value]
    return found or [reply]


def proposals(concept: Concept, order: list[str], replies: list[dict], unknown_words) -> list[Candidate]:
    """Every proposal in the order of writers and requests, whenever the replies came; those that need no picture to be
    dropped have their reason."""
    taken = {
        normal(p): "a prompt in the concept file"
        for group in (*concept.tests.values(), *concept.neighbours.values(), concept.benign)
        for p in group
    }
    taken |= {
        normal(p): "a prompt in the concept file" for pair in concept.pairs for p in (pair.target, pair.replacement)
    }
    targets: dict[str, str] = {}
    replacements: dict[str, str] = {}
    candidates = []
    for row in sorted(replies, key=lambda row: (order.index(row["writer"]), row["index"])):
        for item in parse(row["reply"]):
            candidate = _wellformed(concept, row["writer"], item, unknown_words)
            if candidate.reason is None:
                target, other = normal(candidate.target), normal(candidate.replacement)
                first = (
                    taken.get(target)
                    or taken.get(other)
                    or targets.get(target)
                    or replacements.get(target)
                    or targets.get(other)
                )
                if first:
                    candidate = replace(candidate, reason="duplicate", detail=f"of {first}")
                else:
                    targets[target] = replacements[other] = f"one by {row['writer']}"
            candidates.append(candidate)
    return candidates


def _wellformed(concept: Concept, writer: str, item, unknown_words) -> Candidate:
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
