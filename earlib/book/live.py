"""Sliders in a notebook that somebody steps through, and their still picture where nobody does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def live(**controls: Any) -> Callable[[Callable], Callable]:
    """`ipywidgets.interact` with these controls. Where `rerun` runs the notebook the function is called once, with the
    values that the controls begin with: nobody can move them there, and the messages of a widget have stalled a whole
    build (jupyter/nbclient issue 312).

    Args:
        **controls: argument of the function -> widget with a `value`.
    """
    if os.environ.get("EARLIB_RUN"):

        def once(function: Callable) -> Callable:
            function(**{name: control.value for name, control in controls.items()})
            return function

        return once
    from ipywidgets import interact

    return interact(**controls)
