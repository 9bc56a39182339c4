"""Weights: from safetensors files straight to the device, one tensor at a time, in the dtype they will have there.

Neither the CPU nor the GPU ever holds them twice, and what is not needed is never read.
"""

from __future__ import annotations

import hashlib
import pickle
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UserError
from ..memory import gigabytes
from ..runs import read_json

if TYPE_CHECKING:
    from ..device import Placement
    from .profiles import Family


def empty_model(config: Any, family: Family) -> Any:
    """transformers' model of `config` on the meta device: all shapes, no memory."""
    import transformers

    with torch.device("meta"):
        return getattr(transformers, family.transformers_class)(config).eval()


def drop(model: torch.nn.Module, prefixes: tuple[str, ...]) -> None:
    """Take the submodules called `prefixes` (with their final dot) out of `model`."""
    for prefix in prefixes:
        parent, _, leaf = prefix.rstrip(".").rpartition(".")
        setattr(model.get_submodule(parent), leaf, None)


def stored_files(folder: Path, name: str = "model.safetensors") -> list[Path]:
    """The files of weights in a folder: `name`, or those that `name`.index.json lists.

    Raises:
        UserError: one is missing.
    """
    index = folder / f"{name}.index.json"
    names = [name]
    if index.is_file():
        said = read_json(index)
        listed = said.get("weight_map") if isinstance(said, dict) else None
        if not isinstance(listed, dict) or not listed or not all(isinstance(each, str) for each in listed.values()):
            raise UserError(f"{index}: lists no files of weights; fetch it again")
        names = sorted(set(listed.values()))
    if missing := [name for name in names if not (folder / name).is_file()]:
        there = len(names) - len(missing)
        line = f"{folder}: {missing[0]} is missing ({there} of {len(names)} files of weights are there)"
        raise UserError(f"{line}; fetch it again")
    return [folder / name for name in names]


def check_room(folder: Path, size: int) -> None:
    """UserError unless `size` bytes of weights can be written into a folder, which need not exist yet."""
    folder = folder.absolute()
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if size > free:
        line = f"the weights to write take {gigabytes(size)}, and the disk has {gigabytes(free)} free"
        raise UserError(f"{folder}: {line}")


def unpickled(file: Path, mapped: bool = True) -> Any:
    """What a file of torch's holds. Nothing but tensors is unpickled.

    Args:
        file: of tensors, in tables and lists.
        mapped: leave the tensors of newer files on the disk until they are used.

    Raises:
        UserError: it is missing or broken, or holds more than tensors.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(file))
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except pickle.UnpicklingError:
        line = "is broken, or holds more than tensors and is refused; fetch it again from where you trust it"
        raise UserError(f"{file}: {line}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError):
        raise UserError(f"{file}: broken or cut short; fetch it again") from None


def fill(
    model: Any,
    folder: Path,
    place: Placement,
    left_out: tuple[str, ...] = (),
    stored_as: tuple[tuple[str, str], ...] = (),
) -> dict[str, bytes]:
    """Give an empty model its weights.

    Args:
        model: transformers' model on the meta device.
        folder: holds the safetensors files.
        place: device and dtype of the weights.
        left_out: prefixes of tensors that are not read; their modules are dropped.
        stored_as: (prefix of stored names, prefix of the class's own).

    Returns:
        Each stored tensor's hash by name.

    Raises:
        UserError: a file is missing or broken or in another format, or its tensors are not those of the model, or not
            finite.
    """
    from safetensors import SafetensorError, safe_open

    drop(model, left_out)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    others = sorted(folder.glob("pytorch_model*.bin"))
    if others and not any(folder.glob("model*.safetensors*")):
        line = f"{folder}: its weights are in {others[0].name}, and earlib reads model.safetensors only"
        raise UserError(f"{line}; load it with transformers and write it with save_pretrained")
    files, hashes = stored_files(folder), {}
    for file in files:  # all headers before the first tensor: a file that was cut short is found at once
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: broken or cut short ({error}); fetch it again") from None
    for file in files:
        with safe_open(file, "pt", device=str(place.device)) as tensors:
            for stored in tensors.keys():
                name = own_name(stored, stored_as)
                if name not in wanted:
                    continue
                tensor = tensors.get_tensor(stored)
                if tensor.shape != wanted[name]:
                    raise UserError(
                        f"{file}: {name} has shape {list(tensor.shape)}, but config.json makes it "
                        f"{list(wanted[name])}; they do not belong together"
                    )
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise UserError(f"{file}: {name} holds infinite numbers or NaN; the weights are damaged")
                hashes[name] = tensor_hash(name, tensor)
                # a copy even where nothing changes: what safetensors gives on a CPU is the file itself, mapped into
                # memory
                put(model, name, tensor.to(place.dtype, copy=True) if tensor.is_floating_point() else tensor.clone())
    if "lm_head.weight" in wanted.keys() - hashes.keys() and model.config.tie_word_embeddings:  # saved once for both
        model.lm_head.weight = model.get_input_embeddings().weight
        hashes["lm_head.weight"] = b""
    if missing := sorted(wanted.keys() - hashes.keys()):
        raise UserError(f"cannot load '{folder}': {len(missing)} tensors are missing, the first is {missing[0]}")
    settle(model, place.device)
    return hashes


def own_name(stored: str, stored_as: tuple[tuple[str, str], ...]) -> str:
    """What the class calls a stored tensor; `stored_as` as in `fill`."""
    return next((own + stored.removeprefix(prefix) for prefix, own in stored_as if stored.startswith(prefix)), stored)


def put(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Make `tensor` the parameter or buffer called `name`."""
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if leaf in module._parameters:
        module._parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor


def settle(model: Any, device: torch.device) -> None:
    """Compute the buffers that no file stores (rotary frequencies, position numbers), which are still on the meta
    device."""
    for module in model.modules():
        empty = [name for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta]
        for name in empty:
            module._buffers[name] = torch.empty_like(module._buffers[name], device=device)
        if empty:
            model._init_weights(module)


# ------------------------------------------------------------------ fingerprints


def fingerprint(model: torch.nn.Module, left_out: tuple[str, ...] = ()) -> str:
    """16 hex digits that change when a weight does: a hash of names, shapes and a strided sample of every tensor.

    Tensors whose names begin with one of `left_out` do not count. A model made in memory has the hash of its own
    numbers; `load_generator` hashes the weights as they are stored, so that the dtype in which they are loaded does not
    matter.
    """
    tensors = model.state_dict().items()
    return combined(tensor_hash(name, tensor) for name, tensor in tensors if not name.startswith(left_out))


def tensor_hash(name: str, tensor: torch.Tensor) -> bytes:
    """One tensor's share of the fingerprint."""
    flat = tensor.detach().flatten()
    # a sample is enough to tell models apart and keeps a 7B model's hash under a second
    sample = flat[:: max(1, flat.numel() // 4096)].float().cpu().numpy()
    return hashlib.sha256(f"{name}{tuple(tensor.shape)}".encode() + sample.tobytes()).digest()


def combined(hashes: Iterable[bytes]) -> str:
    """The fingerprint from its tensors' shares, in whatever order they come."""
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()[:16]
