"""Janus behind the `Generator` interface: transformers' `JanusForConditionalGeneration`, of any size.

The prompt format, the null prompt and greedy tokens are those of transformers' own `generate(generation_mode="image")`;
a test compares them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..errors import UserError
from ..memory import decode_chunk_that_fits
from .base import NextToken, Past, PromptBatch
from .profiles import FAMILIES
from .weights import fingerprint

# what captions need may be missing; the codebook is normalised on loading
NOT_HASHED = (*FAMILIES["janus"].caption_parts, "model.vqmodel.quantize.")


class JanusGenerator(NextToken):
    """A Janus model with its processor. `name` is what the user asked for; `profile` one of the known scales or
    "custom"."""

    def __init__(self, model: Any, processor: Any, name: str = "custom", profile: str = "custom"):
        self.model, self.processor, self.name, self.profile = model.eval(), processor, name, profile
        self.tokenizer = processor.tokenizer
        self.tokenizer.padding_side = "left"  # whatever the folder says: a picture follows its prompt at once
        self.tokenizer.model_input_names = ["input_ids", "attention_mask"]
        if not processor.chat_template:
            raise UserError(f"{name} has no conversation format (chat_template.jinja); fetch the whole model")
        self.trunk = model.model.language_model
        self.decoder_layers = self.trunk.layers
        side = model.config.vq_config.num_patches
        self.grid, self.codebook_size = (side, side), model.config.vq_config.num_embeddings
        self.guidance = float(model.generation_config.guidance_scale or 5.0)  # 5 is Janus's own default
        self.temperature = float(model.generation_config.temperature or 1.0)
        model.requires_grad_(False)
        codebook = model.model.vqmodel.quantize.embedding.weight
        with torch.no_grad():  # `decode` normalises a code before use, `encode` does not: make them agree
            codebook.copy_(normalised(codebook))
        self.fingerprint = fingerprint(model, NOT_HASHED)

    # ------------------------------------------------------------------ prompts

    def _chat(self, text: str, image: bool = False) -> str:
        content = ([{"type": "image"}] if image else []) + [{"type": "text", "text": text}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def _encode(self, prompts):
        texts = [self._chat(p) for p in prompts]
        out = self.processor(text=texts, generation_mode="image", padding=True, return_tensors="pt")
        return PromptBatch(out["input_ids"].to(self.device), out["attention_mask"].to(self.device), tuple(prompts))

    def null_like(self, batch: PromptBatch) -> PromptBatch:
        # Every token but the first and the begin-of-image becomes padding that IS attended to: so Janus was trained.
        keep = (batch.ids_BP == self.tokenizer.bos_token_id) | (batch.ids_BP == self.boi_token_id)
        return PromptBatch(torch.where(keep, batch.ids_BP, self.blank_token_id), batch.mask_BP, batch.texts)

    @property
    def blank_token_id(self) -> int:
        """What stands for a blanked word. Janus-Pro has a token of its own for it, which need not be the one its
        tokenizer pads with."""
        blank = self.model.generation_config.pad_token_id
        return self.tokenizer.pad_token_id if blank is None else blank

    @property
    def boi_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.processor.image_start_token)

    # ------------------------------------------------------------------ drawing

    def hidden_states(
        self, prompts: PromptBatch, image_tokens_BT: torch.Tensor, past: Past | None = None
    ) -> torch.Tensor:
        embed = self.embed_image_tokens
        T = image_tokens_BT.shape[1]
        words_BS = None
        if past is None or past.pending_B1 is None:
            words_BS = F.pad(self.word_mask(prompts), (0, T - 1))
            parts = [self.model.get_input_embeddings()(prompts.ids_BP)]
            if T > 1:
                parts.append(embed(image_tokens_BT[:, :-1]))
            inputs_BSD = torch.cat(parts, 1)
        else:  # the prompt and all tokens but the last are in the cache
            inputs_BSD = embed(torch.cat([past.pending_B1, image_tokens_BT[:, :-1]], 1))
        read = (past.length if past else 0) + T - 1
        mask_BS = F.pad(prompts.mask_BP, (0, read), value=1)
        cache = past.cache if past is not None else None
        with self.reading(words_BS, prompts.texts):
            out = self.trunk(
                inputs_embeds=inputs_BSD, attention_mask=mask_BS, past_key_values=cache, use_cache=past is not None
            )
        if past is not None:
            past.cache, past.pending_B1, past.length = out.past_key_values, image_tokens_BT[:, -1:], past.length + T
        return out.last_hidden_state[:, -T:]

    def embed_image_tokens(self, image_tokens_BS: torch.Tensor) -> torch.Tensor:
        return self.model.prepare_embeddings_for_image_generation(image_tokens_BS)

    def image_logits(self, h_BTD: torch.Tensor) -> torch.Tensor:
        return self.model.model.generation_head(h_BTD)

    # ------------------------------------------------------------------ pictures

    def _pictures_at_a_time(self) -> int:
        return decode_chunk_that_fits(self)

    def _paint(self, codes):
        return ((self.model.decode_image_tokens(codes).float() + 1) * 127.5).clamp(0, 255).to(torch.uint8)

    def _pixels(self, images_BHW3: torch.Tensor) -> torch.Tensor:
        """Pictures as the model reads them: [B, 3, H, W] from -1 to 1."""
        return (images_BHW3.permute(0, 3, 1, 2).float() / 127.5 - 1).to(self.device, self.dtype)

    def _spell(self, images_BHW3):
        return self.model.model.vqmodel.encode(self._pixels(images_BHW3)).image_tokens.view(len(images_BHW3), -1)

    def _ask(self, question):
        if self.model.lm_head is None:
            line = f"{self.name} was loaded without the parts that captions need"
            raise UserError(f"{line}; load it with load_generator(..., parts='all')")
        start, body, end = (getattr(self.processor, f"image_{part}token") for part in ("start_", "", "end_"))
        image = start + body * self.processor.num_image_tokens + end
        text = self._chat(question, image=True).replace(body, image)
        return self.tokenizer(text, return_tensors="pt")["input_ids"][0]

    def _answer(self, ids_BP, images_BHW3, **settings):
        return self.model.generate(ids_BP, pixel_values=self._pixels(images_BHW3), **settings)


def normalised(codebook: torch.Tensor) -> torch.Tensor:
    """Codes [K, E] at length 1. Those that have it already stay as they are, to the last bit, so that a model which was
    saved and loaded again paints the same pictures."""
    length = codebook.double().norm(dim=-1, keepdim=True)
    there = (length - 1).abs() <= 2 * torch.finfo(codebook.dtype).eps
    return torch.where(there, codebook, F.normalize(codebook.float(), dim=-1).to(codebook.dtype))
