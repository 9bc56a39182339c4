"""What recipes of both families can do: be checked, be changed by settings, be written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

from ..errors import UserError, nearest

WORDS = {"windows.length": {"paper": 0, "whole": -1, "auto": -2}}  # field -> what may stand for its numbers

R = TypeVar("R", bound="AnyRecipe")


class AnyRecipe:
    """One erasure method as a point in a grid of choices; a dataclass whose fields are the axes.

    Only what is implemented is accepted, so that a recipe never silently means something else. Each class gives its
    CHOICES, the ranges of its numbers and what contradicts what.
    """

    name: str
    CHOICES: ClassVar[dict[str, Sequence[str]]] = {}  # field -> values it may have
    SHARES: ClassVar[Sequence[str]] = ()  # fields that are two shares of a whole: 0 <= first < last <= 1
    USED: ClassVar[dict[str, Sequence[str]]] = {}  # method -> the fields that mean something to it

    by_scales: ClassVar[bool] = False  # whether it is for next-scale models
    guides: ClassVar[bool] = False  # whether it changes guidance, and no weights

    @property
    def reads_others(self) -> bool:
        """Whether it reads prompts of other concepts, to preserve what is drawn of them."""
        return False

    def named(self: R, concept: Any) -> R:
        """The same recipe, told how prompts name the concept, where it has to know that."""
        return self

    def ranges(self) -> dict[str, bool]:
        """Field -> whether its number is possible."""
        return {}

    def contradictions(self) -> Iterable[tuple[bool, str]]:
        """(whether two fields contradict each other, the line that says so)."""
        return ()

    def check(self: R) -> R:
        """Itself.

        Raises:
            UserError: names the first field with an impossible value, or two fields that contradict each other.
        """
        for name, options in self.CHOICES.items():
            if (value := get(self, name)) not in options:
                raise UserError(f"recipe field {name}='{value}' is not possible; {nearest(value, options)}")
        for name, possible in self.ranges().items():
            if not possible:
                raise UserError(f"recipe field {name}={get(self, name)} is out of range")
        for name in self.SHARES:
            first, last = get(self, name)
            if not 0 <= first < last <= 1:
                whole = "their number" if name == "scales" else "the depth"
                line = f"recipe field {name}={get(self, name)} must be two shares of {whole}, 0 <= first < last <= 1"
                raise UserError(line)
        for contradicts, line in (*self._unused(), *self.contradictions()):
            if contradicts:
                raise UserError(f"recipe '{self.name}': {line}")
        return self

    def _unused(self) -> Iterator[tuple[bool, str]]:
        """Contradictions: fields that are set and mean nothing to the recipe's method."""
        if not self.USED:
            return
        used = self.USED[self.method]
        for f in dataclasses.fields(self):
            if f.name not in ("name", "method", *used):
                line = f"{f.name} means nothing to method={self.method}, which has {', '.join(used)}; "
                line += f"leave it at {f.default!r}"
                yield getattr(self, f.name) != f.default, line

    def as_dict(self) -> dict[str, Any]:
        """All fields, nested ones as dictionaries: what an erasure's JSON file and a run's configuration hold."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Training(AnyRecipe):
    """What all methods that train have, in both families."""

    name: str = ""
    layers: tuple[float, float] = (0.0, 1.0)  # which layers train, as shares of the depth
    rank: int = 0  # 0 trains whole matrices; r > 0 trains an adapter of rank r beside each
    positions: str = "all"  # where the change acts: everywhere, or at some positions only
    lr: float = 1e-4  # learning rate
    pairs: int = 50  # prompt pairs used
    batch: int = 1  # pairs in one update
    passes: int = 1  # over all pairs
    guidance: float = 5.0  # at which the teacher draws the trajectories

    pictures: ClassVar[int] = 1  # that the teacher draws of each pair
    masters: ClassVar[str]  # what trains, and Adam's moments: in float32, or as the frozen weights ("own")
    clip: ClassVar[float] = 0.0  # largest norm of a gradient; 0: any
    update: ClassVar[str] = "sum"  # how the gradients of erasing and preservation make steps

    def ranges(self) -> dict[str, bool]:
        positive = ("lr", "pairs", "batch", "passes", "guidance", "retain.pictures")
        possible = {name: get(self, name) > 0 for name in positive}
        return possible | {name: get(self, name) >= 0 for name in ("rank", "retain.weight")}

    def optimizer(self, parameters: Iterable) -> Any:
        """The optimizer of a run, as the method was published."""
        raise NotImplementedError


def fields_of(recipe: AnyRecipe) -> list[str]:
    """Every settable field, nested ones with a dot."""
    names = []
    for f in dataclasses.fields(recipe):
        value = getattr(recipe, f.name)
        if dataclasses.is_dataclass(value):
            names += [f"{f.name}.{g.name}" for g in dataclasses.fields(value)]
        elif f.name != "name":
            names.append(f.name)
    return names


def get(recipe: Any, dotted: str) -> Any:
    """The value of a field, nested ones by `windows.length`."""
    value = recipe
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def with_settings(recipe: R, settings: list[str] | dict[str, Any]) -> R:
    """A recipe with fields changed.

    Args:
        recipe: of any kind.
        settings: ["windows.length=12", "lr=1e-3"] or a dictionary. windows.length may also be "paper" (the concept's
            own, 0), "whole" (the picture, -1) or "auto" (one row of the picture, -2).

    Raises:
        UserError: an unknown field, or a value of the wrong kind.
    """
    if not isinstance(settings, dict):
        for text in settings:
            if "=" not in text:
                raise UserError(f"setting '{text}' is not of the form field=value")
        settings = dict(text.split("=", 1) for text in settings)
    for name, raw in settings.items():
        name = name.strip()
        if name not in fields_of(recipe):
            raise UserError(f"recipe '{recipe.name}' has no field '{name}'; {nearest(name, fields_of(recipe))}")
        old = get(recipe, name)
        value = _parse(name, raw, old)
        if "." in name:
            outer, inner = name.split(".")
            value = dataclasses.replace(getattr(recipe, outer), **{inner: value})
            name = outer
        recipe = dataclasses.replace(recipe, **{name: value})
    return recipe.check()


def _parse(name: str, raw: Any, old: Any) -> Any:
    raw = WORDS.get(name, {}).get(str(raw).strip(), raw)
    if isinstance(old, str):
        return str(raw).strip()
    try:
        if isinstance(old, tuple):
            parts = raw if not isinstance(raw, str) else raw.strip("()[] ").split(",")
            first, last = (float(x) for x in parts)
            return (first, last)
        if isinstance(old, int) and float(raw) != int(float(raw)):
            raise ValueError
        return type(old)(float(raw))
    except (ValueError, TypeError):
        kind = {int: "a whole number", float: "a number", tuple: "two numbers, first,last"}[type(old)]
        raise UserError(f"recipe field {name}='{raw}' must be {kind}") from None
