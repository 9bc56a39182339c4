"""What only a GPU can tell: `make gpu-check`, or `pytest -m gpu`. Skipped where there is none."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch

from earlib import load_generator, memory
from earlib.concepts import load_concept
from earlib.erasure import checkpoint
from earlib.erasure.presets import recipe
from earlib.erasure.train import train
from earlib.generators import picture_seeds
from earlib.runs import Run

from .conftest import sample

if not torch.cuda.is_available():
    pytest.skip("no GPU here; on a machine that has one: make gpu-check", allow_module_level=True)

pytestmark = pytest.mark.gpu
PROMPTS = ["a red church on a hill", "a boat", "two houses", "a tree at night"] * 2
SEEDS = picture_seeds(0, [str(i) for i in range(len(PROMPTS))])


@pytest.fixture(scope="module")
def gpu():
    return load_generator("mini", "cuda", "float32")


@pytest.fixture(scope="module")
def shape():
    """Janus-Pro-1B's true size in float16, as on a T4."""
    yield load_generator("janus-pro-1b-shape", "cuda", "float16", parts="draw")
    torch.cuda.empty_cache()


def same(a: torch.Tensor, b: torch.Tensor) -> int:
    """Pictures with the same tokens. A rounding may turn one token over, and with it the rest of its picture."""
    return int((a == b).all(1).sum())


def test_a_recorded_step_draws_what_an_eager_one_draws(gpu, mini):
    recorded, eager = (sample(gpu, PROMPTS, SEEDS, graphs=graphs) for graphs in (True, False))
    assert same(recorded, eager) >= 7 and same(eager, mini.sample(PROMPTS, SEEDS)) >= 7
    again = sample(gpu, PROMPTS[:3], SEEDS[:3], graphs=True, batch_size=2)
    assert same(again, recorded[:3]) >= 2, "a picture does not depend on its batch"


def test_pictures_and_captions_are_those_of_a_cpu(gpu, mini):
    codes = mini.sample(PROMPTS, SEEDS)
    here, there = gpu.decode(codes), mini.decode(codes)
    assert abs(here.astype(int) - there).max() <= 1
    assert sum(a == b for a, b in zip(gpu.caption(there), mini.caption(there))) >= 7
    p, q = (g.log_probabilities(PROMPTS, codes) for g in (gpu, mini))
    assert (p - q).abs().max() < 1e-2


@pytest.mark.parametrize("name", ["ear", "spm", "concept-ablation"])
def test_training_on_a_gpu_is_training_on_a_cpu(gpu, mini, name):
    pairs = load_concept("church", "mini").pairs
    r = recipe(name, "mini", pairs=4, passes=1, **({"windows.length": 12} if name == "ear" else {}))
    drawn = lambda prompts, seeds, guidance=None, **more: mini.sample(prompts, seeds, guidance)  # the same pictures
    with patch.object(gpu, "sample", drawn):
        (here, _), (there, _) = (train(g, pairs, r, seed=0) for g in (gpu, mini))
    for tensor_name, t in there.items():
        own = 0 if ".lora_" in tensor_name else mini.trunk.get_parameter(tensor_name)
        a, b = (here[tensor_name].cpu() - own).flatten(), (t - own).flatten()
        assert torch.cosine_similarity(a, b, 0) > 0.98


def test_a_run_goes_on_after_a_kill(gpu, tmp_path):
    r, pairs = recipe("ear", "mini", pairs=2, **{"windows.length": 12}), load_concept("church", "mini").pairs
    whole, _ = train(gpu, pairs, r, 0)
    save = checkpoint.save

    class Killed(Exception):
        pass

    def killed(*state):
        save(*state)
        raise Killed

    with patch.object(checkpoint, "save", killed), pytest.raises(Killed):
        train(gpu, pairs, r, 0, Run(tmp_path, {}), checkpoint_every=1)
    tensors, _ = train(gpu, pairs, r, 0, Run(tmp_path, {}), checkpoint_every=1)
    for name, t in whole.items():
        torch.testing.assert_close(tensors[name], t, rtol=1e-3, atol=1e-5)


def test_float16_stays_finite(shape):
    codes = shape.sample(PROMPTS[:2], SEEDS[:2])
    assert shape.log_probabilities(PROMPTS[:2], codes).isfinite().all()
    assert shape.decode(codes).std() > 0


def test_drawing_takes_the_memory_that_was_promised(shape):
    sizes, weights = memory.sizes_of_generator(shape), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    shape.decode(shape.sample(PROMPTS[:4], SEEDS[:4]))
    taken, promised = torch.cuda.max_memory_allocated() - weights, memory.draw_bytes(sizes, shape.dtype, 4)
    assert taken < promised < taken + 1.2 * memory.RESERVE + 4 * memory.decode_bytes(sizes, shape.dtype)


def test_a_lesson_takes_the_memory_that_was_promised():
    from benchmarks.lesson import lesson

    found = lesson("janus-pro-1b-shape", "cuda", "float16")
    assert all(map(math.isfinite, found["losses"])) and len(found["losses"]) == 12
    assert found["peak"] < found["promised"] < 1.1 * found["peak"] + memory.RESERVE
