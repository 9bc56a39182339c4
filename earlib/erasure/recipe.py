"""Recipes for next-token models: `Recipe` trains, `TrainingFree` does not. Named ones are in `presets.py`.

Every published method makes one choice on each axis; a field is an axis, and its annotation says what it may be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from .settings import (
    PAPER,
    RULES,
    WHOLE,
    AnyRecipe,
    Count,
    CountOr0,
    NotNegative,
    Positive,
    Range,
    ShareBelow1,
    Span,
    Training,
)

MATCHING = ("negated", "replacement")  # objectives that give the student states or logits to match
LIKELIHOOD = ("ascent", "npo", "dpo")  # objectives on the likelihood of pictures
INSIDE = ("random", "unattend")  # objectives on what happens inside the decoder layers
Modules = Literal["attention", "mlp", "both", "kv", "no-kv", "down"]
Positions = Literal["all", "words"]
Length = Annotated[int, Range("a number of tokens", lambda n: n >= min(RULES.values()))]


@dataclass(frozen=True)
class Windows:
    """Windowed gradient accumulation (WGA): one update for each window of image tokens.

    Args:
        length: tokens in a window, or one of the names in `settings.WORDS`; the paper's own length is taken in
            proportion to the model's grid.
        order: in which order the windows of a picture train. For "random" keys and values of earlier windows are read
            anew before each; in raster order they stay as the weights of their time computed them.
        tail: what happens to the last tokens when the length does not divide the grid.
    """

    length: Length = PAPER
    order: Literal["raster", "random"] = "raster"
    tail: Literal["keep", "drop"] = "keep"


@dataclass(frozen=True)
class Gate:
    """Thresholded loss masking (TLM): what is too small to learn from.

    Args:
        kind: "window" skips a window whose summed loss is not above the threshold; "token" drops single tokens.
        threshold: the paper's mu, on the loss of a window (or a token).
        quantile: token gate only: drop this share of a window's tokens, those of least loss.
    """

    kind: Literal["window", "token", "none"] = "window"
    threshold: NotNegative = 0.05
    quantile: ShareBelow1 = 0.0


@dataclass(frozen=True)
class Retain:
    """Preservation: the student stays near the teacher on prompts that have nothing to do with the concept, by KL on
    their logits. The equations are in `retain.py`.

    Args:
        weight: lambda; 0 leaves it out.
        pictures: of such prompts in each update.
        kind: on "prompts", drawn alike; drawn "weighted", by how far they are from the concept; on the concept's own
            prompts with "noise" for its name; or, by "sparsity", that their states leave the adapters shut.
        alpha: kind=weighted: how much the distance from the concept counts.
    """

    weight: NotNegative = 0.0
    pictures: Count = 4
    kind: Literal["prompts", "weighted", "noise", "sparsity"] = "prompts"
    alpha: NotNegative = 1.0


@dataclass(frozen=True)
class Recipe(Training):
    """One erasure method that trains a next-token model. Frozen; `dataclasses.replace` or `with_settings` makes
    variants.

    Args:
        layers: (0, 1/6) are 5 of 30, nearest the input.
        positions: "all", or only where the prompt's own "words" stand.
    """

    name: str = "ear"
    # whose image tokens are read: the teacher's picture of the target, of the replacement, or the student's of the
    # target
    prefix: Literal["target", "replacement", "student"] = "target"
    # what a token's state has read: prompt and all tokens before it, or (released code) the one token before it
    context: Literal["full", "single"] = "full"
    # the replacement's states: from its own two pictures, or read along the prefix as all others
    teacher_states: Literal["shared", "independent"] = "independent"
    # match o - eta (c - o) or r (o is the origin); ascent, npo, dpo on likelihoods; random, unattend inside the layers
    objective: Literal["negated", "replacement", "ascent", "npo", "dpo", "random", "unattend"] = "negated"
    # what a match pulls to: the replacement's states, or those without a prompt
    origin: Literal["replacement", "null"] = "replacement"
    # strength of the negation; for objective=random, the length of the direction in units of a state's own length
    eta: NotNegative = 1.0
    beta: Positive = 1.0  # npo, dpo: how sharply a change of likelihood saturates, per nat a token
    # where student and target are compared: states after the final norm, or logits over the codebook
    space: Literal["hidden", "logits"] = "hidden"
    # squared error; on logits also KL(target || student), its reverse, or cross entropy to the prefix's own tokens
    divergence: Literal["mse", "kl", "reverse-kl", "ce"] = "mse"
    # which rows of a prompt learn: the conditional and the unconditional one, or the conditional one only
    rows: Literal["both", "conditional"] = "both"
    layers: Span = (0.0, 1 / 6)
    # of those layers, which train their MLPs, as shares of the depth: 0,0.2334 are the first 7 of 30
    mlp_layers: Span = (0.0, 1.0)
    mlp_every: Count = 1  # and of these every n-th, beginning with the first
    # which parts of those layers train; kv: only keys and values; no-kv: all others; down: the MLPs' last matrix
    modules: Modules = "attention"
    positions: Positions = "all"
    windows: Windows = field(default_factory=Windows)
    gate: Gate = field(default_factory=Gate)
    retain: Retain = field(default_factory=Retain)
    # steps that an adversary takes before each update, to find words that bring the concept back; the student learns
    # from prompts with those too (`hardened.py`)
    adversary: CountOr0 = 0
    # up to so much of a picture of the concept is given, and the student learns not to finish it
    begun: ShareBelow1 = 0.0
    masters: Literal["float32", "own"] = "float32"  # the released code trains bfloat16 as it is: "own"

    pictures: ClassVar[int] = 1  # that the teacher draws of each pair
    clip: ClassVar[float] = 0.0  # largest norm of a gradient; 0: any
    update: ClassVar[str] = "sum"  # how the gradients of erasing and preservation make steps

    def contradictions(self) -> Iterator[str]:
        logits, matches = self.space == "logits", self.objective in MATCHING
        if not logits and self.divergence != "mse":
            yield f"divergence={self.divergence} compares distributions; it needs space=logits"
        if self.divergence == "ce" and matches and not self.objective == self.prefix == "replacement":
            line = "divergence=ce learns the prefix's own tokens: it needs objective=replacement and prefix=replacement"
            yield line
        if self.objective == "replacement" and self.eta != 1:
            yield "eta has no meaning for objective=replacement; leave it at 1"
        name = f"objective={self.objective}"
        if not matches and self.windows.length != WHOLE:
            yield f"{name} looks at whole pictures; set windows.length=whole"
        if self.objective in LIKELIHOOD and not logits:
            yield f"{name} is about likelihoods; it needs space=logits"
        if self.objective in INSIDE and logits:
            yield f"{name} acts inside the decoder layers; it needs space=hidden"
        if not matches and self.prefix != "target":
            yield f"{name} reads the teacher's pictures of the target; leave prefix=target"
        independent = self.teacher_states == "independent"
        along = self.prefix == "target" and self.origin == "replacement" and matches and not logits
        if independent and not along:
            line = "teacher_states=independent compares hidden states of different pictures, with prefix=target and "
            yield line + "origin=replacement; use shared"
        single, raster = self.context == "single", self.windows.order == "raster"
        plain = independent and raster and self.batch == 1 and not self.retain.weight and not self.rank
        if single and not plain:
            line = "context=single carries nothing from token to token: leave teacher_states, windows.order, batch, "
            yield line + "retain and rank as they are"
        if single and self.positions == "words":
            yield "context=single reads no words after its first step; use positions=all"
        kind = self.retain.kind
        if kind != "prompts" and not self.retain.weight:
            yield f"retain.kind={kind} retains nothing without a retain.weight"
        if kind != "weighted" and self.retain.alpha != 1:
            yield f"retain.alpha has no meaning for retain.kind={kind}; leave it at 1"
        if kind == "sparsity" and not self.rank:
            yield "retain.kind=sparsity keeps adapters shut; it needs a rank"
        learns = matches and self.prefix == "replacement" and self.rows == "conditional" and not single
        if self.hardened and not (learns and self.divergence in ("kl", "reverse-kl") and self.windows.length == WHOLE):
            line = "adversary and begun need divergence=kl or reverse-kl, prefix=replacement, rows=conditional and "
            yield line + "windows.length=whole"
        if (self.mlp_layers, self.mlp_every) != ((0.0, 1.0), 1) and self.modules in ("attention", "kv"):
            yield f"modules={self.modules} has no MLPs to choose with mlp_layers and mlp_every"

    @property
    def reads_others(self) -> bool:
        return self.retain.weight > 0

    @property
    def hardened(self) -> bool:
        """Whether it is taught to withstand attacks."""
        return self.adversary > 0 or self.begun > 0

    def optimizer(self, parameters: Iterable) -> Any:
        """Adam, as EAR has it."""
        import torch

        return torch.optim.Adam(parameters, lr=self.lr, fused=True)


@dataclass(frozen=True)
class TrainingFree(AnyRecipe):
    """A method without training for next-token models: guidance (`steering.py`), UCE or LEACE (`closed_form.py`).

    Fields that mean nothing to its method must keep their defaults.
    """

    name: str = "negative-prompt"
    method: Literal["negative-prompt", "safe-guidance", "uce", "leace"] = "negative-prompt"
    text: str = ""  # guidance: what to steer away from; empty takes the concept's own name (`name_of`)
    strength: NotNegative = 1.0  # how much of the change is made: 0 none, 1 as published; more goes beyond
    slope: Positive = 1.0  # safe-guidance: how fast a code's correction grows to its full size, per nat
    # safe-guidance: codes that the prompt favours over the concept by so many nats or more are left alone
    threshold: float = 0.0
    layers: Span = (0.0, 1.0)  # uce, leace: which decoder layers change, as shares of the depth
    modules: Modules = "kv"  # uce: which of their matrices
    positions: Positions = "words"  # uce: where the new matrices act, at the prompts' words or everywhere
    preserve: NotNegative = 1.0  # uce: weight of what retained prompts read, beside what the concept's prompts read
    ridge: Positive = 0.01  # uce: lambda, in units of the mean square of what a matrix reads
    pairs: Count = 50  # uce, leace: prompt pairs used

    USED: ClassVar = {
        "negative-prompt": ("text", "strength"),
        "safe-guidance": ("text", "strength", "slope", "threshold"),
        "uce": ("strength", "layers", "modules", "positions", "preserve", "ridge", "pairs"),
        "leace": ("strength", "layers", "pairs"),
    }

    @property
    def reads_others(self) -> bool:
        return self.method == "uce" and self.preserve > 0

    def named(self, concept: Any) -> TrainingFree:
        """The same, with the concept's name as its text where it guides and has none yet."""
        from .naming import name_of

        return dataclasses.replace(self, text=name_of(concept)) if self.guides and not self.text else self
