"""Two quantisers behind one interface: bits (binary spherical quantisation, as in Infinity) and a codebook (as in VAR).

Letters: B pictures, N positions, C channels of the latent, V codebook rows. A *code* is what stands at one position: C
bits (int64 [B, N, C], 0 or 1) or one row number (int64 [B, N]). Everything that depends on which of the two it is lives
here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..sampling import gumbel_noise
from .config import NextScaleConfig


class Quantiser(nn.Module):
    """What both share."""

    width: int  # channels of the latent
    code_shape: tuple[int, ...]  # of one code
    outputs: int  # numbers that a transformer's head gives for a position

    def choose(self, logits: torch.Tensor, seeds_B: torch.Tensor, first: int, temperature: float) -> torch.Tensor:
        """Codes sampled from the logits [B, N, ...] of positions `first`, `first` + 1, ...; the noise of a value
        depends on (seed, position, value), and for bits on which of them it is."""
        logits = logits.float()
        if temperature > 0:
            noise = [gumbel_noise(seeds_B, first + n, self.outputs) for n in range(logits.shape[1])]
            logits = logits / temperature + torch.stack(noise, 1).view_as(logits)
        return logits.argmax(-1)


class BitQuantiser(Quantiser):
    """A latent vector becomes its signs; every code is a vector of length 1 (BSQ, Zhao et al. 2024; no codebook to
    learn)."""

    def __init__(self, width: int):
        super().__init__()
        self.width, self.code_shape, self.outputs = width, (width,), 2 * width

    def quantise(self, z_BNC: torch.Tensor) -> torch.Tensor:
        return (z_BNC > 0).long()

    def vectors(self, codes_BNC: torch.Tensor) -> torch.Tensor:
        """float32 [B, N, C]: plus or minus 1 / sqrt(C)."""
        return (2 * codes_BNC.float() - 1) / self.width**0.5

    def corrupt(
        self, codes_BNC: torch.Tensor, rate_B11: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """The codes with every bit turned over with probability `rate_B11` of its picture (Infinity's bitwise self-
        correction, section 3.4)."""
        noise = torch.rand(codes_BNC.shape, generator=generator, device=codes_BNC.device)
        return codes_BNC ^ (noise < rate_B11).long()

    def split(self, head_BNO: torch.Tensor) -> torch.Tensor:
        """The head's numbers as logits [B, N, C, 2]; [..., b] belongs to bit value b."""
        return head_BNO.unflatten(-1, (self.width, 2))

    def cross_entropy(self, logits_BNC2: torch.Tensor, codes_BNC: torch.Tensor) -> torch.Tensor:
        """Nats of every bit: float32 [B, N, C]."""
        margin = (logits_BNC2[..., 1] - logits_BNC2[..., 0]).float()
        return F.softplus(torch.where(codes_BNC > 0, -margin, margin))


class CodebookQuantiser(Quantiser):
    """A latent vector becomes the nearest of V learned rows (VQ; one codebook for all scales, as in VAR)."""

    def __init__(self, width: int, size: int):
        super().__init__()
        self.width, self.code_shape, self.outputs = width, (), size
        self.codebook = nn.Parameter(torch.randn(size, width) / width**0.5)

    def quantise(self, z_BNC: torch.Tensor) -> torch.Tensor:
        rows_VC = self.codebook.float()
        distance_BNV = rows_VC.square().sum(1) - 2 * z_BNC.float() @ rows_VC.T
        return distance_BNV.argmin(-1)

    def vectors(self, codes_BN: torch.Tensor) -> torch.Tensor:
        """float32 [B, N, C]: rows of the codebook, with a gradient to them."""
        return F.embedding(codes_BN, self.codebook).float()

    def corrupt(
        self, codes_BN: torch.Tensor, rate_B11: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """The codes, each replaced by a random one with probability `rate_B11` of its picture."""
        noise = torch.rand(codes_BN.shape, generator=generator, device=codes_BN.device)
        other = torch.randint(self.outputs, codes_BN.shape, generator=generator, device=codes_BN.device)
        return torch.where(noise < rate_B11[..., 0], other, codes_BN)

    def split(self, head_BNO: torch.Tensor) -> torch.Tensor:
        """The head's numbers are the logits [B, N, V]."""
        return head_BNO

    def cross_entropy(self, logits_BNV: torch.Tensor, codes_BN: torch.Tensor) -> torch.Tensor:
        """Nats of every token: float32 [B, N]."""
        nats = F.cross_entropy(logits_BNV.float().flatten(0, 1), codes_BN.flatten(), reduction="none")
        return nats.view(codes_BN.shape)


def make_quantiser(config: NextScaleConfig) -> Quantiser:
    """The quantiser that a `NextScaleConfig` names."""
    if config.quantiser == "bsq":
        return BitQuantiser(config.code_width)
    return CodebookQuantiser(config.code_width, config.codebook_size)
