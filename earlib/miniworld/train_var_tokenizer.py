"""Stage one of MiniVAR: its picture tokenizer, trained to rebuild MiniWorld pictures from codes of all scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .fit import fit
from .scenes import render, sample_scenes
from .train_vq import changed, to_pixels

WARM = 30  # first steps, in which the decoder sees the latent itself
FLIPS = 0.1  # largest share of codes that are changed on purpose, so that the decoder forgives a transformer's slips


def same_cells(a: np.ndarray, b: np.ndarray, cells: int) -> np.ndarray:
    """Where two batches of pictures agree in every pixel of a latent cell: bool [N, cells, cells]."""
    side = a.shape[1] // cells
    return (a == b).all(-1).reshape(len(a), cells, side, cells, side).all((2, 4))


def train_tokenizer(
    tokenizer,
    folder: Path,
    steps: int,
    batch: int = 48,
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
    local: float = 1.0,
    commit: float = 0.5,
):
    """Train `tokenizer` (a nextscale Tokenizer) in place and return the log. `commit` holds the latent to its codes,
    `local` to what its cell shows.

    The loss of the latent is VAR's: f_hat after every scale is compared with f, so that coarse scales carry as much as
    they can. Rows of a codebook that were not used for 25 steps are started anew from what the scales have left to
    spell, during the first 70 %.
    """
    tokenizer.to(device).train()
    config, quantiser = tokenizer.config, tokenizer.quantiser
    learned = config.quantiser == "vq"
    used = torch.zeros(quantiser.outputs, device=device)
    seen = {}
    encode, decode = torch.compile(tokenizer.encoder), torch.compile(tokenizer.decoder)
    as_input = lambda images: to_pixels(images).to(device, memory_format=torch.channels_last)

    def loss_at(step):
        scenes = sample_scenes(batch // 2, [seed, 11, step])
        first, second = render(scenes), render(changed(scenes, step))
        x = as_input(np.concatenate([first, second]))
        generator = torch.Generator(device).manual_seed(1_000_003 * seed + step)
        rate = torch.rand(batch, 1, 1, generator=generator, device=device) * FLIPS * 2
        rate = torch.where(rate > FLIPS, 0, rate)  # half of the pictures keep all of their codes
        with torch.autocast(device, torch.bfloat16):
            f = encode(x)
        f = f.float()
        codes, inputs, steps_BCHH = tokenizer.pyramid(f, corrupt=lambda c, k: quantiser.corrupt(c, rate, generator))
        f_hat = steps_BCHH[-1]
        with torch.autocast(device, torch.bfloat16):
            y = decode(f if step < WARM else f + (f_hat - f).detach())
        y = y.float()
        rebuild = F.mse_loss(y, x) + 0.5 * F.l1_loss(y, x)
        hold = sum(F.mse_loss(f, step_hat.detach()) for step_hat in steps_BCHH) / len(steps_BCHH)
        same = torch.from_numpy(same_cells(first, second, config.latent_size)).to(device)[:, None]
        a, b = f.chunk(2)
        drift = ((a - b).square().mean(1, keepdim=True) * same).sum() / same.sum().clamp_min(1)
        loss = rebuild + commit * hold + local * drift
        numbers = {
            "mse": F.mse_loss(y, x).item(),
            "commit": hold.item(),
            "drift": drift.item(),
            "left": F.mse_loss(f, f_hat).item(),
            "norm": f.norm(dim=1).mean().item(),
        }
        if learned:
            follow = sum(F.mse_loss(step_hat, f.detach()) for step_hat in steps_BCHH) / len(steps_BCHH)
            loss = loss + follow
            used.index_add_(0, codes.flatten(), torch.ones(codes.numel(), device=device))
            with torch.no_grad():
                befores = [torch.zeros_like(f), *steps_BCHH[:-1]]
                seen["left"] = torch.cat([tokenizer.reduce(f - h, k).flatten(0, 1) for k, h in enumerate(befores)])
            numbers["codes"] = (used > 0).sum().item()
        else:
            numbers["ones"] = codes.float().mean((0, 1)).sub(0.5).abs().max().item()  # 0.5 if a bit never changes
        return loss, numbers

    @torch.no_grad()
    def after_step(step):
        if not learned:
            return
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        pick = lambda n: seen["left"][torch.randint(len(seen["left"]), (n,), generator=generator).to(device)]
        if step == WARM - 1:
            quantiser.codebook.copy_(pick(quantiser.outputs))
            used.zero_()
        elif step > WARM and step % 25 == 0:
            dead = used < 1
            if step < 0.7 * steps and dead.any():
                quantiser.codebook[dead] = pick(int(dead.sum()))
            used.zero_()

    log = fit(
        {"tokenizer": tokenizer},
        loss_at,
        folder=folder,
        steps=steps,
        lr=lr,
        weight_decay=0.0,
        seed=seed,
        after_step=after_step,
    )
    tokenizer.eval()
    return log
