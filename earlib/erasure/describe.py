"""What an erasure on disk is, for which model, how large, and whether it fits: `python -m earlib doctor --erasure`. No
model is loaded: shapes are read from the headers of files, or known of Janus-Pro."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import memory
from ..errors import UserError
from ..generators.load import PROFILES, family_of, locate
from ..generators.profiles import FAMILIES, not_made
from ..generators.weights import combined, own_name, stored_files, tensor_hash
from ..runs import read_json
from .change import adapters
from .files.peft import AROUND, CONFIG, in_trunk, peft_folder, read_peft
from .files.released import read_tensors
from .store import WHERE, Erasure


def describe(place: Path, model: str | None = None) -> dict[str, list[tuple[str, str]]]:
    """Two tables, (name, text) a row: what the erasure is, and which models it fits.

    Args:
        place: a folder of `erase`, one of peft's, or a `.pt` file of the EAR authors.
        model: a profile or a folder; None for all profiles.

    Raises:
        UserError: there is no erasure, or it is broken; there is no such model, or nothing here tells its shapes.
    """
    about, tensors = _read(place)
    here = [name for name, where in PROFILES.items() if where and not not_made(name)]
    rows = [("what", about["what"]), ("changes", _changes(tensors, about))]
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    rows.append(("size", f"{sum(t.numel() for t in tensors.values()):,} numbers, {memory.amount(size)}"))
    rows.append(("made for", about["made for"] or "the file does not say"))
    rows.append(("merge", about["merge"] or f"python -m earlib merge --erasure {place} --out FOLDER"))
    fits = [(name, _fits(name, tensors, about, size)) for name in ([model] if model else here)]
    return {f"erasure {place}": rows, "fits": fits}


def _read(place: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What is said of an erasure, and its tensors by names relative to the trunk."""
    foreign: dict[str, Any] = {"made for": "", "fingerprint": None, "recipe": {}, "merge": ""}
    if place.suffix == ".pt":
        return foreign | {"what": "an erasure of the EAR authors"}, read_tensors(place)
    if not (place / "erasure.json").is_file() and (folder := peft_folder(place)) is not None:
        stored = read_peft(folder)
        said = read_json(folder / CONFIG).get("base_model_name_or_path") or ""
        blocks = any(name.startswith(tuple(f"{around}blocks." for around in AROUND)) for name in stored)
        tensors = in_trunk(stored, "blocks" if blocks else "layers", said or "a model", folder)
        return foreign | {"what": f"adapters '{folder.name}' in peft's files, by others", "made for": said}, tensors
    erasure = Erasure.load(place)
    run = read_json(place / "config.json") if (place / "config.json").is_file() else {}
    positions = erasure.recipe.get("positions", "all")
    merge = "" if erasure.tensors else "not possible: it changes no weights"
    if erasure.tensors and positions != "all":
        merge = f"not possible: it acts {WHERE[positions]} only"
    about: dict[str, Any] = {"what": f"{erasure.name} of '{erasure.concept}', seed {erasure.seed}"}
    about["made for"] = f"{run.get('model', 'a model')} (fingerprint {erasure.generator_fingerprint})"
    about |= {"fingerprint": erasure.generator_fingerprint, "recipe": erasure.recipe, "merge": merge}
    return about, erasure.tensors


def _changes(tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> str:
    """What an erasure does to a model, in words."""
    if not tensors:
        return "no weights; it guides the drawing"
    beside, numbers = adapters(tensors), sorted({int(n) for name in tensors for n in re.findall(r"\.(\d+)\.", name)})
    whole = sum(".lora_" not in name and ".leace." not in name for name in tensors)
    ranks = sorted({len(a) for a, _ in beside.values()})
    parts = []
    if beside:
        rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        parts.append(f"adapters of rank {rank} beside {len(beside)} matrices")
    if whole:
        parts.append(f"{whole} whole tensors")
    if any(".leace." in name for name in tensors):
        parts.append("what layers read")
    where = WHERE[about["recipe"].get("positions", "all")]
    layers = f"layer {numbers[0]}" if len(numbers) == 1 else f"layers {numbers[0]}-{numbers[-1]}"
    return f"{' and '.join(parts)} in {layers}, {where}"


def _fits(model: str, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any], size: int) -> str:
    """Whether a change fits a model, and what drawing with both takes where that is known."""
    folder = locate(model)
    if folder is None and model not in memory.KNOWN:
        raise UserError(f"{model} has no weights here to compare with; fetch it and give its folder")
    shapes = _stored_shapes(folder) if folder else _known_shapes(memory.KNOWN[model])
    if not tensors:
        same = about["recipe"].get("by_scales", False) == (family_of(model) == "next-scale")
        return "it changes no weights" if same else "no"
    for name, t in tensors.items():
        module, _, side = name.partition(".lora_")
        own = shapes.get(f"{module}.weight" if side else name)
        if ".leace." in name and any(other.startswith(f"{name.partition('.leace.')[0]}.") for other in shapes):
            continue
        if own is None:
            return f"no: it has no {module}"
        if side and t.shape[side[0] == "A"] != own[side[0] == "A"] or not side and tuple(t.shape) != own:
            sizes = " beside " if side else " in place of "
            return f"no: {'x'.join(map(str, t.shape))}{sizes}{'x'.join(map(str, own))} at {module}"
    if folder and about["fingerprint"]:
        same = _fingerprint(folder) == about["fingerprint"]
        return "yes, it was made for these weights" if same else "in size only: it was made for other weights"
    seen = "in size; whether it was made for these weights is said when they are loaded"
    line = seen if about["fingerprint"] else "in size"
    if model in memory.KNOWN:
        line += f"; both draw in {memory.gigabytes(memory.to_draw(memory.KNOWN[model], 'bfloat16') + size)} in bfloat16"
    return line


def _known_shapes(sizes: memory.Sizes) -> dict[str, tuple[int, ...]]:
    """Those of Janus-Pro's decoder layers."""
    each = memory.matrices(sizes).items()
    return {f"layers.{i}.{name}.weight": shape for i in range(sizes.layers) for name, shape in each}


def _stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Those of the trunk whose weights are in a folder."""
    from safetensors import safe_open

    shapes = {}
    for file in stored_files(folder):
        with safe_open(file, "pt") as stored:
            for name in stored.keys():
                around = next((a for a in AROUND if a and re.match(rf"{re.escape(a)}(layers|blocks)\.", name)), "")
                shapes[name.removeprefix(around)] = tuple(stored.get_slice(name).get_shape())
    return shapes


def _fingerprint(folder: Path) -> str:
    """What `load_generator` would make the fingerprint of a folder."""
    from safetensors import safe_open

    kind = read_json(folder / "config.json").get("model_type") if family_of(folder) == "next-token" else ""
    stored_as = FAMILIES[kind].stored_as if kind in FAMILIES else ()
    left_out: tuple[str, ...] = ()
    if kind == "janus":
        from ..generators.janus import NOT_HASHED

        left_out = NOT_HASHED
    hashes = []
    for file in stored_files(folder):
        with safe_open(file, "pt") as tensors:
            names = {stored: own_name(stored, stored_as) for stored in tensors.keys()}
            counted = {stored: name for stored, name in names.items() if not name.startswith(left_out)}
            hashes += [tensor_hash(name, tensors.get_tensor(stored)) for stored, name in counted.items()]
    return combined(hashes)
