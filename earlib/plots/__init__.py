"""One style of figures, and the few panels that chapters share: `from earlib import plots`, `plots.lines(...)`."""

from . import panels, pictures, style
from .panels import bars, curves, dots, lines, plane
from .series import Series, before_after, concept_and_neighbours
from .style import save, setup

__all__ = [
    "Series",
    "bars",
    "before_after",
    "concept_and_neighbours",
    "curves",
    "dots",
    "lines",
    "panels",
    "pictures",
    "plane",
    "save",
    "setup",
    "style",
]
