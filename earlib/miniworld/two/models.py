"""The shape of MiniJanus in MiniWorld 2: 8 layers of width 192 with wider MLPs than the first one, and 1,024 codes."""

from __future__ import annotations

from .. import models as first
from .captions import vocabulary

SHAPE = {"width": 192, "layers": 8, "mlp": 512, "codes": 1024}
GRID = first.GRID


def build_processor():
    """Tokenizer over MiniWorld 2's vocabulary, picture preprocessing and chat template in one `JanusProcessor`."""
    return first.build_processor(vocabulary())


def build_janus(tokenizer, **shape):
    """An untrained MiniJanus, float32; `shape` overrides SHAPE (tests build smaller ones)."""
    return first.build_janus(tokenizer, **SHAPE | shape)
