"""The house: rooms import one way, files make no circle and stay readable, what is promised to installers is
one list."""

import ast
import importlib
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import earlib
from earlib import ROOT
from earlib.arguments import parser
from earlib.book.docstrings import to_rst

# from the ground up: a room imports from rooms of its own level or below
LEVELS = (
    ("errors", "runs", "concepts", "prompts", "device", "memory", "jobs", ""),
    ("generators",),
    ("miniworld", "erasure"),
    ("evaluate",),
    ("sweeps",),
    ("plots",),
    ("pairs",),
    ("chapters",),
    ("book",),
    ("flags", "arguments", "doctor", "__main__"),
)
LONGEST = 350  # lines of a file


def module_of(file: Path) -> str:
    """`erasure.train` of earlib/erasure/train.py; `erasure` of its __init__."""
    return ".".join(file.relative_to(ROOT / "earlib").with_suffix("").parts).removesuffix("__init__").rstrip(".")


FILES = {module_of(file): file for file in sorted((ROOT / "earlib").rglob("*.py"))}


def imports(module: str) -> set[str]:
    """Modules of earlib that a file imports, at its head or inside functions; not those for annotations alone."""
    file = FILES[module]
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    skipped = {id(inner) for node in typing for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in skipped:
            continue
        if node.level:
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
        elif (node.module or "").split(".")[0] == "earlib":
            base = node.module.removeprefix("earlib").lstrip(".")
        else:
            continue
        for name in node.names:
            inner = f"{base}.{name.name}".lstrip(".")
            found.add(inner if inner in FILES else base)
    return found - {module}


def level_of(module: str) -> int:
    room = module.split(".")[0]
    return next(i for i, rooms in enumerate(LEVELS) if room in rooms)


def test_rooms_import_one_way():
    back = {
        f"{module} -> {other}" for module in FILES for other in imports(module) if level_of(other) > level_of(module)
    }
    assert not back


def test_no_circles_between_files():
    graph = {module: {other for other in imports(module) if other} for module in FILES if module}
    seen: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]):
        if module in path:
            pytest.fail("circle: " + " -> ".join([*path[path.index(module) :], module]))
        if module not in seen:
            for other in graph.get(module, ()):
                visit(other, (*path, module))
            seen[module] = 1

    sys.setrecursionlimit(5000)
    for module in graph:
        visit(module, ())


def test_chapters_are_imported_by_their_notebooks_only():
    inside = {f"{m} -> {o}" for m in FILES for o in imports(m) if o.startswith("chapters.")}
    assert not inside


def test_files_can_be_read_at_one_sitting():
    lengths = {
        file.relative_to(ROOT / "earlib").as_posix(): len(file.read_text().splitlines()) for file in FILES.values()
    }
    assert {name for name, lines in lengths.items() if lines > LONGEST} == set()


def test_requirements_are_the_project_s_own():
    """requirements.txt is what Colab and a checkout install: the library, the notebooks and the book, without torch
    pins."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = about["optional-dependencies"]
    wanted = {*about["dependencies"], *extras["notebooks"], *extras["book"]}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == wanted
    assert not any("==" in line for line in wanted), "lower bounds only: another torch is never forced"


@pytest.mark.parametrize("room", ["generators", "erasure", "evaluate"])
def test_public_parameters_of_the_core_are_annotated(room):
    """Functions and methods that a reader may call: not those inside others, nor private ones."""
    bare = set()
    for module in (m for m in FILES if m.split(".")[0] == room):
        body = ast.parse(FILES[module].read_text(encoding="utf-8")).body
        body += [inner for node in body if isinstance(node, ast.ClassDef) for inner in node.body]
        for function in (node for node in body if isinstance(node, ast.FunctionDef)):
            if function.name.startswith("_") and function.name != "__init__":
                continue
            given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            named = {a.arg for a in given if a.annotation is None} - {"self", "cls"}
            bare |= {f"{module}.{function.name}({name})" for name in named}
    assert not bare


DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("*.yml"), *(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.yml")]
DOCUMENTS = [file for file in DOCUMENTS if file.name not in ("CHANGELOG.md", "log.md")]  # these tell of what was


@pytest.mark.parametrize("file", [*DOCUMENTS, *(ROOT / "notebooks").glob("*.ipynb")], ids=lambda file: file.name)
def test_documents_name_files_that_exist(file):
    text = re.sub(r"(?m)^ *where: .*", "", file.read_text(encoding="utf-8"))  # files of the repository that is audited
    named = set(re.findall(r"(?<![\w/-])(?:earlib|tests|benchmarks|book|data|notebooks)/[\w./-]*\w\.\w+", text))
    assert not {path for path in named if not (ROOT / path).exists() and "NAME" not in path}
    modules = set(re.findall(r"python -m (earlib\.[\w.]*\w)", text))
    assert {module.removeprefix("earlib.") for module in modules} <= FILES.keys()


@pytest.mark.parametrize(
    "file", ["README.md", "CONTRIBUTING.md", "book/index.md", "book/cluster.md", "book/janus_pro.md"]
)
def test_documents_name_commands_that_parse(file):
    text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"python -m earlib +([a-z].*)", text)
    assert lines
    for line in lines:
        parser().parse_args(shlex.split(line.split("`")[0], comments=True))


def test_workflows_and_hooks_run_what_there_is():
    """Each command of a workflow is a target of the Makefile or a script; each tool of a hook is one of `make lint`."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    lines = []
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(file.read_text())["jobs"].values()
        lines += [step["run"] for job in jobs for step in job["steps"] if "run" in step]
        assert all(
            re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for j in jobs for step in j["steps"] if "uses" in step
        )
    assert lines
    for line in lines:
        first, *rest = line.split()
        assert (first == "make" and set(rest) <= targets) or os.access(ROOT / first, os.X_OK), line
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["entry"].split()[0] for hook in hooks} <= {f".venv/bin/{tool}" for tool in ("ruff", "mypy", "python")}


def test_public_names_are_no_rooms():
    """A room's name is taken once anything in it is imported: `earlib.evaluate` is the room, whatever it was before."""
    assert not set(earlib._HOME) & {module.split(".")[0] for module in FILES}
    assert all(getattr(earlib, name) is not None for name in earlib._HOME)


def test_the_api_page_names_what_there_is():
    """Each public name of earlib, and no module or member that is gone."""
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    assert {*re.findall(r"^   (\w+)$", page, flags=re.M), "PRESETS"} == set(earlib._HOME)
    for module, members in re.findall(r"automodule:: earlib\.([\w.]+)\n   :members:(.*)", page):
        assert module in FILES
        held = importlib.import_module(f"earlib.{module}")
        assert all(hasattr(held, name) for name in members.replace(",", " ").split())


@pytest.mark.parametrize("room", ["", "generators", "erasure", "evaluate", "sweeps", "plots", "pairs", "book"])
def test_sections_of_docstrings_can_be_read(room):
    """What goes on in Args and Raises is indented: the API page would take it for another argument."""
    broken = set()
    for module in (m for m in FILES if m.split(".")[0] == room or (not room and "." not in m)):
        for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                continue
            text = ast.get_docstring(node) or ""
            for section in re.findall(r"^(?:Args|Raises|Attributes):\n((?:    .*\n|\n)+)", text + "\n", flags=re.M):
                items = re.findall(r"^    (\S.*)", section, flags=re.M)
                broken |= {f"{module}.{node.name}: {item}" for item in items if not re.match(r"[\w*.,/ ]+: ", item)}
    assert not broken


def test_docstrings_become_restructured_text():
    lines = ["One of `a*b`, **more and h_ (a|b).", "", "    x   y", "    z", "", "Args:", "    **more: a * b"]
    shown = ["One of ``a*b``, \\*\\*more and h\\_ (a\\|b).", "", "::", "", "    x   y", "    z", "", "", "Args:"]
    assert to_rst(lines) == [*shown, "    \\*\\*more: a \\* b"]
