"""Guidance that steers away from a concept while a picture is drawn: nothing in the model changes, only what its logits
are made into.

`generator.steering` is such a way of guiding (`generators.base.Steering`).
z are logits over the codebook, float32 [B, ..., V]: z_c told of the prompt, z_u of nothing, z_n told of the concept. g
is the guidance, a the strength: 0 is the usual guidance, 1 the published method.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class NegativePrompt:
    """The concept's name in place of the unconditional row (Ho and Salimans 2022 with another origin; common practice
    since Stable Diffusion):

    o = z_u + a (z_n - z_u),  z = o + g (z_c - o)
    """

    text: str
    strength: float = 1.0

    def rows(self, generator, prompts, guidance: float):
        """The prompts, and below them as many rows of the concept's name; unconditional ones between them where the
        strength is not 1."""
        if guidance == 1:  # the origin drops out
            return [prompts]
        twins = [] if self.strength == 1 else [generator.null_like(prompts)]
        return [prompts, *twins, repeated(generator, self.text, len(prompts))]

    def combine(self, logits, guidance: float, scale: int | None = None):
        if len(logits) == 1:
            return logits[0]
        z_c, z_n = logits[0], logits[-1]
        origin = z_n if self.strength == 1 else logits[1] + self.strength * (z_n - logits[1])
        return origin + guidance * (z_c - origin)


@dataclass(frozen=True)
class SafeGuidance:
    """Safe latent diffusion (Schramowski et al. 2023, arXiv 2211.05105, Eq. 3-6), on logits:

    z = z_u + g ( z_c - z_u - a mu (z_n - z_u) ),  mu = min(slope |z_c - z_n|, 1) where z_c - z_n < threshold, else 0

    each code by itself. Logits mean the same when a number is added to all of them, and mu would not: rows are
    normalised to log-probabilities first. Neither warm-up nor momentum: drawing a token shares no state with drawing
    the one before.
    """

    text: str
    strength: float = 1.0
    slope: float = 1.0
    threshold: float = 0.0  # in nats

    def rows(self, generator, prompts, guidance: float):
        """The prompts, their unconditional twins, and as many rows of the concept's name."""
        return [prompts, generator.null_like(prompts), repeated(generator, self.text, len(prompts))]

    def combine(self, logits, guidance: float, scale: int | None = None):
        z_c, z_u, z_n = (z.log_softmax(-1) for z in logits)
        ahead = z_c - z_n
        mu = (self.slope * ahead.abs()).clamp(max=1) * (ahead < self.threshold)
        return z_u + guidance * (z_c - z_u - self.strength * mu * (z_n - z_u))


def repeated(generator, text: str, times: int):
    """`times` rows of one prompt."""
    return generator.encode([text])[[0] * times]


def steering_of(recipe: dict, strength: float = 1.0):
    """How an erasure with this recipe guides, or None if it changes weights. `strength` scales the recipe's own."""
    strength *= recipe.get("strength", 1.0)
    if recipe.get("method") == "negative-prompt" and strength:
        return NegativePrompt(recipe["text"], strength)
    if recipe.get("method") == "safe-guidance" and strength:
        return SafeGuidance(recipe["text"], strength, recipe["slope"], recipe["threshold"])
    return None


@contextmanager
def steered(generator, steering):
    """Within the context `generator` guides by `steering`; None leaves it as it is."""
    before = generator.steering
    generator.steering = steering or before
    try:
        yield generator
    finally:
        generator.steering = before
