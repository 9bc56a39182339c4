"""What each notebook takes on Janus-Pro, as a Markdown table: what it asks of the model, counted on a stand-in
(`tests/stand_in.py`), times what that takes at least on a card. Arithmetic, not a measurement."""

from __future__ import annotations

import math
from pathlib import Path

from .. import ROOT, memory
from ..runs import read_json
from .cards import DTYPE, least_seconds
from .manifest import Entry, load_manifest
from .words import listed

WORK_MARK = "<!-- notebooks -->"  # book/janus_pro.md has this line where the table goes
LARGER = "janus-pro-7b"
WORK = "book/work.json"  # profile -> notebook -> what tests/stand_in.py counted


def most_bytes(sizes: memory.Sizes, counted: dict) -> int:
    """Weights, in each number format that is loaded, and the larger of drawing and training."""
    weights = sum(memory.weight_bytes(sizes, dtype) for dtype in counted["dtypes"])
    return weights + max(memory.draw_bytes(sizes, DTYPE), counted["training"])


def work_table(root: Path = ROOT, profile: str = "janus-pro-1b", card: str = "T4") -> str:
    """A row for each notebook that has the profile, and a line that names the others."""
    known, sizes = read_json(root / WORK)[profile], memory.KNOWN[profile]
    entries = load_manifest(root)
    there = [entry for entry in entries if profile in entry.profiles]
    rows = [
        f"| notebook | pictures drawn | pictures read | pictures learned from | minutes on a {card}, at least | GB |",
        "|---|---|---|---|---|---|",
        *(f"| {_row(entry, known[entry.name], sizes, card)} |" for entry in there),
    ]
    others = ", ".join(_link(entry) for entry in entries if entry not in there)
    larger = listed(_link(entry) for entry in entries if LARGER in entry.profiles)
    return (
        "\n".join(rows) + f"\n\nOf these `--profile {LARGER}` runs {larger}. The others run on the mini models only, "
        f"and read the shipped tables: {others}.\n"
    )


def _row(entry: Entry, counted: dict, sizes: memory.Sizes, card: str) -> str:
    drawn = sum(int(n) * times for n, times in counted["drawn"].items())
    numbers = (f"{round(n):,}" for n in (drawn, counted["read"], counted["learned"]))
    minutes = max(1, math.ceil(least_seconds(sizes, counted, card) / 60))
    return " | ".join([_link(entry), *numbers, str(minutes), f"{most_bytes(sizes, counted) / 1e9:.1f}"])


def _link(entry: Entry) -> str:
    return f"[{entry.name}](../{entry.path})"
