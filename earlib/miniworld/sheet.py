"""Contact sheets of MiniWorld: pictures, each over its prompt. `python -m earlib.miniworld.sheet` writes the
README's; `--models DIR` draws one of DIR/janus or DIR/NAME, for the eye."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np

from .. import ROOT
from .captions import describe
from .scenes import SIZE, render, sample_scenes

ZOOM, GAP, LINE, LINES = 3, 8, 11, 4


def sheet(images: np.ndarray, prompts: list[str], columns: int = 6):
    """A PIL picture of uint8 `images` [N, 48, 48, 3], enlarged, each over its prompt."""
    from PIL import Image, ImageDraw, ImageFont

    side, rows = SIZE * ZOOM, -(-len(images) // columns)
    cell_w, cell_h = side + GAP, side + GAP + LINE * LINES
    page = Image.new("RGB", (columns * cell_w + GAP, rows * cell_h + GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=10)
    for i, (image, prompt) in enumerate(zip(images, prompts)):
        x, y = GAP + (i % columns) * cell_w, GAP + (i // columns) * cell_h
        page.paste(Image.fromarray(image.repeat(ZOOM, 0).repeat(ZOOM, 1)), (x, y))
        for k, line in enumerate(textwrap.wrap(prompt.replace(" ,", ","), 28)[:LINES]):
            draw.text((x, y + side + 1 + k * LINE), line, fill=(40, 40, 48), font=font)
    return page


def main(argv: list[str] | None = None) -> None:
    from ..generators import load_generator

    parser = argparse.ArgumentParser(prog="python -m earlib.miniworld.sheet", description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, help="draw with the model in this folder instead of the renderer")
    parser.add_argument("--name", default="janus", help="which model of it (janus)")
    parser.add_argument("--out", type=Path, default=ROOT / "book" / "images" / "miniworld.png")
    parser.add_argument("--pictures", type=int, default=30)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args(argv)
    scenes = sample_scenes(args.pictures, args.seed, pairs=0.3)
    prompts = describe(scenes, args.seed)
    images = render(scenes)
    if args.models:
        generator = load_generator(str(args.models / args.name))
        images = generator.decode(generator.sample(prompts, list(range(args.pictures))))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(images, prompts, 10 if args.pictures > 60 else 6).quantize(255).save(args.out, optimize=True)
    print(args.out)


if __name__ == "__main__":
    main()
