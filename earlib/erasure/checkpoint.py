"""Saving a training run so that it can be killed at any moment: student tensors, Adam's state and the place in the
data, in one file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from ..errors import UserError
from ..runs import write_bytes

if TYPE_CHECKING:
    from ..runs import Run

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save(run: Run, next_lesson: int, student: dict, optimizer: torch.optim.Optimizer, counts: dict) -> None:
    """Write checkpoints/last.safetensors atomically; `next_lesson` is the first lesson not yet taught."""
    tensors = {f"student/{name}": p.detach().contiguous() for name, p in student.items()}
    for name, p in student.items():
        if p in optimizer.state:
            tensors |= {f"{key}/{name}": optimizer.state[p][key].detach().clone().contiguous() for key in MOMENTS}
    metadata = {"state": json.dumps({"next_lesson": next_lesson, "counts": counts})}
    write_bytes(run.checkpoints / "last.safetensors", to_bytes(tensors, metadata))


@torch.no_grad()
def restore(run: Run | None, student: dict, optimizer: torch.optim.Optimizer, counts: dict) -> int:
    """Bring everything back in place and return the lesson to go on with; 0 if there is no run or nothing saved."""
    if run is None:
        return 0
    file = run.checkpoints / "last.safetensors"
    state: dict[str, Any] = {"next_lesson": 0, "counts": {}}
    if file.exists():
        try:
            with safe_open(file, "pt") as tensors:
                state = json.loads(tensors.metadata()["state"])
                for name, p in student.items():
                    p.copy_(tensors.get_tensor(f"student/{name}"))
                    if f"step/{name}" in tensors.keys():
                        # a fused step wants its count of steps beside the rest, on a GPU too
                        optimizer.state[p] = {key: tensors.get_tensor(f"{key}/{name}").to(p.device) for key in MOMENTS}
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            line = f"{file}: broken checkpoint ({str(error).splitlines()[0]})"
            raise UserError(f"{line}; delete it to start this run anew") from None
    counts.update(state["counts"])
    run.rewind(state["next_lesson"], key="lesson")
    return state["next_lesson"]
