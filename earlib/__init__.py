"""Erasing concepts from autoregressive image models: public names, nothing else.

Everything heavy is loaded when first asked for, so that `import earlib` and the command line's help are instant.
"""

from __future__ import annotations

import importlib
from pathlib import Path

__version__ = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent

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
    "recipe": "erasure.methods",
    "Erasure": "erasure.store",
    "NoErasure": "erasure.store",
    "erase": "erasure.methods",
    "compose": "erasure.compose",
    "Transport": "erasure.compose",
    "make_report": "book.report",
    "veil": "evaluate.pictures",
    "load_judge": "evaluate.judges",
    "evaluate": "evaluate.evaluation",
    "Run": "runs",
    "UserError": "errors",
}


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*_HOME, "ROOT", "__version__"])
