"""SPM on Janus, the poster's first figure with numbers: which loss, in which part of the layers.

The runs are the table `spm-loss`. Measured live are the gradients of membranes on the vision tower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..sweeps.compare import margin, plain

if TYPE_CHECKING:
    import pandas as pd

    from ..concepts import Concept
    from ..erasure.recipe import Recipe
    from ..generators.janus import JanusGenerator

LOSSES = {"mse": "MSE", "kl": "KL", "reverse-kl": "reverse KL"}  # a recipe's divergence -> how it is called
PLACES = {"attention": "attention", "mlp": "MLP", "both": "attention + MLP"}  # a recipe's modules, likewise
SEVEN = {"modules": "both", "mlp_layers": "0,0.2334"}  # the poster's "7 MLP modules" as the first 7 of 30 blocks
NOTICED = 10.0  # how large an erasing signal on the vision tower is made, so that captions feel it
EYES = ("q_proj", "k_proj", "v_proj", "projection_layer")  # the matrices of the vision tower's attention


def peaks(frame: pd.DataFrame, loss: str = "kl", place: str = "attention") -> pd.DataFrame:
    """Each loss and place at the snapshot where its margin is greatest, the greatest first.

    A snapshot that was picked for its rates looks better than it is; all are picked alike, so that they can be
    compared.

    Args:
        frame: rows of the table.
        loss, place: what the others are held against.
    """
    import pandas as pd

    best: dict[tuple[str, str], dict] = {}
    for row in frame[frame.recipe.notna() & frame.direct.notna()].to_dict("records"):
        key = row["label"], row["divergence"]
        if key not in best or margin(row).value > margin(best[key]).value:
            best[key] = row
    reference, rows = best[place, loss], {}
    for row in sorted(best.values(), key=lambda row: -margin(row).value):
        ahead = "" if row is reference else margin(row).minus(margin(reference)).points()
        rows[row["label"], LOSSES[row["divergence"]]] = {
            "passes": f"{row['passes']:g}",
            "the concept": plain(row["direct"]),
            "its neighbours": plain(row["neighbours"]),
            "CLIP": plain(row["clip"], "clip"),
            "KL drift": plain(row["kl_drift"], "kl_drift"),
            "margin": margin(row).points(),
            f"against {LOSSES[loss]} on {place}": ahead,
        }
    return pd.DataFrame(rows).T.rename_axis(["membranes on", "loss"])


def counts() -> pd.DataFrame:
    """What the poster's placements train on the models' true shapes: arithmetic on the sizes, nothing is loaded."""
    import pandas as pd

    from ..erasure.presets import recipe
    from ..erasure.room import trained_parameters
    from ..memory import KNOWN

    placements = {words: {"modules": place} for place, words in PLACES.items()} | {"attention + 7 MLPs": SEVEN}
    rows = {}
    for profile, sizes in KNOWN.items():
        for words, settings in placements.items():
            n = trained_parameters(sizes, recipe("spm", profile, **settings))
            share, megabytes = n / sizes.draw_parameters, 2 * n / 1e6
            rows[profile, words] = {
                "parameters": f"{n:,}",
                "of the model": f"{share:.4%}",
                "MB in bfloat16": f"{megabytes:.1f}",
            }
    return pd.DataFrame(rows).T.rename_axis(["model", "membranes on"])


def tower(
    generator: JanusGenerator, concept: Concept, recipe: Recipe, pictures: int = 8, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The gradients of the training loss on membranes of the vision tower, and what such membranes change.

    All attention matrices of the tower get a membrane, as the language model's do, and both are switched on while the
    loss of the first lesson is computed. The tower's have numbers in them (a fresh membrane changes nothing anywhere).

    Args:
        generator: loaded with its vision tower (parts="all").
        pictures: drawn and captioned with the tower's membranes and without.

    Returns:
        (a row for each place; how many `pictures` and `captions` of `n` change).
    """
    import pandas as pd
    import torch

    from ..erasure.change import applied, merged, student_parameters, switched, tensor_names
    from ..erasure.lessons import Lessons
    from ..generators import draw

    vision = generator.model.model.vision_model
    linear = [name for name, module in vision.named_modules() if isinstance(module, torch.nn.Linear)]
    eyes = student_parameters(vision, [f"{n}.weight" for n in linear if n.endswith(EYES)], rank=1, seed=seed)
    chance = torch.Generator().manual_seed(seed)
    for name, p in eyes.items():
        if ".lora_B." in name:
            p.data.copy_(NOTICED * torch.randn(p.shape, generator=chance))
    names = tensor_names(recipe, len(generator.decoder_layers))
    mind = student_parameters(generator.trunk, names, rank=1, seed=seed)
    ahead = Lessons(generator, concept.pairs[: recipe.batch], recipe, seed)
    with switched(vision, merged(vision, eyes)), applied(generator, mind):
        loss = ahead.begin(0, lambda: applied(generator, mind)).losses(0, generator.num_codes).sum()
        gradients = torch.autograd.grad(loss, [*eyes.values(), *mind.values()], materialize_grads=True)
    rows = {}
    for words, part in {"vision tower": gradients[: len(eyes)], "language model": gradients[len(eyes) :]}.items():
        rows[words] = {
            "membranes": len(part) // 2,
            "parameters": sum(g.numel() for g in part),
            "norm of the gradient": sum(g.double().square().sum() for g in part).sqrt().item(),
        }
    prompts = list(concept.tests["direct"][:pictures])
    before = draw(generator, prompts, seed=seed, progress=False)
    captions = generator.caption(before)
    with torch.no_grad(), switched(vision, merged(vision, eyes)):
        after, captions_after = draw(generator, prompts, seed=seed, progress=False), generator.caption(before)
    changed = {
        "pictures": int((before != after).any((1, 2, 3)).sum()),
        "captions": sum(a != b for a, b in zip(captions, captions_after)),
        "n": len(prompts),
    }
    return pd.DataFrame(rows).T.rename_axis("membranes on"), changed
