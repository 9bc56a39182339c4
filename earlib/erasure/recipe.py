"""A recipe: one erasure method as a point in a grid of choices. Named recipes are in `presets.py`.

Every published method on next-token models makes one choice on each axis (DESIGN of the book's method chapter); a field of `Recipe` is an
axis. Only the values that are implemented are accepted, so that a recipe never silently means something else.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from ..errors import UserError, nearest

CHOICES = {  # field -> values it may have
    "prefix": ("target",),
    "teacher_states": ("shared", "independent"),
    "objective": ("negated", "replacement"),
    "space": ("hidden",),
    "modules": ("attention", "mlp", "both"),
    "context": ("full", "single"),
    "masters": ("float32", "own"),
    "windows.order": ("raster", "random"),
    "windows.prefix": ("stale", "refresh"),
    "windows.tail": ("keep", "drop"),
    "gate.kind": ("window", "token", "none"),
}


@dataclass(frozen=True)
class Windows:
    """Windowed gradient accumulation (WGA): one update for each window of image tokens."""

    length: int = 0  # tokens in a window; 0 takes the concept's own length from the paper, in proportion to the model's grid
    order: str = "raster"  # in which order the windows of a picture are visited
    prefix: str = "stale"  # earlier windows' keys and values: as the weights of their time computed them, or read anew before each window
    tail: str = "keep"  # what happens to the last tokens when the length does not divide the grid


@dataclass(frozen=True)
class Gate:
    """Thresholded loss masking (TLM): what is too small to learn from."""

    kind: str = "window"  # window: skip a window whose summed loss is not above the threshold; token: drop single tokens
    threshold: float = 0.05  # the paper's mu, on the loss of a window (or a token)
    quantile: float = 0.0  # token gate only: drop this share of a window's tokens, those of least loss


@dataclass(frozen=True)
class Recipe:
    """One erasure method. Frozen; `dataclasses.replace` or `presets.with_settings` makes variants."""

    name: str = "ear"
    prefix: str = "target"  # whose image tokens are teacher-forced: the teacher's pictures of the target prompt
    context: str = "full"  # what a token's state has read: prompt and all tokens before it, or (released code) the one token before it
    teacher_states: str = "independent"  # the replacement's states: from its own two pictures, or read along the target's tokens
    objective: str = "negated"  # match r - eta (c - r), or simply r
    eta: float = 1.0  # strength of the negation
    space: str = "hidden"  # where student and target are compared: states after the final norm, mean squared error
    layers: tuple[float, float] = (0.0, 1 / 6)  # which decoder layers train, as shares of the depth: 5 of 30, nearest the input
    modules: str = "attention"  # which parts of those layers train
    windows: Windows = field(default_factory=Windows)
    gate: Gate = field(default_factory=Gate)
    lr: float = 1e-4  # of Adam
    masters: str = "float32"  # what trains, and Adam's moments: float32, or as the frozen weights (the released code trains bfloat16)
    pairs: int = 50  # prompt pairs used, one pass
    guidance: float = 5.0  # at which the teacher draws the trajectories

    def check(self) -> Recipe:
        """Itself, or a UserError that names the first field with an impossible value."""
        for name, options in CHOICES.items():
            value = get(self, name)
            if value not in options:
                raise UserError(f"recipe field {name}='{value}' is not possible; {nearest(value, options)}")
        numbers = {
            "lr": self.lr > 0,
            "eta": self.eta >= 0,
            "pairs": self.pairs >= 1,
            "guidance": self.guidance > 0,
            "windows.length": self.windows.length >= 0,
            "gate.threshold": self.gate.threshold >= 0,
            "gate.quantile": 0 <= self.gate.quantile < 1,
        }
        for name, fine in numbers.items():
            if not fine:
                raise UserError(f"recipe field {name}={get(self, name)} is out of range")
        first, last = self.layers
        if not 0 <= first < last <= 1:
            raise UserError(f"recipe field layers={self.layers} must be two shares of the depth, 0 <= first < last <= 1")
        if self.context == "single" and (self.teacher_states != "independent" or self.windows.order != "raster" or self.windows.prefix != "stale"):
            raise UserError(
                "recipe field context=single carries nothing from token to token: leave teacher_states, windows.order and windows.prefix as they are"
            )
        if self.objective == "replacement" and self.eta != 1:
            raise UserError("recipe field eta has no meaning for objective=replacement; leave it at 1")
        return self

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


def fields_of(recipe: Recipe) -> list[str]:
    """Every settable field, nested ones with a dot."""
    names = []
    for f in dataclasses.fields(recipe):
        value = getattr(recipe, f.name)
        if dataclasses.is_dataclass(value):
            names += [f"{f.name}.{g.name}" for g in dataclasses.fields(value)]
        elif f.name != "name":
            names.append(f.name)
    return names


def get(recipe: Recipe, dotted: str):
    """The value of a field, nested ones by `windows.length`."""
    value = recipe
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def with_settings(recipe: Recipe, settings: list[str] | dict) -> Recipe:
    """`recipe` with fields changed: ["windows.length=12", "lr=1e-3"] or a dict. UserError on an unknown field or a value of the wrong kind."""
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


def _parse(name: str, raw, old):
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
