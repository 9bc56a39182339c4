"""The training loop of every method that trains, of both families: lesson after lesson, a step for whatever teaches.

Read top to bottom. For EAR a lesson is one prompt pair (c, r), and its steps are windows of W image tokens. The
teacher's pictures are fixed beforehand and attention is causal, so the W tokens of a window are one forward pass over
the carried key/value cache, and that equals feeding them one by one (a test holds the two to 1e-9 in float64). Keys and
values of earlier windows are constants, as they are in a rollout; inside a window gradients flow.

There is one model, and its weights are the teacher's. The student is a dict of the few tensors that learn; inside
`with as_student():` the model computes with them in place of its own weights, or beside them (`change.applied`).

What a lesson compares is in `lessons.py` (`lessons_scale.py` for next-scale models), by the recipe; what all lessons
offer is in `lesson.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from functools import partial, reduce
from typing import Any

import torch

from ..concepts import PromptPair
from ..errors import UserError
from ..generators.base import Generator
from ..runs import Run, progress_bar
from . import checkpoint
from .change import applied, student_parameters, tensor_names
from .lesson import AllLessons
from .lessons import Lessons
from .lessons_scale import ScaleLessons
from .recipe import Recipe
from .recipe_scale import ScaleRecipe

FP16_SCALE = 1024.0  # lifts gradients of a few 1e-8 over what float16 rounds to zero; the step divides by it again


def train(
    generator: Generator,
    pairs: Iterable[PromptPair],
    recipe: Recipe | ScaleRecipe,
    seed: int,
    run: Run | None = None,
    progress: bool = False,
    checkpoint_every: int = 10,
    retain: Iterable[str] = (),
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Erase with `recipe` from `generator`, whose weights stay as they are.

    Args:
        generator: the teacher.
        pairs: prompt pairs of the concept.
        recipe: of the generator's family; a window's length must be one in tokens, or the whole picture.
        seed: of the training.
        run: gets metrics.jsonl and a checkpoint every `checkpoint_every` lessons, from which the same call goes on.
        progress: show a bar with the time left.
        checkpoint_every: lessons.
        retain: prompts without the concept, read if the recipe preserves some.

    Returns:
        Changed tensors by name, in the format in which the trunk computes, and what happened.

    Raises:
        UserError: a loss that is not finite.
    """
    began = time.perf_counter()
    kind: type[AllLessons] = ScaleLessons if isinstance(recipe, ScaleRecipe) else Lessons
    lessons = kind(generator, pairs, recipe, seed, retain, progress)  # draws the teacher's pictures
    sampled = time.perf_counter()

    names = tensor_names(recipe, len(generator.decoder_layers), generator.trunk)
    student = student_parameters(generator.trunk, names, recipe.masters, recipe.rank, seed)
    as_student = partial(applied, generator, student, lessons.positions)
    parameters = list(student.values())
    optimizer = recipe.optimizer(parameters)
    counts = lessons.counts
    lasting = student | lessons.memory  # what a checkpoint holds, beside Adam's moments
    first, count = checkpoint.restore(run, lasting, optimizer, counts), len(lessons)
    scale = FP16_SCALE if generator.dtype == torch.float16 else 1.0

    about = {"unit": lessons.unit, "desc": "erasing", "disable": not progress, "leave": False}
    bar = progress_bar(range(first, count), initial=first, total=count, **about)
    for i in bar:
        lesson = lessons.begin(i, as_student)  # the teacher's targets along what was drawn
        for step in lesson.steps:
            preservation = lesson.preservation(step, student)  # here the teacher reads; the student's part comes below
            with as_student():
                # ------------------------------------------------ one step: for EAR one window, one forward pass
                losses = lesson.losses(step.start, step.stop)  # L_t of its tokens
                loss, teaches, kept = lesson.gate(losses)  # WGA: their sum. TLM: does it exceed mu? Else skip it
                terms = [loss]
                if teaches and preservation:
                    terms.append(preservation())
                values = [term.item() for term in terms]
                if not all(map(math.isfinite, values)):
                    raise UserError(_diverged(sum(values), lessons.unit, i, step.start, generator))
                terms = [term for term in terms if teaches and term.requires_grad]  # none: nothing to learn, no step
                against = False
                if terms:
                    optimizer.zero_grad(set_to_none=True)
                    against = backward(terms, parameters, recipe.update == "project", scale)
            if terms:
                if recipe.clip:
                    torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
                optimizer.step()  # one Adam step
                # ------------------------------------------------
            lesson.note(step, values, teaches, kept, against)
        for name, value in lesson.counts.items():
            counts[name] += value
        rows = lesson.rows
        sums = {key: sum(row[key] for row in rows) for key in ("loss", "kept", "tokens")}
        bar.set_postfix(loss=f"{sums['loss'] / len(rows):.3f}", kept=f"{sums['kept'] / sums['tokens']:.2f}")
        if run:
            for row in rows:
                run.log(**row)
            if (i + 1) % checkpoint_every == 0 and i + 1 < count:
                checkpoint.save(run, i + 1, lasting, optimizer, counts)

    done = time.perf_counter()
    info: dict[str, Any] = counts | lessons.summary(counts)
    info |= {"seconds": round(done - began, 3), "seconds_sampling": round(sampled - began, 3)}
    info |= {"seconds_training": round(done - sampled, 3), "pairs": len(lessons.pairs) // recipe.pictures}
    info["parameters"] = sum(p.numel() for p in parameters)
    return {name: p.detach().to(generator.dtype) for name, p in student.items()}, info


def backward(terms: list[torch.Tensor], parameters: Sequence[torch.Tensor], project: bool, scale: float = 1.0) -> bool:
    """Gradients of the sum of `terms`, computed `scale` times as large.

    With `project`, g = g_1 + g_2, and g_1 loses its part along g_2 first if g_1 . g_2 < 0 (Yu et al. 2020, arXiv
    2001.06782, for one of two tasks).

    Returns:
        Whether the first one's went against the second's, which is only known where `project` asks for it.
    """
    total = lambda parts: reduce(torch.add, parts)
    if not project or len(terms) < 2:
        (total(terms) * scale).backward()
        if scale != 1:
            for p in parameters:
                if p.grad is not None:  # a loss need not reach all of them
                    p.grad.div_(scale)
        return False
    of_erasing, of_keeping = (
        torch.autograd.grad(term, parameters, allow_unused=True, materialize_grads=True) for term in terms
    )
    dot = total((a * b).sum() for a, b in zip(of_erasing, of_keeping))
    against = bool(dot < 0)
    part = dot / total(b.square().sum() for b in of_keeping) if against else 0.0
    for p, a, b in zip(parameters, of_erasing, of_keeping):
        p.grad = a - part * b + b
    return against


def _diverged(loss: float, unit: str, lesson: int, token: int, generator: Generator) -> str:
    where = f"lesson {lesson}, token {token}" if unit == "lesson" else f"{unit} {lesson}"
    dtype = str(generator.dtype).removeprefix("torch.")
    return f"the loss is {loss} at {where}; use a smaller lr, or a wider --dtype than {dtype}"
