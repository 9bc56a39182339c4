"""The look of the book's figures: one style, one fixed colour for each thing, and how a figure is saved.

Figures are at most `WIDTH` inches wide with type of 9 points, so that nothing shrinks on a page of 760 pixels.
"""

from __future__ import annotations

import io
from pathlib import Path

from .. import ROOT
from ..errors import UserError
from ..runs import write_bytes, write_json, write_text

WIDTH = 7.6  # inches, of a full figure
# Okabe and Ito's colours, which the colour-blind can tell apart (https://jfly.uni-koeln.de/color/)
# but for their yellow, which white paper swallows: wine, of Paul Tol's muted colours
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, WINE, GREY = PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#444444",
)  # fmt: skip
INK, QUIET, PALE = "#22272E", "#6B7680", "#A9B4BE"

METHODS = {  # what a method learns by: (its colour, the recipes)
    "EAR": (BLUE, ("ear", "ear-shared", "ear-released")),
    "pulls to no prompt": (SKY, ("esd-x", "esd-u", "obliviate", "spm")),
    "pulls to a replacement": (GREEN, ("concept-ablation", "concept-ablation-noise", "ablation-at-words")),
    "likelihood of pictures": (PURPLE, ("gradient-ascent", "npo", "dpo")),
    "inside the layers": (ORANGE, ("forget-me-not", "rmu")),
    "squared error over scales": (SKY, ("naive", "vare")),
    "cross entropy over scales": (BLUE, ("s-vare", "s-vare-released", "sace-style")),
    "without training": (QUIET, ("negative-prompt", "safe-guidance", "scale-erasure-style", "uce", "leace")),
    "ours": (INK, ("recommended", "robust")),
}
COLOURS = {  # thing -> (colour, marker), the same in every figure; recipes have their group's colour and a marker each
    "direct": (VERMILION, "o"), "neighbours": (BLUE, "s"),  # of a concept: asked for by name; what should stay
    "synonym": (PURPLE, "D"), "compositional": (ORANGE, "^"), "indirect": (GREY, "v"), "odd": (SKY, "P"),
    "description": (GREEN, "s"), "held-out": (SKY, "o"),
    "base": (QUIET, "o"), "before": (PALE, "o"), "after": (VERMILION, "o"), "erased": (VERMILION, "o"),
    "church": (VERMILION, "o"), "nudity": (PURPLE, "D"), "vangogh": (GREEN, "v"),
    "next-token": (BLUE, "o"), "next-scale": (ORANGE, "s"), "paper": (INK, "D"), "floor": (QUIET, "s"),
} | {name: (colour, mark) for colour, names in METHODS.values() for name, mark in zip(names, "osD^v")}  # fmt: skip
WORDS = {  # how columns of tables are called in legends; kinds of prompts as in tables and the glossary
    "direct": "the concept", "neighbours": "its neighbours", "synonym": "other names",
    "description": "described", "held-out": "newly described", "compositional": "two things", "indirect": "hinted at",
    "paper": "the concept, in the paper",
}  # fmt: skip

RC = {
    "font.family": ["DejaVu Sans"], "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": QUIET, "axes.linewidth": 0.8,
    "axes.axisbelow": True, "grid.color": "#E3E7EB", "grid.linewidth": 0.8, "text.color": INK, "axes.labelcolor": INK,
    "axes.titlecolor": INK, "xtick.color": QUIET, "ytick.color": QUIET, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "lines.linewidth": 1.7, "lines.solid_capstyle": "round", "legend.frameon": False,
    "figure.dpi": 110, "figure.facecolor": "white", "savefig.bbox": "tight", "savefig.facecolor": "white",
    "svg.fonttype": "none", "svg.hashsalt": "earlib",
}  # fmt: skip


def setup() -> None:
    """Use the book's style from here on; in a notebook, sharp pictures too, and tables with whole sentences. Every
    notebook calls it once."""
    import matplotlib as mpl
    import pandas as pd
    import seaborn as sns

    pd.set_option("display.max_colwidth", None)

    sns.set_theme(context="paper", style="whitegrid", palette=list(PALETTE), rc=RC)
    if "inline" in mpl.get_backend():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")


def look(name: str, number: int = 0) -> tuple[str, str]:
    """(colour, marker) of a thing: the fixed one of `COLOURS`, else the `number`-th of the palette."""
    return COLOURS.get(name) or (PALETTE[number % len(PALETTE)], "osD^vP*X"[number % 8])


def contrast(colour: str) -> float:
    """How a colour stands out on white, 1 to 21; type wants 4.5 (WCAG 2.1, 1.4.3)."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 1.05 / (0.05 + 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


def ink(colour: str) -> str:
    """The colour for words: darkened until type in it can be read on white."""
    from matplotlib.colors import to_hex, to_rgb

    while contrast(colour) < 4.5:
        red, green, blue = to_rgb(colour)
        colour = to_hex((0.95 * red, 0.95 * green, 0.95 * blue))
    return colour


def save(
    fig, name: str, data=None, folder: str | Path | None = None, caption: str | None = None, alt: str | None = None
) -> Path:
    """Write a figure as NAME.svg (text stays text) and NAME.png (200 dpi), with the data behind it.

    Args:
        fig: a matplotlib figure.
        name: the stem of the files.
        data: a list of records or a DataFrame, written as NAME.csv.
        folder: where to (default: _build/figures).
        caption: what stands under it; with `alt`, in NAME.json.
        alt: what it shows, for those who cannot see it.

    Returns:
        Path: of the PNG.

    Raises:
        UserError: `name` is no stem, or the files cannot be written.
    """
    if "/" in name or not name:
        raise UserError(f"a figure's name is a file's stem, not '{name}'")
    folder = Path(folder) if folder else ROOT / "_build" / "figures"
    # no dates inside: the same figure gives the same file
    for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        buffer = io.BytesIO()
        fig.savefig(buffer, format=suffix, dpi=200, bbox_inches="tight", metadata=metadata)
        write_bytes(folder / f"{name}.{suffix}", buffer.getvalue())
    if data is not None:
        import pandas as pd

        write_text(folder / f"{name}.csv", pd.DataFrame(data).to_csv(index=False))
    if caption or alt:
        write_json(folder / f"{name}.json", {"caption": caption, "alt": alt})
    return folder / f"{name}.png"
