"""Next-scale (visual autoregressive) text-to-image models, a family of their own: `load_nextscale` finds one, `methods.erase` erases from it."""

from __future__ import annotations

__all__ = ["NextScaleConfig", "NextScaleErasure", "NextScaleGenerator", "NextScaleModel", "ScaleGuidance", "ScaleRecipe", "load_nextscale"]


def __getattr__(name: str):
    """Public names, imported when they are asked for: they need torch."""
    from importlib import import_module

    homes = {"NextScaleConfig": "config", "NextScaleGenerator": "generator", "NextScaleModel": "model", "load_nextscale": "generator"}
    homes |= {"NextScaleErasure": "store", "ScaleGuidance": "recipe", "ScaleRecipe": "recipe"}
    if name in homes:
        return getattr(import_module(f"{__name__}.{homes[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
