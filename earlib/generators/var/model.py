"""A whole next-scale model: tokenizer, transformer and vocabulary; how it is saved and loaded.

A folder holds config.json, model.safetensors (half precision) and the word tokenizer's files. Every flag that drawing
depends on is in config.json and, once more, in the header of the weights: a config.json that was changed, or belongs to
other weights, is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import UserError
from ...runs import read_json, write_bytes, write_json
from ..weights import fingerprint
from .config import NextScaleConfig
from .tokenizer import Tokenizer
from .transformer import Transformer

if TYPE_CHECKING:
    from ...device import Placement
    from .generator import NextScaleGenerator

AT_DRAWING = ("guidance", "temperature")  # defaults that a user may edit: the weights do not depend on them


class NextScaleModel(nn.Module):
    """`tokenizer` (pictures to codes and back), `trunk` (prompts and codes to logits) and `words`, a transformers
    tokenizer."""

    def __init__(self, config: NextScaleConfig, words: Any):
        super().__init__()
        if config.vocabulary != len(words):
            line = f"the configuration knows {config.vocabulary} words, the word tokenizer {len(words)}"
            raise UserError(f"{line}; they do not belong together")
        self.config, self.words = config, words
        self.tokenizer = Tokenizer(config)
        self.trunk = Transformer(config, self.tokenizer.quantiser.outputs)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors (half precision) and the word tokenizer's files into `folder`."""
        from safetensors.torch import save

        folder, flags = Path(folder), self.config.to_json()
        halves = {name: tensor.detach().to("cpu", torch.float16) for name, tensor in self.state_dict().items()}
        halves = {name: tensor.contiguous() for name, tensor in halves.items()}
        write_bytes(folder / "model.safetensors", save(halves, {"format": "pt", "config": json.dumps(flags)}))
        self.words.save_pretrained(folder)
        write_json(folder / "config.json", flags)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> NextScaleModel:
        """The model in `folder`, in float32 on the CPU; UserError if it is none, or broken."""
        from transformers import PreTrainedTokenizerFast

        folder = Path(folder)
        config, tensors = read_checkpoint(folder)
        try:
            words = PreTrainedTokenizerFast.from_pretrained(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            line = f"tokenizer.json or tokenizer_config.json cannot be read ({str(error).strip().splitlines()[0]})"
            raise UserError(f"{folder}: {line}; fetch them again") from None
        model = cls(config, words)
        wanted = model.state_dict()
        if differing := sorted(wanted.keys() ^ tensors.keys()):
            what = "missing from" if differing[0] in wanted else "not known to this version, but in"
            line = f"{folder}: {len(differing)} tensors do not fit config.json"
            raise UserError(f"{line}; the first, {differing[0]}, is {what} model.safetensors")
        for name, tensor in tensors.items():
            if tensor.shape != wanted[name].shape:
                raise UserError(
                    f"{folder}: {name} has shape {list(tensor.shape)}, but config.json makes it "
                    f"{list(wanted[name].shape)}; they do not belong together"
                )
            if not tensor.isfinite().all():
                raise UserError(f"{folder}: {name} holds infinite numbers or NaN; the weights are damaged")
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return model.eval()


def read_checkpoint(folder: Path) -> tuple[NextScaleConfig, dict[str, torch.Tensor]]:
    """Configuration and stored tensors of a folder. UserError if a file is missing or broken, or if the weights were
    trained with other flags."""
    from safetensors import SafetensorError, safe_open

    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            line = f"{folder} is no next-scale model: it holds no {name}"
            raise UserError(f"{line}; give a folder written by save_pretrained")
    flags = read_json(folder / "config.json")
    if not isinstance(flags, dict) or "schedule" not in flags:
        raise UserError(f"{folder}/config.json is not that of a next-scale model: it has no 'schedule'")
    try:
        with safe_open(folder / "model.safetensors", "pt") as file:
            trained = json.loads((file.metadata() or {}).get("config", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder}/model.safetensors: broken or cut short ({error}); fetch it again") from None
    config = NextScaleConfig.from_json(flags, f"{folder}/config.json")
    for name in sorted(set(flags) | set(trained)):
        if name not in AT_DRAWING and flags.get(name) != trained.get(name):
            line = f"{folder}: config.json says {name} = {flags.get(name)}"
            raise UserError(f"{line}, but the weights were trained with {trained.get(name)}; restore config.json")
    return config, tensors


def load_nextscale(folder: Path, name: str, profile: str, place: Placement) -> NextScaleGenerator:
    """The generator of the model in `folder`; `load.load_generator` finds the folder.

    Raises:
        UserError: the model is broken, or its weights were trained with other flags than config.json says.
    """
    from .generator import NextScaleGenerator

    loaded = NextScaleModel.from_pretrained(folder)
    mark = fingerprint(loaded)
    return NextScaleGenerator(loaded.to(place.device, place.dtype), name, profile, mark)
