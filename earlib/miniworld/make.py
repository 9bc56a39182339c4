"""Make every model of MiniWorld from scratch: `python -m earlib.miniworld.make --out DIR [STAGE ...]`.

Stages, in this order: tokenizer, eye, judge, judge2, clip, janus, var-tokenizer, var, emu3-tokenizer, emu3. Each is
seeded, goes on where it was killed (state in DIR/state), is skipped when it is done, and leaves its log with seconds
beside its weights; DIR/models.json sums them up. `--without church` trains MiniJanus alike on a world without that
concept, an oracle; `--without church,nudity,vangogh` without any of several, and `--fork` lets an oracle of one of them
go on from there (`oracles.py` says why that is one). Oracles need the tokenizer and the eye of the whole world. `--size
tiny` makes miniature ones in seconds, to test the way and not the models.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from ..runs import write_json

STAGES = ("tokenizer", "eye", "judge", "judge2", "clip", "janus", "var-tokenizer", "var", "emu3-tokenizer", "emu3")


@dataclass(frozen=True)
class Plan:
    """How much is trained: of each stage the arguments of its training function, and the shapes of MiniJanus, MiniEmu3
    and MiniVAR."""

    shape: dict = field(default_factory=dict)
    tokenizer: dict = field(default_factory=dict)
    eye: dict = field(default_factory=dict)
    judge: dict = field(default_factory=dict)
    judge2: dict = field(default_factory=dict)
    clip: dict = field(default_factory=dict)
    janus: dict = field(default_factory=dict)
    var_tokenizer: dict = field(default_factory=dict)
    var: dict = field(default_factory=dict)
    var_flags: dict = field(default_factory=dict)
    emu3_tokenizer: dict = field(default_factory=dict)
    emu3: dict = field(default_factory=dict)
    emu3_shape: dict = field(default_factory=dict)


def plans() -> dict[str, Plan]:
    """The plans by `--size`."""
    from .trunk import Sizes

    tiny = Plan(
        shape={"width": 64, "layers": 2, "mlp": 64, "codes": 64, "vq_channels": 32, "vision_width": 64},
        tokenizer={"steps": 34, "batch": 4},
        eye={"steps": 2, "batch": 4},
        judge={"steps": 2, "batch": 8, "held_out": 20},
        judge2={"steps": 2, "batch": 8, "held_out": 20},
        clip={"steps": 2, "batch": 8, "groups": 1},
        janus={"steps": 4, "sizes": Sizes(drawing=4, seeing=2, chunk=2)},
        var_tokenizer={"steps": 2, "batch": 4},
        var={"steps": 2, "batch": 4},
        var_flags={"channels": (16, 16, 16), "width": 32, "layers": 1, "text_width": 32, "text_layers": 1},
        emu3_tokenizer={"steps": 34, "batch": 4},
        emu3={"steps": 4, "sizes": Sizes(drawing=4, seeing=2, chunk=2)},
        emu3_shape={"width": 64, "layers": 2, "mlp": 64, "codes": 64, "vq_channels": 32},
    )
    return {"full": Plan(), "tiny": tiny}


@dataclass(frozen=True)
class Work:
    """What a stage is told: where to write, where its unfinished state lies, and what to train."""

    out: Path
    state: Path
    seed: int
    plan: Plan
    without: tuple[str, ...] = ()
    stop_at: int | None = None
    snapshot: bool = False
    fork: Path | None = None
    at: int | None = None

    def name(self, stage: str) -> str:
        """The folder of a stage: its name; of an oracle with what it never sees, and its seed if that is not 0."""
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{stage}-never-{'-'.join(self.without)}{seed}" if self.without and stage == "janus" else stage

    def untrained(self):
        """(model, processor) of MiniJanus before any training."""
        import torch

        from .models import build_janus, build_processor

        torch.manual_seed(self.seed)
        processor = build_processor()
        return build_janus(processor.tokenizer, **self.plan.shape), processor


def tokenizer(work: Work) -> None:
    """The picture tokenizer, to DIR/tokenizer."""
    from .tokenizer import train_tokenizer

    vq = work.untrained()[0].model.vqmodel
    train_tokenizer(vq, work.state / "tokenizer", seed=work.seed, **work.plan.tokenizer)
    vq.save_pretrained(work.out / "tokenizer")


def eye(work: Work) -> None:
    """The vision tower, to DIR/eye."""
    from .eye import train_eye

    vision = work.untrained()[0].model.vision_model
    train_eye(vision, work.state / "eye", seed=work.seed, **work.plan.eye)
    vision.save_pretrained(work.out / "eye")


def janus(work: Work) -> None:
    """MiniJanus with its tokenizer and eye, to DIR/janus; an oracle to DIR/janus-never-NAMES."""
    from .fit import load_mean
    from .oracles import absent, begin
    from .trunk import train_trunk

    name = work.name("janus")
    model, processor = work.untrained()
    load(model.model.vqmodel, work.out / "tokenizer")
    load(model.model.vision_model, work.out / "eye")
    if work.snapshot:
        model.model.vqmodel.requires_grad_(False)
        print(f"step {load_mean(model, 'janus', work.state / name)}")
        return save_half(model, processor, work.out / name)
    if work.without:
        begin(work.state / name, work.without, work.seed, work.fork, work.at)
    options = dict(seed=work.seed, without=absent(work.without), stop_at=work.stop_at)
    train_trunk(model, processor, work.state / name, **options, **work.plan.janus)
    save_half(model, processor, work.out / name)


def load(part, folder: Path) -> None:
    """Give a part of a model the weights that an earlier stage wrote.

    Raises:
        UserError: it has not run.
    """
    from safetensors.torch import load_file

    if not (folder / "model.safetensors").exists():
        raise UserError(f"{folder} holds no weights; run the stage '{folder.name}' first")
    part.load_state_dict(load_file(folder / "model.safetensors"))


def save_half(model, processor, folder: Path) -> None:
    """Write the model in transformers' layout, half precision on disk."""
    import torch

    model.to(torch.float16).save_pretrained(folder)
    processor.save_pretrained(folder)


def judge(work: Work) -> None:
    """The first judge, to DIR/judge."""
    from .judges import train_judge

    train_judge(work.out / "judge", work.state / "judge", seed=work.seed, **work.plan.judge)


def judge2(work: Work) -> None:
    """The second judge, to DIR/judge2."""
    from .judges import train_second_judge

    train_second_judge(work.out / "judge2", work.state / "judge2", seed=work.seed + 1, **work.plan.judge2)


def clip(work: Work) -> None:
    """The tiny CLIP, to DIR/clip."""
    from .clip import train_clip

    train_clip(work.out / "clip", work.state / "clip", seed=work.seed, **work.plan.clip)


def var_tokenizer(work: Work) -> None:
    """MiniVAR's picture tokenizer, to DIR/var-tokenizer."""
    from safetensors.torch import save_file

    from .var import train_var_tokenizer, untrained

    tokenizer = untrained(work.seed, **work.plan.var_flags).tokenizer
    train_var_tokenizer(tokenizer, work.state / "var-tokenizer", seed=work.seed, **work.plan.var_tokenizer)
    (work.out / "var-tokenizer").mkdir(parents=True, exist_ok=True)
    save_file(tokenizer.state_dict(), work.out / "var-tokenizer" / "model.safetensors")


def var(work: Work) -> None:
    """MiniVAR with its tokenizer, to DIR/var."""
    from .var import train_var_trunk, untrained

    model = untrained(work.seed, **work.plan.var_flags)
    load(model.tokenizer, work.out / "var-tokenizer")
    train_var_trunk(model, work.state / "var", seed=work.seed, **work.plan.var)
    model.save_pretrained(work.out / "var")


def emu3_tokenizer(work: Work) -> None:
    """MiniEmu3's picture tokenizer, to DIR/emu3-tokenizer."""
    from .emu3 import untrained
    from .tokenizer import train_tokenizer

    vq = untrained(work.seed, **work.plan.emu3_shape)[0].model.vqmodel
    train_tokenizer(vq, work.state / "emu3-tokenizer", seed=work.seed, **work.plan.emu3_tokenizer)
    vq.save_pretrained(work.out / "emu3-tokenizer")


def emu3(work: Work) -> None:
    """MiniEmu3 with its tokenizer, to DIR/emu3."""
    from .emu3 import train_emu3, untrained

    model, processor = untrained(work.seed, **work.plan.emu3_shape)
    load(model.model.vqmodel, work.out / "emu3-tokenizer")
    train_emu3(model, processor, work.state / "emu3", seed=work.seed, **work.plan.emu3)
    save_half(model, processor, work.out / "emu3")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The arguments of `main`, checked."""
    from .oracles import concepts_in

    parser = argparse.ArgumentParser(prog="python -m earlib.miniworld.make", description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"which of {', '.join(STAGES)} (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--without", type=concepts_in, default=(), metavar="CONCEPT[,CONCEPT]", help="train an oracle")
    parser.add_argument(
        "--fork", type=Path, metavar="DIR", help="an oracle goes on from another one, whose state DIR holds"
    )
    parser.add_argument("--at", type=int, default=6000, help="step at which it does (6000)")
    parser.add_argument("--stop-at", type=int, help="end MiniJanus before this step, with a checkpoint")
    parser.add_argument(
        "--snapshot", action="store_true", help="only write MiniJanus as its unfinished training has it"
    )
    args = parser.parse_args(argv)
    default = ["janus"] if args.without or args.snapshot else list(STAGES)
    args.stages = default if args.stages in ([], ["all"]) else args.stages
    if unknown := [s for s in args.stages if s not in STAGES]:
        parser.error(f"unknown stage '{unknown[0]}'; known: all, {', '.join(STAGES)}")
    if (args.without or args.snapshot or args.stop_at) and args.stages != ["janus"]:
        parser.error("--without, --snapshot and --stop-at are for the stage 'janus' alone")
    if args.fork and not args.without:
        parser.error("--fork makes oracles: say of what, with --without")
    return args


def main(argv: list[str] | None = None) -> None:
    from .oracles import fork_of
    from .summary import commit, summarise

    args = arguments(argv)
    given = {key: getattr(args, key) for key in ("out", "seed", "without", "stop_at", "snapshot", "fork", "at")}
    work = Work(state=args.out / "state", plan=plans()[args.size], **given)
    import torch

    # compiling takes a minute a stage, which is longer than a miniature takes
    with torch.compiler.set_stance("force_eager" if args.size == "tiny" else "default"):
        for stage in args.stages:
            name = work.name(stage)
            done = args.out / name / "made.json"
            print(f"== {name}{': done' if done.exists() else ''}", flush=True)
            if done.exists():
                continue
            try:
                globals()[stage.replace("-", "_")](work)
            except UserError as error:
                sys.exit(f"make: {error}")
            if args.stop_at is None and not args.snapshot:
                shutil.copyfile(work.state / name / "log.jsonl", done.with_name("train_log.jsonl"))
                begun = fork_of(work.state / name)
                fork = {"fork": f"{begun['of']} at step {begun['at']}"} if begun else {}
                write_json(done, {"stage": name, "commit": commit(), "seed": args.seed, "size": args.size, **fork})
                summarise(args.out)


if __name__ == "__main__":
    main()
