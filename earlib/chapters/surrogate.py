"""SPM's substitution and its anchoring, asked of the model itself: how far concept and surrogate are apart along a
picture, what there is to learn, what the anchors weigh, and figures of both tables.

The recipes are the library's own (`erasure/lessons.py`, `erasure/anchors.py`); here they are only read, never changed.
The tables `spm-surrogate` and `spm-anchor` are read by `ablations.py`. Letters in tensor names as in
`generators/base.py`; N pictures or prompts, c a prompt with the concept, s the same with a surrogate in its place.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from ..concepts import PromptPair, renamed
from ..erasure.change import applied
from ..erasure.lessons import lessons
from ..erasure.retain import Retained
from ..errors import UserError
from ..evaluate.rate import Estimate
from ..plots.ablation_figures import _ends, _finish, _style
from .audit import divergences

PREFIXES = {
    "target": "the target's",
    "replacement": "the replacement's",
    "student": "the student's",
}  # recipe field prefix -> whose pictures are read
DIFFUSION = (
    77 * 768
)  # numbers in the text embedding of Stable Diffusion 1.4, where SPM's released code draws its anchors

# ---------------------------------------------------------------- concept and surrogate, along a picture


def with_surrogate(concept, word: str, other: str):
    """`concept` with pairs whose replacement is the target, `other` in place of `word`. UserError for a target that
    does not have it."""
    targets = [pair.target for pair in concept.pairs]
    return replace(concept, pairs=tuple(PromptPair(*texts) for texts in zip(targets, renamed(targets, word, other))))


@torch.no_grad()
def reach(generator, prompts: list[str], others: dict, tokens_NT: torch.Tensor) -> dict[str, dict[str, np.ndarray]]:
    """How far the teacher told of c is from the teacher told of something else, at every token of the same pictures:
    name -> float64 [N, T] of

        kl         KL( p*(x_t | x_<t, c) || p*(x_t | x_<t, s) ) in nats, conditional rows, no guidance
        distance   || h*(s) - h*(c) || / || h*(c) ||, h the states that predict token t

    `others`: name -> prompts, one for each of `prompts`, or None for no prompt at all.
    """
    tokens_BT, batch = tokens_NT.to(generator.device), generator.encode(list(prompts))
    h_NTD = generator.hidden_states(batch, tokens_BT)
    found = {}
    for name, texts in others.items():
        other_NTD = generator.hidden_states(
            generator.null_like(batch) if texts is None else generator.encode(list(texts)), tokens_BT
        )
        apart_NT = ((other_NTD - h_NTD).float().norm(dim=-1) / h_NTD.float().norm(dim=-1)).double().cpu().numpy()
        found[name] = {"kl": divergences(generator, h_NTD, other_NTD), "distance": apart_NT}
    return found


@torch.no_grad()
def to_learn(generator, pairs, recipe, seed: int = 0) -> np.ndarray:
    """The erasing loss L_t of each lesson before the first step, float64 [lessons, T]: the student still is the
    teacher, so it is what there is to learn.

    prefix=student is refused (UserError): before the first step these are pictures of the teacher too, with other
    noise.
    """
    if recipe.prefix == "student":
        raise UserError("before the first step the student's pictures are the teacher's: ask with prefix=target")
    ahead = lessons(generator, list(pairs), replace(recipe, passes=1), seed)
    return torch.stack([begin(nullcontext).losses(0, generator.num_codes) for begin in ahead]).double().cpu().numpy()


def quarters(values_NT: np.ndarray) -> list[dict]:
    """The mean of a value in each quarter of the picture, from the top, bootstrapped over pictures: four times
    {"value", "n", "low", "high"}."""
    return [Estimate.mean(part.mean(1)).flat() for part in np.array_split(values_NT, 4, axis=1)]


def reach_lines(panels: dict, grid: tuple[int, int]):
    """KL above, distance of states below, over the tokens of a picture. panels: whose pictures -> what `reach` gives.
    Returns (figure, its data).

    Thin lines are single tokens, thick ones the mean of a row of the picture; the band is its interval over pictures.
    """
    import matplotlib.pyplot as plt

    from ..plots.figures import INK, PALETTE

    (H, W), rows = grid, []
    names = list(dict.fromkeys(name for found in panels.values() for name in found))
    colours = {name: INK if name == names[0] else PALETTE[i - 1] for i, name in enumerate(names)}
    fig, axes = plt.subplots(
        2,
        len(panels),
        figsize=(3.4 * len(panels) + 0.4, 5.0),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for axes_2, (title, found) in zip(axes.T, panels.items()):
        for axis, what in zip(axes_2, ("kl", "distance")):
            for name, values in found.items():
                v_NT, style = values[what], {"color": colours[name]}
                means = [Estimate.mean(v_NT[:, i * W : (i + 1) * W].mean(1)).flat() for i in range(H)]
                centre = (np.arange(H) + 0.5) * W
                axis.plot(np.arange(H * W) + 0.5, v_NT.mean(0), linewidth=0.5, alpha=0.3, **style)
                axis.plot(centre, [m["value"] for m in means], linewidth=2, label=name, **style)
                if means[0]["low"] is not None:
                    axis.fill_between(
                        centre, [m["low"] for m in means], [m["high"] for m in means], alpha=0.15, linewidth=0, **style
                    )
                rows += [{"pictures": title, "told of": name, "what": what, "row": i, **m} for i, m in enumerate(means)]
        axes_2[0].set(title=title, yscale="log")
    axes[1, 0].set_ylim(bottom=0)
    _finish(fig, axes, axes.size, "image tokens, row after row", "KL from the target's (nats)")
    axes[1, 0].set_ylabel("states apart, of their length")
    return fig, rows


# ---------------------------------------------------------------- what anchors weigh


def weighing(chance_N: torch.Tensor) -> dict[str, float]:
    """How uneven a drawing of prompts is: `effective`, 1 / sum p^2, of how many equally likely prompts it could be;
    `ratio`, greatest chance over least."""
    p_N = chance_N.double()
    return {"prompts": len(p_N), "effective": float(1 / p_N.square().sum()), "ratio": float(p_N.max() / p_N.min())}


def accepted(dimensions: int, draws: int = 100_000, seed: int = 0) -> dict[str, float]:
    """What SPM's released code does with its distances: a random direction in `dimensions` is taken as an anchor with
    chance 1 - cos to the concept.

    `spread`, the deviation of cos; `accepted`, the share of directions that are taken. The cosine with a fixed vector
    does not hang on the vector: it is z / sqrt(z^2 + X), z normal and X of chi squared with one dimension less.
    """
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(draws)
    cos = z / np.sqrt(z**2 + rng.chisquare(dimensions - 1, draws))
    return {"dimensions": dimensions, "spread": float(cos.std()), "accepted": float(np.minimum(1 - cos, 1).mean())}


def chance_lines(chances: dict[float, torch.Tensor]):
    """Chance of each prompt to be drawn, of that of an even drawing, from the nearest to the farthest prompt. chances:
    alpha -> [N]. Returns the figure."""
    import matplotlib.pyplot as plt

    from ..plots.figures import INK

    fig, axis = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    axis.axhline(1, color=INK, linestyle=":", linewidth=1.2, label="an even drawing")
    for alpha, chance_N in chances.items():
        axis.plot(np.sort(chance_N.numpy()) * len(chance_N), label=f"α = {alpha:g}")
    axis.set(xlabel="prompts, from the least chance to the greatest", ylabel="chance, of an even one", ylim=(0, None))
    axis.legend()
    return fig


def gradient_norms(
    generator, pairs, recipe, tensors: dict, retain: list[str], seed: int = 0, updates: int = 4
) -> dict[str, float]:
    """Norms of the gradients of the two losses of an update, at the membranes `tensors`: {"erasing", "anchoring"},
    means over the first `updates` lessons.

    The recipe's retain.weight counts as it is: at weight 1, erasing / anchoring is the weight at which both pull alike.
    """
    student = {name: nn.Parameter(t.detach().float()) for name, t in tensors.items()}
    on = partial(applied, generator, student, recipe.positions)
    ahead = lessons(generator, list(pairs), replace(recipe, passes=1), seed)[:updates]
    retained, T = Retained(generator, retain, recipe, pairs=pairs), generator.num_codes
    norms = {"erasing": [], "anchoring": []}
    for i, begin in enumerate(ahead):
        lesson, keep = begin(on), retained.lesson(seed, i * T, student)
        with on():
            losses = {"erasing": lesson.losses(0, T).sum(), "anchoring": keep(1.0)}
            for which, loss in losses.items():
                grads = torch.autograd.grad(loss, list(student.values()), allow_unused=True)
                norms[which].append(sum(g.double().square().sum().item() for g in grads if g is not None) ** 0.5)
    return {which: float(np.mean(values)) for which, values in norms.items()}


def price(frame, series: dict, weights: str = "retain.weight"):
    """What anchors keep for how much of the concept: neighbours (left) and drift on harmless prompts (right) over the
    concept's rate. Returns the figure.

    `frame`: rows of one concept of `ablations.read`; series: label -> its name in the legend, rows of one label joined
    in the order of their weight, which stands beside the point. A label without weights is a square. The drift's
    whiskers are its least and greatest seed.
    """
    import matplotlib.pyplot as plt

    from ..plots.figures import INK, PALETTE

    fig, axes = plt.subplots(1, 2, figsize=(9.2, 4.2), sharex=True, squeeze=False, layout="constrained")
    left, right = axes[0]
    for _, row in frame[frame.recipe.isna()].head(1).iterrows():
        left.scatter(100 * row.direct, 100 * row.neighbours, marker="*", s=110, color=INK, label="before", zorder=3)
        right.scatter(100 * row.direct, 0, marker="*", s=110, color=INK, zorder=3)
    for (label, name), colour in zip(series.items(), (INK, *PALETTE)):
        rows = frame[(frame.label == label) & frame.recipe.notna() & frame.direct.notna()].sort_values(weights)
        weighted = rows[weights].notna()
        style = _style(colour, True) | {"marker": "o" if weighted.any() else "s"}
        left.errorbar(
            100 * rows.direct,
            100 * rows.neighbours,
            xerr=_ends(rows, "direct"),
            yerr=_ends(rows, "neighbours"),
            label=name,
            **style,
        )
        drift_ends = [rows.kl_drift - rows.kl_drift_low, rows.kl_drift_high - rows.kl_drift]
        right.errorbar(100 * rows.direct, rows.kl_drift, xerr=_ends(rows, "direct"), yerr=drift_ends, **style)
        for _, row in rows[weighted].iterrows():
            for axis, y in ((left, 100 * row.neighbours), (right, row.kl_drift)):
                axis.annotate(
                    f"{row[weights]:g}",
                    (100 * row.direct, y),
                    (5, 4),
                    textcoords="offset points",
                    fontsize=7.5,
                    color=colour,
                )
    left.set(xlim=(-3, 103), ylim=(100 * frame.neighbours_low.min() - 6, 103))
    right.set(ylim=(-0.01, None), ylabel="KL drift on harmless prompts (nats a token)")
    _finish(fig, axes, 2, "the concept, seen by the judge (%)", "neighbours, seen by the judge (%)")
    return fig
