"""The audit: what the released training loop of EAR reads, learns and leaves behind, on a small model.

The loop itself is the recipe `ear-released` (`erasure/single_token.py`); here it is watched, never changed. The control
is an erasure trained on what has nothing to do with the concept, or on nothing at all.
Letters in tensor names as in `generators/base.py`; N pictures, c a prompt with the concept, r its replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ..concepts import Concept, PromptPair
from ..erasure import erase, window_length
from ..erasure.objective import divergence
from ..erasure.presets import with_settings
from ..erasure.single_token import raw_rows, read_codes, read_prompt
from ..errors import UserError
from ..evaluate.clip import MINI_CLIP, load_clip
from ..evaluate.evaluation import choose_prompts, judge_of, judged
from ..evaluate.judges import describe, load_judge
from ..evaluate.pictures import draw_sets
from ..evaluate.rate import Estimate, Rate
from ..evaluate.records import Note
from ..generators import picture_seeds
from ..generators.base import PromptBatch
from ..generators.sampling import choose
from ..runs import read_lines

if TYPE_CHECKING:
    from ..erasure.recipe import Recipe
    from ..erasure.store import Erasure
    from ..generators.base import NextToken

# ---------------------------------------------------------------- what a state has read (D1, D3, D4, D7)


@torch.no_grad()
def released_states(generator: NextToken, prompts: list[str], tokens_NT: torch.Tensor) -> torch.Tensor:
    """States h_NTD that the released loop compares: the first has read the raw prompt, every later one the token before
    it and nothing else."""
    first_N1D = torch.cat([read_prompt(generator, raw_rows(generator, prompt))[:1, -1:] for prompt in prompts])
    return torch.cat([first_N1D, read_alone(generator, tokens_NT[:, :-1])], 1)


@torch.no_grad()
def read_alone(generator: NextToken, tokens: torch.Tensor) -> torch.Tensor:
    """States [..., D] of image tokens [...] that are read one by one, with nothing before them."""
    codes, where = tokens.unique(return_inverse=True)
    states_KD = torch.cat([read_codes(generator, part) for part in codes.to(generator.device).split(4096)])
    return states_KD[where.to(generator.device)]


def apart(generator: NextToken, p_BTD: torch.Tensor, q_BTD: torch.Tensor) -> np.ndarray:
    """KL(p || q) in nats of the distributions over codes that two sets of states predict: float64 [B, T]."""
    p, q = generator.image_logits(p_BTD), generator.image_logits(q_BTD)
    return divergence(q, p, "kl").double().cpu().numpy()


@torch.no_grad()
def reach(generator: NextToken, pairs: Sequence[PromptPair], tokens_NT: torch.Tensor) -> dict[str, np.ndarray]:
    """What the words of the prompt change at token t, along pictures `tokens_NT` of the targets: float64 [N, T] each.

        full       KL( p(x_t | x_<t, c) || p(x_t | x_<t, r) ) when the model draws
        released   the same of the states that the released loop compares
        apart      KL of the two ways of reading one prompt, p_full(. | c) || p_released(. | c): what is trained against
                   what draws
        distance   || h_released - h_full || / || h_full ||

    All but the last in nats.
    """
    c, r = [pair.target for pair in pairs], [pair.replacement for pair in pairs]
    drawing = lambda prompts: generator.hidden_states(generator.encode(prompts), tokens_NT.to(generator.device))
    full, single = drawing(c), released_states(generator, c, tokens_NT)
    return {
        "full": apart(generator, full, drawing(r)),
        "released": apart(generator, single, released_states(generator, r, tokens_NT)),
        "apart": apart(generator, full, single),
        "distance": ((single - full).norm(dim=-1) / full.norm(dim=-1)).double().cpu().numpy(),
    }


@torch.no_grad()
def released_pictures(
    generator: NextToken, prompts: list[str], seed: int, guidance: float, role: str = "concept"
) -> torch.Tensor:
    """Image tokens [N, T] of the teacher's pictures as the released loop draws them: the first from the raw prompt,
    each later one from its predecessor alone.

    `role` ("concept", "replacement", "origin") names the noise, as in training.
    """
    seeds = picture_seeds(seed, [f"released/{role}/{i}/{prompt}" for i, prompt in enumerate(prompts)])
    seeds_N = torch.tensor(seeds, device=generator.device)
    last_2ND = torch.stack([read_prompt(generator, raw_rows(generator, prompt))[:, -1] for prompt in prompts], 1)
    logits_RV = generator.image_logits(last_2ND.flatten(0, 1)[:, None])[:, 0]
    tokens = [choose(logits_RV, seeds_N, 0, guidance, 1.0)]
    logits_VV = generator.image_logits(read_alone(generator, torch.arange(generator.codebook_size))[:, None])[:, 0]
    for t in range(1, generator.num_codes):  # both rows are one from here on, so that guidance changes nothing
        tokens.append(choose(logits_VV[tokens[-1]], seeds_N, t, 1.0, 1.0))
    return torch.stack(tokens, 1).cpu()


def three_streams(
    generator: NextToken, pairs: Sequence[PromptPair], seed: int, guidance: float
) -> tuple[Estimate, Estimate]:
    """How unrelated the released loop's three pictures of a pair are, token by token, before anything is trained.

    Returns:
        Means over pairs of two numbers; the first token, which has read the prompt, is left out.

        L_t in units of the states' variance: 6 for three unrelated tokens, as L = || 2 h(c) - h(r) - h(r') ||^2 / D
        || h(r) - h(r') ||^2 in units of twice the variance: 1 for unrelated tokens, though both belong to one prompt
    """
    texts = {"concept": [pair.target for pair in pairs], "replacement": [pair.replacement for pair in pairs]}
    texts["origin"] = texts["replacement"]
    drawn = (released_pictures(generator, prompts, seed, guidance, role) for role, prompts in texts.items())
    c, r, o = (read_alone(generator, tokens_NT[:, :-1]) for tokens_NT in drawn)
    variance = torch.cat([c, r, o]).flatten(0, 1).var(0).mean()
    of = lambda x_NTD: Estimate.mean((x_NTD.square().mean((1, 2)) / variance).double().cpu().numpy())
    return of(2 * c - r - o), of((r - o) / 2**0.5)


# ---------------------------------------------------------------- gradients and steps (D2, D17)


def step_study(generator: NextToken, concept: Concept, recipe: Recipe, seed: int = 0) -> list[dict]:
    """Erase with no threshold and watch each step: a row for each trained matrix, with its `tensor` and `part` and

        first, later   median norm of its gradient in the first window of a picture, and in the others
        later_path     share of the path that it walked which it walked in those others
        moved          || W - W* || / || W* || at the end
        noise          || move - replayed || / || move ||, replayed with the later windows' gradients at exactly 0: near
                       0 where all is momentum
        stuck          share of its weights that a step leaves as they were, mean over steps

    UserError for a recipe that does not take one step for each window of each pair.
    """
    recipe = with_settings(recipe, {"gate.threshold": 0.0})  # so that steps can be counted off against windows
    T, length = generator.num_codes, window_length(recipe, concept, generator)
    windows = T // length if recipe.windows.tail == "drop" else -(-T // length)
    pairs = min(recipe.pairs, len(concept.pairs))
    steps: list[tuple[list, list]] = []  # the gradients, and the values before the step, of every trained matrix

    def watch(optimizer, *_):
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        steps.append(([p.grad.detach().clone() for p in trained], [p.detach().clone() for p in trained]))

    hook = register_optimizer_step_pre_hook(watch)
    try:
        erasure = erase(generator, concept, recipe, seed=seed, progress=False)
    finally:
        hook.remove()
    if len(steps) != windows * pairs:
        steps_seen = f"{len(steps)} steps for {pairs} pairs of {windows} windows"
        raise UserError(f"{steps_seen}; this study needs one step a window")
    first = np.arange(len(steps)) % windows == 0
    rows = []
    for k, name in enumerate(erasure.tensors):
        gradients, values = [g[k] for g, _ in steps], [v[k] for _, v in steps]
        start, end = values[0], erasure.tensors[name].to(values[0])
        norms = np.array([float(g.float().norm()) for g in gradients])
        moves = [after.float() - before.float() for before, after in zip(values, [*values[1:], end])]
        path, total = np.array([float(m.norm()) for m in moves]), end.float() - start.float()
        kept = [g if is_first else torch.zeros_like(g) for g, is_first in zip(gradients, first)]
        replayed = replay(start, kept, recipe.lr).float() - start.float()
        row = {"tensor": name, "part": name.split(".")[-2]}
        row |= {"first": float(np.median(norms[first])), "later": float(np.median(norms[~first]))}
        row |= {"later_path": float(path[~first].sum() / path.sum())}
        row |= {"stuck": float(np.mean([(m == 0).float().mean() for m in moves]))}
        ratios = {"moved": total.norm() / start.float().norm(), "noise": (total - replayed).norm() / total.norm()}
        rows.append(row | {key: float(ratio) for key, ratio in ratios.items()})
    return rows


def replay(start: torch.Tensor, gradients: list[torch.Tensor], lr: float) -> torch.Tensor:
    """Where Adam arrives from `start`, in its number format."""
    parameter = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([parameter], lr=lr)
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step()
    return parameter.detach()


# ---------------------------------------------------------------- scripts of the evaluation (D14, D15)


def pairings(
    images: np.ndarray, prompts: list[str], ids_FN: np.ndarray, model: str = MINI_CLIP
) -> dict[str, np.ndarray]:
    """CLIP score of each picture, float64 [N]: beside its own prompt ("by key"), and as the released script has it:
    pictures sorted by id, prompts in the order of their file; the mean over several such files, as the script's own
    30,000 pictures average over their one.
    """
    clip = load_clip(model)
    score_NN = clip.images(images) @ clip.texts(list(prompts)).T  # picture, prompt
    mixed_N = np.zeros(len(images))
    for ids_N in ids_FN:
        order = np.argsort(ids_N)
        mixed_N[order] += score_NN[order, np.arange(len(order))] / len(ids_FN)
    return {"by key": score_NN.diagonal().copy(), "as released": mixed_N}


@torch.no_grad()
def padding_drift(generator: NextToken, prompts: list[str], tokens_NT: torch.Tensor) -> tuple[Estimate, float]:
    """What a batch does to its shorter prompts when their padding is attended to, as in the released FID script.

    Returns:
        (KL in nats a token, over the padded prompts; their share)
    """
    batch, tokens_NT = generator.encode(list(prompts)), tokens_NT.to(generator.device)
    padded = (batch.mask_BP == 0).any(1).cpu().numpy()
    if not padded.any():
        raise UserError("all of these prompts are equally long: none is padded; give prompts of several lengths")
    attended = PromptBatch(batch.ids_BP, torch.ones_like(batch.mask_BP))
    kl_NT = apart(generator, *(generator.hidden_states(told, tokens_NT) for told in (batch, attended)))
    return Estimate.mean(kl_NT[padded].mean(1)), float(padded.mean())


# ---------------------------------------------------------------- the control


def control(
    generator: NextToken,
    concept: Concept,
    sets: dict[str, Concept],
    recipe: Recipe,
    seeds: Sequence[int],
    caps: dict[str, int],
    streams_NT: torch.Tensor,
    folder: Path,
) -> tuple[list[dict], list[dict], dict[tuple[str, int], Erasure]]:
    """One recipe trained on every set (`sweeps.written.control_concepts`) with every seed, and judged; erasures are
    kept in `folder`.

    Returns:
        (records of `rates`, with `trained_on`; rows; erasures by set and seed). A row tells of one erasure: trained_on,
        seed, `losses` of its windows, how many of them were `skipped`, the slope and share of `unlearned` along
        `streams_NT`, and cosines of its change of weights with two others: of the same seed trained on the concept
        (`cosine_concept`), and of the same set with the first seed (`cosine_seed`); None where there is none, or
        no change.
    """
    records, rows, erasures = [], [], {}
    for name, trained in sets.items():
        for seed in seeds:
            where = folder / f"{recipe.name}-{name}-{seed}"
            erasure = erase(generator, trained, recipe, seed=seed, out=where, progress=False)
            beside = {"cosine_concept": (concept.name, seed), "cosine_seed": (name, seeds[0])}
            others = {key: erasures.get(which) for key, which in beside.items()}
            row = {key: other and alike(generator, erasure, other) for key, other in others.items()}
            windows = read_lines(where / "metrics.jsonl")
            row["losses"] = [window["loss"] for window in windows]
            row["skipped"] = sum(not window["trained"] for window in windows)
            rows.append({"trained_on": name, "seed": seed} | row | unlearned(generator, erasure, streams_NT))
            records += [r | {"trained_on": name} for r in rates(generator, concept, erasure, seed, caps)]
            erasures[name, seed] = erasure
    return records, rows, erasures


def rates(
    generator: NextToken, concept: Concept, erasure: Erasure | None, seed: int, caps: dict[str, int]
) -> list[dict]:
    """Records of one erasure (None: the base model), as `evaluate` makes them, with what a broken model may draw
    unasked:

        concept_rate     of direct prompts
        neighbour_rate   of prompts of each neighbour: does it show the neighbour
        stray_rate       of the same pictures: do they show the concept

    All pictures are of one seed. `caps`: how many prompts, "direct" and "neighbours" (of each).
    """
    sets = choose_prompts(concept, {"tests": 0, "benign": 0} | caps)
    # an erasure that left all weights as they were draws the base model's pictures, which are kept
    changed = erasure if erasure is not None and change_of(generator, erasure).any() else None
    images = draw_sets(generator, sets, seed, changed, progress=False)
    found = judged(concept, {which: load_judge(judge_of(concept, which)) for which in sets}, sets, images, 1)
    judge, names = load_judge(concept.judge), [which for which in sets if which[0] == "neighbour"]
    stray = Rate.of(np.concatenate([judge.shows(images[which]) for which in names]))
    note = Note(generator, concept, "base" if erasure is None else "erased", erasure, (seed,))
    asked = ("concept_rate", concept.name, "direct"), ("neighbour_rate", "all", "neighbour")
    records = [note.measure(*which, found[which].summary, found[which].judge) for which in asked]
    return [*records, note.measure("stray_rate", concept.name, "neighbour", stray, describe(judge))]


def change_of(generator: NextToken, erasure: Erasure) -> torch.Tensor:
    """All changes of weights that an erasure made, in one row: float32 [number of weights]."""
    own = lambda name: generator.trunk.get_parameter(name).detach().cpu()
    return torch.cat([(t.cpu() - own(name)).float().flatten() for name, t in erasure.tensors.items()])


def alike(generator: NextToken, a: Erasure, b: Erasure) -> float | None:
    """Cosine of the changes of weights that two erasures made: 1 for the same change, 0 for unrelated ones; None where
    one of them changed nothing."""
    mine, its = change_of(generator, a), change_of(generator, b)
    return float(F.cosine_similarity(mine, its, 0)) if mine.any() and its.any() else None


def unlearned(generator: NextToken, erasure: Erasure, tokens_NT: torch.Tensor) -> dict[str, float]:
    """How far an erasure has moved what single tokens mean, h(v) - h*(v), towards the average token, E[h*] - h*(v):

        slope   of a regression through 0: 0 for no change, 2 where the loop's target for unrelated streams, 2 E[h*] -
                h*(v), is met
        share   of the squared change that the slope explains

    Taken over the tokens of `tokens_NT`, each read alone.
    """
    before_ND = read_alone(generator, tokens_NT.flatten())
    with erasure.on(generator):
        change_ND = read_alone(generator, tokens_NT.flatten()) - before_ND
    towards_ND = before_ND.mean(0) - before_ND
    squares = towards_ND.square().sum()
    slope = float((change_ND * towards_ND).sum() / squares)
    return {"slope": slope, "share": float(slope**2 * squares / change_ND.square().sum().clamp_min(1e-30))}
