"""What has been made, in one file: `python -m earlib.miniworld.summary DIR` writes DIR/models.json and prints it as
a table. Of each model: seconds and steps of its training, the commit that trained it, its size, how good it is."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from .. import ROOT, __version__
from ..runs import read_json, read_lines, write_json

WEAKEST = ("object", "style", "place", "colour")  # parts of which the weakest value is told


def commit() -> str:
    """The commit of this checkout, with `+` where files were changed; the version where there is no checkout."""
    ask = lambda *words: subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    try:
        found, changed = ask("rev-parse", "--short=12", "HEAD"), ask("status", "--porcelain", "-uno")
    except OSError:
        return __version__
    return found.stdout.strip() + "+" * bool(changed.stdout) if found.returncode == 0 else __version__


def facts(folder: Path) -> dict:
    """Steps and seconds of the training whose log and weights lie in `folder`, and bytes of the weights."""
    last = read_lines(folder / "train_log.jsonl")[-1]
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {"steps": last["step"] + 1, "seconds": last["seconds"], "bytes": size}


def quality_of(folder: Path) -> dict:
    """How good the model in `folder` is: the metrics of a judge or the CLIP; of a model that draws the shares that
    `quality.py` measured, by judge; else the last row of its log."""
    if (folder / "metrics.json").exists():
        return read_json(folder / "metrics.json")
    measured = folder.with_name(f"quality-{folder.name}.json")
    if not measured.exists():
        return {k: v for k, v in read_lines(folder / "train_log.jsonl")[-1].items() if k not in ("step", "seconds")}
    found: dict[str, dict] = {}
    for row in read_json(measured)["rows"]:
        share = round(row["hits"] / row["n"], 4)
        mine = found.setdefault(f"{row['what']} {row['judge']}".strip(), {})
        if row["value"] is None:
            mine[row["part"]] = share
        elif row["part"] in WEAKEST and share < mine.get(f"weakest {row['part']}", [None, 2.0])[1]:
            mine[f"weakest {row['part']}"] = [row["value"], share]
    return found


def summarise(out: Path) -> dict[str, dict]:
    """Write DIR/models.json: model to what `facts`, `made.json` and `quality_of` say. What it says of models that are
    not in DIR stays."""
    models = read_json(out / "models.json") if (out / "models.json").exists() else {}
    for folder in sorted(file.parent for file in out.glob("*/made.json")):
        models[folder.name] = read_json(folder / "made.json") | facts(folder) | {"quality": quality_of(folder)}
    models = dict(sorted(models.items()))
    write_json(out / "models.json", models)
    return models


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m earlib.miniworld.summary", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="the --out of make")
    for name, model in summarise(parser.parse_args(argv).folder).items():
        numbers = "".join(f"{model[key]:>12,.0f}" for key in ("steps", "seconds", "bytes"))
        print(f"{name:40}{numbers}  {model.get('commit', '-')}")


if __name__ == "__main__":
    main()
