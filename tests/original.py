"""A small random Janus in the layout of deepseek-ai's own code, and what it computes, in a few lines of plain PyTorch.

Nothing here is taken from `earlib`: names, shapes and arithmetic are written out a second time, from the architecture,
so that the conversion is compared with something else than itself.
"""

from __future__ import annotations

import json
import math

import torch
import torch.nn.functional as F

WIDTH, MLP, LAYERS, HEADS = (
    128,
    80,
    2,
    32,
)  # 32 heads and 16384 positions are Llama's and the 7B model's unwritten defaults
CODES, CODE_WIDTH, GRID = 48, 8, 4
VISION, BLOCKS, VISION_HEADS, PATCH = 32, 2, 16, 16
BASE, LEVELS, LATENT = 32, (1, 1, 2, 2, 4), 24
BOS, EOS, PAD, BLANK = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<pad>", "<｜▁pad▁｜>"
IMAGE, BOI, EOI = "<image_placeholder>", "<begin_of_image>", "<end_of_image>"
WORDS = [
    "<|User|>",
    "<|Assistant|>",
    ":",
    "a",
    "red",
    "blue",
    "church",
    "boat",
    "on",
    "hill",
    "what",
    "is",
    "in",
    "the",
    "picture",
    "?",
]
VOCABULARY = [
    "<unk>",
    EOS,
    "word",
    BLANK,
    *WORDS,
    BOI,
    PAD,
    BOS,
    EOI,
    IMAGE,
]  # special tokens have no order that one could assume
ROWS = len(VOCABULARY) + 7  # the matrix has rows that no token uses, as Janus-Pro's


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint by its original name, float32."""
    g = torch.Generator().manual_seed(seed)
    out = {}

    def normal(name, *shape, scale=None):
        fan = math.prod(shape[1:]) if len(shape) > 1 else 1
        out[name] = torch.randn(shape, generator=g) * (scale or 1.5 / fan**0.5)

    def linear(name, outputs, inputs):
        normal(f"{name}.weight", outputs, inputs)
        normal(f"{name}.bias", outputs, scale=0.1)

    def conv(name, outputs, inputs, k):
        normal(f"{name}.weight", outputs, inputs, k, k)
        normal(f"{name}.bias", outputs, scale=0.1)

    def norm(name, width):
        out[f"{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=g)
        normal(f"{name}.bias", width, scale=0.1)

    trunk = "language_model.model."
    normal(f"{trunk}embed_tokens.weight", ROWS, WIDTH, scale=1.0)
    for i in range(LAYERS):
        layer = f"{trunk}layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"{layer}{name}.weight"] = 1 + 0.2 * torch.randn(WIDTH, generator=g)
        for name in "qkvo":
            normal(f"{layer}self_attn.{name}_proj.weight", WIDTH, WIDTH)
        for name, shape in (("gate", (MLP, WIDTH)), ("up", (MLP, WIDTH)), ("down", (WIDTH, MLP))):
            normal(f"{layer}mlp.{name}_proj.weight", *shape)
    out[f"{trunk}norm.weight"] = 1 + 0.2 * torch.randn(WIDTH, generator=g)
    normal("language_model.lm_head.weight", ROWS, WIDTH)

    normal("gen_embed.weight", CODES, CODE_WIDTH, scale=1.0)
    linear("gen_aligner.layers.0", WIDTH, CODE_WIDTH)
    linear("gen_aligner.layers.2", WIDTH, WIDTH)
    linear("gen_head.output_mlp_projector", WIDTH, WIDTH)
    linear("gen_head.vision_head", CODES, WIDTH)
    linear("aligner.layers.0", WIDTH, VISION)
    linear("aligner.layers.2", WIDTH, WIDTH)

    tower = "vision_model.vision_tower."
    conv(f"{tower}patch_embed.proj", VISION, 3, PATCH)
    normal(f"{tower}pos_embed", 1, GRID * GRID, VISION, scale=0.5)
    for i in range(BLOCKS):
        norm(f"{tower}blocks.{i}.norm1", VISION)
        linear(f"{tower}blocks.{i}.attn.qkv", 3 * VISION, VISION)
        linear(f"{tower}blocks.{i}.attn.proj", VISION, VISION)
        norm(f"{tower}blocks.{i}.norm2", VISION)
        linear(f"{tower}blocks.{i}.mlp.fc1", 2 * VISION, VISION)
        linear(f"{tower}blocks.{i}.mlp.fc2", VISION, 2 * VISION)
    norm(f"{tower}norm", VISION)
    normal(f"{tower}attn_pool.latent", 1, 1, VISION, scale=1.0)  # a pooling head that Janus has and never uses
    linear(f"{tower}attn_pool.q", VISION, VISION)
    linear(f"{tower}attn_pool.kv", 2 * VISION, VISION)

    def residual(name, inputs, outputs):
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", outputs, inputs, 3)
        norm(f"{name}.norm2", outputs)
        conv(f"{name}.conv2", outputs, outputs, 3)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", outputs, inputs, 1)

    def attention(name, width):
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    def middle(name, width):
        residual(f"{name}.mid.0", width, width)
        attention(f"{name}.mid.1", width)
        residual(f"{name}.mid.2", width, width)

    vq = "gen_vision_model."
    conv(f"{vq}encoder.conv_in", BASE, 3, 3)
    width = BASE
    for level, times in enumerate(LEVELS):
        for block in range(2):
            residual(f"{vq}encoder.conv_blocks.{level}.res.{block}", width, BASE * times)
            width = BASE * times
            if level == len(LEVELS) - 1:
                attention(f"{vq}encoder.conv_blocks.{level}.attn.{block}", width)
        if level < len(LEVELS) - 1:
            conv(f"{vq}encoder.conv_blocks.{level}.downsample.conv", width, width, 3)
    middle(f"{vq}encoder", width)
    norm(f"{vq}encoder.norm_out", width)
    conv(f"{vq}encoder.conv_out", LATENT, width, 3)
    conv(f"{vq}decoder.conv_in", width, LATENT, 3)
    middle(f"{vq}decoder", width)
    for place, times in enumerate(reversed(LEVELS)):
        for block in range(3):
            residual(f"{vq}decoder.conv_blocks.{place}.res.{block}", width, BASE * times)
            width = BASE * times
            if place == 0:
                attention(f"{vq}decoder.conv_blocks.{place}.attn.{block}", width)
        if place < len(LEVELS) - 1:
            conv(f"{vq}decoder.conv_blocks.{place}.upsample.conv", width, width, 3)
    norm(f"{vq}decoder.norm_out", width)
    conv(f"{vq}decoder.conv_out", 3, width, 3)
    conv(f"{vq}quant_conv", CODE_WIDTH, LATENT, 1)
    conv(f"{vq}post_quant_conv", LATENT, CODE_WIDTH, 1)
    normal(f"{vq}quantize.embedding.weight", CODES, CODE_WIDTH, scale=3.0)  # rows of very different length
    out[f"{vq}quantize.codebook_used"] = torch.zeros(64)
    return out


# ------------------------------------------------------------------ what it computes


def _linear(t, name, x):
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def _mlp(t, first, second, x):
    return _linear(t, second, F.gelu(_linear(t, first, x)))


def _rms(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def trunk(t, x_BSD: torch.Tensor) -> torch.Tensor:
    """The language model's states after the final norm."""
    B, S, D = x_BSD.shape
    d = D // HEADS
    angle = torch.arange(S)[:, None] * 10000.0 ** (-torch.arange(0, d, 2) / d)[None, :]
    cos, sin = (f(torch.cat([angle, angle], 1)) for f in (torch.cos, torch.sin))

    def turn(x):  # rotary embedding: the two halves of a head are the two coordinates
        a, b = x[..., : d // 2], x[..., d // 2 :]
        return x * cos + torch.cat([-b, a], -1) * sin

    x = x_BSD
    for i in range(LAYERS):
        layer = f"language_model.model.layers.{i}."
        h = _rms(x, t[f"{layer}input_layernorm.weight"])
        q, k, v = ((h @ t[f"{layer}self_attn.{n}_proj.weight"].T).view(B, S, HEADS, d).transpose(1, 2) for n in "qkv")
        scores = turn(q) @ turn(k).transpose(-1, -2) / d**0.5
        scores = scores.masked_fill(torch.ones(S, S).triu(1).bool(), -torch.inf)
        x = x + (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, S, D) @ t[f"{layer}self_attn.o_proj.weight"].T
        h = _rms(x, t[f"{layer}post_attention_layernorm.weight"])
        gate, up = (h @ t[f"{layer}mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (F.silu(gate) * up) @ t[f"{layer}mlp.down_proj.weight"].T
    return _rms(x, t["language_model.model.norm.weight"])


def states(t, ids_BP: torch.Tensor, image_tokens_BT: torch.Tensor) -> torch.Tensor:
    """The states that predict each image token after a prompt."""
    codes = _mlp(t, "gen_aligner.layers.0", "gen_aligner.layers.2", t["gen_embed.weight"][image_tokens_BT[:, :-1]])
    h = trunk(t, torch.cat([t["language_model.model.embed_tokens.weight"][ids_BP], codes], 1))
    return h[:, -image_tokens_BT.shape[1] :]


def image_logits(t, h):
    return _mlp(t, "gen_head.output_mlp_projector", "gen_head.vision_head", h)


def picture_features(t, pixels_B3HW: torch.Tensor) -> torch.Tensor:
    """What the understanding side reads of a picture: SigLIP, then the aligner."""
    tower = "vision_model.vision_tower."
    x = (
        F.conv2d(pixels_B3HW, t[f"{tower}patch_embed.proj.weight"], t[f"{tower}patch_embed.proj.bias"], stride=PATCH)
        .flatten(2)
        .transpose(1, 2)
    )
    x = x + t[f"{tower}pos_embed"]
    B, N, D = x.shape

    def layer_norm(name, x):
        return F.layer_norm(x, (D,), t[f"{name}.weight"], t[f"{name}.bias"], eps=1e-6)

    for i in range(BLOCKS):
        block = f"{tower}blocks.{i}."
        qkv = _linear(t, f"{block}attn.qkv", layer_norm(f"{block}norm1", x)).view(
            B, N, 3, VISION_HEADS, D // VISION_HEADS
        )
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) / (D // VISION_HEADS) ** 0.5).softmax(-1) @ v
        x = x + _linear(t, f"{block}attn.proj", mixed.transpose(1, 2).reshape(B, N, D))
        x = x + _mlp(t, f"{block}mlp.fc1", f"{block}mlp.fc2", layer_norm(f"{block}norm2", x))
    return _mlp(t, "aligner.layers.0", "aligner.layers.2", layer_norm(f"{tower}norm", x))


def _conv(t, name, x, **how):
    return F.conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"], **how)


def _norm(t, name, x):
    return F.group_norm(x, 32, t[f"{name}.weight"], t[f"{name}.bias"], eps=1e-6)


def _residual(t, name, x):
    h = _conv(t, f"{name}.conv1", F.silu(_norm(t, f"{name}.norm1", x)), padding=1)
    h = _conv(t, f"{name}.conv2", F.silu(_norm(t, f"{name}.norm2", h)), padding=1)
    return h + (_conv(t, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in t else x)


def _attention(t, name, x):
    B, C, H, W = x.shape
    h = _norm(t, f"{name}.norm", x)
    q, k, v = (_conv(t, f"{name}.{part}", h).flatten(2) for part in "qkv")
    weights = (q.transpose(1, 2) @ k / C**0.5).softmax(-1)
    return x + _conv(t, f"{name}.proj_out", (v @ weights.transpose(1, 2)).view(B, C, H, W))


def _middle(t, name, x):
    return _residual(t, f"{name}.mid.2", _attention(t, f"{name}.mid.1", _residual(t, f"{name}.mid.0", x)))


def pixels(t, image_tokens_BT: torch.Tensor) -> torch.Tensor:
    """The picture of a token grid, in about -1..1: codes are normalised, then decoded."""
    vq = "gen_vision_model."
    codes = F.normalize(t[f"{vq}quantize.embedding.weight"], dim=-1)[image_tokens_BT]
    x = _conv(t, f"{vq}post_quant_conv", codes.view(-1, GRID, GRID, CODE_WIDTH).permute(0, 3, 1, 2))
    x = _middle(t, f"{vq}decoder", _conv(t, f"{vq}decoder.conv_in", x, padding=1))
    for place in range(len(LEVELS)):
        for block in range(3):
            x = _residual(t, f"{vq}decoder.conv_blocks.{place}.res.{block}", x)
            if place == 0:
                x = _attention(t, f"{vq}decoder.conv_blocks.{place}.attn.{block}", x)
        if place < len(LEVELS) - 1:
            x = _conv(t, f"{vq}decoder.conv_blocks.{place}.upsample.conv", F.interpolate(x, scale_factor=2), padding=1)
    return _conv(t, f"{vq}decoder.conv_out", F.silu(_norm(t, f"{vq}decoder.norm_out", x)), padding=1)


def picture_tokens(t, pixels_B3HW: torch.Tensor) -> torch.Tensor:
    """The tokens of a picture: the nearest code in direction, both sides normalised."""
    vq = "gen_vision_model."
    x = _conv(t, f"{vq}encoder.conv_in", pixels_B3HW, padding=1)
    for level in range(len(LEVELS)):
        for block in range(2):
            x = _residual(t, f"{vq}encoder.conv_blocks.{level}.res.{block}", x)
            if level == len(LEVELS) - 1:
                x = _attention(t, f"{vq}encoder.conv_blocks.{level}.attn.{block}", x)
        if level < len(LEVELS) - 1:
            x = _conv(t, f"{vq}encoder.conv_blocks.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
    x = _conv(
        t, f"{vq}encoder.conv_out", F.silu(_norm(t, f"{vq}encoder.norm_out", _middle(t, f"{vq}encoder", x))), padding=1
    )
    z = F.normalize(_conv(t, f"{vq}quant_conv", x).flatten(2).transpose(1, 2), dim=-1)
    return (z @ F.normalize(t[f"{vq}quantize.embedding.weight"], dim=-1).T).argmax(-1)


# ------------------------------------------------------------------ files


CONFIG = {  # as the 7B model's, with sizes left to defaults
    "architectures": ["MultiModalityCausalLM"],
    "model_type": "multi_modality",
    "torch_dtype": "bfloat16",
    "language_config": {
        "model_type": "llama",
        "max_position_embeddings": 16384,
        "num_hidden_layers": LAYERS,
        "vocab_size": ROWS,
    },
    "vision_config": {
        "cls": "CLIPVisionTower",
        "params": {"image_size": PATCH * GRID, "model_name": "siglip_large_patch16_384", "select_layer": -1},
    },
    "aligner_config": {"cls": "MlpProjector", "params": {"depth": 2, "input_dim": VISION, "n_embed": WIDTH}},
    "gen_vision_config": {"cls": "VQ-16", "params": {"image_token_size": CODES, "n_embed": CODE_WIDTH}},
    "gen_aligner_config": {"cls": "MlpProjector", "params": {"depth": 2, "input_dim": CODE_WIDTH, "n_embed": WIDTH}},
    "gen_head_config": {
        "cls": "vision_head",
        "params": {"image_token_embed": WIDTH, "image_token_size": CODES, "n_embed": WIDTH},
    },
}


def write(folder, t: dict[str, torch.Tensor], shards: int = 2):
    """The checkpoint as a folder, in `shards` files (1: without an index), with a tokenizer whose class, not whose
    file, adds the first token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True)
    names = list(t)
    files = {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin" if shards > 1 else "pytorch_model.bin"
        mine = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        torch.save({name: t[name] for name in mine}, folder / file)
        files |= dict.fromkeys(mine, file)
    if shards > 1:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([BOS, EOS, PAD, BLANK, IMAGE, BOI, EOI, "<|User|>", "<|Assistant|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "config.json": CONFIG,
        "tokenizer_config.json": {
            "add_bos_token": True,
            "tokenizer_class": "LlamaTokenizerFast",
            "model_max_length": 16384,
        },
        "special_tokens_map.json": {"bos_token": BOS, "eos_token": {"content": EOS}, "pad_token": PAD},
        "preprocessor_config.json": {
            "image_size": PATCH * GRID,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "min_size": 14,
        },
    }
    for file, content in about.items():
        (folder / file).write_text(json.dumps(content))
    return folder
