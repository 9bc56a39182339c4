"""The command line: `python -m earlib COMMAND`. It reads arguments, calls the library and prints; nothing is computed here.

Exit status: 0 done; 1 a notebook failed; 2 a wrong input, said in one line on stderr; 130 stopped by Ctrl-C.
Nothing heavy is imported before the arguments are known to be right.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from pathlib import Path

from . import __version__
from .errors import UserError, nearest

RUNNERS = {}  # command -> function(args) -> exit status or None
PROGRAM = "python -m earlib"


class _Parser(argparse.ArgumentParser):
    """argparse that raises one line instead of printing its usage, and names the nearest flag or command."""

    def __init__(self, **more):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **more)

    def error(self, message):
        raise UserError(f"{message} ({self.prog} --help)")

    def parse_known_args(self, args=None, namespace=None):
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        flags = [word.split("=")[0] for word in args or () if word.startswith("--")]
        if self._subparsers:  # the flags after the command are the command's own
            flags = flags if args and args[0].startswith("-") else []
        for flag in flags:  # before argparse complains that the flag that was meant is missing
            if flag not in known:
                raise UserError(f"unknown flag '{flag}'; {nearest(flag, known)} ({self.prog} --help)")
        return super().parse_known_args(args, namespace)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"'{text}' is no seed; a seed is a whole number from 0")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is no shard; 3/8 is the third of eight")
    return int(part), int(parts)


def _guidance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"'{text}' is no guidance scale; a scale is a number from 0, such as 3 (1 means no guidance)")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.5 < value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no threshold; a threshold is a share of pictures above 0.5 and at most 1, such as 0.75")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is no time; give seconds, such as 60")
    return value


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(prog=PROGRAM, description="Erase concepts from autoregressive image models, and measure what went with them.")
    top.add_argument("--version", action="version", version=f"earlib {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name, about, run, model=True):
        sub = commands.add_parser(name, help=about, description=about)
        RUNNERS[name] = run
        if model:
            sub.add_argument("--model", default="mini", help="a profile (mini, janus-pro-1b, janus-pro-7b), a hub id or a folder; default: mini")
            sub.add_argument("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
            sub.add_argument("--dtype", help="float32, bfloat16 or float16; default: what the device computes fast")
        return sub

    command("doctor", "say what is installed, which device will be used and why, what is shipped and cached", doctor, model=False)

    sub = command("generate", "draw a picture for every prompt of a file; run again, it draws what is missing", generate)
    sub.add_argument("--prompts", required=True, type=Path, metavar="FILE", help="one prompt a line, or JSON lines with key and prompt")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="for KEY.png and index.jsonl")
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument("--erasure", type=Path, metavar="DIR", help="an erasure to switch on: its folder, or a .pt file of the EAR authors")
    sub.add_argument("--guidance", type=_guidance, metavar="SCALE", help="default: the model's own")
    sub.add_argument("--batch-size", type=_count, metavar="N", help="pictures at a time, changes no picture; default: 64, on a GPU what fits")
    sub.add_argument("--shard", type=_shard, default=(1, 1), metavar="K/N", help="draw part K of N; run once more without it to join the parts' indexes")

    sub = command("erase", "train an erasure for one concept", erase)
    sub.add_argument("--concept", required=True, help="a name, or a concept file")
    sub.add_argument("--recipe", default="ear", help="default: ear")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="for the erasure and the log of its training")
    sub.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="change the recipe, for example windows.length=12")
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument("--resume", action="store_true", help="go on with the run in DIR, if there is one")

    sub = command("evaluate", "measure a model, with an erasure or without, on one concept", evaluate)
    sub.add_argument("--concept", required=True, help="a name, or a concept file")
    sub.add_argument("--erasure", type=Path, metavar="DIR")
    sub.add_argument("--json", required=True, type=Path, metavar="FILE", help="where the records go")
    sub.add_argument("--prompts", type=Path, metavar="FILE", help="test prompts to use in place of the concept's own")
    sub.add_argument("--seeds", type=_seed, nargs="+", default=[0, 1, 2], metavar="SEED", help="default: 0 1 2")
    sub.add_argument("--max-prompts", type=_count, metavar="N", help="at most N prompts of each kind")
    sub.add_argument("--no-fidelity", action="store_true", help="leave out FID, KID and CLIP score")

    sub = command("convert", "rewrite a Janus checkpoint of deepseek-ai for transformers; run again, it goes on", convert, model=False)
    sub.add_argument("source", type=Path, metavar="SRC", help="its folder: config.json, pytorch_model*.bin and the tokenizer")
    sub.add_argument("target", type=Path, metavar="DST", help="the folder to write, for --model")

    sub = command("report", "erase a concept, measure everything that applies, and write a page of it; run again, it goes on", report)
    sub.add_argument("--concept", required=True, help="a name, or a concept file")
    sub.add_argument("--recipe", help="default: ear")
    sub.add_argument("--erasure", type=Path, metavar="DIR", help="report on this erasure in place of training one")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="for report.html, report.md, results.json and the erasure")
    sub.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="change the recipe, for example windows.length=12")
    sub.add_argument("--seed", type=_seed, default=0, help="of the training")
    sub.add_argument("--seeds", type=_seed, nargs="+", default=[0, 1], metavar="SEED", help="of the pictures; default: 0 1")
    sub.add_argument("--max-prompts", type=_count, default=20, metavar="N", help="at most N prompts of each kind; default: 20")
    sub.add_argument("--clip", metavar="MODEL", help="open_clip's NAME/PRETRAINED or local-dir:FOLDER for CLIP scores; mini brings its own")
    sub.add_argument("--reference", type=Path, metavar="DIR", help="real pictures for FID and KID; mini brings its own")
    sub.add_argument("--show-explicit", action="store_true", help="do not blur explicit pictures: they will be seen, and stored in DIR")

    sub = command("ecgvf", "write prompt pairs, draw them, and keep those that the judge agrees with; run again, it goes on", ecgvf)
    sub.add_argument("--concept", required=True, help="a name, or a concept file")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="for NAME.json (the kept pairs), report.md, report.json and pictures.png")
    about = "grammar, openai:URL:MODEL or local:FOLDER; several write at once; default: grammar. Keys: EARLIB_WRITER_KEY, or EARLIB_WRITER_KEY_1, ..."
    sub.add_argument("--writer", nargs="+", action="extend", metavar="WRITER", help=about)
    sub.add_argument("--count", type=_count, default=40, metavar="N", help="pairs to ask from every writer; default: 40")
    sub.add_argument("--pictures", type=_count, default=4, metavar="N", help="pictures of every prompt; default: 4")
    about = "the concept must show in this share of a target's pictures, and in at most the rest of a replacement's; default: 0.75"
    sub.add_argument("--threshold", type=_share, default=0.75, metavar="SHARE", help=about)
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument("--timeout", type=_seconds, default=60, metavar="SECONDS", help="how long a server may take for one reply; default: 60")
    sub.add_argument("--batch-size", type=_count, default=64, metavar="N", help="pictures at a time, changes no picture; default: 64")

    sub = command("fetch", "fetch public prompt sets that are not shipped, or take them from a folder", fetch, model=False)
    sub.add_argument("name", metavar="NAME", help="ear (the authors' prompts), vangogh (50 titles) or coco (30,000 captions)")
    sub.add_argument("--from", dest="folder", type=Path, metavar="FOLDER", help="copy the files from here, for machines without a network")

    sub = command("rerun", "run the notebooks of book/manifest.yml with papermill; finished ones are skipped", rerun, model=False)
    sub.add_argument("--profile", default="mini")
    sub.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME")
    sub.add_argument("--executor", default="local", help="local or slurm; default: local")
    sub.add_argument("--jobs", type=_count, metavar="N", help="notebooks at a time; default: two of the mini models', else one")
    sub.add_argument("--dry-run", action="store_true", help="say what would run")

    sub = command("book", "stage the executed notebooks and build the HTML", book, model=False)
    sub.add_argument("--profile", default="mini")
    return top


# ---------------------------------------------------------------- the commands


def doctor(args) -> None:
    from .doctor import report

    print(report())


def generate(args) -> None:
    from .album import draw_pictures, plan_pictures

    plan = plan_pictures(args.prompts, args.out, args.shard)
    generator, erasure = _load(args)
    _warn_of_unknown_words(generator, plan.texts)
    drawn = draw_pictures(plan, generator, erasure, args.seed, args.guidance, args.batch_size)
    n = len(plan.prompts)
    print(f"{n} picture{'s' if n != 1 else ''} in {args.out} ({drawn} drawn now, {n - drawn} there already)")


def erase(args) -> None:
    from .album import check_folder

    concept = _concept_of_mini(args)
    if args.out.is_dir() and any(args.out.iterdir()) and not args.resume:
        raise UserError(f"{args.out}: is not empty; add --resume to go on with the run there, or choose another folder")
    check_folder(args.out)
    from .erasure import erase as train
    from .erasure.presets import recipe, with_settings

    with_settings(recipe(args.recipe), args.set)  # a wrong one is said before anything is loaded
    generator, _ = _load(args)
    settings = with_settings(recipe(args.recipe, generator.profile), args.set)
    from .concepts import load_concept

    concept = concept or load_concept(args.concept, generator.profile)
    erasure = train(generator, concept, settings, seed=args.seed, out=args.out, resume=args.resume)
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in erasure.info.items() if isinstance(value, (int, float)))
    print(f"{erasure.name} in {args.out}" + (f": {numbers}" if numbers else ""))


def evaluate(args) -> None:
    import dataclasses

    from .album import check_folder

    concept = _concept_of_mini(args)
    if args.json.is_dir():
        raise UserError(f"{args.json}: is a folder; --json names the file for the records")
    check_folder(args.json.parent)
    prompts = None
    if args.prompts:
        from .prompts import read_prompts

        prompts = tuple(dict.fromkeys(prompt.text for prompt in read_prompts(args.prompts)))
    generator, erasure = _load(args)
    from .concepts import load_concept
    from .evaluate.report import evaluate as measure
    from .evaluate.report import summarise
    from .runs import write_json

    concept = concept or load_concept(args.concept, generator.profile)
    if prompts:
        concept = dataclasses.replace(concept, tests={"custom": prompts})
    _warn_of_unknown_words(generator, [prompt for group in concept.tests.values() for prompt in group])
    erasure = erasure if args.erasure else None
    records = measure(generator, concept, erasure, seeds=tuple(args.seeds), max_prompts=args.max_prompts, fidelity=not args.no_fidelity)
    write_json(args.json, records)
    print(summarise(records).to_string())
    print(f"{len(records)} records in {args.json}")


def convert(args) -> None:
    from .album import check_folder

    check_folder(args.target)
    from .generators.convert import convert as rewrite

    folder = rewrite(args.source, args.target)
    print(f"converted; use it with --model {folder}")


def report(args) -> None:
    from .album import check_folder

    if args.erasure and (args.recipe or args.set):
        raise UserError("--erasure reports on an erasure that is there; leave out --recipe and --set, or leave out --erasure")
    concept = _concept_of_mini(args)
    check_folder(args.out)
    from .erasure.presets import recipe, with_settings

    with_settings(recipe(args.recipe or "ear"), args.set)  # a wrong one is said before anything is loaded
    generator, _ = _load(args)
    from .concepts import load_concept
    from .evaluate.page import make_report

    concept = concept or load_concept(args.concept, generator.profile)
    settings = None if args.erasure else with_settings(recipe(args.recipe or "ear", generator.profile), args.set)
    tools = {"clip": args.clip, "reference": args.reference, "show_explicit": args.show_explicit}
    page = make_report(generator, concept, args.out, settings, args.erasure, args.seed, tuple(args.seeds), args.max_prompts, **tools)
    print(f"{page}")


def ecgvf(args) -> None:
    from .album import check_folder
    from .writers import make_writers

    concept = _concept_of_mini(args)
    check_folder(args.out)
    writers = make_writers(args.writer or ["grammar"], args.device, args.timeout)
    generator, _ = _load(args)
    from .concepts import load_concept
    from .ecgvf import Settings, write_pairs

    concept = concept or load_concept(args.concept, generator.profile)
    settings = Settings(count=args.count, pictures=args.pictures, threshold=args.threshold, seed=args.seed)
    report, path = write_pairs(generator, concept, writers, args.out, settings, args.batch_size)
    dropped = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in report["total"].items() if reason not in ("written", "kept"))
    print(f"{report['kept']['count']} of {report['kept']['n']} pairs kept in {path} (dropped: {dropped}); see {args.out / 'report.md'}")
    for writer in report["writers"]:
        if writer["gap"]:
            print(f"warning: {writer['writer']} {writer['gap']}; run again to ask for what is missing", file=sys.stderr)


def fetch(args) -> None:
    from .fetch import fetch as get

    for path, n in get(args.name, args.folder):
        print(f"{path}: {n} prompts")


def rerun(args) -> int:
    from .rerun import main as run

    return run(args.profile, args.only, args.executor, args.dry_run, args.jobs)


def book(args) -> None:
    from .book import build

    build(profile=args.profile)


# ---------------------------------------------------------------- what they share


def _concept_of_mini(args):
    """A mini model's concept, before anything heavy is loaded; None for other models, whose profile is known only when they are loaded."""
    from .concepts import load_concept

    return load_concept(args.concept, "mini") if args.model == "mini" else None


def _load(args):
    """Generator and erasure (one that changes nothing, if none was asked for)."""
    folder = getattr(args, "erasure", None)
    if folder and not (folder.is_file() if folder.suffix == ".pt" else folder.is_dir()):
        raise UserError(f"{folder}: there is no such folder; --erasure takes what `{PROGRAM} erase --out DIR` wrote, or a .pt file of the EAR authors")
    from .device import decide

    decide(args.device, args.dtype)  # a wrong one is said before anything is loaded
    from .erasure.store import Erasure, NoErasure
    from .generators import load_generator

    generator = load_generator(args.model, device=args.device, dtype=args.dtype)
    return generator, Erasure.load(folder, generator) if folder else NoErasure()


def _warn_of_unknown_words(generator, prompts: list[str]) -> None:
    if unknown := generator.unknown_words(prompts):
        print(f"warning: {generator.name} has never seen: {', '.join(unknown)}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its warnings are not for the user of this command line
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    argv = sys.argv[1:] if argv is None else argv
    try:
        top = parser()
        if argv and not argv[0].startswith("-") and argv[0] not in RUNNERS:
            raise UserError(f"unknown command '{argv[0]}'; {nearest(argv[0], RUNNERS)}")
        args = top.parse_args(argv)
        if args.command is None:
            raise UserError(f"no command; known: {', '.join(RUNNERS)} ({PROGRAM} --help)")
        return RUNNERS[args.command](args) or 0
    except UserError as error:
        return _say(str(error))
    except KeyboardInterrupt:
        _say("stopped; what is finished is kept")
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise  # ours to mend, not the user's
        return _say(f"{error.filename or 'a file'}: {error.strerror}")
    except (RuntimeError, MemoryError) as error:
        if "OutOfMemory" not in type(error).__name__ and not isinstance(error, MemoryError):
            raise
        return _say("out of memory; use a smaller --batch-size, a smaller --model or another --device")


def _say(line: str) -> int:
    print("error:", " ".join(line.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
