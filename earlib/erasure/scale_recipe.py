"""A recipe for next-scale models: one erasure method as a point in a grid of choices. Named recipes are in
`methods.py`.

The words are those of `erasure/recipe.py` where they mean the same. What differs is what this family differs in: a
picture is a pyramid of scales, a code may be many bits, and every scale reads the whole of the ones before it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from .recipe import get, refuse, unused

PARTS = {  # modules -> which linear layers of a block change
    "cross": ("cross_attention.q", "cross_attention.kv", "cross_attention.out"),
    "kv": ("cross_attention.kv",),
    "ffn": ("ffn.up", "ffn.down"),
    "self": ("self_attention.qkv", "self_attention.out"),
}
PARTS |= {"both": PARTS["cross"] + PARTS["ffn"], "all": PARTS["cross"] + PARTS["ffn"] + PARTS["self"]}
PARTS |= {"no-kv": tuple(part for part in PARTS["both"] if part not in PARTS["kv"])}

CHOICES = {  # field -> values it may have
    "prefix": ("replacement", "target", "student"),
    "teacher_states": ("shared", "independent"),
    "divergence": ("ce", "kl", "mse"),
    "labels": ("sampled", "likeliest"),
    "scales.weight": ("token", "side", "equal"),
    "filter.kind": ("none", "wrong", "kl"),
    "filter.compare": ("exceeds", "reaches"),
    "filter.parts": ("all", "wrong"),
    "filter.divisor": ("length", "kept"),
    "retain.prompts": ("neutral", "others", "both"),
    "update": ("sum", "two-steps", "project"),
    "modules": tuple(PARTS),
    "positions": ("all", "scales"),
}


@dataclass(frozen=True)
class Scales:
    """Which scales learn, and how much a position of each counts."""

    first: int = 0  # the first scale that learns
    count: int = 0  # how many learn, from that one on; 0: all to the last
    # positions count alike (token), by 1 / side of their scale (side), or by 1 / side^2, so that scales count alike
    # (equal)
    weight: str = "token"


@dataclass(frozen=True)
class Filter:
    """Which tokens the erasing loss sees (S-VARE's filtered cross entropy): those that the student, told of the
    concept, does not draw like the teacher."""

    # wrong: too much of its label is unlikely; kl: further from the teacher than prompts to keep are (neutral ones
    # without a retain.weight)
    kind: str = "none"
    alpha: float = (
        0.25  # wrong: share of a token's bits; for a codebook, the share of its label's probability that must be lost
    )
    gamma: float = math.log(
        2
    )  # wrong, bits: a bit is wrong whose cross entropy exceeds this many nats; ln 2 is a probability of one half
    # wrong: kept is a token whose share exceeds alpha (the paper's word), or reaches it (the released code)
    compare: str = "exceeds"
    quantile: float = 0.9  # kl: of the divergences of prompts to keep, in the same update; what lies above it learns
    parts: str = "all"  # of a kept token: all of its bits learn, or those that are wrong
    # the loss is a mean over all positions, so that it fades as tokens become right, or over the kept ones
    divisor: str = "length"


@dataclass(frozen=True)
class Retain:
    """Preservation (L_Pre): the student stays near the teacher by KL(teacher || student), along the teacher's own
    pictures."""

    weight: float = 0.0  # lambda; 0 leaves it out
    prompts: str = (
        "neutral"  # whose: the replacements of the update's own pairs (S-VARE), prompts of other concepts, or both
    )
    pictures: int = 4  # of other prompts in each update
    guidance: float = (
        1.0  # at which the teacher's logits are taken; not 1 distils guidance into the student (the released code does)
    )


@dataclass(frozen=True)
class ScaleRecipe:
    """One erasure method that trains. c* is a pair's target prompt, c its replacement; r_i the codes of scale i.
    Frozen; `with_settings` makes variants."""

    name: str = "s-vare"
    # the history r_<i that the student reads: the teacher's picture of c, of c*, or the student's own of c*
    prefix: str = "replacement"
    teacher_states: str = (
        "shared"  # the teacher reads the same history (VARE, Eq. 7), or its own picture of c (naive, Eq. 6)
    )
    rollouts: float = 0.0  # share of updates in which both read the student's own picture of c* instead
    # from p_teacher(. | c) to p_student(. | c*): cross entropy to labels, KL(teacher || student), or |p - p|^2
    divergence: str = "ce"
    # what is right: a code drawn by the teacher (in its own picture: the picture's), or the likeliest one
    labels: str = "sampled"
    soft_guidance: float = 1.0  # guidance of the teacher's probabilities for kl and mse
    entropy: float = 0.0  # beta: nats of the student's entropy that are added to the loss of a token
    scales: Scales = field(default_factory=Scales)
    filter: Filter = field(default_factory=Filter)
    retain: Retain = field(default_factory=Retain)
    # one step on the sum; a step on each (released code); or the sum with the erasing gradient's part against
    # preservation left out
    update: str = "sum"
    blank: float = 0.0  # share of the student's prompts that are blanked while it learns (released code: text dropout)
    layers: tuple[float, float] = (0.0, 1.0)  # which blocks train, as shares of the depth
    # of those: cross-attention, its keys and values, feed-forward, the first and last together (both, or no-kv),
    # self-attention, all
    modules: str = "both"
    rank: int = 0  # 0 trains whole layers; r > 0 trains an adapter of rank r beside each
    positions: str = "all"  # where the change acts: everywhere, or only at positions of the scales that learn
    lr: float = 1e-4  # of AdamW
    beta2: float = 0.999  # of AdamW
    weight_decay: float = 0.0  # of AdamW
    clip: float = 0.0  # largest norm of a gradient; 0: any
    pairs: int = 50  # prompt pairs used
    pictures: int = 1  # that the teacher draws of each pair
    batch: int = 2  # pairs in one update
    passes: int = 20  # over all pictures
    guidance: float = 4.0  # at which pictures are drawn, the teacher's and the student's
    temperature: float = 1.0  # likewise

    def check(self) -> ScaleRecipe:
        """Itself, or a UserError that names the first field with an impossible value, or two fields that contradict
        each other."""
        positive = (
            "lr",
            "pairs",
            "pictures",
            "batch",
            "passes",
            "guidance",
            "retain.pictures",
            "retain.guidance",
            "soft_guidance",
            "filter.gamma",
        )
        at_least_0 = (
            "entropy",
            "rank",
            "weight_decay",
            "clip",
            "temperature",
            "scales.first",
            "scales.count",
            "retain.weight",
        )
        shares = ("rollouts", "blank", "filter.alpha", "filter.quantile")
        fine = {name: get(self, name) > 0 for name in positive} | {name: get(self, name) >= 0 for name in at_least_0}
        fine |= {name: 0 <= get(self, name) <= 1 for name in shares} | {"beta2": 0 <= self.beta2 < 1}
        refuse(self, CHOICES, fine, ("layers",), self._contradictions())
        return self

    def _contradictions(self):
        """(whether two fields contradict each other, the line that says so)."""
        labelled = self.divergence == "ce" or self.filter.kind == "wrong" or self.filter.parts == "wrong"
        yield (
            self.labels != "sampled" and not labelled,
            f"divergence={self.divergence} looks at no labels without a filter of wrong tokens; leave them sampled",
        )
        yield (
            self.soft_guidance != 1 and self.divergence == "ce",
            "divergence=ce learns labels; soft_guidance is for kl and mse, leave it at 1",
        )
        independent = self.teacher_states == "independent"
        yield (
            independent and self.prefix == "replacement",
            "prefix=replacement is the teacher's own picture already; use teacher_states=shared",
        )
        yield independent and self.rollouts, "rollouts are read by student and teacher; they need teacher_states=shared"
        yield self.prefix == "student" and self.rollouts, "prefix=student is all rollouts already; leave rollouts at 0"
        alone = not self.retain.weight
        yield alone and self.update != "sum", f"update={self.update} is about preservation; it needs a retain.weight"
        yield alone and self.retain != Retain(), "preservation of nothing: retain's fields need a retain.weight"
        plain = dataclasses.replace(self.filter, parts="all", divisor="length") == Filter()
        yield self.filter.kind == "none" and not plain, "a filter of nothing: its fields need a filter.kind"
        words = "cross_attention.kv" in PARTS[self.modules]
        yield (
            self.positions == "scales" and words,
            f"modules={self.modules} has keys and values of words, which belong to no scale; use no-kv, ffn or self",
        )

    @property
    def reads_others(self) -> bool:
        """Whether prompts of other concepts are preserved."""
        return self.retain.weight > 0 and self.retain.prompts != "neutral"

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ScaleEdit:
    """A method without training that changes matrices: UCE (`closed_form.py`)."""

    name: str = "uce"
    # whose matrices change: those of cross-attention (published), the one that makes the start token, or both
    routes: str = "attention"
    strength: float = 1.0  # how much of the change is made; more than 1 goes beyond the published one
    preserve: float = 1.0  # weight of what retained prompts read, beside what the concept's prompts read
    ridge: float = 0.01  # lambda, in units of the mean square of what a matrix reads
    pairs: int = 50  # prompt pairs used

    def check(self) -> ScaleEdit:
        """Itself, or a UserError that names the first field with an impossible value."""
        fine = {
            "strength": self.strength >= 0,
            "preserve": self.preserve >= 0,
            "ridge": self.ridge > 0,
            "pairs": self.pairs >= 1,
        }
        refuse(self, {"routes": ("attention", "start", "both")}, fine, (), ())
        return self

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


USED = {  # method -> the fields that mean something to it
    "negative-prompt": ("text", "strength"),
    "scale-erasure": (
        "text",
        "strength",
        "safe",
        "background",
        "away",
        "scales",
        "layers",
        "relevance",
        "threshold",
        "growth",
    ),
}


@dataclass(frozen=True)
class ScaleGuidance:
    """A method without training: logits are changed while a picture is drawn (`steering.py`). Fields that mean nothing
    to its method keep their defaults."""

    name: str = "negative-prompt"
    method: str = "negative-prompt"  # one of USED
    text: str = ""  # what to steer away from; empty takes the concept's own name
    strength: float = 1.0  # how much of the change is made: 0 none, 1 as published
    # scale-erasure: what to steer to; empty takes what the replacements name, or no prompt where they name nothing
    safe: str = ""
    background: str = ""  # scale-erasure: the third thing that a position may be about; empty: no prompt
    away: float = 3.0  # scale-erasure: weight of the push away from `text`
    scales: tuple[float, float] = (
        2 / 13,
        8 / 13,
    )  # scale-erasure: which scales change, as shares of their number: 2-7 of Infinity's 13
    layers: tuple[float, float] = (
        1 / 32,
        6 / 32,
    )  # scale-erasure: whose cross-attention says what a position is about: blocks 1-5 of 32
    relevance: float = 0.332  # scale-erasure: a position is about the concept from this share on; just below a third
    # scale-erasure: a bit that the prompt and the concept see alike, to less than so many nats, belongs to the concept
    threshold: float = 0.1
    # scale-erasure: by which the threshold grows with every scale, the first included (released code: 1 / temperature)
    growth: float = 2.0

    def check(self) -> ScaleGuidance:
        """Itself, or a UserError that names the first field with an impossible value, or one that means nothing to the
        method."""
        at_least_0 = {name: getattr(self, name) >= 0 for name in ("strength", "away", "relevance", "threshold")} | {
            "growth": self.growth > 0
        }
        refuse(self, {"method": tuple(USED)}, at_least_0, ("scales", "layers"), unused(self, USED))
        return self

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)
