"""Stage one: the picture tokenizer of MiniJanus (its `vqmodel`), trained to rebuild MiniWorld pictures.

Transformers' own quantiser cannot be trained as it stands (its forward pass lets no gradient reach the encoder), and
its encoder and decoder disagree on whether codes are normalised. So the forward pass is written out here: latents and
codes both live on the unit sphere, and at the end the codebook rows are normalised in place, after which the class's
own `encode` and `decode` agree with what was trained.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .fit import fit
from .scenes import PATCH, Scenes, render, sample_scenes


def to_pixels(images_NHW3: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images_NHW3).permute(0, 3, 1, 2).float() / 127.5 - 1


def changed(scenes: Scenes, step: int) -> Scenes:
    """The same scenes with another object in another colour (even steps), or the same objects somewhere else (odd
    steps)."""
    n = len(scenes)
    if step % 2 == 0:
        return replace(
            scenes,
            object=np.roll(scenes.object, 1),
            colour=np.roll(scenes.colour, 1),
            object2=np.full(n, -1),
            colour2=np.full(n, -1),
        )
    return replace(scenes, place=np.roll(scenes.place, 1), variant=np.roll(scenes.variant, 1))


def same_patches(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two pictures agree in every pixel of a patch: bool [N, rows, columns]."""
    n, h, w, _ = a.shape
    return (a == b).all(-1).reshape(n, h // PATCH, PATCH, w // PATCH, PATCH).all((2, 4))


def train_vq(
    vq,
    folder: Path,
    steps: int = 1600,
    batch: int = 16,
    lr: float = 1.5e-3,
    seed: int = 0,
    device: str = "cpu",
    fresh: bool = True,
    local: float = 4.0,
):
    """Train `vq` (a JanusVQVAE) in place and return the log. Codes unused for a while are re-seeded from latents during
    the first 70 %.

    `fresh=False` goes on from a trained `vq`: its codebook is kept and the quantiser is on from the first step. `local`
    weighs how much latents may differ where two pictures do not: the class's normalisations see the whole picture, and
    left alone they spell one patch of sky in a dozen ways, depending on what stands below it. Such tokens are hard to
    predict.
    """
    vq.to(device).train()
    codebook = vq.quantize.embedding.weight
    used = torch.zeros(len(codebook), device=device)
    latents = {}
    encode = torch.compile(
        lambda x: vq.quant_conv(vq.encoder(x))
    )  # two thirds faster on a CPU, after a minute of compiling
    decode = torch.compile(lambda q: vq.decoder(vq.post_quant_conv(q)))
    autocast = torch.autocast(device, torch.bfloat16, enabled=device != "cpu")

    def loss_at(step):
        scenes = sample_scenes(batch // 2, [seed, 11, step])
        first, second = render(scenes), render(changed(scenes, step))
        x = to_pixels(np.concatenate([first, second])).to(device)
        with autocast:
            z = encode(x).float()
        z = F.normalize(z, dim=1)
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        latents["flat"] = flat.detach()
        ids = (flat @ F.normalize(codebook, dim=1).T).argmax(1)
        used.index_add_(0, ids, torch.ones_like(ids, dtype=used.dtype))
        code = F.normalize(codebook, dim=1)[ids].view(len(x), *z.shape[2:], -1).permute(0, 3, 1, 2)
        # the first steps go round the codebook, so that it can be started from latents that mean something
        q = z if fresh and step < 30 else z + (code - z).detach()
        with autocast:
            y = decode(q).float()
        rebuild = F.mse_loss(y, x) + 0.5 * F.l1_loss(y, x)
        commit = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
        same = torch.from_numpy(same_patches(first, second)).to(device)[:, None]
        a, b = z.chunk(2)
        drift = ((a - b).square().sum(1, keepdim=True) * same).sum() / same.sum().clamp_min(1)
        loss = rebuild + local * drift + (0 if fresh and step < 30 else commit)
        return loss, {
            "mse": F.mse_loss(y, x).item(),
            "commit": commit.item(),
            "drift": drift.item(),
            "codes": (used > 0).sum().item(),
        }

    @torch.no_grad()
    def after_step(step):
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        pick = lambda n: latents["flat"][torch.randint(len(latents["flat"]), (n,), generator=generator).to(device)]
        if fresh and step == 29:
            codebook.copy_(pick(len(codebook)))
            used.zero_()
        elif step > 30 and step % 25 == 0:
            dead = used < 1
            if step < 0.7 * steps and dead.any():
                codebook[dead] = pick(int(dead.sum()))
            used.zero_()

    log = fit(
        {"vq": vq}, loss_at, folder=folder, steps=steps, lr=lr, weight_decay=0.0, seed=seed, after_step=after_step
    )
    with torch.no_grad():
        codebook.copy_(F.normalize(codebook, dim=1))
    return log
