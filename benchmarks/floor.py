"""What the work cannot be faster than: bytes and multiplications counted, bandwidth and rate measured on the same
machine in the same run.

Counted are the weights' matrix products, attention, the decoding to pixels, and the bytes of weights, keys and values
that a step reads; norms, softmax and noise are not.

Where other processes share the machine, seconds on the wall say nothing, of the work as of its floor. So on a CPU there
is a second ratio: seconds of cores, by the process's own clock, over the floor at the rates of one core by that clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Machine:
    flops: float  # multiplications and additions a second, of matrix products in the model's number format
    bandwidth: float  # bytes a second, read plus written, of a copy


def synchronize(device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(work, device, clock: Callable[[], float] = time.perf_counter, repeats: int = 5) -> float:
    """The fastest of some repetitions."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        began = clock()
        work()
        synchronize(device)
        times.append(clock() - began)
    return min(times[1:])


def measure(device, dtype, clock: Callable[[], float] = time.perf_counter) -> Machine:
    """The rate of a large matrix product and the bandwidth of a large copy."""
    side, size = (8192, 2**29) if torch.device(device).type == "cuda" else (2048, 2**26)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    flops = 2 * side**3 / best_seconds(lambda: torch.mm(a, b, out=out), device, clock)
    x = torch.zeros(size, dtype=torch.float32, device=device)
    y = torch.empty_like(x)
    return Machine(flops, 2 * 4 * size / best_seconds(lambda: y.copy_(x), device, clock))


def measure_core(dtype) -> Machine:
    """The same of one core of the CPU, by the clock that runs only while this process computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure("cpu", dtype, time.process_time)
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Sizes:
    """What the counting needs to know of a generator."""

    layers: int  # parameters of the decoder layers
    head: int  # parameters that turn a state into logits over the codebook
    depth: int
    width: int
    element: int  # bytes of a number
    decode: int  # multiplications and additions that turn one picture's codes into pixels

    @classmethod
    def of(cls, generator) -> Sizes:
        count = lambda module: sum(p.numel() for p in module.parameters())
        head = (
            count(generator.model.model.generation_head)
            if hasattr(generator.model.model, "generation_head")
            else count(generator.model.lm_head)
        )
        width = generator.decoder_layers[0].self_attn.q_proj.in_features
        element = torch.empty((), dtype=generator.dtype).element_size()
        with FlopCounterMode(display=False) as counter:
            generator.decode(torch.zeros(1, generator.num_codes, dtype=torch.long))
        depth = len(generator.decoder_layers)
        return cls(count(generator.decoder_layers), head, depth, width, element, counter.get_total_flops())

    def pass_flops(self, row_tokens: int, context: float, heads: int | None = None) -> float:
        """A forward pass over `row_tokens` (rows x tokens) with a mean context; the head for `heads` of them (default:
        all)."""
        return 2 * (
            self.layers * row_tokens
            + self.head * (row_tokens if heads is None else heads)
            + 2 * self.depth * self.width * row_tokens * context
        )


def drawing_seconds(
    sizes: Sizes, machine: Machine, pictures: int, prompt: int, tokens: int, guided: bool = True
) -> float:
    """The floor of drawing codes: for each the larger of arithmetic and reading."""
    rows = pictures * (2 if guided else 1)
    total = max(
        sizes.pass_flops(rows * prompt, prompt / 2, rows) / machine.flops,
        sizes.layers * sizes.element / machine.bandwidth,
    )
    for t in range(1, tokens):
        read = (sizes.layers + sizes.head + rows * (prompt + t) * 2 * sizes.depth * sizes.width) * sizes.element
        total += max(sizes.pass_flops(rows, prompt + t) / machine.flops, read / machine.bandwidth)
    return total


def erasing_seconds(
    sizes: Sizes, machine: Machine, pairs: int, prompt: int, tokens: int, window: int, trained: int
) -> float:
    """The floor of an EAR run: three pictures a pair drawn ahead; the teacher's states along them; for every window
    forward, gradients with respect to states and trained weights; and Adam's traffic (master, two moments, gradient:
    read and written in float32).
    """
    read = 2 * (prompt + tokens)  # both rows
    states = 3 * sizes.pass_flops(read, (prompt + tokens) / 2, 0)
    student = 2 * sizes.pass_flops(read, (prompt + tokens) / 2, 0) + 2 * trained * read
    traffic = 7 * 4 * trained * (tokens / window) / machine.bandwidth
    return drawing_seconds(sizes, machine, 3 * pairs, prompt, tokens) + pairs * (
        (states + student) / machine.flops + traffic
    )
