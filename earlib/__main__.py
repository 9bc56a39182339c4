"""The command line: `python -m earlib COMMAND`. It calls the library and prints; nothing is computed here. The flags
are in `arguments.py`.

Exit status: 0 done; 1 a notebook failed; 2 a wrong input, said in one line on stderr; 130 stopped by Ctrl-C.
Nothing heavy is imported before the arguments are known to be right.
"""

from __future__ import annotations

import errno
import gc
import os
import re
import sys

from .arguments import PROGRAM, parser
from .errors import UserError, nearest
from .generators.album import check_folder

# ---------------------------------------------------------------- the commands


def doctor(args) -> None:
    from .doctor import about_erasure, report

    print(about_erasure(args.erasure, args.model) if args.erasure or args.model else report())


def generate(args) -> None:
    from .generators.album import draw_pictures, plan_pictures

    plan = plan_pictures(args.prompts, args.out, args.shard)
    if args.seed is not None and any(prompt.seed is not None for prompt in plan.prompts):
        line = f"{args.prompts}: has a column with a seed for each picture, and --seed is given too"
        raise UserError(f"{line}; leave out one of them")
    if args.by_prompt and not args.erasure:
        raise UserError("--by-prompt switches erasures on prompt by prompt, and none is given; add --erasure DIR")
    generator, erasure = _load(args)
    parts = [(plan, None)]
    if not (args.inspect or args.unsure):
        _warn_of_unknown_words(generator, plan.texts)
    else:
        from .evaluate.fallback import set_apart

        parts = set_apart(plan, generator, erasure if args.erasure else None, args.unsure)
    how = args.seed or 0, args.guidance, args.batch_size
    drawn = sum(draw_pictures(part, generator, erasure, *how, temperature) for part, temperature in parts)
    n = sum(len(part.prompts) for part, _ in parts)
    print(f"{n} picture{'s' if n != 1 else ''} in {args.out} ({drawn} drawn now, {n - drawn} there already)")


def erase(args) -> None:
    from .erasure.joint import for_all, load_joint

    concept = _concept_of_mini(args, load_joint)
    if args.out.is_dir() and any(args.out.iterdir()) and not args.resume:
        raise UserError(f"{args.out}: is not empty; add --resume to go on with the run there, or choose another folder")
    check_folder(args.out)
    from .erasure import erase as train
    from .erasure.presets import recipe, with_settings

    with_settings(recipe(args.recipe, args.model), args.set)  # a wrong one is said before anything is loaded
    generator, _ = _load(args)
    concept = concept or load_joint(args.concept, generator.profile)
    settings = with_settings(for_all(recipe(args.recipe, generator), concept), args.set)
    erasure = train(generator, concept, settings, seed=args.seed, out=args.out, resume=args.resume)
    numbers = ", ".join(
        f"{name} {value:.4g}" for name, value in erasure.info.items() if isinstance(value, (int, float))
    )
    print(f"{erasure.name} in {args.out}" + (f": {numbers}" if numbers else ""))
    if erasure.info.get("tokens_kept") == 0:
        seen = erasure.info["tokens_seen"]
        line = f"warning: the filter kept none of {seen} tokens, so that nothing was erased"
        print(f"{line}; lower filter.alpha, or use filter.kind=none", file=sys.stderr)


def merge(args) -> None:
    check_folder(args.out)
    generator, erasure = _load(args, parts="all")
    from .erasure.files.merge import write_merged

    folder = write_merged(generator, erasure, args.out)
    print(f"{erasure.name} of {erasure.concept} merged; use it with --model {folder}")


def evaluate(args) -> None:
    import dataclasses

    concept = _concept_of_mini(args)
    if args.json and args.json.is_dir():
        raise UserError(f"{args.json}: is a folder; --json names the file for the records")
    if args.json:
        check_folder(args.json.parent)
    prompts = None
    if args.prompts:
        from .prompts import read_prompts

        prompts = tuple(dict.fromkeys(prompt.text for prompt in read_prompts(args.prompts)))
    generator, erasure = _load(args)
    from .concepts import load_concept
    from .evaluate.evaluation import evaluate as measure
    from .evaluate.records import summarise
    from .runs import write_json

    concept = concept or load_concept(args.concept, generator.profile)
    if prompts:
        concept = dataclasses.replace(concept, tests={"custom": prompts})
    _warn_of_unknown_words(generator, [prompt for group in concept.tests.values() for prompt in group])
    erasure = erasure if args.erasure else None
    seeds, fidelity = tuple(args.seeds), not args.no_fidelity
    records = measure(generator, concept, erasure, seeds=seeds, max_prompts=args.max_prompts, fidelity=fidelity)
    if args.json:
        write_json(args.json, records)
    print(summarise(records).to_string())
    if args.json:
        print(f"{len(records)} records in {args.json}")


def attack(args) -> None:
    concept = _concept_of_mini(args)
    check_folder(args.out)
    from .evaluate.attacks.registry import chosen

    chosen(args.attack)  # a wrong name is said before anything is loaded
    if args.light and (args.attack or args.budget):
        raise UserError("--light has its own attacks and budgets; leave out --attack and --budget, or --light")
    generator, erasure = _load(args)
    from .book.attacked import as_text, attack_page
    from .concepts import load_concept
    from .evaluate.attacks import LIGHT
    from .evaluate.attacks.battery import Battery
    from .generators import load_generator

    concept = concept or load_concept(args.concept, generator.profile)
    if concept.name not in re.split(r"[ +]+", erasure.concept):
        print(f"warning: {args.erasure} erases '{erasure.concept}', not '{concept.name}'", file=sys.stderr)
    oracle = load_generator(args.oracle, device=args.device, dtype=args.dtype) if args.oracle else None
    how = args.attack, LIGHT if args.light else args.budget, args.seeds, args.max_prompts
    battery = Battery(generator, concept, erasure, oracle, *how)
    page, table = attack_page(battery, args.out, args.show_explicit)
    print(f"{as_text(table)}\n{page}")


def convert(args) -> None:
    check_folder(args.target)
    from .generators.files.convert import convert as rewrite

    folder = rewrite(args.source, args.target)
    print(f"converted; use it with --model {folder}")


def report(args) -> None:
    if args.erasure and (args.recipe or args.set):
        line = "--erasure names an erasure that is trained already, while --recipe and --set are for training one"
        raise UserError(f"{line}; leave out either")
    concept = _concept_of_mini(args)
    check_folder(args.out)
    from .erasure.presets import recipe, with_settings

    with_settings(recipe(args.recipe, args.model), args.set)  # a wrong one is said before anything is loaded
    generator, _ = _load(args)
    from .book.report import make_report
    from .concepts import load_concept

    concept = concept or load_concept(args.concept, generator.profile)
    settings = None if args.erasure else with_settings(recipe(args.recipe, generator), args.set)
    tools = {"clip": args.clip, "reference": args.reference, "show_explicit": args.show_explicit}
    page = make_report(
        generator, concept, args.out, settings, args.erasure, args.seed, tuple(args.seeds), args.max_prompts, **tools
    )
    print(f"{page}")


def ecgvf(args) -> None:
    from .pairs.writers import make_writers

    concept = _concept_of_mini(args)
    check_folder(args.out)
    writers = make_writers(args.writer or ["grammar"], args.device, args.timeout)
    generator, _ = _load(args)
    from .concepts import load_concept
    from .pairs.ecgvf import Settings, write_pairs

    concept = concept or load_concept(args.concept, generator.profile)
    settings = Settings(count=args.count, pictures=args.pictures, threshold=args.threshold, seed=args.seed)
    report, path = write_pairs(generator, concept, writers, args.out, settings, args.batch_size)
    dropped = ", ".join(
        f"{n} {reason.replace('_', ' ')}" for reason, n in report["total"].items() if reason not in ("written", "kept")
    )
    print(
        f"{report['kept']['count']} of {report['kept']['n']} pairs kept in {path} (dropped: {dropped}); see "
        f"{args.out / 'report.md'}"
    )
    for writer in report["writers"]:
        if writer["gap"]:
            print(f"warning: {writer['writer']} {writer['gap']}; run again to ask for what is missing", file=sys.stderr)


def fetch(args) -> None:
    from .generators.files.fetch import fetch as get

    for path, n in get(args.name, args.folder):
        print(f"{path}: {n} prompts")


def rerun(args) -> int:
    from .book.rerun import main as run

    failed = run(args.profile, args.only, asked := _asked(args), args.dry_run)
    if asked.executor == "slurm" and not (failed or args.only or args.dry_run):
        from .book.build import html_of, lacking

        if not lacking(args.profile):
            html_of(args.profile)
    return failed


def sweep(args) -> int:
    asked = _asked(args)
    if asked.as_jobs and (args.check or asked.executor == "local"):
        reason = "--check measures on this machine" if args.check else "sweeps compute on CPU cores"
        raise UserError(f"{reason}; leave out {'--gpus' if asked.executor == 'local' else '--executor'}")
    if args.check:
        from .sweeps.check import main as check

        return check(args.names, args.rows, args.jobs or 2, effort=args.effort, folder=args.out)
    from .sweeps.run import main as run

    return run(args.names, args.jobs or 2, args.effort, args.dry_run, args.out, asked)


def book(args) -> None:
    from .book.build import build

    build(profile=args.profile)


COMMANDS = (doctor, generate, erase, merge, evaluate, attack, convert, report, ecgvf, fetch, rerun, sweep, book)
RUNNERS = {run.__name__: run for run in COMMANDS}  # command -> function(args) -> exit status or None
GARBAGE = gc.get_threshold()  # how often Python looks for garbage by itself


# ---------------------------------------------------------------- what they share


def _asked(args):
    """What the command line says about jobs."""
    from .jobs.needs import Asked

    return Asked(args.executor, args.partition, args.gpus, args.time, args.jobs)


def _concept_of_mini(args, load=None):
    """A mini model's concept, before anything heavy is loaded; None where a profile is known only after loading."""
    from .concepts import load_concept
    from .generators.profiles import MAKERS

    return (load or load_concept)(args.concept, "mini") if args.model in MAKERS else None


def _load(args, parts=None):
    """Generator and erasure (one that changes nothing, if none was asked for); `parts` as in `load_generator`."""
    folders = getattr(args, "erasure", None) or []
    folders = folders if isinstance(folders, list) else [folders]
    for folder in folders:
        if not (folder.is_file() if folder.suffix == ".pt" else folder.is_dir()):
            line = f"{folder}: there is no such folder; --erasure takes what `{PROGRAM} erase --out DIR` wrote"
            raise UserError(f"{line}, or a .pt file of the EAR authors")
    from .device import decide

    decide(args.device, args.dtype)  # a wrong one is said before anything is loaded
    if sys.stderr.isatty():
        print(f"loading {args.model} ...", file=sys.stderr)
    from .erasure.store import Erasure, NoErasure
    from .generators import load_generator
    from .generators.base import NextToken

    generator = load_generator(args.model, device=args.device, dtype=args.dtype, parts=parts)
    by_prompt = getattr(args, "by_prompt", False)
    if by_prompt and not isinstance(generator, NextToken):
        line = f"--by-prompt works with next-token models only (mini, janus-pro-1b), and {args.model}"
        raise UserError(f"{line} is a next-scale model")
    gc.set_threshold(*GARBAGE)
    erasures = [Erasure.load(folder, generator) for folder in folders]
    if len(erasures) < 2 and not by_prompt:
        return generator, erasures[0] if erasures else NoErasure()
    from .concepts import load_concept
    from .erasure.compose import Transport, compose
    from .erasure.naming import names_of

    transport = None
    if by_prompt:
        transport = Transport(names_of(load_concept(e.concept, generator.profile) for e in erasures), layer=None)
    return generator, compose(erasures, transport=transport)


def _warn_of_unknown_words(generator, prompts: list[str]) -> None:
    if unknown := generator.unknown_words(prompts):
        print(f"warning: {generator.name} has never seen: {', '.join(unknown)}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its warnings are not for the user of this command line
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():  # a bar of the hub's or of transformers' would fill a log
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):  # a path that the terminal's encoding lacks is no reason to fail
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:] if argv is None else argv
    # imports make no garbage, and looking for it takes a tenth of their time; set back when they are done
    gc.set_threshold(100_000)
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
    finally:
        gc.set_threshold(*GARBAGE)


def _say(line: str) -> int:
    print("error:", " ".join(line.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
