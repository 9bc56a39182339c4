"""How a next-scale picture comes about: with how many different codes, how well, and what becomes of codes
that were changed on the way.

Letters: N pictures, K scales, L positions of all of them, C bits of a code (or none, with a codebook).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..evaluate.rate import Rate
from ..generators import picture_seeds

if TYPE_CHECKING:
    import pandas as pd

    from ..generators.base import NextScale


def reading(schedule: Sequence[int], side: int):
    """Which position may attend to which: in a next-token picture of `side` x `side` tokens, and in a next-scale one of
    `schedule`. Returns the figure."""
    from ..plots.panels import grid_of

    scale_L = np.repeat(range(len(schedule)), [s * s for s in schedule])
    tokens, codes = np.tri(side**2), scale_L[None] <= scale_L[:, None]
    masks = {f"next token: {side**2} tokens": tokens, f"next scale: {len(scale_L)} codes": codes}
    fig, axes = grid_of(masks, columns=2, height=3.4)
    for axis, (title, mask) in zip(axes[0], masks.items()):
        axis.imshow(mask, cmap="Blues", vmin=0, vmax=1.6, interpolation="nearest")
        axis.set(title=title, xlabel="may be read")
        axis.grid(False)
    ends = np.cumsum([s * s for s in schedule])
    for set_ticks in (axes[0, 1].set_xticks, axes[0, 1].set_yticks):
        set_ticks(ends - 0.5 * np.diff([0, *ends]) - 0.5, [str(k) for k in range(len(schedule))])
    axes[0, 0].set_ylabel("is drawn")
    return fig


def usage(generator: NextScale, codes: torch.Tensor, seed: int = 0) -> list[dict]:
    """How many different codes a scale uses, asked of as many codes of each: one of every picture, from a position
    drawn by chance.

    Returns:
        K rows: `codes` looked at, `different` ones among them, `even`: of how many equally likely codes the same
        entropy would be (exp of the plug-in entropy, at most `codes`, so that it is only a lower bound where nearly all
        differ), and `commonest`, the share of the most frequent one.
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


def quality_table(measured: dict[str, dict]) -> pd.DataFrame:
    """What `miniworld/quality.py` wrote of several models (title -> content of the file), side by side, in per cent: of
    direct prompts, and of rendered pictures that went through the model's picture tokenizer, as the first judge sees
    them."""
    import pandas as pd

    asks = {"direct": "drawn as asked", "rebuilt": "through the tokenizer"}
    rows: dict[tuple, dict] = {}
    for title, content in measured.items():
        for row in content["rows"]:
            if row["what"] in asks and row["judge"] == "judge" and row["value"] is None:
                rows.setdefault((asks[row["what"]], row["part"]), {})[title] = Rate(row["hits"], row["n"]).text(1)
    return pd.DataFrame(rows).T.rename_axis(["pictures", "right"])


@torch.no_grad()
def spelt_anew(generator: NextScale, codes: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
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


def turned_over(
    generator: NextScale,
    prompts: list[str],
    right: Callable[[np.ndarray], np.ndarray],
    shares: Sequence[float],
    scales: Sequence[int] | None = None,
    seed: int = 0,
) -> list[dict]:
    """Pictures in which a share of the bits of one scale was turned over (with a codebook: of its codes, exchanged),
    and what came after.

    Args:
        right: of images, bool [N].
        shares: 0 is the clean picture.
        scales: which ones are changed; by default all that have a scale after them.

    Returns:
        Rows {"scale", "share", "how", "rate"}: in how many pictures all is right, where `how` is

        left as it was   later scales keep the codes of the clean picture: nothing answers to the change
        drawn on         the model draws the later scales anew, having read the changed ones, with the noise of the
                         clean picture
        spelt anew       `spelt_anew`: the best that later scales can do
    """
    seeds = picture_seeds(seed, [f"{prompt}#{i}" for i, prompt in enumerate(prompts)])
    clean = generator.sample(prompts, seeds)
    rate_of = lambda codes: Rate.of(right(generator.decode(codes)))
    untouched, rows = rate_of(clean), []
    for k in range(len(generator.spans) - 1) if scales is None else scales:
        span = generator.spans[k]
        for share in shares:
            ways = dict.fromkeys(("left as it was", "drawn on", "spelt anew"), untouched)
            if share:
                chance = torch.Generator().manual_seed(seed * 1_000_003 + round(1000 * share) + 7919 * k)
                changed, share_N11 = clean[:, : span.stop].clone(), torch.full((len(clean), 1, 1), share)
                changed[:, span] = generator.quantiser.corrupt(clean[:, span], share_N11, chance)
                ways["left as it was"] = rate_of(torch.cat([changed, clean[:, span.stop :]], 1))
                ways["drawn on"] = rate_of(generator.sample(prompts, seeds, given=changed))
                ways["spelt anew"] = rate_of(spelt_anew(generator, clean, changed))
            rows += [{"scale": k, "share": share, "how": how, "rate": rate} for how, rate in ways.items()]
    return rows
