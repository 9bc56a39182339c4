"""One command, one table, one JSON: `python -m benchmarks [--model mini] [--pairs 8] [--pictures 1 16 64] [--out
runs/benchmarks/mini.json]`.

Each row is a measurement of this run, beside its floor and its rival. Where the maths is equal the outputs are compared
before a time is believed. On a GPU `--model janus-pro-7b-shape` measures the true size with random weights.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from earlib import ROOT
from earlib.errors import UserError
from earlib.runs import write_json


def timed(work, device):
    """The result of one call and what it took: seconds, on a CPU seconds of cores, on a GPU bytes at the peak."""
    import torch

    from .floor import synchronize

    gpu = torch.device(device).type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    synchronize(device)
    began, cores = time.perf_counter(), time.process_time()
    result = work()
    synchronize(device)
    took = {"seconds": time.perf_counter() - began, "cores": None if gpu else time.process_time() - cores}
    return result, took | {"memory": torch.cuda.max_memory_allocated(device) if gpu else None}


def against(floor_of, machine, core, took: dict) -> dict:
    """The floor of some work, and how many times it the work took; on a CPU by the clock of its cores, too."""
    least = floor_of(machine)
    ratios = {"floor": least, "times_floor": took["seconds"] / least}
    return ratios | ({"times_floor_of_cores": took["cores"] / floor_of(core)} if core else {})


def some_prompts(generator, n: int) -> list[str]:
    from earlib.concepts import load_concept

    concept = load_concept(
        "church",
        "mini"
        if generator.profile in ("mini", "custom") or generator.profile.endswith("-shape")
        else generator.profile,
    )
    prompts = [p for kind in ("direct", "compositional") for p in concept.tests[kind]] + list(concept.benign)
    return (prompts * (n // len(prompts) + 1))[:n]


def drawing(generator, counts: list[int], rival: bool) -> list[dict]:
    """Pictures (tokens and pixels) at each batch size; transformers' `generate` at the largest, and as many as the next
    largest one by one, which takes longest."""
    from earlib.generators import draw

    from . import floor, rivals

    machine, core, sizes = machines(generator)
    draw(generator, some_prompts(generator, 1), progress=False)  # libraries set themselves up
    rows = []

    def add(case, n, took):
        length = generator.encode(some_prompts(generator, n)).ids_BP.shape[1]
        least = lambda m: floor.drawing_seconds(sizes, m, n, length, generator.num_codes) + n * sizes.decode / m.flops
        row = {"what": "drawing", "case": case, "n": n, "each": took["seconds"] / n}
        rows.append(row | took | against(least, machine, core, took))

    for n in counts:
        _, took = timed(
            lambda n=n: draw(generator, some_prompts(generator, n), batch_size=n, progress=False), generator.device
        )
        add("earlib", n, took)
    *fewer, n = sorted(counts)
    few = fewer[-1] if fewer else n
    if generator.device.type == "cpu" and few > 1:
        _, took = timed(
            lambda: draw(generator, some_prompts(generator, few), batch_size=1, progress=False), generator.device
        )
        add("earlib, one by one", few, took)
    if rival:
        work = lambda: generator.decode(
            rivals.transformers_generate(generator, some_prompts(generator, n), generator.guidance)
        )
        add("transformers generate", n, timed(work, generator.device)[1])
    return rows


@lru_cache(maxsize=1)
def machines(generator):
    """Rates of the machine, of one of its cores where that is what computes, and what is counted of the model."""
    from . import floor

    core = floor.measure_core(generator.dtype) if generator.device.type == "cpu" else None
    return floor.measure(generator.device, generator.dtype), core, floor.Sizes.of(generator)


def erasing(generator, pairs: int, rival_pairs: int, recipe_name: str) -> list[dict]:
    """A whole run, trajectories included and nothing cached, beside the plain loop on (possibly fewer) pairs."""
    import torch

    import earlib.erasure.trajectories as trajectories
    from earlib.concepts import load_concept
    from earlib.erasure import window_length
    from earlib.erasure.presets import recipe
    from earlib.erasure.train import train

    from . import floor, rivals

    profile = "mini" if generator.profile == "mini" else "custom"
    concept = load_concept("church", "mini")
    r = recipe(recipe_name, profile)
    r = recipe(recipe_name, profile, **{"windows.length": window_length(r, concept, generator)})
    machine, core, sizes = machines(generator)
    rows = []
    own_cache = trajectories.CACHE

    def add(case, n, took, trained, agree=None):
        length = generator.encode([concept.pairs[0].target]).ids_BP.shape[1]
        least = lambda m: floor.erasing_seconds(sizes, m, n, length, generator.num_codes, r.windows.length, trained)
        row = {"what": f"erasing, {recipe_name}", "case": case, "n": n, "each": took["seconds"] / n, "agree": agree}
        if recipe_name == "ear":  # the released loop does other work: that floor is not its own
            row |= against(least, machine, core, took)
        rows.append(row | took)

    def ours(n):
        with tempfile.TemporaryDirectory() as empty:
            trajectories.CACHE = Path(empty)
            try:
                return train(generator, concept.pairs[:n], r, seed=0)
            finally:
                trajectories.CACHE = own_cache

    ours(1)
    (_, info), took = timed(lambda: ours(pairs), generator.device)
    add("earlib", len(concept.pairs[:pairs]), took, info["parameters"])
    if rival_pairs:
        (few, info), took = timed(lambda: ours(rival_pairs), generator.device)
        loop = rivals.plain_ear if recipe_name == "ear" else rivals.released_loop
        theirs, longer = timed(lambda: loop(generator, concept.pairs[:rival_pairs], r, 0), generator.device)
        theirs = theirs[0] if isinstance(theirs, tuple) else theirs
        moved = lambda t, n: (t[n].float() - generator.trunk.get_parameter(n).float()).flatten()
        alike = min(torch.cosine_similarity(moved(few, n), moved(theirs, n), 0).item() for n in few if "v_proj" in n)
        add("earlib, the rival's pairs", rival_pairs, took, info["parameters"])
        add(
            "token by token" if recipe_name == "ear" else "released loop",
            rival_pairs,
            longer,
            info["parameters"],
            alike,
        )
    return rows


def versions(generator) -> dict:
    import torch

    names = ("torch", "transformers", "numpy")
    where = (
        torch.cuda.get_device_name(generator.device)
        if generator.device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {name: metadata.version(name) for name in names} | {
        "python": platform.python_version(),
        "device": where,
        "dtype": str(generator.dtype).removeprefix("torch."),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "model": generator.name,
    }


def table(rows: list[dict]):
    """The rows for people, with the ratio of each rival to the row above it that did the same work."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    ours = {
        (r["what"], r["n"]): r["seconds"]
        for r in rows
        if r["case"].startswith("earlib") and "one by one" not in r["case"]
    }
    frame["against earlib"] = [
        f"{r['seconds'] / ours[r['what'], r['n']]:.1f}" if ours.get((r["what"], r["n"])) else "" for r in rows
    ]
    memory = frame.pop("memory")
    if memory.notna().any():
        frame["GB at peak"] = [f"{m / 1e9:.1f}" if m == m and m else "" for m in memory]
    columns = {
        "n": "n",
        "seconds": "seconds",
        "each": "seconds each",
        "times_floor": "x floor",
        "times_floor_of_cores": "by its cores",
        "agree": "cosine",
        "against earlib": "x earlib",
    }
    more = [name for name in frame if name == "GB at peak"]
    frame = frame.set_index(["what", "case"])[[name for name in columns if name in frame] + more].rename(
        columns=columns
    )
    return frame.map(lambda v: "" if v is None or v != v else f"{v:.3g}" if isinstance(v, float) else v)


def run(
    model: str = "mini",
    pictures=(1, 16, 64),
    pairs: int = 50,
    rival_pairs: int = 4,
    only=("drawing", "erasing", "released"),
    device=None,
    dtype=None,
) -> dict:
    """All measurements: {"machine": ..., "rows": [...]}."""
    from earlib import load_generator

    # transformers' own `generate` wants the parts for captions, too, which a GPU is spared otherwise
    generator = load_generator(model, device, dtype, parts="all" if rival_pairs else None)
    rival = getattr(generator.model.model, "vision_model", None) is not None
    rows = []
    if "drawing" in only:
        rows += drawing(generator, list(pictures), rival)
    if "erasing" in only:
        rows += erasing(generator, pairs, rival_pairs, "ear")
    if "released" in only:
        rows += erasing(generator, pairs, rival_pairs, "ear-released")
    return {"machine": versions(generator), "rows": rows}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 16, 64], help="batch sizes to draw at")
    parser.add_argument("--pairs", type=int, default=50, help="prompt pairs of an erasure")
    parser.add_argument(
        "--rival-pairs", type=int, default=4, help="prompt pairs for the slow rivals; 0 leaves them out"
    )
    parser.add_argument(
        "--only", nargs="+", default=["drawing", "erasing", "released"], choices=["drawing", "erasing", "released"]
    )
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--out", type=lambda text: Path(text).expanduser(), help="default: runs/benchmarks/MODEL.json")
    args = parser.parse_args(argv)
    try:
        found = run(args.model, args.pictures, args.pairs, args.rival_pairs, args.only, args.device, args.dtype)
        out = write_json(args.out or ROOT / "runs" / "benchmarks" / f"{Path(args.model).name}.json", found)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(found["rows"]).to_string())
    print(f"{', '.join(f'{k} {v}' for k, v in found['machine'].items())}\n{out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
