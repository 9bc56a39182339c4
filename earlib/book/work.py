"""What each notebook takes on Janus-Pro, as a Markdown table: what it asks of the model, counted on a stand-in
(`tests/stand_in.py`), times what that takes at least on a card. Arithmetic, not a measurement."""

from __future__ import annotations

import math
from pathlib import Path

from .. import ROOT, memory
from ..runs import read_json
from .cards import CARDS
from .manifest import Entry, load_manifest

WORK_MARK = "<!-- notebooks -->"  # book/janus_pro.md has this line where the table goes
WORK = "book/work.json"  # profile -> notebook -> what tests/stand_in.py counted
DTYPE = "float16"


def drawing_seconds(sizes: memory.Sizes, pictures: int, card: str) -> float:
    """The least time that drawing takes with guidance: of each batch that the card has room for, each token is the
    longer of arithmetic and of reading weights, keys and values once."""
    room, bandwidth, rate = CARDS[card]
    free = int(room * 1e9) - memory.weight_bytes(sizes, DTYPE)
    batch = min(pictures, 64, memory.pictures_that_fit(sizes, DTYPE, free))
    rows, layers = 2 * batch, memory.layer_parameters(sizes)
    kept = memory.cache_bytes(sizes, DTYPE, rows, memory.PROMPT + sizes.image_tokens // 2)
    token = max(2 * layers * rows / (rate * 1e12), (memory.bytes_of(DTYPE) * layers + kept) / (bandwidth * 1e9))
    return math.ceil(pictures / batch) * sizes.image_tokens * token


def least_seconds(sizes: memory.Sizes, counted: dict, card: str) -> float:
    """The least time of all that was counted: pictures drawn, sequences read, sequences learned from (there and
    back)."""
    drawn = sum(times * drawing_seconds(sizes, int(n), card) for n, times in counted["drawn"].items())
    passes = 2 * memory.layer_parameters(sizes) * sizes.image_tokens * (counted["read"] + 2 * counted["learned"])
    return drawn + passes / (CARDS[card][2] * 1e12)


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
        f"| notebook | pictures drawn | read | learned from | minutes on a {card}, at least | GB |",
        "|---|---|---|---|---|---|",
        *(f"| {_row(entry, known[entry.name], sizes, card)} |" for entry in there),
    ]
    others = ", ".join(_link(entry) for entry in entries if entry not in there)
    return "\n".join(rows) + f"\n\nThese have no such profile: {others}.\n"


def _row(entry: Entry, counted: dict, sizes: memory.Sizes, card: str) -> str:
    drawn = sum(int(n) * times for n, times in counted["drawn"].items())
    numbers = (f"{round(n):,}" for n in (drawn, counted["read"], counted["learned"]))
    minutes = max(1, math.ceil(least_seconds(sizes, counted, card) / 60))
    return " | ".join([_link(entry), *numbers, str(minutes), f"{most_bytes(sizes, counted) / 1e9:.1f}"])


def _link(entry: Entry) -> str:
    return f"[{entry.name}](../{entry.path})"
