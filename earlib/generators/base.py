"""The interface of a next-token image generator, and nothing that belongs to one model.

Letters in tensor names: B pictures (or rows), P prompt positions, T image tokens, D width, V codebook entries, H and W
pixels. Next-scale models are another family and live in `earlib/nextscale`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class PromptBatch:
    """Tokenized prompts, left-padded to one length. `ids_BP` int64; `mask_BP` int64, 0 where a position is padding."""

    ids_BP: torch.Tensor
    mask_BP: torch.Tensor
    texts: tuple[
        str, ...
    ] = ()  # what was asked for, row by row; a blanked twin has its prompt's. Empty where nobody needs to know

    def __len__(self) -> int:
        return len(self.ids_BP)

    def __getitem__(self, rows) -> PromptBatch:
        where = (
            torch.arange(len(self.texts))[rows.cpu() if isinstance(rows, torch.Tensor) else rows].tolist()
            if self.texts
            else ()
        )
        return PromptBatch(self.ids_BP[rows], self.mask_BP[rows], tuple(self.texts[i] for i in where))

    def stack(self, other: PromptBatch) -> PromptBatch:
        """The rows of both, one below the other; the shorter ones are padded at their left."""
        length = max(self.ids_BP.shape[1], other.ids_BP.shape[1])
        a, b = (batch.padded(length) for batch in (self, other))
        return PromptBatch(torch.cat([a.ids_BP, b.ids_BP]), torch.cat([a.mask_BP, b.mask_BP]), a.texts + b.texts)

    def padded(self, length: int) -> PromptBatch:
        """The rows with padding at their left, `length` in all; padding is never attended to, so that any token will
        do."""
        more = length - self.ids_BP.shape[1]
        return PromptBatch(F.pad(self.ids_BP, (more, 0)), F.pad(self.mask_BP, (more, 0)), self.texts)


@dataclass
class Past:
    """What a model has read so far: its key/value cache, and the one image token that it has been given but not yet
    read."""

    cache: object | None = None
    pending_B1: torch.Tensor | None = None
    length: int = 0  # image tokens given so far

    def detach_(self) -> Past:
        """Cut the graph: later windows see these keys and values as constants, as a rollout would."""
        if self.cache is not None:
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return self


class Generator(ABC):
    """A text-to-image autoregressive model. Everything above this file speaks to models through these names only."""

    name: str  # what the user asked for: a profile, a hub id or a folder
    profile: str  # "mini", "janus-pro-1b", "janus-pro-7b" or "custom"
    fingerprint: str  # 16 hex digits over the weights
    guidance: float  # default guidance scale
    temperature: float = 1.0  # default temperature
    grid: tuple[int, int]  # rows and columns of image tokens
    codebook_size: int
    trunk: torch.nn.Module  # the language model; names of trained tensors are relative to it
    decoder_layers: torch.nn.ModuleList

    @property
    def num_image_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def device(self) -> torch.device:
        return next(self.trunk.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.trunk.parameters()).dtype

    def positions(self, image_tokens: int) -> int:
        """Positions that so many image tokens take in the context; more than their number where a model ends its lines
        with a token."""
        return image_tokens

    # What a change of the trunk may ask while the trunk runs: bool [B, S], where the words of prompts stand among what
    # is being read; None for image tokens.
    words_BS: torch.Tensor | None = None
    # How guidance is done, where it is not the usual one: see `sampling.guided_rows`.
    steering = None
    # What hangs on what a row was asked for: an object whose `read(generator, texts)` is called before the rows are
    # (`erasure/membranes.py`).
    gates = None

    @contextmanager
    def reading(self, words_BS: torch.Tensor | None, texts: tuple[str, ...] = ()):
        """Within the context the trunk is told where words stand, and gates have been told what was asked for."""
        if self.gates is not None:
            self.gates.read(self, texts)
        self.words_BS = words_BS
        try:
            yield
        finally:
            self.words_BS = None

    @cached_property
    def _format(self) -> tuple[int, int]:
        """How many tokens of the conversation format stand before and after the words of a prompt."""
        a, b = (self.encode([word]).ids_BP[0].tolist() for word in ("red", "blue"))
        before = next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
        return before, next(i for i, (x, y) in enumerate(zip(a[::-1], b[::-1])) if x != y)

    def word_mask(self, prompts: PromptBatch) -> torch.Tensor:
        """Where a prompt's own words stand, bool [B, P]: not its padding, its conversation format, the token that
        begins an image, or blanks."""
        before, after = self._format
        P = prompts.ids_BP.shape[1]
        start_B1 = P - prompts.mask_BP.sum(1, keepdim=True) + before
        where_P = torch.arange(P, device=prompts.ids_BP.device)
        return (where_P >= start_B1) & (where_P < P - after) & (prompts.ids_BP != self.null_like(prompts).ids_BP)

    # Embeddings [B, S, D] of image tokens [B, S] for a model that reads nothing between them; such a model can be drawn
    # by a captured step.
    embed_image_tokens = None

    @abstractmethod
    def encode(self, prompts: list[str]) -> PromptBatch:
        """Prompts in the model's conversation format, up to and including the token that begins an image."""

    @abstractmethod
    def null_like(self, batch: PromptBatch) -> PromptBatch:
        """The unconditional twin of every row: same length, the words blanked."""

    @abstractmethod
    def hidden_states(
        self, prompts: PromptBatch, image_tokens_BT: torch.Tensor, past: Past | None = None
    ) -> torch.Tensor:
        """States h_BTD that predict each of `image_tokens_BT`, teacher-forced, after the final norm.

        h[:, t] has read the prompt and the tokens before t. Without `past` the tokens start the picture. With a `Past`
        they continue what it holds (an empty one starts a picture), and it is extended in place: feeding a picture in
        windows gives the states of feeding it whole.
        """

    @abstractmethod
    def image_logits(self, h_BTD: torch.Tensor) -> torch.Tensor:
        """Logits over the codebook, logits_BTV."""

    @abstractmethod
    def decode(self, image_tokens_BT: torch.Tensor, chunk: int | None = None) -> np.ndarray:
        """Pictures of whole token grids: uint8 [B, H, W, 3]; `chunk` of them at a time, by default as many as there is
        room for."""

    @abstractmethod
    def tokenize(self, images_BHW3: np.ndarray, chunk: int = 32) -> torch.Tensor:
        """Image tokens of uint8 pictures of the model's own size: int64 [B, T]."""

    @abstractmethod
    def caption(self, images_BHW3: np.ndarray, question: str | None = None) -> list[str]:
        """What the model says of pictures (the understanding side), greedily."""

    def unknown_words(self, prompts: list[str]) -> list[str]:
        """Words that the model's tokenizer cannot spell; empty for open vocabularies."""
        return []

    def sample(
        self,
        prompts,
        seeds,
        guidance=None,
        temperature: float = 1.0,
        batch_size: int | None = None,
        progress: bool = False,
        prefix=None,
        graphs=None,
    ) -> torch.Tensor:
        """Image tokens int64 [N, T] (on the CPU) for `prompts`, one int seed each; `prefix` [N, K] gives the first
        tokens. See `sampling.sample_tokens`."""
        from .sampling import sample_tokens

        guidance = self.guidance if guidance is None else guidance
        return sample_tokens(self, prompts, seeds, guidance, temperature, batch_size, progress, prefix, graphs)
