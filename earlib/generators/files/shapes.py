"""Janus-Pro at its true size with random weights: the profiles `janus-pro-1b-shape` and `janus-pro-7b-shape`.

They are for speed and memory where the real weights are not at hand, never for quality: what they draw is noise.
Weights are made on the device, in the dtype of loading. The tokenizer is MiniWorld's, whose few ids fit into the true
vocabulary; so prompts are as short as MiniWorld's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import memory

if TYPE_CHECKING:
    from ...device import Placement
    from ..janus import JanusGenerator

SHAPES = {
    "janus-pro-1b-shape": dict(width=2048, mlp=5632, layers=24, heads=16),
    "janus-pro-7b-shape": dict(width=4096, mlp=11008, layers=30, heads=32),
}
SPREAD = 0.02  # of the random weights: transformers' own


def shape_config(
    width: int,
    mlp: int,
    layers: int,
    heads: int,
    vocab: int = 102400,
    side: int = 24,
    codes: int = 16384,
    vq_channels: int = 128,
    vision_width: int = 1024,
    vision_layers: int = 24,
    vision_heads: int = 16,
) -> Any:
    """transformers' configuration of a Janus-Pro. The defaults are what the 1B and the 7B model share; tests make
    smaller ones."""
    from transformers import JanusConfig, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

    text = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=16384,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )
    vision = JanusVisionConfig(
        hidden_size=vision_width,
        num_hidden_layers=vision_layers,
        num_attention_heads=vision_heads,
        image_size=16 * side,
        patch_size=16,
        projection_dim=width,
        num_image_tokens=side * side,
    )
    vq = JanusVQVAEConfig(
        num_embeddings=codes, base_channels=vq_channels, projection_dim=width, image_token_embed_dim=width
    )
    # their class would tie by default
    return JanusConfig(text_config=text, vision_config=vision, vq_config=vq, tie_word_embeddings=False)


def build_shape(profile: str, place: Placement, parts: str | None = None, **smaller) -> JanusGenerator:
    """The generator of a shape profile on `place` (a `device.Placement`); `smaller` overrides sizes of
    `shape_config`."""
    from transformers import AutoProcessor

    from ..janus import JanusGenerator
    from ..profiles import FAMILIES, PROFILES, check_memory
    from ..weights import drop, empty_model
    from .original import generation_settings

    config, family = shape_config(**SHAPES[profile] | smaller), FAMILIES["janus"]
    model = empty_model(config, family)
    parts = check_memory(profile, memory.sizes_of(model, *family.picture(config), family.caption_parts), place, parts)
    drop(model, family.caption_parts if parts == "draw" else ())
    fill_at_random(model, place)

    processor = AutoProcessor.from_pretrained(PROFILES["mini"])
    processor.num_image_tokens = config.vision_config.num_image_tokens
    tokenizer = processor.tokenizer
    config.image_token_id, config.dtype = tokenizer.image_token_id, place.dtype
    model.generation_config = generation_settings(tokenizer, tokenizer.pad_token_id)
    return JanusGenerator(model, processor, name=profile, profile=profile)


def fill_at_random(model: Any, place: Placement, seed: int = 0) -> None:
    """Give an empty model weights on the device: norms 1, biases 0, the rest normal; the same for the same seed, device
    and dtype."""
    import zlib

    import torch

    from ..weights import put, settle

    noise = torch.Generator(place.device)
    for name, empty in model.state_dict().items():
        tensor = torch.empty(empty.shape, dtype=place.dtype, device=place.device)
        if name.endswith("bias"):
            tensor.zero_()
        elif tensor.dim() == 1:  # the gain of a norm
            tensor.fill_(1)
        else:
            noise.manual_seed(zlib.crc32(f"{seed}/{name}".encode()))  # its own, so that parts left out change no other
            tensor.normal_(0, SPREAD, generator=noise)
        put(model, name, tensor)
    settle(model, place.device)
