"""MiniVAR in MiniWorld: its picture tokenizer, which spells pictures in codes of several scales, and its transformer,
which learns to spell them, scale by scale, from captions.

No picture is shown twice. Some codes are changed on purpose, and what later scales then have to spell depends on the
change (bitwise self-correction, Infinity section 3.4: the transformer learns to mend its own slips).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .captions import describe
from .fit import fit
from .scenes import render, sample_scenes
from .tokenizer import changed, to_pixels
from .trunk import BLANK

WARM = 30  # first steps, in which the decoder sees the latent itself
FLIPS = 0.1  # largest share of codes that are changed on purpose, so that the decoder forgives a transformer's slips
RATES = 31  # codes changed while the transformer learns: one of 0, 1, ... 30 % in every scale of every picture


def untrained(seed: int, **flags):
    """An untrained NextScaleModel of bits with MiniWorld's vocabulary; `flags` change its configuration."""
    from ..generators.var.config import NextScaleConfig
    from ..generators.var.model import NextScaleModel
    from .models import build_tokenizer

    torch.manual_seed(seed)
    words = build_tokenizer()
    return NextScaleModel(NextScaleConfig(vocabulary=len(words), **flags), words)


def _pixels(images: np.ndarray) -> torch.Tensor:
    return to_pixels(images).contiguous(memory_format=torch.channels_last)


def train_var_tokenizer(
    tokenizer, folder: Path, steps: int = 5000, batch: int = 48, lr: float = 2e-3, seed: int = 0, local: float = 1.0
) -> list[dict]:
    """Train a next-scale `Tokenizer` of bits in place and return the log.

    The loss of the latent is VAR's: f_hat after every scale is compared with f, so that coarse scales carry as much as
    they can. `local` holds a cell's latent to what the cell shows, whatever stands beside it.
    """
    tokenizer.train().to(memory_format=torch.channels_last)
    cells, quantiser = tokenizer.config.latent_size, tokenizer.quantiser
    encode, decode = torch.compile(tokenizer.encoder), torch.compile(tokenizer.decoder)

    def loss_at(step):
        scenes = sample_scenes(batch // 2, [seed, 14, step])
        first, second = render(scenes), render(changed(scenes, step))
        x = _pixels(np.concatenate([first, second]))
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        rate = torch.rand(len(x), 1, 1, generator=generator) * FLIPS * 2
        rate = torch.where(rate > FLIPS, 0, rate)  # half of the pictures keep all of their codes
        with torch.autocast("cpu", torch.bfloat16):
            f = encode(x)
        f = f.float()
        _, _, steps_BCHH = tokenizer.pyramid(f, corrupt=lambda c, k: quantiser.corrupt(c, rate, generator))
        f_hat = steps_BCHH[-1]
        with torch.autocast("cpu", torch.bfloat16):
            y = decode(f if step < WARM else f + (f_hat - f).detach())
        y = y.float()
        hold = sum(F.mse_loss(f, step_hat.detach()) for step_hat in steps_BCHH) / len(steps_BCHH)
        side = first.shape[1] // cells
        same = (first == second).all(-1).reshape(-1, cells, side, cells, side).all((2, 4))
        same = torch.from_numpy(same)[:, None]
        a, b = f.chunk(2)
        drift = ((a - b).square().mean(1, keepdim=True) * same).sum() / same.sum().clamp_min(1)
        mse = F.mse_loss(y, x)
        numbers = {"mse": mse.item(), "commit": hold.item(), "drift": drift.item(), "left": F.mse_loss(f, f_hat).item()}
        return mse + 0.5 * F.l1_loss(y, x) + 0.5 * hold + local * drift, numbers

    options = dict(folder=folder, steps=steps, lr=lr, weight_decay=0.0, seed=seed, fall=0.8)
    log = fit({"tokenizer": tokenizer}, loss_at, **options)
    tokenizer.eval().to(memory_format=torch.contiguous_format)
    return log


def train_var_trunk(
    model,
    folder: Path,
    steps: int = 18000,
    batch: int = 48,
    lr: float = 2e-3,
    matrix_lr: float = 4e-3,
    seed: int = 0,
    fall: float = 0.4,
) -> list[dict]:
    """Train the transformer of a NextScaleModel in place; return the log, in nats a bit, by scale as well.

    Positions of scale k weigh 1 / its side, so that a scale counts as its side does and not as its area (Infinity's
    released recipe). At the end the weights are the mean of the last ones.
    """
    from ..generators.var.generator import encode_words, null_words

    config, tokenizer, trunk = model.config, model.tokenizer, model.trunk
    quantiser = tokenizer.quantiser
    tokenizer.eval().requires_grad_(False)
    trunk.train()
    null_1P = null_words(model.words, config.text_length)
    weight_L = torch.cat([torch.full((side * side,), 1 / side) for side in config.schedule])
    weight_L = weight_L / weight_L.sum()
    encode = torch.compile(tokenizer.encoder)
    forward = torch.compile(lambda ids_BP, mask_BP, inputs_BLC: trunk(trunk.condition(ids_BP, mask_BP), inputs_BLC))

    def loss_at(step):
        rng = np.random.default_rng([seed, 24, step])
        scenes = sample_scenes(batch, rng, seen=True)
        ids, mask = encode_words(model.words, describe(scenes, rng), config.text_length)
        blank = torch.from_numpy(rng.random(batch) < BLANK)[:, None]
        ids, mask = torch.where(blank, null_1P[0], ids), torch.where(blank, null_1P[1], mask)
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        rate = lambda: torch.randint(RATES, (batch, 1, 1), generator=generator) / 100
        with torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16):
                f = encode(_pixels(render(scenes)))
            codes, inputs, _ = tokenizer.pyramid(
                f.float(), corrupt=lambda c, k: quantiser.corrupt(c, rate(), generator)
            )
        with torch.autocast("cpu", torch.bfloat16):
            head = forward(ids, mask, inputs)
        logits = quantiser.split(head.float())
        nats_BL = quantiser.cross_entropy(logits, codes).flatten(2).mean(2)
        numbers = {f"nats{k}": nats_BL[:, span].mean().item() for k, span in enumerate(config.spans)}
        return (nats_BL.mean(0) * weight_L).sum(), numbers

    linear = [m for part in (trunk.blocks, trunk.text.blocks) for m in part.modules() if isinstance(m, torch.nn.Linear)]
    options = dict(lr=lr, matrix_lr=matrix_lr, weight_decay=0.05, seed=seed, fall=fall, average=0.999)
    log = fit({"trunk": trunk}, loss_at, folder=folder, steps=steps, matrices=[m.weight for m in linear], **options)
    model.eval()
    return log
