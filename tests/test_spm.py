"""The poster's figures with numbers: what is compared with what, and what is measured about single membranes. On made-
up tables and a tiny model."""

from __future__ import annotations

import pytest
import torch

from earlib.chapters import spm
from earlib.concepts import Concept, PromptPair
from earlib.erasure.change import applied, student_parameters, tensor_names
from earlib.erasure.presets import recipe
from earlib.erasure.store import Erasure
from earlib.evaluate.rate import Rate
from earlib.plots import ablation_figures

PAIRS = tuple(PromptPair(f"a {colour} church", f"a {colour} house") for colour in ("red", "blue", "green", "yellow"))
CHURCH = Concept(
    "church",
    "object",
    PAIRS,
    {"direct": ("a red church on a hill", "a church by the sea")},
    {},
    {},
    (),
    {},
    {"window": 144},
)


def row(concept: int, neighbours: int, n: int = 100, **more) -> dict:
    """A row of `ablations.read`, of one seed."""
    found = {
        "recipe": "spm",
        "kl_drift": 0.1,
        "clip": 0.8,
        "change_size": 1.0,
        "erasure.strength": 1.0,
        "lr": 1e-3,
        "modules": "attention",
    } | more
    for kind, hits in (("direct", concept), ("neighbours", neighbours)):
        found |= {
            kind: hits / n,
            **dict(zip((f"{kind}_low", f"{kind}_high"), Rate(hits, n).interval)),
            f"{kind}_seeds": {0: hits / n},
        }
    return found


def frame(*rows):
    import pandas as pd

    return pd.DataFrame(
        [
            row(90, 95) | {"recipe": None, "change_size": None, "modules": None, "erasure.strength": None, "lr": None},
            *rows,
        ]
    )


def test_margin():
    """100 points where all neighbours and no concept are drawn; its interval is that of a difference of two rates
    (Newcombe's example: 56/70 - 48/80)."""
    assert spm.margin(row(0, 100))["value"] == 1 and spm.margin(row(70, 70))["value"] == 0
    other = row(0, 56, 70)
    m = spm.margin(row(48, 0, 80) | {name: value for name, value in other.items() if name.startswith("neighbours")})
    assert (m["low"], m["value"], m["high"]) == pytest.approx((0.0524, 0.2, 0.3339), abs=1e-4)
    better = spm.ahead(row(20, 80), row(10, 90))
    assert (
        better["value"] == pytest.approx(0.2) and better["low"] > 0 and spm.ahead(row(20, 80), row(19, 80))["low"] < 0
    )


def test_peaks_take_each_trainings_best_snapshot():
    of = lambda label, divergence, passes, *rates: row(*rates, label=label, divergence=divergence, passes=passes)
    found = spm.peaks(
        frame(
            of("attention", "kl", 1, 40, 90),  # 50
            of("attention", "kl", 3, 10, 80),  # 70
            of("attention", "kl", 9, 0, 30),
            of("MLP", "mse", 1, 30, 90),  # 60
            of("MLP", "mse", 3, 0, 20),
        )
    )
    assert list(found.index) == [("attention", "KL"), ("MLP", "MSE")] and list(found.passes) == ["3", "1"]
    assert found["against KL on attention"].iloc[0] == "" and found["against KL on attention"].iloc[1].startswith(
        "-10 ["
    )


def test_matched_reads_the_other_place_at_the_same_size():
    runs = frame(
        row(50, 90, change_size=2.0),
        row(30, 80, change_size=10**0.5),  # half of the way between 1 and 10, by the logarithm
        row(5, 10, change_size=11.0),  # larger than any run of the other place
        row(70, 96, change_size=1.0, modules="mlp"),
        row(10, 40, change_size=10.0, modules="mlp", kl_drift=0.5),
        row(0, 0, change_size=3.0, modules="mlp", **{"erasure.strength": 0.5}),  # of another strength: on another line
    )
    [(first, second), (one, other)] = spm.matched(runs, "attention", "mlp")
    assert (
        one["change_size"] == 10**0.5
        and other["direct"] == pytest.approx(0.4)
        and other["neighbours"] == pytest.approx(0.68)
    )
    assert (
        other["kl_drift"] == pytest.approx(0.3)
        and other["neighbours_seeds"][0] == pytest.approx(0.68)
        and other["change_size"] > 1
    )
    assert len(spm.matched(runs, "mlp", "attention")) == 1 and spm.matched(runs, "attention", "both") == []
    told = spm.beside([(first, second), (one, other)])
    assert (
        list(told["run"]) == ["0.001 × 1"] * 2
        and told["its neighbours"].iloc[1].startswith("80.0 [")
        and "68.0 [" in told["its neighbours"].iloc[1]
    )
    assert spm.verdicts([(row(50, 90), row(50, 60)), (row(50, 60), row(50, 90)), (row(50, 90), row(50, 89))]) == {
        "lower": 1,
        "higher": 1,
        "cannot be told": 1,
    }


def test_spared_is_the_best_of_those_that_erase():
    runs = frame(row(10, 60), row(2, 40), row(11, 90), row(5, 85, modules="mlp", lr=0.01), row(60, 95, modules="both"))
    found = spm.spared(runs)
    assert list(found.index) == ["attention", "MLP"] and list(found["run"]) == ["0.001 × 1", "0.01 × 1"]
    assert found["the concept"].iloc[0].startswith("10.0 [") and found["its neighbours, against attention"].iloc[
        1
    ].startswith("+25 points")


def test_figures_show_what_was_measured():
    runs = frame(
        *(
            row(60 - 10 * i, 90 - 5 * i, change_size=1.0 + i, lr=10.0 ** (i - 4), modules=m)
            for i in range(3)
            for m in spm.PLACES
        )
    )
    half = runs[runs.recipe.notna()].assign(**{"erasure.strength": 0.5})
    import pandas as pd

    fig = ablation_figures.doses(spm.places(pd.concat([runs, half])), {"lr": "learning rate", "change_size": "size"})
    points = lambda axis: sum(len(bars.lines[0].get_xdata()) for bars in axis.containers)
    assert [points(axis) for axis in fig.axes] == [9, 18, 9, 18]  # an axis of rates has no halves


def test_counts_are_those_of_the_true_shapes():
    found = spm.counts()["parameters"].to_dict()
    assert found["janus-pro-7b", "attention"] == "983,040" and found["janus-pro-7b", "attention + MLP"] == "2,342,400"
    assert found["janus-pro-7b", "attention + 7 MLPs"] == f"{983_040 + 7 * 45_312:,}"


def test_the_tower_gets_no_gradient_and_draws_nothing(generator):
    """E4: the loss that trains membranes, with membranes on the vision tower beside those of the language model."""
    gradients, changed = spm.tower(generator, CHURCH, recipe("spm", prefix="target", pairs=4), pictures=2)
    assert gradients["norm of the gradient"]["vision tower"] == 0 < gradients["norm of the gradient"]["language model"]
    assert gradients.membranes["vision tower"] >= 4 and gradients.membranes["language model"] == 12
    assert changed["pictures"] == 0 < changed["captions"] <= changed["n"] == 2


def test_what_passes_through_a_membrane(generator):
    """`change` is what the module itself computes more of; `step` what entries of one size in b would do to it, on
    average over fresh gates."""
    names = tensor_names(recipe("spm", modules="both"), len(generator.decoder_layers))
    tensors = {n: p.detach() for n, p in student_parameters(generator.trunk, names, rank=1, seed=1).items()}
    tensors |= {n: torch.full_like(t, 0.1) for n, t in tensors.items() if ".lora_B." in n}
    prompts, tokens = ["a red church", "a church by the sea"], torch.arange(16).repeat(2, 1)
    erasure = Erasure("spm", {}, "church", generator.fingerprint, tensors, strength=0.5)
    found = spm.passing(generator, erasure, prompts, tokens).set_index(["layer", "part"])
    assert len(found) == 3 * 7 and found.index.is_unique
    module, seen = generator.trunk.layers[0].mlp.up_proj, []
    hook = module.register_forward_hook(lambda m, args, y: seen.append((args[0].detach(), y.detach())))
    generator.hidden_states(generator.encode(prompts[:1]), tokens[:1])
    name, a_seeds = "layers.0.mlp.up_proj", []
    with applied(generator, {n: 0.5 * t if "_B" in n else t for n, t in tensors.items() if n.startswith(f"{name}.")}):
        generator.hidden_states(generator.encode(prompts[:1]), tokens[:1])
    hook.remove()
    (x, y), (_, changed) = seen
    alone = spm.passing(generator, erasure, prompts[:1], tokens[:1]).set_index(["layer", "part"]).loc[0, "up"]
    assert alone["change"] == pytest.approx(((changed - y).norm() / y.norm()).item(), rel=1e-4)
    assert alone["input"] == pytest.approx(x.square().mean().sqrt().item(), rel=1e-4)
    for seed in range(200):
        a = student_parameters(generator.trunk, [f"{name}.weight"], rank=1, seed=seed)[f"{name}.lora_A.weight"].detach()
        a_seeds.append((torch.ones(len(y[0, 0]), 1) @ (a @ x[0].T)).square().sum())
    assert alone["step"] == pytest.approx((torch.stack(a_seeds).mean().sqrt() / y.norm()).item(), rel=0.1)
