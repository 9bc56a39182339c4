"""Which scale of a next-scale picture decides what it shows: whose prompt is told when, what the codes of the first
scales say, where a filter acts.

Nothing here changes a model. Drawing is in `nextscale/draw.py`, losses and the filter in `nextscale/lessons.py`,
figures in `scale_figures.py`.

Letters: N pictures, K scales, L positions of all of them, C bits of a code (or none, with a codebook), F features, Y
classes. c is a prompt that names the concept, r the same with a replacement in its place.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ..erasure.change import layer_range
from ..erasure.scale_recipe import ScaleGuidance
from ..erasure.steering import steered
from ..evaluate.rate import Estimate, Rate
from ..evaluate.scales import after_each
from ..generators import picture_seeds
from ..generators.sampling import guided

# ---------------------------------------------------------------- which prompt decides


def told_in_turn(
    generator, pairs, n: int, seed: int = 0, patterns=None, states: bool = False
) -> dict[tuple[bool, ...], np.ndarray]:
    """Pictures of which scale k follows the pair's target where pattern[k] and its replacement elsewhere: pattern ->
    uint8 [N, H, W, 3].

    `n` pictures, of the pairs round and round; all patterns of a picture have its noise. `patterns`: by default all
    2^K. Only codes pass from one prompt to the other, as in `InTurn`: every prompt has keys and values of
    its own, at all scales. With `states` it is one drawing whose prompt changes: what a scale was told stays in its
    keys and values, too, which later scales read.
    """
    some = [pairs[i % len(pairs)] for i in range(n)]
    seeds = picture_seeds(seed, [f"told/{i}/{pair.target}" for i, pair in enumerate(some)])
    targets, replacements = [pair.target for pair in some], [pair.replacement for pair in some]
    found = {}
    for pattern in patterns or itertools.product((True, False), repeat=len(generator.schedule)):
        if states:
            codes = _with_states(generator, targets, replacements, pattern, seeds)
        else:
            with steered(generator, InTurn(dict(zip(targets, replacements)), pattern)):
                codes = generator.sample(targets, seeds)
        found[pattern] = generator.decode(codes)
    return found


@dataclass(frozen=True)
class InTurn:
    """A way of guiding (`generators.base.Steering`): scale k is drawn from the logits of the prompt where pattern[k], else
    from those of another prompt that is read beside it."""

    other_of: dict[str, str]  # prompt -> the other one
    pattern: tuple[bool, ...]

    def rows(self, generator, prompts, guidance: float):
        twins = [generator.null_like(prompts)] if guidance != 1 else []
        return [prompts, generator.encode([self.other_of[text] for text in prompts.texts]), *twins]

    def combine(self, logits, guidance: float, scale: int):
        return guided([logits[0 if self.pattern[scale] else 1], *logits[2:]], guidance, None)


@torch.no_grad()
def _with_states(
    generator, targets: list[str], replacements: list[str], pattern: tuple[bool, ...], seeds: list[int]
) -> torch.Tensor:
    """Codes of `draw.draw_batch`, guided, where the prompt is another at every scale and the cache is one."""
    trunk, tokenizer, quantiser, config = generator.trunk, generator.tokenizer, generator.quantiser, generator.config
    conditions = []
    for prompts in (replacements, targets):
        batch = generator.encode(prompts)
        rows = batch, generator.null_like(batch)
        conditions.append(
            trunk.condition(torch.cat([row.ids_BP for row in rows]), torch.cat([row.mask_BP for row in rows]))
        )
    seeds_N, follow, cache, codes = (
        torch.tensor(seeds, device=generator.device),
        partial(guided, guidance=generator.guidance, steering=None),
        [[] for _ in trunk.blocks],
        [],
    )
    f_hat = torch.zeros(
        len(seeds),
        config.code_width,
        config.latent_size,
        config.latent_size,
        device=generator.device,
        dtype=tokenizer.down0.dtype,
    )
    for k, span in enumerate(generator.spans):
        inputs = tokenizer.next_input(f_hat, k).to(generator.dtype)
        head = trunk(conditions[pattern[k]], inputs.repeat(2, 1, 1), span, cache)
        logits = follow([quantiser.split(part.float()) for part in head.chunk(2)])
        codes.append(quantiser.choose(logits, seeds_N, span.start, generator.temperature))
        f_hat = f_hat + tokenizer.spread(quantiser.vectors(codes[-1]).to(f_hat.dtype), k)
    return torch.cat(codes, 1).cpu()


def verdicts(pictures: dict, judge) -> dict[str, dict[tuple[bool, ...], np.ndarray]]:
    """What `judge`, MiniWorld's, sees in pictures of `told_in_turn`: {"concept", "replacement"} -> pattern -> bool [N].

    The concept is the judge's own; the replacement is there if the likeliest of the group is what it is in the picture
    that was told of the replacement at every scale, and its probability reaches the judge's threshold. A picture may
    show neither.
    """
    K, found = len(next(iter(pictures))), {"concept": {}, "replacement": {}}
    likely = {pattern: judge.probabilities(images)[judge.group] for pattern, images in pictures.items()}
    there = likely[(False,) * K].argmax(1)
    for pattern, p_NY in likely.items():
        found["concept"][pattern] = p_NY[:, judge.groups[judge.group].index(judge.label)] >= judge.threshold
        found["replacement"][pattern] = (p_NY.argmax(1) == there) & (p_NY.max(1) >= judge.threshold)
    return found


def switches(K: int) -> dict[tuple[str, int], tuple[bool, ...]]:
    """The patterns of a prompt that changes once: (whose comes first, the scale at which the other takes over) ->
    pattern."""
    first = {("target", k): tuple(i < k for i in range(K)) for k in range(K + 1)}
    return first | {("replacement", k): tuple(i >= k for i in range(K)) for k in range(K + 1)}


def scenarios(K: int) -> dict[str, tuple[bool, ...]]:
    """Patterns that tell published claims apart, by where the concept is told: SACE's, that scale 0 locks it, and
    ScaleErasure's, which acts in the middle."""
    middle = layer_range(ScaleGuidance().scales, K)
    where = {"scale 0": range(1), f"scales {middle[0]}–{middle[-1]}": middle, f"scale {K - 1}": range(K - 1, K)}
    found = {"every scale": (True,) * K, "no scale": (False,) * K}
    for name, scales in where.items():
        only = tuple(k in scales for k in range(K))
        found |= {
            f"{name} only": only,
            f"every scale but {name.removeprefix('scale ').removeprefix('scales ')}": tuple(not told for told in only),
        }
    return found


def switch_rows(found: dict) -> list[dict]:
    """Of one of what `verdicts` gives: {"first", "scale", "value", "low", "high", "n"}, a rate for every prompt that
    changes once."""
    K = len(next(iter(found)))
    return [
        {"first": first, "scale": k, **Rate.of(found[pattern]).flat()} for (first, k), pattern in switches(K).items()
    ]


def shapley(found: dict, groups=None) -> list[dict]:
    """How much of the concept's rate is due to each scale's being told of it, in points: K times {"scale", "value",
    "low", "high", "n"}.

        phi_k = sum over sets S of other scales of |S|! (K - |S| - 1)! / K! ( v(S and k) - v(S) ),   v(S) = rate when
        the scales S are told of c

    the mean of what telling k adds, over all orders in which scales may be told (Shapley 1953). They sum to the rate
    with c minus the rate with r. `found` is one of what `verdicts` gives; the interval is a bootstrap over pictures, or
    over `groups` of them.
    """
    K = len(next(iter(found)))
    rows = []
    for k in range(K):
        phi_N = 0.0
        for pattern in found:
            if not pattern[k]:
                size = sum(pattern)
                weight = math.factorial(size) * math.factorial(K - size - 1) / math.factorial(K)
                with_k = (*pattern[:k], True, *pattern[k + 1 :])
                phi_N = phi_N + weight * (found[with_k].astype(float) - found[pattern])
        rows.append({"scale": k, **Estimate.mean(phi_N, groups).flat()})
    return rows


# ---------------------------------------------------------------- what the codes say


@torch.no_grad()
def nats_by_scale(generator, prompts: list[str], codes: torch.Tensor) -> np.ndarray:
    """-log p(codes of scale k | prompt, codes of the scales before), as they are drawn (guidance and temperature, above
    0): float64 [N, K]."""
    batch, codes = generator.encode(prompts), codes.to(generator.device)
    rows = [generator.logits(batch, codes)] + (
        [generator.logits(generator.null_like(batch), codes)] if generator.guidance != 1 else []
    )
    logits = guided([z.float() for z in rows], generator.guidance, None) / generator.temperature
    nats_NL = generator.quantiser.cross_entropy(logits, codes).double().reshape(*codes.shape[:2], -1).sum(-1)
    return torch.stack([nats_NL[:, span].sum(1) for span in generator.spans], 1).cpu().numpy()


def knows_prompt(generator, pairs, n: int, seed: int = 0) -> list[dict]:
    """What the codes of the first scales say about which of a pair's two prompts was told, to somebody who knows the
    model: K rows for k = 1 ... K scales,

        I(prompt; z_<k) = 1 + mean of log2 p(the true prompt | z_<k)   bits,   p(c | z) = p(z | c) / ( p(z | c) + p(z |
        r) )

    {"scales", "value", "low", "high", "n", "right"}; 0 is a guess, 1 knows; `right` is how often the likelier prompt is
    the true one. `n` pictures of each prompt, the interval a bootstrap over pairs of pictures.
    """
    some = [pairs[i % len(pairs)] for i in range(n)]
    sides = [pair.target for pair in some], [pair.replacement for pair in some]
    bits, right = [], []
    for own, other in (sides, sides[::-1]):
        codes = generator.sample(own, picture_seeds(seed, [f"knows/{i}/{prompt}" for i, prompt in enumerate(own)]))
        ahead_NK = np.cumsum(
            nats_by_scale(generator, other, codes) - nats_by_scale(generator, own, codes), 1
        )  # log p(z | own) / p(z | other)
        bits.append(1 - np.logaddexp(0, -ahead_NK) / math.log(2))
        right.append(np.where(ahead_NK == 0, 0.5, ahead_NK > 0))
    bits_NK, right_K = np.mean(bits, 0), np.mean(right, (0, 1))
    return [
        {"scales": k + 1, **Estimate.mean(bits_NK[:, k]).flat(), "right": float(right_K[k])}
        for k in range(len(generator.schedule))
    ]


def seen_after(generator, codes: torch.Tensor, right) -> list[dict]:
    """What a judge makes of the pictures after each scale: {"scales", "part", "value", "low", "high", "n"}, one of each
    part of `right(images)`, name -> bool [N]."""
    seen = [right(images) for images in after_each(generator, codes)]
    return [
        {"scales": k + 1, "part": part, **Rate.of(shows).flat()}
        for k, found in enumerate(seen)
        for part, shows in found.items()
    ]


def read_off(generator, codes: torch.Tensor, labels: dict[str, np.ndarray], decay: float = 1e-3) -> list[dict]:
    """What can be read off the codes of the first scales linearly: rows {"scales", "part", "value", "low", "high", "n",
    "chance"}, one of every `labels`.

    A multinomial logistic regression from the codes' vectors, on half of the pictures, asked about the other half;
    `chance` is the most frequent class's share there. `labels`: name -> int [N]. `decay`: weight of the squared weights
    in the loss.
    """
    vectors_NLC = generator.quantiser.vectors(codes.to(generator.device)).detach().cpu()
    rows = []
    for k, span in enumerate(generator.spans):
        x_NF = vectors_NLC[:, : span.stop].flatten(1) * vectors_NLC.shape[-1] ** 0.5
        for part, values in labels.items():
            y_N = torch.as_tensor(np.unique(values, return_inverse=True)[1])
            guess = _logistic(x_NF[::2], y_N[::2], decay)(x_NF[1::2])
            truth = y_N[1::2]
            found = Rate.of((guess == truth).numpy()).flat()
            rows.append({"scales": k + 1, "part": part, **found, "chance": float(truth.bincount().max() / len(truth))})
    return rows


def _logistic(x_NF: torch.Tensor, y_N: torch.Tensor, decay: float):
    """The function from features to classes that a multinomial logistic regression on (x, y) learns."""
    weight_FY = torch.zeros(x_NF.shape[1] + 1, int(y_N.max()) + 1, requires_grad=True)
    score = lambda x: x @ weight_FY[:-1] + weight_FY[-1]
    optimizer = torch.optim.LBFGS([weight_FY], max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(score(x_NF), y_N) + decay * weight_FY.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda x: score(x).detach().argmax(-1)


# ---------------------------------------------------------------- where a recipe's filter acts, and where it learns


def kept_by_scale(generator, kept_NL: torch.Tensor) -> list[dict]:
    """Shares of positions that a filter keeps (`lessons.looked_at`), by scale: {"scale", "value", "low", "high", "n"},
    a bootstrap over pictures."""
    spans = [span for span in generator.spans if span.stop <= kept_NL.shape[1]]
    return [
        {"scale": k, **Estimate.mean(kept_NL[:, span].float().mean(1).numpy()).flat()} for k, span in enumerate(spans)
    ]


def masked(image: np.ndarray, kept: np.ndarray, side: int, colour=(213, 94, 0), cover: float = 0.6) -> np.ndarray:
    """A picture uint8 [H, W, 3] with the cells laid over it that a filter keeps at a scale of `side` cells a side;
    `kept` bool [side^2], row by row."""
    row, column = (np.arange(size) * side // size for size in image.shape[:2])
    mask = kept.reshape(side, side)[row][:, column][..., None]
    return np.where(mask, (1 - cover) * image + cover * np.array(colour), image).round().astype(np.uint8)


def learning_scales(recipe: str, settings: dict, K: int) -> range:
    """The scales at which a run of a table learns, from its recipe and its settings."""
    from ..erasure.scale_methods import recipe as preset

    scales = preset(
        recipe, "mini-var", **{name: value for name, value in settings.items() if not name.startswith("erasure.")}
    ).scales
    return range(scales.first, scales.first + scales.count if scales.count else K)


def where_learnt(frame, K: int):
    """Rows of `ablations.read` with where they learn: columns `first`, `last`, and `called`, "2" or "0–2"; a recipe
    other than s-vare is named."""
    found = [
        learning_scales(row["recipe"], row["settings"], K) if isinstance(row["recipe"], str) else None
        for row in frame.to_dict("records")
    ]
    frame = frame.assign(
        first=[None if r is None else r[0] for r in found], last=[None if r is None else r[-1] for r in found]
    )
    told = lambda r: "base" if r is None else f"{r[0]}" if len(r) == 1 else f"{r[0]}–{r[-1]}"
    return frame.assign(
        called=[
            told(r) + (f"\n{name}" if r is not None and name != "s-vare" else "")
            for r, name in zip(found, frame.recipe)
        ]
    )
