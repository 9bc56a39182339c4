"""SPM on Janus: what an unpublished poster says of it, held against the tables `spm-loss`, `spm-place`, `spm-surrogate`
and `spm-anchor`. Measured live are gradients on the vision tower, how far a surrogate is from the concept along a
picture, and how evenly anchors are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..concepts import PromptPair, renamed
from ..evaluate.rate import Estimate, Rate
from ..plots.style import GREEN, ORANGE, PURPLE
from ..sweeps.compare import KINDS, margin

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ..concepts import Concept
    from ..erasure.recipe import Recipe
    from ..generators.base import NextToken
    from ..generators.janus import JanusGenerator

LOSSES = {"mse": "MSE", "kl": "KL", "reverse-kl": "reverse KL"}  # a recipe's divergence -> how it is called
PLACES = {"attention": "attention", "mlp": "MLP", "both": "attention + MLP"}  # a recipe's modules, likewise
LOOKS = {"attention": (GREEN, "o"), "mlp": (ORANGE, "D"), "both": (PURPLE, "^")}  # colour, marker: in every figure
PREFIXES = {"target": "the target's", "replacement": "the replacement's", "student": "the student's"}
NOTICED = 10.0  # how large an erasing signal on the vision tower is made, so that captions feel it
EYES = ("q_proj", "k_proj", "v_proj", "projection_layer")  # the matrices of the vision tower's attention
TRUE, FALSE, OPEN = "as it says", "not so", "cannot be told"


# ---------------------------------------------------------------- the poster's statements


@dataclass(frozen=True)
class Statement:
    """What the poster says, in words; what was measured about it; and TRUE, FALSE or OPEN."""

    says: str
    measured: str
    verdict: str


def sign(points: Estimate) -> int:
    """1 or -1, the sign of a difference by its 95 % interval; 0 where that holds 0."""
    return 0 if points.value is None or not points.differs else 1 if points.value > 0 else -1


def held_against(says: str, what: str, one: Rate, other: Rate, expected: str) -> Statement:
    """A statement about two rates, judged by the 95 % interval of `other - one`.

    Args:
        says: the poster's words.
        what: whose rates they are.
        expected: "more" or "fewer", if the poster says that `other` is; "same", if it says that nothing changes: that
            an interval can refute, but not confirm.
    """
    points = other.minus(one)
    verdict = OPEN if not sign(points) else TRUE if {"more": 1, "fewer": -1}.get(expected) == sign(points) else FALSE
    measured = f"{what}: {one} → {other} %, a difference of {points.points()} (n = {one.n}, {other.n})"
    return Statement(says, measured, verdict)


def the_best(others: dict[str, Estimate]) -> Statement:
    """Whether KL on attention is best: `others` are the margins of other losses and places less its own."""
    greater = [name for name, points in others.items() if sign(points) > 0]
    less = sum(sign(points) < 0 for points in others.values())
    verdict = FALSE if greater else TRUE if less == len(others) else OPEN
    measured = f"margin of {len(others)} others: greater in {len(greater)}, less in {less}, not told apart in the rest"
    measured += f" ({', '.join(greater)})" if greater else ""
    return Statement("KL on the attention layers is best", measured, verdict)


# ---------------------------------------------------------------- the same loss, other places


def matched(frame: pd.DataFrame, one: str, other: str) -> list[tuple[dict, dict]]:
    """Each run with membranes on `one` (a recipe's modules) beside what `other` would give at the same size of the
    change and the same strength, where its runs reach that far.

    That is read off the line through the runs of `other` over the logarithm of the size: between two runs their rates
    and the ends of their intervals (which are wider than those of a mean of two) are taken in proportion.

    Returns:
        Pairs of a row of the table and {"modules", "size", "direct", "neighbours"}, the last two Estimates.
    """
    size = lambda row: row["change_size"].value
    trained = frame[frame.recipe.notna() & frame.direct.notna()].to_dict("records")
    pairs = []
    for strength in dict.fromkeys(row["erasure.strength"] for row in trained):
        alike = sorted((row for row in trained if row["erasure.strength"] == strength), key=size)
        line = [row for row in alike if row["modules"] == other]
        for row in alike:
            if row["modules"] != one or not line or not size(line[0]) <= size(row) <= size(line[-1]):
                continue
            found = {"modules": other, "size": size(row)}
            for kind in KINDS:
                ends = [[getattr(r[kind], end) for r in line] for end in ("value", "low", "high")]
                at = [float(np.interp(np.log(size(row)), np.log([size(r) for r in line]), values)) for values in ends]
                found[kind] = Estimate(at[0], min(r[kind].n for r in line), *at[1:])
            pairs.append((row, found))
    return pairs


def counted(pairs: list[tuple[dict, dict]], kind: str) -> str:
    """In how many pairs of `matched` the second's rate is higher, lower or neither: `lower in 3, not told apart in 2`;
    `none` of no pairs."""
    found = {"higher": 0, "lower": 0, "not told apart": 0}
    for first, second in pairs:
        rate = first[kind]
        differs = sign(second[kind].minus(Estimate(rate.value, rate.n, rate.low, rate.high)))
        found["not told apart" if not differs else "higher" if differs > 0 else "lower"] += 1
    return ", ".join(f"{words} in {n}" for words, n in found.items() if n) or "none"


def tower(
    generator: JanusGenerator, concept: Concept, recipe: Recipe, pictures: int = 8, seed: int = 0
) -> dict[str, float]:
    """The gradients of the training loss on membranes of the vision tower, and what such membranes change.

    All attention matrices of the tower get a membrane, as the language model's do, and both are switched on while the
    loss of the first lesson is computed. The tower's have numbers in them (a fresh membrane changes nothing anywhere).

    Args:
        generator: loaded with its vision tower (parts="all").
        pictures: drawn and captioned with the tower's membranes and without.

    Returns:
        Norms of the gradient on the `tower` and on the language model (`trunk`); how many `pictures` and `captions`
        of `n` change.
    """
    import torch

    from ..erasure.change import applied, merged, student_parameters, switched, tensor_names
    from ..erasure.lessons import Lessons
    from ..generators import draw

    vision = generator.model.model.vision_model
    linear = [name for name, module in vision.named_modules() if isinstance(module, torch.nn.Linear)]
    eyes = student_parameters(vision, [f"{n}.weight" for n in linear if n.endswith(EYES)], rank=1, seed=seed)
    chance = torch.Generator().manual_seed(seed)
    for name, p in eyes.items():
        if ".lora_B." in name:
            p.data.copy_(NOTICED * torch.randn(p.shape, generator=chance))
    names = tensor_names(recipe, len(generator.decoder_layers))
    mind = student_parameters(generator.trunk, names, rank=1, seed=seed)
    lessons = Lessons(generator, concept.pairs[: recipe.batch], recipe, seed)
    with switched(vision, merged(vision, eyes)), applied(generator, mind):
        loss = lessons.begin(0, lambda: applied(generator, mind)).losses(0, generator.num_codes).sum()
        gradients = torch.autograd.grad(loss, [*eyes.values(), *mind.values()], materialize_grads=True)
    norm = lambda part: sum(g.double().square().sum() for g in part).sqrt().item()
    prompts = list(concept.tests["direct"][:pictures])
    before = draw(generator, prompts, seed=seed, progress=False)
    captions = generator.caption(before)
    with torch.no_grad(), switched(vision, merged(vision, eyes)):
        after, captions_after = draw(generator, prompts, seed=seed, progress=False), generator.caption(before)
    return {
        "tower": norm(gradients[: len(eyes)]),
        "trunk": norm(gradients[len(eyes) :]),
        "pictures": int((before != after).any((1, 2, 3)).sum()),
        "captions": sum(a != b for a, b in zip(captions, captions_after)),
        "n": len(prompts),
    }


# ---------------------------------------------------------------- surrogates and anchors


def with_surrogate(concept: Concept, word: str, other: str) -> Concept:
    """`concept` with pairs whose replacement is the target, `other` in place of `word`. UserError for a target that
    does not have it."""
    targets = [pair.target for pair in concept.pairs]
    return replace(concept, pairs=tuple(PromptPair(*texts) for texts in zip(targets, renamed(targets, word, other))))


def apart(
    generator: NextToken, prompts: list[str], others: dict[str, list[str] | None], tokens_NT: torch.Tensor
) -> dict[str, np.ndarray]:
    """How far the model told of c is from the model told of something else, at every token of the same pictures.

    Args:
        prompts: N prompts c.
        others: name -> N prompts s, or None for no prompt at all.
        tokens_NT: int64, the pictures along which both are read.

    Returns:
        name -> float64 [N, T], KL( p(x_t | x_<t, c) || p(x_t | x_<t, s) ) in nats, conditional rows, no guidance.
    """
    import torch

    from ..erasure.objective import divergence

    tokens_BT, batch, found = tokens_NT.to(generator.device), generator.encode(list(prompts)), {}
    logits = lambda rows: generator.image_logits(generator.hidden_states(rows, tokens_BT))
    with torch.no_grad():
        of_concept = logits(batch)
        for name, texts in others.items():
            told = generator.null_like(batch) if texts is None else generator.encode(list(texts))
            found[name] = divergence(logits(told), of_concept, "kl").double().cpu().numpy()
    return found


def worth(chance_N: torch.Tensor) -> float:
    """Of how many equally likely prompts a drawing with these chances could be: 1 / sum p^2."""
    return float(1 / chance_N.double().square().sum())


def above(frame: pd.DataFrame, reference: dict) -> dict[str, Estimate]:
    """The margins of `frame`'s rows (column `called`) less that of `reference`, which is left out."""
    rows = [row for _, row in frame.iterrows() if row["called"] != reference["called"]]
    return {row["called"]: margin(row).minus(margin(reference)) for row in rows}
