"""Where the models run and in which number format: decided once, with the reason; how much memory is free there;
whether numbers stayed finite."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError, nearest

if TYPE_CHECKING:
    import torch

DTYPES = {  # accepted spelling -> torch's name
    **{name: name for name in ("float32", "bfloat16", "float16", "float64")},
    **{"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"},
}


@dataclass(frozen=True)
class Placement:
    """Where frozen weights live. What is trained is kept in float32 whatever `dtype` says."""

    device: torch.device
    dtype: torch.dtype
    reason: str  # for people: "bfloat16, because compute capability 9.0 is 8.0 or newer"


def decide(device: str | None = None, dtype: str | None = None) -> Placement:
    """Device and dtype; what is not given is chosen: a GPU if there is one, and the format that it computes fast.

    bfloat16 from compute capability 8.0 on, float16 on older GPUs (a T4 would emulate bfloat16), float32 on a CPU and
    elsewhere.
    Raises UserError for a device that is not there, or an unknown dtype.
    """
    import torch

    why = "asked for"
    if device is None:
        device, why = ("cuda", "the first GPU") if torch.cuda.is_available() else ("cpu", "no GPU was found")
    chosen = _existing(str(device))
    where = f"{_name(chosen)} ({why})"
    if dtype is not None:
        spelling = str(dtype).removeprefix("torch.")
        if spelling not in DTYPES:
            raise UserError(f"unknown dtype '{dtype}'; {nearest(spelling, DTYPES)}")
        return Placement(chosen, getattr(torch, DTYPES[spelling]), f"{where}; {DTYPES[spelling]}, as asked for")
    if chosen.type != "cuda":
        return Placement(chosen, torch.float32, f"{where}; float32, exact and the fastest format there")
    major, minor = torch.cuda.get_device_capability(chosen)
    if (major, minor) >= (8, 0):
        return Placement(
            chosen, torch.bfloat16, f"{where}; bfloat16, because compute capability {major}.{minor} is 8.0 or newer"
        )
    return Placement(
        chosen,
        torch.float16,
        f"{where}; float16, because compute capability {major}.{minor} is older than 8.0 and has no fast bfloat16",
    )


def _existing(device: str) -> torch.device:
    """`device` as torch knows it, if this machine has it."""
    import torch

    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"unknown device '{device}'; use cpu, cuda, cuda:1 or mps")
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            instead = "cpu or cuda:0" if count else "cpu"
            raise UserError(f"there is no device '{device}'; GPUs on this machine: {count}; use {instead}")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("there is no device 'mps' on this machine; use cpu")
    return chosen


def _name(device: torch.device) -> str:
    import torch

    return f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def free_memory(device: torch.device | str = "cpu") -> int | None:
    """Bytes that a program may still take on `device`; None where the system does not tell (macOS).

    On a CPU the smaller of what the kernel calls available and what the container's limit (cgroup v2) leaves.
    """
    if str(device).startswith("cuda"):
        import torch

        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )  # torch's own cache, which it would use again
        return torch.cuda.mem_get_info(device)[0] + held
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return free if limit == "max" else min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        return free


def check_finite(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """`tensor` itself; UserError if it holds an infinity or NaN, as float16 (largest number 65504) may where bfloat16
    does not.

    It waits for the device, so call it once for each teacher state or window, not for each token.
    """
    import torch

    if bool(torch.isfinite(tensor).all()):
        return tensor
    name = str(tensor.dtype).removeprefix("torch.")
    wider = {
        "float16": "use --dtype bfloat16, or float32 on a GPU that has no bfloat16",
        "bfloat16": "use --dtype float32",
    }
    raise UserError(f"{what}: infinite or not a number in {name}; {wider.get(name, 'the weights are damaged')}")


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
