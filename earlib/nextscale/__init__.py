"""Next-scale (visual autoregressive) text-to-image models, a family of their own: `load_nextscale` finds one."""

from __future__ import annotations

__all__ = ["NextScaleConfig", "NextScaleGenerator", "NextScaleModel", "load_nextscale"]


def __getattr__(name: str):
    """Public names, imported when they are asked for: they need torch."""
    from importlib import import_module

    homes = {"NextScaleConfig": "config", "NextScaleGenerator": "generator", "NextScaleModel": "model", "load_nextscale": "generator"}
    if name in homes:
        return getattr(import_module(f"{__name__}.{homes[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
