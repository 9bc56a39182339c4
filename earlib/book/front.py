"""The picture at the head of the README: `python -m earlib.book.front` draws it anew, a minute of one core."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from textwrap import fill

import numpy as np
from PIL import Image

from .. import ROOT
from ..erasure import erase
from ..generators import draw, load_generator
from ..plots import setup
from ..plots.pictures import grid

PROMPTS = (
    "a photo of a red church on a hill by day",
    "a watercolor of a church in the snow",
    "a blue hall where people pray at night",
    "a red castle on a hill by day",
    "a photo of a blue house in the snow",
    "a sketch of a windmill by the sea",
)
RECIPES = {"ear": "EAR, three\npictures", "ear-shared": "EAR, one\npicture", "recommended": "ours"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m earlib.book.front", description=__doc__.split(":")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "book" / "images" / "erased.png")
    parser.add_argument("--seed", type=int, default=0, help="of training and of pictures (0)")
    args = parser.parse_args(argv)
    generator = load_generator("mini")
    draws = lambda model, erasure=None: draw(model, list(PROMPTS), seed=args.seed, erasure=erasure)
    rows = {"MiniJanus": draws(generator)}
    for recipe, label in RECIPES.items():
        rows[label] = draws(generator, erase(generator, "church", recipe=recipe, seed=args.seed))
    rows["never saw\na church"] = draws(load_generator("mini-never"))
    setup()
    figure = grid(np.concatenate(list(rows.values())), len(PROMPTS), list(rows), [fill(p, 17) for p in PROMPTS])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    page = io.BytesIO()
    figure.savefig(page, dpi=150, bbox_inches="tight", facecolor="white")
    Image.open(page).convert("RGB").quantize(255).save(args.out, optimize=True)
    print(args.out)


if __name__ == "__main__":
    main()
