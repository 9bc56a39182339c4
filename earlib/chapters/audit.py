"""The audit's experiments: what the released training loop of EAR reads, learns and leaves behind, on a model that is
small enough to be asked.

The loop itself is the recipe `ear-released` (`erasure/single_token.py`); here it is watched, never changed. The control
is an erasure trained on what has nothing to do with the concept, or on nothing at all. `table` fills in book/audit.yml.
Letters in tensor names as in `generators/base.py`; N pictures, c a prompt with the concept, r its replacement.
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from .. import ROOT
from ..concepts import Concept, PromptPair, holds_word
from ..erasure import erase, window_length
from ..erasure.presets import with_settings
from ..erasure.single_token import raw_rows, read_codes, read_prompt
from ..errors import UserError
from ..evaluate.clip import MINI_CLIP, concept_phrases, load_clip
from ..evaluate.evaluation import Note
from ..evaluate.judges import describe, load_judge
from ..evaluate.pictures import draw_sets
from ..evaluate.rate import Estimate, Rate
from ..generators import picture_seeds
from ..generators.base import PromptBatch
from ..generators.sampling import choose
from ..runs import read_lines

# ---------------------------------------------------------------- what a state has read (D1, D3, D4, D7)


@torch.no_grad()
def full_states(generator, prompts: list[str], tokens_NT: torch.Tensor) -> torch.Tensor:
    """States h_NTD that predict each token when the model draws: prompt and all tokens before it have been read."""
    return generator.hidden_states(generator.encode(list(prompts)), tokens_NT.to(generator.device))


@torch.no_grad()
def released_states(generator, prompts: list[str], tokens_NT: torch.Tensor) -> torch.Tensor:
    """States h_NTD that the released loop compares: the first has read the raw prompt, every later one the token before
    it and nothing else."""
    first_N1D = torch.cat([read_prompt(generator, raw_rows(generator, prompt))[:1, -1:] for prompt in prompts])
    return torch.cat([first_N1D, read_alone(generator, tokens_NT[:, :-1])], 1)


def divergences(generator, p_BTD: torch.Tensor, q_BTD: torch.Tensor) -> np.ndarray:
    """KL(p || q) in nats of the distributions over codes that two sets of states predict: float64 [B, T]."""
    p, q = (generator.image_logits(h).float().log_softmax(-1) for h in (p_BTD, q_BTD))
    return (p.exp() * (p - q)).sum(-1).double().cpu().numpy()


def reach(generator, pairs, tokens_NT: torch.Tensor) -> dict[str, np.ndarray]:
    """What the words of the prompt change at token t, along pictures `tokens_NT` of the targets: float64 [N, T] each.

        full       KL( p(x_t | x_<t, c) || p(x_t | x_<t, r) ) when the model draws
        released   the same of the states that the released loop compares
        apart      KL of the two ways of reading one prompt, p_full(. | c) || p_released(. | c): what is trained against
                   what draws
        distance   || h_released - h_full || / || h_full ||

    All but the last in nats.
    """
    c, r = [p.target for p in pairs], [p.replacement for p in pairs]
    full, single = full_states(generator, c, tokens_NT), released_states(generator, c, tokens_NT)
    return {
        "full": divergences(generator, full, full_states(generator, r, tokens_NT)),
        "released": divergences(generator, single, released_states(generator, r, tokens_NT)),
        "apart": divergences(generator, full, single),
        "distance": ((single - full).norm(dim=-1) / full.norm(dim=-1)).double().cpu().numpy(),
    }


@torch.no_grad()
def released_pictures(generator, prompts: list[str], seed: int, guidance: float, role: str = "concept") -> torch.Tensor:
    """Image tokens [N, T] of the teacher's pictures as the released loop draws them: the first from the raw prompt,
    each later one from its predecessor alone.

    `role` ("concept", "replacement", "origin") names the noise, as in training.
    """
    seeds = torch.tensor(
        picture_seeds(seed, [f"released/{role}/{i}/{prompt}" for i, prompt in enumerate(prompts)]),
        device=generator.device,
    )
    last_2ND = torch.stack([read_prompt(generator, raw_rows(generator, prompt))[:, -1] for prompt in prompts], 1)
    logits_RV = generator.image_logits(last_2ND.flatten(0, 1)[:, None])[:, 0]
    tokens = [choose(logits_RV, seeds, 0, guidance, 1.0)]
    logits_VV = generator.image_logits(read_alone(generator, torch.arange(generator.codebook_size))[:, None])[:, 0]
    for t in range(1, generator.num_codes):  # both rows are one from here on, so that guidance changes nothing
        tokens.append(choose(logits_VV[tokens[-1]], seeds, t, 1.0, 1.0))
    return torch.stack(tokens, 1).cpu()


@torch.no_grad()
def read_alone(generator, tokens: torch.Tensor) -> torch.Tensor:
    """States [..., D] of image tokens [...] that are read one by one, with nothing before them."""
    codes, where = tokens.unique(return_inverse=True)
    states_KD = torch.cat([read_codes(generator, part) for part in codes.to(generator.device).split(4096)])
    return states_KD[where.to(generator.device)]


def three_streams(generator, pairs, seed: int, guidance: float) -> dict[str, dict]:
    """How unrelated the released loop's three pictures of a pair are, token by token, before anything is trained;
    intervals over pairs.

        loss     L_t in units of the states' variance: 6 for three unrelated tokens, as L = || 2 h(c) - h(r) - h(r')
                 ||^2 / D
        same     ||h(r) - h(r')||^2 in units of twice the variance: 1 for unrelated tokens, though both belong to one
                 prompt

    The first token, which has read the prompt, is left out.
    """
    texts = {
        "concept": [p.target for p in pairs],
        "replacement": [p.replacement for p in pairs],
        "origin": [p.replacement for p in pairs],
    }
    c, r, o = (
        read_alone(generator, released_pictures(generator, t, seed, guidance, role)[:, :-1])
        for role, t in texts.items()
    )
    variance = torch.cat([c, r, o]).flatten(0, 1).var(0).mean()
    per_picture = lambda x_NTD: (x_NTD.square().mean((1, 2)) / variance).double().cpu().numpy()
    return {
        "loss": Estimate.mean(per_picture(2 * c - r - o)).flat(),
        "same": Estimate.mean(per_picture(r - o) / 2).flat(),
        "variance": float(variance),
    }


# ---------------------------------------------------------------- gradients and steps (D2, D17)


@contextmanager
def watched_steps():
    """Within the context every optimizer step adds to the list that is yielded: (gradients, values before the step), a
    list of tensors each."""
    steps = []

    def note(optimizer, *_):
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        steps.append(([p.grad.detach().clone() for p in trained], [p.detach().clone() for p in trained]))

    hook = register_optimizer_step_pre_hook(note)
    try:
        yield steps
    finally:
        hook.remove()


def step_study(generator, concept, recipe, seed: int = 0) -> list[dict]:
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
    with watched_steps() as steps:
        erasure = erase(generator, concept, recipe, seed=seed, progress=False)
    if len(steps) != windows * min(recipe.pairs, len(concept.pairs)):
        raise UserError(
            f"{len(steps)} steps for {min(recipe.pairs, len(concept.pairs))} pairs of {windows} windows; this study "
            "needs one step a window"
        )
    first = np.arange(len(steps)) % windows == 0
    rows = []
    for k, name in enumerate(erasure.tensors):
        gradients, values = [g[k] for g, _ in steps], [v[k] for _, v in steps]
        start, end = values[0], erasure.tensors[name].to(values[0])
        norms = np.array([float(g.float().norm()) for g in gradients])
        moves = [after.float() - before.float() for before, after in zip(values, [*values[1:], end])]
        path, total = np.array([float(m.norm()) for m in moves]), (end.float() - start.float())
        replayed = (
            replay(
                start, [g if is_first else torch.zeros_like(g) for g, is_first in zip(gradients, first)], recipe.lr
            ).float()
            - start.float()
        )
        row = {
            "tensor": name,
            "part": name.split(".")[-2],
            "first": float(np.median(norms[first])),
            "later": float(np.median(norms[~first])),
        }
        row |= {
            "later_path": float(path[~first].sum() / path.sum()),
            "moved": float(total.norm() / start.float().norm()),
        }
        row |= {
            "noise": float((total - replayed).norm() / total.norm()),
            "stuck": float(np.mean([(m == 0).float().mean() for m in moves])),
        }
        rows.append(row)
    return rows


def replay(start: torch.Tensor, gradients: list[torch.Tensor], lr: float) -> torch.Tensor:
    """Where Adam arrives from `start`, in its number format."""
    parameter = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([parameter], lr=lr)
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step()
    return parameter.detach()


def rounded_away(weights: torch.Tensor, step: float) -> float:
    """Share of bfloat16 weights that stay as they are when `step` is added or subtracted: half the distance to their
    neighbour is more than it."""
    w = weights.flatten().to(torch.bfloat16)
    return float(torch.stack([(w + s) == w for s in (step, -step)]).float().mean())


# ---------------------------------------------------------------- scripts of the evaluation (D14, D15, D19) and of the
# data (D8, D9)


def image_ids(count: int, files: int = 200, seed: int = 0) -> np.ndarray:
    """Distinct six-digit numbers in no order, as COCO's image ids stand in a file of prompts: int64 [files, count], a
    row for each such file."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(np.arange(100_000, 1_000_000), count, replace=False) for _ in range(files)])


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
def padding_drift(generator, prompts: list[str], tokens_NT: torch.Tensor) -> dict:
    """What a batch does to its shorter prompts when their padding is attended to, as in the released FID script: KL in
    nats a token, over the padded ones."""
    batch, tokens_NT = generator.encode(list(prompts)), tokens_NT.to(generator.device)
    padded = (batch.mask_BP == 0).any(1).cpu().numpy()
    if not padded.any():
        raise UserError("all of these prompts are equally long: none is padded; give prompts of several lengths")
    attended = PromptBatch(batch.ids_BP, torch.ones_like(batch.mask_BP))
    kl_NT = divergences(
        generator, generator.hidden_states(batch, tokens_NT), generator.hidden_states(attended, tokens_NT)
    )
    return Estimate.mean(kl_NT[padded].mean(1)).flat() | {"padded": float(padded.mean())}


def softmax_twice(scores_NK: np.ndarray) -> np.ndarray:
    """What probabilities [N, K] become when they are taken for logits: softmax of them."""
    e = np.exp(scores_NK)
    return e / e.sum(1, keepdims=True)


def unequal_lengths(generator, pairs) -> np.ndarray:
    """For each pair, by how many tokens the replacement prompt is longer than the target (negative: shorter)."""
    length = lambda prompt: raw_rows(generator, prompt).ids_BP.shape[1]
    return np.array([length(p.replacement) - length(p.target) for p in pairs])


def different_replacements(pairs) -> int:
    """How many different words or phrases stand in for the concept."""
    return len({" ".join(w for w in p.replacement.split() if w not in p.target.split()) for p in pairs})


# ---------------------------------------------------------------- the control


def control_concepts(concept: Concept, other: Concept, pairs: int) -> dict[str, Concept]:
    """What an erasure is trained on, by name, each with `pairs` pairs:

        NAME       the concept's own pairs
        OTHER      pairs of another concept; none of their prompts names `concept`
        nothing    the same harmless prompt twice: there is nothing in such a pair to erase

    All else, the length of windows too, is `concept`'s. UserError where there are too few pairs.
    """
    names = concept_phrases(concept)
    clean = [p for p in other.pairs if not holds_word(p.target, names) and not holds_word(p.replacement, names)]
    same = [PromptPair(p, p) for p in concept.benign if not holds_word(p, names)]
    sets = {concept.name: list(concept.pairs), other.name: clean, "nothing": same}
    for name, found in sets.items():
        if len(found) < pairs:
            raise UserError(f"only {len(found)} pairs of '{name}' are without {concept.name}; {pairs} are needed")
    return {name: dataclasses.replace(concept, name=name, pairs=tuple(found[:pairs])) for name, found in sets.items()}


def control(
    generator,
    concept: Concept,
    sets: dict[str, Concept],
    recipe,
    seeds,
    size: int,
    others: int,
    streams_NT,
    folder: Path,
):
    """One recipe trained on every set (`control_concepts`) with every seed, and judged: (records, rows, erasures by set
    and seed).

    The records of `rates` gain `trained_on`. A row tells of one erasure: trained_on, seed, `losses` of its windows, how
    many of them were `skipped`, the slope and share of `unlearned` along `streams_NT`, and cosines of its change of
    weights with two others: of the same seed trained on the concept (`cosine_concept`), and of the same set with the
    first seed (`cosine_seed`); None where there is none. Erasures are kept in `folder`.
    """
    records, rows, erasures = [], [], {}
    for name, trained in sets.items():
        for seed in seeds:
            where = folder / f"{recipe.name}-{name}-{seed}"
            erasure = erasures[name, seed] = erase(generator, trained, recipe, seed=seed, out=where, progress=False)
            beside = {"cosine_concept": (concept.name, seed), "cosine_seed": (name, seeds[0])}
            cosines = {
                key: alike(generator, erasure, erasures[k]) if k in erasures and k != (name, seed) else None
                for key, k in beside.items()
            }
            windows = read_lines(where / "metrics.jsonl")
            row = {
                "trained_on": name,
                "seed": seed,
                "losses": [w["loss"] for w in windows],
                "skipped": sum(not w["trained"] for w in windows),
            }
            rows.append(row | cosines | unlearned(generator, erasure, streams_NT))
            records += [r | {"trained_on": name} for r in rates(generator, concept, erasure, seed, size, others)]
    return records, rows, erasures


def rates(generator, concept, erasure, seed: int, size: int, others: int) -> list[dict]:
    """Records of one erasure (None: the base model), as `report.evaluate` makes them, with what a broken model may draw
    unasked:

        concept_rate     of `size` direct prompts
        neighbour_rate   of `others` prompts of each neighbour: does it show the neighbour
        stray_rate       of the same pictures: do they show the concept

    All pictures are of one seed.
    """
    judge = load_judge(concept.judge)
    prompts = {"direct": list(concept.tests["direct"])[:size]} | {
        name: list(p)[:others] for name, p in concept.neighbours.items()
    }
    # an erasure that left all weights as they were draws the base model's pictures, which are kept
    images = draw_sets(
        generator,
        prompts,
        seed,
        erasure if erasure is not None and change_of(generator, erasure).any() else None,
        progress=False,
    )
    shown = np.concatenate(
        [load_judge(concept.neighbour_judges[name]).shows(images[name]) for name in concept.neighbours]
    )
    stray = np.concatenate([judge.shows(images[name]) for name in concept.neighbours])
    note = Note(generator, concept, "base" if erasure is None else "erased", erasure, (seed,))
    return [
        note.measure("concept_rate", concept.name, "direct", judge.rate(images["direct"]), describe(judge)),
        note.measure("neighbour_rate", "all", "neighbour", Rate.of(shown), "a judge for each neighbour"),
        note.measure("stray_rate", concept.name, "neighbour", Rate.of(stray), describe(judge)),
    ]


def survivals(base: list[dict], after: list[dict], concept: str) -> dict[str, str]:
    """In words, how much of the fall that training on the concept brings is there after training on nothing: "62 %",
    "–" where nothing fell.

    Pooled records of `rates` of the base model and of one recipe; keys `church_survives` (the concept, whatever it is
    called) and `neighbours_survives`.
    """
    value = {(r.get("trained_on"), r["metric"]): r["value"] for r in base + after}
    words = {}
    for key, metric in (("church_survives", "concept_rate"), ("neighbours_survives", "neighbour_rate")):
        fall = value[None, metric] - value[concept, metric]
        words[key] = f"{100 * (value[None, metric] - value['nothing', metric]) / fall:.0f} %" if fall > 0 else "–"
    return words


def change_of(generator, erasure) -> torch.Tensor:
    """All changes of weights that an erasure made, in one row: float32 [number of weights]."""
    own = lambda name: generator.trunk.get_parameter(name).detach().cpu()
    return torch.cat([(t.cpu() - own(name)).float().flatten() for name, t in erasure.tensors.items()])


def alike(generator, a, b) -> float:
    """Cosine of the changes of weights that two erasures made: 1 for the same change, 0 for unrelated ones, or none."""
    return float(F.cosine_similarity(change_of(generator, a), change_of(generator, b), 0))


def unlearned(generator, erasure, tokens_NT: torch.Tensor) -> dict[str, float]:
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
    slope = float((change_ND * towards_ND).sum() / towards_ND.square().sum())
    return {
        "slope": slope,
        "share": float(slope**2 * towards_ND.square().sum() / change_ND.square().sum().clamp_min(1e-30)),
    }


# ---------------------------------------------------------------- the page

READ = "Read in the code; nothing to show on mini."


class _Words(dict):
    def __missing__(self, name):
        return "*(not measured in this run)*"


def table(words: dict[str, str], file: Path = ROOT / "book" / "audit.yml") -> str:
    """The items of `file` in Markdown, their numbers filled in from `words` (`Ledger.words`)."""
    import yaml

    rows = ["| | The released code | The paper | Measured here | What follows |", "|---|---|---|---|---|"]
    for item in yaml.safe_load(file.read_text(encoding="utf-8")):
        measured = item.get("measured", READ).format_map(_Words(words))
        rows.append(
            "| " + " | ".join((f"**{item['item']}**", item["code"], item["paper"], measured, item["follows"])) + " |"
        )
    return "\n".join(rows)
