"""What a next-scale model is: every flag that its pictures depend on, checked where it is made.

The flags are stored with the weights; which class makes what of them is in `tokenizer.py` and `model.py`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

from ...errors import UserError, nearest

QUANTISERS = ("bsq", "vq")
DOWN, UP = ("area", "bilinear"), ("bicubic", "bilinear", "nearest")


@dataclass(frozen=True)
class NextScaleConfig:
    """Sizes and settings of a next-scale model; the defaults are MiniVAR. Raises UserError for sizes that do not belong
    together."""

    image_size: int = 48  # pixels a side
    strides: tuple[int, ...] = (2, 2, 2)  # of the picture encoder's stages; their product is pixels a latent cell
    channels: tuple[int, ...] = (48, 96, 128)  # of those stages
    schedule: tuple[int, ...] = (1, 2, 3, 4, 6)  # side of each scale, in cells; the last is the whole latent grid
    quantiser: str = "bsq"  # bsq: a code is `code_width` bits; vq: a code is a row of a codebook
    code_width: int = 16  # channels of the latent
    codebook_size: int = 512  # rows of the codebook; vq only
    # to a coarser scale: residuals when tokenizing, the transformer's inputs when training and drawing
    resize_down: str = "area"
    resize_up: str = "bicubic"  # from a scale to the latent grid
    phis: int = 0  # convolutions after the way up, shared by neighbouring scales (VAR has 4, Infinity none)
    vocabulary: int = 0  # words that the text encoder knows
    text_length: int = 32  # words of a prompt; shorter ones are padded to it
    text_width: int = 128
    text_layers: int = 2
    text_mlp_ratio: float = 2.0
    width: int = 160  # of the transformer
    layers: int = 5
    head_width: int = 32
    mlp_ratio: float = 3.0  # of the blocks' feed-forward layers
    guidance: float = 2.0  # default guidance scale when drawing
    temperature: float = 1.0  # default temperature when drawing

    def __post_init__(self):
        for name in ("strides", "channels", "schedule"):  # lists, where they come from a JSON file
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, known in (("quantiser", QUANTISERS), ("resize_down", DOWN), ("resize_up", UP)):
            if getattr(self, name) not in known:
                raise UserError(f"unknown {name} '{getattr(self, name)}'; {nearest(getattr(self, name), known)}")
        stride, schedule = math.prod(self.strides), self.schedule
        if len(self.strides) != len(self.channels) or self.image_size % stride:
            raise UserError(
                f"strides {self.strides} do not divide pictures of {self.image_size} pixels into {len(self.channels)} "
                "stages"
            )
        if not schedule or schedule[-1] != self.latent_size:
            size = f"{self.latent_size} ({self.image_size} pixels / {stride})"
            raise UserError(f"the scale schedule {schedule} must end at the latent size {size}")
        if schedule[0] != 1 or list(schedule) != sorted(set(schedule)):
            raise UserError(f"the scale schedule {schedule} must rise from 1 to {self.latent_size}")
        if self.width % self.head_width or self.text_width % self.head_width:
            raise UserError(
                f"widths {self.width} and {self.text_width} must be multiples of the head width {self.head_width}"
            )

    @property
    def latent_size(self) -> int:
        """Cells a side of the latent grid."""
        return self.image_size // math.prod(self.strides)

    @property
    def length(self) -> int:
        """Positions of all scales together: the image tokens of a picture."""
        return sum(side * side for side in self.schedule)

    @property
    def spans(self) -> tuple[slice, ...]:
        """Where each scale's tokens lie among a picture's."""
        ends = [sum(s * s for s in self.schedule[: k + 1]) for k in range(len(self.schedule))]
        return tuple(slice(end - side * side, end) for end, side in zip(ends, self.schedule))

    def to_json(self) -> dict:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, flags: dict, where: str = "config.json") -> NextScaleConfig:
        """The configuration that `flags` spell; UserError if one is unknown or missing, as then its weights may mean
        something else."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(flags) - known):
            raise UserError(f"{where}: unknown flag '{unknown[0]}'; {nearest(unknown[0], known)}")
        if missing := sorted(known - set(flags)):
            raise UserError(f"{where}: the flag '{missing[0]}' is missing; it must hold {', '.join(sorted(known))}")
        return cls(**flags)
