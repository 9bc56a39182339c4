"""The training loop of every mini model: seeded, resumable bit for bit, logged with its seconds. What is learned is
elsewhere."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..runs import write_text


def share_of_peak(step: int, steps: int, warmup: int = 60, fall: float = 1.0) -> float:
    """Learning rate as a share of its peak: up in a line, level, then a cosine to zero over the last `fall` of all
    steps."""
    if step < warmup:
        return (step + 1) / warmup
    level = max(warmup, round((1 - fall) * steps))
    if step < level:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - level) / max(1, steps - level)))


def load_mean(module: nn.Module, name: str, folder: Path) -> int:
    """Give a module the mean weights of the unfinished run in `folder`, which trained it under `name`; return the step.

    The module must ask for gradients where it did in training.
    """
    state = torch.load(folder / "state.pt", weights_only=True)
    module.load_state_dict(state["modules"][name])
    with torch.no_grad():
        for p, mean in zip([p for p in module.parameters() if p.requires_grad], state["means"]):
            p.copy_(mean)
    return state["step"]


def fit(
    modules: dict[str, nn.Module],
    loss_at: Callable[[int], tuple[Tensor, dict[str, float]]],
    *,
    folder: Path,
    steps: int,
    lr: float,
    seed: int = 0,
    weight_decay: float = 0.01,
    fall: float = 1.0,
    matrices: Iterable[nn.Parameter] = (),
    matrix_lr: float = 4e-3,
    average: float = 0.0,
    after_step: Callable[[int], None] | None = None,
    save_every: float = 150.0,
    stop_at: int | None = None,
    keep: int | None = None,
) -> list[dict]:
    """Train in place by AdamW, and the hidden matrices listed in `matrices` by Muon.

    Args:
        modules: name to module; their parameters are trained, their parameters and buffers kept in the checkpoint.
        loss_at: of the step: (loss, numbers to log). It must draw its data from a generator seeded by the step, so that
            a run that was killed and started again sees what it would have seen.
        folder: where state.pt and log.jsonl lie.
        lr, matrix_lr: peak learning rates of AdamW and Muon.
        fall: share of the steps during which the rates fall to zero; before, they are level.
        average: decay of an exponential mean of the parameters, which replaces them at the end; 0 for none.
        after_step: called with the step after each update.
        save_every: seconds between checkpoints.
        stop_at: end before this step, with a checkpoint, as if killed.
        keep: leave the checkpoint before this step for good, as state-STEP.pt, for other runs to go on from.

    Returns:
        The log: {"step", "loss", the numbers, "seconds" of training so far}, a row every 20 steps.

    Raises:
        SystemExit: if `folder` holds a run of other length or seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    params = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
    by_muon = {id(p) for p in matrices}
    others = [p for p in params if id(p) not in by_muon]
    optimizers = [torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)]
    if by_muon:
        chosen = [p for p in params if id(p) in by_muon]
        optimizers.append(
            torch.optim.Muon(chosen, lr=matrix_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    state_file, start, spent, log = folder / "state.pt", 0, 0.0, []
    means = [p.detach().clone() for p in params] if average else []
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=params[0].device)
        if (state["steps"], state["seed"]) != (steps, seed):
            raise SystemExit(
                f"{folder}: holds a run of {state['steps']} steps with seed {state['seed']}; remove it first"
            )
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        for mean, saved in zip(means, state["means"]):
            mean.copy_(saved)
        start, spent, log = state["step"], state["seconds"], state["log"]

    def save(step: int, file: Path = state_file) -> None:
        state = {"step": step, "steps": steps, "seed": seed, "seconds": seconds(), "log": log, "means": means}
        state |= {"modules": {n: m.state_dict() for n, m in modules.items()}}
        torch.save(state | {"optimizers": [o.state_dict() for o in optimizers]}, file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)
        write_text(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in log))

    seconds = lambda: spent + time.time() - began
    began = saved = time.time()
    end = steps if stop_at is None else min(stop_at, steps)
    for step in range(start, end):
        for optimizer, peak in zip(optimizers, (lr, matrix_lr)):
            for group in optimizer.param_groups:
                group["lr"] = peak * share_of_peak(step, steps, fall=fall)
        loss, numbers = loss_at(step)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if average:  # the mean of the first steps is short, or it would remember where it began
            torch._foreach_lerp_(means, [p.detach() for p in params], 1 - min(average, (step + 1) / (step + 10)))
        if after_step:
            after_step(step)
        if step % 20 == 0 or step == steps - 1:
            row = {"step": step, "loss": loss.item()} | {k: float(v) for k, v in numbers.items()}
            log.append({k: round(v, 5) for k, v in row.items()} | {"seconds": round(seconds(), 1)})
            pace = (time.time() - began) / (step - start + 1)
            text = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "step")
            print(
                f"step {step}/{steps}  {text}  {pace:.2f} s/step, {pace * (steps - step) / 60:.0f} min left", flush=True
            )
        if step + 1 == keep:
            save(keep, folder / f"state-{keep}.pt")
        if time.time() - saved > save_every:
            save(step + 1)
            saved = time.time()
    if start < end:
        save(end)
    if average and end == steps:
        with torch.no_grad():
            for p, mean in zip(params, means):
                p.copy_(mean)
    return log
