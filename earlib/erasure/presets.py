"""The methods by name, each a point in the grid of `recipe.py`, with its source and its numbers."""

from __future__ import annotations

from dataclasses import replace

from ..errors import UserError, nearest
from .recipe import Recipe, Windows, with_settings

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

PRESETS = {r.name: r for r in (EAR, EAR_SHARED, EAR_RELEASED)}

# What differs between scales is data. A mini model has a thousandth of the weights and wants larger steps.
PROFILE_SETTINGS = {"mini": {"lr": 3e-4, "guidance": 1.75}}


def recipe(name: str, profile: str = "custom", **settings) -> Recipe:
    """The preset `name` at the scale of `profile`, with fields overridden: recipe("ear", "mini", **{"windows.length": 6})."""
    if name not in PRESETS:
        raise UserError(f"no recipe '{name}'; {nearest(name, PRESETS)}")
    return with_settings(PRESETS[name], PROFILE_SETTINGS.get(profile, {}) | settings)
