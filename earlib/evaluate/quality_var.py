"""How good MiniVAR is, in one table: `python -m earlib.evaluate.quality_var`. Writes metrics.json beside its weights.

The questions, the prompts and the judge are those of MiniJanus (`quality.py`), but for captions, which a next-scale
model cannot give. With `--choose` it only compares settings for drawing, on prompts that the table does not use.
"""

from __future__ import annotations

import sys

import numpy as np

from ..errors import UserError
from .judge import MiniWorldJudge
from .quality import _rows, direct_prompts, right_parts, table

CHUNK = 125  # pictures drawn between two moves of the progress bar
DEVELOPMENT = 7  # seed of the prompts on which guidance and temperature are chosen


def drawn(
    generator,
    judge: MiniWorldJudge,
    prompts: int = 500,
    seeds: int = 3,
    prompt_seed: int = 2026,
    progress: bool = True,
    **settings,
) -> list[dict]:
    """Rows as in `quality.quality`: are `prompts` direct prompts x `seeds` drawn as asked? `settings` are guidance and
    temperature."""
    from tqdm.auto import tqdm

    from ..generators import draw

    settings = {"guidance": generator.guidance, "temperature": generator.temperature} | settings
    asked, texts = direct_prompts(prompts, prompt_seed)
    keys, right = [f"{text}#quality{i}" for i, text in enumerate(texts)], []
    with tqdm(total=prompts * seeds, unit="picture", disable=not progress, desc="quality") as bar:
        for seed in range(seeds):
            for start in range(0, prompts, CHUNK):
                part = slice(start, min(start + CHUNK, prompts))
                images = draw(generator, texts[part], seed=seed, keys=keys[part], progress=False, **settings)
                right.append(right_parts(judge, images, asked[part]))
                bar.update(len(images))
    return _rows("drawn", right)


def reconstructed(generator, judge: MiniWorldJudge, held_out: int = 2000) -> list[dict]:
    """Rows: what the judge sees in held-out pictures that went through the tokenizer; and the tokenizer's mean squared
    error (pixels in [-1, 1])."""
    from ..miniworld.scenes import render, sample_scenes

    truth = sample_scenes(held_out, [2026, 1], pairs=0.0)
    images = render(truth)
    rebuilt = generator.decode(generator.tokenize(images))
    error = (images.astype(np.float32) - rebuilt) / 127.5
    rows = _rows("judge_on_reconstructions", [right_parts(judge, rebuilt, truth)])
    return [
        *rows,
        {
            "what": "tokenizer",
            "part": "mean squared error",
            "value": float(np.square(error).mean()),
            "low": None,
            "high": None,
            "n": held_out,
        },
    ]


def choose(
    generator, judge: MiniWorldJudge, guidances: list[float], temperatures: list[float], prompts: int = 150
) -> list[dict]:
    """Rows with "guidance" and "temperature" beside the shares, one seed, on development prompts."""
    rows = []
    for temperature in temperatures:
        for guidance in guidances:
            settings = {"guidance": guidance, "temperature": temperature}
            rows += [
                settings | row for row in drawn(generator, judge, prompts, 1, DEVELOPMENT, progress=False, **settings)
            ]
            print(settings, *(f"{row['part']} {row['value']:.3f}" for row in rows[-5:]), flush=True)
    return rows


def main(argv: list[str] | None = None) -> int:
    import argparse
    from pathlib import Path

    from ..generators.load import PROFILES, load_generator
    from ..runs import read_json, write_json

    parser = argparse.ArgumentParser(
        prog="python -m earlib.evaluate.quality_var", description="Measure a next-scale mini model; write metrics.json."
    )
    parser.add_argument("--model", default="mini-var", help="a next-scale model's profile or folder (mini-var)")
    parser.add_argument("--prompts", type=int, default=500, help="direct prompts (500)")
    parser.add_argument("--seeds", type=int, default=3, help="pictures per prompt (3)")
    parser.add_argument(
        "--choose",
        action="store_true",
        help="compare guidance and temperature on development prompts instead; writes choice.json",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        nargs="+",
        default=[1.0, 1.5, 2.0, 3.0],
        help="with --choose: guidance scales to compare",
    )
    parser.add_argument(
        "--temperature", type=float, nargs="+", default=[0.5, 0.8, 1.0], help="with --choose: temperatures to compare"
    )
    args = parser.parse_args(argv)
    try:
        if args.prompts < 1 or args.seeds < 1:
            raise UserError("--prompts and --seeds must be at least 1")
        generator, judge = load_generator(args.model), MiniWorldJudge()
        folder = Path(PROFILES.get(args.model, args.model))
        about = {
            "model": generator.name,
            "fingerprint": generator.fingerprint,
            "judge": judge.version,
            "prompts": args.prompts,
        }
        if args.choose:
            write_json(
                folder / "choice.json",
                about | {"rows": choose(generator, judge, args.guidance, args.temperature, args.prompts)},
            )
            return 0
        rows = [*drawn(generator, judge, args.prompts, args.seeds), *reconstructed(generator, judge)]
        about |= {"seeds": args.seeds, "guidance": generator.guidance, "temperature": generator.temperature}
        kept = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
        write_json(folder / "metrics.json", {"training": kept.get("training", {})} | about | {"rows": rows})
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(table([row for row in rows if row["low"] is not None]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
