"""How good a model of MiniWorld is, in one table: `python -m earlib.evaluate.quality --model mini`.

Does it draw what it is told (object, style, place, colour); is the judge to be trusted, on real pictures and on ones
that went through the model's picture tokenizer; does a model that reads pictures name what it sees. With `--choose` it
only compares settings for drawing, on prompts that the table does not use.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import DATA
from ..errors import UserError, only_in_a_clone
from ..generators.base import Generator, NextToken
from .judge import MiniWorldJudge
from .rate import Estimate, Rate

if TYPE_CHECKING:
    from ..miniworld.scenes import Scenes

CHUNK = 125  # pictures between two moves of the progress bar
PARTS = ("object", "style", "place", "colour")
TEST, DEVELOPMENT = 2026, 7  # seeds of prompts: of the table, and for choosing guidance and temperature


def quality(
    generator: Generator, judge: MiniWorldJudge, prompts: int = 500, seeds: int = 3, held_out: int = 2000
) -> list[dict]:
    """The rows of the table, each a share of right answers with its Wilson interval. An object is right if the judge's
    likeliest object is the asked one and its probability is at least 1/2.

    Args:
        generator: a model of MiniWorld, of either family.
        judge: whose opinion counts.
        prompts: direct prompts, drawn once from each of so many `seeds`.
        held_out: real pictures that the judge is tried on; the first `prompts` of them are captioned.

    Returns:
        list: {"what", "part", "value", "low", "high", "n"}. `what`: drawn; judge; judge_on_reconstructions; tokenizer
        (its mean squared error, pixels in [-1, 1]); captions.
    """
    from ..miniworld.scenes import render, sample_scenes

    rows = drawn(generator, judge, prompts, seeds)
    truth = sample_scenes(held_out, [TEST, 1], pairs=0.0)
    images = render(truth)
    parts = [generator.decode(generator.tokenize(images[part])) for part in _chunks(held_out, "tokenizer")]
    rebuilt = np.concatenate(parts)
    rows += _rows("judge", right_parts(judge, images, truth))
    rows += _rows("judge_on_reconstructions", right_parts(judge, rebuilt, truth))
    error = float(np.square((images.astype(np.float32) - rebuilt) / 127.5).mean())
    rows.append({"what": "tokenizer", "part": "mean squared error"} | Estimate(error, held_out).flat())
    if isinstance(generator, NextToken):
        named = [
            right_caption(text, truth.record(part.start + i))
            for part in _chunks(min(prompts, held_out), "captions")
            for i, text in enumerate(generator.caption(images[part]))
        ]
        rows += _rows("captions", dict(zip(("object", "style", "object and style"), np.array(named).T)))
    return rows


def drawn(
    generator: Generator,
    judge: MiniWorldJudge,
    prompts: int,
    seeds: int,
    prompt_seed: int = TEST,
    progress: bool = True,
    **settings: Any,
) -> list[dict]:
    """Rows: are so many direct prompts x seeds drawn as asked? `settings` are guidance and temperature, the model's own
    by default."""
    from ..generators import draw

    asked, texts = direct_prompts(prompts, prompt_seed)
    keys = [f"{text}#quality{i}" for i, text in enumerate(texts)]  # prompts may repeat, their pictures may not
    images = [
        draw(generator, texts[part], seed=seed, keys=keys[part], progress=False, **settings)
        for seed in range(seeds)
        for part in _chunks(prompts, f"drawing, seed {seed}", progress)
    ]
    right = [right_parts(judge, some, asked) for some in np.split(np.concatenate(images), seeds)]
    return _rows("drawn", {part: np.concatenate([r[part] for r in right]) for part in right[0]})


def _chunks(n: int, what: str, progress: bool = True) -> Iterable[slice]:
    from ..runs import progress_bar

    parts = [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
    return progress_bar(parts, desc=what, disable=not progress, leave=False)


def choose(
    generator: Generator, judge: MiniWorldJudge, guidances: list[float], temperatures: list[float], prompts: int
) -> list[dict]:
    """Rows with "guidance" and "temperature" beside the shares, one seed, on development prompts."""
    rows = []
    for temperature, guidance in itertools.product(temperatures, guidances):
        settings: dict[str, Any] = {"guidance": guidance, "temperature": temperature}
        found = drawn(generator, judge, prompts, 1, DEVELOPMENT, progress=False, **settings)
        print(settings, *(f"{row['part']} {row['value']:.3f}" for row in found), flush=True)
        rows += [settings | row for row in found]
    return rows


def direct_prompts(n: int, seed: int = TEST) -> tuple[Scenes, list[str]]:
    """`n` scenes with one object, and prompts that name object (plain name), colour, place and style in one of their
    wordings."""
    from ..miniworld.captions import compose, noun_phrase
    from ..miniworld.scenes import sample_scenes

    scenes = sample_scenes(n, [seed, 0], pairs=0.0)
    rng = np.random.default_rng([seed, 5])
    records: list[dict[str, Any]] = [scenes.record(i) for i in range(n)]
    wordings = lambda: (int(rng.integers(3)), int(rng.integers(4)))
    thing = lambda r: noun_phrase(r["object"], r["colour"])
    return scenes, [compose(thing(r), r["place"], r["style"], *wordings()) for r in records]


def right_parts(judge: MiniWorldJudge, images: np.ndarray, scenes: Scenes) -> dict[str, np.ndarray]:
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


def _rows(what: str, right: dict[str, np.ndarray]) -> list[dict]:
    return [{"what": what, "part": part} | Rate.of(hits).flat() for part, hits in right.items()]


def main(argv: list[str] | None = None) -> int:
    import pandas as pd

    from ..generators.load import PROFILES, load_generator
    from ..runs import read_json, write_json

    parser = argparse.ArgumentParser(prog="python -m earlib.evaluate.quality", description="Measure a mini model.")
    parser.add_argument("--model", default="mini", help="a mini model's profile or folder (mini)")
    parser.add_argument("--prompts", type=int, default=500, help="direct prompts (500)")
    parser.add_argument("--seeds", type=int, default=3, help="pictures per prompt (3)")
    parser.add_argument("--json", type=Path, help="where to write (beside the model's weights)")
    parser.add_argument("--choose", action="store_true", help="compare --guidance and --temperature instead")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.5, 0.8, 1.0])
    args = parser.parse_args(argv)
    try:
        if args.prompts < 1 or args.seeds < 1:
            raise UserError("--prompts and --seeds must be at least 1")
        folder = Path(PROFILES.get(args.model, args.model))
        only_in_a_clone(
            "the measurements go beside the model (give --json FILE for another place)", args.json or folder
        )
        generator, judge = load_generator(args.model), MiniWorldJudge()
        about: dict[str, Any] = {"model": generator.name, "fingerprint": generator.fingerprint, "judge": judge.version}
        about["prompts"] = args.prompts
        if args.choose:
            about["rows"] = choose(generator, judge, args.guidance, args.temperature, args.prompts)
            print(write_json(args.json or folder / "choice.json", about))
            return 0
        own = DATA / "mini" / "quality.json" if args.model == "mini" else folder / "metrics.json"
        file = args.json or own
        before = read_json(file) if file.is_file() else {}  # its training stands there too
        about |= {"seeds": args.seeds, "guidance": generator.guidance, "temperature": generator.temperature}
        about["rows"] = quality(generator, judge, args.prompts, args.seeds)
        write_json(file, {k: before[k] for k in ("training",) if k in before} | about)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    texts = [Estimate(r["value"], r["n"], r["low"], r["high"]).text(3) for r in about["rows"]]
    table = pd.DataFrame(about["rows"])[["what", "part"]].assign(value=texts, n=[r["n"] for r in about["rows"]])
    print(table.to_string(index=False))
    print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
