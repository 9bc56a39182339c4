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
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import UserError
from ...generators.weights import unpickled
from ...runs import read_json, write_bytes, write_json
from ..change import adapters

if TYPE_CHECKING:
    from ...generators.base import Generator

CONFIG, WEIGHTS, OLD_WEIGHTS = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
# What a trunk is called in what peft may wrap: itself, a model around it, the authors' own class.
AROUND: tuple[str, ...] = ("", "model.", "language_model.", "model.language_model.", "language_model.model.")
AROUND += ("model.language_model.model.", "text_model.", "model.text_model.", "text_model.model.", "trunk.")
# Fields that say what an adapter computes and are read; that tensors say as well; that say where it comes from or how
# it was trained. Any other field must be one of NOTHING, at which it changes nothing.
READ = set("peft_type r lora_alpha alpha_pattern use_rslora".split())
READ |= set("rank_pattern target_modules exclude_modules layers_to_transform layers_pattern".split())
READ |= set("task_type auto_mapping peft_version base_model_name_or_path revision inference_mode lora_dropout".split())
READ |= set("eva_config runtime_config megatron_core qalora_group_size".split())
# init_lora_weights that leave the model's own as they are
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
NOTHING: tuple[Any, ...] = (None, False, "none", [], {})


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


def peft_folder(folder: str | Path) -> Path | None:
    """Where peft's files are: `folder`, or its one subfolder that has them (peft puts an adapter that has a name
    there); None without any. UserError if there are several."""
    folder = Path(folder)
    if (folder / CONFIG).is_file():
        return folder
    named = sorted(file.parent for file in folder.glob(f"*/{CONFIG}"))
    if len(named) > 1:
        raise UserError(f"{folder}: holds the adapters {', '.join(each.name for each in named)}; give one of them")
    return named[0] if named else None


def read_peft(folder: str | Path) -> dict[str, torch.Tensor]:
    """The adapters of a peft folder, by names relative to the model that peft would wrap, their scale put into B.

    UserError, one line, for a folder that holds none, is broken, or holds something that two matrices beside a linear
    layer cannot say.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise UserError(f"{folder / CONFIG}: holds {kind or 'nothing'} of peft's; only LORA can be read")
    for name, value in config.items():
        fine = value in STARTS if name == "init_lora_weights" else name in READ or value in NOTHING
        if not fine:
            line = f"{name}={json.dumps(value)[:60]} cannot be read; only plain LoRA adapters can"
            raise UserError(f"{folder / CONFIG}: {line}")
    file, found = _stored(folder)
    tensors, names = {}, set()
    for name, t in found.items():
        match = re.fullmatch(r"(.+)\.lora_([AB])(?:\.([^.]+))?\.weight", name.removeprefix(PREFIX))
        if not name.startswith(PREFIX) or not match or t.dim() != 2:
            raise UserError(f"{file}: {name} is no adapter of a linear layer")
        module, side, adapter = match.groups()
        names.add(adapter)  # None as peft saves it; a state dictionary that somebody saved has "default" or another
        if len(names) > 1:
            raise UserError(f"{file}: holds the adapters {' and '.join(sorted(map(str, names)))}; save them one by one")
        if not t.isfinite().all():
            raise UserError(f"{file}: {name} holds infinite numbers or NaN; the adapter is damaged")
        if side == "B":
            scale = _alpha(config, module, folder / CONFIG) / (t.shape[1] ** (0.5 if config.get("use_rslora") else 1))
            t = t if scale == 1 else t.float() * scale
        tensors[f"{module}.lora_{side}.weight"] = t
    if not tensors:
        raise UserError(f"{file}: holds no adapters")
    return tensors


def _stored(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The file of weights in `folder`, and its tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    old = not (folder / WEIGHTS).is_file() and (folder / OLD_WEIGHTS).is_file()
    file = folder / (OLD_WEIGHTS if old else WEIGHTS)
    try:
        found = unpickled(file, mapped=False) if old else load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: broken or missing ({str(error).splitlines()[0]})") from None
    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise UserError(f"{file}: holds something else than named tensors")
    return file, found


def _alpha(config: dict[str, Any], module: str, file: Path) -> float:
    """A module's alpha: its own, where the pattern has a regular expression for all of its name or its end."""
    try:
        own = [a for key, a in (config.get("alpha_pattern") or {}).items() if re.match(rf"(.*\.)?({key})$", module)]
        return float([*own, config.get("lora_alpha", 8)][0])
    except (re.error, TypeError, ValueError, AttributeError):
        raise UserError(f"{file}: lora_alpha and alpha_pattern must be a number, and numbers by name") from None


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
            raise UserError(f"{whose} has only one of lora_A and lora_B for {name}; an adapter needs both")
        size = lambda t: "x".join(map(str, t.shape))
        if a.shape[1:] != module.weight.shape[1:] or b.shape[:1] != module.weight.shape[:1] or a.shape[0] != b.shape[1]:
            line = f"{whose} has a membrane of {size(a)} and {size(b)} for {name} of {size(module.weight)}"
            raise UserError(f"{line}; it was made for another model")


def read_foreign(folder: str | Path, generator: Generator | None) -> dict[str, Any]:
    """The fields of an `Erasure` from a folder of peft's alone, as other tools write it. It does not say which model it
    changes: `generator` must fit it."""
    if generator is None:
        raise UserError(f"{folder}: does not say which model it changes; load it together with a generator")
    layers = next(name for name, module in generator.trunk.named_modules() if module is generator.decoder_layers)
    tensors = fresh(in_trunk(read_peft(folder), layers, generator.name, folder))
    check_adapters(generator, tensors, f"{folder}:")
    return {
        "name": "peft",
        "recipe": {"name": "peft", "source": Path(folder).name},
        "concept": Path(folder).name,
        "generator_fingerprint": generator.fingerprint,
        "tensors": tensors,
        "info": {"parameters": sum(t.numel() for t in tensors.values())},
    }


def in_trunk(
    tensors: Mapping[str, torch.Tensor], layers: str, model: str, folder: str | Path
) -> dict[str, torch.Tensor]:
    """The same by names relative to the trunk. What stands beside other parts, such as the vision tower, must be as it
    was before training, B = 0, and is left out.

    Args:
        tensors: what `read_peft` gave.
        layers: what the trunk calls its layers, "layers" or "blocks".
        model: whose, for the message.
        folder: where they are, for the message.

    Raises:
        UserError: an adapter that learned stands beside another part, or all of them do.
    """
    modules = {name.rpartition(".lora_")[0] for name in tensors}
    inside = lambda prefix: {name for name in modules if name.startswith(f"{prefix}{layers}.")}
    prefix = max(AROUND, key=lambda prefix: len(inside(prefix)))
    for module in sorted(modules - inside(prefix)):
        b = tensors.get(f"{module}.lora_B.weight")
        if b is None or b.any():
            part = f"the layers of {model}'s language model"
            raise UserError(f"{folder}: has an adapter for {module}, which is none of {part}; it cannot be read")
    kept = {name: t for name, t in tensors.items() if name.rpartition(".lora_")[0] in inside(prefix)}
    if not kept:
        raise UserError(
            f"{folder}: its adapters are all 0, or for parts of the model that do not draw; there is nothing to read"
        )
    return {name.removeprefix(prefix): t for name, t in kept.items()}
