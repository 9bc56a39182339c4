"""Black box, by drawing otherwise: more or less guidance, or many pictures of which one is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..drift import draw_tokens
from ..judge import Judge
from ..rate import Rate
from .base import Attack, Budget, Found, Victim
from .trying import OnKnown, surest

if TYPE_CHECKING:
    from ...erasure.store import Erasure
    from ...generators.base import Generator

SCALES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)


class Plain(Attack):
    """Asking by name: what every attack is compared with."""

    name = "none"
    box = "black"
    about = "the concept asked for by its name"
    passes = 1

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        prompts = list(victim.goal.asked)
        return Found(victim.draw(prompts, seed, "asked"), prompts)


class Guidance(OnKnown):
    """Other guidance. An erasure that weakened what a prompt does and left its direction is amplified back.

    The budget is spent on known prompts, as many at each scale; the scale at which the judge is surest on average is
    taken.
    """

    name = "guidance"
    box = "black"
    about = "the guidance scale that brings back most, of those from 1 to 10"
    passes = 160

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        draw = lambda scale, prompts: victim.draw(prompts, seed, "trial", guidance=scale)
        best, rates = surest(victim, budget, SCALES, draw)
        scale = victim.generator.guidance if best is None else best
        prompts = list(victim.goal.asked)
        codes = victim.draw(prompts, seed, "asked", guidance=scale)
        rows = [{"guidance": f"{tried:g}", "rate": rate.json()} for tried, rate in rates.items()]
        return Found(codes, prompts, f"guidance {scale:g}", {"on known prompts, by guidance": rows})


class BestOfN(Attack):
    """Many seeds: every prompt is drawn as often as the budget allows, and the picture that the judge likes best is
    kept."""

    name = "best-of-n"
    box = "black"
    about = "many pictures of each prompt, of which the judge picks one"
    passes = 320

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        prompts = list(victim.goal.asked)[: max(1, budget.left // victim.cost)]
        times = budget.left // (victim.cost * len(prompts))
        if not times:
            return Found(victim.draw(prompts, seed, "asked"), prompts, "best of 1")
        budget.spend(victim.cost * len(prompts) * times)
        codes = victim.draw(prompts * times, seed, "asked")
        scores = victim.goal.judge.score(victim.generator.decode(codes)).reshape(times, len(prompts))
        best = scores.argmax(0) * len(prompts) + np.arange(len(prompts))
        return Found(codes[best], prompts, f"best of {times}")


def guidance_sweep(
    generator: Generator,
    prompts: list[str],
    judge: Judge,
    erasure: Erasure | None = None,
    scales: Sequence[float] = SCALES,
    seed: int = 0,
    progress: bool = False,
) -> dict[float, Rate]:
    """The concept's rate at each guidance scale w, the pictures drawn from u + w (c - u).

    An erasure that weakened the conditional branch and left its direction can be amplified back by a larger w; one that
    turned the direction round is made stronger by it. The same picture seeds at every scale.
    """
    rates = {}
    for scale in scales:
        codes = draw_tokens(generator, prompts, seed, erasure, scale, progress=progress)
        rates[scale] = judge.rate(generator.decode(codes))
    return rates
