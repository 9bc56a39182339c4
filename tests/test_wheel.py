"""An installed earlib: the wheel holds the library and what ships, and works from any folder without a checkout."""

import os
import subprocess
import sys
import zipfile

import pytest

from earlib import ROOT, __version__


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel unpacked, as `pip install --no-deps --target` would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = folder.glob("*.whl")
    assert wheel.name == f"earlib-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def earlib_in(folder, installed, command):
    """Run a command of the installed copy in `folder`."""
    env = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "earlib", *command.split()]
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_the_wheel_holds_the_library_and_nothing_else(installed):
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"earlib"}
    assert (installed / "earlib" / "data" / "mini" / "janus" / "model.safetensors").is_file()
    assert (installed / "earlib" / "data" / "sweeps" / "main.jsonl").is_file()
    assert not [path for path in installed.rglob("*") if path.suffix == ".ipynb" or path.name.startswith("test_")]
    [scripts] = installed.glob("*.dist-info/entry_points.txt")
    assert "earlib = earlib.__main__:main" in scripts.read_text()


@pytest.mark.parametrize("command", ["sweep nonsense", "rerun", "book"])
def test_an_installed_earlib_is_never_written(command, installed, tmp_path):
    """What works in the repository only says so, and where to get it, in one line."""
    before = {path for path in installed.rglob("*") if "__pycache__" not in path.parts}
    done = earlib_in(tmp_path, installed, command)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout, done.stdout + done.stderr
    assert (
        f"an installed copy, {installed / 'earlib'}; clone the repository and do it there: git clone h" in done.stderr
    )
    assert not [*tmp_path.iterdir()]
    assert before == {path for path in installed.rglob("*") if "__pycache__" not in path.parts}


def test_an_installed_earlib_draws_from_any_folder(installed, tmp_path):
    before = {path for path in installed.rglob("*") if "__pycache__" not in path.parts}
    (tmp_path / "prompts.txt").write_text("a red church on a hill\n")
    done = earlib_in(tmp_path, installed, "generate --model mini --device cpu --prompts prompts.txt --out out")
    assert done.returncode == 0 and (tmp_path / "out" / "a-red-church-on-a-hill.png").is_file(), done.stderr
    assert before == {path for path in installed.rglob("*") if "__pycache__" not in path.parts}
