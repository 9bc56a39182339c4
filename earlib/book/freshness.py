"""When a notebook has to run again: the key of a run is a hash of whatever its result depends on.

    the notebook's code cells and its parameters (its prose is not)
    the core of earlib (CORE), and what the notebook imports besides, with what that imports: its own chapter and panels
    data/ but the tables of sweeps; of these the tables that the manifest names, with what book/sweeps.yml asks for them
    the files that the manifest names under `reads`
    the versions of the libraries

So a changed figure of one chapter runs one notebook again, and a changed core all of them.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .. import ROOT
from .manifest import SWEEPS, Entry

# folders of earlib that every notebook stands on; so do the files beside them, but for the command line
CORE = ("generators", "erasure", "evaluate")
COMMAND_LINE = ("__main__.py", "arguments.py", "flags.py", "doctor.py")
PACKAGES = ("earlib", "benchmarks")
LIBRARIES = ("torch", "transformers", "numpy", "open-clip-torch", "torch-fidelity", "matplotlib", "seaborn")


def run_key(entry: Entry, values: dict, shared: str, root: Path = ROOT) -> str:
    """The key of a notebook's run.

    Args:
        entry: its entry of the manifest.
        values: its parameters.
        shared: what `shared_hash` gives.
        root: the repository.

    Returns:
        str: 16 hex digits that change whenever the result could.
    """
    import nbformat
    import yaml

    root = Path(root)
    code = [cell.source for cell in nbformat.read(root / entry.path, as_version=4).cells if cell.cell_type == "code"]
    files = closure(imported(_without_magics("\n".join(code)), root), root)
    tables = {root / SWEEPS / f"{table}.jsonl" for table in entry.tables}
    files |= {table for table in tables if table.is_file()} | {root / file for file in entry.reads}
    parts = [code, values, shared, _files_hash(files, root)]
    if entry.tables:
        asked = yaml.safe_load((root / "book" / "sweeps.yml").read_text(encoding="utf-8")) or {}
        parts.append({table: asked.get(table) for table in entry.tables})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def shared_hash(root: Path = ROOT) -> str:
    """A hash of what every notebook's result depends on: the core and what it imports, data/ but the tables of sweeps,
    the versions of the libraries."""
    from importlib import metadata

    versions = [f"python {sys.version_info[0]}.{sys.version_info[1]}"]
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            pass
    root = Path(root)
    data = {file for file in root.glob("data/**/*") if file.is_file() and root / SWEEPS not in file.parents}
    return hashlib.sha256(json.dumps([versions, _files_hash(core(root) | data, root)]).encode()).hexdigest()


def core(root: Path = ROOT) -> set[Path]:
    """The files of the core and whatever they import."""
    files = {file for folder in CORE for file in (root / "earlib" / folder).rglob("*.py")}
    files |= {file for file in (root / "earlib").glob("*.py") if file.name not in COMMAND_LINE}
    return closure(files, root)


def closure(files: Iterable[Path], root: Path = ROOT) -> set[Path]:
    """`files` and what they import of PACKAGES, wherever in them, and what that imports, and so on."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imports_of(file, root, file.stat().st_mtime_ns)
    return found


@cache
def _imports_of(file: Path, root: Path, changed: int) -> frozenset[Path]:
    package = file.relative_to(root).parent.parts
    return frozenset(imported(file.read_text(encoding="utf-8"), root, package))


def imported(source: str, root: Path = ROOT, package: tuple[str, ...] = ()) -> set[Path]:
    """The files of PACKAGES that Python `source` imports anywhere; `package` is the one that it lies in, as `..x` means
    something in a package only. UserError is not raised: what is no Python imports nothing."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            home = (*base, *(node.module.split(".") if node.module else ()))
            names |= {home} | {(*home, alias.name) for alias in node.names}  # a module, or a name in one
    files = set()
    for name in names:
        if name and name[0] in PACKAGES:
            for depth in range(1, len(name) + 1):  # importing a.b.c runs a and a.b too
                place = root.joinpath(*name[:depth])
                files |= {file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()}
    return files


def _without_magics(source: str) -> str:
    """IPython's own lines (`%matplotlib`, `!pip`) are no Python."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M)


def _files_hash(files: Iterable[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
