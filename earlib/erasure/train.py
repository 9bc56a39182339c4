"""The training loop of every method that trains: lesson after lesson, one update for each window that teaches. For EAR
a lesson is one prompt pair.

Read top to bottom. The teacher's pictures are fixed beforehand and attention is causal, so the W tokens of a window are
one forward pass over the carried key/value cache, and that equals feeding them one by one (a test holds the two to 1e-9
in float64). Keys and values of earlier windows are constants, as they are in a rollout; inside a window gradients flow.
What a lesson compares is in `lessons.py`, by the recipe.
"""

from __future__ import annotations

import math
import time
from functools import partial

import torch

from ..errors import UserError
from . import checkpoint
from .change import applied, student_parameters, tensor_names
from .lessons import lessons
from .objective import window_loss
from .recipe import WHOLE
from .retain import Retained

FP16_SCALE = 1024.0  # lifts gradients of a few 1e-8 over what float16 rounds to zero; the step divides by it again


def window_bounds(tokens: int, length: int, tail: str) -> list[tuple[int, int]]:
    """First and last (exclusive) token of every window of a picture; a short last window is kept or dropped."""
    bounds = [(a, min(a + length, tokens)) for a in range(0, tokens, length)]
    return bounds if tail == "keep" else [(a, b) for a, b in bounds if b - a == length]


def train(
    generator,
    pairs,
    recipe,
    seed: int,
    run=None,
    progress: bool = False,
    checkpoint_every: int = 10,
    retain: list[str] = (),
):
    """Erase with `recipe` from `generator`, whose weights stay as they are; returns (changed tensors by name, info).

    `run` (a `runs.Run`) gets metrics.jsonl, one row a window, and a checkpoint every `checkpoint_every` lessons, from
    which the same call goes on. `retain` are prompts without the concept, read if the recipe has a retain.weight.
    `recipe.windows.length` must not be 0 here.
    """
    from ..runs import progress_bar as tqdm

    began = time.perf_counter()
    pairs = list(pairs)[: recipe.pairs]
    ahead = lessons(generator, pairs, recipe, seed, progress)
    retained = Retained(generator, retain, recipe, progress, pairs)
    sampled = time.perf_counter()

    names = tensor_names(recipe, len(generator.decoder_layers))
    student = student_parameters(generator.trunk, names, recipe.masters, recipe.rank, seed)
    switched_on = partial(applied, generator, student, recipe.positions)
    optimizer = torch.optim.Adam(student.values(), lr=recipe.lr, fused=True)
    scale = FP16_SCALE if generator.dtype == torch.float16 else 1.0
    counts = {"windows_trained": 0, "windows_skipped": 0, "tokens_trained": 0}
    first = checkpoint.restore(run, student, optimizer, counts)
    T = generator.num_codes
    bounds = window_bounds(T, T if recipe.windows.length == WHOLE else recipe.windows.length, recipe.windows.tail)

    bar = tqdm(
        range(first, len(ahead)),
        initial=first,
        total=len(ahead),
        unit="lesson",
        desc="erasing",
        disable=not progress,
        leave=False,
    )
    for i in bar:
        lesson = ahead[i](switched_on)
        rows = []
        for a, b in visiting_order(bounds, recipe.windows.order, seed, i):
            keep = retained.lesson(seed, i * T + a, student)
            with switched_on():
                # ------------------------------------------------------------ one window, one forward pass
                loss_W = lesson.losses(
                    a, b
                )  # L_t of its tokens: `lessons.py` reads them, `objective.py` has the equation
                loss, teaches, kept = window_loss(loss_W, recipe.gate)  # WGA: their sum; TLM: does it exceed mu?
                if teaches:
                    optimizer.zero_grad(set_to_none=True)
                    total = loss + keep((b - a) / T)  # preservation, where the recipe has it
                    (total * scale).backward()
            value = loss.item()
            if not math.isfinite(value):
                raise UserError(
                    f"the loss is {value} at lesson {i}, token {a}; use a smaller lr, or a wider --dtype than {generator.dtype}".replace(
                        "torch.", ""
                    )
                )
            if teaches:
                if scale != 1:
                    for p in student.values():
                        p.grad /= scale
                optimizer.step()
                # ------------------------------------------------------------
            counts["windows_trained" if teaches else "windows_skipped"] += 1
            counts["tokens_trained"] += kept if teaches else 0
            rows.append({"lesson": i, "start": a, "tokens": b - a, "loss": value, "kept": kept, "trained": teaches})
        bar.set_postfix(loss=f"{sum(r['loss'] for r in rows) / len(rows):.3f}", skipped=counts["windows_skipped"])
        if run:
            for row in rows:
                run.log(**row)
            if (i + 1) % checkpoint_every == 0 and i + 1 < len(ahead):
                checkpoint.save(run, i + 1, student, optimizer, counts)

    done = time.perf_counter()
    info = counts | {
        "seconds": round(done - began, 3),
        "seconds_sampling": round(sampled - began, 3),
        "seconds_training": round(done - sampled, 3),
    }
    changed = {
        name: p.detach().to(generator.dtype) for name, p in student.items()
    }  # kept in the format in which the trunk computes
    return changed, info | {"pairs": len(pairs), "parameters": sum(p.numel() for p in student.values())}


def visiting_order(bounds, order: str, seed: int, lesson: int):
    """The windows of one picture in the order in which they train."""
    if order == "raster":
        return bounds
    generator = torch.Generator().manual_seed(seed * 1_000_003 + lesson)
    return [bounds[k] for k in torch.randperm(len(bounds), generator=generator)]
