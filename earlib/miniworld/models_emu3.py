"""The shape of MiniEmu3, the second architecture at mini scale: an `Emu3ForConditionalGeneration`, its tokenizer and
processor, built empty.

It has MiniJanus's width and depth and draws the same 12 x 12 image tokens, but reads and writes words and pictures with
one vocabulary, ends every row of a picture with a token, and shares keys and values between heads. Nothing else in the
library knows that it is small.
"""

from __future__ import annotations

from .captions import vocabulary
from .models import CODE_DIM, CODES, GRID, HEAD_DIM, LAYERS, MLP, PATCH, WIDTH

SPECIAL = {  # role -> its name in Emu3's own vocabulary, by which transformers finds it
    "pad": "<|endoftext|>",
    "bos": "<|extra_203|>",
    "eos": "<|extra_204|>",
    "image": "<image>",
    "boi": "<|image start|>",
    "eoi": "<|image end|>",
    "image_wrapper": "<|image token|>",
    "eof": "<|extra_201|>",
    "eol": "<|extra_200|>",
    "unk": "<unk>",  # Emu3 spells every word; a vocabulary of words cannot
}
ROLES = ("USER:", "ASSISTANT:")
CHAT_TEMPLATE = (  # Emu3's conversation format, for questions about a picture
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' "
    "%}ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] + ' ' }}{% "
    "endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_tokenizer(codes=CODES, words=None):
    """A tokenizer over `words` (by default MiniWorld's), single digits (an image's header holds its size), and `codes`
    image tokens; unknown words become `<unk>`."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*SPECIAL.values(), *ROLES, *(f"<|visual token {code:06d}|>" for code in range(codes))]
    tokens = dict.fromkeys([*names, *"0123456789*", *(words or vocabulary())])
    tok = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=SPECIAL["unk"]))
    tok.normalizer = normalizers.Lowercase()
    tok.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"[a-z0-9]+(?:-[a-z0-9]+)+|[a-z]+|[0-9]|[^\sa-z0-9]"), "removed", invert=True
    )
    tok.add_special_tokens(names)
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        **{f"{role}_token": SPECIAL[role] for role in ("unk", "pad", "bos", "eos")},
        padding_side="left",
        extra_special_tokens={
            f"{role}_token": SPECIAL[role] for role in ("image", "boi", "eoi", "image_wrapper", "eof")
        },
    )


def build_processor(codes=CODES, grid=(GRID, GRID), words=None):
    """Tokenizer, picture preprocessing and chat template in one `Emu3Processor` that asks for pictures of `grid` (rows,
    columns)."""
    from transformers import Emu3Processor
    from transformers.models.emu3.image_processing_emu3 import Emu3ImageProcessor

    half = [0.5, 0.5, 0.5]  # the class's default is CLIP's statistics, which would shift every colour
    images = Emu3ImageProcessor(image_mean=half, image_std=half, spatial_factor=PATCH, min_pixels=PATCH**2)
    processor = Emu3Processor(images, build_tokenizer(codes, words), chat_template=CHAT_TEMPLATE)
    rows, columns = grid
    processor.ratio, processor.image_area = f"{columns}:{rows}", rows * columns * processor.downsample_ratio**2
    return processor


def emu3_config(
    processor, width=WIDTH, layers=LAYERS, head_dim=HEAD_DIM, kv_heads=1, mlp=MLP, codes=CODES, vq_channels=32
):
    """Configuration of a small Emu3; the defaults are MiniEmu3. Tests build smaller ones."""
    from transformers import Emu3Config, Emu3TextConfig, Emu3VQVAEConfig

    tokenizer = processor.tokenizer
    text = Emu3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=width // head_dim,
        num_key_value_heads=kv_heads,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attention_dropout=0.0,
    )
    vq = Emu3VQVAEConfig(
        codebook_size=codes,
        embed_dim=CODE_DIM,
        latent_channels=CODE_DIM,  # the decoder lays codes and latents side by side: they must be equally wide
        base_channels=vq_channels,
        channel_multiplier=[1, 1, 2],  # two halvings: one token covers 4 x 4 pixels
        hidden_size=2 * vq_channels,  # of the attention in the middle: the widest level
        num_res_blocks=1,
        attn_resolutions=[],
        temporal_downsample_factor=1,  # pictures, no films
    )
    config = Emu3Config(text_config=text, vq_config=vq, vocabulary_map=tokenizer.get_vocab())
    config.image_area = processor.image_area  # where Emu3's authors keep it; a processor does not save it
    return config


def build_emu3(processor, **shape):
    """An untrained Emu3 of `emu3_config(processor, **shape)`, float32, ready to draw."""
    from transformers import Emu3ForConditionalGeneration, GenerationConfig

    model = Emu3ForConditionalGeneration(emu3_config(processor, **shape))
    special = {key: getattr(processor.tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(guidance_scale=3.0, do_sample=True, **special)
    return model.eval()
