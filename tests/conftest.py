"""Small random models for the tests: real Janus and Emu3 classes, a few thousand weights, made in a tenth of a
second."""

from __future__ import annotations

import pytest


def tiny_janus(
    seed: int = 0,
    width: int = 64,
    layers: int = 3,
    heads: int = 2,
    codes: int = 32,
    grid: int = 4,
    spread: float = 0.25,
):
    """A random Janus with its processor behind the Generator interface. `spread` makes the weights large enough for
    prompts to matter."""
    import torch

    from earlib.generators.janus import JanusGenerator
    from earlib.miniworld.models import build_janus, build_processor

    torch.manual_seed(seed)
    processor = build_processor()
    processor.num_image_tokens = grid * grid
    model = build_janus(
        processor.tokenizer,
        width=width,
        layers=layers,
        head_dim=width // heads,
        mlp=96,
        codes=codes,
        grid=grid,
        vision_width=64,
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1 and "vqmodel" not in name:
                p.normal_(0, spread / p.shape[-1] ** 0.5 * 4)
    return JanusGenerator(model, processor, name="tiny")


def tiny_emu3(
    seed=0, width=64, layers=3, heads=4, kv_heads=2, codes=32, grid=(4, 4), spread=0.25, scattered=False, null_prompt=""
):
    """A random Emu3 with its processor behind the Generator interface. `scattered` gives the image tokens ids in no
    order."""
    import torch
    from transformers.models.emu3.modeling_emu3 import Emu3ImageVocabularyMapping

    from earlib.generators.emu3 import Emu3Generator
    from earlib.miniworld.models_emu3 import build_emu3, build_processor

    torch.manual_seed(seed)
    processor = build_processor(codes, grid)
    model = build_emu3(
        processor, width=width, layers=layers, head_dim=width // heads, kv_heads=kv_heads, mlp=96, codes=codes
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1 and "vqmodel" not in name:
                p.normal_(0, spread / p.shape[-1] ** 0.5 * 4)
    if scattered:
        ids = model.config.vocabulary_map
        names = [name for name in ids if name.startswith("<|visual token")]
        moved = {name: ids[names[k]] for name, k in zip(names, torch.randperm(codes).tolist())}
        model.model.vocabulary_mapping = Emu3ImageVocabularyMapping(ids | moved)
    return Emu3Generator(model, processor, name="tiny", null_prompt=null_prompt)


def sample(generator, *args, graphs: bool, **more):
    """What `generator` draws with a recorded step, or without."""
    generator.graphs = graphs
    try:
        return generator.sample(*args, **more)
    finally:
        generator.graphs = None


@pytest.fixture(scope="session")
def generator():
    return tiny_janus()


@pytest.fixture(scope="session")
def mini():
    """The shipped MiniJanus."""
    from earlib import load_generator

    return load_generator("mini", device="cpu")


@pytest.fixture(scope="session")
def kernels():
    """Warm kernels for all notebooks that the tests run."""
    from earlib.book.kernels import Kernels

    with Kernels() as running:
        yield running


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tests never read or fill the caches that notebooks use."""
    import earlib.erasure.trajectories as trajectories
    from earlib.book import once
    from earlib.evaluate import pictures

    monkeypatch.setattr(once, "CACHE", tmp_path_factory.getbasetemp() / "erasures")
    monkeypatch.setattr(trajectories, "CACHE", tmp_path_factory.getbasetemp() / "trajectories")
    monkeypatch.setattr(pictures, "CACHE", tmp_path_factory.getbasetemp() / "pictures")
