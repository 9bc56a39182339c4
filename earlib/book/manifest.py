"""What book/manifest.yml asks for: which notebook runs in which profile, with which parameters, checked. `rerun.py`
runs them."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

from .. import ROOT
from ..errors import UserError, nearest

MANIFEST = "book/manifest.yml"
ALWAYS = ("mini", "test")  # profiles that every notebook runs in; it takes part in another one only if it names it
SWEEPS = "data/sweeps"


@dataclass(frozen=True)
class Entry:
    """One notebook of the manifest."""

    name: str  # how it is called: the file's stem
    path: str  # relative to the repository's root
    minutes: float = 1.0  # what it costs on `mini` with two cores, for the reader and for Slurm's time limit
    parameters: dict = field(default_factory=dict)  # set in every profile
    profiles: dict = field(default_factory=dict)  # profile -> parameters set there
    timeout: float = 900.0  # seconds that one cell may take
    alone: bool = False  # it measures time: nothing runs beside it
    tables: list = field(
        default_factory=list
    )  # of data/sweeps that it reads: it runs again when one of them changes, others do not
    reads: list = field(default_factory=list)  # other files that it reads, relative to the root: so do they
    slurm: dict = field(default_factory=dict)  # options of sbatch: {time: "4:00:00", mem: "64G", ...}


def load_manifest(root: Path = ROOT, manifest: str = MANIFEST) -> list[Entry]:
    """The manifest's notebooks. Raises UserError for anything in it that is unknown, missing or of a wrong type."""
    import yaml

    file = Path(root) / manifest
    if not file.exists():
        raise UserError(f"{manifest}: there is no such manifest in {root}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{manifest}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not isinstance(content.get("notebooks"), list):
        raise UserError(f"{manifest}: must hold `notebooks:`, a list of {{name, path, ...}}")
    planned: set[str] = set()  # a table that is asked for may be measured later
    if (sweeps := file.with_name("sweeps.yml")).is_file():
        planned |= set(yaml.safe_load(sweeps.read_text(encoding="utf-8")) or ())
    shared = {key: content[key] for key in ("timeout", "slurm") if key in content}
    if unknown := set(content) - {"notebooks", *shared}:
        raise UserError(
            f"{manifest}: unknown field '{min(unknown)}': {nearest(min(unknown), ['notebooks', 'timeout', 'slurm'])}"
        )
    entries: list[Entry] = []
    fields = Entry.__dataclass_fields__
    for number, item in enumerate(content["notebooks"], 1):
        if not isinstance(item, dict) or not {"name", "path"} <= set(item):
            raise UserError(f"{manifest}: notebook {number} needs a name and a path")
        if unknown := set(item) - set(fields):
            raise UserError(
                f"{manifest}: notebook '{item['name']}' has an unknown field '{min(unknown)}': "
                f"{nearest(min(unknown), fields)}"
            )
        entry = Entry(**{**shared, **{k: v for k, v in item.items() if v is not None}})
        if not all(isinstance(d, dict) for d in (entry.parameters, entry.profiles, entry.slurm)):
            raise UserError(f"{manifest}: notebook '{entry.name}': parameters, profiles and slurm are mappings")
        for table in entry.tables:
            if table not in planned and not (Path(root) / SWEEPS / f"{table}.jsonl").is_file():
                raise UserError(f"{manifest}: notebook '{entry.name}' reads a table that nobody plans: '{table}'")
        for file in entry.reads:
            if not (Path(root) / file).is_file():
                raise UserError(f"{manifest}: notebook '{entry.name}' reads a file that is not there: {file}")
        if not (Path(root) / entry.path).is_file():
            raise UserError(f"{manifest}: notebook '{entry.name}' is not there: {entry.path}")
        if entry.name in {e.name for e in entries}:
            raise UserError(f"{manifest}: two notebooks are called '{entry.name}'")
        entries.append(entry)
    return entries


def select(entries: list[Entry], profile: str, only=()) -> list[Entry]:
    """The notebooks that `profile` runs, or those named. Raises UserError for an unknown profile or name."""
    profiles = {*ALWAYS, *(p for entry in entries for p in entry.profiles)}
    if profile not in profiles:
        raise UserError(f"unknown profile '{profile}': {nearest(profile, profiles)}")
    taking_part = {e.name: e for e in entries if profile in ALWAYS or profile in e.profiles}
    for name in only:
        if name not in taking_part:
            raise UserError(f"no notebook '{name}' in profile '{profile}': {nearest(name, taking_part)}")
    return [entry for name, entry in taking_part.items() if not only or name in only]


def parameters(entry: Entry, profile: str, root: Path = ROOT) -> dict:
    """What to inject into the notebook, checked against its own parameters cell.

    papermill only warns of a name that the notebook does not know, and takes a string for a number: both are a
    UserError here.
    """
    import papermill

    try:
        known = papermill.inspect_notebook(str(Path(root) / entry.path))
    except ValueError as error:  # broken JSON, or metadata that names no language
        raise UserError(f"{entry.path}: is no Python notebook ({' '.join(str(error).split())})") from None
    given = {**entry.parameters, **(entry.profiles.get(profile) or {})}
    for name, value in given.items():
        if name not in known:
            hint = nearest(name, known) if known else "its `parameters` cell has none"
            raise UserError(f"{entry.path}: has no parameter '{name}' (profile '{profile}'): {hint}")
        try:
            default = ast.literal_eval(known[name]["default"])
        except (ValueError, SyntaxError):
            continue  # the default is an expression: its type is not known before it runs
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            given[name] = float(value)
        elif default is not None and type(value) is not type(default):
            mend = (
                " (YAML reads 1e-4 as text: write 1.0e-4)"
                if isinstance(value, str) and isinstance(default, float)
                else ""
            )
            raise UserError(
                f"{entry.path}: parameter '{name}' must be a {type(default).__name__} like {default!r}, "
                f"not {value!r}{mend}"
            )
    return given
