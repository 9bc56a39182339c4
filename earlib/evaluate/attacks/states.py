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
from .base import Attack, Budget, Found, Victim, filled_in, hooked, likelihood

PAIRS = 8  # prompts from which the direction is read
STRENGTHS = (2.0, 4.0, 8.0)  # of the direction, times its own length
AT_MOST = 8  # layers that are tried
AT_ONCE = 16  # prompts whose states are exchanged together

Change = Callable[[torch.Tensor], torch.Tensor]  # what a layer gives -> what the next one reads


@contextmanager
def changed(generator: Generator, layer: int, change: Change) -> Iterator[None]:
    """Within the context what a decoder layer gives is changed."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    with hooked(generator, [generator.decoder_layers[layer].register_forward_hook(hook)]):
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

    with hooked(generator, [layer.register_forward_hook(keep) for layer in generator.decoder_layers]):
        likelihood(generator, prompts, codes)
    return torch.stack(found)


def some_layers(generator: Generator) -> list[int]:
    """At most `AT_MOST` layers, evenly over the depth."""
    depth = len(generator.decoder_layers)
    return sorted({round(i * (depth - 1) / (AT_MOST - 1)) for i in range(AT_MOST)})


class Steering(Attack):
    """d_l = mean over pictures x of h_l(x | c) - h_l(x | r), in the base model, after layer l; c names the goal, r the
    replacement. The attacked model reads h_l + a d_l in the rows that are told of the prompt. Layer and a are chosen on
    known prompts."""

    name = "steering"
    box = "white"
    about = "the base model's direction of the concept, added after one layer"
    passes = 210

    def check(self, victim: Victim) -> None:
        if not victim.goal.instead:
            raise UserError(f"attack '{self.name}': the pairs of '{victim.goal.concept}' have no word to compare with")
        width = lambda generator: next(iter(generator.decoder_layers[0].parameters())).shape[-1]
        if width(victim.base) != width(victim.generator):
            raise UserError(f"attack '{self.name}': {victim.generator.name} is of another width than the base model")

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        slots, codes = victim.lessons(PAIRS, seed)
        asked = list(victim.goal.asked)
        if not budget.spend(2 * len(slots)):
            return Found(victim.draw(asked, seed, "asked"), asked, "the budget was too small to read a direction")
        of = lambda text: outputs(victim.base, victim.base.encode(filled_in(slots, text)), codes)
        direction_LD = (of(victim.goal.word) - of(victim.goal.instead[0])).mean(1)
        tries = [(layer, a) for a in STRENGTHS for layer in some_layers(victim.generator)]
        known = filled_in(victim.goal.slots_known, victim.goal.word)
        some = known[: max(1, budget.left // (victim.cost * len(tries)))]
        surest: dict[tuple[int, float], float] = {}
        seen: dict[int, list[Rate]] = {}
        for layer, a in tries:
            with self.added(victim, layer, a * direction_LD[layer]):
                scores = victim.trial(some, budget, seed)
            if scores is None:
                break
            surest[layer, a] = float(scores.mean())
            seen.setdefault(layer, []).append(Rate.of(scores >= victim.goal.judge.threshold))
        layer, a = max(surest, key=lambda key: surest[key], default=tries[0])
        with self.added(victim, layer, a * direction_LD[layer]):
            drawn = victim.draw(asked, seed, "asked")
        rows = [{"after layer": k, "rate": Rate.pooled(rates).json()} for k, rates in sorted(seen.items())]
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


class Patching(Attack):
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
        Steering.check(self, victim)  # type: ignore[arg-type]

    def run(self, victim: Victim, budget: Budget, seed: int) -> Found:
        more = {}
        slots, codes = victim.lessons(2 * PAIRS, seed)
        if budget.spend(2 * len(slots)):
            more["probe: states along a picture tell the prompt"] = probe(victim, slots, codes)
        layers, known = some_layers(victim.generator), filled_in(victim.goal.slots_known, victim.goal.word)
        some = known[: max(1, budget.left // (victim.cost * len(layers)))]
        surest, rows = {}, []
        for layer in layers:
            if not budget.spend(victim.cost * len(some)):
                break
            scores = victim.goal.judge.score(victim.generator.decode(patched(victim, layer, some, seed)))
            surest[layer] = float(scores.mean())
            rows.append({"after layer": layer, "rate": Rate.of(scores >= victim.goal.judge.threshold).json()})
        best, asked = max(surest, key=lambda layer: surest[layer], default=0), list(victim.goal.asked)
        more["on known prompts, by layer"] = rows
        return Found(patched(victim, best, asked, seed), asked, f"after layer {best}", more)


def patched(victim: Victim, layer: int, prompts: Sequence[str], seed: int) -> torch.Tensor:
    """Codes drawn with the base model's states at the prompts' positions after a layer, in the rows that are told."""
    assert isinstance(victim.base, NextToken)
    parts = []
    for start in range(0, len(prompts), AT_ONCE):
        some = list(prompts[start : start + AT_ONCE])
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

        with changed(victim.generator, layer, change):
            parts.append(victim.draw(some, seed, "asked"))
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
