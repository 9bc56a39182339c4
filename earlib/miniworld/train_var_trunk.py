"""Stage two of MiniVAR: its transformer learns to spell pictures, scale by scale, from their captions.

Pictures are encoded once, to latents; codes are spelt anew in every step, because some are changed on purpose: what
later scales then have to spell depends on the change (bitwise self-correction, Infinity section 3.4: the transformer
learns to mend its own slips).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .captions import describe
from .fit import fit
from .scenes import Scenes, render, sample_scenes
from .train_vq import to_pixels

BLANK = 0.1  # share of prompts that are blanked, as guidance needs a model of pictures without a prompt
RATES = 31  # codes changed on purpose: one of 0, 1, ... 30 % in every scale of every picture


@torch.no_grad()
def encode_pool(tokenizer, pool: Scenes, device: str, chunk: int = 128) -> torch.Tensor:
    """Latents of every scene of `pool`: float32 [N, C, H, H] on the CPU."""
    tokenizer.to(device).eval()
    pixels = lambda i: to_pixels(render(pool[slice(i, i + chunk)])).to(device, memory_format=torch.channels_last)
    with torch.autocast(device, torch.bfloat16):  # as it was trained
        return torch.cat([tokenizer.encoder(pixels(i)).float().cpu() for i in range(0, len(pool), chunk)])


def train_trunk(
    model,
    folder: Path,
    steps: int,
    batch: int = 32,
    lr: float = 2e-3,
    matrix_lr: float = 4e-3,
    seed: int = 0,
    device: str = "cpu",
    pool: int = 48_000,
):
    """Train `model.trunk` (a NextScaleModel's) in place; returns the log. Losses are nats a bit (bsq) or a token (vq),
    by scale as well.

    Positions of scale k weigh 1 / its side, so that a scale counts as its side does and not as its area (Infinity's
    released recipe).
    """
    from ..generators.var.generator import encode_words, null_words

    config, tokenizer, trunk = model.config, model.tokenizer, model.trunk
    scenes = sample_scenes(pool, [seed, 21])
    latents = encode_pool(tokenizer, scenes, device)
    quantiser = tokenizer.quantiser
    trunk.to(device).train()
    null_1P = null_words(model.words, config.text_length)
    weight_L = torch.cat([torch.full((side * side,), 1 / side) for side in config.schedule]).to(device)
    weight_L = weight_L / weight_L.sum()

    @torch.compile
    def forward(ids_BP, mask_BP, inputs_BLC):
        return trunk(trunk.condition(ids_BP, mask_BP), inputs_BLC)

    def loss_at(step):
        rng = np.random.default_rng([seed, 22, step])
        rows = rng.integers(0, len(scenes), batch)
        ids, mask = encode_words(model.words, describe(scenes[rows], rng), config.text_length)
        blank = torch.from_numpy(rng.random(batch) < BLANK)[:, None]
        ids, mask = torch.where(blank, null_1P[0], ids).to(device), torch.where(blank, null_1P[1], mask).to(device)
        generator = torch.Generator(device).manual_seed(1_000_003 * seed + step)
        rate = lambda: torch.randint(RATES, (batch, 1, 1), generator=generator, device=device) / 100
        with torch.no_grad():
            codes, inputs, _ = tokenizer.pyramid(
                latents[rows].to(device), corrupt=lambda c, k: quantiser.corrupt(c, rate(), generator)
            )
        with torch.autocast(
            device, torch.bfloat16, enabled=device != "cpu"
        ):  # measured on two CPU cores: float32 takes 0.7 of half precision's time
            head = forward(ids, mask, inputs)
        logits = quantiser.split(head.float())
        nats_BL = (
            quantiser.cross_entropy(logits, codes).flatten(2).mean(2)
            if codes.dim() == 3
            else quantiser.cross_entropy(logits, codes)
        )
        numbers = {}
        if step % 20 == 0 or step == steps - 1:
            right = (logits.argmax(-1) == codes).float().detach()
            for k, span in enumerate(config.spans):
                numbers |= {f"nats{k}": nats_BL[:, span].mean().item(), f"right{k}": right[:, span].mean().item()}
        return (nats_BL.mean(0) * weight_L).sum(), numbers

    matrices = [
        p
        for part in (trunk.blocks, trunk.text.blocks)
        for m in part.modules()
        if isinstance(m, torch.nn.Linear)
        for p in [m.weight]
    ]
    log = fit(
        {"trunk": trunk},
        loss_at,
        folder=folder,
        steps=steps,
        lr=lr,
        weight_decay=0.05,
        seed=seed,
        matrices=matrices,
        matrix_lr=matrix_lr,
    )
    model.eval()
    return log
