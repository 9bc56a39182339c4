"""Results on one page: the first sentence of each chapter's answer, as this build computed it, with a link to it, and
one chapter's figure."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from .. import ROOT
from .words import HEADING, SHORT

RESULTS_MARK = "<!-- results -->"  # book/results.md has this line where the list goes
FIGURE = "pareto"  # the notebook whose answer's figure the page shows
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")


def results(profile: str, folder: Path, root: Path = ROOT) -> str:
    """The list in Markdown, in the parts and the order of the table of contents; chapters without an answer are left
    out. The figure's file is written into `folder`, where the page stands."""
    import nbformat
    import yaml

    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    of = lambda file, there: there / f"{file}.ipynb"
    executed, shown = root / "_build" / "executed" / profile, f"notebooks/{FIGURE}"
    lines = [figure(of(shown, executed), of(shown, root), folder)]
    for part in contents.get("parts", [contents]):
        found = []
        for chapter in part.get("chapters", []):
            path = of(chapter["file"], executed)
            if path.exists() and (sentence := answer(nbformat.read(path, as_version=4))):
                title = _title(nbformat.read(of(chapter["file"], root), as_version=4))
                found.append(f"- {sentence} [{title}](../{chapter['file']}.ipynb)")
        lines += [f"## {part['caption']}", "", *found, ""] if found and "caption" in part else found
    return "\n".join(lines) + "\n"


def figure(executed: Path, source: Path, folder: Path) -> str:
    """A figure directive with the picture that the answer of a notebook names; its alternative text and caption are the
    source's, which may have been edited since it ran. "" where there is none."""
    import nbformat

    if not executed.exists():
        return ""
    ran, now = (nbformat.read(file, as_version=4).cells for file in (executed, source))
    names = [o.metadata["figure"] for cell in ran for o in cell.get("outputs", []) if "figure" in o.get("metadata", {})]
    of_it = lambda cells: [c for c in cells if c.metadata.get("mystnb", {}).get("figure", {}).get("name") in names[-1:]]
    pictures = [o.data["image/png"] for c in of_it(ran) for o in c.outputs if "image/png" in o.get("data", {})]
    if not pictures or not (about := [cell.metadata["mystnb"] for cell in of_it(now)]):
        return ""
    (folder / "results.png").write_bytes(base64.b64decode(pictures[0]))
    alt, caption = about[0]["image"]["alt"].replace("\n", " "), about[0]["figure"]["caption"]
    return f"```{{figure}} results.png\n:alt: {alt}\n:width: 100%\n\n{caption}\n```\n"


def answer(executed) -> str:
    """The first sentence of what an executed notebook's cell tagged `in-short` shows, its links as seen from book/; ""
    without such a cell."""
    for cell in reversed(executed.cells):
        if SHORT in cell.metadata.get("tags", []):
            for output in cell.get("outputs", []):
                text = output.get("data", {}).get("text/markdown", "").removeprefix(HEADING).strip()
                if text:
                    return LINK.sub(_from_book, output.metadata["first"])
    return ""


def _from_book(link: re.Match) -> str:
    """A link of a page in notebooks/ as one of a page in book/."""
    place = link[1]
    return f"]({place.removeprefix('../book/') if place.startswith('../book/') else f'../notebooks/{place}'})"


def _title(notebook) -> str:
    return notebook.cells[0].source.splitlines()[0].lstrip("# ").strip()
