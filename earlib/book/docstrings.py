"""A Sphinx extension for the API page (book/api.md): docstrings are plain text with `code` in backticks, and become
reStructuredText here, before napoleon reads their Args, Returns and Raises."""

from __future__ import annotations

import re
from typing import Any

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):\s*$")


def to_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText: `code` becomes a literal, signs that mean something there mean
    themselves, and an indented block that is in no section is shown as it stands."""
    parts: list[list[str]] = [[]]  # text and shown blocks in turn
    section = False
    for before, line in zip(["x", *lines], lines):
        indented = line.startswith(" ")
        if line and not indented:
            section = bool(SECTION.match(line))
        shown = len(parts) % 2 == 0
        if (line and shown and not indented) or (indented and not shown and not section and not before.strip()):
            parts.append([])
        parts[-1].append(line)
    for i in range(0, len(parts), 2):
        parts[i] = _escaped("\n".join(parts[i])).split("\n")
    for i in range(1, len(parts), 2):
        parts[i] = ["::", "", *parts[i], ""]
    return [line for part in parts for line in part]


def _escaped(text: str) -> str:
    spans = re.split(r"(`[^`]+`)", text)
    for i, span in enumerate(spans):
        if i % 2:
            spans[i] = f"`{span}`"
        else:
            spans[i] = re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", span)
    return "".join(spans)


def setup(app: Any) -> dict:
    """What Sphinx calls."""

    def change(app, what, name, obj, options, lines):
        lines[:] = to_rst(lines)

    app.connect("autodoc-process-docstring", change, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
