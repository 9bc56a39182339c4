"""The two families of image generators: `NextToken` draws one token after the other, `NextScale` all codes of a scale
at once. What both share is `Generator`, in `protocol.py`.

Letters in tensor names: B pictures (or rows), P prompt positions, L codes of a picture (T for image tokens), S
positions being read, D width, V entries of the codebook.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..memory import batch_that_fits, picture_bytes, sizes_of_generator
from .batch import Past, PromptBatch
from .protocol import Generator, Steering

__all__ = ["Generator", "NextScale", "NextToken", "Past", "PromptBatch", "Steering"]


class NextToken(Generator):
    """A model that draws one image token after the other.

    Attributes:
        grid: rows and columns of image tokens.
        codebook_size: values of a token.
        trunk: transformers' decoder, with its embeddings and config.
        embed_image_tokens: embeddings [B, S, D] of tokens [B, S], for a model that reads nothing between them; such a
            model can be drawn by a captured step (`static.py`). None for others.
        graphs: whether such a step is used; None for on a GPU only.
    """

    trunk: Any
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

    @property
    def word_embeddings(self) -> torch.nn.Embedding:
        return self.trunk.get_input_embeddings()

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
    def _ask(self, question: str) -> torch.Tensor:
        """A question about a picture in the model's conversation format, its tokens int64 [P]."""

    @abstractmethod
    def _answer(self, ids_BP: torch.Tensor, images_BHW3: torch.Tensor, **settings: Any) -> torch.Tensor:
        """transformers' `generate` of a question about each of a few uint8 pictures, with those settings."""

    @torch.no_grad()
    def caption(self, images_BHW3: np.ndarray, question: str | None = None, max_new_tokens: int = 40) -> list[str]:
        """What the model says of pictures uint8 [N, H, W, 3], greedily, when asked `question`: by default what is in
        them. UserError for a model that cannot be asked."""
        from transformers import GenerationConfig

        ids_P = self._ask(question or "what is in the picture ?").to(self.device)
        special = {key: getattr(self.tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        # guidance 1, or the scale for drawing would be used on words
        greedy = GenerationConfig(
            do_sample=False, guidance_scale=1.0, max_length=len(ids_P) + max_new_tokens, **special
        )
        answers: list[str] = []
        for some in torch.from_numpy(np.ascontiguousarray(images_BHW3)).split(64):
            ids_BP = ids_P.repeat(len(some), 1)
            out = self._answer(ids_BP, some, attention_mask=torch.ones_like(ids_BP), generation_config=greedy)
            answers += self.tokenizer.batch_decode(out[:, len(ids_P) :], skip_special_tokens=True)
        return [answer.strip() for answer in answers]

    def acting(self, where: str = "words") -> torch.Tensor | None:
        """Where the words of prompts stand among the positions being read, bool [B, S]; None if those are image
        tokens."""
        return self._words_BS

    @contextmanager
    def reading(self, words_BS: torch.Tensor | None, texts: tuple[str, ...] = ()) -> Iterator[None]:
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

    def drawing_order(self, prompts: list[str]) -> list[int]:
        """Prompts of like length go together, so that little padding is computed.

        Raises:
            UserError: the longest one and a picture do not fit into the model's context together.
        """
        if prompts:
            longest = max(prompts, key=len)
            length = self.encode([longest]).ids_BP.shape[1]
            room = self.trunk.config.max_position_embeddings - self.positions(self.num_codes)
            if length > room:
                line = f"a prompt of {length} tokens is too long for {self.name}: {room} fit before a picture"
                raise UserError(f"{line}; it begins '{longest[:40]}'")
        return sorted(range(len(prompts)), key=lambda i: len(prompts[i]))

    def fitting_batch(self) -> int:
        """On a GPU as many pictures as fit into its free memory, at most 128; on a CPU 128 of a model whose pictures
        take less than 8 MiB each, else 64."""
        if self.device.type == "cpu":
            return 128 if picture_bytes(sizes_of_generator(self), self.dtype) < 2**23 else 64
        return batch_that_fits(self, largest=128)

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
        trunk: `var.transformer.Transformer`, or what has its interface.
        config: its `NextScaleConfig`.
        schedule: the side of each scale, in codes.
        spans: where each scale's codes lie among a picture's.
        quantiser: what a code is, and what its logits look like (`var/quantisers.py`).
    """

    trunk: Any
    config: Any
    schedule: tuple[int, ...]
    spans: tuple[slice, ...]
    quantiser: Any

    @abstractmethod
    def inputs_of(self, codes: torch.Tensor) -> torch.Tensor:
        """What the transformer reads when it is given codes (int64 [B, L] or [B, L, C]) of all scales, or of the first
        ones: inputs_BLC, for scale k what the scales before k draw."""

    @abstractmethod
    def logits(self, prompts: PromptBatch, codes: torch.Tensor) -> torch.Tensor:
        """Logits of every code given the prompt and the scales before it in `codes`, in one masked pass: [B, L, C, 2]
        (bits) or [B, L, V] (a codebook).

        With the codes of the first scales only, logits of those. Differentiable in the trunk's parameters. No guidance:
        that is u + g (c - u) with the logits of `null_like(prompts)`.
        """

    def acting(self, where: slice) -> torch.Tensor | None:
        """Which of the codes being read lie in the slice `where` of a picture's codes: bool [1, S]."""
        mask_L = torch.zeros(self.num_codes, dtype=torch.bool, device=self.device)
        mask_L[where] = True
        return mask_L[self.trunk.reading][None]
