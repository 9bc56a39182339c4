"""The multi-scale residual tokenizer: pictures to codes of all scales, and back (VAR, Tian et al. 2024, algorithms 1
and 2).

The latent grid f is spelt from coarse to fine: each scale quantises what the scales before it have left, reduced to its
own size, and adds its vectors back at full size. f_hat is the sum so far. What a transformer reads at scale k is f_hat
of the scales before k, reduced to the size of scale k: `next_input`, the one function that training and drawing share.

Letters: B pictures, C channels of the latent, H cells a side of the latent grid, N positions of one scale, L of all
scales.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .config import NextScaleConfig
from .quantisers import make_quantiser


def resize_matrix(size: int, to: int, mode: str) -> torch.Tensor:
    """float32 [to, size]: `M @ x @ M.T` is `F.interpolate(x, (to, to), mode=mode)` of square x, as every one of these
    modes is separable."""
    options = {} if mode in ("area", "nearest") else {"align_corners": False}
    columns = torch.eye(size).view(size, 1, size, 1)
    return F.interpolate(columns, (to, 1), mode=mode, **options)[:, 0, :, 0].T.contiguous()


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of every cell by itself: a patch of sky is spelt alike whatever stands
    below it."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        length_B1HW = torch.rsqrt(x_BCHW.float().square().mean(1, keepdim=True) + 1e-6)
        return x_BCHW * length_B1HW.to(x_BCHW.dtype) * self.weight[:, None, None]


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.silu(self.first(self.norm(x))))


class Tokenizer(nn.Module):
    """Encoder, quantiser and decoder of a `NextScaleConfig`. Pictures here are float [B, 3, S, S] in [-1, 1]."""

    def __init__(self, config: NextScaleConfig):
        super().__init__()
        self.config = config
        down, up, before = [], [], 3
        for stride, channels in zip(config.strides, config.channels):
            inside, wide = before * stride**2, int(before <= 3)  # the first stage looks at neighbours too
            down += [nn.PixelUnshuffle(stride), nn.Conv2d(inside, channels, 1 + 2 * wide, padding=wide)]
            down.append(Residual(channels))
            up = [Residual(channels), nn.Conv2d(channels, inside, 3, padding=1), nn.PixelShuffle(stride), *up]
            before = channels
        C = config.code_width
        self.encoder = nn.Sequential(*down, Residual(before), ChannelNorm(before), nn.Conv2d(before, C, 1))
        self.decoder = nn.Sequential(nn.Conv2d(C, before, 3, padding=1), Residual(before), *up)
        self.quantiser = make_quantiser(config)
        self.phi = nn.ModuleList(nn.Conv2d(C, C, 3, padding=1) for _ in range(config.phis))
        self.make_resizing()

    def make_resizing(self) -> None:
        """The matrices between the latent grid and each scale, which no file stores."""
        size, config = self.config.latent_size, self.config
        for k, side in enumerate(config.schedule):
            self.register_buffer(f"down{k}", resize_matrix(size, side, config.resize_down), persistent=False)
            self.register_buffer(f"up{k}", resize_matrix(side, size, config.resize_up), persistent=False)

    # ---------------------------------------------------------------- one scale

    def reduce(self, x_BCHH: torch.Tensor, k: int) -> torch.Tensor:
        """A latent grid at the size of scale `k`, one row a position: [B, N, C]."""
        matrix = self.get_buffer(f"down{k}")
        return (matrix @ x_BCHH @ matrix.T).flatten(2).transpose(1, 2)

    next_input = reduce  # what the transformer reads at scale k is f_hat at that size

    def spread(self, vectors_BNC: torch.Tensor, k: int) -> torch.Tensor:
        """The vectors of scale `k` on the whole latent grid: [B, C, H, H]."""
        matrix, side = self.get_buffer(f"up{k}"), self.config.schedule[k]
        u = matrix @ vectors_BNC.transpose(1, 2).unflatten(2, (side, side)) @ matrix.T
        if not self.phi:
            return u
        phi = self.phi[k * len(self.phi) // len(self.config.schedule)]
        return 0.5 * u + 0.5 * phi(u)

    # ---------------------------------------------------------------- all scales

    def pyramid(
        self, f_BCHH: torch.Tensor, corrupt: Callable | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Codes of all scales, the transformer's inputs, and f_hat after each scale, of a latent grid.

        Returns (codes [B, L] or [B, L, C], inputs_BLC, [f_hat_BCHH] * K). `corrupt(codes, k)` may change the codes that
        are added to f_hat: those returned stay clean, and later ones spell what the changed ones have left (bitwise
        self-correction, Infinity section 3.4).
        """
        f_hat, codes, inputs, steps = torch.zeros_like(f_BCHH), [], [], []
        for k in range(len(self.config.schedule)):
            inputs.append(self.next_input(f_hat, k))
            clean = self.quantiser.quantise(self.reduce(f_BCHH - f_hat, k).detach())
            f_hat = f_hat + self.spread(self.quantiser.vectors(corrupt(clean, k) if corrupt else clean), k)
            codes.append(clean)
            steps.append(f_hat)
        return torch.cat(codes, 1), torch.cat(inputs, 1), steps

    def nothing(self, pictures: int) -> torch.Tensor:
        """f_hat_BCHH before the first scale: zeros."""
        C, H = self.config.code_width, self.config.latent_size
        return torch.zeros(pictures, C, H, H, device=self.down0.device, dtype=self.down0.dtype)

    def accumulate(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(inputs_BLC, f_hat_BCHH) of the codes of all scales, or of the first ones: what the transformer reads for
        them, and what the decoder draws."""
        config = self.config
        f_hat = self.nothing(len(codes))
        inputs = []
        for k, span in enumerate(config.spans):
            if span.stop > codes.shape[1]:
                break
            inputs.append(self.next_input(f_hat, k))
            f_hat = f_hat + self.spread(self.quantiser.vectors(codes[:, span]).to(f_hat.dtype), k)
        return torch.cat(inputs, 1), f_hat

    def tokenize(self, pixels_B3SS: torch.Tensor) -> torch.Tensor:
        """Codes of all scales: int64 [B, L] or [B, L, C]."""
        return self.pyramid(self.encoder(pixels_B3SS).to(self.down0.dtype))[0]

    def rebuild(self, codes: torch.Tensor) -> torch.Tensor:
        """Pictures of codes: [B, 3, S, S], not clipped."""
        return self.decoder(self.accumulate(codes)[1])
