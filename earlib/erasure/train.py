"""The training loop of EAR: one pass over the prompt pairs, one update for each window that teaches.

Read top to bottom. The teacher's pictures are fixed beforehand and attention is causal, so the W tokens of a window are one forward pass over the
carried key/value cache, and that equals feeding them one by one (a test holds the two to 1e-9 in float64). Keys and values of earlier
windows are constants, as they are in a rollout; inside a window gradients flow.
"""

from __future__ import annotations

import time

import torch

from ..generators.base import Past
from . import checkpoint
from .objective import token_loss, window_loss
from .trainable import student_parameters, switched, tensor_names
from .trajectories import all_trajectories, both_rows, teacher_targets


def window_bounds(tokens: int, length: int, tail: str) -> list[tuple[int, int]]:
    """First and last (exclusive) token of every window of a picture; a short last window is kept or dropped."""
    bounds = [(a, min(a + length, tokens)) for a in range(0, tokens, length)]
    return bounds if tail == "keep" else [(a, b) for a, b in bounds if b - a == length]


def train(generator, pairs, recipe, seed: int, run=None, progress: bool = False, checkpoint_every: int = 10):
    """Erase with `recipe` from `generator`, whose weights stay as they are; returns (changed tensors by name, info).

    `run` (a `runs.Run`) gets metrics.jsonl, one row a window, and a checkpoint every `checkpoint_every` pairs, from which the same call
    goes on. `recipe.windows.length` must be at least 1 here.
    """
    from tqdm.auto import tqdm

    began = time.perf_counter()
    pairs = list(pairs)[: recipe.pairs]
    trajectories = all_trajectories(generator, pairs, recipe, seed, progress)
    targets = teacher_targets(generator, pairs, trajectories, recipe)
    sampled = time.perf_counter()

    student = student_parameters(generator.trunk, tensor_names(recipe, len(generator.decoder_layers)))
    optimizer = torch.optim.Adam(student.values(), lr=recipe.lr)
    counts = {"windows_trained": 0, "windows_skipped": 0, "tokens_trained": 0}
    first_pair = checkpoint.restore(run, student, optimizer, counts)
    bounds = window_bounds(generator.num_image_tokens, recipe.windows.length, recipe.windows.tail)

    bar = tqdm(range(first_pair, len(pairs)), initial=first_pair, total=len(pairs), unit="pair", desc="erasing", disable=not progress, leave=False)
    for i in bar:
        prompt = both_rows(generator, pairs[i].target)
        tokens_2T = trajectories["concept"][i : i + 1].to(generator.device).expand(2, -1)
        past = Past()
        rows = []
        for a, b in visiting_order(bounds, recipe.windows.order, seed, i):
            with switched(generator.trunk, student):
                if recipe.windows.order == "random":  # the carried cache ends elsewhere: read what lies before this window anew
                    past = read_prefix(generator, prompt, tokens_2T[:, :a])
                # ------------------------------------------------------------ one window, one forward pass
                h_2WD = generator.hidden_states(prompt, tokens_2T[:, a:b], past)  # h_t(c), t in the window
                loss_W = token_loss(h_2WD, targets[i][:, a:b])  # L_t
                loss, teaches, kept = window_loss(loss_W, recipe.gate)  # WGA: their sum; TLM: does it exceed mu?
                if teaches:
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
            if teaches:
                optimizer.step()
                # ------------------------------------------------------------
            past.detach_()
            counts["windows_trained" if teaches else "windows_skipped"] += 1
            counts["tokens_trained"] += kept if teaches else 0
            rows.append({"pair": i, "start": a, "tokens": b - a, "loss": loss.item(), "kept": kept, "trained": teaches})
        bar.set_postfix(loss=f"{sum(r['loss'] for r in rows) / len(rows):.3f}", skipped=counts["windows_skipped"])
        if run:
            for row in rows:
                run.log(**row)
            if (i + 1) % checkpoint_every == 0 and i + 1 < len(pairs):
                checkpoint.save(run, i + 1, student, optimizer, counts)

    done = time.perf_counter()
    info = counts | {"seconds": round(done - began, 3), "seconds_sampling": round(sampled - began, 3), "seconds_training": round(done - sampled, 3)}
    return {name: p.detach() for name, p in student.items()}, info | {"pairs": len(pairs), "parameters": sum(p.numel() for p in student.values())}


def visiting_order(bounds, order: str, seed: int, pair: int):
    """The windows of one picture in the order in which they train."""
    if order == "raster":
        return bounds
    generator = torch.Generator().manual_seed(seed * 1_000_003 + pair)
    return [bounds[k] for k in torch.randperm(len(bounds), generator=generator)]


def read_prefix(generator, prompt, tokens_2A: torch.Tensor) -> Past:
    """A cache that holds the prompt and the tokens before a window, as constants."""
    past = Past()
    if tokens_2A.shape[1]:
        with torch.no_grad():
            generator.hidden_states(prompt, tokens_2A, past)
    return past
