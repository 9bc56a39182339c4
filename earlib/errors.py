"""Errors that a user can mend: one line each, said the same way everywhere."""

from __future__ import annotations

import difflib
from pathlib import Path

from . import CHECKOUT


class UserError(Exception):
    """Something the caller got wrong. Its text is one line that says what was wrong and what would be right."""


def nearest(word: str, options) -> str:
    """`did you mean 'x'?` if some option is close to `word`, otherwise the list of them."""
    options = sorted(options)
    close = difflib.get_close_matches(str(word).lower(), options, 1, 0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(options)}"


def only_in_a_clone(what: str, place: Path | None = None) -> None:
    """Raise UserError, with what to do, if this earlib is an installed copy: it has no notebooks, and is never written.

    Args:
        what: the beginning of the line: who asks.
        place: what is to be written; None: whatever is asked for needs the repository. Outside of the installed copy
            anything may be written.
    """
    package = Path(__file__).resolve().parent
    if CHECKOUT or (place is not None and not Path(place).resolve().is_relative_to(package)):
        return
    from importlib import metadata

    address = metadata.metadata("earlib")["Project-URL"].split()[-1]
    raise UserError(
        f"{what}, and this earlib is an installed copy, {package}; clone the repository and do it there: "
        f"git clone {address}"
    )
