"""A next-scale model as the rest of the library sees it: prompts in, codes and pictures out. `load_nextscale` finds
one.

It has the names of `generators.base.Generator` where they mean the same, and is not one: what comes next here is a
scale, not a token.

Letters: B pictures, P words, L positions of all scales, C bits of a code (bsq), V rows of the codebook (vq), H and W
pixels.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from ...errors import UserError, nearest
from ..base import PromptBatch
from .config import PROFILES


def encode_words(words, prompts: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
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


def null_words(words, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt that says nothing, ids and mask [1, P]: a single padding word, whose embedding nothing else trains. It
    does not tell a prompt's length."""
    mask = torch.zeros(1, length, dtype=torch.long)
    mask[:, 0] = 1
    return torch.full((1, length), words.pad_token_id), mask


class NextScaleGenerator:
    """A `NextScaleModel` ready to draw. `name` is what the user asked for; `profile` one of PROFILES or "custom".

    `trunk` is the transformer with its text encoder (names of trained tensors are relative to it):
    `blocks.0.cross_attention.q.weight`, `blocks.0.ffn.up.weight`, ...; `quantiser` knows what a code is and what logits
    of it look like.
    """

    # How guidance is done, where it is not the usual one: `steering.py` has the ways, `draw.sample_codes` asks for it.
    steering = None
    # Where the words of prompts stand among what is read, which changes of a next-token model may ask; here words are
    # not read as positions.
    words_BS = None

    def __init__(self, model, name: str = "custom", profile: str = "custom", fingerprint: str | None = None):
        from ..janus import fingerprint as of_weights

        self.model, self.name, self.profile = model.eval(), name, profile
        model.requires_grad_(False)
        self.config, self.trunk, self.tokenizer, self.quantiser, self.words = (
            model.config,
            model.trunk,
            model.tokenizer,
            model.tokenizer.quantiser,
            model.words,
        )
        self.guidance, self.temperature = model.config.guidance, model.config.temperature
        self.schedule, self.spans, self.num_image_tokens = (
            model.config.schedule,
            model.config.spans,
            model.config.length,
        )
        self.fingerprint = fingerprint or of_weights(
            model
        )  # a loader gives that of the stored weights, which knows no dtype

    @property
    def decoder_layers(self):
        """The transformer's blocks."""
        return self.trunk.blocks

    @property
    def device(self) -> torch.device:
        return next(self.trunk.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.trunk.parameters()).dtype

    # ------------------------------------------------------------------ prompts

    def encode(self, prompts: list[str]) -> PromptBatch:
        """Prompts as word numbers, padded on the right to the model's text length. UserError for a prompt that is
        longer."""
        ids, mask = encode_words(self.words, list(prompts), self.config.text_length)
        return PromptBatch(ids.to(self.device), mask.to(self.device))

    def null_like(self, batch: PromptBatch) -> PromptBatch:
        """The learned unconditional prompt, as many times as `batch` has rows."""
        ids, mask = null_words(self.words, self.config.text_length)
        return PromptBatch(ids.repeat(len(batch), 1).to(self.device), mask.repeat(len(batch), 1).to(self.device))

    def unknown_words(self, prompts: list[str]) -> list[str]:
        """Words that the model's vocabulary does not have."""
        unk = self.words.unk_token_id
        found = {w for p in prompts for w in re.findall(r"[^\W_]+(?:-[^\W_]+)*", p.lower())}
        return sorted(w for w in found if unk in self.words(w, add_special_tokens=False)["input_ids"])

    # ------------------------------------------------------------------ teacher forcing

    def inputs_of(self, codes: torch.Tensor) -> torch.Tensor:
        """What the transformer reads when it is given `codes` (int64 [B, L] or [B, L, C], or the first scales of them):
        inputs_BLC, for scale k what the scales before k draw."""
        return self.tokenizer.accumulate(codes.to(self.device))[0].to(self.dtype)

    def logits(self, prompts: PromptBatch, codes: torch.Tensor) -> torch.Tensor:
        """Logits of every position, given the prompt and the scales before it in `codes`, in one masked pass: [B, L, C,
        2] (bsq) or [B, L, V] (vq).

        With the codes of the first scales only, logits of those. Differentiable in the trunk's parameters. No guidance:
        that is u + g (c - u) with the logits of `null_like(prompts)`.
        """
        inputs_BNC = self.inputs_of(codes)
        return self.quantiser.split(
            self.trunk(self.trunk.condition(prompts.ids_BP, prompts.mask_BP), inputs_BNC, slice(0, inputs_BNC.shape[1]))
        )

    # ------------------------------------------------------------------ pictures

    def sample(
        self,
        prompts: list[str],
        seeds: list[int],
        guidance=None,
        temperature=None,
        batch_size=None,
        progress=False,
        **more,
    ) -> torch.Tensor:
        """Codes int64 [N, L] or [N, L, C] (on the CPU) for `prompts`, one int seed each. See `draw.sample_batches` for
        what else may be given."""
        from .draw import sample_codes

        guidance = self.guidance if guidance is None else guidance
        temperature = self.temperature if temperature is None else temperature
        return sample_codes(self, prompts, seeds, guidance, temperature, batch_size, progress, **more)

    def sample_batches(
        self, prompts: list[str], seeds: list[int], guidance=None, temperature=None, batch_size=None, progress=False
    ):
        """The same in batches: yields (which prompts, their codes) until all are drawn."""
        from .draw import sample_batches

        guidance = self.guidance if guidance is None else guidance
        temperature = self.temperature if temperature is None else temperature
        yield from sample_batches(self, prompts, seeds, guidance, temperature, batch_size, progress)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, chunk: int = 64) -> np.ndarray:
        """Pictures of codes: uint8 [B, H, W, 3]."""
        parts = [np.zeros((0, self.config.image_size, self.config.image_size, 3), np.uint8)]
        for some in codes.split(chunk):
            pixels = self.tokenizer.rebuild(some.to(self.device)).permute(0, 2, 3, 1)
            parts.append(((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def tokenize(self, images_BHW3: np.ndarray, chunk: int = 64) -> torch.Tensor:
        """Codes of uint8 pictures of the model's own size: int64 [B, L] or [B, L, C], on the CPU."""
        if images_BHW3.dtype != np.uint8 or images_BHW3.shape[1:] != (
            self.config.image_size,
            self.config.image_size,
            3,
        ):
            size = self.config.image_size
            raise UserError(
                f"pictures must be uint8 [N, {size}, {size}, 3]; got {images_BHW3.dtype} {list(images_BHW3.shape)}"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(images_BHW3)).permute(0, 3, 1, 2)
        parts = [
            self.tokenizer.tokenize((some.float() / 127.5 - 1).to(self.device, self.dtype)).cpu()
            for some in pixels.split(chunk)
        ]
        return torch.cat(parts)


def load_nextscale(
    model: str | Path = "mini-var", device: str | None = None, dtype: str | None = None
) -> NextScaleGenerator:
    """The next-scale model called `model`: the profile mini-var, a folder written by `save_pretrained` or with
    Infinity's files, or a hub id (`owner/name`).

    Raises UserError with one line if there is none, if it is broken, or if its weights were trained with other flags
    than config.json says.
    """
    from ...device import decide
    from ..janus import fingerprint
    from ..load import NEEDED, _download
    from .model import NextScaleModel

    place = decide(device, dtype)
    folder = Path(PROFILES.get(str(model), model))
    if str(model) in PROFILES and not (folder / "config.json").is_file():
        raise UserError(
            f"the next-scale model is missing from data/{model}; make it as `python -m earlib.miniworld.train_var --help` says"
        )
    if any(folder.glob("infinity_*.pth")):
        from ..files.infinity import load_infinity

        return load_infinity(folder, device=device, dtype=dtype)
    if not folder.is_dir():
        if str(model).count("/") != 1 or str(model).startswith(("/", ".")):
            raise UserError(
                f"no next-scale model '{model}': not a profile ({nearest(str(model), PROFILES)}), not a folder, not a hub id (owner/name)"
            )
        folder = _download(str(model), NEEDED)
    loaded = NextScaleModel._from_pretrained(model_id=str(folder))
    mark = fingerprint(loaded)
    known = {where.resolve(): name for name, where in PROFILES.items()}
    return NextScaleGenerator(
        loaded.to(place.device, place.dtype), str(model), known.get(folder.resolve(), "custom"), mark
    )
