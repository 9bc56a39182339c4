"""Errors that a user can mend: one line each, said the same way everywhere."""

from __future__ import annotations

import difflib


class UserError(Exception):
    """Something the caller got wrong. Its text is one line that says what was wrong and what would be right."""


def nearest(word: str, options) -> str:
    """`did you mean 'x'?` if some option is close to `word`, otherwise the list of them."""
    options = sorted(options)
    close = difflib.get_close_matches(str(word).lower(), options, 1, 0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(options)}"
