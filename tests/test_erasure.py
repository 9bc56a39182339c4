"""EAR: the identities that its implementation stands on, on small random Janus models."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

import earlib
from earlib import ROOT
from earlib.concepts import Concept, PromptPair
from earlib.erasure import erase, presets, trajectories, window_length
from earlib.erasure.change import layer_range, switched, tensor_names
from earlib.erasure.gates import window_loss
from earlib.erasure.matching import Step, window_steps
from earlib.erasure.objective import target_states, token_loss
from earlib.erasure.presets import EAR, EAR_SHARED, recipe, with_settings
from earlib.erasure.recipe import Gate, Recipe
from earlib.erasure.store import Erasure, NoErasure
from earlib.erasure.train import train
from earlib.erasure.trajectories import all_trajectories, both_rows, teacher_target
from earlib.errors import UserError
from earlib.generators import draw
from earlib.generators.base import Past
from earlib.runs import Run, read_json, read_lines, write_json

from .conftest import tiny_janus

PAIRS = [
    PromptPair("a red church on a hill", "a red house on a hill"),
    PromptPair("a church by the sea", "a tower by the sea"),
    PromptPair("a sketch of a blue church", "a sketch of a blue tree"),
]
CONCEPT = Concept(
    name="church",
    kind="object",
    pairs=tuple(PAIRS),
    tests={"direct": ("a church",)},
    neighbours={},
    neighbour_judges={},
    benign=(),
    judge={},
    paper={"window": 144},
)
FAST = with_settings(EAR, {"lr": 1e-3, "gate.threshold": 0.0, "layers": (0.0, 0.5)})


def with_length(r: Recipe, length: int) -> Recipe:
    return with_settings(r, {"windows.length": length})


def of(trajectories, i: int):
    return {role: tokens[i : i + 1] for role, tokens in trajectories.items()}


def token_by_token(generator, pairs, r: Recipe, seed: int) -> dict[str, torch.Tensor]:
    """EAR as one would write it down: every image token is its own forward pass over a growing cache, losses are added
    up, one step a window."""
    trajectories = all_trajectories(generator, pairs, r, seed)
    targets = [teacher_target(generator, [pair], of(trajectories, i), r) for i, pair in enumerate(pairs)]
    names = tensor_names(r, len(generator.decoder_layers))
    student = {n: torch.nn.Parameter(generator.trunk.get_parameter(n).detach().clone()) for n in names}
    optimizer = torch.optim.Adam(student.values(), lr=r.lr)
    for i, pair in enumerate(pairs):
        tokens = trajectories["prefix"][i : i + 1].expand(2, -1)
        prompt, past, total = both_rows(generator, pair.target), Past(), 0.0
        for t in range(tokens.shape[1]):
            with switched(generator.trunk, student):
                h = generator.hidden_states(prompt, tokens[:, t : t + 1], past)
            total = total + (h - targets[i][:, t : t + 1]).square().mean()
            if (t + 1) % r.windows.length == 0 or t + 1 == tokens.shape[1]:
                if total.item() > r.gate.threshold:
                    optimizer.zero_grad()
                    total.backward()
                    optimizer.step()
                past.detach_()
                total = 0.0
    return {n: p.detach() for n, p in student.items()}


@pytest.mark.parametrize("states", ["shared", "independent"])
@pytest.mark.parametrize("length", [1, 3, 16])
def test_a_window_equals_its_tokens_one_by_one(states, length):
    generator = tiny_janus(seed=1)
    generator.model.double()
    r = with_length(dataclasses.replace(FAST, teacher_states=states), length)
    windowed, _ = train(generator, PAIRS, r, seed=0)
    plain = token_by_token(generator, PAIRS, r, seed=0)
    for name in plain:
        moved = (plain[name] - generator.trunk.get_parameter(name)).abs().max()
        assert moved > 1e-4, f"{name} did not train"
        assert (windowed[name] - plain[name]).abs().max() < 1e-9, name


def test_sampling_ahead_equals_drawing_while_training():
    """The benchmark's rival draws with three frozen streams while the student follows: the same pictures, the same
    steps."""
    from benchmarks.rivals import plain_ear

    generator = tiny_janus(seed=1)
    generator.model.double()
    r = with_length(FAST, 5)
    ours, theirs = train(generator, PAIRS[:2], r, seed=3)[0], plain_ear(generator, PAIRS[:2], r, seed=3)
    assert all((ours[n] - theirs[n]).abs().max() < 1e-9 for n in theirs)


def test_no_erasure_is_the_base_model(generator):
    base, none = (draw(generator, ["a church", "a boat"], erasure=e, progress=False) for e in (None, NoErasure()))
    assert (base == none).all()


def test_the_student_shares_all_frozen_storage(generator):
    names = tensor_names(FAST, len(generator.decoder_layers))
    frozen = {n: p.data_ptr() for n, p in generator.trunk.named_parameters() if n not in names}
    fresh = {n: torch.nn.Parameter(generator.trunk.get_parameter(n).clone()) for n in names}
    with switched(generator.trunk, fresh):
        assert {n: p.data_ptr() for n, p in generator.trunk.named_parameters() if n not in names} == frozen
        assert all(generator.trunk.get_parameter(n) is fresh[n] for n in names)


def test_no_trained_parameter_has_zero_gradient_in_full_context():
    """With one token of context (as in the released code) queries and keys get no gradient at all; with full context
    each of them does."""
    generator = tiny_janus(seed=2)
    generator.model.double()
    r = with_length(FAST, 16)
    names = tensor_names(r, len(generator.decoder_layers))
    trajectories = all_trajectories(generator, PAIRS[:1], r, 0)
    target = teacher_target(generator, PAIRS[:1], trajectories, r)
    student = {n: torch.nn.Parameter(generator.trunk.get_parameter(n).detach().clone()) for n in names}
    tokens = trajectories["prefix"].expand(2, -1)
    with switched(generator.trunk, student):
        token_loss(generator.hidden_states(both_rows(generator, PAIRS[0].target), tokens), target).sum().backward()
    rows = {n: p.grad.abs().amax(1) for n, p in student.items()}
    assert all((g > 1e-12).all() for g in rows.values()), {n: float(g.min()) for n, g in rows.items()}

    for p in student.values():
        p.grad = None
    with switched(generator.trunk, student):  # the same tokens, each on its own
        alone = generator.model.prepare_embeddings_for_image_generation(tokens[:1].T)
        generator.trunk(inputs_embeds=alone).last_hidden_state.square().sum().backward()
    for n, p in student.items():
        if "q_proj" in n or "k_proj" in n:
            assert p.grad.abs().max() < 1e-12, n


def test_every_skipped_window_is_counted_and_logged(tmp_path, generator):
    shut = with_settings(FAST, {"gate.threshold": 1e9, "windows.length": 4})
    erasure = erase(generator, CONCEPT, shut, out=tmp_path / "run", progress=False)
    assert erasure.info["windows_skipped"] == len(PAIRS) * 4 and erasure.info["windows_trained"] == 0
    assert all(torch.equal(t, generator.trunk.get_parameter(n)) for n, t in erasure.tensors.items()), (
        "nothing may be learnt behind a shut gate"
    )
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert len(rows) == len(PAIRS) * 4 and not any(r["trained"] for r in rows)


def test_gates():
    loss = torch.tensor([0.01, 0.02, 0.04, 0.5], requires_grad=True)
    assert window_loss(loss, Gate("window", 0.56))[1:] == (True, 4)
    assert window_loss(loss, Gate("window", 0.58))[1:] == (False, 4)
    total, teaches, kept = window_loss(loss, Gate("token", 0.03))
    assert teaches and kept == 2 and total.item() == pytest.approx(0.54)
    assert torch.autograd.grad(total, loss)[0].tolist() == [0, 0, 1, 1]
    assert window_loss(loss, Gate("token", 0.0, 0.5))[2] == 2
    assert window_loss(loss, Gate("token", 9.0))[1:] == (False, 0)
    assert window_loss(loss * 0, Gate("none"))[1]


def test_target_is_the_papers_equation():
    c, r, origin = (torch.full((2, 3, 4), x) for x in (5.0, 2.0, 1.0))
    assert (target_states(c, r, origin, "negated", 1.0) == 2 - (5 - 1)).all()
    assert (target_states(c, r, r, "negated", 0.0) == r).all()
    assert (target_states(c, r, origin, "replacement", 1.0) == r).all()


def test_shared_states_leave_the_unconditional_row_alone(generator):
    """Read along one picture, both prompts have the same unconditional row: there the student is asked to stay what it
    is."""
    r = with_length(EAR_SHARED, 4)
    trajectories = all_trajectories(generator, PAIRS[1:2], r, 0)
    target = teacher_target(generator, PAIRS[1:2], trajectories, r)
    own = generator.hidden_states(both_rows(generator, PAIRS[1].target), trajectories["prefix"].expand(2, -1))
    torch.testing.assert_close(target[1], own[1], atol=1e-5, rtol=1e-4)
    assert (target[0] - own[0]).abs().max() > 1e-2


def test_windows_cover_a_picture():
    steps = lambda length, tail="keep": window_steps(
        with_settings(EAR, {"windows.length": length, "windows.tail": tail}), 144, 0, 0
    )
    assert steps(25)[-1] == Step(125, 144) and steps(25, "drop")[-1] == Step(100, 125)
    assert steps("whole") == [Step(0, 144)]
    for length in (1, 7, 12, 144):
        assert [t for step in steps(length) for t in range(step.start, step.stop)] == list(range(144))


def test_random_order_reads_the_same_prefix(generator, tmp_path):
    """With nothing learnt (lr tiny), visiting windows in random order sees the losses of raster order."""
    r = with_settings(FAST, {"lr": 1e-12, "windows.length": 4})
    losses = {}
    for order in ("raster", "random"):
        run = Run(tmp_path / order, {})
        train(generator, PAIRS, with_settings(r, {"windows.order": order}), seed=0, run=run, checkpoint_every=99)
        log = run.metrics
        losses[order] = {(x["lesson"], x["start"]): x["loss"] for x in log}
        if order == "random":
            assert [x["start"] for x in log] != sorted(x["start"] for x in log)
    assert losses["raster"].keys() == losses["random"].keys()
    for key, value in losses["raster"].items():
        assert losses["random"][key] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trunk_with_float32_masters(dtype):
    """Steps far below a half-precision weight's last digit still add up, and the run lands near that of a float32
    model."""
    wide, half = tiny_janus(seed=1, spread=0.1), tiny_janus(seed=1, spread=0.1)
    half.model.to(dtype)
    half.fingerprint = wide.fingerprint  # the trajectories of the wide one, so that only the arithmetic differs
    r = with_settings(FAST, {"windows.length": 4, "lr": 3e-4, "pairs": 3})
    trajectories = all_trajectories(wide, PAIRS, r, 0)
    moved = []
    for generator in (wide, half):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("earlib.erasure.lessons.all_trajectories", lambda *a, **k: trajectories)
            tensors, _ = train(generator, PAIRS, r, seed=0)
        name = "layers.0.self_attn.v_proj.weight"
        moved.append((tensors[name].float() - generator.trunk.get_parameter(name).float()).flatten())
    assert tensors[name].dtype == dtype
    assert torch.cosine_similarity(moved[0], moved[1], 0) > 0.8


def test_a_loss_that_is_not_finite_stops_with_one_line(generator):
    with pytest.raises(UserError, match="the loss is (nan|inf) at lesson 0, token 4; use a smaller lr"):
        train(generator, PAIRS, with_settings(FAST, {"windows.length": 4, "lr": 1e38}), seed=77)
    name = "layers.0.self_attn.v_proj.weight"
    own = generator.trunk.get_parameter(name)
    with (
        switched(generator.trunk, {name: torch.nn.Parameter(own * float("inf"))}),
        pytest.raises(UserError, match="teacher's states for 'a red church"),
    ):
        train(generator, PAIRS, with_length(FAST, 4), seed=77)


def test_saved_and_loaded_is_what_was_trained(tmp_path, generator):
    erasure = erase(generator, CONCEPT, with_length(FAST, 4), out=tmp_path / "e", progress=False)
    again = Erasure.load(tmp_path / "e", generator)
    assert (
        all(torch.equal(erasure.tensors[n], again.tensors[n]) for n in erasure.tensors) and again.info == erasure.info
    )
    with pytest.raises(UserError, match="made for a model with fingerprint"):
        Erasure.load(tmp_path / "e", tiny_janus(seed=9))
    with pytest.raises(UserError, match="different configuration"):
        erase(generator, CONCEPT, with_length(FAST, 8), out=tmp_path / "e", progress=False)
    (tmp_path / "e" / "erasure.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="broken erasure"):
        Erasure.load(tmp_path / "e", generator)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"concept": 5}, "has no concept that can be used"),
        ({"seed": "x"}, "has no seed"),
        ({"info": None}, "has no info"),
        ({"recipe": {"method": "oops"}}, "it changes neither weights nor guidance"),
        ({"recipe": {"method": "negative-prompt", "text": "church", "strength": "oops"}}, "recipe strength 'oops'"),
        ({"recipe": {"method": "negative-prompt", "strength": 1.0}}, "recipe text None"),
        ({"recipe": {"positions": ["all"]}}, "recipe positions"),
        (None, "holds no fields"),
    ],
)
def test_a_damaged_erasure_is_not_drawn_as_if_it_were_none(tmp_path, changed, said):
    generator = tiny_janus()
    recipe = {"method": "negative-prompt", "text": "church", "strength": 1.0}
    Erasure("negative-prompt", recipe, "church", generator.fingerprint, {}).save(tmp_path)
    assert not Erasure.load(tmp_path, generator).tensors
    about = read_json(tmp_path / "erasure.json")
    write_json(tmp_path / "erasure.json", changed if changed is None else about | changed)
    with pytest.raises(UserError, match="broken erasure") as error:
        Erasure.load(tmp_path, generator)
    assert said in str(error.value) and "copy its folder anew" in str(error.value)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    generator = tiny_janus()
    before = erase(generator, CONCEPT, FAST, progress=False)
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(trajectories, "CACHE", tmp_path / "cache" / "trajectories")
    assert erase(generator, CONCEPT, FAST, progress=False).change_hash == before.change_hash


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.conftest import tiny_janus
from tests.test_erasure import FAST, PAIRS, with_length
import earlib.erasure.trajectories as trajectories
from earlib.erasure.train import train
from earlib.runs import Run
from pathlib import Path
trajectories.CACHE = Path({cache!r})
class Slow(Run):
    def log(self, **row):
        super().log(**row)
        if {slow}: time.sleep(0.05)
run = Slow({folder!r}, {{"test": "kill"}})
tensors, _ = train(tiny_janus(seed=1), PAIRS * 4, with_length(FAST, 4), seed=0, run=run, checkpoint_every=1)
from safetensors.torch import save_file
save_file(tensors, {folder!r} + "/final.safetensors")
"""


def test_resumed_after_sigkill_equals_uninterrupted_bit_for_bit(tmp_path):
    from safetensors.torch import load_file

    def start(folder, slow):
        code = KILLED.format(root=str(ROOT), cache=str(tmp_path / "cache"), folder=str(folder), slow=slow)
        return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, False).wait(120) == 0
    victim = start(broken, True)
    log, until = broken / "metrics.jsonl", time.time() + 100
    while time.time() < until and not (
        log.exists() and log.read_text().count("\n") >= 22
    ):  # in the middle of the sixth pair
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL, "it must die half-way"
    assert start(broken, False).wait(120) == 0
    a, b = load_file(whole / "final.safetensors"), load_file(broken / "final.safetensors")
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert read_lines(whole / "metrics.jsonl") == read_lines(log), "every window is logged once"


def test_a_broken_checkpoint_is_one_clear_line(tmp_path, generator):
    run = Run(tmp_path / "run", {})
    (run.checkpoints / "last.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(UserError, match="broken checkpoint.*delete it"):
        train(generator, PAIRS, with_length(FAST, 4), seed=0, run=run)


def test_layers_are_shares_of_the_depth():
    assert list(layer_range((0, 1 / 6), 30)) == [0, 1, 2, 3, 4]  # the paper's five of thirty
    assert list(layer_range((0, 1 / 6), 8)) == [0]
    assert list(layer_range((0.99, 1.0), 8)) == [7]
    assert len(tensor_names(dataclasses.replace(EAR, modules="both", layers=(0.0, 1.0)), 3)) == 21


@pytest.mark.parametrize(
    "setting, words",
    [
        ("windows.lenght=12", "windows.length"),
        ("lr=fast", "must be a number"),
        ("windows.length=2.5", "whole number"),
        ("gate.kind=windw", "window"),
        ("lr", "field=value"),
        ("eta=-1", "out of range"),
        ("layers=1,0", "shares of the depth"),
        ("gate.quantile=1.5", "out of range"),
    ],
)
def test_bad_settings_name_the_field(setting, words):
    with pytest.raises(UserError, match=words):
        with_settings(EAR, [setting])


def test_lengths_of_windows_in_words():
    words = {
        word: with_settings(EAR, {"windows.length": word}).windows.length for word in ("paper", "whole", "auto", "7")
    }
    assert words == {"paper": 0, "whole": -1, "auto": -2, "7": 7} and EAR.windows.length == 0
    picture, concept = SimpleNamespace(num_codes=144), dataclasses.replace(CONCEPT, paper={"window": 48})
    tokens = lambda word: window_length(with_settings(EAR, {"windows.length": word}), concept, picture)
    assert [tokens(word) for word in ("paper", "auto", "whole", 7)] == [12, 12, -1, 7]


def test_presets_by_name():
    assert presets.names("mini")[0] == "ear" and {"s-vare", "uce"} <= set(presets.names("mini-var"))
    assert earlib.recipe("uce").method == "uce" and earlib.recipe("uce", "mini-var").routes == "attention"
    assert recipe("ear", "custom").lr == 1e-4 and recipe("ear", "custom").gate.threshold == 0.05, "the paper's numbers"
    assert recipe("ear", "mini", **{"windows.length": 6}).windows.length == 6
    with pytest.raises(UserError, match="ear"):
        recipe("eer", "custom")


def test_pinned_losses(generator, tmp_path):
    """The first window losses of a seeded run on a seeded random model: a change here is a change of the method."""
    erase(generator, CONCEPT, with_length(FAST, 8), out=tmp_path / "r", progress=False)
    losses = [row["loss"] for row in read_lines(tmp_path / "r" / "metrics.jsonl")]
    assert losses[:4] == pytest.approx(PINNED, rel=1e-3)


PINNED = [13.7144, 19.4599, 15.5391, 11.5459]
