"""Erasure methods: `erase` makes an `Erasure` from a generator, a concept and a recipe."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import UserError


def window_length(recipe, concept, generator) -> int:
    """Tokens in a window: the recipe's own, or the concept's from the paper in proportion to the grid (48 of 576 is 12 of 144)."""
    total = generator.num_image_tokens
    length = recipe.windows.length
    if length == 0:
        paper = concept.paper.get("window")
        if not paper:
            raise UserError(f"concept '{concept.name}' has no window length of its own; set one: windows.length=N (of {total} tokens)")
        length = max(1, round(paper * total / concept.paper.get("image_tokens", 576)))
    if length > total:
        raise UserError(f"windows.length={length} is longer than a picture of {total} tokens")
    return length


def erase(generator, concept, recipe="ear", seed: int = 0, out: str | Path | None = None, resume: bool = True, progress: bool = True):
    """Erase `concept` (a Concept or its name) from `generator` with `recipe` (a Recipe or a preset's name); the generator is unchanged.

    With `out`, a run folder is kept there (config, metrics, checkpoints and the erasure itself), and the same call goes on where a killed
    one stopped. Without, nothing is written but the trajectories' cache.
    """
    from ..concepts import load_concept
    from ..memory import check_training
    from ..runs import Run
    from .presets import recipe as preset
    from .presets import with_settings
    from .store import Erasure
    from .train import train

    concept = load_concept(concept, generator.profile) if isinstance(concept, str) else concept
    recipe = preset(recipe, generator.profile) if isinstance(recipe, str) else recipe.check()
    recipe = with_settings(recipe, {"windows.length": window_length(recipe, concept, generator)})
    if not concept.pairs:
        raise UserError(f"concept '{concept.name}' has no prompt pairs to train on")
    check_training(generator, recipe, len(concept.pairs[: recipe.pairs]))
    run = None
    if out is not None:
        pairs = hashlib.sha256(repr(concept.pairs).encode()).hexdigest()[:16]  # a file that was edited is another concept
        config = {"concept": concept.name, "pairs": pairs, "recipe": recipe.as_dict(), "seed": seed}
        config |= {"model": generator.name, "fingerprint": generator.fingerprint}
        run = Run(out, config, resume)
        if run.state == "done":
            return Erasure.load(out, generator)
        run.status("running")
    tensors, info = train(generator, concept.pairs, recipe, seed, run, progress)
    erasure = Erasure(recipe.name, recipe.as_dict(), concept.name, generator.fingerprint, tensors, info, seed)
    if run:
        erasure.save(out)
        run.status("done", seconds=info["seconds"])
    return erasure
