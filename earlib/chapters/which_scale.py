"""Which scale of a next-scale picture decides what it shows: whose prompt is told when, what the codes of
the first scales say, where a filter acts.

Letters: N pictures, K scales, L positions of all of them, F features, Y classes. c is a prompt that names the concept,
r the same with a replacement in its place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..erasure.change import layer_range
from ..erasure.recipe_scale import ScaleGuidance
from ..erasure.steering import steered
from ..evaluate.rate import Estimate, Rate
from ..generators import picture_seeds
from ..generators.sampling import guided

if TYPE_CHECKING:
    import pandas as pd

    from ..concepts import PromptPair
    from ..evaluate.judge import MiniWorldJudge
    from ..generators.base import NextScale

Pattern = tuple[bool, ...]  # for each scale, whether it is told of the concept


@dataclass(frozen=True)
class InTurn:
    """A way of guiding (`generators.base.Steering`): scale k is drawn from the logits of the prompt where pattern[k],
    else from those of another prompt that is read beside it."""

    other_of: dict[str, str]  # prompt -> the other one
    pattern: Pattern

    def rows(self, generator, prompts, guidance: float):
        twins = [generator.null_like(prompts)] if guidance != 1 else []
        return [prompts, generator.encode([self.other_of[text] for text in prompts.texts]), *twins]

    def combine(self, logits, guidance: float, scale: int):
        return guided([logits[0 if self.pattern[scale] else 1], *logits[2:]], guidance, None)


def told_in_turn(
    generator: NextScale, pairs: Sequence[PromptPair], n: int, seed: int = 0, patterns: Iterable[Pattern] | None = None
) -> dict[Pattern, np.ndarray]:
    """Pictures of which scale k follows the pair's target where pattern[k] and its replacement elsewhere.

    Only codes pass from one prompt to the other: each has keys and values of its own, at all scales.

    Args:
        n: pictures, of the pairs round and round; all patterns of a picture have its noise.
        patterns: by default all 2^K.

    Returns:
        pattern -> uint8 [N, H, W, 3]
    """
    some = [pairs[i % len(pairs)] for i in range(n)]
    seeds = picture_seeds(seed, [f"told/{i}/{pair.target}" for i, pair in enumerate(some)])
    other_of = {pair.target: pair.replacement for pair in some}
    found = {}
    for pattern in patterns or itertools.product((True, False), repeat=len(generator.schedule)):
        with steered(generator, InTurn(other_of, pattern)):
            found[pattern] = generator.decode(generator.sample([pair.target for pair in some], seeds))
    return found


def verdicts(pictures: dict[Pattern, np.ndarray], judge: MiniWorldJudge) -> dict[str, dict[Pattern, np.ndarray]]:
    """What `judge` sees in pictures of `told_in_turn`.

    The concept is the judge's own; the replacement is there if the likeliest of the group is what it is in the picture
    that was told of the replacement at every scale, and its probability reaches the judge's threshold. A picture may
    show neither.

    Returns:
        {"concept", "replacement"} -> pattern -> bool [N]
    """
    K, found = len(next(iter(pictures))), {"concept": {}, "replacement": {}}
    likely = {pattern: judge.probabilities(images)[judge.group] for pattern, images in pictures.items()}
    there = likely[(False,) * K].argmax(1)
    for pattern, p_NY in likely.items():
        found["concept"][pattern] = p_NY[:, judge.groups[judge.group].index(judge.label)] >= judge.threshold
        found["replacement"][pattern] = (p_NY.argmax(1) == there) & (p_NY.max(1) >= judge.threshold)
    return found


def switches(K: int) -> dict[tuple[str, int], Pattern]:
    """The patterns of a prompt that changes once: (whose comes first, the scale at which the other takes over) ->
    pattern."""
    first = {("target", k): tuple(i < k for i in range(K)) for k in range(K + 1)}
    return first | {("replacement", k): tuple(i >= k for i in range(K)) for k in range(K + 1)}


def scenarios(K: int) -> dict[str, Pattern]:
    """Patterns that tell published claims apart, by where the concept is told: SACE's, that scale 0 locks it, and
    ScaleErasure's, which acts in the middle."""
    middle = layer_range(ScaleGuidance().scales, K)
    where = {"scale 0": range(1), f"scales {middle[0]}–{middle[-1]}": middle, f"scale {K - 1}": range(K - 1, K)}
    found = {"every scale": (True,) * K, "no scale": (False,) * K}
    for name, scales in where.items():
        only = tuple(k in scales for k in range(K))
        found[f"{name} only"] = only
        found[f"every scale but {name.split(' ')[1]}"] = tuple(not told for told in only)
    return found


# ---------------------------------------------------------------- what the codes say


def nats_by_scale(generator: NextScale, prompts: list[str], codes: torch.Tensor) -> np.ndarray:
    """-log p(codes of scale k | prompt, codes of the scales before), as they are drawn (guidance and temperature, above
    0): float64 [N, K]."""
    log_p = (generator.log_probabilities(prompts, codes) / generator.temperature).log_softmax(-1)
    nats_NL = -log_p.gather(-1, codes.cpu().reshape(*codes.shape[:2], -1, 1)).double().sum((2, 3))
    return torch.stack([nats_NL[:, span].sum(1) for span in generator.spans], 1).numpy()


def knows_prompt(generator: NextScale, pairs: Sequence[PromptPair], n: int, seed: int = 0) -> list[dict]:
    """What the codes of the first scales say about which of a pair's two prompts was told, to somebody who knows the
    model:

        I(prompt; z_<k) = 1 + mean of log2 p(the true prompt | z_<k)   bits,   p(c | z) = p(z | c) / (p(z | c) + p(z |
        r))

    0 is a guess, 1 knows. `n` pictures of each prompt, the interval a bootstrap over pairs of pictures.

    Returns:
        Rows {"scales", "bits": Estimate, "right"} for k = 1 ... K scales; `right` is how often the likelier prompt is
        the true one.
    """
    some = [pairs[i % len(pairs)] for i in range(n)]
    sides = [pair.target for pair in some], [pair.replacement for pair in some]
    bits, right = [], []
    for own, other in (sides, sides[::-1]):
        codes = generator.sample(own, picture_seeds(seed, [f"knows/{i}/{prompt}" for i, prompt in enumerate(own)]))
        more_nats_NK = nats_by_scale(generator, other, codes) - nats_by_scale(generator, own, codes)
        ahead_NK = np.cumsum(more_nats_NK, 1)  # log p(z | own) / p(z | other)
        bits.append(1 - np.logaddexp(0, -ahead_NK) / math.log(2))
        right.append(np.where(ahead_NK == 0, 0.5, ahead_NK > 0))
    bits_NK, right_K = np.mean(bits, 0), np.mean(right, (0, 1))
    return [
        {"scales": k + 1, "bits": Estimate.mean(bits_NK[:, k]), "right": float(right_K[k])}
        for k in range(len(generator.schedule))
    ]


def read_off(generator: NextScale, codes: torch.Tensor, labels: dict[str, np.ndarray]) -> list[dict]:
    """What can be read off the codes of the first scales linearly: a multinomial logistic regression from the codes'
    vectors, on half of the pictures, asked about the other half.

    Args:
        labels: name -> int [N].

    Returns:
        Rows {"scales", "part", "rate", "chance"}, one of every `labels`; `chance` is the most frequent class's share.
    """
    vectors_NLC = generator.quantiser.vectors(codes.to(generator.device)).detach().cpu()
    rows = []
    for k, span in enumerate(generator.spans):
        x_NF = vectors_NLC[:, : span.stop].flatten(1) * vectors_NLC.shape[-1] ** 0.5
        for part, values in labels.items():
            y_N = torch.as_tensor(np.unique(values, return_inverse=True)[1])
            guess, truth = _logistic(x_NF[::2], y_N[::2])(x_NF[1::2]), y_N[1::2]
            chance = float(truth.bincount().max() / len(truth))
            rate = Rate.of((guess == truth).numpy())
            rows.append({"scales": k + 1, "part": part, "rate": rate, "chance": chance})
    return rows


def _logistic(x_NF: torch.Tensor, y_N: torch.Tensor):
    """The function from features to classes that a multinomial logistic regression on (x, y) learns."""
    weight_FY = torch.zeros(x_NF.shape[1] + 1, int(y_N.max()) + 1, requires_grad=True)
    score = lambda x: x @ weight_FY[:-1] + weight_FY[-1]
    optimizer = torch.optim.LBFGS([weight_FY], max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(score(x_NF), y_N) + 1e-3 * weight_FY.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda x: score(x).detach().argmax(-1)


# ---------------------------------------------------------------- where a recipe's filter acts, and where it learns


def kept_by_scale(generator: NextScale, kept_NL: torch.Tensor) -> list[Estimate]:
    """Shares of positions that a filter keeps (`kept` of `looked_at`), of each scale, over pictures."""
    spans = [span for span in generator.spans if span.stop <= kept_NL.shape[1]]
    return [Estimate.mean(kept_NL[:, span].float().mean(1).numpy()) for span in spans]


def masked(image: np.ndarray, kept: np.ndarray, side: int) -> np.ndarray:
    """A picture uint8 [H, W, 3] with the cells laid over it that a filter keeps at a scale of `side` cells a side;
    `kept` bool [side^2], row by row."""
    row, column = (np.arange(size) * side // size for size in image.shape[:2])
    mask = kept.reshape(side, side)[row][:, column][..., None]
    return np.where(mask, 0.4 * image + 0.6 * np.array((213, 94, 0)), image).round().astype(np.uint8)


def where_learnt(frame: pd.DataFrame, K: int) -> pd.DataFrame:
    """Rows of `read.load` with where they learn: columns `first`, `last`, and `called`, "2" or "0–2"; a recipe other
    than s-vare is named."""
    from ..erasure.presets import recipe

    rows = []
    for row in frame.to_dict("records"):
        if not isinstance(row["recipe"], str):
            rows.append({"first": None, "last": None, "called": "base"})
            continue
        settings = {name: value for name, value in row["settings"].items() if not name.startswith("erasure.")}
        scales = recipe(row["recipe"], "mini-var", **settings).scales
        first, last = scales.first, (scales.first + scales.count if scales.count else K) - 1
        called = f"{first}" if first == last else f"{first}–{last}"
        called += "" if row["recipe"] == "s-vare" else f"\n{row['recipe']}"
        rows.append({"first": first, "last": last, "called": called})
    return frame.assign(**{column: [row[column] for row in rows] for column in ("first", "last", "called")})
