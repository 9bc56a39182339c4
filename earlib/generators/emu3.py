"""Emu3 behind the `Generator` interface: transformers' `Emu3ForConditionalGeneration`, of any size.

Emu3 has one vocabulary and one head for words and pictures, and it ends every row of a picture with a token of its own
that nobody chooses. Those line ends live in this file only: samplers and trainers see rows x columns image tokens,
numbered as in the codebook. Greedy tokens are those of transformers' own `generate` with the constraint and the
negative prompt of its documentation; a test compares them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GenerationConfig

from ..errors import UserError
from .base import NextToken, Past, PromptBatch
from .weights import fingerprint


def question_ids(processor: Any, grid: tuple[int, int], question: str | None = None) -> torch.Tensor:
    """A question about a picture in Emu3's conversation format, int64 [P]; the processor's image tokens stand where
    those of the picture of `grid` (rows, columns) go, each row with its end."""
    content = [{"type": "image"}, {"type": "text", "text": question or "what is in the picture ?"}]
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
        processor.image_area = getattr(model.config, "image_area", processor.image_area)
        self.grid = processor.calculate_generate_size(processor.ratio, processor.image_area, processor.downsample_ratio)
        self.codebook_size = model.config.vq_config.codebook_size
        self.guidance = float(model.generation_config.guidance_scale or 3.0)
        model.requires_grad_(False)
        self.line_end_id = model.vocabulary_mapping.eol_token_id
        self.code_ids_V = self._code_ids().to(self.device)
        in_a_row = bool(
            (self.code_ids_V.diff() == 1).all()
        )  # as in the published ones; then a slice of the head copies nothing
        self.head_rows = slice(int(self.code_ids_V[0]), int(self.code_ids_V[-1]) + 1) if in_a_row else self.code_ids_V
        self.null_ids_N = self._header([null_prompt])["input_ids"][0].to(self.device)
        self.fingerprint = fingerprint(model)

    def _code_ids(self) -> torch.Tensor:
        """The vocabulary's id of every codebook entry, int64 [V]."""
        ids = self.model.vocabulary_mapping.img2bpe
        if sorted(ids) != list(range(self.codebook_size)):
            raise UserError(
                f"{self.name} is no whole Emu3: {len(ids)} image tokens in its vocabulary, {self.codebook_size} in "
                "its codebook"
            )
        return torch.tensor([ids[code] for code in range(self.codebook_size)])

    # ------------------------------------------------------------------ prompts

    def _header(self, prompts: list[str]):
        """Prompts as Emu3 wants them, unadorned, each with the header of an image: its beginning, `rows*columns`, and
        where the tokens follow."""
        return self.processor(text=prompts, return_for_image_generation=True, padding=True, return_tensors="pt")

    def _encode(self, prompts):
        out = self._header(prompts)
        room = max(
            0, len(self.null_ids_N) - out["input_ids"].shape[1]
        )  # for a null prompt that is longer than all of them
        ids_BP = F.pad(out["input_ids"], (room, 0), value=self.tokenizer.pad_token_id)
        return PromptBatch(
            ids_BP.to(self.device), F.pad(out["attention_mask"], (room, 0)).to(self.device), tuple(prompts)
        )

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
        places_BS = (mask_BS.cumsum(1) - 1).clamp(min=0)[
            :, -ids_BS.shape[1] :
        ]  # padding does not count, as in transformers' generate
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
        pixels_B3HW = (images_BHW3.permute(0, 3, 1, 2).float() / 255 - mean) / spread
        sizes_B2 = torch.tensor([images_BHW3.shape[1:3]] * len(images_BHW3))
        return torch.stack(list(self.model.model.vqmodel.encode(pixels_B3HW, sizes_B2).image_tokens)).flatten(1)

    @torch.no_grad()
    def caption(
        self, images_BHW3: np.ndarray, question: str | None = None, max_new_tokens: int = 40, chunk: int = 64
    ) -> list[str]:
        """What the model says of pictures, greedily. Only a checkpoint trained for it (Emu3-Chat) says anything
        sensible; the one that draws does not."""
        processor, (rows, columns) = self.processor, self.grid
        if not processor.chat_template:
            raise UserError(
                f"{self.name} has no conversation format, so it cannot be asked about pictures; use a checkpoint that "
                "understands, such as Emu3-Chat"
            )
        ids_P = question_ids(processor, self.grid, question).to(self.device)
        greedy = GenerationConfig(
            do_sample=False,
            guidance_scale=1.0,  # or the scale for drawing would be used on words
            max_length=len(ids_P) + max_new_tokens,
            **{key: getattr(self.tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        )
        answers = []
        for i in range(0, len(images_BHW3), chunk):
            tokens_BHW = self.tokenize(images_BHW3[i : i + chunk]).to(self.device).view(-1, rows, columns)
            ids_BP = ids_P.repeat(len(tokens_BHW), 1)
            ids_BP[:, ids_P == processor.image_token_id] = F.pad(
                self.code_ids_V[tokens_BHW], (0, 1), value=self.line_end_id
            ).flatten(1)
            out = self.model.generate(ids_BP, attention_mask=torch.ones_like(ids_BP), generation_config=greedy)
            answers += self.tokenizer.batch_decode(out[:, len(ids_P) :], skip_special_tokens=True)
        return [a.strip() for a in answers]
