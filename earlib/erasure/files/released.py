"""The EAR authors' published erasures (immc-lab/EAR, `.pt` files), read as an `Erasure`.

Their file is a dictionary {module: {parameter: tensor}} with modules named relative to the language model:
`layers.0.self_attn.q_proj`, ... for layers 0-4. Older transformers put a rotary embedding into every attention block;
such entries hold nothing that was trained and are ignored.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import UserError
from ...generators.weights import unpickled

if TYPE_CHECKING:
    from ...generators.base import Generator

NAME = re.compile(r"layers\.\d+\.(self_attn|mlp)\.\w+$")


def read_released(file: str | Path, generator: Generator | None) -> dict[str, Any]:
    """The fields of an `Erasure` from the authors' `file`, checked against `generator`, whose fingerprint it gets.

    The file does not say which model it belongs to: sizes and layers must fit. Nothing but tensors is unpickled.
    UserError for a file that holds anything else, for layers or sizes that the generator does not have, and for numbers
    that are not finite.
    """
    file = Path(file)
    if generator is None:
        raise UserError(f"{file}: does not say which model it changes; load it together with a generator")
    tensors = read_tensors(file)
    depth, model = len(generator.decoder_layers), generator.name
    beyond = sorted(layer for name in tensors if (layer := int(name.split(".")[1])) >= depth)
    if beyond:
        line = f"changes decoder layer {beyond[0]}, and {model} has layers 0-{depth - 1}"
        raise UserError(f"{file}: {line}; it was made for another model")
    own = dict(generator.trunk.named_parameters())
    for name, tensor in tensors.items():
        if name not in own:
            line = f"changes {name}, which {model} does not have; it was made for another kind of model"
            raise UserError(f"{file}: {line}")
        if tensor.shape != own[name].shape:
            sizes = " and ".join("x".join(map(str, t.shape)) for t in (tensor, own[name]))
            line = f"{name} differs in size from {model}'s ({sizes}); it was made for a model of another size"
            raise UserError(f"{file}: {line}")
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{file}: {name} holds numbers that are not finite; fetch the file again")
    with open(file, "rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    return {
        "name": "ear-authors",
        "recipe": {"name": "ear-authors", "source": "https://huggingface.co/immc-lab/EAR"},
        "concept": file.stem,
        "generator_fingerprint": generator.fingerprint,
        "tensors": tensors,
        "info": {"file": file.name, "sha256": digest, "parameters": sum(t.numel() for t in tensors.values())},
    }


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of the authors' `file` by names relative to the trunk, of whatever model; UserError as above."""
    modules = unpickled(file, mapped=False)
    theirs = "theirs hold modules such as layers.0.self_attn.q_proj, each with its weight"
    wrong = UserError(f"{file}: is no erasure of the EAR authors; {theirs}")
    if not isinstance(modules, dict):
        raise wrong
    tensors: dict[str, torch.Tensor] = {}
    for module, parameters in modules.items():
        if "rotary_emb" in str(module):
            continue
        if not isinstance(parameters, dict) or not NAME.match(str(module)):
            raise wrong
        tensors |= {f"{module}.{name}": tensor for name, tensor in parameters.items()}
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise wrong
    return tensors
