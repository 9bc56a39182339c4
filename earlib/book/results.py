"""Results on one page: the first sentence of each chapter's answer, as this build computed it, with a link to it, and
one chapter's figure."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from .. import ROOT
from .words import HEADING, SHORT

RESULTS_MARK = "<!-- results -->"  # book/results.md has this line where the list goes
FIGURE = "15_pareto"  # the notebook whose answer's figure the page shows
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")


def results(profile: str, folder: Path, root: Path = ROOT) -> str:
    """The list in Markdown, in the parts and the order of the table of contents; chapters without an answer are left
    out. The figure's file is written into `folder`, where the page stands."""
    import nbformat
    import yaml

    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    lines = [figure(root / "_build" / "executed" / profile / "notebooks" / f"{FIGURE}.ipynb", folder)]
    for part in contents.get("parts", [contents]):
        found = []
        for chapter in part.get("chapters", []):
            path = root / "_build" / "executed" / profile / f"{chapter['file']}.ipynb"
            if path.exists() and (sentence := answer(nbformat.read(path, as_version=4))):
                title = _title(nbformat.read(root / f"{chapter['file']}.ipynb", as_version=4))
                found.append(f"- {sentence} [{title}](../{chapter['file']}.ipynb)")
        lines += [f"## {part['caption']}", "", *found, ""] if found and "caption" in part else found
    return "\n".join(lines) + "\n"


def figure(executed: Path, folder: Path) -> str:
    """A figure directive with the picture that the answer of a notebook names, its own alternative text and caption; ""
    where there is none."""
    import nbformat

    cells = nbformat.read(executed, as_version=4).cells if executed.exists() else []
    shown = [output for cell in cells for output in cell.get("outputs", []) if "figure" in output.get("metadata", {})]
    for cell in cells:
        about = cell.metadata.get("mystnb", {})
        for output in cell.get("outputs", []) if "figure" in about else []:
            png = output.get("data", {}).get("image/png")
            if png and shown and about["figure"].get("name") == shown[-1].metadata["figure"]:
                (folder / "results.png").write_bytes(base64.b64decode(png))
                alt = about["image"]["alt"].replace("\n", " ")
                caption = about["figure"]["caption"]
                return f"```{{figure}} results.png\n:alt: {alt}\n:width: 100%\n\n{caption}\n```\n"
    return ""


def answer(executed) -> str:
    """The first sentence of what an executed notebook's cell tagged `in-short` shows, its links as seen from book/; ""
    without such a cell."""
    for cell in reversed(executed.cells):
        if SHORT in cell.metadata.get("tags", []):
            for output in cell.get("outputs", []):
                text = output.get("data", {}).get("text/markdown", "").removeprefix(HEADING).strip()
                if text:
                    first = output.metadata.get("first") or re.split(r"(?<=[.!?])\s+(?=[A-Z`*])", text)[0]
                    return LINK.sub(_from_book, first)
    return ""


def _from_book(link: re.Match) -> str:
    """A link of a page in notebooks/ as one of a page in book/."""
    place = link[1]
    return f"]({place.removeprefix('../book/') if place.startswith('../book/') else f'../notebooks/{place}'})"


def _title(notebook) -> str:
    return notebook.cells[0].source.splitlines()[0].lstrip("# ").strip()
