"""EAR as its released code computes it: our reorganisation against the loop written out, and what that loop does to a
model."""

from __future__ import annotations

import pytest
import torch

from benchmarks.rivals import released_loop
from earlib.concepts import PromptPair
from earlib.erasure import erase
from earlib.erasure.change import student_parameters, switched, tensor_names
from earlib.erasure.gates import window_loss
from earlib.erasure.lessons import Lessons
from earlib.erasure.presets import EAR_RELEASED, with_settings
from earlib.erasure.recipe import Gate
from earlib.erasure.single_token import raw_rows
from earlib.erasure.train import train
from earlib.errors import UserError

from .conftest import tiny_janus
from .test_erasure import CONCEPT

PAIRS = [  # replacements shorter, equal and longer than their targets
    PromptPair("a red church on a hill", "a house on a hill"),
    PromptPair("a church by the sea", "a tower by the sea"),
    PromptPair("a sketch of a church", "a sketch of a blue tree in the snow"),
]
FAST = with_settings(EAR_RELEASED, {"lr": 1e-3, "layers": (0.0, 0.7), "gate.threshold": 0.0})


@pytest.mark.parametrize("length", [1, 5, 16])
def test_the_reorganised_loop_equals_the_released_loop(length, tmp_path):
    from earlib.runs import Run

    generator = tiny_janus(seed=4)
    generator.model.double()
    r = with_settings(FAST, {"windows.length": length})
    plain, losses = released_loop(generator, PAIRS, r, seed=0)
    run = Run(tmp_path / "run", {})
    ours, _ = train(generator, PAIRS, r, seed=0, run=run)
    assert [row["loss"] for row in run.metrics] == pytest.approx(losses, abs=1e-9)
    assert len(losses) == 3 * (16 // length), "what is left after the last whole window never teaches"
    for name in plain:
        assert (
            (plain[name] - generator.trunk.get_parameter(name)).abs().max() > 1e-5
            or "q_proj" in name
            or "k_proj" in name
        )
        assert (ours[name] - plain[name]).abs().max() < 1e-9, name


def test_after_the_first_step_the_prompt_is_gone():
    """Later windows ask nothing of queries and keys, as attention over one position has no choice, and their states
    know nothing of the prompt."""
    generator = tiny_janus(seed=4)
    generator.model.double()
    r = with_settings(FAST, {"windows.length": 4})
    lesson = Lessons(generator, PAIRS[:1], r, 0).begin(0, None)
    student = student_parameters(generator.trunk, tensor_names(r, len(generator.decoder_layers)))

    def gradients(a, b):
        with switched(generator.trunk, student):
            loss = lesson.losses(a, b).sum()
        return dict(zip(student, torch.autograd.grad(loss, list(student.values()))))

    first, later = gradients(0, 4), gradients(4, 8)
    for name in student:
        assert first[name].abs().max() > 1e-6, name
        if "q_proj" in name or "k_proj" in name:
            assert later[name].abs().max() < 1e-15, name
        else:
            assert later[name].abs().max() > 1e-6, name
    lesson.rows = raw_rows(generator, "a green boat at night")
    assert all(torch.equal(g, later[n]) for n, g in gradients(4, 8).items())


def test_prompts_are_raw_cut_and_padded(generator):
    tok = generator.tokenizer
    rows = raw_rows(generator, "a red church")
    assert rows.ids_BP[0].tolist() == tok("a red church")["input_ids"] and generator.boi_token_id not in rows.ids_BP
    longer = raw_rows(generator, "a red church", 7)
    assert (
        longer.ids_BP.shape == (2, 7) and (longer.ids_BP[0, -3:] == tok.pad_token_id).all() and longer.mask_BP.all()
    ), "padding is attended to"
    assert raw_rows(generator, "a red church", 2).ids_BP.shape == (2, 2)
    null = rows.ids_BP[1].tolist()
    assert null[0] == tok.bos_token_id and null[-1] == rows.ids_BP[0, -1] and set(null[1:-1]) == {tok.pad_token_id}


def test_half_precision_sums_round_at_every_token():
    loss = torch.full((300,), 1.0, dtype=torch.bfloat16)
    assert window_loss(loss, Gate("window", 0.0))[0].item() == 256, (
        "bfloat16 cannot count further in ones: so does the released code"
    )
    assert window_loss(loss.float(), Gate("window", 0.0))[0].item() == 300


def test_masters_are_what_the_recipe_says():
    generator = tiny_janus(seed=4)
    generator.model.bfloat16()
    r = with_settings(FAST, {"windows.length": 1, "lr": 1e-4})
    own, _ = train(generator, PAIRS, r, seed=0)
    wide, _ = train(generator, PAIRS, with_settings(r, {"masters": "float32"}), seed=0)
    assert all(t.dtype == torch.bfloat16 for t in (*own.values(), *wide.values()))
    name = "layers.0.self_attn.v_proj.weight"
    before = generator.trunk.get_parameter(name)
    moved = [(t[name] != before).float().mean().item() for t in (own, wide)]
    assert 0.1 < moved[0] < 0.8 * moved[1], "in bfloat16 masters the steps of large weights round away"


def test_single_context_refuses_what_it_cannot_mean(generator):
    for setting in ("teacher_states=shared", "windows.order=random"):
        with pytest.raises(UserError, match="context=single"):
            with_settings(EAR_RELEASED, [setting])


def test_it_runs_like_any_recipe(generator):
    a, b = (erase(generator, CONCEPT, with_settings(FAST, {"windows.length": 5}), progress=False) for _ in range(2))
    assert a.name == "ear-released" and all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors)
    assert a.info["windows_trained"] == 9
