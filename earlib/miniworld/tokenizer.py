"""The picture tokenizers of MiniJanus and MiniEmu3 (their `vqmodel`), trained to rebuild pictures of MiniWorld.

Transformers' own quantisers cannot be trained as they stand (their forward pass lets no gradient reach the encoder),
and Janus' encoder and decoder disagree on whether codes are normalised. So the forward pass is written out here:
latents and codes both live on the unit sphere, and at the end the codebook rows are normalised in place, after which
the class's own `encode` and `decode` agree with what was trained (of codes of one length, the nearest to a latent is
the one in its direction).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .fit import fit
from .scenes import PATCH, Scenes, render, sample_scenes

ROUND = 30  # the first steps go round the codebook, so that it can be started from latents that mean something


def to_pixels(images_NHW3: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images_NHW3).permute(0, 3, 1, 2).float() / 127.5 - 1


def changed(scenes: Scenes, step: int) -> Scenes:
    """The same scenes with other objects (even steps), or the same objects somewhere else (odd steps)."""
    names = ("object", "colour", "framing", "object2", "colour2", "relation", "position", "flip")
    if step % 2:
        names = ("place", "variant")
    return replace(scenes, **{name: np.roll(getattr(scenes, name), 1) for name in names})


def same_patches(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two pictures agree in every pixel of a patch: bool [N, rows, columns]."""
    n, h, w, _ = a.shape
    return (a == b).all(-1).reshape(n, h // PATCH, PATCH, w // PATCH, PATCH).all((2, 4))


def halves(vq) -> tuple[Callable, Callable]:
    """What makes latents [N, C, h, w] of pictures [N, 3, H, W], and pictures of codes [N, C, h, w], both compiled: on a
    CPU two thirds faster, after a minute of compiling."""
    if hasattr(vq.config, "temporal_downsample_factor"):  # Emu3 sees films; a picture is one of a single moment
        encode = lambda x: vq.quant_conv(vq.encoder(x[:, None]).transpose(1, 2))[:, :, 0]
        decode = lambda q: vq.decoder(vq.post_quant_conv(q[:, :, None]).transpose(1, 2), q[:, None])
    else:
        encode = lambda x: vq.quant_conv(vq.encoder(x))
        decode = lambda q: vq.decoder(vq.post_quant_conv(q))
    return torch.compile(encode), torch.compile(decode)


def train_mode(vq) -> None:
    """Make ready for training; batch normalisations stand still, so that what is trained is what will be used."""
    vq.train().requires_grad_(True)
    for module in vq.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()
        elif isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)


class _Usage(nn.Module):
    """How often each code was used of late; a module, so that the checkpoint holds it."""

    def __init__(self, codes: int):
        super().__init__()
        self.register_buffer("count", torch.zeros(codes))


def train_tokenizer(
    vq,
    folder: Path,
    steps: int = 2100,
    batch: int = 32,
    lr: float = 1.5e-3,
    seed: int = 0,
    local: float = 0.3,
    commit_weight: float = 0.05,
) -> list[dict]:
    """Train a JanusVQVAE or an Emu3VQVAE in place and return the log. Codes unused for a while are re-seeded from
    latents in the first 70 % of the steps.

    `local` weighs how much latents may differ where two pictures do not: the class's normalisations see the whole
    picture, and left alone they spell one patch of sky in a dozen ways, depending on what stands below it. Such tokens
    are hard to predict.
    """
    train_mode(vq)
    codebook = vq.quantize.embedding.weight
    usage, latents = _Usage(len(codebook)), {}
    encode, decode = halves(vq)

    def loss_at(step):
        scenes = sample_scenes(batch // 2, [seed, 11, step])
        first, second = render(scenes), render(changed(scenes, step))
        x = to_pixels(np.concatenate([first, second])).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            z = encode(x)
        z = F.normalize(z.float(), dim=1)
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        latents["flat"] = flat.detach()
        unit = F.normalize(codebook, dim=1)
        ids = (flat.detach() @ unit.detach().T).argmax(1)
        usage.count.index_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))
        code = F.embedding(ids, unit).view(len(x), *z.shape[2:], -1).permute(0, 3, 1, 2)
        q = z if step < ROUND else z + (code - z).detach()
        with torch.autocast("cpu", torch.bfloat16):
            y = decode(q)
        y = y.float()
        rebuild = F.mse_loss(y, x) + 0.5 * F.l1_loss(y, x)
        # distances as shares of the latents' own variance: otherwise the cheapest way to make them small is to shrink
        # it
        spread = (flat - flat.mean(0)).square().sum(1).mean() + 1e-4
        distance = lambda u, v: (u - v).square().sum(1, keepdim=True) / spread
        commit = distance(z, code.detach()).mean()
        same = torch.from_numpy(same_patches(first, second))[:, None]
        drift = (distance(*z.chunk(2)) * same).sum() / same.sum().clamp_min(1)
        quantised = F.mse_loss(code, z.detach()) + commit_weight * commit if step >= ROUND else 0.0
        loss = rebuild + min(1.0, step / 400) * local * drift + quantised
        numbers = {
            "mse": F.mse_loss(y, x).item(),
            "commit": commit.item(),
            "drift": drift.item(),
            "spread": spread.item(),
        }
        return loss, numbers | {"codes": (usage.count > 0).sum().item()}

    @torch.no_grad()
    def after_step(step):
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        pick = lambda n: latents["flat"][torch.randint(len(latents["flat"]), (n,), generator=generator)]
        if step == ROUND - 1:
            codebook.copy_(pick(len(codebook)))
            usage.count.zero_()
        elif step > ROUND and step % 25 == 0:
            dead = usage.count < 1
            if step < 0.7 * steps and dead.any():
                codebook[dead] = pick(int(dead.sum()))
            usage.count.zero_()

    options = dict(folder=folder, steps=steps, lr=lr, weight_decay=0.0, seed=seed, fall=0.8)
    log = fit({"vq": vq, "usage": usage}, loss_at, after_step=after_step, **options)
    with torch.no_grad():
        codebook.copy_(F.normalize(codebook, dim=1))
    vq.eval()
    for module in vq.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.contiguous_format)
    return log
