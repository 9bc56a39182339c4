"""The methods of both families by name, each a point in a grid of choices, with its source and its numbers.

To add one: a `Recipe` (`TrainingFree`, `ScaleRecipe`, `ScaleEdit`, `ScaleGuidance`) with its source, its equation's
place and its published numbers, and its name in PRESETS or SCALE_PRESETS.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, nearest
from ..generators.load import family_of
from .recipe import Gate, Recipe, Retain, TrainingFree, Windows
from .recipe_scale import Filter, ScaleEdit, ScaleGuidance, ScaleRecipe, ScaleRetain, Scales
from .settings import WHOLE, AnyRecipe, fields_of, with_settings

if TYPE_CHECKING:
    from ..generators.base import Generator

__all__ = ["EAR", "EAR_RELEASED", "EAR_SHARED", "PRESETS", "SCALE_PRESETS", "names", "recipe", "with_settings"]

# ------------------------------------------------------------------ next-token models

# EAR (Fan et al. 2025, arXiv 2506.20151). Student states on the teacher's pictures of the concept are pulled to
# h*(r) - eta (h*(c) - h*(r)), eta = 1, by one Adam step (1e-4) for each window, in the self-attention of layers 0-4 of
# 30; 50 pairs, one pass, guidance 5; window 100 (nudity), 48 (church), 24 (Van Gogh) of 576; mu = 0.05.
# The published text leaves open where the replacement's states come from. The released code draws three pictures, one
# for c and two for r, and compares them position by position: that is `ear`.
EAR = Recipe("ear")

# The same with all states read along the concept's own picture: position t means the same patch for all of them.
EAR_SHARED = replace(EAR, name="ear-shared", teacher_states="shared")

# What the authors' released training code computes (github.com/immc-lab/ear, train/*.py), bug for bug: after its first
# step a model call sees one image token and nothing else, prompts lack the conversation format and are cut or padded to
# one length, weights, Adam and the sum of a window are bfloat16 on a bfloat16 model, and tokens after the last whole
# window never teach. (The code takes 49 pairs for churches and W = 12 for Van Gogh.)
EAR_RELEASED = replace(EAR, name="ear-released", context="single", masters="own", windows=Windows(tail="drop"))

# What all of the following share: one update reads whole pictures of four pairs, in logits, along one prefix; every
# window teaches.
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

# ESD (Gandikota et al. 2023, arXiv 2303.07345, Eq. 6): the student's own pictures of c, target z*(0) - eta (z*(c) -
# z*(0)), eta = 1, squared error, batch 1, 1000 steps, lr 1e-5, prefix drawn at guidance 3. ESD-x trains what reads the
# prompt (cross-attention): here, keys and values where the prompt's words stand, so that blanked prompts stay what they
# are. ESD-u trains all the rest: here, everything but keys and values, everywhere.
ESD = replace(ON_PICTURES, prefix="student", origin="null", batch=1, passes=20, lr=1e-5)
ESD_X = replace(ESD, name="esd-x", modules="kv", positions="words")
ESD_U = replace(ESD, name="esd-u", modules="no-kv")

# Concept Ablation (Kumari et al. 2023, arXiv 2303.13516), model-based (Eq. 3): on pictures of the replacement, the
# student told of the concept follows the teacher told of the replacement. Its 'noise-based' form (Eq. 4) learns the
# replacement's pictures under the concept's prompt: cross entropy. Cross-attention keys and values, lr 2e-6 to 4e-6,
# 100-200 steps, batch 4-8, with pictures of the anchor as regularisation.
ABLATION = replace(ON_PICTURES, prefix="replacement", objective="replacement", divergence="kl", passes=8, lr=4e-6)
CONCEPT_ABLATION = replace(ABLATION, name="concept-ablation", modules="kv")
CONCEPT_ABLATION_NOISE = replace(CONCEPT_ABLATION, name="concept-ablation-noise", divergence="ce")

# Obliviate (2026, arXiv 2606.28643): ESD's target in logits along one picture of the teacher, KL( softmax z~ || student
# ), whole rollouts; LoRA of rank 32 on all linear layers, AdamW 1e-4, clip 0.5, batch 1, 400-1000 steps; eta 10 on
# Janus-Pro, 1-2 on Emu3 and Liquid.
OBLIVIATE = replace(
    ON_PICTURES, name="obliviate", origin="null", divergence="kl", modules="both", rank=32, eta=10.0, batch=1, passes=10
)

# SPM (Lyu et al. 2024, arXiv 2312.16145, Eq. 4) on a language model, as an unpublished poster has it: ESD's target,
# membranes (adapters of rank 1).
SPM = replace(ON_PICTURES, name="spm", prefix="student", origin="null", divergence="kl", rank=1, passes=32)

# Forget-Me-Not (Zhang et al. 2023, arXiv 2303.17591): attention from image tokens to the concept's words becomes zero;
# a few dozen steps on queries and keys.
FORGET_ME_NOT = replace(ON_PICTURES, name="forget-me-not", objective="unattend", space="hidden", passes=3, lr=1e-5)

# From the unlearning of language models. Gradient ascent on the concept's pictures, with a retain term (GradDiff; Liu
# et al. 2022, arXiv 2203.12817); it has no end of its own. NPO (Zhang et al. 2024, arXiv 2404.05868; SimNPO's mean over
# tokens) saturates. DPO (Rafailov et al. 2023; on pairs of pictures: VCE, arXiv 2509.16986): the replacement's picture
# wins over the concept's, under the concept's prompt.
UNLEARNING = replace(ON_PICTURES, modules="both", retain=Retain(1.0), passes=8, lr=1e-5)
GRADIENT_ASCENT = replace(UNLEARNING, name="gradient-ascent", objective="ascent", passes=4)
NPO = replace(UNLEARNING, name="npo", objective="npo", beta=1.0)
DPO = replace(UNLEARNING, name="dpo", objective="dpo", beta=1.0)

# RMU (Li et al. 2024, arXiv 2403.03218): states after layer l are pushed to a random direction of fixed length; the
# down projections of layers l-2..l train. Its own retain term compares states; ours is the same KL as everywhere.
RMU = replace(UNLEARNING, name="rmu", objective="random", space="hidden", eta=1.0, layers=(0.25, 0.5), lr=5e-5)
RMU = replace(RMU, modules="down")

# Ours that trains, found on development prompts of an earlier MiniWorld (the book's Pareto chapter). On the
# replacement's own pictures, as in Concept Ablation, but pushed half a step away from the concept; all matrices of the
# first quarter of the layers, and only where the prompt's words stand, so that blanked prompts and image tokens see the
# teacher's weights; KL to the teacher on other prompts, eight pictures beside the four that erase.
ABLATION_AT_WORDS = replace(
    ON_PICTURES,
    name="ablation-at-words",
    prefix="replacement",
    eta=0.5,
    divergence="kl",
    modules="both",
    layers=(0.0, 0.25),
    positions="words",
    retain=Retain(1.0, pictures=8),
    passes=8,
    lr=1e-5,
)

# Ours against attacks: Concept Ablation's pull to the replacement, everywhere in the keys and values of all layers, as
# an edit at a word is undone by another word; with an adversary's words in the loop (STEREO, arXiv 2408.16807;
# AdvUnlearn, arXiv 2405.15234), with pictures that were begun, and with KL to the teacher on other prompts.
ROBUST = replace(
    ABLATION, name="robust", modules="kv", eta=1.0, adversary=8, begun=0.5, retain=Retain(1.0, pictures=8), lr=1e-5
)

TRAINED = [EAR, EAR_SHARED, EAR_RELEASED, ESD_X, ESD_U, CONCEPT_ABLATION, CONCEPT_ABLATION_NOISE, OBLIVIATE, SPM]
TRAINED += [FORGET_ME_NOT, GRADIENT_ASCENT, NPO, DPO, RMU, ABLATION_AT_WORDS, ROBUST]

# Without training: equations in `steering.py` (the first two) and `closed_form.py`; what had to change for a language
# model stands here.

# The negative prompt: the concept's name n takes the place of no prompt in guidance, z = z_n + g (z_c - z_n). A prompt
# that names the concept then still has as much of it as without guidance, whatever g is: 1 = g - (g - 1). At strength g
# / (g - 1) nothing would be left: 1.25 at guidance 5, 3 at 1.5.
NEGATIVE_PROMPT = TrainingFree("negative-prompt", "negative-prompt")

# Safe latent diffusion (Schramowski et al. 2023, arXiv 2211.05105, Eq. 3-6), z = z_u + g (z_c - z_u - mu (z_n - z_u)),
# with the strongest of its four published settings: s_S = 5000, threshold 1. Noise predictions became log-probabilities
# of codes; there is neither warm-up nor momentum, as tokens share no state.
SAFE_GUIDANCE = TrainingFree("safe-guidance", "safe-guidance", slope=5000.0, threshold=1.0)

# UCE (Gandikota et al. 2024, arXiv 2308.14761, Eq. 7): cross-attention keys and values of the concept's name become
# those of its replacement. A language model has no cross-attention: the keys and values of all layers change where the
# prompt's words stand. What is read there hangs on the whole prompt so far, so that the names stand in prompts, and
# prompts of other concepts are preserved.
UCE = TrainingFree("uce", "uce")

# LEACE (Belrose et al. 2023, arXiv 2306.03819, Theorem 4.2): no linear classifier can tell the concept's words from
# their replacements by what a layer reads. The paper scrubs the state at each token of every layer for one property;
# here the words of a name are a class each, at words only, and all are taken to the mean of the replacements instead of
# that of everything, for the replacements shall stay where they are.
LEACE = TrainingFree("leace", "leace")

# Ours: UCE at the prompt's words, one and a half times as far, made in seconds. The strength was chosen on development
# prompts of an earlier, simpler MiniWorld.
RECOMMENDED = replace(UCE, name="recommended", strength=1.5)

NOT_TRAINED = (NEGATIVE_PROMPT, SAFE_GUIDANCE, UCE, LEACE, RECOMMENDED)

# What differs between scales is data. A mini model has a thousandth of the weights and wants larger steps, and fewer of
# them; chosen on development prompts (`miniworld/development.py`) by the rule of `sweeps/rates.py`: of the steps tried,
# the one with the greatest margin of neighbours over the concept, churches and Van Gogh together.
MINI = {"lr": 3e-4, "guidance": 1.5}
OF_MINI: dict[str, dict[str, Any]] = {
    "ear": {"lr": 3e-5},
    "ear-released": {"lr": 3e-5},
    "esd-x": {"batch": 4, "passes": 2, "lr": 3e-3},
    "esd-u": {"batch": 4, "passes": 2, "lr": 3e-3},
    "concept-ablation": {"passes": 4, "lr": 7e-4},
    "concept-ablation-noise": {"passes": 4, "lr": 7e-4},
    "obliviate": {"eta": 1.0, "batch": 4, "passes": 4, "lr": 1e-3},
    "spm": {"passes": 3, "lr": 1e-2},
    "forget-me-not": {"passes": 2, "lr": 3e-4},
    "gradient-ascent": {"passes": 2, "lr": 1.3e-4},
    "npo": {"passes": 4, "lr": 7e-4},
    "dpo": {"passes": 4, "lr": 3e-4},
    "rmu": {"eta": 3.0, "passes": 4, "lr": 1e-2},
    "ablation-at-words": {"passes": 4, "lr": 1.5e-3},
    "robust": {"passes": 4, "lr": 2e-3},
    "safe-guidance": {"threshold": 3.0},
}

# ------------------------------------------------------------------ next-scale models

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
S_VARE = ScaleRecipe("s-vare", filter=Filter("wrong"), retain=ScaleRetain(1.0), lr=2e-3)

# What the released code computes (github.com/ndhg1213/S-VARE): the filter keeps at 25 % exactly too; KL's teacher is
# guided (4) and the student is not; reg_lambda 0.5 on a KL averaged over 2 x 32 entries, which is half the mean over
# bits; a step on each loss, with Adam's moments shared; a tenth of the prompts blanked; AdamW 2.34e-5, betas 0.9 and
# 0.97, weight decay 0.005, gradients clipped at 5. Left out: its drop-path (this transformer has none), top-p 0.97 when
# drawing, and that it does 501 updates.
S_VARE_RELEASED = replace(
    S_VARE,
    name="s-vare-released",
    filter=Filter("wrong", compare="reaches"),
    retain=ScaleRetain(0.25, guidance=4.0),
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
    retain=ScaleRetain(1.0, prompts="both"),
    modules="no-kv",
    positions="scales",
)

# UCE (Gandikota et al. 2024, arXiv 2308.14761, Eq. 7), solved for in a second: keys and values of the concept's words
# become those of the replacement's. (In the S-VARE paper's hands it almost does not erase from Infinity.)
SCALE_UCE = ScaleEdit("uce")

# Ours: the same in what makes the start token too, one and a half times as far, as in the next-token family (table
# var-dev).
SCALE_RECOMMENDED = ScaleEdit("recommended", routes="both", strength=1.5)

# Without training; equations in `steering.py`. The concept's name in place of no prompt; and logits in the manner of
# ScaleErasure (arXiv 2606.29282).
SCALE_NEGATIVE_PROMPT = ScaleGuidance("negative-prompt", "negative-prompt")
SCALE_ERASURE_STYLE = ScaleGuidance("scale-erasure-style", "scale-erasure")

SCALE_TRAINED = (NAIVE, VARE, S_VARE, S_VARE_RELEASED, SACE_STYLE)
SCALE_NOT_TRAINED = (SCALE_UCE, SCALE_RECOMMENDED, SCALE_NEGATIVE_PROMPT, SCALE_ERASURE_STYLE)

# What differs between scales is data: a mini model has a thousandth of the weights and draws at less guidance. Learning
# rates have the greatest margin of neighbours over churches on development prompts, and so have the settings of
# guidance (table var-dev; where all are alike, they are the published ones).
MINI_VAR = {"guidance": 2.0, "batch": 8, "passes": 16, "lr": 1e-3}
OF_MINI_VAR: dict[str, dict[str, Any]] = {
    "vare": {"lr": 3e-4},
    "s-vare": {"lr": 3e-3},
    "s-vare-released": {"retain.guidance": 2.0, "batch": 2, "passes": 8},
    # as published it changes nothing: no position reaches a third of the attention, and by scale 2 a church is one
    "scale-erasure-style": {"scales": (0.0, 1.0), "relevance": 0.0},
}

PRESETS: dict[str, AnyRecipe] = {r.name: r for r in (*TRAINED, *NOT_TRAINED)}  # of next-token models
SCALE_PRESETS: dict[str, AnyRecipe] = {r.name: r for r in (*SCALE_TRAINED, *SCALE_NOT_TRAINED)}  # of next-scale models

FAMILIES = {"next-token": PRESETS, "next-scale": SCALE_PRESETS}

# profile -> what all its recipes change, and what single ones do
SETTINGS = {"mini": (MINI, OF_MINI), "mini-never": (MINI, OF_MINI), "mini-emu3": (MINI, OF_MINI)}
SETTINGS |= {"mini-var": (MINI_VAR, OF_MINI_VAR)}


def names(model: str | Path | Generator = "mini") -> list[str]:
    """Names of the recipes that a model can be erased with."""
    return list(FAMILIES[family_of(model)])


def recipe(name: str | None = None, model: str | Path | Generator = "mini", **settings: Any) -> AnyRecipe:
    """The preset called `name`, at the scale of a model.

    Args:
        name: names such as "uce" exist for both families; None for "ear", or "s-vare" of a next-scale model.
        model: a generator, or what `load_generator` takes.
        **settings: fields to change, such as `lr=1e-3` or `**{"windows.length": 12}`.

    Raises:
        UserError: no such recipe for this family, no such field, or a value of the wrong kind.
    """
    family = family_of(model)
    known = FAMILIES[family]
    name = name or ("s-vare" if family == "next-scale" else "ear")
    if name not in known:
        if any(name in others for others in FAMILIES.values()):
            other = "next-token models" if family == "next-scale" else "next-scale models, such as --model mini-var"
            raise UserError(f"recipe '{name}' is for {other}; {family} models have: {', '.join(sorted(known))}")
        raise UserError(f"no recipe '{name}' for {family} models; {nearest(name, known)}")
    profile = str(model) if isinstance(model, (str, Path)) else model.profile
    every, own = SETTINGS.get(profile, ({}, {}))
    scale = {field: value for field, value in (every | own.get(name, {})).items() if field in fields_of(known[name])}
    return with_settings(known[name], scale | settings)
