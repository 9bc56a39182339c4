"""The layout of deepseek-ai's own Janus code: its files, the names and shapes of its tensors, its tokenizer; and what
each is in transformers.

Only the reading side lives here, without writing anything; `convert.py` writes. Traps that this file knows: the text
head is a matrix of its own (transformers' configuration would tie it by default), the language model's sizes may be
left to Llama's defaults, q, k and v of the vision tower are one matrix, blanked words have a token of their own, and
transformers would cut to the 50 likeliest codes unless told otherwise.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from ...runs import read_json
from ..weights import unpickled

if TYPE_CHECKING:
    import torch

BLANK = "<｜▁pad▁｜>"  # what stands for a blanked word
IMAGE_TOKENS = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
# where no file names them
SPECIAL_TOKENS = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "pad_token": BLANK}
SIGLIP_HEADS = 16  # of both towers that the original code knows

DROPPED = re.compile(
    r"vision_model\.vision_tower\.attn_pool\.|gen_vision_model\.quantize\.codebook_used$|.*\.rotary_emb\.inv_freq$"
)
RENAMES = [  # beginnings of names, there and here
    (r"language_model\.model\.", "model.language_model."),
    (r"language_model\.lm_head\.", "lm_head."),
    (r"gen_embed\.", "model.generation_embeddings."),
    (r"gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
    (r"gen_head\.", "model.generation_head."),
    (r"gen_aligner\.layers\.", "model.generation_aligner.layers."),
    (r"aligner\.layers\.", "model.aligner.layers."),
    (r"gen_vision_model\.", "model.vqmodel."),
    (r"vision_model\.vision_tower\.pos_embed$", "model.vision_model.embeddings.position_embedding.weight"),
    (r"vision_model\.vision_tower\.patch_embed\.proj\.", "model.vision_model.embeddings.patch_embedding."),
    (r"vision_model\.vision_tower\.norm\.", "model.vision_model.post_layernorm."),
    (
        r"vision_model\.vision_tower\.blocks\.(\d+)\.attn\.proj\.",
        r"model.vision_model.encoder.layers.\1.self_attn.projection_layer.",
    ),
    (r"vision_model\.vision_tower\.blocks\.(\d+)\.attn\.", r"model.vision_model.encoder.layers.\1.self_attn."),
    (r"vision_model\.vision_tower\.blocks\.(\d+)\.norm", r"model.vision_model.encoder.layers.\1.layer_norm"),
    (r"vision_model\.vision_tower\.blocks\.(\d+)\.", r"model.vision_model.encoder.layers.\1."),
]
INSIDE_VQ = [
    (r"encoder\.conv_blocks\.", "encoder.down."),
    (r"decoder\.conv_blocks\.", "decoder.up."),
    (r"\.res\.", ".block."),
    (r"\.mid\.0\.", ".mid.block_1."),
    (r"\.mid\.1\.", ".mid.attn_1."),
    (r"\.mid\.2\.", ".mid.block_2."),
]
# Janus's conversation: `<|User|>: words`, a blank line, `<|Assistant|>:`; pictures before the words, on a line of their
# own
CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|User|>: ' }}{% else %}{{ '<|Assistant|>: ' "
    "}}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image_placeholder>\\n' }}{% else %}{{ "
    "part['text'] | trim }}{% endif %}"
    "{% endfor %}{% if message['role'] == 'user' %}{{ '\\n\\n' }}{% else %}{{ 'EOS' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>:' }}{% endif %}"
)


@dataclass(frozen=True)
class Piece:
    """One tensor in transformers' layout, and where it is in a shard."""

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: object  # torch's
    third: int | None = None  # 0, 1 or 2: this third of the source's rows

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def take(self, tensors: dict) -> torch.Tensor:
        """The tensor itself, in memory of its own."""
        tensor = tensors[self.source]
        if self.third is not None:
            tensor = tensor.chunk(3)[self.third]
        return tensor.reshape(self.shape).clone()


def renamed(name: str) -> str | None:
    """A tensor's name in transformers; None for what it has no use for. KeyError if it is no name of a Janus."""
    if DROPPED.match(name):
        return None
    for old, new in RENAMES:
        if re.match(old, name):
            name = re.sub(f"^{old}", new, name)
            break
    else:
        raise KeyError(name)
    if name.startswith("model.vqmodel."):
        for old, new in INSIDE_VQ:
            name = re.sub(old, new, name)
    # an aligner is Linear, GELU, Linear, ... there; a first layer and a list of further ones here
    name = re.sub(r"(model\.(?:generation_)?aligner\.)layers\.0\.", r"\1fc1.", name)
    deeper = lambda m: f"{m[1]}hidden_layers.{int(m[2]) // 2 - 1}."
    return re.sub(r"(model\.(?:generation_)?aligner\.)layers\.(\d+)\.", deeper, name)


# ------------------------------------------------------------------ files


def read_shard(file: Path) -> dict:
    """The tensors of one .bin file by name."""
    import torch

    tensors = unpickled(file)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise UserError(f"{file}: holds no plain table of tensors, so it is no Janus checkpoint")
    return tensors


def pieces_of(file: Path) -> list[Piece]:
    """What a shard holds, in transformers' layout."""
    pieces = []
    for source, tensor in read_shard(file).items():
        try:
            name = renamed(source)
        except KeyError:
            raise UserError(
                f"{file}: the tensor {source} belongs to no Janus or Janus-Pro that `convert` knows"
            ) from None
        shape, dtype = tuple(tensor.shape), tensor.dtype
        if name is None:
            continue
        if ".self_attn.qkv." in name:
            third = (shape[0] // 3, *shape[1:])
            names = [name.replace(".qkv.", f".{part}_proj.") for part in "qkv"]
            pieces += [Piece(one, source, third, dtype, i) for i, one in enumerate(names)]
        else:
            pieces.append(Piece(name, source, shape[1:] if source.endswith(".pos_embed") else shape, dtype))
    return pieces


# ------------------------------------------------------------------ configuration


def derive_config(shapes: dict[str, tuple[int, ...]], about: dict, processor: Any) -> Any:
    """transformers' configuration, with every size written out: from the tensors' own shapes where they tell, else from
    SRC's config.json `about`."""
    from transformers import JanusConfig, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise UserError(f"the checkpoint has no tensor {name} (its name in transformers), so it is no whole Janus")
        return shapes[name]

    def count(pattern: str) -> int:
        return len({m[1] for name in shapes if (m := re.match(pattern, name))})

    tokenizer, language = processor.tokenizer, about.get("language_config", {})
    vocab, width = shape("model.language_model.embed_tokens.weight")
    heads = language.get("num_attention_heads", 32)
    text = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=shape("model.language_model.layers.0.mlp.gate_proj.weight")[0],
        num_hidden_layers=count(r"model\.language_model\.layers\.(\d+)\."),
        num_attention_heads=heads,
        num_key_value_heads=language.get("num_key_value_heads", heads),
        hidden_act=language.get("hidden_act", "silu"),
        max_position_embeddings=language.get("max_position_embeddings", 16384),
        rms_norm_eps=language.get("rms_norm_eps", 1e-6),
        rope_parameters={"rope_type": "default", "rope_theta": float(language.get("rope_theta", 10000.0))},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    vision_width, _, patch, _ = shape("model.vision_model.embeddings.patch_embedding.weight")
    positions = shape("model.vision_model.embeddings.position_embedding.weight")[0]
    vision = JanusVisionConfig(
        hidden_size=vision_width,
        num_hidden_layers=count(r"model\.vision_model\.encoder\.layers\.(\d+)\."),
        num_attention_heads=SIGLIP_HEADS,
        image_size=round(positions**0.5) * patch,
        patch_size=patch,
        mlp_ratio=shape("model.vision_model.encoder.layers.0.mlp.fc1.weight")[0] / vision_width,
        projection_dim=width,
        depth=1 + count(r"model\.aligner\.hidden_layers\.(\d+)\.weight"),
        num_image_tokens=positions,
    )
    base = shape("model.vqmodel.encoder.conv_in.weight")[0]
    levels = count(r"model\.vqmodel\.encoder\.down\.(\d+)\.")
    widths = [shape(f"model.vqmodel.encoder.down.{i}.block.0.conv1.weight")[0] for i in range(levels)]
    codes, code_width = shape("model.vqmodel.quantize.embedding.weight")
    vq = JanusVQVAEConfig(
        embed_dim=code_width,
        num_embeddings=codes,
        latent_channels=shape("model.vqmodel.quant_conv.weight")[1],
        base_channels=base,
        channel_multiplier=[width // base for width in widths],
        num_res_blocks=count(r"model\.vqmodel\.encoder\.down\.0\.block\.(\d+)\."),
        projection_dim=width,
        num_hidden_layers=1 + count(r"model\.generation_aligner\.hidden_layers\.(\d+)\.weight"),
        image_token_embed_dim=width,
    )
    processor.num_image_tokens = positions
    parts = dict(text_config=text, vision_config=vision, vq_config=vq)
    config = JanusConfig(**parts, image_token_id=tokenizer.image_token_id, tie_word_embeddings=False)
    config.architectures = ["JanusForConditionalGeneration"]
    return config


def generation_settings(tokenizer: Any, blank_id: int) -> Any:
    """How Janus draws: guidance 5, no cut to the likeliest codes, and the ids that the null prompt is made of."""
    from transformers import GenerationConfig

    settings = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=blank_id,
        guidance_scale=5.0,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        generation_kwargs={"boi_token_id": tokenizer.boi_token_id},
    )
    settings._from_model_config = False  # or `generation_kwargs` would be lost on reload
    return settings


# ------------------------------------------------------------------ tokenizer


def processor_of(source: Path) -> tuple[Any, int]:
    """(transformers' processor, id of the token that blanks a word) from the tokenizer and picture settings in
    `source`. Ids are looked up by name."""
    from tokenizers import Tokenizer
    from transformers import JanusProcessor, PreTrainedTokenizerFast
    from transformers.models.janus.image_processing_janus import JanusImageProcessor

    def read(name: str) -> dict:
        return read_json(source / name) if (source / name).is_file() else {}

    if not (source / "tokenizer.json").is_file():
        raise UserError(f"{source}: holds no tokenizer.json; fetch the whole model")
    try:
        raw = Tokenizer.from_file(str(source / "tokenizer.json"))
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f"{source / 'tokenizer.json'}: broken ({str(error).splitlines()[0]}); fetch it again") from None
    settings = read("tokenizer_config.json")
    named = settings | read("special_tokens_map.json")
    special = {}
    for role, default in SPECIAL_TOKENS.items():
        text = named.get(role) or default
        special[role] = text["content"] if isinstance(text, dict) else text
    for text in (*special.values(), *IMAGE_TOKENS.values()):  # a missing one would be added, with an id without a row
        if raw.token_to_id(text) is None:
            raise UserError(f"{source / 'tokenizer.json'}: has no token {text}, so it is not Janus's")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        **special,
        add_bos_token=settings.get("add_bos_token", True),
        padding_side="left",
        model_max_length=settings.get("model_max_length", 16384),
        extra_special_tokens=IMAGE_TOKENS,
    )
    pictures = read("preprocessor_config.json")
    side = pictures.get("image_size", 384)
    images = JanusImageProcessor(
        size={"height": side, "width": side},
        # the class's own default is CLIP's, which would shift every colour
        image_mean=pictures.get("image_mean", [0.5] * 3),
        image_std=pictures.get("image_std", [0.5] * 3),
        min_size=pictures.get("min_size", 14),
    )
    template = CHAT.replace("EOS", special["eos_token"])
    processor = JanusProcessor(images, tokenizer, chat_template=template, use_default_system_prompt=True)
    blank = raw.token_to_id(BLANK)
    return processor, tokenizer.pad_token_id if blank is None else blank
