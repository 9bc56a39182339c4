"""SPM's substitution asked of the model itself: how far concept and surrogate are apart along a picture,
and what there is to learn.

Letters in tensor names as in `generators/base.py`; N pictures or prompts, c a prompt with the concept, s the same with
a surrogate in its place.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..concepts import PromptPair, renamed
from ..erasure.lessons import Lessons
from ..erasure.objective import divergence
from ..errors import UserError
from ..evaluate.rate import Estimate
from ..plots import panels as panel
from ..plots.style import INK, PALETTE

if TYPE_CHECKING:
    from ..concepts import Concept
    from ..erasure.recipe import Recipe
    from ..generators.base import NextToken

PREFIXES = {"target": "the target's", "replacement": "the replacement's", "student": "the student's"}


def with_surrogate(concept: Concept, word: str, other: str) -> Concept:
    """`concept` with pairs whose replacement is the target, `other` in place of `word`. UserError for a target that
    does not have it."""
    targets = [pair.target for pair in concept.pairs]
    return replace(concept, pairs=tuple(PromptPair(*texts) for texts in zip(targets, renamed(targets, word, other))))


@torch.no_grad()
def reach(
    generator: NextToken, prompts: list[str], others: dict[str, list[str] | None], tokens_NT: torch.Tensor
) -> dict[str, dict[str, np.ndarray]]:
    """How far the teacher told of c is from the teacher told of something else, at every token of the same pictures.

    Args:
        prompts: N prompts c.
        others: name -> N prompts s, or None for no prompt at all.
        tokens_NT: int64, the pictures along which both are read.

    Returns:
        name -> float64 [N, T] of

        kl         KL( p*(x_t | x_<t, c) || p*(x_t | x_<t, s) ) in nats, conditional rows, no guidance
        distance   || h*(s) - h*(c) || / || h*(c) ||, h the states that predict token t
    """
    tokens_BT, batch = tokens_NT.to(generator.device), generator.encode(list(prompts))
    h_NTD = generator.hidden_states(batch, tokens_BT)
    found = {}
    for name, texts in others.items():
        told = generator.null_like(batch) if texts is None else generator.encode(list(texts))
        other_NTD = generator.hidden_states(told, tokens_BT)
        kl_NT = divergence(generator.image_logits(other_NTD), generator.image_logits(h_NTD), "kl")
        apart_NT = (other_NTD - h_NTD).float().norm(dim=-1) / h_NTD.float().norm(dim=-1)
        found[name] = {what: v.double().cpu().numpy() for what, v in (("kl", kl_NT), ("distance", apart_NT))}
    return found


@torch.no_grad()
def to_learn(generator: NextToken, pairs, recipe: Recipe, seed: int = 0) -> np.ndarray:
    """The erasing loss L_t of each lesson before the first step, float64 [lessons, T]: the student still is the
    teacher, so it is what there is to learn.

    Raises:
        UserError: prefix=student, as before the first step these are pictures of the teacher too, with other noise.
    """
    if recipe.prefix == "student":
        raise UserError("before the first step the student's pictures are the teacher's: ask with prefix=target")
    ahead = Lessons(generator, pairs, replace(recipe, passes=1), seed)
    begun = (ahead.begin(i, nullcontext) for i in range(len(ahead)))
    return torch.stack([lesson.losses(0, generator.num_codes) for lesson in begun]).double().cpu().numpy()


def quarters(values_NT: np.ndarray) -> dict[str, Estimate]:
    """The mean of a value in each quarter of the picture, from the top, over pictures."""
    names = ("first", "second", "third", "last")
    return {f"{n} quarter": Estimate.mean(v.mean(1)) for n, v in zip(names, np.array_split(values_NT, 4, axis=1))}


def reach_lines(reaches: dict, grid: tuple[int, int]):
    """KL above, distance of states below, over the tokens of a picture.

    Thin lines are single tokens, thick ones the mean of a row of the picture; the band is its interval over pictures.

    Args:
        reaches: whose pictures -> what `reach` gives.
        grid: rows and columns of tokens.

    Returns:
        (figure, its data)
    """
    (H, W), rows, centre = grid, [], (np.arange(grid[0]) + 0.5) * grid[1]
    names = list(dict.fromkeys(name for of in reaches.values() for name in of))
    colours = dict(zip(names, (INK, *PALETTE)))
    fig, axes = panel.grid_of(dict.fromkeys(range(2 * len(reaches))), len(reaches), 2.3, sharex=True, sharey="row")
    for (above, below), (title, of) in zip(axes.T, reaches.items()):
        for axis, what in ((above, "kl"), (below, "distance")):
            for name, values in of.items():
                v_NT, style = values[what], {"color": colours[name]}
                means = [Estimate.mean(v_NT[:, i * W : (i + 1) * W].mean(1)) for i in range(H)]
                axis.plot(np.arange(H * W) + 0.5, v_NT.mean(0), linewidth=0.5, alpha=0.3, **style)
                axis.plot(centre, [m.value for m in means], linewidth=2, label=name, **style)
                if means[0].low is not None:
                    ends = [m.low for m in means], [m.high for m in means]
                    axis.fill_between(centre, *ends, alpha=0.15, linewidth=0, **style)
                told = {"pictures": title, "told of": name, "what": what}
                rows += [told | {"row": i} | m.flat() for i, m in enumerate(means)]
        above.set(title=title.replace(" (", "\n("), yscale="log")
    axes[1, 0].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("KL from the target's (nats)")
    axes[1, 0].set_ylabel("states apart, of their length")
    return panel.finish(fig, axes, "image tokens, row after row"), rows
