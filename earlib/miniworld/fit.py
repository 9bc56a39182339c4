"""One training loop for all mini models: seeded, resumable, logged. What is learned is in `train.py`."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import torch


def learning_rate(step: int, steps: int, peak: float, warmup: int = 50) -> float:
    """Linear warm-up, then a cosine down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def fit(
    modules: dict,
    loss_at,
    *,
    folder: Path,
    steps: int,
    lr: float,
    weight_decay: float = 0.01,
    seed: int = 0,
    save_every: float = 120.0,
    after_step=None,
    clip: float = 1.0,
    matrices=(),
    matrix_lr: float = 4e-3,
):
    """Train `modules` (name to nn.Module) for `steps` updates of AdamW; the hidden matrices listed in `matrices` by
    Muon (with `matrix_lr`) instead.

    `loss_at(step)` returns (loss, numbers to log); it must draw its data from a generator seeded by `step`, so that a
    run that was killed and started again sees what it would have seen. State is kept in `folder`/train_state.pt, the
    log in `folder`/train_log.jsonl.
    """
    folder.mkdir(parents=True, exist_ok=True)
    params = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
    by_muon = {id(p) for p in matrices}
    others = [p for p in params if id(p) not in by_muon]
    optimizers = [
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay, fused=params[0].is_cuda)
    ]
    if by_muon:  # about half the steps for the same loss, at this size
        optimizers.append(
            torch.optim.Muon(list(matrices), lr=matrix_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    state_file, log_file = folder / "train_state.pt", folder / "train_log.jsonl"
    start, log = 0, []
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=params[0].device)
        if (state["steps"], state["seed"]) != (steps, seed):
            raise SystemExit(
                f"{folder}: holds a run of {state['steps']} steps with seed {state['seed']}; remove train_state.pt to start anew"
            )
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        start, log = state["step"], state["log"]

    def save(step):
        temporary = state_file.with_suffix(".tmp")
        state = {
            "step": step,
            "steps": steps,
            "seed": seed,
            "log": log,
            "optimizers": [o.state_dict() for o in optimizers],
        }
        torch.save(state | {"modules": {n: m.state_dict() for n, m in modules.items()}}, temporary)
        os.replace(temporary, state_file)
        log_file.write_text("".join(json.dumps(row) + "\n" for row in log))

    torch.manual_seed(seed)
    began = saved = time.time()
    for step in range(start, steps):
        for optimizer, peak in zip(optimizers, (lr, matrix_lr)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak)
        loss, numbers = loss_at(step)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, clip)
        for optimizer in optimizers:
            optimizer.step()
        if after_step:
            after_step(step)
        if step % 20 == 0 or step == steps - 1:
            row = {"step": step, "loss": loss.item()} | {k: float(v) for k, v in numbers.items()}
            log.append({k: round(v, 5) for k, v in row.items()})
            pace = (time.time() - began) / (step - start + 1)
            text = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "step")
            print(
                f"step {step}/{steps}  {text}  {pace:.2f} s/step, {pace * (steps - step) / 60:.0f} min left", flush=True
            )
        if time.time() - saved > save_every:
            save(step + 1)
            saved = time.time()
    save(steps)
    return log
