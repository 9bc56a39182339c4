"""Recipes for next-scale models: `ScaleRecipe` trains, `ScaleEdit` and `ScaleGuidance` do not. Named ones are in
`presets.py`.

The words are those of `recipe.py` where they mean the same. What differs is what this family differs in: a picture is a
pyramid of scales, a code may be many bits, and every scale reads the whole of the ones before it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from .settings import AnyRecipe, Count, CountOr0, NotNegative, Positive, Share, ShareBelow1, Span, Training

OF_WORDS = ("cross", "kv", "both", "all")  # modules with keys and values of words


@dataclass(frozen=True)
class Scales:
    """Which scales learn, and how much a position of each counts.

    Args:
        first: the first scale that learns.
        count: how many learn, from that one on; 0: all to the last.
        weight: positions count alike ("token"), by 1 / side of their scale ("side"), or by 1 / side^2, so that scales
            count alike ("equal").
    """

    first: CountOr0 = 0
    count: CountOr0 = 0
    weight: Literal["token", "side", "equal"] = "token"


@dataclass(frozen=True)
class Filter:
    """Which tokens the erasing loss sees (S-VARE's filtered cross entropy): those that the student, told of the
    concept, does not draw like the teacher.

    Args:
        kind: "wrong": too much of its label is unlikely; "kl": further from the teacher than prompts to keep are
            (neutral ones without a retain.weight).
        alpha: wrong: share of a token's bits; for a codebook, the share of its label's probability that must be lost.
        gamma: wrong, bits: a bit is wrong whose cross entropy exceeds this many nats; ln 2 is a probability of one
            half.
        compare: wrong: kept is a token whose share exceeds alpha (the paper's word), or reaches it (the released code).
        quantile: kl: of the divergences of prompts to keep, in the same update; what lies above it learns.
        parts: of a kept token: all of its bits learn, or those that are wrong.
        divisor: the loss is a mean over all positions ("length"), so that it fades as tokens become right, or over the
            kept.
    """

    kind: Literal["none", "wrong", "kl"] = "none"
    alpha: Share = 0.25
    gamma: Positive = math.log(2)
    compare: Literal["exceeds", "reaches"] = "exceeds"
    quantile: Share = 0.9
    parts: Literal["all", "wrong"] = "all"
    divisor: Literal["length", "kept"] = "length"


@dataclass(frozen=True)
class ScaleRetain:
    """Preservation (L_Pre): the student stays near the teacher by KL(teacher || student), along the teacher's own
    pictures.

    Args:
        weight: lambda; 0 leaves it out.
        prompts: whose pictures: the replacements of the update's own pairs ("neutral", S-VARE), prompts of "others", or
            both.
        pictures: of other prompts in each update.
        guidance: at which the teacher's logits are taken; not 1 distils guidance into the student (the released code
            does).
    """

    weight: NotNegative = 0.0
    prompts: Literal["neutral", "others", "both"] = "neutral"
    pictures: Count = 4
    guidance: Positive = 1.0


@dataclass(frozen=True)
class ScaleRecipe(Training):
    """One erasure method that trains a next-scale model. c* is a pair's target prompt, c its replacement; r_i the codes
    of scale i. Frozen; `with_settings` makes variants.

    layers: of blocks. passes: over all pictures. guidance: also of the student's own pictures.
    positions: "all", or only those of the "scales" that learn.
    """

    name: str = "s-vare"
    # the history r_<i that the student reads: the teacher's picture of c, of c*, or the student's own of c*
    prefix: Literal["replacement", "target", "student"] = "replacement"
    # the teacher reads the same history (VARE, Eq. 7), or its own picture of c (naive, Eq. 6)
    teacher_states: Literal["shared", "independent"] = "shared"
    rollouts: Share = 0.0  # share of updates in which both read the student's own picture of c* instead
    # from p_teacher(. | c) to p_student(. | c*): cross entropy to labels, KL(teacher || student), or |p - p|^2
    divergence: Literal["ce", "kl", "mse"] = "ce"
    # what is right: a code drawn by the teacher (in its own picture: the picture's), or the likeliest one
    labels: Literal["sampled", "likeliest"] = "sampled"
    soft_guidance: Positive = 1.0  # guidance of the teacher's probabilities for kl and mse
    entropy: NotNegative = 0.0  # beta: nats of the student's entropy that are added to the loss of a token
    scales: Scales = field(default_factory=Scales)
    filter: Filter = field(default_factory=Filter)
    retain: ScaleRetain = field(default_factory=ScaleRetain)
    # one step on the sum; a step on each (released code); or the sum with the erasing gradient's part against
    # preservation left out
    update: Literal["sum", "two-steps", "project"] = "sum"
    blank: Share = 0.0  # share of the student's prompts that are blanked while it learns (released code: text dropout)
    # of those blocks: cross-attention, its keys and values, feed-forward, the first and last together (both, or no-kv),
    # self-attention, all
    modules: Literal["cross", "kv", "ffn", "self", "both", "all", "no-kv"] = "both"
    positions: Literal["all", "scales"] = "all"
    beta2: ShareBelow1 = 0.999  # of AdamW
    weight_decay: NotNegative = 0.0  # of AdamW
    clip: NotNegative = 0.0  # largest norm of a gradient; 0: any
    pictures: Count = 1  # that the teacher draws of each pair
    batch: Count = 2
    passes: Count = 20
    guidance: Positive = 4.0
    temperature: NotNegative = 1.0  # at which pictures are drawn, the teacher's and the student's

    masters: ClassVar[str] = "float32"
    by_scales: ClassVar[bool] = True

    def contradictions(self) -> Iterator[str]:
        labelled = self.divergence == "ce" or self.filter.kind == "wrong" or self.filter.parts == "wrong"
        if self.labels != "sampled" and not labelled:
            line = f"divergence={self.divergence} looks at no labels without a filter of wrong tokens; leave them "
            yield line + "sampled"
        if self.soft_guidance != 1 and self.divergence == "ce":
            yield "divergence=ce learns labels; soft_guidance is for kl and mse, leave it at 1"
        independent = self.teacher_states == "independent"
        if independent and self.prefix == "replacement":
            yield "prefix=replacement is the teacher's own picture already; use teacher_states=shared"
        if independent and self.rollouts > 0:
            yield "rollouts are read by student and teacher; they need teacher_states=shared"
        if self.prefix == "student" and self.rollouts > 0:
            yield "prefix=student is all rollouts already; leave rollouts at 0"
        if not self.retain.weight and self.update != "sum":
            yield f"update={self.update} is about preservation; it needs a retain.weight"
        if not self.retain.weight and self.retain != ScaleRetain():
            yield "preservation of nothing: retain's fields need a retain.weight"
        if self.filter.kind == "none" and dataclasses.replace(self.filter, parts="all", divisor="length") != Filter():
            yield "a filter of nothing: its fields need a filter.kind"
        if self.positions == "scales" and self.modules in OF_WORDS:
            line = f"modules={self.modules} has keys and values of words, which belong to no scale; use no-kv, ffn or "
            yield line + "self"

    def optimizer(self, parameters: Iterable) -> Any:
        """AdamW, as S-VARE's released code has it."""
        import torch

        betas = (0.9, self.beta2)
        return torch.optim.AdamW(parameters, lr=self.lr, betas=betas, weight_decay=self.weight_decay, fused=True)

    @property
    def reads_others(self) -> bool:
        return self.retain.weight > 0 and self.retain.prompts != "neutral"


@dataclass(frozen=True)
class ScaleEdit(AnyRecipe):
    """A method without training that changes matrices of a next-scale model: UCE (`closed_form.py`)."""

    name: str = "uce"
    # whose matrices change: those of cross-attention (published), the one that makes the start token, or both
    routes: Literal["attention", "start", "both"] = "attention"
    strength: NotNegative = 1.0  # how much of the change is made; more than 1 goes beyond the published one
    preserve: NotNegative = 1.0  # weight of what retained prompts read, beside what the concept's prompts read
    ridge: Positive = 0.01  # lambda, in units of the mean square of what a matrix reads
    pairs: Count = 50  # prompt pairs used

    method: ClassVar[str] = "uce"
    by_scales: ClassVar[bool] = True

    @property
    def reads_others(self) -> bool:
        return self.preserve > 0


@dataclass(frozen=True)
class ScaleGuidance(AnyRecipe):
    """A method without training: logits are changed while a next-scale model draws (`steering.py`). Fields that mean
    nothing to its method keep their defaults."""

    name: str = "negative-prompt"
    method: Literal["negative-prompt", "scale-erasure"] = "negative-prompt"
    text: str = ""  # what to steer away from; empty takes the concept's own name
    strength: NotNegative = 1.0  # how much of the change is made: 0 none, 1 as published
    # scale-erasure: what to steer to; empty takes what the replacements name, or no prompt where they name nothing
    safe: str = ""
    background: str = ""  # scale-erasure: the third thing that a position may be about; empty: no prompt
    away: NotNegative = 3.0  # scale-erasure: weight of the push away from `text`
    # scale-erasure: which scales change, as shares of their number: 2-7 of Infinity's 13
    scales: Span = (2 / 13, 8 / 13)
    # scale-erasure: whose cross-attention says what a position is about: blocks 1-5 of 32
    layers: Span = (1 / 32, 6 / 32)
    # scale-erasure: a position is about the concept from this share on; just below a third
    relevance: NotNegative = 0.332
    # scale-erasure: a bit that the prompt and the concept see alike, to less than so many nats, belongs to the concept
    threshold: NotNegative = 0.1
    # scale-erasure: by which the threshold grows with every scale, the first included (released code: 1 / temperature)
    growth: Positive = 2.0

    USED: ClassVar = {
        "negative-prompt": ("text", "strength"),
        "scale-erasure": (
            *("text", "strength", "safe", "background", "away"),
            *("scales", "layers", "relevance", "threshold", "growth"),
        ),
    }
    by_scales: ClassVar[bool] = True
    pairs: ClassVar[int] = 0

    def named(self, concept: Any) -> ScaleGuidance:
        """The same, with the concept's name as its text where it has none, and with what the replacements name as the
        safe text, if they name anything."""
        from .naming import name_of, name_of_replacements

        safe = self.safe
        if self.method == "scale-erasure" and not safe:
            safe = name_of_replacements(concept)
        return dataclasses.replace(self, text=self.text or name_of(concept), safe=safe)
