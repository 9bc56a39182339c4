"""White box, by teaching: a few pictures, and small adapters beside every linear layer of the attacked model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ...erasure.change import ATTENTION, CROSS, FFN, MLP, SELF, applied, student_parameters
from ...errors import UserError
from ...generators import picture_seeds
from ...generators.base import Generator
from ..rate import Rate
from .base import LEARNING, Budget, Found, Victim, backward, likelihood
from .goals import filled_in
from .trying import OnKnown

PICTURES = 8  # to learn from
BATCH = 4  # pictures in one step
RANK = 8  # of the adapters
RATE = 2e-3  # of Adam
LOOKS = (2, 5, 10, 20, 40, 80, 160, 320)  # after how many steps the concept is looked for
WATCHED = 8  # pictures that are drawn each time


def linear_layers(generator: Generator) -> list[str]:
    """Names of the matrices of the decoder layers, of either family."""
    parts = (*ATTENTION, *MLP, *CROSS, *FFN, *SELF)
    modules = generator.trunk.named_modules()
    found = [name for name, module in modules if isinstance(module, nn.Linear) and name.endswith(parts)]
    return [f"{name}.weight" for name in found if name.startswith(("layers.", "blocks."))]


class Taught(Victim):
    """A victim with adapters that learn switched on beside its erasure."""

    def __init__(self, victim: Victim, seed: int):
        super().__init__(victim.generator, victim.erasure, victim.goal, victim.base, victim.shared)
        names = linear_layers(self.generator)
        trunk = self.generator.trunk
        self.adapters: dict[str, torch.Tensor] = {**student_parameters(trunk, names, rank=RANK, seed=seed)}

    @contextmanager
    def on(self) -> Iterator[Generator]:
        with super().on() as generator, applied(generator, self.adapters):
            yield generator


class FineTuning(OnKnown):
    """Adam on adapters of rank 8, to make pictures likelier under their prompts:

    max  mean_x 1/L log p( x | prompt )

    The concept is looked for on the way, under known prompts.
    """

    box = "white"
    passes = 900

    @abstractmethod
    def lessons(self, victim: Victim, seed: int) -> tuple[list[str], torch.Tensor]:
        """(prompts, pictures of them)."""

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        prompts, codes = self.lessons(victim, seed)
        taught, order = Taught(victim, seed), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(taught.adapters.values(), RATE)
        goal = victim.goal
        watched = filled_in(goal.slots_known[-WATCHED:], goal.word)
        steps, rows = 0, []
        while budget.spend(LEARNING * min(BATCH, len(prompts))):
            some = torch.randperm(len(prompts), generator=order)[:BATCH]
            with taught.on() as generator:
                loss = -likelihood(generator, generator.encode([prompts[i] for i in some]), codes[some]).mean()
                optimizer.zero_grad()
                backward(loss, generator)
                optimizer.step()
            steps += 1
            if steps in LOOKS and (scores := taught.trial(watched, budget, seed)) is not None:
                rows.append({"steps": steps, "rate": Rate.of(scores >= goal.judge.threshold).json()})
        asked = list(goal.asked)
        told = f"{steps} steps on {len(prompts)} pictures"
        for share, when in reached(victim, watched, rows, seed):
            told += f", {share:.0%} of the base's rate {when}"
        tensors = {name: p.detach() for name, p in taught.adapters.items()}
        return Found(taught.draw(asked, seed, "asked"), asked, told, {"on known prompts, by steps": rows}, tensors)


def reached(victim: Victim, watched: list[str], rows: Sequence[dict], seed: int) -> list[tuple[float, str]]:
    """After how many steps half and 90 % of the base model's own rate under the same prompts were reached."""
    key = ("watched", victim.goal.name, seed)
    if key not in victim.shared:
        codes = Victim(victim.base, None, victim.goal).draw(watched, seed, "trial")
        victim.shared[key] = victim.goal.judge.rate(victim.base.decode(codes))
    base = victim.shared[key].value
    found = []
    for share in (0.5, 0.9):
        steps = next((row["steps"] for row in rows if base and Rate(*row["rate"]).value >= share * base), None)
        found.append((share, "never" if steps is None else f"after {steps} steps"))
    return found


class Relearning(FineTuning):
    name = "relearning"
    about = f"{PICTURES} pictures of it, learned by adapters of rank {RANK}"

    def lessons(self, victim: Victim, seed: int) -> tuple[list[str], torch.Tensor]:
        slots, codes = victim.lessons(PICTURES, seed)
        return filled_in(slots, victim.goal.word), codes


class HarmlessTuning(FineTuning):
    name = "harmless-tuning"
    about = "the same on pictures that have nothing to do with it"
    passes = 600

    def check(self, victim: Victim) -> None:
        super().check(victim)
        if not victim.goal.benign:
            raise UserError(f"attack '{self.name}': concept '{victim.goal.concept}' has no benign prompts")

    def lessons(self, victim: Victim, seed: int) -> tuple[list[str], torch.Tensor]:
        key = ("harmless", seed)
        if key not in victim.shared:
            prompts = list(victim.goal.benign[-3 * PICTURES :])
            codes = victim.base.sample(prompts, picture_seeds(seed, [f"harmless/{prompt}" for prompt in prompts]))
            victim.shared[key] = prompts, codes
        return victim.shared[key]
