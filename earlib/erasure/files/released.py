"""The EAR authors' published erasures (immc-lab/EAR, `.pt` files), read as an `Erasure`.

Their file is a dictionary {module: {parameter: tensor}} with modules named relative to the language model:
`layers.0.self_attn.q_proj`, ... for layers 0-4. Older transformers put a rotary embedding into every attention block;
such entries hold nothing that was trained and are ignored.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...errors import UserError

if TYPE_CHECKING:
    from ...generators.base import Generator

NAME = re.compile(r"layers\.(\d+)\.(self_attn|mlp)\.\w+$")


def read_released(file: str | Path, generator: Generator) -> dict:
    """The fields of an `Erasure` from the authors' `file`, checked against `generator`, whose fingerprint it gets.

    The file does not say which model it belongs to: sizes and layers must fit. Nothing but tensors is unpickled.
    UserError for a file that holds anything else, for layers or sizes that the generator does not have, and for numbers
    that are not finite.
    """
    file = Path(file)
    if generator is None:
        raise UserError(f"{file}: does not say which model it changes; load it together with a generator")
    tensors = _flat(file)
    depth = len(generator.decoder_layers)
    beyond = sorted({int(NAME.match(name.rpartition(".")[0])[1]) for name in tensors} - set(range(depth)))
    if beyond:
        raise UserError(
            f"{file}: changes decoder layer {beyond[0]}, and {generator.name} has layers 0-{depth - 1}; it was made "
            "for another model"
        )
    own = dict(generator.trunk.named_parameters())
    for name, tensor in tensors.items():
        if name not in own:
            raise UserError(
                f"{file}: changes {name}, which {generator.name} does not have; it was made for another kind of model"
            )
        if tensor.shape != own[name].shape:
            sizes = " and ".join("x".join(map(str, t.shape)) for t in (tensor, own[name]))
            raise UserError(
                f"{file}: {name} differs in size from {generator.name}'s ({sizes}); it was made for a model of "
                "another size"
            )
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


def _flat(file: Path) -> dict[str, torch.Tensor]:
    """Name relative to the trunk -> tensor."""
    try:
        modules = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{file}: is broken, or holds more than tensors and is refused; fetch it again from where you trust it"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError):
        raise UserError(f"{file}: broken or cut short; fetch it again") from None
    wrong = f"{file}: is no erasure of the EAR authors; "
    wrong += "theirs hold modules such as layers.0.self_attn.q_proj, each with its weight"
    if not isinstance(modules, dict) or not modules:
        raise UserError(wrong)
    tensors = {}
    for module, parameters in modules.items():
        if "rotary_emb" in str(module):
            continue
        if not isinstance(parameters, dict) or not NAME.match(str(module)):
            raise UserError(wrong)
        for name, tensor in parameters.items():
            if not isinstance(tensor, torch.Tensor):
                raise UserError(wrong)
            tensors[f"{module}.{name}"] = tensor
    if not tensors:
        raise UserError(wrong)
    return tensors
