"""The shapes of the mini models: MiniJanus, its tokenizer and processor, built empty.

MiniJanus is a `JanusForConditionalGeneration` like Janus-Pro, only small: 48-pixel pictures, a 12 x 12 grid of image
tokens, 1,024 codes, 8 decoder layers of width 192. Nothing else in the library knows that it is small.
"""

from __future__ import annotations

from .captions import vocabulary
from .scenes import PATCH, SIZE

WIDTH, LAYERS, HEAD_DIM, MLP = 192, 8, 64, 512
CODES, CODE_DIM = 1024, 8
GRID = SIZE // PATCH
# at which they draw: chosen for MiniJanus, on other prompts than the table of quality has
GUIDANCE, TEMPERATURE = 1.5, 0.8
SPECIAL = {
    "unk": "<unk>",
    "pad": "<pad>",
    "bos": "<s>",
    "eos": "</s>",
    "boi": "<begin_of_image>",
    "eoi": "<end_of_image>",
    "image": "<image_placeholder>",
}
ROLES = ("<|User|>:", "<|Assistant|>:")
CHAT_TEMPLATE = (  # Janus-Pro's own conversation format, shortened to what the library uses
    "{% for message in messages %}{% if message['role'] == 'user' %}<|User|>:{% else %}<|Assistant|>:{% endif %} "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image_placeholder>\n{% else %}{{ "
    "part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'user' %}\n\n{% else %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)


def build_tokenizer(words=None):
    """A word-level tokenizer over `words`, or over MiniWorld's vocabulary; unknown words become `<unk>`."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = [*SPECIAL.values(), *ROLES, *(words or vocabulary())]
    tok = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=SPECIAL["unk"]))
    tok.normalizer = normalizers.Lowercase()
    tok.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z0-9]+(?:-[a-z0-9]+)*|[^\sa-z0-9]"), "removed", invert=True)
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokens.index("<s>"))])
    tok.add_special_tokens([*SPECIAL.values(), *ROLES])
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        unk_token=SPECIAL["unk"],
        pad_token=SPECIAL["pad"],
        bos_token=SPECIAL["bos"],
        eos_token=SPECIAL["eos"],
        padding_side="left",
        extra_special_tokens={
            "image_token": SPECIAL["image"],
            "boi_token": SPECIAL["boi"],
            "eoi_token": SPECIAL["eoi"],
        },
    )


def build_processor(words=None):
    """Tokenizer (over `words`, or MiniWorld's), picture preprocessing and chat template in one `JanusProcessor`."""
    from transformers import JanusProcessor
    from transformers.models.janus.image_processing_janus import JanusImageProcessor

    half = [0.5, 0.5, 0.5]  # the class's default is CLIP's statistics, which would shift every colour
    images = JanusImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=half, image_std=half)
    return JanusProcessor(images, build_tokenizer(words), chat_template=CHAT_TEMPLATE, num_image_tokens=GRID * GRID)


def janus_config(
    tokenizer,
    width=WIDTH,
    layers=LAYERS,
    head_dim=HEAD_DIM,
    mlp=MLP,
    codes=CODES,
    grid=GRID,
    vq_channels=32,
    vision_width=128,
):
    """Configuration of a small Janus; the defaults are MiniJanus. Tests build smaller ones."""
    from transformers import JanusConfig, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=width // head_dim,
        num_key_value_heads=width // head_dim,
        head_dim=head_dim,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    vision = JanusVisionConfig(
        hidden_size=vision_width,
        num_hidden_layers=3,
        num_attention_heads=max(1, vision_width // 64),
        image_size=grid * PATCH,
        patch_size=PATCH,
        mlp_ratio=2.0,
        projection_dim=width,
        num_image_tokens=grid * grid,
    )
    vq = JanusVQVAEConfig(
        embed_dim=CODE_DIM,
        num_embeddings=codes,
        latent_channels=64,
        base_channels=vq_channels,
        channel_multiplier=[1, 1, 2],  # two halvings: one token covers 4 x 4 pixels
        num_res_blocks=1,
        num_patches=grid,
        projection_dim=width,
        image_token_embed_dim=width,
    )
    return JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq,
        image_token_id=tokenizer.image_token_id,
        tie_word_embeddings=False,
    )


def build_janus(tokenizer, **shape):
    """An untrained Janus of `janus_config(**shape)`, float32, ready to draw."""
    from torch import nn
    from transformers import GenerationConfig, JanusForConditionalGeneration

    model = JanusForConditionalGeneration(janus_config(tokenizer, **shape))
    for module in model.model.vqmodel.modules():  # the class's own start (normal, 0.02) stalls these
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        guidance_scale=GUIDANCE,
        temperature=TEMPERATURE,
        do_sample=True,
        top_k=0,  # transformers would otherwise cut to the 50 likeliest tokens
        generation_kwargs={"boi_token_id": tokenizer.boi_token_id},
    )
    model.generation_config._from_model_config = False  # or `generation_kwargs` would be lost on reload
    return model.eval()
