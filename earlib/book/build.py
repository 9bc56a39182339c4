"""Stage the executed notebooks beside the prose, write the generated pages, and build the HTML. Running the notebooks
is rerun.py's.

The book is built from _build/stage, a tree of the repository's own shape in which every notebook has its outputs: so
the Colab links of its pages open the clean notebooks of the repository. Prose always comes from the source; only
outputs come from the executed copy.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from .. import ROOT
from ..errors import UserError
from ..runs import collect, waiting, write_text
from .cards import CARDS_MARK, cards_table
from .choice import (
    ATTACKS_MARK,
    CHOICE_MARK,
    FACTOR_MARK,
    MERGE_MARK,
    WEIGHTS_MARK,
    attacks_table,
    choice_table,
    factor_sentence,
    merge_section,
    weights_sentence,
)
from .claims import CLAIMS_MARK, claims_list
from .leaderboard import LEADERBOARD_MARK, leaderboard
from .manifest import load_manifest, select
from .merge import merge
from .reading import faults
from .rerun import broken, default_jobs, rerun
from .results import RESULTS_MARK, results
from .work import WORK_MARK, work_table

COPIED = ("_config.yml", "_toc.yml", "_static", "book", "CONTRIBUTING.md", "earlib")  # earlib: pages quote its lines


def clear(root: Path = ROOT) -> list[Path]:
    """Take outputs, execution counts and other tools' metadata out of every notebook in notebooks/, in place. Returns
    those that changed."""
    import nbformat

    changed = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(before, as_version=4)
        keep = ("kernelspec", "accelerator", "colab")  # Colab's: which machine to start
        notebook.metadata = {k: v for k, v in notebook.metadata.items() if k in keep}
        notebook.metadata["language_info"] = {"name": "python"}
        for cell in notebook.cells:
            cell.metadata = {k: v for k, v in cell.metadata.items() if k in ("tags", "cellView", "mystnb")}
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        after = nbformat.writes(notebook, indent=1) + "\n"
        if after != before:
            changed.append(write_text(path, after))
    return changed


def stage(profile: str = "mini", root: Path = ROOT) -> Path:
    """Make _build/stage anew: prose, settings, executed notebooks, generated pages. Raises UserError for a notebook
    that was not executed."""
    import nbformat
    import yaml

    folder = root / "_build" / "stage"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (root / name).exists():
            shutil.copy2(root / name, folder / name)
    for entry in select(load_manifest(root), profile):
        executed = root / "_build" / "executed" / profile / entry.path
        if not executed.exists():
            raise UserError(
                f"{entry.path}: has not been run on '{profile}': python -m earlib rerun --profile {profile}"
            )
        page = merge(nbformat.read(root / entry.path, as_version=4), nbformat.read(executed, as_version=4))
        write_text(folder / entry.path, nbformat.writes(page))
    claims_file, page_file = root / "book" / "claims.yml", folder / "book" / "claims.md"
    if claims_file.exists() and page_file.exists():
        page = page_file.read_text(encoding="utf-8")
        if CLAIMS_MARK not in page:
            raise UserError(f"book/claims.md: has no line {CLAIMS_MARK}, where the list goes")
        claims = yaml.safe_load(claims_file.read_text(encoding="utf-8")) or []
        write_text(
            page_file,
            page.replace(CLAIMS_MARK, claims_list(collect(root / "runs" / profile), claims, profile == "mini")),
        )
    generated = [
        ("janus_pro", CHOICE_MARK, choice_table),
        ("janus_pro", ATTACKS_MARK, attacks_table),
        ("janus_pro", FACTOR_MARK, lambda: factor_sentence(root / "runs" / profile)),
        ("janus_pro", MERGE_MARK, merge_section),
        ("janus_pro", WEIGHTS_MARK, weights_sentence),
        ("janus_pro", CARDS_MARK, cards_table),
        ("janus_pro", WORK_MARK, lambda: work_table(root)),
        ("leaderboard", LEADERBOARD_MARK, leaderboard),
        ("results", RESULTS_MARK, lambda: results(profile, folder / "book", root)),
    ]
    for name, mark, made in generated:
        file = folder / "book" / f"{name}.md"
        if file.exists() and mark in (text := file.read_text(encoding="utf-8")):
            write_text(file, text.replace(mark, made()))
    return folder


def render(folder: Path, root: Path = ROOT) -> Path:
    """Build the HTML from a staged tree; every warning is an error. Returns the path of index.html, raises UserError
    with the first warning."""
    # jupyter_book has no __main__; the API page imports earlib, wherever `root` is
    code = f"import sys; sys.path.append({str(ROOT)!r}); from jupyter_book.cli.main import main; main()"
    flags = [
        "--path-output",
        str(root),
        "-n",
        "-W",
        "--keep-going",
        "--all",
    ]  # --all: a page that is not read again would hide its warnings
    command = [sys.executable, "-c", code, "build", str(folder), *flags]
    done = subprocess.run(
        command, cwd=root, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    log = write_text(root / "_build" / "book.log", done.stdout)
    index = root / "_build" / "html" / "index.html"
    if done.returncode or not index.exists():
        plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        said = [line for line in plain.splitlines() if re.search(r"WARNING|ERROR|Error:", line)] or plain.splitlines()[
            -1:
        ]
        print("\n".join(said), file=sys.stderr)
        raise UserError(f"the book was not built, {len(said)} warning(s) or error(s); the log is {log}")
    return index


def build(profile: str = "mini", root: Path = ROOT) -> Path:
    """Run what is not up to date, stage, build. Prints and returns the path of index.html; a notebook that fails stops
    it and is named."""
    statuses = rerun(profile, root=root, stop=True, jobs=default_jobs(profile))
    if line := broken(statuses):
        raise UserError(f"the book stops here: {line}")
    return html_of(profile, root)


def html_of(profile: str, root: Path = ROOT) -> Path:
    """The book of notebooks that have run already, whoever ran them. Prints and returns the path of index.html.

    Raises:
        UserError: a notebook of the table of contents has not been run, or does not run in `profile`.
    """
    if names := lacking(profile, root):
        raise UserError(
            f"no book of '{profile}': {len(names)} of its notebooks do not run in it, {names[0]} among them"
        )
    print("building the HTML ...", flush=True)
    with waiting("still building the HTML"):
        index = render(stage(profile, root), root)
    if found := faults(index.parent):
        print("\n".join(found), file=sys.stderr)
        raise UserError(f"the book at {index} has {len(found)} fault(s) that a reader would stumble on, listed above")
    print(f"the book: {index}", flush=True)
    return index


def lacking(profile: str, root: Path = ROOT) -> list[str]:
    """Notebooks of the table of contents that do not run in `profile`: its book cannot be built."""
    contents = (root / "_toc.yml").read_text(encoding="utf-8")
    entries = load_manifest(root)
    there = select(entries, profile)
    return [e.name for e in entries if e not in there and e.path.removesuffix(".ipynb") in contents]
