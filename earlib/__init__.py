"""Erasing concepts from autoregressive image models: public names, nothing else.

Everything heavy is loaded when first asked for, so that `import earlib` and the command line's help are instant.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

__version__ = "0.2.0"  # the one place: pyproject.toml reads it from here

# Threads of torch that wait for work should sleep, not spin: beside another busy process spinning costs more than half
# of the speed. It counts only if it is set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HERE = Path(__file__).resolve().parent
CHECKOUT = (_HERE.parent / "pyproject.toml").is_file() and (_HERE.parent / "data").is_dir()
ROOT = _HERE.parent if CHECKOUT else Path.cwd()  # runs/ and _build/ are made below it
DATA = _HERE.parent / "data" if CHECKOUT else _HERE / "data"  # what ships; never written by an installed earlib
CACHE = (  # what can be computed or fetched again
    ROOT / ".cache" if CHECKOUT else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earlib"
)

_HOME = {  # public name -> module that holds it
    "load_generator": "generators",
    "draw": "generators",
    "picture_seeds": "generators",
    "Concept": "concepts",
    "PromptPair": "concepts",
    "load_concept": "concepts",
    "list_concepts": "concepts",
    "Recipe": "erasure.recipe",
    "PRESETS": "erasure.presets",
    "recipe": "erasure.presets",
    "Erasure": "erasure.store",
    "NoErasure": "erasure.store",
    "erase": "erasure",
    "compose": "erasure.compose",
    "Transport": "erasure.compose",
    "make_report": "book.report",
    "veil": "evaluate.pictures",
    "load_judge": "evaluate.judges",
    "Run": "runs",
    "UserError": "errors",
}


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*_HOME, "CACHE", "CHECKOUT", "DATA", "ROOT", "__version__"])
