"""A next-scale model behind the `NextScale` protocol: prompts in, codes and pictures out.

Letters: B pictures, P words, L positions of all scales, C bits of a code (bsq), V rows of the codebook (vq), H and W
pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...errors import UserError
from ..base import NextScale, PromptBatch
from ..sampling import guided_rows
from ..weights import fingerprint as of_weights
from .draw import draw_batch


def encode_words(words: Any, prompts: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask, int64 [B, P], always padded on the right to `length`: no prompt sees how long its neighbours are.
    UserError for one that is longer."""
    rows = words(prompts)["input_ids"] if prompts else []
    ids = torch.full((len(rows), length), words.pad_token_id)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        if len(row) > length:
            raise UserError(f"a prompt of {len(row)} words is too long: {length} fit; it begins '{prompts[i][:40]}'")
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return ids, mask


def null_words(words: Any, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt that says nothing, ids and mask [1, P]: a single padding word, whose embedding nothing else trains. It
    does not tell a prompt's length."""
    mask = torch.zeros(1, length, dtype=torch.long)
    mask[:, 0] = 1
    return torch.full((1, length), words.pad_token_id), mask


class NextScaleGenerator(NextScale):
    """A `NextScaleModel` ready to draw. `name` is what the user asked for; `profile` one of `load.PROFILES` or
    "custom".

    `trunk` is the transformer with its text encoder (names of trained tensors are relative to it):
    `blocks.0.cross_attention.q.weight`, `blocks.0.ffn.up.weight`, ...; `quantiser` knows what a code is and what logits
    of it look like.
    """

    def __init__(self, model: Any, name: str = "custom", profile: str = "custom", fingerprint: str | None = None):
        self.model, self.name, self.profile = model.eval(), name, profile
        model.requires_grad_(False)
        self.config, self.trunk, self.tokenizer = model.config, model.trunk, model.tokenizer
        self.quantiser, self.words, self.decoder_layers = model.tokenizer.quantiser, model.words, model.trunk.blocks
        self.guidance, self.temperature = model.config.guidance, model.config.temperature
        self.schedule, self.spans, self.num_codes = model.config.schedule, model.config.spans, model.config.length
        self.code_shape, self.outputs = self.quantiser.code_shape, self.quantiser.outputs
        # a loader gives that of the stored weights, which knows no dtype
        self.fingerprint = fingerprint or of_weights(model)

    @property
    def tokenizer_of_words(self) -> Any:
        return self.words

    # ------------------------------------------------------------------ prompts

    @property
    def word_embeddings(self) -> torch.nn.Embedding:
        return self.trunk.text.word

    def _encode(self, prompts):
        # padded on the right to the model's text length
        ids, mask = encode_words(self.words, prompts, self.config.text_length)
        return PromptBatch(ids.to(self.device), mask.to(self.device), tuple(prompts))

    def null_like(self, batch: PromptBatch) -> PromptBatch:
        """The learned unconditional prompt, as many times as `batch` has rows."""
        ids, mask = null_words(self.words, self.config.text_length)
        ids_BP, mask_BP = (one.repeat(len(batch), 1).to(self.device) for one in (ids, mask))
        return PromptBatch(ids_BP, mask_BP, batch.texts)

    def word_mask(self, batch: PromptBatch) -> torch.Tensor:
        frame = (self.words.pad_token_id, self.words.bos_token_id, self.words.eos_token_id)
        frame = torch.tensor([number for number in frame if number is not None], device=batch.ids_BP.device)
        return batch.mask_BP.bool() & (batch.ids_BP >= 0) & ~torch.isin(batch.ids_BP, frame)

    # ------------------------------------------------------------------ teacher forcing

    def inputs_of(self, codes: torch.Tensor) -> torch.Tensor:
        return self.tokenizer.accumulate(codes.to(self.device))[0].to(self.dtype)

    def logits(self, prompts: PromptBatch, codes: torch.Tensor) -> torch.Tensor:
        inputs_BNC, condition = self.inputs_of(codes), self.trunk.condition(prompts.ids_BP, prompts.mask_BP)
        return self.quantiser.split(self.trunk(condition, inputs_BNC, slice(0, inputs_BNC.shape[1])))

    # ------------------------------------------------------------------ drawing

    def drawer(self, whole: bool = True) -> Callable[..., torch.Tensor]:
        def drawn(prompts, seeds_B, guidance, temperature, given=None, tick=lambda share: None):
            rows = guided_rows(self, prompts, guidance, self.steering)
            codes = draw_batch(self, rows, seeds_B, guidance, temperature, given, self.steering)
            tick(1)
            return codes

        return drawn

    def _logits_along(self, prompts, codes, guidance, null):
        batch, nobodys = self.encode(prompts), torch.zeros(len(prompts), dtype=torch.long)  # seeds: nothing is drawn
        steering = None if null or guidance == 1 else self.steering
        rows = [self.null_like(batch)] if null else guided_rows(self, batch, guidance, steering)
        seen: list[torch.Tensor] = []
        draw_batch(self, rows, nobodys, guidance, 0.0, codes, steering, seen.append)
        logits = torch.cat(seen, 1)
        return logits if self.code_shape else logits[:, :, None]

    # ------------------------------------------------------------------ pictures

    def _paint(self, codes):
        pixels_BHW3 = self.tokenizer.rebuild(codes).permute(0, 2, 3, 1)
        return ((pixels_BHW3.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def _spell(self, images_BHW3):
        size = self.config.image_size
        if images_BHW3.shape[1:3] != (size, size):
            raise UserError(f"pictures must be uint8 [N, {size}, {size}, 3]; got {list(images_BHW3.shape)}")
        pixels_B3HW = images_BHW3.permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.tokenizer.tokenize(pixels_B3HW.to(self.dtype))
