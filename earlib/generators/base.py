"""The protocol of image generators: what every model can do, and what only one of the two families has.

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
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch

from .batch import Past, PromptBatch

LOGITS = 2**26  # numbers in one batch of logits: 256 MiB in float32


class Steering(Protocol):
    """A way of guiding that is not the usual one: which prompts are read for a picture, and what their logits become."""

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

    @abstractmethod
    def encode(self, prompts: list[str]) -> PromptBatch:
        """Prompts as the model reads them, in its conversation format if it has one."""

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
        from .sampling import sample_batches

        return sample_batches(self, prompts, seeds, guidance, temperature, batch_size, progress, given)

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
            given: int64 [N, K, ...], the first codes of every picture, which are then not drawn. A next-scale model takes
                whole scales.

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
        """log p(value | prompt, the codes before) at every code of given pictures, as it is drawn from at temperature 1.

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
    def decode(self, codes: torch.Tensor, chunk: int | None = None) -> np.ndarray:
        """Pictures of whole sequences of codes: uint8 [B, H, W, 3]; `chunk` of them at a time, by default as many as
        there is room for."""

    @abstractmethod
    def tokenize(self, images_BHW3: np.ndarray, chunk: int | None = None) -> torch.Tensor:
        """Codes of uint8 pictures of the model's own size: int64 [B, L, ...], on the CPU."""


class NextToken(Generator):
    """A model that draws one image token after the other.

    Attributes:
        grid: rows and columns of image tokens.
        codebook_size: values of a token.
        embed_image_tokens: embeddings [B, S, D] of tokens [B, S], for a model that reads nothing between them; such a
            model can be drawn by a captured step (`static.py`). None for others.
        graphs: whether such a step is used; None for on a GPU only.
    """

    grid: tuple[int, int]
    codebook_size: int
    embed_image_tokens: Callable[[torch.Tensor], torch.Tensor] | None = None
    graphs: bool | None = None
    _words_BS: torch.Tensor | None = None

    @property
    def num_codes(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def outputs(self) -> int:
        return self.codebook_size

    @property
    def tokenizer_of_words(self) -> Any:
        return self.tokenizer

    def positions(self, image_tokens: int) -> int:
        """Positions that so many image tokens take in the context; more than their number where a model ends its lines
        with a token."""
        return image_tokens

    @abstractmethod
    def hidden_states(
        self, prompts: PromptBatch, image_tokens_BT: torch.Tensor, past: Past | None = None
    ) -> torch.Tensor:
        """States that predict each of `image_tokens_BT`, teacher-forced, after the final norm.

        Args:
            prompts: B prompts.
            image_tokens_BT: int64; state t has read the prompt and the tokens before t.
            past: None if the tokens start the picture. A `Past` if they continue what it holds (an empty one starts a
                picture); it is extended in place, so that feeding a picture in windows gives the states of feeding it
                whole.

        Returns:
            h_BTD, in the model's dtype.
        """

    @abstractmethod
    def image_logits(self, h_BTD: torch.Tensor) -> torch.Tensor:
        """Logits over the codebook, logits_BTV."""

    @abstractmethod
    def caption(self, images_BHW3: np.ndarray, question: str | None = None) -> list[str]:
        """What the model says of pictures when asked `question`, greedily."""

    def acting(self, where: str = "words") -> torch.Tensor | None:
        """Where the words of prompts stand among the positions being read, bool [B, S]; None if those are image
        tokens."""
        return self._words_BS

    @contextmanager
    def reading(self, words_BS: torch.Tensor | None, texts: tuple[str, ...] = ()):
        """The context in which a model runs its trunk: changes that act on words only can ask where those stand.

        Args:
            words_BS: bool, among the positions that the trunk will read; None where it reads image tokens only.
            texts: the prompts, which adapters that open by prompt are told first.
        """
        if self.gates is not None:
            self.gates.read(self, texts)
        self._words_BS = words_BS
        try:
            yield
        finally:
            self._words_BS = None

    @cached_property
    def _format(self) -> tuple[int, int]:
        """How many tokens of the conversation format stand before and after the words of a prompt."""
        a, b = (self.encode([word]).ids_BP[0].tolist() for word in ("red", "blue"))
        before = next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
        return before, next(i for i, (x, y) in enumerate(zip(a[::-1], b[::-1])) if x != y)

    def word_mask(self, batch: PromptBatch) -> torch.Tensor:
        before, after = self._format
        P = batch.ids_BP.shape[1]
        start_B1 = P - batch.mask_BP.sum(1, keepdim=True) + before
        where_P = torch.arange(P, device=batch.ids_BP.device)
        return (where_P >= start_B1) & (where_P < P - after) & (batch.ids_BP != self.null_like(batch).ids_BP)

    def drawer(self, whole: bool) -> Callable[..., torch.Tensor]:
        from .sampling import draw_batch
        from .static import StaticDrawer

        graphs = self.device.type == "cuda" if self.graphs is None else self.graphs
        can = whole and self.embed_image_tokens is not None
        return StaticDrawer(self) if graphs and can else partial(draw_batch, self)

    def _logits_along(self, prompts, codes, guidance, null):
        from .sampling import guided, guided_rows, stacked

        batch, tokens_BT = self.encode(prompts), codes.to(self.device)
        steering = None if null or guidance == 1 else self.steering
        rows = [self.null_like(batch)] if null else guided_rows(self, batch, guidance, steering)
        z_RTV = self.image_logits(self.hidden_states(stacked(rows), tokens_BT.repeat(len(rows), 1)))
        return guided(z_RTV.float().chunk(len(rows)), guidance, steering)[:, :, None]


class NextScale(Generator):
    """A model that draws all codes of a scale at once, from coarse to fine.

    Attributes:
        config: its `NextScaleConfig`.
        schedule: the side of each scale, in codes.
        spans: where each scale's codes lie among a picture's.
        quantiser: what a code is, and what its logits look like (`var/quantisers.py`).
    """

    config: Any
    schedule: tuple[int, ...]
    spans: tuple[slice, ...]
    quantiser: Any

    @abstractmethod
    def inputs_of(self, codes: torch.Tensor) -> torch.Tensor:
        """What the transformer reads when it is given the codes of all scales, or of the first ones: inputs_BLC."""

    @abstractmethod
    def logits(self, prompts: PromptBatch, codes: torch.Tensor) -> torch.Tensor:
        """Logits of every code given the prompt and the scales before it, in one pass: [B, L, C, 2] or [B, L, V]."""

    def acting(self, where: slice) -> torch.Tensor | None:
        """Which of the codes being read lie in the slice `where` of a picture's codes: bool [1, S]."""
        mask_L = torch.zeros(self.num_codes, dtype=torch.bool, device=self.device)
        mask_L[where] = True
        return mask_L[self.trunk.reading][None]
