"""How a next-scale picture comes about: after each scale, with how many different codes, how fast, and what becomes of
codes that were changed on the way.

Which scale decides what a picture shows is in `which_scale.py`; figures are in `scale_figures.py`. Nothing here changes
a model.

Letters: N pictures, K scales, L positions of all of them, C bits of a code (or none, with a codebook).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..generators import draw, picture_seeds
from ..generators.base import Generator, NextScale
from .rate import Rate

if TYPE_CHECKING:
    import pandas as pd

# ---------------------------------------------------------------- pictures and codes


def after_each(generator: NextScale, codes: torch.Tensor) -> list[np.ndarray]:
    """The pictures as they stand after each scale: K times uint8 [N, H, W, 3]."""
    return [generator.decode(codes[:, : span.stop]) for span in generator.spans]


def usage(generator: NextScale, codes: torch.Tensor, seed: int = 0) -> list[dict]:
    """How many different codes a scale uses, asked of as many codes of each: one of every picture, from a position
    drawn by chance. K rows:

    `codes` looked at, `different` ones among them, `even`: of how many equally likely codes the same entropy would be
    (exp of the plug-in entropy, at most `codes`, so that it is only a lower bound where nearly all differ), and
    `commonest`, the share of the most frequent one.
    """
    chance = torch.Generator().manual_seed(seed)
    rows = []
    for k, (span, side) in enumerate(zip(generator.spans, generator.schedule)):
        where_N = torch.randint(span.start, span.stop, (len(codes),), generator=chance)
        drawn = codes[torch.arange(len(codes)), where_N].reshape(len(codes), -1)
        counts = drawn.unique(dim=0, return_counts=True)[1].double()
        share = counts / counts.sum()
        even = float(torch.exp(-(share * share.log()).sum()))
        row = {"scale": k, "side": side, "codes": len(codes), "different": len(counts)}
        rows.append(row | {"even": even, "commonest": float(share.max())})
    return rows


def race(generators: dict[str, Generator], prompts: list[str], repeats: int = 3, seed: int = 0) -> list[dict]:
    """Drawing the same `prompts` with several models of any family, in turns, so that what else the machine does falls
    on all of them. A row for each:

    `seconds` of the quickest turn, with decoding, and `slowest`; `passes` of the transformer for one batch, `codes` of
    a picture, and the transformer's `parameters`. A turn before the first one warms up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in generators}
    passes = dict.fromkeys(generators, 0)
    for turn in range(repeats + 1):
        for name, generator in generators.items():
            seen: list[int] = []
            handle = generator.trunk.register_forward_hook(lambda *_, seen=seen: seen.append(1))
            began = time.perf_counter()
            draw(generator, prompts, seed, batch_size=len(prompts), progress=False)
            handle.remove()
            passes[name] = len(seen)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return [
        {"model": name, "seconds": min(seconds[name]), "slowest": max(seconds[name]), "passes": passes[name]}
        | {"codes": g.num_codes, "parameters": sum(p.numel() for p in g.trunk.parameters())}
        for name, g in generators.items()
    ]


def quality_table(measured: dict[str, dict]) -> pd.DataFrame:
    """What `quality.py` wrote of several models (title -> content of the file), side by side, in per cent."""
    import pandas as pd

    asks = {"drawn": "drawn as asked", "judge_on_reconstructions": "through the tokenizer"}
    rows: dict[tuple, dict] = {}
    for title, content in measured.items():
        for row in content["rows"]:
            if row["what"] in asks and row["low"] is not None:
                rate = Rate(round(row["value"] * row["n"]), row["n"])
                rows.setdefault((asks[row["what"]], row["part"]), {})[title] = rate.text(1)
    return pd.DataFrame(rows).T.rename_axis(["pictures", "right"])


# ---------------------------------------------------------------- self-correction


@torch.no_grad()
def spelt_anew(generator: Any, codes: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """The picture of `codes` again, with `given` for its first scales: every later scale spells what is left of it, as
    the tokenizer would. That is what a model could mend at best that knew which picture was meant. Codes like
    `codes`."""
    tokenizer, parts = generator.tokenizer, [given.to(generator.device)]
    f = tokenizer.accumulate(codes.to(generator.device))[1]
    f_hat = tokenizer.accumulate(parts[0])[1]
    for k, span in enumerate(generator.spans):
        if span.start >= given.shape[1]:
            parts.append(generator.quantiser.quantise(tokenizer.reduce(f - f_hat, k)))
            f_hat = f_hat + tokenizer.spread(generator.quantiser.vectors(parts[-1]).to(f_hat.dtype), k)
    return torch.cat(parts, 1).cpu()


def mended(
    generator: NextScale,
    prompts: list[str],
    right: Callable[[np.ndarray], np.ndarray],
    shares: Sequence[float],
    scales: Sequence[int] | None = None,
    seed: int = 0,
) -> list[dict]:
    """Pictures in which a share of the bits of one scale was turned over (with a codebook: of its codes, exchanged),
    and what came after. Rows:

    {"scale", "share", "how", "value", "low", "high", "n"}: in how many pictures all is right, where `how` is

        left as it was   later scales keep the codes of the clean picture: nothing answers to the change
        drawn on         the model draws the later scales anew, having read the changed ones, with the noise of the
                         clean picture
        spelt anew       `spelt_anew`: the best that later scales can do

    `right(images)` is bool [N]. `scales`: which ones are changed; by default all that have a scale after them. A share
    of 0 is the clean picture.
    """
    seeds = picture_seeds(seed, [f"{prompt}#{i}" for i, prompt in enumerate(prompts)])
    clean = generator.sample(prompts, seeds)
    untouched, rows = Rate.of(right(generator.decode(clean))).flat(), []
    for k in range(len(generator.spans) - 1) if scales is None else scales:
        span = generator.spans[k]
        for share in shares:
            ways = dict.fromkeys(("left as it was", "drawn on", "spelt anew"), untouched)
            if share:
                chance = torch.Generator().manual_seed(seed * 1_000_003 + round(1000 * share) + 7919 * k)
                changed = clean[:, : span.stop].clone()
                changed[:, span] = generator.quantiser.corrupt(
                    clean[:, span], torch.full((len(clean), 1, 1), share), chance
                )
                ways["left as it was"] = Rate.of(
                    right(generator.decode(torch.cat([changed, clean[:, span.stop :]], 1)))
                ).flat()
                ways["drawn on"] = Rate.of(
                    right(generator.decode(generator.sample(prompts, seeds, given=changed)))
                ).flat()
                ways["spelt anew"] = Rate.of(right(generator.decode(spelt_anew(generator, clean, changed)))).flat()
            rows += [{"scale": k, "share": share, "how": how, **found} for how, found in ways.items()]
    return rows
