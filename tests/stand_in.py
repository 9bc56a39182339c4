"""Run the notebooks as a profile of Janus-Pro would, on a small random Janus that stands for it, and count what they
ask of the model: `python -m tests.stand_in`.

Prompts, pairs, recipes and counts are those of the profile; the judges say what chance says. Counts do not hang on the
model's size. They go to book/work.json, from which the book computes minutes and memory (`earlib/book/work.py`).
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import os
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from earlib import ROOT, memory
from earlib.book.manifest import Entry, load_manifest, parameters, select
from earlib.book.words import SHORT
from earlib.book.work import DTYPE, WORK
from earlib.runs import read_json, write_json

from .conftest import tiny_janus


def code_of(entry: Entry) -> str:
    """Eight hex digits that change with the code that asks the model, but for a chapter's closing sentences."""
    import nbformat

    cells = nbformat.read(ROOT / entry.path, 4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code" and SHORT not in cell.metadata.get("tags", [])]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:8]


class Meter:
    """What the model was asked for since the last `reset`."""

    def __init__(self, profile: str):
        self.profile = profile
        self.reset()

    def reset(self):
        self.window, self.drawn, self.read, self.learned, self.drawing = 0, Counter(), 0.0, 0.0, False
        self.trained, self.dtypes = [], set()

    def patches(self):
        import earlib.generators as load
        from earlib import erasure
        from earlib.erasure import room
        from earlib.erasure.presets import with_settings
        from earlib.generators.janus import JanusGenerator

        batches, states = JanusGenerator.sample_batches, JanusGenerator.hidden_states

        def sample_batches(g, prompts, *args, **more):
            given = inspect.signature(batches).bind(g, prompts, *args, **more).arguments.get("given")
            if g.profile != self.profile:  # a row of a table, measured on the model of the table
                yield from batches(g, prompts, *args, **more)
                return
            share = 1 - (0 if given is None else given.shape[1]) / g.num_codes
            self.drawn[len(prompts)] += share
            self.drawing = True
            try:
                yield from batches(g, prompts, *args, **more)
            finally:
                self.drawing = False

        def hidden_states(g, prompts, image_tokens_BT, *args, **more):
            import torch

            out = states(g, prompts, image_tokens_BT, *args, **more)
            if not self.drawing and g.profile == self.profile:
                pictures = image_tokens_BT.numel() / g.num_codes
                if torch.is_grad_enabled() and out.requires_grad:
                    self.learned += pictures
                else:
                    self.read += pictures
            return out

        def length_of(recipe, concept, generator):
            """The window on the stand-in; the longest on the model that it stands for is kept."""
            if getattr(generator, "profile", None) == self.profile:  # else the plan of a table, of its own model
                true = SimpleNamespace(num_codes=memory.KNOWN[self.profile].image_tokens)
                self.window = max(self.window, length(recipe, concept, true))
            return length(recipe, concept, generator)

        def check(generator, recipe):
            if generator.profile == self.profile:
                recipe = with_settings(recipe, {"windows.length": self.window}) if self.window else recipe
                self.trained.append(room.training_bytes(memory.KNOWN[self.profile], DTYPE, recipe))

        def loaded(model="mini", device=None, dtype=None, parts=None):
            if model != self.profile:
                return real(model, device, dtype, parts)
            self.dtypes.add(dtype or DTYPE)
            g = tiny_janus(layers=6)
            g.profile = g.name = self.profile
            if dtype:
                import torch

                g.model.to(getattr(torch, dtype))
            return g

        real, length = load.load_generator, erasure.window_length
        yield patch.object(erasure, "window_length", length_of)
        yield patch.object(JanusGenerator, "sample_batches", sample_batches)
        yield patch.object(JanusGenerator, "hidden_states", hidden_states)
        yield patch.object(room, "check_training", check)
        yield patch.object(load, "load_generator", loaded)

    def found(self) -> dict:
        return {
            "drawn": {str(n): round(times, 3) for n, times in sorted(self.drawn.items())},
            "read": round(self.read, 1),
            "learned": round(self.learned, 1),
            "training": max(self.trained, default=0),
            "dtypes": sorted(self.dtypes),
        }


def chance_judges():
    """Judges whose weights are not here, as ones that say what chance says."""
    from earlib.evaluate import judges
    from earlib.evaluate.judge import Judge, check_images

    class Chance(Judge):
        version, threshold = "of chance", 0.5

        def __init__(self, name, fields):
            self.name = " ".join([name, *(str(v) for v in fields.values())])

        def score(self, images):
            seed = lambda image: int.from_bytes(hashlib.sha256(self.name.encode() + image.tobytes()).digest()[:4])
            return np.array([seed(image) / 2**32 for image in check_images(images)])

    def stand_in(name, kind):
        make = lambda **fields: Chance(name, fields)
        make.__signature__ = inspect.signature(kind)
        return make

    return patch.dict(judges.JUDGES, {name: stand_in(name, kind) for name, kind in judges.JUDGES.items()})


def run(entry: Entry, profile: str, meter: Meter) -> dict:
    """Run one notebook in this process, in a folder of its own."""
    import nbformat

    values = parameters(entry, profile)
    scope = {"__name__": "__main__", "display": lambda *things: None}
    meter.reset()
    for cell in nbformat.read(ROOT / entry.path, 4).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "setup" not in tags:
            exec(compile(ast.parse(cell.source), f"{entry.name}, cell {cell.id}", "exec"), scope)
        if "parameters" in tags:
            scope |= values
    return {"parameters": values, "code": code_of(entry), **meter.found()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stand_in", description=__doc__.split(":")[0])
    parser.add_argument("--profile", default="janus-pro-1b")
    parser.add_argument("--only", action="append", default=[], help="a notebook's name; may be repeated")
    args = parser.parse_args(argv)
    import matplotlib

    matplotlib.use("agg")
    from contextlib import ExitStack

    import earlib.erasure.trajectories as trajectories
    from earlib.book import once
    from earlib.evaluate import pictures

    meter, failed = Meter(args.profile), 0
    for entry in select(load_manifest(), args.profile, args.only):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            here = Path(folder)
            for module, name in ((trajectories, "CACHE"), (once, "CACHE"), (pictures, "CACHE")):
                stack.enter_context(patch.object(module, name, here / module.__name__))
            stack.enter_context(patch.dict(os.environ, {"EARLIB_RUN": str(here / "run")}))
            for each in (*meter.patches(), chance_judges()):
                stack.enter_context(each)
            try:
                found = run(entry, args.profile, meter)
            except Exception:
                traceback.print_exc(limit=-6)
                print(f"{entry.name}: failed", file=sys.stderr)
                failed += 1
                continue
        known = read_json(ROOT / WORK) if (ROOT / WORK).exists() else {}
        known.setdefault(args.profile, {})[entry.name] = found
        write_json(ROOT / WORK, known)
        print(entry.name, found)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
