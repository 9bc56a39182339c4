"""Whether what a YAML file holds is of the right type."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import UserError, nearest


def checked_fields(value: object, known: Iterable[str], needed: Iterable[str]) -> dict:
    """`value`, a dictionary with `needed` and no other than `known` fields. UserError if it is none."""
    if not isinstance(value, dict):
        raise UserError(f"must hold {', '.join(known)}")
    for name in value:
        if name not in known:
            raise UserError(f"unknown field '{name}'; {nearest(str(name), known)}")
    for name in needed:
        if name not in value:
            raise UserError(f"field '{name}' is missing")
    return value


def is_list_of(kind: type, value: object) -> bool:
    """Whether it is a list of at least one, and each of a kind."""
    fine = isinstance(value, list) and bool(value)
    return fine and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)


def is_number(value: object) -> bool:
    """Whether it is a number, and not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
