"""The poster's figures with numbers: what is compared with what, and what is measured about single membranes. On made-
up tables and a tiny model."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from earlib.chapters import spm_loss, spm_place
from earlib.concepts import Concept, PromptPair
from earlib.erasure.change import applied, student_parameters, tensor_names
from earlib.erasure.presets import recipe
from earlib.erasure.store import Erasure
from earlib.evaluate.rate import Estimate, Rate
from earlib.sweeps.compare import margin

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


def row(concept: int, neighbours: int, n: int = 100, size: float = 1.0, **more) -> dict:
    """A row of `read.load`, of one seed."""
    found = {"recipe": "spm", "kl_drift": Estimate(0.1, 1), "clip": Estimate(0.8, 1), "change_size": Estimate(size, 1)}
    found |= {"erasure.strength": 1.0, "lr": 1e-3, "modules": "attention"} | more
    for kind, hits in (("direct", concept), ("neighbours", neighbours)):
        found |= {kind: Rate(hits, n), f"{kind}_by_seed": {0: Rate(hits, n)}}
    return found


def frame(*rows):
    return pd.DataFrame([row(90, 95) | {"recipe": None, "change_size": None, "modules": None, "lr": None}, *rows])


def test_margins_and_their_differences():
    """Newcombe's example: 56/70 - 48/80."""
    m = margin({"neighbours": Rate(56, 70), "direct": Rate(48, 80)})
    assert (m.low, m.value, m.high) == pytest.approx((0.0524, 0.2, 0.3339), abs=1e-4)
    better = margin(row(10, 90)).minus(margin(row(20, 80)))
    assert better.value == pytest.approx(0.2) and better.low > 0
    assert margin(row(19, 80)).minus(margin(row(20, 80))).low < 0


def test_peaks_take_each_trainings_best_snapshot():
    of = lambda label, divergence, passes, *rates: row(*rates, label=label, divergence=divergence, passes=passes)
    found = spm_loss.peaks(
        frame(
            of("attention", "kl", 1, 40, 90),  # 50
            of("attention", "kl", 3, 10, 80),  # 70
            of("attention", "kl", 9, 0, 30),
            of("MLP", "mse", 1, 30, 90),  # 60
            of("MLP", "mse", 3, 0, 20),
        )
    )
    assert list(found.index) == [("attention", "KL"), ("MLP", "MSE")] and list(found.passes) == ["3", "1"]
    against = list(found["against KL on attention"])
    assert against[0] == "" and against[1].startswith("-10 [")


def test_matched_reads_the_other_place_at_the_same_size():
    runs = frame(
        row(50, 90, size=2.0),
        row(30, 80, size=10**0.5),  # half of the way between 1 and 10, by the logarithm
        row(5, 10, size=11.0),  # larger than any run of the other place
        row(70, 96, size=1.0, modules="mlp"),
        row(10, 40, size=10.0, modules="mlp"),
        row(0, 0, size=3.0, modules="mlp", **{"erasure.strength": 0.5}),  # of another strength: on another line
    )
    pairs = spm_place.matched(runs, "attention", "mlp")
    assert [round(second["size"], 3) for _, second in pairs] == [2.0, 3.162]
    other = pairs[1][1]
    assert other["direct"].value == pytest.approx(0.4) and other["neighbours"].value == pytest.approx(0.68)
    assert len(spm_place.matched(runs, "mlp", "attention")) == 1
    assert spm_place.matched(runs, "attention", "both") == []
    shown = spm_place.beside(pairs)
    assert list(shown["run"]) == ["0.001 × 1"] * 2 and shown["its neighbours"].iloc[1] == "80 → 68"
    assert spm_place.verdicts(pairs, "direct") == "lower in 0, higher in 0, cannot be told in 2"
    far = [
        (row(50, 90), pairs[0][1] | {"direct": Estimate(0.8, 100, 0.7, 0.9), "neighbours": Estimate(0.2, 9, 0.1, 0.3)})
    ]
    assert spm_place.verdicts(far, "direct").startswith("lower in 0, higher in 1")
    assert spm_place.verdicts(far, "neighbours").startswith("lower in 1")


def test_spared_is_the_best_of_those_that_erase():
    runs = frame(row(10, 60), row(2, 40), row(11, 90), row(5, 85, modules="mlp", lr=0.01), row(60, 95, modules="both"))
    found = spm_place.spared(runs)
    assert list(found.index) == ["attention", "MLP"] and list(found["run"]) == ["0.001 × 1", "0.01 × 1"]
    assert found["the concept"].iloc[0].startswith("10 [")
    assert found["neighbours, against attention"].iloc[1].startswith("+25 [")


def test_counts_are_those_of_the_true_shapes():
    found = spm_loss.counts()["parameters"].to_dict()
    assert found["janus-pro-7b", "attention"] == "983,040" and found["janus-pro-7b", "attention + MLP"] == "2,342,400"
    assert found["janus-pro-7b", "attention + 7 MLPs"] == f"{983_040 + 7 * 45_312:,}"


def test_the_tower_gets_no_gradient_and_draws_nothing(generator):
    """E4: the loss that trains membranes, with membranes on the vision tower beside those of the language model."""
    gradients, changed = spm_loss.tower(
        generator, CHURCH, recipe("spm", "custom", prefix="target", pairs=4), pictures=2
    )
    assert gradients["norm of the gradient"]["vision tower"] == 0 < gradients["norm of the gradient"]["language model"]
    assert gradients.membranes["vision tower"] >= 4 and gradients.membranes["language model"] == 12
    assert changed["pictures"] == 0 < changed["captions"] <= changed["n"] == 2


def test_what_passes_through_a_membrane(generator):
    """`change` is what the module itself computes more of; `step` what entries of one size in b would do to it, on
    average over fresh gates."""
    names = tensor_names(recipe("spm", "custom", modules="both"), len(generator.decoder_layers))
    tensors = {n: p.detach() for n, p in student_parameters(generator.trunk, names, rank=1, seed=1).items()}
    tensors |= {n: torch.full_like(t, 0.1) for n, t in tensors.items() if ".lora_B." in n}
    prompts, tokens = ["a red church", "a church by the sea"], torch.arange(16).repeat(2, 1)
    erasure = Erasure("spm", {}, "church", generator.fingerprint, tensors, strength=0.5)
    found = spm_place.passing(generator, erasure, prompts, tokens).set_index(["layer", "part"])
    assert len(found) == 3 * 7 and found.index.is_unique
    module, seen = generator.trunk.layers[0].mlp.up_proj, []
    hook = module.register_forward_hook(lambda m, args, y: seen.append((args[0].detach(), y.detach())))
    generator.hidden_states(generator.encode(prompts[:1]), tokens[:1])
    name, a_seeds = "layers.0.mlp.up_proj", []
    with applied(generator, {n: 0.5 * t if "_B" in n else t for n, t in tensors.items() if n.startswith(f"{name}.")}):
        generator.hidden_states(generator.encode(prompts[:1]), tokens[:1])
    hook.remove()
    (x, y), (_, changed) = seen
    alone = spm_place.passing(generator, erasure, prompts[:1], tokens[:1]).set_index(["layer", "part"]).loc[0, "up"]
    assert alone["change"] == pytest.approx(((changed - y).norm() / y.norm()).item(), rel=1e-4)
    assert alone["input"] == pytest.approx(x.square().mean().sqrt().item(), rel=1e-4)
    for seed in range(200):
        a = student_parameters(generator.trunk, [f"{name}.weight"], rank=1, seed=seed)[f"{name}.lora_A.weight"].detach()
        a_seeds.append((torch.ones(len(y[0, 0]), 1) @ (a @ x[0].T)).square().sum())
    assert alone["step"] == pytest.approx((torch.stack(a_seeds).mean().sqrt() / y.norm()).item(), rel=0.1)
