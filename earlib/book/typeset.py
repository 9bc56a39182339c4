"""How numbers and tables are set on the pages: a number stays on one line with its unit and its interval, a minus is a
minus, and a table that pandas wrote has one row of headings. As a Sphinx extension, the same for all prose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_NUMBER = r"[-+−]?\d[\d.,]*"
# what a narrow column must not break: 82 [78–86] %, -12 points [-20 to -4], 100 → 20 %, 100 to 20 %, n = 30, 95 %
WHOLE = re.compile(
    rf"{_NUMBER}(?: ?%| points)? \[{_NUMBER}(?:–| to ){_NUMBER}\](?: %)?"
    rf"|{_NUMBER} (?:→|to) {_NUMBER} %|\b\w = {_NUMBER}(?<![.,])|{_NUMBER} %"
)
MINUS = re.compile(r"(?<![^\s\[(])-(?=\d)")  # a hyphen that begins a number
_STYLE = re.compile(r"<style scoped>.*?</style>\s*", re.S)  # pandas sets headings right
_HEAD = re.compile(r"<thead>(.*?)</thead>", re.S)
_ROW = re.compile(r"<tr[^>]*>(.*?)</tr>", re.S)
_CELL = re.compile(r"<th\b[^>]*>(.*?)</th>", re.S)


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """`text` in parts that come one after the other, its minus signs set; True for a part that must stay whole."""
    text = MINUS.sub("−", text)
    at = 0
    for found in WHOLE.finditer(text):
        if found.start() > at:
            yield text[at : found.start()], False
        yield found[0], True
        at = found.end()
    if at < len(text):
        yield text[at:], False


def whole(html: str) -> str:
    """`html` with every number held on one line with its unit and interval; tags stay as they are."""
    parts = re.split(r"(<[^>]*>)", html)
    for i in range(0, len(parts), 2):
        held = (f'<span class="whole">{part}</span>' if keep else part for part, keep in pieces(parts[i]))
        parts[i] = "".join(held)
    return "".join(parts)


def one_heading(html: str) -> str:
    """The tables of `html` with the names of their index beside those of their columns, all set left.

    pandas gives the names of an index a row of their own, which is empty but for them, and sets headings right.
    """

    def joined(found: re.Match) -> str:
        rows = [[(cell[0], cell[1]) for cell in _CELL.finditer(row[1])] for row in _ROW.finditer(found[1])]
        if len(rows) > 1:
            above, names = rows[-2], rows[-1]
            count = max((i + 1 for i, (_, name) in enumerate(names) if name), default=0)
            if count < len(names) and not any(title for _, title in above[:count]):
                rows[-2:] = [[*names[:count], *above[count:]]]
        return "<thead>" + "".join(f"<tr>{''.join(cell for cell, _ in row)}</tr>" for row in rows) + "</thead>"

    return _HEAD.sub(joined, _STYLE.sub("", html)) if 'class="dataframe"' in html else html


def setup(app: Any) -> dict:
    """What Sphinx calls."""
    from docutils import nodes

    as_it_stands = (nodes.literal, nodes.FixedTextElement, nodes.math, nodes.math_block, nodes.raw)

    def set_numbers(app, doctree, name):
        for text in list(doctree.findall(nodes.Text)):
            inside, node = False, text.parent
            while node is not None and not inside:
                inside, node = isinstance(node, as_it_stands), node.parent
            parts = [] if inside else list(pieces(str(text)))
            if any(keep for _, keep in parts) or "".join(part for part, _ in parts) != str(text) and parts:
                made = [nodes.inline("", part, classes=["whole"]) if keep else nodes.Text(part) for part, keep in parts]
                text.parent.replace(text, made)

    app.connect("doctree-resolved", set_numbers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
