"""The protocol of image generators: what every model can do. What only one of the two families has is in `base.py`.

A picture is a sequence of codes. A next-token model draws one code after the other, in raster order; a next-scale model
draws all codes of a scale at once, from the coarsest scale to the finest. `Generator` is what both share; code that
needs one family asks `isinstance(generator, NextToken)` or `NextScale`.

Letters in tensor names: B pictures (or rows), N all pictures asked for, P prompt positions, L codes of a picture (T for
image tokens), D width, C parts of a code, V values of a part, H and W pixels.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import UserError
from .batch import PromptBatch

LOGITS = 2**26  # numbers in one batch of logits: 256 MiB in float32
PAINTED = 8  # pictures that a CPU decodes at a time


class Steering(Protocol):
    """A way of guiding that is not the usual one: which prompts are read for a picture, and what their logits
    become."""

    def rows(self, generator: Generator, prompts: PromptBatch, guidance: float) -> list[PromptBatch]:
        """The batches that are read along with each other: `prompts` first, then others of as many rows."""

    def combine(self, logits: Sequence[torch.Tensor], guidance: float, scale: int | None = None) -> torch.Tensor:
        """The logits that are drawn from, float32 [B, ...], of those of each of `rows`; `scale` is the number of the
        scale in a next-scale model."""


class Generator(ABC):
    """A text-to-image autoregressive model of either family; everything outside this room speaks to models through it.

    Attributes:
        name: what the user asked for: a profile, a hub id or a folder.
        profile: a name of `load.PROFILES`, or "custom".
        fingerprint: 16 hex digits that change when a weight does.
        guidance, temperature: the model's own defaults for drawing.
        num_codes: codes of a picture.
        code_shape: of one code: () for the number of a codebook's row, (C,) for C bits.
        outputs: logits of one code, over all its parts.
        trunk: the transformer; names of trained tensors are relative to it.
        decoder_layers: its layers.
        tokenizer_of_words: transformers' tokenizer of prompts.
        words_learn: whether gradients reach the embeddings of words.
        steering: how guidance is done where it is not the usual one; an erasure that guides sets it.
        gates: adapters that open by prompt (`erasure/compose.py` sets them): `gates.read(generator, texts)` is called
            with the prompts before the trunk reads them.
    """

    name: str
    profile: str
    fingerprint: str
    guidance: float
    temperature: float = 1.0
    num_codes: int
    code_shape: tuple[int, ...] = ()
    outputs: int
    trunk: torch.nn.Module
    decoder_layers: torch.nn.ModuleList
    tokenizer_of_words: Any
    words_learn: bool = True
    steering: Steering | None = None
    gates: Any = None

    @property
    def device(self) -> torch.device:
        """Where the trunk's weights are."""
        return next(self.trunk.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the trunk's weights."""
        return next(self.trunk.parameters()).dtype

    # ------------------------------------------------------------------ prompts

    @property
    @abstractmethod
    def word_embeddings(self) -> torch.nn.Embedding:
        """The table in which the numbers of a prompt's words are looked up: ids [B, P] to [B, P, D]."""

    @abstractmethod
    def _encode(self, prompts: list[str]) -> PromptBatch:
        """`encode`, of prompts that are words only."""

    def encode(self, prompts: list[str]) -> PromptBatch:
        """Prompts as the model reads them, in its conversation format if it has one.

        Raises:
            UserError: a prompt holds a token that is no word, such as the one that begins a picture; or it is too long.
        """
        words = self.tokenizer_of_words(list(prompts), add_special_tokens=False)["input_ids"] if len(prompts) else []
        for prompt, numbers in zip(prompts, words):
            if signs := self._signs.keys() & set(numbers):
                sign = self._signs[min(signs)]
                raise UserError(
                    f"a prompt holds '{sign}', which {self.name} reads as a control token, not as text; take it "
                    f"out of the prompt that begins '{prompt[:40]}'"
                )
        return self._encode(list(prompts))

    @cached_property
    def _signs(self) -> dict[int, str]:
        """Tokens that are no words, by number: beginnings, ends, pictures; the one for unknown words is none of
        them."""
        added = self.tokenizer_of_words.added_tokens_decoder
        unknown = self.tokenizer_of_words.unk_token_id
        return {number: str(token) for number, token in added.items() if token.special and number != unknown}

    @abstractmethod
    def null_like(self, batch: PromptBatch) -> PromptBatch:
        """The unconditional twin of every row of `batch`, of the same length: the prompt that says nothing."""

    @abstractmethod
    def word_mask(self, batch: PromptBatch) -> torch.Tensor:
        """Where a prompt's own words stand, bool [B, P]: no padding, conversation format or blanks."""

    def unknown_words(self, prompts: list[str]) -> list[str]:
        """Words of `prompts` that the model's vocabulary does not have, sorted; empty for open vocabularies."""
        unknown = self.tokenizer_of_words.unk_token_id
        if unknown is None:
            return []
        words = {word for prompt in prompts for word in re.findall(r"[^\W_]+(?:-[^\W_]+)*", prompt.lower())}
        spelt = lambda word: self.tokenizer_of_words(word, add_special_tokens=False)["input_ids"]
        return sorted(word for word in words if unknown in spelt(word))

    # ------------------------------------------------------------------ drawing

    @abstractmethod
    def acting(self, where: Any) -> torch.Tensor | None:
        """At which of the positions that the trunk reads at this moment a change acts that is confined to `where`.

        A change of weights asks while the trunk runs. Next-token models know "words" (of prompts), next-scale models a
        slice of a picture's codes.

        Returns:
            bool [B, S] or [1, S] over the S positions being read; None for none of them.
        """

    @abstractmethod
    def drawer(self, whole: bool) -> Callable[..., torch.Tensor]:
        """What draws one batch, with the erasure that is switched on now; `whole` unless first codes will be given.

        Returns:
            A function of (prompts: PromptBatch, seeds_B, guidance, temperature, given codes or None, tick) that returns
            codes int64 [B, L, ...]. It calls `tick(share)` with shares of the batch that add up to 1.
        """

    def drawing_order(self, prompts: list[str]) -> list[int]:
        """In which order `prompts` are put into batches."""
        return list(range(len(prompts)))

    def fitting_batch(self) -> int:
        """Pictures to draw at a time."""
        return 128

    def sample_batches(
        self,
        prompts: list[str],
        seeds: list[int],
        guidance: float | None = None,
        temperature: float | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        given: torch.Tensor | None = None,
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Draw `prompts` in batches: yields (which prompts, their codes) until all are drawn; see `sample`."""
        from ..runs import progress_bar

        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed for each prompt")
        if given is not None and (len(given) != len(prompts) or given.shape[1] > self.num_codes):
            raise ValueError(f"{tuple(given.shape)} given codes for {len(prompts)} pictures of {self.num_codes} codes")
        guidance = self.guidance if guidance is None else guidance
        temperature = self.temperature if temperature is None else temperature
        order, draw = self.drawing_order(prompts), self.drawer(whole=given is None)
        size = min(batch_size or self.fitting_batch(), max(1, len(prompts)))
        shape = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
        about = dict(unit="picture", desc="drawing", leave=False, bar_format=shape, disable=not (progress and prompts))
        with progress_bar(total=len(prompts), **about) as bar:
            for start in range(0, len(prompts), size):
                rows = order[start : start + size]
                batch = self.encode([prompts[i] for i in rows])
                seeds_B = torch.tensor([seeds[i] for i in rows], dtype=torch.long, device=self.device)
                tick = partial(lambda pictures, share: bar.update(min(pictures * share, bar.total - bar.n)), len(rows))
                yield rows, draw(batch, seeds_B, guidance, temperature, None if given is None else given[rows], tick)

    def sample(
        self,
        prompts: list[str],
        seeds: list[int],
        guidance: float | None = None,
        temperature: float | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        given: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw the codes of one picture a prompt.

        The noise of a code is a hash of (picture's seed, position, value), so that a picture depends neither on its
        batch nor on other pictures.

        Args:
            prompts: N prompts.
            seeds: one int seed a picture.
            guidance: scale w of u + w (c - u), with c and u the logits with and without the prompt; None for the
                model's own.
            temperature: 0 takes the likeliest code; None for the model's own.
            batch_size: pictures at a time; None for as many as there is room for.
            progress: show a bar on stderr.
            given: int64 [N, K, ...], the first codes of every picture, which are then not drawn. A next-scale model
                takes whole scales.

        Returns:
            int64 [N, num_codes, *code_shape] on the CPU.
        """
        codes = torch.zeros(len(prompts), self.num_codes, *self.code_shape, dtype=torch.long)
        batches = self.sample_batches(prompts, seeds, guidance, temperature, batch_size, progress, given)
        for rows, drawn in batches:
            codes[rows] = drawn.cpu()
        return codes

    # ------------------------------------------------------------------ likelihoods

    @abstractmethod
    def _logits_along(self, prompts: list[str], codes: torch.Tensor, guidance: float, null: bool) -> torch.Tensor:
        """Logits [B, K, C, V] of `log_probabilities`, for one batch, on the model's device."""

    def logit_batches(self, codes: torch.Tensor) -> list[slice]:
        """The pictures of `codes` [N, K, ...] in slices, each with at most 2^26 logits (256 MiB in float32)."""
        size = max(1, LOGITS // (codes.shape[1] * self.outputs))
        return [slice(start, min(start + size, len(codes))) for start in range(0, len(codes), size)]

    @torch.no_grad()
    def log_probabilities(
        self, prompts: list[str], codes: torch.Tensor, guidance: float | None = None, null: bool = False
    ) -> torch.Tensor:
        """log p(value | prompt, the codes before) at every code of given pictures, as it is drawn from at temperature
        1.

        Args:
            prompts: N prompts.
            codes: int64 [N, K, ...], N pictures or their first codes, which need not be pictures of these prompts.
            guidance: None for the model's own, with whatever steers it. 1 is the model's distribution given the prompt
                itself, which no steering touches.
            null: read the pictures under the unconditional prompt instead, without guidance.

        Returns:
            float32 [N, K, parts, values] on the CPU: one part of all codebook rows, or bits of two values each.
        """
        if len(prompts) != len(codes):
            raise ValueError(f"{len(prompts)} prompts but {len(codes)} pictures; they are read pairwise")
        guidance = self.guidance if guidance is None else guidance
        read = lambda rows: self._logits_along(list(prompts[rows]), codes[rows], guidance, null).float()
        return torch.cat([read(rows).log_softmax(-1).cpu() for rows in self.logit_batches(codes)])

    # ------------------------------------------------------------------ pictures

    @abstractmethod
    def _paint(self, codes: torch.Tensor) -> torch.Tensor:
        """Pictures uint8 [B, H, W, 3] of a few sequences of codes, on the model's device."""

    @abstractmethod
    def _spell(self, images_BHW3: torch.Tensor) -> torch.Tensor:
        """Codes of a few uint8 pictures, on the model's device."""

    def _pictures_at_a_time(self) -> int:
        """How many pictures are decoded or tokenized at a time."""
        return 64

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, chunk: int | None = None) -> np.ndarray:
        """Turn codes into pictures.

        Args:
            codes: int64 [N, num_codes, ...].
            chunk: pictures at a time; None for as many as there is room for, on a CPU for a fixed number, so that a
                picture is the same to the last bit whatever is decoded beside it.

        Returns:
            uint8 [N, H, W, 3].
        """
        if chunk or self.device.type != "cpu":
            chunks = codes.split(chunk or self._pictures_at_a_time())
            return np.concatenate([self._paint(some.to(self.device)).cpu().numpy() for some in chunks])
        # a CPU takes other kernels, which round otherwise, for other numbers of pictures: so it always gets as many
        n = len(codes)
        filled = torch.cat([codes, codes[:1].expand(-n % PAINTED, *codes.shape[1:])])
        return np.concatenate([self._paint(some).numpy() for some in filled.split(PAINTED)])[:n]

    @torch.no_grad()
    def tokenize(self, images_BHW3: np.ndarray, chunk: int | None = None) -> torch.Tensor:
        """Turn pictures of the model's own size into codes.

        Args:
            images_BHW3: uint8 [N, H, W, 3].
            chunk: pictures at a time.

        Returns:
            int64 [N, num_codes, ...] on the CPU.

        Raises:
            UserError: the pictures are of another type or shape.
        """
        if images_BHW3.dtype != np.uint8 or images_BHW3.ndim != 4 or images_BHW3.shape[-1] != 3:
            raise UserError(f"pictures must be uint8 [N, H, W, 3]; got {images_BHW3.dtype} {list(images_BHW3.shape)}")
        chunks = torch.from_numpy(np.ascontiguousarray(images_BHW3)).split(chunk or self._pictures_at_a_time())
        return torch.cat([self._spell(some.to(self.device)).cpu() for some in chunks])
