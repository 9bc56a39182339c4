"""What `doctor` and the errors promise of memory, against the bytes that a run takes on a GPU that is not there
(`fake_gpu.py`); and that such a GPU refuses what a real one would."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

import earlib
from benchmarks import gpu_check
from benchmarks.lesson import lesson
from earlib import load_generator, memory
from earlib.concepts import load_concept
from earlib.erasure import erase
from earlib.erasure.presets import recipe
from earlib.erasure.room import trained_parameters
from earlib.errors import UserError
from earlib.generators.files import shapes

from .fake_gpu import WrongPlace, fake_gpu

PROMPTS = ["a red church on a hill", "a boat"]


@pytest.mark.parametrize("name", list(shapes.SHAPES))
def test_memory_is_what_was_promised(name):
    """At the true widths, picture size and number of codes; layers count alike, so that three tell of all."""
    with fake_gpu() as gpu, patch.dict(shapes.SHAPES, {name: shapes.SHAPES[name] | {"layers": 3}}):
        generator = load_generator(name, "cuda", "float16")
        sizes, prompt = memory.sizes_of_generator(generator), generator.encode(PROMPTS).ids_BP.shape[1]
        weights = memory.weight_bytes(sizes, "float16")
        assert gpu.live == pytest.approx(weights, rel=1e-4)

        def taken(work) -> int:
            gpu.reset_peak()
            work()
            return gpu.peak - weights

        batches, codes = generator.sample_batches(PROMPTS, [1, 2]), []
        drawn = taken(lambda: codes.append(next(batches)[1]))
        assert 0.9 < drawn / (2 * memory.picture_bytes(sizes, "float16", prompt)) < 1
        decoded = taken(lambda: generator.decode(codes[0], chunk=1))  # the batch's cache is still held
        promised = memory.draw_bytes(sizes, "float16", 2, prompt) - memory.kernel_bytes(sizes, "float16")
        assert 0.9 < decoded / promised < 1
        batches.close()
        concept = load_concept("church", "mini")
        for r in (recipe("ear", generator, pairs=1), recipe("concept-ablation", generator, pairs=2, batch=1, passes=1)):
            window, rows = (48, 2) if r.name == "ear" else (generator.num_codes, 1)
            trained = trained_parameters(sizes, r)
            needed = memory.train_bytes(sizes, "float16", trained, window, rows, r.space == "logits", prompt)
            trained = taken(lambda r=r: erase(generator, concept, r, progress=False))
            assert 0.9 < trained / (needed - memory.RESERVE) < 1.02


# ------------------------------------------------------------------ what a GPU refuses


@pytest.fixture
def gpu():
    with fake_gpu(10**9) as gpu:
        yield gpu


def test_what_a_gpu_refuses_is_refused_by_name(gpu):
    here, there = torch.zeros(4, 4), torch.zeros(4, 4, device="cuda")
    step, states = torch.zeros(()), [torch.zeros(4, 4, device="cuda") for _ in range(3)]
    at = torch.tensor([0], device="cuda")
    refused = {
        "aten.mm.default .*cpu.*cuda": lambda: here @ there,
        "bfloat16 and torch.float32": lambda: there.bfloat16() @ there,
        "on the CPU is indexed": lambda: here[at],
        "tensors on cpu and cuda": lambda: torch.zeros(3, device="cuda").normal_(generator=torch.Generator("cpu")),
        "can't convert cuda": lambda: there.numpy(),
        "_fused_adam_": lambda: torch._fused_adam_(
            *([t] for t in states[:1] * 2 + states[1:]),
            [],
            [step],
            lr=1.0,
            beta1=0.9,
            beta2=0.9,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        ),
    }
    for line, work in refused.items():
        with pytest.raises((WrongPlace, TypeError), match=line):
            work()
    with pytest.raises(WrongPlace, match="a recorded step waits"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        there.sum().item()


def test_memory_is_counted_and_ends(gpu):
    a = torch.zeros(10**8, dtype=torch.bfloat16, device="cuda")
    assert gpu.live == gpu.peak == 200_000_000 + gpu.live % 512
    b = a.view(2, -1)[0]
    del a
    assert gpu.live >= 200_000_000  # a part keeps the whole
    with pytest.raises(torch.OutOfMemoryError, match="2.00 GB"):
        torch.zeros(10**9, dtype=torch.float16, device="cuda")
    del b
    assert gpu.live == 0


def test_gpu_check_says_in_one_line_that_there_is_none(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one; make gpu-check runs it")
    assert gpu_check.main([]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("gpu-check: no GPU here") and said.err.count("\n") == 1 and not said.out
    assert gpu_check.cards().empty or gpu_check.cards()["card"].notna().all()


def test_a_lesson_lets_its_model_go(monkeypatch):
    """At once, so that the next one has room."""
    loaded, load = [], earlib.load_generator

    def loading(*args, **more):
        generator = load(*args, **more)
        loaded.append(weakref.ref(generator.model))
        return generator

    monkeypatch.setattr(earlib, "load_generator", loading)
    lesson("mini", "cpu")
    gc.collect()  # what importing and the first run left
    gc.disable()
    try:
        lesson("mini", "cpu")
        assert len(loaded) == 2 and loaded[1]() is None
    finally:
        gc.enable()


def test_gpu_check_makes_room_for_the_next(monkeypatch):
    """Of what failed, too, and however it holds itself."""
    held, left = [], []

    def knot(*args, **more):
        model = torch.nn.Module()
        model.itself = model
        held.append(weakref.ref(model))
        raise UserError("no room")

    monkeypatch.setattr(gpu_check, "SIZES", {"janus-pro-1b-shape": {}})
    monkeypatch.setattr(gpu_check, "tests", dict)
    monkeypatch.setattr("benchmarks.__main__.run", knot)
    monkeypatch.setattr("benchmarks.lesson.lesson", knot)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.extend(model() is None for model in held))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(total_memory=0))
    assert len(gpu_check.check()["left_out"]) == 2 and left == [True] * 3


def test_gpu_check_writes_what_the_chapter_on_cost_shows(tmp_path, monkeypatch):
    name = "janus-pro-1b-shape"
    few = {name: dict(pictures=(1,), pairs=1, rival_pairs=0, only=("drawing", "erasing"))}
    monkeypatch.setattr(gpu_check, "SIZES", few)
    monkeypatch.setattr(gpu_check, "tests", lambda: {"passed": True, "summary": "10 passed", "failed": []})
    monkeypatch.setattr("benchmarks.floor.best_seconds", lambda *args: 1e-3)
    with fake_gpu(15.6e9, (7, 5)), patch.dict(shapes.SHAPES, {name: shapes.SHAPES[name] | {"layers": 2}}):
        assert gpu_check.main(["--out", str(tmp_path / "card.json")]) == 0
    shown = gpu_check.cards(tmp_path)
    assert set(shown["what"]) == {"drawing", "erasing, ear", "one EAR lesson"} and set(shown["dtype"]) == {"float16"}
    assert shown["GB at peak"].notna().all() and (shown["GB promised"].dropna() > shown["GB at peak"].iloc[-1]).all()
