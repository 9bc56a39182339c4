"""How long models take to draw the same prompts, measured in turns."""

from __future__ import annotations

import time

from ..generators import draw
from ..generators.base import Generator


def race(generators: dict[str, Generator], prompts: list[str], repeats: int = 3, seed: int = 0) -> list[dict]:
    """Draw the same `prompts` with several models of any family, in turns, so that what else the machine does falls on
    all of them. A turn before the first one warms up.

    Returns:
        A row for each model: `seconds` of the quickest turn, with decoding, and `slowest`; `passes` of the transformer
        for one batch, `codes` of a picture, and the transformer's `parameters`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in generators}
    passes = dict.fromkeys(generators, 0)
    for turn in range(repeats + 1):
        for name, generator in generators.items():
            seen: list[int] = []
            handle = generator.trunk.register_forward_hook(lambda *_, seen=seen: seen.append(1))
            began = time.perf_counter()
            draw(generator, prompts, seed, batch_size=len(prompts), progress=False)
            handle.remove()
            passes[name] = len(seen)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return [
        {"model": name, "seconds": min(seconds[name]), "slowest": max(seconds[name]), "passes": passes[name]}
        | {"codes": g.num_codes, "parameters": sum(p.numel() for p in g.trunk.parameters())}
        for name, g in generators.items()
    ]
