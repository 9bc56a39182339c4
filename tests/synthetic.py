"""A repository of tiny notebooks without torch, for the tests of rerun and book, and a job that does anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from earlib.jobs.queue import Task

PARAMETERS = "count = 3  # how many\nrate = 0.5  # a share\nname = 'church'"


def write_notebook(path: Path, *code: str, parameters: str | None = PARAMETERS, title: str = "# A title") -> Path:
    cells = [new_markdown_cell(title)]
    if parameters is not None:
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [new_code_cell(source) for source in code]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


def write_manifest(root: Path, *entries: dict, **more) -> None:
    (root / "book").mkdir(exist_ok=True)
    notebooks = [{"path": f"notebooks/{entry['name']}.ipynb", **entry} for entry in entries]
    (root / "book" / "manifest.yml").write_text(yaml.safe_dump({"notebooks": notebooks, **more}))


def edit_notebook(path: Path, change) -> None:
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)


@dataclass(frozen=True)
class Does(Task):
    """The job that calls `what`. It stands here as a job imports the file of its class."""

    what: Callable = field(compare=False)

    def work(self):
        return self.what()


def colab_url(path: str, root: Path) -> str:
    """Where Colab opens `path`: the address is the one in _config.yml, and nowhere else."""
    repository = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
    place = repository["url"].removeprefix("https://github.com/").rstrip("/")
    return f"https://colab.research.google.com/github/{place}/blob/{repository['branch']}/{path}"
