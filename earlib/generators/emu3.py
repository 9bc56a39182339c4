"""Emu3 behind the `Generator` interface: transformers' `Emu3ForConditionalGeneration`, of any size.

Emu3 has one vocabulary and one head for words and pictures, and it ends every row of a picture with a token of its own
that nobody chooses. Those line ends live in this file only: samplers and trainers see rows x columns image tokens,
numbered as in the codebook. Greedy tokens are those of transformers' own `generate` with the constraint and the
negative prompt of its documentation; a test compares them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..errors import UserError
from .base import NextToken, Past, PromptBatch
from .weights import fingerprint


def question_ids(processor: Any, grid: tuple[int, int], question: str) -> torch.Tensor:
    """A question about a picture in Emu3's conversation format, int64 [P]; the processor's image tokens stand where
    those of the picture of `grid` (rows, columns) go, each row with its end."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    system = {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]}
    text = processor.apply_chat_template([system, {"role": "user", "content": content}], add_generation_prompt=True)
    rows, columns = grid
    image = f"{processor.image_start_token}{rows}*{columns}{processor.fake_token_around_image}"
    image += processor.image_token * (rows * (columns + 1))
    image += f"{processor.eof_token}{processor.image_end_token}"
    text = processor.bos_token + text.replace(processor.image_token, image)
    return processor.tokenizer(text, return_tensors="pt")["input_ids"][0]


class Emu3Generator(NextToken):
    """An Emu3 model with its processor. `name` is what the user asked for; `profile` one of the known scales or
    "custom".

    Pictures have the size that `image_area` asks for: the model's configuration has it, as in the authors' own layout,
    else the processor (720 x 720 pixels). The unconditional rows read `null_prompt` before the header of an image. It
    is empty here; the authors' example names flaws to avoid instead, at the same guidance of 3, and keeps the 2048
    likeliest tokens where this library keeps all.
    """

    def __init__(
        self, model: Any, processor: Any, name: str = "custom", profile: str = "custom", null_prompt: str = ""
    ):
        self.model, self.processor, self.name, self.profile = model.eval(), processor, name, profile
        self.tokenizer = processor.tokenizer
        self.tokenizer.padding_side = "left"
        self.trunk = model.model.text_model
        self.decoder_layers = self.trunk.layers
        # older transformers keep neither with the processor
        self.ratio = getattr(processor, "ratio", "1:1")
        self.area = processor.image_area = getattr(model.config, "image_area", getattr(processor, "image_area", 720**2))
        self.grid = processor.calculate_generate_size(self.ratio, self.area, processor.downsample_ratio)
        self.codebook_size = model.config.vq_config.codebook_size
        self.guidance = float(model.generation_config.guidance_scale or 3.0)
        self.temperature = float(model.generation_config.temperature or 1.0)
        model.requires_grad_(False)
        self.line_end_id = model.model.vocabulary_mapping.eol_token_id
        self.code_ids_V = self._code_ids().to(self.device)
        in_a_row = bool((self.code_ids_V.diff() == 1).all())  # as published; then a slice of the head copies nothing
        self.head_rows = slice(int(self.code_ids_V[0]), int(self.code_ids_V[-1]) + 1) if in_a_row else self.code_ids_V
        self.null_ids_N = self._header([null_prompt])["input_ids"][0].to(self.device)
        self.fingerprint = fingerprint(model)

    def _code_ids(self) -> torch.Tensor:
        """The vocabulary's id of every codebook entry, int64 [V]."""
        ids = self.model.model.vocabulary_mapping.img2bpe
        if sorted(ids) != list(range(self.codebook_size)):
            line = f"{self.name} is no whole Emu3: {len(ids)} image tokens in its vocabulary"
            raise UserError(f"{line}, {self.codebook_size} in its codebook")
        return torch.tensor([ids[code] for code in range(self.codebook_size)])

    # ------------------------------------------------------------------ prompts

    def _header(self, prompts: list[str]):
        """Prompts as Emu3 wants them, unadorned, each with the header of an image: its beginning, `rows*columns`, and
        where the tokens follow."""
        asked = dict(return_for_image_generation=True, ratio=self.ratio, image_area=self.area)
        return self.processor(text=prompts, padding=True, return_tensors="pt", **asked)

    def _encode(self, prompts):
        out = self._header(prompts)
        batch = PromptBatch(out["input_ids"].to(self.device), out["attention_mask"].to(self.device), tuple(prompts))
        P = batch.ids_BP.shape[1]
        if len(self.null_ids_N) > P:  # a null prompt that is longer than all of them
            room = (len(self.null_ids_N) - P, 0)
            ids_BP = F.pad(batch.ids_BP, room, value=self.tokenizer.pad_token_id)
            batch = PromptBatch(ids_BP, F.pad(batch.mask_BP, room), batch.texts)
        return batch

    def null_like(self, batch: PromptBatch) -> PromptBatch:
        # Another prompt with the same header, left-padded to the same length; what is padding is not attended to.
        ids_BP = torch.full_like(batch.ids_BP, self.tokenizer.pad_token_id)
        mask_BP = torch.zeros_like(batch.mask_BP)
        ids_BP[:, -len(self.null_ids_N) :] = self.null_ids_N
        mask_BP[:, -len(self.null_ids_N) :] = 1
        return PromptBatch(ids_BP, mask_BP, batch.texts)

    # ------------------------------------------------------------------ drawing

    def positions(self, image_tokens: int) -> int:
        """Positions that so many image tokens take (an int or a tensor), with the ends of the rows that they
        complete."""
        return image_tokens + image_tokens // self.grid[1]

    def hidden_states(
        self, prompts: PromptBatch, image_tokens_BT: torch.Tensor, past: Past | None = None
    ) -> torch.Tensor:
        T, given = image_tokens_BT.shape[1], past.length if past is not None else 0
        fed_BS = image_tokens_BT[:, :-1] if given == 0 else torch.cat([past.pending_B1, image_tokens_BT[:, :-1]], 1)
        # token j of a picture lies positions(j) after the prompt; what lies between two rows is the line end
        first = max(given - 1, 0)
        start, end = self.positions(first), self.positions(given + T - 1)
        where_S = self.positions(torch.arange(first, given + T - 1, device=fed_BS.device))
        ids_BS = fed_BS.new_full((len(fed_BS), end - start), self.line_end_id)
        ids_BS[:, where_S - start] = self.code_ids_V[fed_BS]
        words_BS = None
        if given == 0:
            words_BS = F.pad(self.word_mask(prompts), (0, ids_BS.shape[1]))
            ids_BS = torch.cat([prompts.ids_BP, ids_BS], 1)
        mask_BS = F.pad(prompts.mask_BP, (0, end), value=1)
        # padding does not count, as in transformers' generate
        places_BS = (mask_BS.cumsum(1) - 1).clamp(min=0)[:, -ids_BS.shape[1] :]
        with self.reading(words_BS, prompts.texts):
            out = self.trunk(
                input_ids=ids_BS,
                attention_mask=mask_BS,
                position_ids=places_BS,
                past_key_values=past.cache if past is not None else None,
                use_cache=past is not None,
            )
        if past is not None:
            past.cache, past.pending_B1, past.length = out.past_key_values, image_tokens_BT[:, -1:], given + T
        # token j is predicted where the position before it was read: token j - 1, or the line end after it, or the
        # prompt
        before_T = self.positions(torch.arange(given, given + T, device=fed_BS.device)) - end - 1
        return out.last_hidden_state[:, before_T]

    def image_logits(self, h_BTD: torch.Tensor) -> torch.Tensor:
        return F.linear(h_BTD, self.model.lm_head.weight[self.head_rows])

    # ------------------------------------------------------------------ pictures

    def _pictures_at_a_time(self) -> int:
        """32 of a mini model, but one of 720 x 720 pixels, which takes gigabytes."""
        return max(1, 32 * 144 // self.num_codes)

    def _scale(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and spread of the colours, [3, 1, 1], that the picture tokenizer was trained with."""
        images = self.processor.image_processor
        return tuple(torch.tensor(x, device=self.device).view(3, 1, 1) for x in (images.image_mean, images.image_std))

    def _paint(self, codes):
        mean, spread = self._scale()
        pixels_B3HW = self.model.model.vqmodel.decode(codes.view(-1, *self.grid)).float()
        return ((pixels_B3HW * spread + mean) * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _spell(self, images_BHW3):
        mean, spread = self._scale()
        pixels_B3HW = ((images_BHW3.permute(0, 3, 1, 2).float() / 255 - mean) / spread).to(self.dtype)
        sizes_B2 = torch.tensor([images_BHW3.shape[1:3]] * len(images_BHW3))
        return torch.stack(list(self.model.model.vqmodel.encode(pixels_B3HW, sizes_B2).image_tokens)).flatten(1)

    def _ask(self, question):
        # Only a checkpoint trained for it (Emu3-Chat) says anything sensible; the one that draws does not.
        if not self.processor.chat_template:
            line = f"{self.name} has no conversation format, so it cannot be asked about pictures"
            raise UserError(f"{line}; use a checkpoint that understands, such as Emu3-Chat")
        return question_ids(self.processor, self.grid, question)

    def _answer(self, ids_BP, images_BHW3, **settings):
        tokens_BHW = self.tokenize(images_BHW3.numpy()).to(self.device).view(-1, *self.grid)
        image_ids_BHW = F.pad(self.code_ids_V[tokens_BHW], (0, 1), value=self.line_end_id)
        ids_BP[:, ids_BP[0] == self.processor.image_token_id] = image_ids_BHW.flatten(1)
        return self.model.generate(ids_BP, **settings)
