"""Train MiniVAR, the next-scale model that ships in data/mini-var: `python -m earlib.miniworld.train_var [tokenizer
trunk] [--quantiser vq]`.

Without a stage both run, one after the other; each is seeded, and goes on where it was killed (state in runs/mini-var).
Its twin with a codebook in place of bits, data/mini-var-vq, begins with the picture encoder and decoder of
data/mini-var:

    python -m earlib.miniworld.train_var --quantiser vq --start data/mini-var --out data/mini-var-vq

The smallest try: `python -m earlib.miniworld.train_var --steps 20 --out runs/try`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .. import ROOT
from ..runs import write_bytes, write_text
from .train import begin, parsed

TOKENIZER = "tokenizer.safetensors"  # until there is a transformer to go with it
STAGES = ("tokenizer", "trunk")
OUT = ROOT / "data" / "mini-var"
STEPS = {"tokenizer": 1000, "trunk": 6000}


def untrained(seed: int, **flags):
    """An untrained NextScaleModel with MiniWorld's vocabulary; `flags` change its configuration."""
    import torch

    from ..generators.var.config import NextScaleConfig
    from ..generators.var.model import NextScaleModel
    from .models import build_tokenizer

    torch.manual_seed(seed)
    words = build_tokenizer()
    return NextScaleModel(NextScaleConfig(vocabulary=len(words), **flags), words)


def stage_tokenizer(model, out: Path, state: Path, seed: int, device: str, steps: int | None) -> None:
    import torch

    from .train_var_tokenizer import train_tokenizer

    model.tokenizer.to(memory_format=torch.channels_last)
    train_tokenizer(model.tokenizer, state / "tokenizer1", steps=steps or STEPS["tokenizer"], seed=seed, device=device)
    save_tokenizer(model, out, state)


def save_tokenizer(model, out: Path, state: Path) -> None:
    """Write the tokenizer, half precision, with its flags, so that a transformer can be trained on it elsewhere;
    `stage_trunk` makes a whole model of it."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in model.tokenizer.state_dict().items()}
    write_bytes(out / TOKENIZER, save(tensors, {"format": "pt", "config": json.dumps(model.config.to_json())}))
    write_text(out / "log_tokenizer.jsonl", (state / "tokenizer1" / "log.jsonl").read_text())


def stage_trunk(model, out: Path, state: Path, seed: int, device: str, steps: int | None) -> None:
    from .train_var_trunk import train_trunk

    model.tokenizer.load_state_dict(trained_tokenizer(out, state))
    train_trunk(model, state / "trunk1", steps=steps or STEPS["trunk"], seed=seed, device=device)
    model.cpu().save_pretrained(out)
    write_text(out / "log_trunk.jsonl", (state / "trunk1" / "log.jsonl").read_text())
    (out / TOKENIZER).unlink(missing_ok=True)  # it is part of the model now


def trained_tokenizer(out: Path, state: Path) -> dict:
    """The tokenizer's tensors: as trained here, or as the folder `out` has them, alone or in a whole model."""
    import torch
    from safetensors.torch import load_file

    if (state / "tokenizer1" / "state.pt").exists():
        return torch.load(state / "tokenizer1" / "state.pt", weights_only=True)["modules"]["tokenizer"]
    if (out / TOKENIZER).exists():
        return load_file(out / TOKENIZER)
    if (out / "model.safetensors").exists():
        return {
            name.removeprefix("tokenizer."): tensor
            for name, tensor in load_file(out / "model.safetensors").items()
            if name.startswith("tokenizer.")
        }
    raise SystemExit(f"{out}: no tokenizer was trained; run the stage 'tokenizer' first")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m earlib.miniworld.train_var", description="Train MiniVAR, a next-scale model, on MiniWorld."
    )
    parser.add_argument(
        "--quantiser", default="bsq", choices=("bsq", "vq"), help="what a code is: bits, or a row of a codebook (bsq)"
    )
    parser.add_argument(
        "--start", type=Path, help="a next-scale model with whose picture encoder and decoder the tokenizer begins"
    )
    args = parsed(parser, STAGES, OUT, argv)
    if args.quantiser != "bsq" and args.out == OUT:
        parser.error(f"data/mini-var ships bits; give another folder for {args.quantiser} with --out")
    model = untrained(args.seed, quantiser=args.quantiser)
    if args.start:
        theirs = {
            name: t
            for name, t in trained_tokenizer(args.start, args.start).items()
            if name.startswith(("encoder.", "decoder."))
        }
        model.tokenizer.load_state_dict(model.tokenizer.state_dict() | theirs)
    for stage in args.stages:
        begin(stage, args)
        globals()[f"stage_{stage}"](model, args.out, args.state, args.seed, args.device, args.steps)
    print(args.out)


if __name__ == "__main__":
    main()
