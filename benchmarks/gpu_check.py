"""All that a GPU can tell of this library, in one file to send back: `python -m benchmarks.gpu_check`.

The tests marked `gpu`; drawing and erasing with the mini model and with Janus-Pro-1B's true size (7B's too, where it
fits) beside floor and rivals; one EAR lesson of each, with its memory beside what `doctor` promises. Under ten minutes
on a T4: by the floors of its 65 teraflops and 0.32 TB/s the work takes 3 minutes, and the rivals' steps are launched
one by one.

The file goes to `benchmarks/cards/`, from where the chapter on cost shows it.
"""

from __future__ import annotations

import argparse
import gc
import re
import subprocess
import sys
import time
from pathlib import Path

from earlib import ROOT
from earlib.errors import UserError
from earlib.runs import read_json, write_json

CARDS = Path(__file__).parent / "cards"
SIZES = {  # model -> what `benchmarks` measures of it: pictures at a time, prompt pairs, pairs of the slow rivals
    "mini": dict(pictures=(1, 16, 64), pairs=30, rival_pairs=2),
    "janus-pro-1b-shape": dict(pictures=(1, 16), pairs=4, rival_pairs=1, only=("drawing", "erasing")),
    "janus-pro-7b-shape": dict(pictures=(1,), rival_pairs=0, only=("drawing",)),
}


def tests() -> dict:
    """What the tests marked `gpu` say: their last line, and the names of those that failed."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_gpu.py", "-q", "--tb=short"]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    failed = re.findall(r"^(?:FAILED|ERROR) \S*::(\S+)", done.stdout, re.M)
    return {"passed": done.returncode == 0, "summary": done.stdout.strip().rpartition("\n")[2], "failed": failed}


def check() -> dict:
    """Everything that is measured; what does not fit on this card is named under "left_out"."""
    import torch

    from .__main__ import run
    from .lesson import lesson

    began = time.perf_counter()
    found: dict = {"tests": tests(), "rows": [], "lessons": [], "left_out": {}}
    for model, sizes in SIZES.items():
        work = {"benchmark": lambda m=model, s=sizes: run(m, **s)}
        if model != "mini":
            work["lesson"] = lambda m=model: lesson(m)
        for what, measure in work.items():
            print(f"{model}: {what} ...", flush=True)
            try:
                result = measure()
            except (UserError, torch.OutOfMemoryError) as error:
                found["left_out"][f"{model}: {what}"] = str(error).splitlines()[0]
                continue
            finally:
                gc.collect()  # what holds itself in a circle keeps its memory until then
                torch.cuda.empty_cache()
            if what == "lesson":
                found["lessons"].append(result)
            else:
                found["rows"] += [{"model": model} | row for row in result["rows"]]
                found["machine"] = {k: v for k, v in result["machine"].items() if k != "model"}
    found["memory"] = torch.cuda.get_device_properties(0).total_memory
    return found | {"seconds": round(time.perf_counter() - began)}


def cards(folder: Path = CARDS):
    """What was sent back, for people: a row for each measurement of each card; empty where nothing was."""
    import pandas as pd

    rows = []
    for file in sorted(folder.glob("*.json")):
        card = read_json(file)
        about = {"card": card["machine"]["device"], "dtype": card["machine"]["dtype"]}
        for row in card["rows"]:
            cells = {"model": row["model"], "what": row["what"], "case": row["case"], "n": row["n"]}
            cells |= {"seconds each": row["each"], "x floor": row.get("times_floor")}
            rows.append(about | cells | {"GB at peak": row["memory"] and row["memory"] / 1e9})
        for lesson in card["lessons"]:
            cells = {"model": lesson["model"], "what": "one EAR lesson", "case": "earlib", "n": 1}
            cells |= {"seconds each": lesson["seconds"], "GB at peak": lesson["peak"] / 1e9}
            rows.append(about | cells | {"GB promised": lesson["promised"] / 1e9})
    return pd.DataFrame(rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__.split(":")[0])
    parser.add_argument("--out", type=Path, help="default: benchmarks/cards/NAME-OF-THE-CARD.json")
    args = parser.parse_args(argv)
    import torch

    if not torch.cuda.is_available():
        print("gpu-check: no GPU here (torch.cuda.is_available() is False); nothing was measured", file=sys.stderr)
        return 2
    found = check()
    name = re.sub(r"[^a-z0-9]+", "-", found["machine"]["device"].lower()).strip("-")
    out = write_json(args.out or CARDS / f"{name}.json", found)
    for what, why in found["left_out"].items():
        print(f"left out: {what}: {why}")
    print(f"{found['tests']['summary']}; {found['seconds']} s\n{out}  (please send this file back)")
    return 0 if found["tests"]["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
