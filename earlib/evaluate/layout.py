"""A page of headings, paragraphs, tables and pictures, written twice: as Markdown beside its pictures, and as one
self-contained HTML file.

What stands on the page is decided in `page.py`.
"""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass, field
from pathlib import Path

from ..runs import write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #22272e; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #e3e7eb; padding-bottom: .25rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #e3e7eb; font-variant-numeric: tabular-nums; }
th { color: #4a545e; font-weight: 600; } figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; }
figcaption, .note { font-size: .875rem; color: #4a545e; } code { font-size: .875em; }
""".strip()


@dataclass
class Page:
    """A page in the making. Texts are plain, without markup; what is added stands in the order of adding."""

    title: str
    blocks: list[tuple] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self.blocks.append(("heading", text))

    def text(self, text: str) -> None:
        self.blocks.append(("text", text))

    def items(self, texts: list[str]) -> None:
        if texts:
            self.blocks.append(("items", texts))

    def table(self, rows: list[dict], note: str = "") -> None:
        """Rows that have the same columns; columns that are empty throughout are left out. `note` stands below in small
        print."""
        columns = [name for name in (rows[0] if rows else ()) if any(row[name] not in (None, "") for row in rows)]
        if columns:
            cells = [["" if row[name] is None else str(row[name]) for name in columns] for row in rows]
            self.blocks.append(("table", columns, cells, note))

    def picture(self, png: Path, caption: str, alt: str) -> None:
        self.blocks.append(("picture", png, caption, alt))

    def write(self, folder: Path) -> Path:
        """Write report.md and report.html into `folder`, atomically; returns the HTML file's path. Pictures must lie
        under `folder`."""
        write_text(
            folder / "report.md",
            "\n\n".join([f"# {self.title}", *(_markdown(block, folder) for block in self.blocks)]) + "\n",
        )
        body = "\n".join([f"<h1>{html.escape(self.title)}</h1>", *map(_html, self.blocks)])
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(self.title)}</title><style>{STYLE}</style>'
        return write_text(
            folder / "report.html",
            f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n',
        )


def _markdown(block: tuple, folder: Path) -> str:
    kind, *rest = block
    if kind == "heading":
        return f"## {rest[0]}"
    if kind == "text":
        return rest[0]
    if kind == "items":
        return "\n".join(f"- {text}" for text in rest[0])
    if kind == "picture":
        png, caption, alt = rest
        return f"![{alt}]({Path(png).relative_to(folder).as_posix()})\n\n*{caption}*"
    columns, cells, note = rest
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in (columns, *cells)]
    lines.insert(1, "|" + "---|" * len(columns))
    return "\n".join(lines) + (f"\n\n{note}" if note else "")


def _html(block: tuple) -> str:
    kind, *rest = block
    say = html.escape
    if kind == "heading":
        return f"<h2>{say(rest[0])}</h2>"
    if kind == "text":
        return f"<p>{say(rest[0])}</p>"
    if kind == "items":
        return "<ul>" + "".join(f"<li>{say(text)}</li>" for text in rest[0]) + "</ul>"
    if kind == "picture":
        png, caption, alt = rest
        data = base64.b64encode(Path(png).read_bytes()).decode()
        return f'<figure><img src="data:image/png;base64,{data}" alt="{say(alt)}"><figcaption>{say(caption)}</figcaption></figure>'
    columns, cells, note = rest
    head = "".join(f"<th>{say(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{say(text)}</td>" for text in row) + "</tr>" for row in cells)
    small = f'<p class="note">{say(note)}</p>' if note else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{small}'
