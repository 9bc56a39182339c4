"""How good the mini models are, in one table: `python -m earlib.evaluate.quality`. Writes data/mini/quality.json.

Does MiniJanus draw what it is told (object, style, place, colour), is the judge to be trusted (on real pictures, and on
pictures that went through the picture tokenizer), and does MiniJanus name what it sees.
"""

from __future__ import annotations

import re
import sys

import numpy as np

from .. import ROOT
from ..errors import UserError
from .judge import MiniWorldJudge
from .rate import Rate

OUT = ROOT / "data" / "mini" / "quality.json"
CHUNK = 100  # pictures drawn between two moves of the progress bar
PARTS = ("object", "style", "place", "colour")


def quality(
    generator,
    judge: MiniWorldJudge | None = None,
    prompts: int = 500,
    seeds: int = 3,
    held_out: int = 2000,
    progress: bool = True,
) -> list[dict]:
    """Rows {"what", "part", "value", "low", "high", "n"}, each a share of right answers with its Wilson interval.

    `what`: drawn (`prompts` direct prompts x `seeds` at default guidance), judge (on held-out pictures),
    judge_on_reconstructions (the same through the tokenizer), captions (of the first `prompts` of those). An object is
    right if the judge's likeliest object is the asked one and its probability is at least 1/2.
    """
    from tqdm.auto import tqdm

    from ..generators import draw
    from ..miniworld.scenes import render, sample_scenes

    judge = judge or MiniWorldJudge()
    asked, texts = direct_prompts(prompts)
    rows, right, captioned = [], [], min(prompts, held_out)
    with tqdm(
        total=prompts * seeds + 2 * held_out + captioned, unit="picture", disable=not progress, desc="quality"
    ) as bar:

        def chunks(n):
            for start in range(0, n, CHUNK):
                yield slice(start, min(start + CHUNK, n))
                bar.update(min(CHUNK, n - start))

        for seed in range(seeds):
            for part in chunks(prompts):
                # a running number in the key: prompts may repeat, their pictures may not
                keys = [f"{texts[i]}#quality{i}" for i in range(prompts)[part]]
                right.append(
                    right_parts(judge, draw(generator, texts[part], seed=seed, keys=keys, progress=False), asked[part])
                )
        rows += _rows("drawn", right)

        truth = sample_scenes(held_out, [2026, 1], pairs=0.0)
        images = render(truth)
        rows += _rows("judge", [right_parts(judge, images[part], truth[part]) for part in chunks(held_out)])
        rebuilt = lambda part: generator.decode(generator.tokenize(images[part]))
        rows += _rows(
            "judge_on_reconstructions", [right_parts(judge, rebuilt(part), truth[part]) for part in chunks(held_out)]
        )

        named = [
            right_caption(text, truth.record(i))
            for part in chunks(captioned)
            for i, text in zip(range(captioned)[part], generator.caption(images[part]))
        ]
    for part, hits in zip(("object", "style", "object and style"), zip(*named)):
        rows.append(_row("captions", part, np.array(hits)))
    return rows


def direct_prompts(n: int, seed: int = 2026):
    """`n` scenes with one object, and prompts that name object (plain name), colour, place and style in one of their
    wordings."""
    from ..miniworld.captions import compose, noun_phrase
    from ..miniworld.scenes import sample_scenes

    scenes = sample_scenes(n, [seed, 0], pairs=0.0)
    rng = np.random.default_rng([seed, 5])
    records = [scenes.record(i) for i in range(n)]
    return scenes, [
        compose(noun_phrase(r["object"], r["colour"]), r["place"], r["style"], rng.integers(3), rng.integers(4))
        for r in records
    ]


def right_parts(judge: MiniWorldJudge, images: np.ndarray, scenes) -> dict[str, np.ndarray]:
    """For single-object `scenes`: name of a part to bool [N], and `all four`."""
    found = judge.probabilities(images)
    right = {part: found[part].argmax(1) == getattr(scenes, part) for part in PARTS}
    for part in ("object", "colour"):  # several may be there, or none: the likeliest one must also be likely
        right[part] &= found[part].max(1) >= 0.5
    return right | {"all four": np.logical_and.reduce([right[part] for part in PARTS])}


def right_caption(text: str, record: dict) -> tuple[bool, bool, bool]:
    """Does a caption name the object and no other, does it name the style, both. A caption that names no style means a
    photo."""
    from ..miniworld.captions import NOUNS

    rest, objects = " ".join(re.findall(r"[a-z0-9-]+", text.lower())), set()
    for noun, obj in sorted(((n, o) for o, nouns in NOUNS.items() for n in nouns), key=lambda pair: -len(pair[0])):
        rest, times = re.subn(rf"\b{re.escape(noun)}\b", " ", rest)  # longest first: "naked person" is no person
        if times:
            objects.add(obj)
    signs = {"sketch": "sketch|pencil", "pixel": "pixel|8-bit", "vangogh": "van gogh|brush"}
    styles = {style for style, sign in signs.items() if re.search(sign, text.lower())} or {"photo"}
    right = objects == {record["object"]}, styles == {record["style"]}
    return *right, all(right)


def _rows(what: str, parts: list[dict[str, np.ndarray]]) -> list[dict]:
    return [_row(what, name, np.concatenate([part[name] for part in parts])) for name in parts[0]]


def _row(what: str, part: str, right: np.ndarray) -> dict:
    return {"what": what, "part": part} | Rate.of(right).flat()


def table(rows: list[dict]) -> str:
    """The rows as aligned text, in per cent."""
    lines = [f"{'what':26}{'part':18}{'right':>8}   {'95 % interval':16}{'n':>6}"]
    for r in rows:
        lines.append(
            f"{r['what']:26}{r['part']:18}{100 * r['value']:7.1f} %  [{100 * r['low']:5.1f}, {100 * r['high']:5.1f}]  {r['n']:>6}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    import argparse

    from ..generators import load_generator
    from ..runs import write_json

    parser = argparse.ArgumentParser(
        prog="python -m earlib.evaluate.quality",
        description="Measure the mini models and write data/mini/quality.json.",
    )
    parser.add_argument("--model", default="mini", help="a mini model's profile or folder (mini)")
    parser.add_argument("--prompts", type=int, default=500, help="direct prompts (500)")
    parser.add_argument("--seeds", type=int, default=3, help="pictures per prompt (3)")
    parser.add_argument("--json", default=str(OUT), help="where to write (data/mini/quality.json)")
    args = parser.parse_args(argv)
    try:
        if args.prompts < 1 or args.seeds < 1:
            raise UserError("--prompts and --seeds must be at least 1")
        generator, judge = load_generator(args.model), MiniWorldJudge()
        rows = quality(generator, judge, args.prompts, args.seeds)
        settings = {
            "model": generator.name,
            "fingerprint": generator.fingerprint,
            "guidance": generator.guidance,
            "judge": judge.version,
        }
        write_json(args.json, settings | {"prompts": args.prompts, "seeds": args.seeds, "rows": rows})
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
