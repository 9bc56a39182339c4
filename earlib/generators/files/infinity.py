"""Reading Infinity from the authors' own files into `infinity.py`'s classes. Sizes are read off the tensors; nothing is
fetched.

A folder holds

    infinity_2b_reg.pth        the transformer: a state dict, or a training checkpoint with one in trainer/gpt_fsdp
    infinity_vae_d32reg.pth    the tokenizer: {"vae": state dict}
    flan-t5-xl/                the text encoder, in transformers' layout

(huggingface.co/FoundationVision/Infinity and google/flan-t5-xl). What this module cannot read it says in one line:
other kinds of norm, gate or head, and the tokenizer of Infinity-8B, whose codes stand for two by two cells.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ...errors import UserError
from ...runs import read_json
from ..var.config import NextScaleConfig
from ..var.infinity import SCHEDULE, InfinityGenerator, InfinityModel, InfinityTokenizer, InfinityTrunk, PixelDecoder
from ..weights import combined, tensor_hash, unpickled

TRUNK, VAE = "infinity_[0-9]*b*.pth", "infinity_vae*.pth"
# Rows of a modulation: theirs are two gates, two scales, two shifts; ours scale, shift and gate of self-attention, then
# the same of feed-forward.
ORDER = [2, 4, 0, 3, 5, 1]
TOP = {
    "text_proj_for_sos.ca.mat_kv.weight": "pool_kv.weight",
    "text_proj_for_sos.ca.proj": "pool",
    "text_proj_for_ca": "words",
    "lvl_embed": "level",
    "word_embed": "enter",
    "head_nm.ada_lin.1": "head_modulation",
    "head": "head",
    "cfg_uncond": "uncond",
    "text_norm.weight": "text_norm",
}
BLOCK = {
    "sa.mat_qkv.weight": "self_attention.qkv.weight",
    "sa.proj": "self_attention.out",
    "ca.mat_q": "cross_attention.q",
    "ca.mat_kv.weight": "cross_attention.kv.weight",
    "ca.proj": "cross_attention.out",
    "ca_norm": "cross_norm",
    "ffn.fc1": "ffn.up",
    "ffn.fc2": "ffn.down",
}
NOT_READ = {  # part of a stored name -> what it belongs to, which is not implemented
    "ffn.fcg": "gated feed-forward layers (SwiGLU)",
    "ca_gamma": "gates of cross-attention",
    ".ada_lin": "norms modulated by each block for itself (shared_aln=0)",
    "head.0": "a head of two layers, or one with a norm of its own",
    "norm0_ve": "a norm of the inputs (nm0=1)",
    "class_emb": "classes in place of prompts",
}
# stored there, computed here
TABLES = ("zero_k_bias", "lvl_1L", "attn_bias_for_masking", "Infinity_visible_kvlen", "Infinity_invisible_qlen")
PUBLISHED = "of huggingface.co/FoundationVision/Infinity"


def load_infinity(
    folder: str | Path,
    pixels: int = 1024,
    device: str | None = None,
    dtype: str | None = None,
    resize_down: str = "area",
) -> InfinityGenerator:
    """Load Infinity from the authors' files.

    Args:
        folder: holds the transformer, the tokenizer and T5.
        pixels: the side of the square pictures to draw, 16 times a side of `SCHEDULE`; the published weights know 256,
            512, 768 and 1024.
        device: as in `load_generator`.
        dtype: as in `load_generator`.
        resize_down: how the sum of scales becomes the next scale's input: "area" in the authors' present code,
            "bilinear" in earlier states.

    Raises:
        UserError: something is missing, broken or of a kind that is not implemented.
    """
    from ...device import decide

    place, folder = decide(device, dtype), Path(folder)
    if any(folder.glob("infinity_8b*")) and not any(folder.glob("infinity_2b*")):
        line = f"{folder}: holds Infinity-8B, whose codes stand for two by two cells"
        raise UserError(f"{line}; earlib reads Infinity-2B")
    stored = _trunk_file(_only(folder, TRUNK, f"transformer (infinity_2b_reg.pth {PUBLISHED})"))
    decoder = _decoder(_only(folder, VAE, f"tokenizer (infinity_vae_d32reg.pth {PUBLISHED})"))
    config, sizes = sizes_of(stored, decoder, pixels, resize_down, folder)
    text, words = _text(folder, config.text_width, place)

    with torch.device("meta"):
        trunk = InfinityTrunk(config, None, **sizes)
    tensors = trunk_tensors(stored, config, folder)
    wanted = {name: tuple(t.shape) for name, t in trunk.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            there, here = found.get(name, "missing"), wanted.get(name, "absent")
            line = f"{folder}: {name} is {there} there, and must be {here}"
            raise UserError(f"{line}; the file is damaged or of another model")
    trunk.load_state_dict(
        {name: t.to(place.device, place.dtype, copy=True) for name, t in tensors.items()}, assign=True
    )
    trunk.text = text
    trunk.make_tables(place.device)
    model = InfinityModel(config, trunk, InfinityTokenizer(config, decoder).to(place.device), words)
    mark = combined(tensor_hash(name, t) for name, t in (*tensors.items(), *decoder.state_dict().items()))
    return InfinityGenerator(model, str(folder), "custom", mark)


# ------------------------------------------------------------------ files


def _only(folder: Path, pattern: str, what: str) -> Path:
    """The one file of that pattern."""
    files = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if len(files) != 1:
        found = f"holds {len(files)} files like {pattern}" if files else f"holds no {pattern}"
        raise UserError(f"{folder}: {found}; it must hold one, the {what}")
    return files[0]


def _trunk_file(file: Path) -> dict[str, torch.Tensor]:
    stored = unpickled(file)
    for key in ("trainer", "gpt_fsdp"):
        stored = stored.get(key, stored) if isinstance(stored, dict) else {}
    if "word_embed.weight" not in stored:
        raise UserError(f"{file}: is no transformer of Infinity (it holds no word_embed.weight)")
    return stored


def _decoder(file: Path) -> PixelDecoder:
    """The decoder of the tokenizer in `file`, float32."""
    stored = unpickled(file)
    stored = stored.get("vae", stored) if isinstance(stored, dict) else {}
    inside = {k.removeprefix("decoder."): t for k, t in stored.items() if k.startswith("decoder.")}
    found = {re.sub(r"\.(conv|norm)\.(weight|bias)$", r".\2", k): t for k, t in inside.items()}
    levels = sorted({int(k.split(".")[1]) for k in found if k.startswith("up.")})
    if "conv_in.weight" not in found or not levels:
        raise UserError(f"{file}: is no tokenizer of Infinity (it holds no decoder)")
    channels = tuple(found[f"up.{i}.block.0.conv2.weight"].shape[0] for i in levels)
    blocks = len([k for k in found if re.fullmatch(r"up\.0\.block\.\d+\.conv2\.weight", k)])
    decoder = PixelDecoder(found["conv_in.weight"].shape[1], channels, blocks)
    wanted = decoder.state_dict()
    for name in sorted(wanted.keys() | found.keys()):
        if name not in wanted or name not in found or wanted[name].shape != found[name].shape:
            raise UserError(
                f"{file}: the decoder's {name} is not that of a tokenizer without attention and with {len(levels)} "
                "levels; other kinds are not read"
            )
    decoder.load_state_dict({name: t.float() for name, t in found.items()})
    return decoder


def _text(folder: Path, width: int, place):
    """T5 and its word tokenizer, from the folder below that holds them."""
    from transformers import AutoTokenizer, T5EncoderModel

    for file in sorted(folder.glob("*/config.json")):
        about = read_json(file)
        if about.get("model_type") == "t5":
            if about.get("d_model") != width:
                line = f"{file.parent}: is a T5 of width {about.get('d_model')}"
                raise UserError(f"{line}, and this Infinity reads one of width {width} (flan-t5-xl has 2048)")
            try:
                text = T5EncoderModel.from_pretrained(file.parent, dtype=place.dtype).to(place.device).eval()
                return text, AutoTokenizer.from_pretrained(file.parent)
            except (OSError, ValueError) as error:
                line = f"{file.parent}: cannot be read ({str(error).strip().splitlines()[0]})"
                raise UserError(f"{line}; fetch it again") from None
    raise UserError(f"{folder}: holds no text encoder; put google/flan-t5-xl into {folder / 'flan-t5-xl'}")


# ------------------------------------------------------------------ tensors


def sizes_of(
    stored: dict, decoder: PixelDecoder, pixels: int, resize_down: str, folder: Path
) -> tuple[NextScaleConfig, dict]:
    """The model's configuration, and what else its transformer is made with, read off the shapes of stored tensors."""
    for name in stored:
        for part, what in NOT_READ.items():
            if part in name and "head_nm" not in name and "shared_ada_lin" not in name:
                raise UserError(f"{folder}: has {what} ({name}), which this version cannot read; Infinity-2B has none")
    width, code_width = stored["word_embed.weight"].shape
    z = decoder.conv_in.in_channels
    if code_width == 4 * z:
        line = f"{folder}: codes of {code_width} bits stand for two by two cells of {z} (Infinity-8B's patches)"
        raise UserError(f"{line}, which this version cannot read")
    if code_width != z:
        line = f"{folder}: the transformer's codes have {code_width} bits and the tokenizer's {z}"
        raise UserError(f"{line}; take the tokenizer that belongs to the transformer")
    stages = len(decoder.up) - 1
    side, rest = divmod(pixels, 2**stages)
    if rest or side not in SCHEDULE:
        line = f"Infinity draws pictures of {', '.join(str(s * 2**stages) for s in SCHEDULE[1:])} pixels a side"
        raise UserError(f"{line}, not of {pixels}")
    schedule = SCHEDULE[: SCHEDULE.index(side) + 1]
    names = [name.rpartition(".sa.scale_mul_1H11")[0] for name in stored if name.endswith(".sa.scale_mul_1H11")]
    if not names:
        raise UserError(f"{folder}: has no cosine attention (scale_mul_1H11), which this version expects")
    heads, hidden = stored[f"{names[0]}.sa.scale_mul_1H11"].numel(), stored[f"{names[0]}.ffn.fc1.weight"].shape[0]
    length, text_width = stored["cfg_uncond"].shape
    config = NextScaleConfig(
        image_size=pixels,
        strides=(2,) * stages,
        channels=(z,) * stages,
        schedule=schedule,
        code_width=code_width,
        resize_down=resize_down,
        resize_up="bilinear",
        text_length=length,
        text_width=text_width,
        text_layers=0,
        width=width,
        layers=len(names),
        head_width=width // heads,
        mlp_ratio=hidden / width,
        guidance=4.0,
        temperature=0.5,
    )
    return config, {
        "levels": len(stored["lvl_embed.weight"]),
        "pool_head_width": stored["text_proj_for_sos.ca.mat_q"].shape[-1],
    }


def trunk_tensors(stored: dict, config: NextScaleConfig, folder: Path = Path()) -> dict[str, torch.Tensor]:
    """Rename and rearrange the stored tensors to those of `InfinityTrunk`.

    Infinity has one bias each for queries and values and none for keys; here one bias serves all three, with zeros for
    keys. Its blocks may lie in chunks; here they are counted through.

    Raises:
        UserError: a tensor has no place here.
    """
    found = {m[1] for key in stored if (m := re.match(r"((?:block_chunks\.\d+\.module|blocks)\.\d+)\.", key))}
    numbers = lambda name: [int(n) for n in re.findall(r"\d+", name)]
    blocks = {name: i for i, name in enumerate(sorted(found, key=numbers))}
    shared, pool = "shared_ada_lin.1", "text_proj_for_sos.ca"
    out = {
        "pool_query": stored[f"{pool}.mat_q"].flatten(),
        "pool_kv.bias": _biases(stored, pool, ("", "v")),
        "start": stored["pos_start"].flatten(),
        "modulation.weight": stored[f"{shared}.weight"].unflatten(0, (6, -1))[ORDER].flatten(0, 1),
        "modulation.bias": stored[f"{shared}.bias"].unflatten(0, (6, -1))[ORDER].flatten(),
    }
    used = {f"{pool}.mat_q", f"{pool}.v_bias", "pos_start", f"{shared}.weight", f"{shared}.bias"}
    for name, i in blocks.items():
        out[f"blocks.{i}.self_attention.qkv.bias"] = _biases(stored, f"{name}.sa", ("q", "", "v"))
        out[f"blocks.{i}.cross_attention.kv.bias"] = _biases(stored, f"{name}.ca", ("", "v"))
        out[f"blocks.{i}.self_attention.log_scale"] = stored[f"{name}.sa.scale_mul_1H11"].flatten()
        out[f"blocks.{i}.modulation"] = stored[f"{name}.ada_gss"].reshape(6, -1)[ORDER]
        used |= {f"{name}.{leaf}" for leaf in ("sa.q_bias", "sa.v_bias", "ca.v_bias", "sa.scale_mul_1H11", "ada_gss")}
    for key, tensor in stored.items():
        if key in used or key.endswith(TABLES):
            continue
        block = next((name for name in blocks if key.startswith(f"{name}.")), None)
        inside = key.removeprefix(f"{block}.") if block else key
        parts = [part for part in (BLOCK if block else TOP) if f"{inside}.".startswith(f"{part}.")]
        if not parts:
            line = f"{folder}: holds {key}"
            raise UserError(f"{line}, which has no place in Infinity-2B's transformer as this version knows it")
        ours = (BLOCK if block else TOP)[parts[0]] + inside.removeprefix(parts[0])
        out[f"blocks.{blocks[block]}.{ours}" if block else ours] = tensor
    return out


def _biases(stored: dict, where: str, sides: tuple[str, ...]) -> torch.Tensor:
    """One bias for several matrices, stored there as `q_bias` and `v_bias`; zeros for the side "", which has none."""
    zero = torch.zeros_like(stored[f"{where}.v_bias"])
    return torch.cat([stored[f"{where}.{side}_bias"] if side else zero for side in sides])
