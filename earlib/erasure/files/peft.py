"""Adapters in the files of peft, the library in which others keep theirs; peft itself is not needed.

    adapter_config.json           what the adapter is: peft_type LORA, r, lora_alpha, target_modules, ...
    adapter_model.safetensors     base_model.model.MODULE.lora_A.weight [r, in], ...lora_B.weight [out, r]

(The layout is described in peft's guide "PEFT checkpoint format".) MODULE is named relative to the trunk, the language
model: `PeftModel.from_pretrained( generator.trunk, FOLDER)` computes y = W x + (lora_alpha / r) B A x, and lora_alpha =
r here. peft acts at every position and for every prompt alike: adapters at words only are kept in `store.py`'s own
file, so that nobody uses them for what they are not.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import UserError
from ...runs import read_json, write_bytes, write_json
from ..change import adapters

if TYPE_CHECKING:
    from ...generators.base import Generator

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
NEUTRAL: dict[str, tuple[Any, ...]] = {  # what changes what an adapter computes, and the values at which it does not
    "bias": ("none",),
    "modules_to_save": (None, []),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None, []),
    "lora_bias": (False, None),
}


def fits_peft(tensors: Mapping[str, torch.Tensor], positions: str = "all") -> bool:
    """Whether peft's files can say all of a change: adapters only, at every position."""
    return bool(tensors) and positions == "all" and all(".lora_" in name for name in tensors)


def write_peft(tensors: Mapping[str, torch.Tensor], folder: str | Path) -> Path:
    """Write adapters (`change.py`'s names) as peft's two files into `folder`; the ranks of modules may differ."""
    from safetensors.torch import save

    if not fits_peft(tensors):
        raise UserError("peft's files hold adapters that act at every position; this change has other tensors")
    ranks = {module: len(a) for module, (a, _) in adapters(tensors).items()}
    most = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != most}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": None,
        "base_model_name_or_path": None,
        "revision": None,
        "inference_mode": True,
        "r": most,
        "lora_alpha": most,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "target_modules": sorted(ranks),
        "rank_pattern": others,
        "alpha_pattern": others,
    }
    folder, named = Path(folder), {PREFIX + name: t.detach().contiguous().cpu() for name, t in tensors.items()}
    write_bytes(folder / WEIGHTS, save(named, {"format": "pt"}))
    write_json(folder / CONFIG, config)
    return folder


def read_peft(folder: str | Path) -> dict[str, torch.Tensor]:
    """The adapters of a peft folder, by names relative to the model that peft would wrap, their scale put into B.

    UserError, one line, for a folder that holds none, is broken, or holds something that two matrices beside a linear
    layer cannot say.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    config = read_json(folder / CONFIG)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise UserError(f"{folder / CONFIG}: holds {kind or 'nothing'} of peft's; only LORA can be read")
    for name, fine in NEUTRAL.items():
        if name in config and config[name] not in fine:
            line = f"{name}={json.dumps(config[name])} cannot be read; only plain LORA adapters can"
            raise UserError(f"{folder / CONFIG}: {line}")
    try:
        found = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS}: broken or missing ({str(error).splitlines()[0]})") from None
    tensors = {}
    for name, t in found.items():
        module, _, side = name.removeprefix(PREFIX).rpartition(".lora_")
        if not name.startswith(PREFIX) or side not in ("A.weight", "B.weight") or t.dim() != 2:
            raise UserError(f"{folder / WEIGHTS}: {name} is no adapter of a linear layer")
        if side == "B.weight":
            alpha = _of(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
            scale = alpha / (math.sqrt(t.shape[1]) if config.get("use_rslora") else t.shape[1])
            t = t if scale == 1 else (t.float() * scale).to(t.dtype)
        tensors[f"{module}.lora_{side}"] = t
    if not tensors:
        raise UserError(f"{folder / WEIGHTS}: holds no adapters")
    return tensors


def fresh(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in memory of their own: in a file tensors may begin at any byte, and kernels round by how they are
    aligned."""
    return {name: t.clone() for name, t in tensors.items()}


def check_adapters(generator: Generator, tensors: Mapping[str, torch.Tensor], whose: str) -> None:
    """UserError, one line that begins with `whose`, if an adapter stands beside a layer that the trunk does not have,
    or does not fit it."""
    modules = dict(generator.trunk.named_modules())
    for name in dict.fromkeys(name.rpartition(".lora_")[0] for name in tensors if ".lora_" in name):
        module = modules.get(name)
        if not isinstance(module, nn.Linear):
            line = f"{whose} has a membrane for {name}, and {generator.name} has no such linear layer"
            raise UserError(f"{line} (its decoder layers are 0-{len(generator.decoder_layers) - 1})")
        a, b = (tensors.get(f"{name}.lora_{side}.weight") for side in "AB")
        if a is None or b is None:
            raise UserError(f"{whose} has half a membrane for {name}: lora_A and lora_B belong together")
        size = lambda t: "x".join(map(str, t.shape))
        if a.shape[1:] != module.weight.shape[1:] or b.shape[:1] != module.weight.shape[:1] or a.shape[0] != b.shape[1]:
            line = f"{whose} has a membrane of {size(a)} and {size(b)} for {name} of {size(module.weight)}"
            raise UserError(f"{line}; it was made for another model")


def read_foreign(folder: str | Path, generator: Generator | None) -> dict[str, Any]:
    """The fields of an `Erasure` from a folder of peft's alone, as other tools write it. It does not say which model it
    changes: `generator` must fit it."""
    if generator is None:
        raise UserError(f"{folder}: does not say which model it changes; load it together with a generator")
    tensors = fresh(read_peft(folder))
    check_adapters(generator, tensors, f"{folder}:")
    return {
        "name": "peft",
        "recipe": {"name": "peft", "source": Path(folder).name},
        "concept": Path(folder).name,
        "generator_fingerprint": generator.fingerprint,
        "tensors": tensors,
        "info": {"parameters": sum(t.numel() for t in tensors.values())},
    }


def _of(pattern: dict | None, module: str, otherwise: float) -> float:
    """A module's own value, where the pattern has one for it or for the end of its name."""
    named = (value for key, value in (pattern or {}).items() if module == key or module.endswith(f".{key}"))
    return next(named, otherwise)
