"""UCE for next-scale models: a change that is solved for, not trained. Its equation, and the sums it takes, are in
`erasure/closed_form.py`.

Here a prompt's words enter by two kinds of matrices: keys and values of every block's cross-attention, and what makes
the start token, which modulates every norm too. Both read the text encoder's states and nothing of the picture, so that
nothing is drawn, and no layer hangs on another.
"""

from __future__ import annotations

import time

import torch

from .closed_form import AT_ONCE, Moments, edited, standing_for


@torch.no_grad()
def uce(generator, pairs, recipe, retain: list[str]):
    """(changed matrices by name, info) for a `recipe.ScaleEdit`; UCE's Eq. 7 for every matrix that reads words by the
    recipe's routes.

    k is the text encoder's state at a word of a target, k* at the word that stands there in the replacement; words of
    `retain` stay what they are.
    """
    began, moments = time.perf_counter(), {}
    pairs = list(pairs)[: recipe.pairs]
    of = lambda name: moments.setdefault(name, (Moments(), Moments()))
    for start in range(0, len(pairs), AT_ONCE):
        some = pairs[start : start + AT_ONCE]
        target, replacement = (
            generator.encode([getattr(pair, side) for pair in some]) for side in ("target", "replacement")
        )
        now, wanted = read(generator, target, recipe.routes), read(generator, replacement, recipe.routes)
        for b, (own, other) in enumerate(zip(target.mask_BP.bool(), replacement.mask_BP.bool())):
            places_NM = standing_for(target.ids_BP[b, own].tolist(), replacement.ids_BP[b, other].tolist()).to(
                generator.device
            )
            for name in now:
                of(name)[0].add(now[name][b, own], places_NM @ wanted[name][b, other].double())
    for start in range(0, len(retain), AT_ONCE):
        prompts = generator.encode(retain[start : start + AT_ONCE])
        for name, x_BPE in read(generator, prompts, recipe.routes).items():
            of(name)[1].add(x_BPE[prompts.mask_BP.bool()], x_BPE[prompts.mask_BP.bool()])
    changed = {}
    for name, (erased, kept) in moments.items():
        weight = generator.trunk.get_submodule(name).weight
        new = edited(weight.double(), erased, kept, recipe.preserve, recipe.ridge)
        changed[f"{name}.weight"] = (weight + recipe.strength * (new - weight)).to(weight.dtype).contiguous()
    seconds = round(time.perf_counter() - began, 3)
    info = {"seconds": seconds, "seconds_sampling": 0.0, "seconds_training": seconds, "pairs": len(pairs)}
    return changed, info | {"parameters": sum(t.numel() for t in changed.values())}


def read(generator, prompts, routes: str) -> dict[str, torch.Tensor]:
    """What each matrix reads of the prompts' words, [B, P, E]: by cross-attention ("attention"), for the start token
    ("start"), or "both"."""
    start, attention = generator.trunk.words_read(prompts.ids_BP, prompts.mask_BP)
    blocks = {f"blocks.{i}.cross_attention.kv": attention for i in range(len(generator.trunk.blocks))}
    return (blocks if routes != "start" else {}) | (start if routes != "attention" else {})
