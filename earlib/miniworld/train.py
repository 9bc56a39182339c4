"""Retrain everything that ships in data/mini: `python -m earlib.miniworld.train [vq eye trunk judge clip] [--steps N]
[--device cuda]`.

Without a stage all five run, one after the other; each is seeded, and goes on where it was killed (state in runs/mini).
On 2 CPU cores the picture tokenizer takes about 15 minutes, the eye 5, the trunk 90, judge and clip 6 each.
The smallest try: `python -m earlib.miniworld.train trunk --steps 20 --out runs/try`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from .. import ROOT
from ..runs import write_text

STAGES = ("vq", "eye", "trunk", "judge", "clip")
VQ_ROUNDS = (1600, 1300)  # steps; the second round goes on from the first with a new cosine
# steps, peak rates of AdamW and Muon, pool of pictures: the second round goes on with pictures that the first one never
# saw
TRUNK_ROUNDS = ((4400, 2e-3, 4e-3, 30_000), (1500, 1e-3, 2e-3, 30_000))


def _untrained(seed: int):
    import torch

    from .models import build_janus, build_processor

    torch.manual_seed(seed)
    processor = build_processor()
    return build_janus(processor.tokenizer), processor


def stage_vq(out: Path, state: Path, seed: int, device: str, steps: int | None) -> None:
    from .train_vq import train_vq

    model, _ = _untrained(seed)
    vq = model.model.vqmodel
    for k, length in enumerate(VQ_ROUNDS):
        train_vq(
            vq,
            state / f"vq{k + 1}",
            steps=steps or length,
            lr=1.5e-3 if k == 0 else 1.2e-3,
            seed=seed + k,
            device=device,
            fresh=k == 0,
        )
    vq.cpu().save_pretrained(state / "vq")


def stage_eye(out: Path, state: Path, seed: int, device: str, steps: int | None) -> None:
    from .train_eye import train_eye

    model, _ = _untrained(seed)
    train_eye(model.model.vision_model, state / "eye1", seed=seed, device=device, **({"steps": steps} if steps else {}))
    model.model.vision_model.cpu().save_pretrained(state / "eye")


def stage_trunk(out: Path, state: Path, seed: int, device: str, steps: int | None) -> None:
    from transformers import JanusForConditionalGeneration
    from transformers.models.janus.modeling_janus import JanusVisionModel, JanusVQVAE

    from .train_trunk import train_trunk

    model, processor = _untrained(seed)
    shipped = ROOT / "data" / "mini" / "janus"
    for part, folder, kind in (("vqmodel", "vq", JanusVQVAE), ("vision_model", "eye", JanusVisionModel)):
        if (state / folder / "config.json").exists():
            trained = kind.from_pretrained(state / folder)
        else:  # that stage was not run here: the shipped one will do
            trained = getattr(JanusForConditionalGeneration.from_pretrained(shipped).float().model, part)
        getattr(model.model, part).load_state_dict(trained.state_dict())
    for k, (length, lr, matrix_lr, pool) in enumerate(TRUNK_ROUNDS):
        options = dict(lr=lr, matrix_lr=matrix_lr, pool=pool, seed=seed + k, device=device, fresh=k == 0)
        train_trunk(model, processor, state / f"trunk{k + 1}", steps=steps or length, **options)
    save_janus(model, processor, out / "janus", state)


def save_janus(model, processor, folder: Path, state: Path) -> None:
    """Write the model in transformers' layout, half precision on disk, with the logs of its training."""
    import torch

    model.cpu().to(torch.float16).save_pretrained(folder)
    processor.save_pretrained(folder)
    for stage in ("vq", "eye", "trunk"):
        if rows := stage_log(state, stage):
            write_text(folder / f"log_{stage}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def stage_log(state: Path, stage: str) -> list[dict]:
    """The logs of all rounds of a stage (STAGE1, STAGE2, ...) in a row, steps counted on; [] if it was not run here."""
    rows, offset = [], 0
    for number, log in enumerate(sorted(state.glob(f"{stage}[0-9]/log.jsonl")), 1):
        part = [json.loads(line) for line in log.read_text().splitlines()]
        rows += [{"round": number, **row, "step": row["step"] + offset} for row in part]
        offset = rows[-1]["step"] + 1
    return rows


def stage_judge(out: Path, state: Path, seed: int, device: str, steps: int | None) -> None:
    from .train_judges import train_judge

    train_judge(out=out / "judge", run=state / "judge1", seed=seed, **({"steps": steps} if steps else {}))


def stage_clip(out: Path, state: Path, seed: int, device: str, steps: int | None) -> None:
    from .train_judges import train_clip

    train_clip(out=out / "clip", run=state / "clip1", seed=seed, **({"steps": steps} if steps else {}))


def parsed(parser: argparse.ArgumentParser, stages, out: Path, argv: list[str] | None) -> argparse.Namespace:
    """The arguments of a training command: what all of them have is added to `parser`. `out` is where the shipped
    models lie, data/NAME."""
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"which of {', '.join(stages)} (default: all, in this order)"
    )
    parser.add_argument("--out", type=Path, default=out, help="where the trained models go")
    parser.add_argument(
        "--state", type=Path, help=f"where unfinished training is kept (default: runs/{out.name}, or OUT/state)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--steps", type=int, help="override the number of steps (0 or none: as shipped)")
    parser.add_argument("--anew", action="store_true", help="forget unfinished training first")
    args = parser.parse_args(argv)
    unknown = [s for s in args.stages if s not in stages]
    if unknown:
        parser.error(f"unknown stage '{unknown[0]}'; known: {', '.join(stages)}")
    args.state = args.state or (ROOT / "runs" / out.name if args.out == out else args.out / "state")
    args.stages = args.stages or stages
    return args


def begin(stage: str, args: argparse.Namespace) -> None:
    """Say which stage begins, and forget what it has, if asked to."""
    for folder in args.state.glob(f"{stage}[0-9]") if args.anew else ():
        shutil.rmtree(folder)
    print(f"== {stage}", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m earlib.miniworld.train", description="Retrain the mini models.")
    args = parsed(parser, STAGES, ROOT / "data" / "mini", argv)
    for stage in args.stages:
        begin(stage, args)
        globals()[f"stage_{stage}"](args.out, args.state, args.seed, args.device, args.steps)
    print(args.out)


if __name__ == "__main__":
    main()
