"""A notebook as a page of the book: its source with the outputs of the executed copy, its answer first."""

from __future__ import annotations

from .typeset import one_heading, whole
from .words import HEADING, SHORT

WIDGET = "application/vnd.jupyter.widget-view+json"


def merge(source, executed):
    """The source notebook with the executed one's outputs, fit for a page. Both are nbformat notebooks; returns a new
    one.

    Taken out: widget views and widget state, papermill's metadata, cells tagged `setup`. Parameters that were injected
    stay, folded away. What a cell with a captioned figure shows besides gets a cell of its own below: else the page
    would put the caption under each of its outputs.
    """
    import nbformat

    ran = [cell for cell in executed.cells if cell.cell_type == "code"]
    injected = [cell for cell in ran if "injected-parameters" in cell.metadata.get("tags", [])]
    others = iter([cell for cell in ran if cell not in injected])
    page = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    for cell in source.cells:
        cell = nbformat.from_dict(cell)
        tags = list(cell.metadata.get("tags", []))
        page.cells.append(cell)
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in next(others).outputs if WIDGET not in output.get("data", {})]
        for data in (output["data"] for output in cell.outputs if "text/html" in output.get("data", {})):
            data["text/html"] = whole(one_heading(data["text/html"]))
        if "setup" in tags:
            tags.append("remove-cell")
        cell.metadata = {
            "tags": list(dict.fromkeys(tags)),
            **{k: v for k, v in cell.metadata.items() if k == "mystnb"},
        }  # mystnb: captions, alt texts
        if "figure" in cell.metadata.get("mystnb", {}):
            beside = [output for output in cell.outputs if not _is_picture(output)]
            cell.outputs = [output for output in cell.outputs if _is_picture(output)]
            if beside:
                source = "# what the cell above shows besides"  # a cell without any is left out of the page
                more = nbformat.v4.new_code_cell(source, outputs=beside, metadata={"tags": ["remove-input"]})
                page.cells.append(more)
        if "parameters" in tags:
            for extra in injected:
                page.cells.append(
                    nbformat.v4.new_code_cell(extra.source, metadata={"tags": ["injected-parameters", "hide-input"]})
                )
    answer_first(page)
    return page


def answer_first(page) -> None:
    """Move what the cell tagged `in-short` shows to just below the title and the link to Colab, as a box, with the
    figure that it names; in place. The figure stands where it is explained, too, and keeps its caption and number
    there."""
    import nbformat

    answers = [cell for cell in page.cells if SHORT in cell.metadata.get("tags", [])]
    shown = [output for cell in answers for output in cell.outputs if "text/markdown" in output.get("data", {})]
    page.cells = [cell for cell in page.cells if cell not in answers]
    if not shown:
        return
    text, name = shown[-1].data["text/markdown"].removeprefix(HEADING).strip(), shown[-1].metadata["figure"]
    title, link, *introduction = page.cells[0].source.split("\n\n")
    page.cells[0].source = f"{title}\n\n{link}"
    box = f":::{{admonition}} In short\n:class: in-short\n\n{text}\n\nThe figure is {{numref}}`{name}`.\n\n:::"
    first = [nbformat.v4.new_markdown_cell(box)]
    for cell in page.cells:
        about = cell.metadata.get("mystnb", {})
        if about.get("figure", {}).get("name") == name:
            looks = {"tags": ["remove-input"], "mystnb": {"image": about["image"]}}
            # a cell without any source is left out of the page
            first.append(nbformat.v4.new_code_cell("# the figure", outputs=cell.outputs, metadata=looks))
    if introduction:
        first.append(nbformat.v4.new_markdown_cell("\n\n".join(introduction)))
    page.cells[1:1] = first


def _is_picture(output) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))
