"""The control: an erasure trained on what has nothing to do with the concept, or on nothing at all, and what it does to
the concept all the same.

What the released loop computes is watched in `audit.py`; the control is for any recipe. N pictures; a star marks the
model before erasing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..concepts import Concept, PromptPair, holds_word
from ..erasure import erase
from ..errors import UserError
from ..evaluate.clip import concept_phrases
from ..evaluate.evaluation import Note
from ..evaluate.judges import describe, load_judge
from ..evaluate.pictures import draw_sets
from ..evaluate.rate import Rate
from ..runs import read_lines
from .audit import read_alone


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
