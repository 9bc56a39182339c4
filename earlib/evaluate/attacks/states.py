"""White box, by states inside the layers: the base model's direction of the concept is added, or its states at the
prompt's words stand in for the attacked model's.

Letters: B rows, S positions being read, L layers, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ...errors import UserError
from ...generators.base import Generator, NextScale, NextToken, PromptBatch
from ..rate import Rate
from .base import Budget, Found, Victim, likelihood, unrecorded
from .goals import filled_in
from .trying import OnKnown, surest

PAIRS = 8  # prompts from which the direction is read
# of the direction, times its own length. Chosen on development prompts as the learning rate in `soft.py` was: 1 to 4,
# 2 to 8 and 4 to 16 brought back 11 [7-17], 12 [8-19] and 16 [11-23] % of 140 pictures; the most was taken, though the
# intervals overlap.
STRENGTHS = (4.0, 8.0, 16.0)
AT_MOST = 8  # layers that are tried
AT_ONCE = 16  # prompts whose states are exchanged together

Change = Callable[[torch.Tensor], torch.Tensor]  # what a layer gives -> what the next one reads


@contextmanager
def changed(generator: Generator, layer: int, change: Change) -> Iterator[None]:
    """Within the context what a decoder layer gives is changed."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    with unrecorded(generator, [generator.decoder_layers[layer].register_forward_hook(hook)]):
        yield


def told(x_BSD: torch.Tensor, rows: int) -> int:
    """How many of the rows that are read are told of the prompt: they stand first, one of `rows` a picture."""
    return len(x_BSD) // rows


@torch.no_grad()
def outputs(generator: Generator, prompts: PromptBatch, codes: torch.Tensor) -> torch.Tensor:
    """What each decoder layer gives along pictures, at the positions that predict their codes: a mean over positions,
    float32 [L, B, D]."""
    found: list[torch.Tensor] = []
    T = codes.shape[1]

    def keep(module: Any, args: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[:, -T:].float().mean(1))

    with unrecorded(generator, [layer.register_forward_hook(keep) for layer in generator.decoder_layers]):
        likelihood(generator, prompts, codes)
    return torch.stack(found)


def some_layers(generator: Generator) -> list[int]:
    """At most `AT_MOST` layers, evenly over the depth."""
    depth = len(generator.decoder_layers)
    return sorted({round(i * (depth - 1) / (AT_MOST - 1)) for i in range(AT_MOST)})


def check_states(attack: str, victim: Victim) -> None:
    """UserError if there is no word to compare the concept's states with, or no base model of the same width."""
    if not victim.goal.instead:
        raise UserError(f"attack '{attack}': the pairs of '{victim.goal.concept}' have no word to compare with")
    width = lambda generator: next(iter(generator.decoder_layers[0].parameters())).shape[-1]
    if width(victim.base) != width(victim.generator):
        raise UserError(f"attack '{attack}': {victim.generator.name} is of another width than the base model")


class Steering(OnKnown):
    """d_l = mean over pictures x of h_l(x | c) - h_l(x | r), in the base model, after layer l; c names the goal, r the
    replacement. The attacked model reads h_l + a d_l in the rows that are told of the prompt. Layer and a are chosen on
    known prompts."""

    name = "steering"
    box = "white"
    about = "the base model's direction of the concept, added after one layer"
    passes = 210

    def check(self, victim: Victim) -> None:
        super().check(victim)
        check_states(self.name, victim)

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        slots, codes = victim.lessons(PAIRS, seed)
        asked = list(victim.goal.asked)
        if not budget.spend(2 * len(slots)):
            return Found(victim.draw(asked, seed, "asked"), asked, "the budget was too small to read a direction")
        of = lambda text: outputs(victim.base, victim.base.encode(filled_in(slots, text)), codes)
        direction_LD = (of(victim.goal.word) - of(victim.goal.instead[0])).mean(1)
        tries = [(layer, a) for a in STRENGTHS for layer in some_layers(victim.generator)]

        def draw(option: tuple[int, float], prompts: list[str], what: str = "trial") -> torch.Tensor:
            layer, a = option
            with self.added(victim, layer, a * direction_LD[layer]):
                return victim.draw(prompts, seed, what)

        best, rates = surest(victim, budget, tries, draw)
        layer, a = best or tries[0]
        drawn, layers = draw((layer, a), asked, "asked"), sorted({layer for layer, _ in rates})
        of_layer = lambda k: Rate.pooled(rate for (layer, _), rate in rates.items() if layer == k)
        rows = [{"after layer": k, "rate": of_layer(k).json()} for k in layers]
        found = f"after layer {layer}, {a:g} times the direction"
        return Found(drawn, asked, found, {"on known prompts, by layer": rows}, {"direction": direction_LD})

    @staticmethod
    def added(victim: Victim, layer: int, vector_D: torch.Tensor) -> Any:
        """The context in which the direction is added after `layer`."""

        def change(x_BSD: torch.Tensor) -> torch.Tensor:
            mine = x_BSD.new_zeros(len(x_BSD), 1, 1)
            mine[: told(x_BSD, victim.cost)] = 1
            return x_BSD + mine * vector_D.to(x_BSD)

        return changed(victim.generator, layer, change)


class Patching(OnKnown):
    """Reading: how deep in the layers the concept is still there. What the base model's layer l gives at the prompt's
    positions stands in for what the attacked model's gives (two-stage patching, after the Unlearning Depth Score, arXiv
    2605.24614); the layers above draw. And a probe: whether the states along a picture still tell which of two prompts
    was read, the concept's or the replacement's, by the nearer of two means on pictures held out."""

    name = "patching"
    box = "white"
    about = "the base model's states at the prompt in place of the erased one's, after one layer"
    passes = 180

    def check(self, victim: Victim) -> None:
        if isinstance(victim.generator, NextScale):
            raise UserError(f"attack '{self.name}': {victim.generator.name} reads its prompt at every layer anew")
        super().check(victim)
        check_states(self.name, victim)

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        more = {}
        slots, codes = victim.lessons(2 * PAIRS, seed)
        if budget.spend(2 * len(slots)):
            more["probe: states along a picture tell the prompt"] = probe(victim, slots, codes)
        draw = lambda layer, prompts: patched(victim, layer, prompts, seed)
        best, rates = surest(victim, budget, some_layers(victim.generator), draw)
        layer, asked = best or 0, list(victim.goal.asked)
        rows = [{"after layer": tried, "rate": rate.json()} for tried, rate in rates.items()]
        more["on known prompts, by layer"] = rows
        return Found(patched(victim, layer, asked, seed), asked, f"after layer {layer}", more)


def patched(victim: Victim, layer: int, prompts: Sequence[str], seed: int) -> torch.Tensor:
    """Codes drawn with the base model's states at the prompts' positions after a layer, in the rows that are told."""
    assert isinstance(victim.base, NextToken)
    parts, size = [], min(AT_ONCE, victim.generator.fitting_batch())
    seeds = victim.seeds(prompts, seed, "asked")
    for start in range(0, len(prompts), size):
        some = list(prompts[start : start + size])
        order = victim.generator.drawing_order(some)  # as `sample` will read them
        batch = victim.base.encode([some[i] for i in order])
        kept: list[torch.Tensor] = []

        def keep(x_BPD: torch.Tensor, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            kept.append(x_BPD)
            return x_BPD

        with torch.no_grad(), changed(victim.base, layer, keep):
            victim.base.hidden_states(batch, torch.zeros(len(some), 1, dtype=torch.long, device=victim.base.device))
        base_BPD = kept[0]

        def change(x_BSD: torch.Tensor, base_BPD: torch.Tensor = base_BPD) -> torch.Tensor:
            (B, P, _), S = base_BPD.shape, x_BSD.shape[1]
            if S < P:  # tokens of the picture
                return x_BSD
            x_BSD = x_BSD.clone()
            x_BSD[:B, S - P :] = base_BPD.to(x_BSD)
            return x_BSD

        with changed(victim.generator, layer, change), victim.on() as generator:
            parts.append(generator.sample(some, seeds[start : start + size], batch_size=size))
    return torch.cat(parts)


def probe(victim: Victim, slots: list[str], codes: torch.Tensor) -> list[dict]:
    """Rows {"after layer", "rate"}: prompts of held-out pictures told right by the nearer of two means."""
    with victim.on() as generator:
        of = lambda text: outputs(generator, generator.encode(filled_in(slots, text)), codes)
        named_LBD, other_LBD = of(victim.goal.word), of(victim.goal.instead[0])
    half, rows = len(slots) // 2, []
    for layer, (named_BD, other_BD) in enumerate(zip(named_LBD, other_LBD)):
        middles = named_BD[:half].mean(0), other_BD[:half].mean(0)
        nearer = lambda x_BD, middles=middles: (x_BD - middles[0]).norm(dim=1) < (x_BD - middles[1]).norm(dim=1)
        right = torch.cat([nearer(named_BD[half:]), ~nearer(other_BD[half:])])
        rows.append({"after layer": layer, "rate": Rate.of(right.cpu().numpy()).json()})
    return rows
