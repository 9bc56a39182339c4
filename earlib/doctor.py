"""What is installed, where the models would run and why, what is shipped and what is cached: `python -m earlib
doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from . import DATA, ROOT, __version__
from .errors import UserError
from .generators.profiles import MAKERS, not_made, renewal

PACKAGES = (
    "torch",
    "transformers",
    "numpy",
    "matplotlib",
    "jupyter-book",
    "papermill",
    "submitit",
    "nudenet",
    "open-clip-torch",
    "torch-fidelity",
)


def report() -> str:
    """The whole report. It never fails: what is missing is said in its place."""
    sections = {
        "versions": _versions(),
        "device": _device(),
        "room for Janus-Pro": _room(),
        "shipped in data/mini": _shipped(),
        "known here": _known(),
        "cached from the hub": _cached(),
    }
    return _table(sections)


def about_erasure(place: Path | None, model: str | None = None) -> str:
    """What an erasure on disk is, and whether it fits `model`, or which of the profiles. UserError if it is none."""
    if place is None:
        raise UserError("--model says for which model --erasure is looked at; give both")
    from .erasure.describe import describe

    return _table(describe(place, model))


def _table(sections: dict[str, list[tuple[str, str]]]) -> str:
    """Rows of (name, text) under their titles, as lines."""
    lines = []
    for title, rows in sections.items():
        width = max((len(name) for name, _ in rows), default=0)
        lines += [title, *(f"  {name:{width}}  {value}".rstrip() for name, value in rows), ""]
    return "\n".join(lines[:-1])


def _versions() -> list[tuple[str, str]]:
    rows = [
        ("earlib", f"{__version__} in {ROOT}"),
        ("python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
    ]
    for name in PACKAGES:
        try:
            version = metadata.version(name)
            command = renewal(version) if name == "transformers" else None
            wanted = f" (too old: {command})" if command else ""
            rows.append((name, version + wanted))
        except metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    return rows


def _device() -> list[tuple[str, str]]:
    from .device import cores, decide, free_memory

    rows = [("CPU cores", str(cores()))]
    try:
        place = decide()
        rows += [
            ("device", str(place.device)),
            ("dtype", str(place.dtype).removeprefix("torch.")),
            ("why", place.reason),
        ]
        if place.device.type == "cuda":
            rows.append(("free GPU memory", size(free_memory(place.device))))
    except Exception as error:  # a broken installation is what one runs this for
        rows.append(("device", f"cannot be told ({type(error).__name__}: {' '.join(str(error).split())})"))
    free = free_memory()
    rows.append(("free memory", size(free) if free is not None else "the system does not tell"))
    rows.append(("free disk", f"{size(shutil.disk_usage(ROOT).free)} at {ROOT}"))
    return rows


def _room() -> list[tuple[str, str]]:
    """What drawing one picture and an EAR run take with each public model, weights included, and whether that
    fits now."""
    from . import memory

    try:
        from .device import decide, free_memory
        from .erasure.presets import EAR
        from .erasure.room import trained_parameters

        place = decide()
        free, dtype = free_memory(place.device), str(place.dtype).removeprefix("torch.")
        rows = []
        for name, sizes in memory.KNOWN.items():
            draw, train = (memory.to_draw(sizes, dtype), memory.to_train(sizes, dtype, trained_parameters(sizes, EAR)))
            fits = (
                ""
                if free is None
                else f" (here: {'draws and trains' if train <= free else 'draws' if draw <= free else 'too large'})"
            )
            spare = size(memory.kernel_bytes(sizes, dtype))
            takes = f"draws in {size(draw)}, trains in {size(train)}, up to {spare} of it for kernels"
            rows.append((name, f"{size(memory.weight_bytes(sizes, dtype))} in {dtype}; {takes}{fits}"))
        return rows
    except Exception as error:  # torch may be missing
        return [("sizes", f"cannot be told ({type(error).__name__}: {' '.join(str(error).split())})")]


def _shipped() -> list[tuple[str, str]]:
    folder = DATA / "mini"
    parts = sorted(folder.iterdir()) if folder.is_dir() else []
    rows = [(part.name, size(_bytes(part))) for part in parts]
    if not rows:
        return [("nothing", f"{folder} is empty or missing; a full clone holds the mini models there")]
    return rows + [("missing", line) for name in MAKERS if (line := not_made(name))]


def _known() -> list[tuple[str, str]]:
    from .concepts import list_concepts

    rows = [("concepts (mini)", ", ".join(list_concepts("mini")) or "none")]
    try:
        from .erasure.presets import PRESETS

        rows.append(("recipes", ", ".join(PRESETS)))
    except Exception as error:  # torch may be missing
        rows.append(("recipes", f"cannot be told ({type(error).__name__}: {' '.join(str(error).split())})"))
    return rows


def _cached() -> list[tuple[str, str]]:
    hub = Path(
        os.environ.get("HF_HUB_CACHE")
        or Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"
    )
    models = sorted(hub.glob("models--*")) if hub.is_dir() else []
    return [(model.name.removeprefix("models--").replace("--", "/"), size(_bytes(model))) for model in models] or [
        ("nothing", f"in {hub}")
    ]


def _bytes(path: Path) -> int:
    """Bytes in a file, or in a folder; links are not followed, so that nothing counts twice."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def size(count: int) -> str:
    """12345678 -> "12.3 MB"."""
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
