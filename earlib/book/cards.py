"""What Janus-Pro takes on common graphics cards, as a Markdown table: arithmetic on its sizes (`earlib.memory`), not a
measurement."""

from __future__ import annotations

from ..erasure import presets
from ..memory import KNOWN, bytes_of, gigabytes, layer_parameters, to_draw, to_train, trained_parameters, weight_bytes

CARDS_MARK = "<!-- cards -->"  # book/janus_pro.md has this line where the table goes
# name: GB of memory, GB/s and TFLOPS in 16-bit numbers of its data sheet
CARDS = {"T4": (16, 320, 65), "L4": (24, 300, 121), "A100": (40, 1555, 312)}


def ear_parameters(name: str) -> int:
    """How many parameters EAR trains in `name`: the self-attention of the first sixth of its layers."""
    sizes = KNOWN[name]
    first = round(sizes.layers * presets.EAR.layers[1])
    parts = ("q_proj", "k_proj", "v_proj", "o_proj")
    return trained_parameters(sizes, [f"layers.{i}.self_attn.{part}.weight" for i in range(first) for part in parts])


def cards_table() -> str:
    """A row for each size of Janus-Pro: weights, drawing and EAR's training in 16-bit numbers, the smallest card for
    each, and the least seconds that one picture can take on every card: the layers' weights, read once a token."""

    def fits(count: int) -> str:
        return next((name for name, (room, *_) in CARDS.items() if count < room * 1e9), "none of these")

    seconds = " / ".join(CARDS)
    rows = [
        f"| | weights | drawing | training `ear` | seconds a picture, at least ({seconds}) |",
        "|---|---|---|---|---|",
    ]
    for name, sizes in KNOWN.items():
        read = sizes.image_tokens * layer_parameters(sizes) * bytes_of("float16")
        draw, train = to_draw(sizes, "float16"), to_train(sizes, "float16", ear_parameters(name))
        least = " / ".join(f"{read / (speed * 1e9):.0f}" for _, speed, _ in CARDS.values())
        rows.append(
            f"| `{name}` | {gigabytes(weight_bytes(sizes, 'float16'))} | {gigabytes(draw)} ({fits(draw)}) "
            f"| {gigabytes(train)} ({fits(train)}) | {least} |"
        )
    return "\n".join(rows) + "\n"
