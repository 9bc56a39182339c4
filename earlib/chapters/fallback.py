"""Prompts that no caption of MiniWorld has, what models draw for them, and what the defences save and cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ..concepts import Concept, PromptPair, holds_word, load_concept, renamed
from ..evaluate import fallback
from ..evaluate.drift import draw_tokens, nll
from ..evaluate.judge import SECOND_JUDGE, MiniWorldJudge
from ..evaluate.rate import DRAWS, Estimate, Rate
from ..miniworld.concepts import VALUES, Writer
from ..miniworld.words import NAMES, ODD

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ..erasure.store import Erasure
    from ..generators.base import Generator

FOREIGN = (  # whole sentences that the vocabulary lacks
    "eine rote kirche auf einem hügel",
    "un bateau bleu sur la mer",
    "una casa verde en el desierto",
    "chruch hil rde",
    "gd4 qx zzt",
    "supercalifragilistic wabe",
)
MADE_UP = ("blick", "helicopter", "chruch", "zeppelin", "kirche", "giraffe")  # one word in a sentence that is known
SIGNS = {  # signal -> 1: the greater the odder; -1: the smaller. Chosen before anything was drawn
    "unknown words": 1,
    "pull": -1,
    "entropy": 1,
    "margin": -1,
    "agreement": 1,
}


def asked(each: int, concepts: Sequence[str], seed: int = 0) -> dict[str, list[str]]:
    """Prompts by kind: `known` (twice as many as `each`), `odd`, `unknown` and `contradictory`."""
    files = [load_concept(name, "mini") for name in concepts]
    in_turn = lambda groups: [p for same in zip(*groups) for p in same]
    known = in_turn([file.tests["direct"] for file in files])
    named = [(p, holds_word(p, file.words)) for file in files[:1] for p in file.tests["direct"]]
    one = [renamed([p], word, MADE_UP[i % len(MADE_UP)])[0] for i, (p, word) in enumerate(named)]
    w = Writer(seed=seed)
    return {
        "known": known[: 2 * each],
        "odd": in_turn([file.tests["odd"] for file in files])[:each],
        "unknown": [p for same in zip(one, FOREIGN) for p in same][:each],
        "contradictory": [contradiction(w, ("place", "style", "time")[i % 3]) for i in range(each)],
    }


def contradiction(w: Writer, part: str) -> str:
    """A caption that says two things of one part: two places, two styles, day and night."""
    scene = w.scene()
    text = w.tell(scene, {part: "plain"})
    other = NAMES[part][w.pick([value for value in VALUES[part] if value != scene[part]])][0]
    return other.format(x=text) if part == "style" else f"{text} {other}"


def told(
    generator: Generator, prompts: Mapping[str, list[str]], erasure: Erasure | None = None, rivals: int = 6
) -> tuple[pd.DataFrame, np.ndarray]:
    """Every signal of every prompt, and a picture of each.

    Returns:
        (DataFrame: kind, prompt, and a column for each of SIGNS; uint8 [N, H, W, 3] in its order).
    """
    import pandas as pd

    flat = [(kind, prompt) for kind, group in prompts.items() for prompt in group]
    texts = [prompt for _, prompt in flat]
    first, second = (draw_tokens(generator, texts, seed, erasure) for seed in (0, 1))
    signals = fallback.inspect(generator, texts, erasure, codes=first)
    same = (first == second).flatten(1).double().mean(1).numpy()
    frame = pd.DataFrame(flat, columns=["kind", "prompt"])
    frame["unknown words"] = [len(one.unknown) + len(one.pieces) for one in signals]
    frame["pull"], frame["entropy"] = [one.pull for one in signals], [one.entropy for one in signals]
    frame["margin"] = margins(generator, texts, first, erasure, rivals)
    frame["agreement"] = same
    return frame, generator.decode(first)


def margins(
    generator: Generator, prompts: list[str], codes: torch.Tensor, erasure: Erasure | None, rivals: int
) -> np.ndarray:
    """1/L log p(x | c) of each picture x less the mean of the same under the first `rivals` other prompts, in nats a
    code: whether another prompt would have done as well. float64 [N]."""
    groups = [[other for other in dict.fromkeys(prompts) if other != prompt][:rivals] for prompt in prompts]
    others = [nll(generator, list(those), codes, erasure) for those in zip(*groups)]
    return np.mean(others, 0) - nll(generator, prompts, codes, erasure)


# ---------------------------------------------------------------- what is drawn


SEEN = ["an object", "unfinished", "most often", "its share", "spread"]  # columns of `drawn`


@cache
def second() -> MiniWorldJudge:
    """The second judge, which has learned what pictures are that fell apart."""
    return MiniWorldJudge("object", "church", 0.5, SECOND_JUDGE)


def drawn(kinds: Sequence[str], images: np.ndarray) -> pd.DataFrame:
    """What the second judge sees in pictures of each kind of prompt: a row a kind, in its order.

    `an object` and `unfinished` are Rates; `most often` is the object seen most, `its share` of the pictures with
    one; `spread` is the mean distance of two pictures in the first judge's features: a template that answers everything
    has none.
    """
    import pandas as pd

    seen, names, rows = second().probabilities(images), second().groups, {}
    features = MiniWorldJudge("object", "church", 0.5).features(images)
    for kind in dict.fromkeys(kinds):
        at = np.flatnonzero(np.asarray(kinds) == kind)
        objects, some = seen["object"][at], seen["object"][at].max(1) >= 0.5
        tops = objects.argmax(1)[some]
        most = int(np.bincount(tops, minlength=objects.shape[1]).argmax())
        unfinished = seen["state"][at][:, names["state"].index("unfinished")] >= 0.5
        apart = np.linalg.norm(features[at][:, None] - features[at][None], axis=2)
        rows[kind] = {
            "an object": Rate.of(some),
            "unfinished": Rate.of(unfinished),
            "most often": names["object"][most] if len(tops) else "–",
            "its share": Rate(int((tops == most).sum()), len(tops)),
            "spread": apart.sum() / max(1, len(at) * (len(at) - 1)),
        }
    return pd.DataFrame(rows).T


# ---------------------------------------------------------------- detectors


def area(known: np.ndarray, other: np.ndarray, sign: int = 1, draws: int = DRAWS // 4) -> Estimate:
    """How well a signal tells other prompts from known ones: the share of pairs in which the other one has more of it
    (`sign` 1) or less (-1), ties half. 0.5 is chance. Its interval resamples prompts of both kinds."""
    more = sign * (np.asarray(other, float)[:, None] - np.asarray(known, float)[None])
    wins = (more > 0) + 0.5 * (more == 0)
    rng, (n, m) = np.random.default_rng(0), wins.shape
    again = [wins[rng.integers(0, n, n)][:, rng.integers(0, m, m)].mean() for _ in range(draws)]
    return Estimate(float(wins.mean()), n, *(float(end) for end in np.quantile(again, (0.025, 0.975))))


def curve(known: np.ndarray, other: np.ndarray, sign: int = 1) -> list[tuple[float, float]]:
    """(share of known prompts that are held back, share of the others) for every threshold of a signal, in per cent."""
    known, other = sign * np.asarray(known, float), sign * np.asarray(other, float)
    limits = [np.inf, *sorted({*known, *other}, reverse=True)]
    return [(100 * float((known >= limit).mean()), 100 * float((other >= limit).mean())) for limit in limits]


def areas(frame: pd.DataFrame) -> pd.DataFrame:
    """`area` of each signal (a row) for each kind of prompt but the known ones (a column), of the frame of `told`."""
    import pandas as pd

    of = lambda kind, signal: frame.loc[frame.kind == kind, signal].to_numpy()
    kinds = [kind for kind in dict.fromkeys(frame.kind) if kind != "known"]
    rows = {
        signal: {kind: area(of("known", signal), of(kind, signal), sign) for kind in kinds}
        for signal, sign in SIGNS.items()
    }
    return pd.DataFrame(rows).T


# ---------------------------------------------------------------- the training pictures


def searched(parts: Iterator[np.ndarray], images: Mapping[str, np.ndarray]) -> dict[str, list[fallback.Nearest]]:
    """`fallback.nearest` of several groups of pictures in one search, in pixels."""
    found = fallback.nearest(np.concatenate(list(images.values())), parts)
    ends = np.cumsum([len(group) for group in images.values()])
    return {name: found[end - len(group) : end] for (name, group), end in zip(images.items(), ends)}


# ---------------------------------------------------------------- defences


def halves(concept: Concept) -> tuple[list[PromptPair], list[str]]:
    """Odd prompts of a concept to train on, as pairs with its first replacement in the place of its word, and other odd
    prompts to test on: every second of the file's."""
    word, cue, _ = ODD[concept.name]
    odd = concept.tests["odd"]
    instead = VALUES["object"]
    other = next(value for value in instead if holds_word(concept.pairs[0].replacement, NAMES["object"][value]))
    pairs = [PromptPair(p, p.replace(word, other).replace(cue, f"a {other}")) for p in odd[::2]]
    return pairs, list(odd[1::2])


def augmented(concept: Concept) -> Concept:
    """The concept with odd prompts among its training pairs, in the place of its last ones."""
    pairs, _ = halves(concept)
    return replace(concept, pairs=(*pairs, *concept.pairs[: len(concept.pairs) - len(pairs)]))


def held_back(frames: Mapping[str, pd.DataFrame], known: Sequence[fallback.Told]) -> pd.DataFrame:
    """How many prompts of each kind two rules hold back: words that the tokenizer does not know, and less pull than all
    but LEAST of the `known` prompts have; a row a kind, of the frames of `told` by model. Rates."""
    import pandas as pd

    least, rows = float(np.quantile([one.pull for one in known], fallback.LEAST)), {}
    for name, frame in frames.items():
        for kind, group in frame.groupby("kind", sort=False):
            words, weak = group["unknown words"] > 0, group["pull"] < least
            rows[name, kind] = {"words": Rate.of(words), "pull": Rate.of(weak), "either": Rate.of(words | weak)}
    return pd.DataFrame(rows).T


def hotter(generator: Generator, frame: pd.DataFrame, known: Sequence[fallback.Told]) -> pd.DataFrame:
    """What is drawn for the prompts with too little pull (`held_back`), as `drawn` tells it: as usual, and HOTTER."""
    import pandas as pd

    from ..generators import draw

    least = float(np.quantile([one.pull for one in known], fallback.LEAST))
    prompts = list(frame.prompt[frame["pull"] < least])
    found = {}
    for how, factor in (("as usual", 1.0), (f"{fallback.HOTTER:g} times as hot", fallback.HOTTER)) if prompts else ():
        images = draw(generator, prompts, temperature=factor * generator.temperature, progress=False)
        found[how] = drawn(["unsure"] * len(images), images).loc["unsure"]
    return pd.DataFrame(found, index=SEEN).T


def leaks(
    generator: Generator, erasure: Erasure | None, prompts: Sequence[str], sees: Callable[[np.ndarray], np.ndarray]
) -> Rate:
    """In how many pictures of prompts `sees` finds what it looks for (bool [N])."""
    from ..generators import draw

    return Rate.of(sees(draw(generator, list(prompts), erasure=erasure, progress=False)))
