"""A page of headings, paragraphs, tables and pictures, written twice: as Markdown beside its pictures, and as one
self-contained HTML file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from ..runs import write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #22272e; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #e3e7eb; padding-bottom: .25rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #e3e7eb;
  font-variant-numeric: tabular-nums; }
th { color: #4a545e; font-weight: 600; } figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; }
figcaption, .note { font-size: .875rem; color: #4a545e; } code { font-size: .875em; }
""".strip()


class Page:
    """A page in the making, in `folder`, under which its pictures lie. Texts are plain, without markup; what is added
    stands in the order of adding."""

    def __init__(self, title: str, folder: Path):
        self.title, self.folder = title, folder
        self.markdown = [f"# {title}"]
        self.html = [f"<h1>{html.escape(title)}</h1>"]

    def _add(self, markdown: str, markup: str) -> None:
        self.markdown.append(markdown)
        self.html.append(markup)

    def heading(self, text: str) -> None:
        self._add(f"## {text}", f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        self._add(text, f"<p>{html.escape(text)}</p>")

    def items(self, texts: Sequence[str]) -> None:
        if texts:
            listed = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
            self._add("\n".join(f"- {text}" for text in texts), f"<ul>{listed}</ul>")

    def table(self, rows: Sequence[dict], note: str = "") -> None:
        """Rows that have the same columns; columns that are empty throughout are left out. `note` stands below in small
        print."""
        columns = [name for name in (rows[0] if rows else ()) if any(row[name] not in (None, "") for row in rows)]
        if not columns:
            return
        cells = [["" if row[name] is None else str(row[name]) for name in columns] for row in rows]
        lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in (columns, *cells)]
        lines.insert(1, "|" + "---|" * len(columns))
        row_of = lambda tag, texts: "<tr>" + "".join(f"<{tag}>{html.escape(t)}</{tag}>" for t in texts) + "</tr>"
        body = "".join(row_of("td", row) for row in cells)
        table = f'<div class="wide"><table><thead>{row_of("th", columns)}</thead><tbody>{body}</tbody></table></div>'
        small = f'<p class="note">{html.escape(note)}</p>' if note else ""
        self._add("\n".join(lines) + (f"\n\n{note}" if note else ""), table + small)

    def picture(self, png: Path, caption: str, alt: str) -> None:
        data = base64.b64encode(Path(png).read_bytes()).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}">'
        self._add(
            f"![{alt}]({Path(png).relative_to(self.folder).as_posix()})\n\n*{caption}*",
            f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>",
        )

    def write(self) -> Path:
        """Write report.md and report.html, atomically; returns the HTML file's path."""
        write_text(self.folder / "report.md", "\n\n".join(self.markdown) + "\n")
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        head += f"<title>{html.escape(self.title)}</title><style>{STYLE}</style>"
        body = "\n".join(self.html)
        page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
        return write_text(self.folder / "report.html", page)
