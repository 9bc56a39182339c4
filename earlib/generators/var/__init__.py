"""Next-scale (visual autoregressive) text-to-image models: `load_nextscale` finds one."""

from .config import NextScaleConfig
from .generator import NextScaleGenerator, load_nextscale
from .model import NextScaleModel

__all__ = ["NextScaleConfig", "NextScaleGenerator", "NextScaleModel", "load_nextscale"]
