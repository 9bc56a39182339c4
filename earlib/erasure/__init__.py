"""Erasure methods: `erase` makes an `Erasure` from a generator, a concept and a recipe."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..concepts import words_of
from ..errors import UserError

RETAINED = 200  # prompts that preservation reads, at most


def window_length(recipe, concept, generator) -> int:
    """Tokens in a window: the recipe's own (-1: the whole picture), or the concept's from the paper in proportion to
    the grid (48 of 576 is 12 of 144)."""
    total = generator.num_codes
    length = recipe.windows.length
    if length == 0:
        paper = concept.paper.get("window")
        if not paper:
            raise UserError(
                f"concept '{concept.name}' has no window length of its own; set one: windows.length=N (of {total} tokens)"
            )
        length = max(1, round(paper * total / concept.paper.get("image_tokens", 576)))
    if length > total:
        raise UserError(f"windows.length={length} is longer than a picture of {total} tokens")
    return length


def retain_prompts(concept, profile: str, most: int = RETAINED) -> list[str]:
    """Prompts without `concept`, to stay what they are while it is erased: both halves of the training pairs of all
    other shipped concepts.

    Left out are prompts that name the concept or one of whose words only its training targets have, everything that
    tests it, and content that nobody wants drawn (targets of concepts of kind "content"). Always the same ones, at most
    `most`.
    """
    from ..concepts import holds_word, list_concepts, load_concept, normal

    words = list(concept.words) or concept_words(concept)
    tests = {
        normal(p) for group in (*concept.tests.values(), *concept.neighbours.values(), concept.benign) for p in group
    }
    found = []
    for name in list_concepts(profile):
        other = load_concept(name, profile)
        if other.name != concept.name:
            found += [
                p
                for pair in other.pairs
                for p in ((pair.replacement,) if other.kind == "content" else (pair.target, pair.replacement))
            ]
    found = [p for p in dict.fromkeys(found) if normal(p) not in tests and not holds_word(p, words)]
    step = max(1, len(found) // most)
    return found[::step][:most]


def concept_words(concept) -> list[str]:
    """The words that the concept's targets have and their replacements never: "church"; "van", "gogh"."""
    targets, replacements = (
        set().union(*(words_of(getattr(pair, side)) for pair in concept.pairs)) for side in ("target", "replacement")
    )
    return sorted(targets - replacements)


def erase(
    generator,
    concept,
    recipe="ear",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
):
    """Erase `concept` (a Concept or its name) from `generator` with `recipe` (a preset's name, a Recipe or a
    TrainingFree); the generator is unchanged.

    With `out`, a run folder is kept there (config, metrics, checkpoints and the erasure itself), and the same call goes
    on where a killed one stopped. Without, nothing is written but the trajectories' cache.
    """
    from ..concepts import load_concept
    from .presets import recipe as preset
    from .presets import with_settings
    from .room import check_training
    from .store import Erasure
    from .train import train
    from .training_free import TrainingFree, without_training

    concept = load_concept(concept, generator.profile) if isinstance(concept, str) else concept
    recipe = preset(recipe, generator.profile) if isinstance(recipe, str) else recipe.check()
    if not concept.pairs:
        raise UserError(f"concept '{concept.name}' has no prompt pairs to train on")
    if isinstance(recipe, TrainingFree):
        make, recipe = without_training, recipe.named(concept)
        preserves = recipe.method == "uce" and recipe.preserve
    else:
        make, recipe = train, with_settings(recipe, {"windows.length": window_length(recipe, concept, generator)})
        preserves = recipe.retain.weight
        check_training(generator, recipe)
    retain = retain_prompts(concept, generator.profile) if preserves else []
    return kept(
        lambda run: make(generator, concept.pairs, recipe, seed, run, progress, retain=retain),
        Erasure,
        generator,
        concept,
        recipe,
        seed,
        out,
        resume,
    )


def kept(make, kind, generator, concept, recipe, seed: int, out, resume: bool):
    """An erasure of the class `kind`, of the tensors and the info that make(run) gives. With `out` it is kept in that
    run folder, and loaded if it is there."""
    from ..runs import Run

    run = None
    if out is not None:
        pairs = hashlib.sha256(repr(concept.pairs).encode()).hexdigest()[
            :16
        ]  # a file that was edited is another concept
        config = {"concept": concept.name, "pairs": pairs, "recipe": recipe.as_dict(), "seed": seed}
        run = Run(Path(out), config | {"model": generator.name, "fingerprint": generator.fingerprint}, resume)
        if run.state == "done":
            return kind.load(out, generator)
        run.status("running")
    tensors, info = make(run)
    erasure = kind(recipe.name, recipe.as_dict(), concept.name, generator.fingerprint, tensors, info, seed)
    if run:
        erasure.save(out)
        run.status("done", seconds=info["seconds"])
    return erasure
