"""What a model takes in memory: weights, cache, drawing, training. Arithmetic on a model's sizes; nothing is loaded or
trained here.

All amounts are bytes. `Sizes` describes a model; it can be read from a model on torch's meta device, so that everything
is known before a weight is touched. Where the weights come from is in `generators/load.py`; how much is free is in
`device.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    from .generators.base import NextToken

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
RESERVE = 500_000_000  # workspaces of the kernels, and what the allocator cannot hand out again
PROMPT = 64  # positions of a prompt where its length is not known yet
WINDOW = 48  # the paper's window for objects
BUCKET = 128  # slots by which a recorded step sees more keys and values; reading wastes at most as many
SPARE = 4  # slots that the steps before a recording may write to
PIXEL_COPIES = 8  # full-size feature maps at the peak of the picture decoder
PIXEL_TENSORS = 3  # of them a residual block's; the others are the convolutions' workspace, which differs by GPU


@dataclass(frozen=True)
class Sizes:
    """What memory depends on."""

    draw_parameters: int  # what drawing needs: language model, image embedding and head, picture tokenizer
    caption_parameters: int  # what only captions need: vision tower, aligner, text head
    layers: int
    width: int
    mlp: int  # width of the gated MLP
    query_width: int  # heads x width of a head
    cache_width: int  # key/value heads x width of a head
    image_tokens: int
    codes: int
    pixel_floats: int  # numbers in one full-size feature map of the picture decoder


# Janus-Pro, so that doctor and the advice of an error need not build anything; a test holds them to the class itself.
KNOWN = {
    "janus-pro-1b": Sizes(1_556_937_355, 519_699_456, 24, 2048, 5632, 2048, 2048, 576, 16384, 18_874_368),
    "janus-pro-7b": Sizes(6_663_674_507, 744_098_816, 30, 4096, 11008, 4096, 4096, 576, 16384, 18_874_368),
}


def sizes_of(model: Any, image_tokens: int, codes: int, caption_parts: tuple[str, ...] = ()) -> Sizes:
    """Sizes of a transformers model, on the meta device or not; tensors whose names begin with one of `caption_parts`
    only serve captions."""
    counts = {True: 0, False: 0}
    for name, tensor in model.state_dict().items():
        counts[name.startswith(caption_parts)] += tensor.numel()
    text, vq = model.config.get_text_config(), model.config.vq_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Sizes(
        draw_parameters=counts[False],
        caption_parameters=counts[True],
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        mlp=text.intermediate_size,
        query_width=head * text.num_attention_heads,
        cache_width=head * text.num_key_value_heads,
        image_tokens=image_tokens,
        codes=codes,
        pixel_floats=vq.base_channels
        * image_tokens
        * 4 ** (len(vq.channel_multiplier) - 1),  # each level halves the side
    )


def sizes_of_generator(generator: NextToken) -> Sizes:
    """Sizes of a loaded generator."""
    return sizes_of(generator.model, generator.num_codes, generator.codebook_size)


def bytes_of(dtype: Any) -> int:
    """Bytes of one number of a dtype, torch's or its name."""
    return BYTES[str(dtype).removeprefix("torch.")]


# ------------------------------------------------------------------ what is taken


def weight_bytes(sizes: Sizes, dtype: Any, parts: str = "draw") -> int:
    """The weights themselves; `parts` "draw" leaves out what only captions need."""
    return bytes_of(dtype) * (sizes.draw_parameters + (sizes.caption_parameters if parts == "all" else 0))


def cache_bytes(sizes: Sizes, dtype: Any, rows: int, positions: int) -> int:
    """Keys and values of `rows` sequences of `positions` tokens in all layers."""
    return bytes_of(dtype) * rows * positions * sizes.layers * 2 * sizes.cache_width


def slots(positions: int) -> int:
    """Slots of a cache for drawing that holds so many positions: whole buckets."""
    return -(-positions // BUCKET) * BUCKET


def _layer_bytes(sizes: Sizes, dtype: Any) -> int:
    """Activations that one decoder layer keeps for the backward pass, per token of a row.

    Two norms keep their input in float32; attention keeps queries, keys, values, its output and (for the trained
    projections) its input; the MLP keeps gate, activated gate and up. Frozen matrices keep no input.
    """
    floats = sizes.width + 2 * sizes.query_width + 2 * sizes.cache_width + 3 * sizes.mlp
    return 2 * 4 * sizes.width + bytes_of(dtype) * floats


def picture_bytes(sizes: Sizes, dtype: Any, prompt: int = PROMPT, guided: bool = True) -> int:
    """What one more picture in a batch takes while its tokens are drawn: its rows' cache, their prefill, its logits and
    noise."""
    rows = 2 if guided else 1
    prefill = rows * prompt * _layer_bytes(sizes, dtype)
    logits = 64 * sizes.codes  # both rows in float32, guided, and the noise in 64-bit integers and doubles
    return cache_bytes(sizes, dtype, rows, slots(prompt + sizes.image_tokens + SPARE)) + prefill + logits


def decode_bytes(sizes: Sizes, dtype: Any) -> int:
    """What decoding one picture to pixels takes; the cache of the batch is still held then."""
    return PIXEL_COPIES * bytes_of(dtype) * sizes.pixel_floats


def draw_bytes(sizes: Sizes, dtype: Any, pictures: int = 1, prompt: int = PROMPT, guided: bool = True) -> int:
    """Drawing `pictures` at a time, beside the weights; pixels are decoded one by one if need be."""
    return pictures * picture_bytes(sizes, dtype, prompt, guided) + decode_bytes(sizes, dtype) + RESERVE


def kernel_bytes(sizes: Sizes, dtype: Any) -> int:
    """What of `draw_bytes` no tensor takes: it is kept for the kernels, whose need no arithmetic tells. Of
    `train_bytes` that is `RESERVE`."""
    return RESERVE + decode_bytes(sizes, dtype) * (PIXEL_COPIES - PIXEL_TENSORS) // PIXEL_COPIES


def train_bytes(
    sizes: Sizes,
    dtype: Any,
    trained: int,
    window: int = WINDOW,
    rows: int = 2,
    logits: bool = False,
    prompt: int = PROMPT,
) -> int:
    """Training `trained` parameters in windows, beside the weights.

    A trained parameter takes 16 bytes (float32 master, gradient and two moments of Adam; a fused step needs no more)
    and a copy in the frozen weights' dtype. An update's `rows` (two for each pair, and the retained pictures) have
    their teacher's targets, a cache, and for one window the activations of all layers; with `logits` also six sets of
    float32 numbers (the teacher's logits, both log-probabilities, and what their divergence is made of) and the
    student's logits. Drawing the trajectories comes first and may want more than that.
    """
    copy = bytes_of(dtype) if bytes_of(dtype) < 4 else 0
    states = trained * (16 + copy)
    targets = rows * sizes.image_tokens * sizes.width * bytes_of(dtype)
    activations = rows * window * sizes.layers * _layer_bytes(sizes, dtype)
    compared = (6 * 4 + bytes_of(dtype)) * rows * sizes.image_tokens * sizes.codes if logits else 0
    cache = cache_bytes(sizes, dtype, rows, prompt + sizes.image_tokens)
    return max(states + targets + activations + compared + cache + RESERVE, draw_bytes(sizes, dtype, 1, prompt))


def matrices(sizes: Sizes) -> dict[str, tuple[int, int]]:
    """(out, in) of the matrices of a decoder layer, by their names in it."""
    d, q, kv, m = sizes.width, sizes.query_width, sizes.cache_width, sizes.mlp
    each = {"self_attn.q_proj": (q, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d)}
    each |= {"self_attn.o_proj": (d, q), "mlp.gate_proj": (m, d), "mlp.up_proj": (m, d), "mlp.down_proj": (d, m)}
    return each


def layer_parameters(sizes: Sizes) -> int:
    """How many numbers the matrices of all decoder layers hold."""
    return sizes.layers * sum(out * into for out, into in matrices(sizes).values())


def trained_parameters(sizes: Sizes, names: list[str], rank: int = 0) -> int:
    """How many parameters are trained in a model of these sizes.

    Args:
        sizes: of the model.
        names: of the matrices that change, `layers.0.self_attn.q_proj.weight`, ...
        rank: 0 for whole matrices, else that of an adapter beside each.
    """
    each = matrices(sizes)
    shapes = [each[".".join(name.split(".")[2:4])] for name in names]
    return sum(rank * (a + b) if rank else a * b for a, b in shapes)


# ------------------------------------------------------------------ what fits


def pictures_that_fit(sizes: Sizes, dtype: Any, free: int, prompt: int = PROMPT, guided: bool = True) -> int:
    """Pictures that can be drawn at a time in `free` bytes beside the weights; 0 if not one fits."""
    return max(0, int(free) - draw_bytes(sizes, dtype, 0, prompt, guided)) // picture_bytes(
        sizes, dtype, prompt, guided
    )


def batch_that_fits(generator: NextToken, prompt: int = PROMPT, guided: bool = True, largest: int = 64) -> int:
    """Pictures that `generator` should draw at a time: what its device has room for now, at most `largest`.

    `prompt` is the longest prompt's length in tokens. Raises UserError if not even one picture fits.
    """
    from .device import free_memory

    free, sizes = free_memory(generator.device), sizes_of_generator(generator)
    if free is None:
        return largest
    fits = pictures_that_fit(sizes, generator.dtype, free, prompt, guided)
    if fits < 1:
        need = draw_bytes(sizes, generator.dtype, 1, prompt, guided)
        raise UserError(
            f"drawing one picture with {generator.name} takes {gigabytes(need)} beside the weights; "
            f"{generator.device} has {gigabytes(free)} free"
        )
    return min(fits, largest)


def decode_chunk_that_fits(generator: NextToken, largest: int = 32) -> int:
    """Pictures to decode to pixels at a time; at least 1."""
    from .device import free_memory

    free = free_memory(generator.device)
    if free is None:
        return largest
    return max(1, min(largest, (free - RESERVE) // decode_bytes(sizes_of_generator(generator), generator.dtype)))


def advice(sizes: Sizes, dtype: Any, free: int) -> str:
    """What would fit into `free` bytes in place of a model of these sizes in `dtype`, for the end of an error's
    line."""
    if bytes_of(dtype) > 2 and to_draw(sizes, "float16") <= free:
        return f"in bfloat16 or float16 (--dtype) it would fit, with {gigabytes(to_draw(sizes, 'float16'))}"
    for name, other in KNOWN.items():
        if other.draw_parameters < sizes.draw_parameters and to_draw(other, "float16") <= free:
            return f"{name} in 16-bit numbers would fit, with {gigabytes(to_draw(other, 'float16'))}"
    return "only the mini model would fit (--model mini), or another --device"


def to_draw(sizes: Sizes, dtype: Any, pictures: int = 1, parts: str = "draw") -> int:
    """Weights and drawing together."""
    return weight_bytes(sizes, dtype, parts) + draw_bytes(sizes, dtype, pictures)


def to_train(sizes: Sizes, dtype: Any, trained: int, window: int = WINDOW) -> int:
    """Weights and training, in EAR's way (one pair at a time, hidden states), together."""
    return weight_bytes(sizes, dtype) + train_bytes(sizes, dtype, trained, window)


def gigabytes(count: int) -> str:
    """14419000000 -> "14.4 GB"."""
    return f"{count / 1e9:.1f} GB"


def amount(count: int) -> str:
    """589824 -> "589.8 kB", 12345678 -> "12.3 MB"; from 1 GB on as `gigabytes`."""
    small = f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"
    return small if count < 1e9 else gigabytes(count)
