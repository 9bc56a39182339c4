"""Colab: its versions satisfy what earlib asks for, and the notebooks' set-up cell works from an empty folder."""

import ast
import json
import os
import subprocess
import sys
import textwrap
import tomllib
import venv

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from earlib import ROOT

IMAGE = [Requirement(line) for line in (ROOT / "tests" / "colab.txt").read_text().splitlines() if line[0] != "#"]


def test_colab_s_own_packages_stay():
    """Each satisfies the lower bound of pyproject.toml: nothing of Colab's image is replaced, torch least of all."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*about["dependencies"], *(line for extra in about["optional-dependencies"].values() for line in extra)]
    asked = {wanted.name: wanted.specifier for wanted in map(Requirement, asked)}
    for there in IMAGE:
        version = Version(min(part.version for part in there.specifier))
        assert version in asked.get(there.name, SpecifierSet()), f"{there}, and pyproject.toml has {asked[there.name]}"
    assert {"torch", "torchvision", "transformers", "numpy", "ipywidgets"} <= {there.name for there in IMAGE}


def cells() -> tuple[str, set[str]]:
    """The set-up cell, and the lines of all notebooks that import something."""
    setup, lines = set(), set()
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        code = [cell for cell in nbformat.read(file, 4).cells if cell.cell_type == "code"]
        setup |= {cell.source for cell in code if "setup" in cell.metadata.get("tags", [])}
        for cell in code:
            if "setup" not in cell.metadata.get("tags", []):
                nodes = ast.walk(ast.parse(cell.source))
                lines |= {ast.unparse(node) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))}
    [setup] = setup
    return setup, lines


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone of the repository to fetch from")
def test_the_set_up_cell_from_an_empty_folder(tmp_path):
    """A clone of this repository stands for the network, and an environment beside this one for Colab's: IPython runs
    the cell as it stands, pip has no index to fetch from, and what all notebooks import is there afterwards."""
    setup, lines = cells()
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert address in setup and "%pip install -q " in setup
    setup = setup.replace(address, ROOT.as_uri()).replace("%pip install", "%pip install --no-build-isolation")
    venv.create(tmp_path / "colab", with_pip=False)
    [site] = (tmp_path / "colab").glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("-packages")]
    (site / "image.pth").write_text("".join(f"{path}\n" for path in here))
    program = f"""
        import json, sys, types
        from importlib import metadata
        from IPython.core.interactiveshell import InteractiveShell

        sys.modules["google.colab"] = types.ModuleType("google.colab")
        before = metadata.version("torch")
        shell = InteractiveShell.instance()
        for cell in json.load(open("cells.json")):
            shell.run_cell(cell).raise_error()
        import earlib
        assert metadata.version("torch") == before and earlib.__file__.startswith({str(tmp_path)!r}), earlib.__file__
    """
    work = tmp_path / "content"
    work.mkdir()
    (work / "cells.json").write_text(json.dumps([setup, "\n".join(sorted(lines))]))
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"PIP_NO_INDEX": "1", "IPYTHONDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    python = tmp_path / "colab" / "bin" / "python"
    done = subprocess.run(
        [python, "-c", textwrap.dedent(program)], cwd=work, env=env, capture_output=True, text=True, timeout=300
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "rror" not in said, said
    assert (work / "book-of-erasure" / "earlib").is_dir()
    assert [*site.glob("earlib-*.dist-info")], "installed"
