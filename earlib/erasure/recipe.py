"""A recipe: one erasure method as a point in a grid of choices. Named recipes are in `presets.py`.

Every published method on next-token models makes one choice on each axis (DESIGN of the book's method chapter); a field
of `Recipe` is an axis. Only the values that are implemented are accepted, so that a recipe never silently means
something else.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from ..errors import UserError, nearest

CHOICES = {  # field -> values it may have
    "prefix": ("target", "replacement", "null", "student"),
    "teacher_states": ("shared", "independent"),
    "objective": ("negated", "replacement", "ascent", "npo", "dpo", "random", "unattend"),
    "origin": ("replacement", "null"),
    "space": ("hidden", "logits"),
    "divergence": ("mse", "kl", "reverse-kl", "ce"),
    "rows": ("both", "conditional"),
    "context": ("full", "single"),
    "modules": ("attention", "mlp", "both", "kv", "no-kv", "down"),
    "positions": ("all", "words"),
    "masters": ("float32", "own"),
    "windows.order": ("raster", "random"),
    "windows.prefix": ("stale", "refresh"),
    "windows.tail": ("keep", "drop"),
    "gate.kind": ("window", "token", "none"),
    "retain.kind": ("prompts", "weighted", "noise", "sparsity"),
}
WHOLE = -1  # a window that is the whole picture
MATCHING = ("negated", "replacement")  # objectives that give the student states or logits to match
LIKELIHOOD = ("ascent", "npo", "dpo")  # objectives on the likelihood of pictures
INSIDE = ("random", "unattend")  # objectives on what happens inside the decoder layers


@dataclass(frozen=True)
class Windows:
    """Windowed gradient accumulation (WGA): one update for each window of image tokens."""

    # tokens in a window; 0 takes the concept's own length from the paper, in proportion to the model's grid; -1 the
    # whole picture
    length: int = 0
    order: str = "raster"  # in which order the windows of a picture are visited
    # earlier windows' keys and values: as the weights of their time computed them, or read anew before each window
    prefix: str = "stale"
    tail: str = "keep"  # what happens to the last tokens when the length does not divide the grid


@dataclass(frozen=True)
class Gate:
    """Thresholded loss masking (TLM): what is too small to learn from."""

    kind: str = (
        "window"  # window: skip a window whose summed loss is not above the threshold; token: drop single tokens
    )
    threshold: float = 0.05  # the paper's mu, on the loss of a window (or a token)
    quantile: float = 0.0  # token gate only: drop this share of a window's tokens, those of least loss


@dataclass(frozen=True)
class Retain:
    """Preservation: the student stays near the teacher on prompts that have nothing to do with the concept, by KL on
    their logits.

    kind: on "prompts", drawn alike; drawn "weighted", by how far they are from the concept; on the concept's own
    prompts with "noise" for its name; or, by "sparsity", that their states leave the adapters shut. The equations are
    in `anchors.py`.
    """

    weight: float = 0.0  # lambda; 0 leaves it out
    pictures: int = 4  # of such prompts in each update
    kind: str = "prompts"
    alpha: float = 1.0  # kind=weighted: how much the distance from the concept counts


@dataclass(frozen=True)
class Recipe:
    """One erasure method that trains. Frozen; `dataclasses.replace` or `presets.with_settings` makes variants."""

    name: str = "ear"
    # whose image tokens are read: the teacher's picture of the target, of the replacement, of no prompt; or the
    # student's of the target
    prefix: str = "target"
    # what a token's state has read: prompt and all tokens before it, or (released code) the one token before it
    context: str = "full"
    teacher_states: str = (
        "independent"  # the replacement's states: from its own two pictures, or read along the prefix as all others
    )
    # match o - eta (c - o) or r (o is the origin); ascent, npo, dpo on likelihoods; random, unattend inside the layers
    objective: str = "negated"
    origin: str = "replacement"  # what a match pulls to: the replacement's states, or those without a prompt
    # strength of the negation; for objective=random, the length of the direction in units of a state's own length
    eta: float = 1.0
    beta: float = 1.0  # npo, dpo: how sharply a change of likelihood saturates, per nat a token
    space: str = (
        "hidden"  # where student and target are compared: states after the final norm, or logits over the codebook
    )
    # squared error; on logits also KL(target || student), its reverse, or cross entropy to the prefix's own tokens
    divergence: str = "mse"
    rows: str = (
        "both"  # which rows of a prompt learn: the conditional and the unconditional one, or the conditional one only
    )
    layers: tuple[float, float] = (
        0.0,
        1 / 6,
    )  # which decoder layers train, as shares of the depth: 5 of 30, nearest the input
    mlp_layers: tuple[float, float] = (
        0.0,
        1.0,
    )  # of those layers, which train their MLPs, as shares of the depth: 0,0.2334 are the first 7 of 30
    mlp_every: int = 1  # and of these every n-th, beginning with the first
    # which parts of those layers train; kv: only keys and values; no-kv: all others; down: the MLPs' last matrix
    modules: str = "attention"
    rank: int = 0  # 0 trains whole matrices; r > 0 trains an adapter of rank r beside each
    positions: str = "all"  # where the change acts: at every position, or only where the prompt's own words stand
    windows: Windows = field(default_factory=Windows)
    gate: Gate = field(default_factory=Gate)
    retain: Retain = field(default_factory=Retain)
    lr: float = 1e-4  # of Adam
    # what trains, and Adam's moments: float32, or as the frozen weights (the released code trains bfloat16)
    masters: str = "float32"
    pairs: int = 50  # prompt pairs used
    batch: int = 1  # pairs in one update
    passes: int = 1  # over all pairs
    guidance: float = 5.0  # at which the teacher draws the trajectories

    def check(self) -> Recipe:
        """Itself, or a UserError that names the first field with an impossible value, or two fields that contradict
        each other."""
        numbers = {
            "lr": self.lr > 0,
            "eta": self.eta >= 0,
            "beta": self.beta > 0,
            "rank": self.rank >= 0,
            "pairs": self.pairs >= 1,
            "batch": self.batch >= 1,
            "passes": self.passes >= 1,
            "guidance": self.guidance > 0,
            "windows.length": self.windows.length >= WHOLE,
            "gate.threshold": self.gate.threshold >= 0,
            "gate.quantile": 0 <= self.gate.quantile < 1,
            "retain.weight": self.retain.weight >= 0,
            "retain.pictures": self.retain.pictures >= 1,
            "retain.alpha": self.retain.alpha >= 0,
            "mlp_every": self.mlp_every >= 1,
        }
        refuse(self, CHOICES, numbers, ("layers", "mlp_layers"), self._contradictions())
        return self

    def _contradictions(self):
        """(whether two fields contradict each other, the line that says so)."""
        logits, whole = self.space == "logits", self.windows.length == WHOLE
        raster = self.windows.order == "raster" and self.windows.prefix == "stale"
        yield (
            not logits and self.divergence != "mse",
            f"divergence={self.divergence} compares distributions; it needs space=logits",
        )
        if self.objective in MATCHING:
            yield (
                self.divergence == "ce"
                and (self.objective != "replacement" or self.prefix not in ("replacement", "null")),
                "divergence=ce learns the prefix's own tokens: it needs objective=replacement and prefix=replacement or null",
            )
            yield (
                self.objective == "replacement" and self.eta != 1,
                "eta has no meaning for objective=replacement; leave it at 1",
            )
        else:
            yield not whole, f"objective={self.objective} looks at whole pictures; set windows.length=-1"
            yield (
                self.objective in LIKELIHOOD and not logits,
                f"objective={self.objective} is about likelihoods; it needs space=logits",
            )
            yield (
                self.objective in INSIDE and logits,
                f"objective={self.objective} acts inside the decoder layers; it needs space=hidden",
            )
            yield (
                self.prefix != "target",
                f"objective={self.objective} reads the teacher's pictures of the target; leave prefix=target",
            )
        independent = self.teacher_states == "independent"
        yield (
            independent
            and (self.prefix != "target" or self.origin != "replacement" or logits or self.objective not in MATCHING),
            "teacher_states=independent compares hidden states of different pictures, with prefix=target and origin=replacement; use shared",
        )
        yield (
            self.context == "single"
            and not (independent and raster and self.batch == 1 and self.retain.weight == 0 and self.rank == 0),
            "context=single carries nothing from token to token: leave teacher_states, windows.order, windows.prefix, batch, retain and rank as they are",
        )
        yield (
            self.context == "single" and self.positions == "words",
            "context=single reads no words after its first step; use positions=all",
        )
        kind = self.retain.kind
        yield (
            kind != "prompts" and not self.retain.weight,
            f"retain.kind={kind} retains nothing without a retain.weight",
        )
        yield (
            kind != "weighted" and self.retain.alpha != 1,
            f"retain.alpha has no meaning for retain.kind={kind}; leave it at 1",
        )
        yield kind == "sparsity" and not self.rank, "retain.kind=sparsity keeps adapters shut; it needs a rank"
        some = (self.mlp_layers, self.mlp_every) != ((0.0, 1.0), 1)
        yield (
            some and self.modules in ("attention", "kv"),
            f"modules={self.modules} has no MLPs to choose with mlp_layers and mlp_every",
        )

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


def refuse(recipe, choices: dict, fine: dict, shares=(), contradictions=()) -> None:
    """UserError for the first field of a recipe of any kind that is none of its `choices`, is not `fine` (field ->
    bool), or should be two shares of a whole and is not; then for the first that holds of `contradictions`, (whether,
    the line that says so)."""
    for name, options in choices.items():
        if get(recipe, name) not in options:
            raise UserError(
                f"recipe field {name}='{get(recipe, name)}' is not possible; {nearest(get(recipe, name), options)}"
            )
    for name, is_fine in fine.items():
        if not is_fine:
            raise UserError(f"recipe field {name}={get(recipe, name)} is out of range")
    for name in shares:
        first, last = get(recipe, name)
        if not 0 <= first < last <= 1:
            of = "their number" if name == "scales" else "the depth"
            raise UserError(
                f"recipe field {name}={get(recipe, name)} must be two shares of {of}, 0 <= first < last <= 1"
            )
    for contradicts, why in contradictions:
        if contradicts:
            raise UserError(f"recipe '{recipe.name}': {why}")


def unused(recipe, used: dict):
    """Contradictions for `refuse`: fields that are set and mean nothing to the recipe's method. `used`: method -> the
    fields that do."""
    used = used[recipe.method]
    for f in dataclasses.fields(recipe):
        if f.name not in ("name", "method", *used):
            line = f"{f.name} means nothing to method={recipe.method}, which has {', '.join(used)}; leave it at {f.default!r}"
            yield getattr(recipe, f.name) != f.default, line


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
    """`recipe` with fields changed: ["windows.length=12", "lr=1e-3"] or a dict. UserError on an unknown field or a
    value of the wrong kind."""
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
