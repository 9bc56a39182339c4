"""What recipes of both families can do: be checked, be changed by settings, be written down.

The annotation of a recipe's field says what it may hold: `lr: Positive`, `space: Literal["hidden", "logits"]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from ..errors import UserError, nearest


class Range(NamedTuple):
    """What a number may be: in words, and as a test."""

    said: str
    fits: Callable[[Any], bool]


Positive = Annotated[float, Range("greater than 0", lambda x: x > 0)]
NotNegative = Annotated[float, Range("0 or greater", lambda x: x >= 0)]
Share = Annotated[float, Range("from 0 to 1", lambda x: 0 <= x <= 1)]
ShareBelow1 = Annotated[float, Range("from 0 to less than 1", lambda x: 0 <= x < 1)]
Count = Annotated[int, Range("1 or greater", lambda n: n >= 1)]
CountOr0 = Annotated[int, Range("0 or greater", lambda n: n >= 0)]
Span = tuple[float, float]  # two shares of a whole, the depth or the scales: 0 <= first < last <= 1

# windows.length is a number of tokens, or: the concept's own in the paper; the whole picture; one row of it
PAPER, WHOLE, ROW = 0, -1, -2
RULES = {"decay": -3, "correlation": -4, "noise": -5, "entropy": -6}  # or what a rule of `windows.py` predicts
# field -> what may stand for its numbers; "auto" is what is best without a sweep
WORDS = {"windows.length": {"paper": PAPER, "whole": WHOLE, "auto": ROW} | RULES}

R = TypeVar("R", bound="AnyRecipe")


@dataclasses.dataclass(frozen=True)
class AnyRecipe:
    """One erasure method as a point in a grid of choices; its fields are the axes.

    Only what is implemented is accepted, so that a recipe never silently means something else.
    """

    name: str = ""
    USED: ClassVar[dict[str, Sequence[str]]] = {}  # method -> the fields that mean something to it

    by_scales: ClassVar[bool] = False  # whether it is for next-scale models

    @property
    def guides(self) -> bool:
        """Whether it changes guidance, and no weights: whether a text means something to it."""
        return "text" in self.USED.get(getattr(self, "method", ""), ())

    @property
    def reads_others(self) -> bool:
        """Whether it reads prompts of other concepts, to preserve what is drawn of them."""
        return False

    def named(self: R, concept: Any) -> R:
        """The same recipe, told how prompts name the concept, where it has to know that."""
        return self

    def contradictions(self) -> Iterator[str]:
        """A line for every two fields that contradict each other."""
        return iter(())

    def check(self: R) -> R:
        """Itself.

        Raises:
            UserError: names the first field with an impossible value, or two fields that contradict each other.
        """
        for name, value, allowed in _fields(self):
            if get_origin(allowed) is Literal and value not in get_args(allowed):
                raise UserError(f"recipe field {name}='{value}' is not possible; {nearest(value, get_args(allowed))}")
            for allows in getattr(allowed, "__metadata__", ()):
                if not allows.fits(value):
                    raise UserError(f"recipe field {name}={value} is out of range: it must be {allows.said}")
            if allowed == Span and not 0 <= value[0] < value[1] <= 1:
                whole = "the number of scales" if name == "scales" else "the depth"
                line = f"recipe field {name}={value} must be two shares of {whole}, 0 <= first < last <= 1"
                raise UserError(line)
        for line in (*self._unused(), *self.contradictions()):
            raise UserError(f"recipe '{self.name}': {line}")
        return self

    def _unused(self) -> Iterator[str]:
        """A line for every field that is set and means nothing to the recipe's method."""
        if not self.USED:
            return
        method = get(self, "method")
        used = self.USED[method]
        for f in dataclasses.fields(self):
            if f.name not in ("name", "method", *used) and getattr(self, f.name) != f.default:
                line = f"{f.name} means nothing to method={method}, which has {', '.join(used)}"
                yield f"{line}; leave it at {f.default!r}"

    def as_dict(self) -> dict[str, Any]:
        """All fields, nested ones as dictionaries: what an erasure's JSON file and a run's configuration hold."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Training(AnyRecipe):
    """What all methods that train have, in both families."""

    layers: Span = (0.0, 1.0)  # which layers train, as shares of the depth
    rank: CountOr0 = 0  # 0 trains whole matrices; r > 0 trains an adapter of rank r beside each
    positions: str = "all"  # where the change acts: everywhere, or at some positions only
    lr: Positive = 1e-4  # learning rate
    pairs: Count = 50  # prompt pairs used
    batch: Count = 1  # pairs in one update
    passes: Count = 1  # over all pairs
    guidance: Positive = 5.0  # at which the teacher draws the trajectories

    def optimizer(self, parameters: Iterable) -> Any:
        """The optimizer of a run, as the method was published."""
        raise NotImplementedError


@cache
def _annotations(kind: type) -> dict[str, Any]:
    """Of a recipe's class: reading them takes a millisecond, and a thousand rows of the sweeps ask for them."""
    return get_type_hints(kind, include_extras=True)


def _fields(recipe: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name, value, annotation) of every field, nested ones with a dot."""
    allowed = _annotations(recipe.__class__)
    for f in dataclasses.fields(recipe):
        value = getattr(recipe, f.name)
        if dataclasses.is_dataclass(value):
            yield from ((f"{f.name}.{name}", *rest) for name, *rest in _fields(value))
        else:
            yield f.name, value, allowed[f.name]


def fields_of(recipe: AnyRecipe) -> list[str]:
    """Every settable field, nested ones with a dot."""
    return [name for name, *_ in _fields(recipe) if name != "name"]


def get(recipe: Any, dotted: str) -> Any:
    """The value of a field, nested ones by `windows.length`."""
    for part in dotted.split("."):
        recipe = getattr(recipe, part)
    return recipe


def with_settings(recipe: R, settings: list[str] | dict[str, Any]) -> R:
    """A recipe with fields changed.

    Args:
        recipe: of any kind.
        settings: ["windows.length=12", "lr=1e-3"] or a dictionary. windows.length may also be one of
            the names in `WORDS`.

    Raises:
        UserError: an unknown field, or a value of the wrong kind.
    """
    if not isinstance(settings, dict):
        for text in settings:
            if "=" not in text:
                raise UserError(f"setting '{text}' is not of the form field=value")
        settings = dict(text.split("=", 1) for text in settings)
    replace: Callable[..., Any] = dataclasses.replace
    for name, raw in settings.items():
        name = name.strip()
        if name not in fields_of(recipe):
            raise UserError(f"recipe '{recipe.name}' has no field '{name}'; {nearest(name, fields_of(recipe))}")
        outer, _, inner = name.partition(".")
        value = _parse(name, raw, get(recipe, name))
        recipe = replace(recipe, **{outer: replace(get(recipe, outer), **{inner: value}) if inner else value})
    return recipe.check()


def _parse(name: str, raw: Any, old: Any) -> Any:
    """A setting as a value of the field's kind, which is that of its old value."""
    raw = WORDS.get(name, {}).get(str(raw).strip(), raw)
    if isinstance(old, str):
        return str(raw).strip()
    try:
        if isinstance(old, tuple):
            first, last = raw if not isinstance(raw, str) else raw.strip("()[] ").split(",")
            return float(first), float(last)
        if isinstance(old, int) and float(raw) != int(float(raw)):
            raise ValueError
        return type(old)(float(raw))
    except (ValueError, TypeError, OverflowError):
        kind = {int: "a whole number", float: "a number", tuple: "two numbers, first,last"}[type(old)]
        raise UserError(f"recipe field {name}='{raw}' must be {kind}") from None
