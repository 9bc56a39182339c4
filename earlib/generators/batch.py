"""Prompts as a model reads them, and what a next-token model has read so far.

Letters in tensor names: B prompts, P their positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class PromptBatch:
    """Tokenized prompts, padded to one length.

    Attributes:
        ids_BP: int64, the words' numbers.
        mask_BP: int64, 0 where a position is padding and is never attended to.
        texts: the prompts themselves, row by row; the unconditional twin of a row keeps its prompt's. May be empty.
    """

    ids_BP: torch.Tensor
    mask_BP: torch.Tensor
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids_BP)

    def __getitem__(self, rows: Any) -> PromptBatch:
        """Some of the rows: a slice, a list of row numbers, or a tensor of them or of booleans."""
        chosen = np.arange(len(self))[rows.cpu().numpy() if isinstance(rows, torch.Tensor) else rows].tolist()
        return PromptBatch(self.ids_BP[rows], self.mask_BP[rows], tuple(self.texts[i] for i in chosen if self.texts))

    def stack(self, other: PromptBatch) -> PromptBatch:
        """The rows of both, one below the other; the shorter ones are padded at their left."""
        length = max(self.ids_BP.shape[1], other.ids_BP.shape[1])
        a, b = (batch.padded(length) for batch in (self, other))
        return PromptBatch(torch.cat([a.ids_BP, b.ids_BP]), torch.cat([a.mask_BP, b.mask_BP]), a.texts + b.texts)

    def padded(self, length: int) -> PromptBatch:
        """The rows, padded at their left to `length` positions."""
        more = length - self.ids_BP.shape[1]
        return PromptBatch(F.pad(self.ids_BP, (more, 0)), F.pad(self.mask_BP, (more, 0)), self.texts)


@dataclass
class Past:
    """What a next-token model has read so far of a picture that is fed to it in windows.

    Attributes:
        cache: keys and values, or None before the first window.
        pending_B1: the last image token given, which the model has not read yet.
        length: image tokens given so far.
    """

    cache: Any = None
    pending_B1: torch.Tensor | None = None
    length: int = 0

    def detach_(self) -> Past:
        """Cut the graph: later windows see these keys and values as constants, as a rollout would."""
        if self.cache is not None:
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return self
