"""One EAR lesson at a model's true size, really trained: `python -m benchmarks.lesson --model janus-pro-1b-shape
--device cpu --dtype bfloat16`.

Says the seconds, the memory at the peak beside what `earlib doctor` promises, and the loss of every window. The
weights of a shape are random, so that its pictures are noise: they are made up here, not drawn, which would take
hundreds of passes. Everything else is what `erase` does with one prompt pair: the teacher's states along three
pictures, and a window after the other.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from earlib import ROOT, memory
from earlib.errors import UserError
from earlib.runs import read_lines, write_json


def held(device) -> tuple[int, int]:
    """Bytes that are held now, and the most that were held: of the GPU's memory, or of this process's."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    now, most = (int(status[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return now, most


def lesson(model: str, device: str | None = None, dtype: str | None = None, recipe_name: str = "ear") -> dict:
    """Train on one pair of the church concept.

    Returns:
        seconds of loading and of the lesson, losses of its windows; bytes of the weights, of the peak beside what was
        held before the model was loaded, and of what was promised.
    """
    import torch

    import earlib.generators.janus  # noqa: F401  what is imported later would count as the model's
    from earlib import load_generator
    from earlib.concepts import load_concept
    from earlib.device import decide
    from earlib.erasure import erase
    from earlib.erasure.presets import recipe
    from earlib.erasure.room import trained_parameters

    place = decide(device, dtype)
    if place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place.device)
    before, _ = held(place.device)
    began = time.perf_counter()
    generator = load_generator(model, device, dtype, parts="draw")
    loaded = time.perf_counter()
    noise = torch.Generator().manual_seed(0)
    codes, tokens = generator.codebook_size, generator.num_codes  # a lambda that held the generator would keep it alive
    generator.sample = lambda prompts, *args, **more: torch.randint(codes, (len(prompts), tokens), generator=noise)
    concept, r = load_concept("church", "mini"), recipe(recipe_name, generator, pairs=1)
    with tempfile.TemporaryDirectory() as folder, patch("earlib.erasure.trajectories.CACHE", Path(folder)):
        cpu = time.process_time()
        erase(generator, concept, r, out=Path(folder) / "run", progress=False)
        seconds, cpu = time.perf_counter() - loaded, time.process_time() - cpu
        rows = read_lines(Path(folder) / "run" / "metrics.jsonl")
    _, most = held(generator.device)
    sizes = memory.sizes_of_generator(generator)
    trained = trained_parameters(sizes, r)
    return {
        "model": model,
        "device": str(generator.device),
        "dtype": str(generator.dtype).removeprefix("torch."),
        "seconds_loading": round(loaded - began, 1),
        "seconds": round(seconds, 1),
        "seconds_of_cores": round(cpu, 1),
        "losses": [row["loss"] for row in rows],
        "weights": memory.weight_bytes(sizes, generator.dtype),
        "peak": most - before,
        "promised": memory.to_train(sizes, generator.dtype, trained, rows[0]["tokens"]),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lesson", description=__doc__.split(":")[0])
    parser.add_argument("--model", default="janus-pro-1b-shape")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--out", type=Path, help="default: runs/benchmarks/lesson-MODEL-DTYPE.json")
    args = parser.parse_args(argv)
    try:
        found = lesson(args.model, args.device, args.dtype)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    name = f"lesson-{Path(args.model).name}-{found['dtype']}.json"
    out = write_json(args.out or ROOT / "runs" / "benchmarks" / name, found)
    losses = found["losses"]
    print(
        f"{found['model']} on {found['device']} in {found['dtype']}: {len(losses)} windows in {found['seconds']} s "
        f"({found['seconds_of_cores']} s of cores); loss {losses[0]:.3g} to {losses[-1]:.3g}; "
        f"{memory.gigabytes(found['peak'])} at the peak, {memory.gigabytes(found['promised'])} promised\n{out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
