"""The methods by name, each a point in the grid of `recipe.py`, with its source and its numbers. Those that do not train are in `training_free.py`.

To add one: a `Recipe` with its source, its equation's place and its published numbers, and its name in `TRAINED`.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import UserError, nearest
from .recipe import WHOLE, Gate, Recipe, Retain, Windows, with_settings

__all__ = ["EAR", "EAR_RELEASED", "EAR_SHARED", "PRESETS", "recipe", "with_settings"]

# EAR (Fan et al. 2025, arXiv 2506.20151). Student states on the teacher's pictures of the concept are pulled to
#   h*(r) - eta (h*(c) - h*(r)), eta = 1, by one Adam step (1e-4) for each window, in the self-attention of layers 0-4 of 30;
#   50 pairs, one pass, guidance 5; window 100 (nudity), 48 (church), 24 (Van Gogh) of 576; mu = 0.05.
# The published text leaves open where the replacement's states come from. The released code draws three pictures, one for c and two
# for r, and compares them position by position: that is `ear`.
EAR = Recipe("ear")

# The same with all states read along the concept's own picture, so that position t means the same patch for all of them.
EAR_SHARED = replace(EAR, name="ear-shared", teacher_states="shared")

# What the authors' released training code computes (github.com/immc-lab/ear, train/*.py), bug for bug: after its first step a model call sees one image
# token and nothing else, prompts lack the conversation format and are cut or padded to one length, weights, Adam and the sum of a
# window are bfloat16 on a bfloat16 model, and tokens after the last whole window never teach. (The code takes 49 pairs for churches and W = 12 for Van Gogh.)
EAR_RELEASED = replace(EAR, name="ear-released", context="single", masters="own", windows=Windows(tail="drop"))

# What all of the following share: one update reads whole pictures of four pairs, in logits, along one prefix; every window teaches.
ON_PICTURES = Recipe(
    "on-pictures",
    teacher_states="shared",
    space="logits",
    rows="conditional",
    layers=(0.0, 1.0),
    windows=Windows(length=WHOLE),
    gate=Gate("none", 0.0),
    batch=4,
)

# ESD (Gandikota et al. 2023, arXiv 2303.07345, Eq. 6): the student's own pictures of c, target z*(0) - eta (z*(c) - z*(0)), eta = 1, squared error, batch 1,
# 1000 steps, lr 1e-5, prefix drawn at guidance 3. ESD-x trains what reads the prompt (cross-attention): here, keys and values where the prompt's words
# stand, so that blanked prompts stay what they are. ESD-u trains all the rest: here, everything but keys and values, everywhere.
ESD_X = replace(ON_PICTURES, name="esd-x", prefix="student", origin="null", modules="kv", positions="words")
ESD_U = replace(ON_PICTURES, name="esd-u", prefix="student", origin="null", modules="no-kv")

# Concept Ablation (Kumari et al. 2023, arXiv 2303.13516), model-based (Eq. 3): on pictures of the replacement, the student told of the concept follows the
# teacher told of the replacement. Its 'noise-based' form (Eq. 4) learns the replacement's pictures under the concept's prompt: cross entropy.
# Cross-attention keys and values, lr 2e-6 to 4e-6, 100-200 steps, batch 4-8, with pictures of the anchor as regularisation.
CONCEPT_ABLATION = replace(ON_PICTURES, name="concept-ablation", prefix="replacement", objective="replacement", divergence="kl", modules="kv")
CONCEPT_ABLATION_NOISE = replace(CONCEPT_ABLATION, name="concept-ablation-noise", divergence="ce")

# Obliviate (2026, arXiv 2606.28643): ESD's target in logits along one picture of the teacher, KL( softmax z~ || student ), whole rollouts; LoRA of rank 32
# on all linear layers, AdamW 1e-4, clip 0.5, batch 1, 400-1000 steps; eta 10 on Janus-Pro, 1-2 on Emu3 and Liquid.
OBLIVIATE = replace(ON_PICTURES, name="obliviate", origin="null", divergence="kl", modules="both", rank=32)

# SPM (Lyu et al. 2024, arXiv 2312.16145, Eq. 4) on a language model, as an unpublished poster has it: ESD's target, membranes (adapters of rank 1).
SPM = replace(ON_PICTURES, name="spm", prefix="student", origin="null", divergence="kl", rank=1)

# Forget-Me-Not (Zhang et al. 2023, arXiv 2303.17591): attention from image tokens to the concept's words becomes zero; a few dozen steps on queries and keys.
FORGET_ME_NOT = replace(ON_PICTURES, name="forget-me-not", objective="unattend", space="hidden")

# From the unlearning of language models. Gradient ascent on the concept's pictures, with a retain term (GradDiff; Liu et al. 2022, arXiv 2203.12817); it has
# no end of its own. NPO (Zhang et al. 2024, arXiv 2404.05868; SimNPO's mean over tokens) saturates. DPO (Rafailov et al. 2023; on pairs of pictures:
# VCE, arXiv 2509.16986): the replacement's picture wins over the concept's, under the concept's prompt.
GRADIENT_ASCENT = replace(ON_PICTURES, name="gradient-ascent", objective="ascent", modules="both", retain=Retain(1.0))
NPO = replace(ON_PICTURES, name="npo", objective="npo", beta=1.0, modules="both", retain=Retain(1.0))
DPO = replace(ON_PICTURES, name="dpo", objective="dpo", beta=1.0, modules="both", retain=Retain(1.0))

# RMU (Li et al. 2024, arXiv 2403.03218): states after layer l are pushed to a random direction of fixed length; the down projections of layers l-2..l train.
# Its own retain term compares states; ours is the same KL as everywhere.
RMU = replace(ON_PICTURES, name="rmu", objective="random", space="hidden", eta=1.0, layers=(0.25, 0.5), modules="down", retain=Retain(1.0))

TRAINED = (EAR, EAR_SHARED, EAR_RELEASED, ESD_X, ESD_U, CONCEPT_ABLATION, CONCEPT_ABLATION_NOISE, OBLIVIATE, SPM, FORGET_ME_NOT, GRADIENT_ASCENT, NPO, DPO, RMU)
PRESETS = {r.name: r for r in TRAINED}

# What differs between scales is data. A mini model has a thousandth of the weights and wants larger steps.
PROFILE_SETTINGS = {"mini": {"lr": 3e-4, "guidance": 1.75}}


def recipe(name: str, profile: str = "custom", **settings) -> Recipe:
    """The preset `name` at the scale of `profile`, with fields overridden: recipe("ear", "mini", **{"windows.length": 6})."""
    if name not in PRESETS:
        raise UserError(f"no recipe '{name}'; {nearest(name, PRESETS)}")
    return with_settings(PRESETS[name], PROFILE_SETTINGS.get(profile, {}) | settings)
