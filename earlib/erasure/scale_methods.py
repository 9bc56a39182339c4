"""Erasure methods for next-scale models by name, each a point in the grid of `recipe.py` with its source and its
numbers; `erase` makes one's erasure.

To add one: a `ScaleRecipe` (or `ScaleEdit`, `ScaleGuidance`) with its source and its published numbers, and its name in
`PRESETS`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace

from ..errors import UserError, nearest
from .recipe import fields_of, with_settings
from .scale_recipe import Filter, Retain, ScaleEdit, ScaleGuidance, ScaleRecipe, Scales

__all__ = ["PRESETS", "erase", "recipe", "with_settings"]

# VARE (arXiv 2509.22400, Eq. 7): student told of c* and teacher told of c read one history, the teacher's picture of c;
# squared error of probabilities. On Infinity-2B: 50 pairs, 500 updates of 2, all cross-attention and feed-forward
# layers; the paper quotes lr 2e-3.
VARE = ScaleRecipe("vare", divergence="mse", lr=2e-3)

# The naive counterpart (Eq. 6): each walks a history of its own, the student its picture of c*, the teacher its picture
# of c.
NAIVE = replace(VARE, name="naive", prefix="student", teacher_states="independent")

# S-VARE as the paper has it: VARE's history; cross entropy to the bits that the teacher drew, on tokens of which more
# than alpha = 25 % are wrong (less likely than one half), and forward KL to the teacher on the neutral prompts, equal
# weights. A 'sum over scales' of the paper is a mean over tokens here.
S_VARE = ScaleRecipe("s-vare", filter=Filter("wrong"), retain=Retain(1.0), lr=2e-3)

# What the released code computes (github.com/ndhg1213/S-VARE): the filter keeps at 25 % exactly too; KL's teacher is
# guided (4) and the student is not; reg_lambda 0.5 on a KL averaged over 2 x 32 entries, which is half the mean over
# bits; a step on each loss, with Adam's moments shared; a tenth of the prompts blanked; AdamW 2.34e-5, betas 0.9 and
# 0.97, weight decay 0.005, gradients clipped at 5. Left out: its drop-path (this transformer has none), top-p 0.97 when
# drawing, and that it does 501 updates.
S_VARE_RELEASED = replace(
    S_VARE,
    name="s-vare-released",
    filter=Filter("wrong", compare="reaches"),
    retain=Retain(0.25, guidance=4.0),
    update="two-steps",
    blank=0.1,
    lr=2.34e-5,
    beta2=0.97,
    weight_decay=0.005,
    clip=5.0,
)

# In the style of SACE (arXiv 2606.15819; abstract only: neither formulas nor code are public, so this is no
# reproduction). Scale 0 alone learns and changes; an entropy term keeps its codes from being drawn at random; other
# prompts are preserved there.
SACE_STYLE = ScaleRecipe(
    "sace-style",
    entropy=0.1,
    scales=Scales(count=1),
    retain=Retain(1.0, prompts="both"),
    modules="no-kv",
    positions="scales",
)

# UCE (Gandikota et al. 2024, arXiv 2308.14761, Eq. 7), solved for in a second: keys and values of the concept's words
# become those of the replacement's. (In the S-VARE paper's hands it almost does not erase from Infinity.)
UCE = ScaleEdit("uce")

# Ours: the same in what makes the start token too, one and a half times as far, as in the next-token family (table
# var-dev).
RECOMMENDED = ScaleEdit("recommended", routes="both", strength=1.5)

# Without training; equations in `steering.py`. The concept's name in place of no prompt; and logits in the manner of
# ScaleErasure (arXiv 2606.29282).
NEGATIVE_PROMPT = ScaleGuidance("negative-prompt", "negative-prompt")
SCALE_ERASURE_STYLE = ScaleGuidance("scale-erasure-style", "scale-erasure")

PRESETS = {
    r.name: r
    for r in (NAIVE, VARE, S_VARE, S_VARE_RELEASED, SACE_STYLE, UCE, RECOMMENDED, NEGATIVE_PROMPT, SCALE_ERASURE_STYLE)
}

# What differs between scales is data: a mini model has a thousandth of the weights and draws at less guidance. Learning
# rates have the greatest margin of neighbours over churches on development prompts, and so have the settings of
# guidance (table var-dev; where all are alike, they are the published ones).
MINI = {"guidance": 2.0, "batch": 8, "passes": 16, "lr": 1e-3}
OF_MINI = {
    "s-vare": {"lr": 3e-3},
    "s-vare-released": {"retain.guidance": 2.0, "batch": 2, "passes": 8},
    # as published it changes nothing here: no position reaches a third of the attention, and by scale 2 a church is a
    # church
    "scale-erasure-style": {"scales": (0.0, 1.0), "relevance": 0.0},
}
PROFILE_SETTINGS = dict.fromkeys(("mini-var", "mini-var-vq"), MINI)
RECIPE_SETTINGS = dict.fromkeys(("mini-var", "mini-var-vq"), OF_MINI)


def recipe(name: str, profile: str = "custom", **settings) -> ScaleRecipe | ScaleEdit | ScaleGuidance:
    """The preset `name` at the scale of `profile`, with fields overridden: recipe("s-vare", "mini-var",
    **{"filter.alpha": 0.5})."""
    if name not in PRESETS:
        from .presets import PRESETS as OTHERS

        if name in OTHERS:
            raise UserError(
                f"recipe '{name}' is for next-token models; next-scale models have: {', '.join(sorted(PRESETS))}"
            )
        raise UserError(f"no recipe '{name}' for next-scale models; {nearest(name, PRESETS)}")
    preset = PRESETS[name]
    scale = PROFILE_SETTINGS.get(profile, {}) | RECIPE_SETTINGS.get(profile, {}).get(name, {})
    scale = {field: value for field, value in scale.items() if field in fields_of(preset)}
    return with_settings(preset, scale | settings)


def refuse(name: str) -> None:
    """UserError if only next-scale models have a recipe of that name: to be asked for a next-token model."""
    from .presets import PRESETS as OTHERS

    if name in PRESETS and name not in OTHERS:
        raise UserError(
            f"recipe '{name}' is for next-scale models, such as --model mini-var; next-token models have: {', '.join(sorted(OTHERS))}"
        )


def named(guidance: ScaleGuidance, concept) -> ScaleGuidance:
    """The same, with the concept's name as its text where it has none, and with what the replacements name as the safe
    text, if they name anything."""
    from .training_free import name_of

    text, safe = guidance.text or name_of(concept), guidance.safe
    if guidance.method == "scale-erasure" and not safe:
        turned = tuple(
            dataclasses.replace(pair, target=pair.replacement, replacement=pair.target) for pair in concept.pairs
        )
        try:
            safe = name_of(dataclasses.replace(concept, pairs=turned, words=()))
        except UserError:  # the replacements are the targets without a few words
            safe = ""
    return replace(guidance, text=text, safe=safe)


preset = recipe  # `erase` has an argument of that name


def erase(
    generator,
    concept,
    recipe: str | ScaleRecipe | ScaleEdit | ScaleGuidance = "s-vare",
    seed: int = 0,
    out=None,
    resume: bool = True,
    progress: bool = True,
):
    """Erase `concept` (a Concept or its name) from a NextScaleGenerator with `recipe`; returns a NextScaleErasure, the
    generator is unchanged.

    With `out`, a run folder is kept there (config, metrics, checkpoints and the erasure itself), and the same call goes
    on where a killed one stopped. Without, nothing is written.
    """
    from ..concepts import load_concept
    from . import kept, retain_prompts
    from .scale_store import NextScaleErasure
    from .scale_train import train

    concept = load_concept(concept, generator.profile) if isinstance(concept, str) else concept
    recipe = preset(recipe, generator.profile) if isinstance(recipe, str) else recipe.check()
    if not concept.pairs:
        raise UserError(f"concept '{concept.name}' has no prompt pairs to train on")
    if isinstance(recipe, ScaleGuidance):
        recipe = named(recipe, concept)
        make = lambda run: ({}, {"seconds": 0.0, "parameters": 0})
    elif isinstance(recipe, ScaleEdit):
        from .scale_closed_form import uce

        make = lambda run: uce(generator, concept.pairs, recipe, retain_prompts(concept, generator.profile))
    else:
        retain = retain_prompts(concept, generator.profile) if recipe.reads_others else []
        make = lambda run: train(generator, concept.pairs, recipe, seed, run, progress, retain=retain)
    return kept(make, NextScaleErasure, generator, concept, recipe, seed, out, resume)
