"""How well a model of MiniWorld draws what it is told, as both judges see it, and whether it names what it sees:
`python -m earlib.miniworld.quality --models DIR` prints a table of DIR/janus and writes DIR/quality.json."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..runs import write_json
from .captions import Teller, compose, describe, descriptions, noun_phrase, plain_caption
from .judges import read
from .scenes import NAMES as VALUES
from .scenes import OBJECTS, PLACES, RELATIONS, STYLES, Scenes, held_out, render, sample_scenes
from .words import NAMES

PARTS = ("object", "style", "place", "time", "colour", "framing")
KINDS = (
    "direct",
    "other names",
    "descriptions",
    "held-out descriptions",
    "held-out combinations",
    "pairs",
    "portraits",
)
MORE = ("rebuilt", "captions")  # what the picture tokenizer makes of rendered pictures; what the model says of them
DESCRIBED = ("object", "place", "time", "style")  # one of them in a prompt of a kind that describes


def test_prompts(kind: str, n: int, seed: int = 2026) -> tuple[Scenes, list[str], list[str | None]]:
    """`n` scenes of a kind, a prompt for each, and the only part that counts in it (None: every part).

    Direct prompts give all parts by their plain names. Where something is described, the rest has its plain name.
    """
    shares = {"pairs": (1.0, 0.0), "portraits": (0.0, 1.0)}.get(kind, (0.0, 0.0))
    scenes = sample_scenes(n, [seed, KINDS.index(kind)], *shares, seen=True)
    rng = np.random.default_rng([seed, 50 + KINDS.index(kind)])
    plain = dict(plain=1.0, other=0.0, open_parts=False)
    if kind == "other names":
        return scenes, describe(scenes, rng, **plain | {"plain": 0.0, "other": 1.0}), [None] * n
    if kind == "held-out combinations":
        triples = [held_out()["combinations"][i % len(held_out()["combinations"])] for i in range(n)]
        index = [[names.index(t[k]) for t in triples] for k, names in enumerate((OBJECTS, PLACES, STYLES))]
        scenes = replace(scenes, **dict(zip(("object", "place", "style"), map(np.array, index))))
    if "descriptions" not in kind:
        return scenes, describe(scenes, rng, **plain), [None] * n
    parts = [DESCRIBED[i % len(DESCRIBED)] for i in range(n)]
    teller = Teller(rng)
    return scenes, [_with_description(scenes.record(i), parts[i], kind, teller) for i in range(n)], parts


def _with_description(r: dict, part: str, kind: str, teller: Teller) -> str:
    out = held_out()["descriptions"][f"{part}:{r[part]}"]
    text = teller.pick(out if kind.startswith("held") else [t for t in descriptions(part, r[part]) if t not in out])
    words = {name: NAMES[name][r[name]][0] for name in ("place", "time", "style")}
    if part == "object":
        thing = text.format(c=r["colour"])
    else:
        thing, words[part] = noun_phrase(r["object"], r["colour"]), text
    return compose(thing, **words)


def right(found: dict[str, np.ndarray], scenes: Scenes) -> dict[str, np.ndarray]:
    """What a judge's answers have right of single scenes, or of pairs: part to bool [N]."""
    rows, two = np.arange(len(scenes)), bool((scenes.object2 >= 0).all())
    sure = lambda name, which: found[name][rows, which] >= 0.5
    good = {name: found[name].argmax(1) == getattr(scenes, name) for name in ("style", "place", "time", "framing")}
    if not two:
        for name in ("object", "colour"):
            good[name] = (found[name].argmax(1) == getattr(scenes, name)) & sure(name, getattr(scenes, name))
        return good | {"all": np.logical_and.reduce([good[name] for name in PARTS])}
    first, second = sure("object", scenes.object), sure("object", scenes.object2)
    left, back, nothing = found["left"].argmax(1), found["back"].argmax(1), len(OBJECTS)
    as_told = {
        "left of": (left == scenes.object) & (back == nothing),
        "behind": back == scenes.object,
        "beside": (left != nothing) & (back == nothing),
    }
    relation = np.select([scenes.relation == RELATIONS.index(name) for name in as_told], list(as_told.values()))
    good |= {"first object": first, "second object": second, "both objects": first & second}
    good["colours"] = sure("colour", scenes.colour) & sure("colour", scenes.colour2)
    return good | {"relation": relation & good["both objects"]}


def quality(
    generator,
    judges: dict[str, object],
    prompts: int = 1000,
    seeds: int = 3,
    kinds=KINDS,
    tick: Callable = lambda: None,
) -> list[dict]:
    """Rows {"what", "judge", "part", "value", "hits", "n"}: how often a part is drawn as told; `value` is None for all
    values of the part together, else one of them (direct prompts only).

    Args:
        generator: a `Generator` of MiniWorld.
        judges: name to model.
        prompts: of the direct kind; of the other kinds a third of it.
        seeds: pictures per prompt.
        kinds: some of KINDS and MORE; a model that cannot speak is asked for no captions.
        tick: called after each kind and seed.
    """
    rows = []
    for kind in [kind for kind in kinds if kind in KINDS]:
        scenes, texts, parts = test_prompts(kind, prompts if kind == "direct" else max(1, prompts // 3))
        hits: dict[tuple[str, str], list[np.ndarray]] = {}
        for seed in range(seeds):
            first = 1_000_000 * seed + 100_000 * KINDS.index(kind)
            images = generator.decode(generator.sample(texts, [first + i for i in range(len(texts))]))
            for name, judge in judges.items():
                for part, good in right(read(judge, images), scenes).items():
                    hits.setdefault((name, part), []).append(good)
            tick()
        counts = {part: np.array([p in (None, part) for p in parts] * seeds) for _, part in hits}
        for (name, part), several in hits.items():
            good, mask = np.concatenate(several), counts[part]
            if mask.any():
                rows.append(_row(kind, name, part, None, good[mask]))
            if kind == "direct" and part in VALUES:
                truth = np.tile(getattr(scenes, part), seeds)
                for index in np.unique(truth):
                    rows.append(_row(kind, name, part, VALUES[part][index], good[truth == index]))
    if "rebuilt" in kinds:
        rows += rebuilt_quality(generator, judges, prompts)
    if "captions" in kinds and hasattr(generator, "caption"):
        rows += caption_quality(generator, max(1, prompts // 3))
    return rows


def rebuilt_quality(generator, judges: dict[str, object], n: int, seed: int = 2026) -> list[dict]:
    """How much of `n` rendered pictures is left after they were spelt in codes and drawn from them, as the judges see
    it: rows as of `quality`. No model draws better than its tokenizer."""
    rows = []
    for what, pairs in (("rebuilt", 0.0), ("rebuilt pairs", 1.0)):
        scenes = sample_scenes(n, [seed, 98, int(pairs)], pairs, 0.0)
        images = generator.decode(generator.tokenize(render(scenes)))
        for name, judge in judges.items():
            rows += [_row(what, name, part, None, good) for part, good in right(read(judge, images), scenes).items()]
    return rows


def caption_quality(generator, n: int, seed: int = 2026) -> list[dict]:
    """How often a model's captions of rendered pictures have the plain name of each part: rows as of `quality`."""
    scenes = sample_scenes(n, [seed, 99])
    said, rows = generator.caption(render(scenes)), []
    truth = [plain_caption(scenes.record(i)) for i in range(n)]
    for part in ("object", "style", "place", "colour"):
        good = []
        for i, text in enumerate(said):
            r = scenes.record(i)
            word = r[part] if part == "colour" else NAMES[part][r[part]][0].replace("{x}", "").strip()
            good.append(f" {word} " in f" {text.replace(' , ', ' ')} ")
        rows.append(_row("captions", "", part, None, np.array(good)))
    rows.append(_row("captions", "", "word for word", None, np.array([a == b for a, b in zip(said, truth)])))
    return rows


def _row(what: str, judge: str, part: str, value: str | None, good: np.ndarray) -> dict:
    return {"what": what, "judge": judge, "part": part, "value": value, "hits": int(good.sum()), "n": len(good)}


def table(rows: list[dict]) -> str:
    """Shares in per cent, a line for each kind and part, a column for each judge; behind direct parts the weakest
    value."""
    judges = list(dict.fromkeys(r["judge"] for r in rows if r["judge"]))
    answers_of = {(r["what"], r["part"], r["value"], r["judge"]): (r["hits"] / r["n"], r["n"]) for r in rows}
    lines = [f"{'':40}{'n':>6}" + "".join(f"{name:>10}" for name in judges)]
    for what, part in dict.fromkeys((r["what"], r["part"]) for r in rows):
        cells = [
            answers_of[what, part, None, judge] for judge in judges or [""] if (what, part, None, judge) in answers_of
        ]
        cells = cells or [answers_of[what, part, None, ""]]
        text = f"{what:26}{part:14}{cells[0][1]:6}" + "".join(f"{100 * share:10.1f}" for share, _ in cells)
        weakest = [
            min((v[0], k[2]) for k, v in answers_of.items() if k[:2] == (what, part) and k[2] and k[3] == judge)
            for judge in judges
            if any(k[:2] == (what, part) and k[2] and k[3] == judge for k in answers_of)
        ]
        lines.append(text + "".join(f"   weakest {value} {100 * share:.0f}" for share, value in weakest))
    return "\n".join(lines)


def load_judges(folder: Path) -> dict[str, object]:
    """The judges that lie in `folder`: {"judge": model, "judge2": model}, float32."""
    import torch
    from transformers import ResNetForImageClassification, ViTForImageClassification

    kinds = {"judge": ResNetForImageClassification, "judge2": ViTForImageClassification}
    found = {name: kind for name, kind in kinds.items() if (folder / name / "config.json").exists()}
    return {name: kind.from_pretrained(folder / name, dtype=torch.float32).eval() for name, kind in found.items()}


def main(argv: list[str] | None = None) -> None:
    from ..generators import load_generator
    from .summary import summarise

    parser = argparse.ArgumentParser(prog="python -m earlib.miniworld.quality", description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, required=True, help="folder of the models and judges")
    parser.add_argument("--name", default="janus", help="which model of it (janus)")
    parser.add_argument("--prompts", type=int, default=1000, help="direct prompts (1000); of the other kinds a third")
    parser.add_argument("--seeds", type=int, default=3, help="pictures per prompt (3)")
    parser.add_argument("--kinds", nargs="+", default=(*KINDS, *MORE), help=f"some of {', '.join((*KINDS, *MORE))}")
    args = parser.parse_args(argv)
    generator = load_generator(str(args.models / args.name))
    rows = quality(generator, load_judges(args.models), args.prompts, args.seeds, args.kinds)
    about = {"model": args.name, "fingerprint": generator.fingerprint, "seeds": args.seeds}
    about |= {"guidance": generator.guidance, "temperature": generator.temperature}
    write_json(args.models / f"quality-{args.name}.json", about | {"rows": rows})
    summarise(args.models)
    print(table(rows))


if __name__ == "__main__":
    main()
