"""The training loop of every next-scale method that trains: update after update, a step for each (or two, as S-VARE's
released code takes).

The student is the same modules with a few parameters exchanged, or with adapters beside them, as in the next-token
family (`erasure/trainable.py`); the teacher is the model as loaded. What an update compares is in `lessons.py`.
"""

from __future__ import annotations

import math
import time

import torch

from ..errors import UserError
from . import checkpoint
from .change import layer_range, student_parameters
from .scale_lessons import Lessons
from .scale_recipe import PARTS
from .scale_store import applied_at

TERMS = {
    "sum": (("erase", "retain"),),
    "project": (("erase", "retain"),),
    "two-steps": (("erase",), ("retain",)),
}  # update -> the losses of each of its steps


def tensor_names(recipe, trunk) -> list[str]:
    """Names of the changed tensors, relative to the trunk: `blocks.0.cross_attention.q.weight`, ...; biases too, where
    whole layers train everywhere."""
    modules = [
        f"blocks.{i}.{part}" for i in layer_range(recipe.layers, len(trunk.blocks)) for part in PARTS[recipe.modules]
    ]
    leaves = ("weight",) if recipe.rank or recipe.positions == "scales" else ("weight", "bias")
    return [
        f"{module}.{leaf}"
        for module in modules
        for leaf in leaves
        if getattr(trunk.get_submodule(module), leaf) is not None
    ]


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

    `run` (a `runs.Run`) gets metrics.jsonl, one row an update, and a checkpoint every `checkpoint_every` updates, from
    which the same call goes on. `retain` are prompts without the concept, read if the recipe has a retain.weight for
    them. Updates in which the filter keeps nothing are counted.
    """
    from ..runs import progress_bar as tqdm

    began = time.perf_counter()
    ahead = Lessons(generator, pairs, recipe, seed, retain, progress)
    sampled = time.perf_counter()

    student = student_parameters(generator.trunk, tensor_names(recipe, generator.trunk), "float32", recipe.rank, seed)
    switched_on = lambda: applied_at(generator, student, recipe.positions, ahead.span)
    optimizer = torch.optim.AdamW(
        student.values(), lr=recipe.lr, betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay, fused=True
    )
    counts = {"updates": 0, "updates_empty": 0, "updates_in_conflict": 0, "tokens_kept": 0, "tokens_seen": 0}
    first = checkpoint.restore(run, student, optimizer, counts)

    bar = tqdm(
        range(first, len(ahead)),
        initial=first,
        total=len(ahead),
        unit="update",
        desc="erasing",
        disable=not progress,
        leave=False,
    )
    for i in bar:
        lesson = ahead.begin(i, switched_on)
        for terms in TERMS[recipe.update]:
            with switched_on():
                losses = [
                    getattr(lesson, term)() for term in terms
                ]  # L_FCE and lambda L_Pre: the equations are in `lessons.py`
                if not all(math.isfinite(loss.item()) for loss in losses):
                    raise UserError(
                        f"the loss is {sum(losses).item()} at update {i}; use a smaller lr, or a wider --dtype than {generator.dtype}"
                    )
                losses = [loss for loss in losses if loss.requires_grad]  # an empty filter teaches nothing
                if not losses:
                    continue
                optimizer.zero_grad(set_to_none=True)
                counts["updates_in_conflict"] += backward(
                    losses, list(student.values()), project=recipe.update == "project"
                )
            if recipe.clip:
                torch.nn.utils.clip_grad_norm_(student.values(), recipe.clip)
            optimizer.step()
        seen = lesson.report
        counts["updates"] += 1
        counts["updates_empty"] += not seen["kept"]
        counts["tokens_kept"] += seen["kept"]
        counts["tokens_seen"] += seen["tokens"]
        bar.set_postfix(loss=f"{seen['unfiltered']:.3f}", kept=f"{seen['kept'] / seen['tokens']:.2f}")
        if run:
            run.log(lesson=i, **seen)
            if (i + 1) % checkpoint_every == 0 and i + 1 < len(ahead):
                checkpoint.save(run, i + 1, student, optimizer, counts)

    done = time.perf_counter()
    info = counts | {"share_kept": round(counts["tokens_kept"] / counts["tokens_seen"], 6)}
    info |= {
        "seconds": round(done - began, 3),
        "seconds_sampling": round(sampled - began, 3),
        "seconds_training": round(done - sampled, 3),
    }
    changed = {
        name: p.detach().to(generator.dtype) for name, p in student.items()
    }  # kept in the format in which the trunk computes
    return changed, info | {
        "pairs": len(ahead.pairs) // recipe.pictures,
        "parameters": sum(p.numel() for p in student.values()),
    }


def backward(losses: list[torch.Tensor], parameters: list[torch.Tensor], project: bool) -> bool:
    """Gradients of the sum of `losses`. Returns whether the first one's went against the second's, which is only known
    where `project` asks for it.

    project: g = g_1 + g_2, and g_1 loses its part along g_2 first if g_1 . g_2 < 0 (Yu et al. 2020, arXiv 2001.06782,
    for one of two tasks).
    """
    if not project or len(losses) < 2:
        sum(losses).backward()
        return False
    of_erasing, of_keeping = (
        torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True) for loss in losses
    )
    dot = sum((a * b).sum() for a, b in zip(of_erasing, of_keeping))
    square = sum(b.square().sum() for b in of_keeping)
    against = (dot < 0).item()
    part = dot / square if against else 0.0
    for p, a, b in zip(parameters, of_erasing, of_keeping):
        p.grad = a - part * b + b
    return against
