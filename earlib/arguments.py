"""The arguments of the command line: every command and its flags. What their values may be is in `flags.py`, what a
command does in `__main__.py`."""

from __future__ import annotations

import argparse

from . import __version__, flags

PROGRAM = "python -m earlib"


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = flags.Parser(
        prog=PROGRAM, description="Erase concepts from autoregressive image models, and measure what went with them."
    )
    top.add_argument("--version", action="version", version=f"earlib {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=flags.Parser)

    def command(name, about, model=True):
        sub = commands.add_parser(name, help=about, description=about)
        if model:
            sub.add_argument(
                "--model",
                type=flags.name,
                default="mini",
                help="mini, mini-var, mini-emu3, janus-pro-1b, janus-pro-7b, a hub id or a folder; default: mini",
            )
            sub.add_argument("--device", help="cpu, cuda, cuda:1 or mps; default: a GPU if there is one")
            sub.add_argument(
                "--dtype",
                help=(
                    "number format of the weights: float32, bfloat16 or float16; default: one that is fast on the "
                    "device"
                ),
            )
        return sub

    def cluster(sub, here):
        about = f"local, this machine: {here}; or slurm: jobs of its queue, that the same command waits for again"
        sub.add_argument("--executor", default="local", metavar="WHERE", help=f"{about}; default: local")
        sub.add_argument("--partition", metavar="NAME", help="of the cluster")
        sub.add_argument("--gpus", type=flags.gpus, metavar="N", help="GPUs a job; default: what the model needs")
        sub.add_argument("--time", type=flags.minutes, metavar="TIME", help="limit of a job: 90 (minutes) or 2:30:00")

    about = (
        "say what is installed, which device will be used and why, what is shipped and cached; or what an erasure is"
    )
    sub = command("doctor", about, model=False)
    about = "say what this is, for which model, and whether it fits; default: none"
    sub.add_argument("--erasure", type=flags.path, metavar="DIR", help=about)
    sub.add_argument("--model", type=flags.name, help="with --erasure: a profile or a folder; default: every profile")

    sub = command("generate", "draw a picture for every prompt of a file; run again, it draws what is missing")
    sub.add_argument(
        "--prompts",
        required=True,
        type=flags.path,
        metavar="FILE",
        help="one prompt a line, JSON lines with key and prompt, or a table with a column 'prompt'",
    )
    sub.add_argument(
        "--out",
        required=True,
        type=flags.path,
        metavar="DIR",
        help="folder for the pictures, KEY.png, and their list, index.jsonl",
    )
    about = "default: 0; where the prompt file has a column seed or evaluation_seed, that is the picture's"
    sub.add_argument("--seed", type=flags.seed, help=about)
    about = "an erasure to switch on: the folder that `erase` wrote, a LoRA folder of peft, or a .pt file of the EAR "
    about += "authors; several times for several at once"
    sub.add_argument("--erasure", type=flags.path, action="append", metavar="DIR", help=about)
    sub.add_argument(
        "--by-prompt",
        action="store_true",
        help="switch each erasure on only for prompts that have words of its concept",
    )
    about = "say which prompts the model may not understand: words that it has never seen or cuts into many pieces, "
    sub.add_argument("--inspect", action="store_true", help=about + "and prompts that hardly move what it draws")
    about = "what is done with those: drawn at a higher temperature, or not at all"
    sub.add_argument("--unsure", choices=("hotter", "decline"), help=about)
    sub.add_argument("--guidance", type=flags.guidance, metavar="SCALE", help="default: the model's own")
    sub.add_argument(
        "--batch-size",
        type=flags.count,
        metavar="N",
        help="pictures drawn at a time, which changes speed and memory only; default: what fits, at most 128",
    )
    sub.add_argument(
        "--shard",
        type=flags.shard,
        default=(1, 1),
        metavar="K/N",
        help="draw part K of N; run once more without it to join the parts' indexes",
    )

    sub = command("erase", "train an erasure for one concept")
    sub.add_argument("--concept", **flags.CONCEPT)
    sub.add_argument("--recipe", **flags.RECIPE)
    sub.add_argument(
        "--out",
        required=True,
        type=flags.path,
        metavar="DIR",
        help="folder for the erasure and the log of its training",
    )
    sub.add_argument("--set", **flags.SET)
    sub.add_argument("--seed", type=flags.seed, default=0, help="of everything that is random; default: 0")
    sub.add_argument("--resume", action="store_true", help="go on with the run in DIR, if there is one")

    sub = command("merge", "write the model with an erasure in it, as a plain checkpoint that transformers loads alone")
    about = "what to merge: as with generate; given several times, adapters are added up"
    sub.add_argument("--erasure", required=True, type=flags.path, action="append", metavar="DIR", help=about)
    sub.add_argument("--out", required=True, type=flags.path, metavar="DIR", help="for the model; new, or empty")

    sub = command("evaluate", "measure a model, with an erasure or without, on one concept")
    sub.add_argument("--concept", **flags.CONCEPT)
    sub.add_argument(
        "--erasure", type=flags.path, metavar="DIR", help="what `erase` wrote; default: the model as it is"
    )
    sub.add_argument(
        "--json", required=True, type=flags.path, metavar="FILE", help="where the measurements go, a list of records"
    )
    sub.add_argument(
        "--prompts",
        type=flags.path,
        metavar="FILE",
        help="test prompts to use in place of the concept's own, drawn from --seeds",
    )
    about = "a picture of each prompt with each; default: 0"
    sub.add_argument("--seeds", type=flags.seed, nargs="+", default=[0], metavar="SEED", help=about)
    sub.add_argument("--max-prompts", type=flags.count, metavar="N", help="at most N prompts of each kind")
    sub.add_argument("--no-fidelity", action="store_true", help="leave out FID, KID and CLIP score")

    sub = command(
        "attack", "try to bring an erased concept back, and write a page of what worked; run again, it goes on"
    )
    sub.add_argument("--concept", **flags.CONCEPT)
    sub.add_argument("--erasure", required=True, type=flags.path, metavar="DIR", help="the erasure under attack")
    about = "an attack to run; several times for several; default: all that the model admits. wordings, compositions, "
    about += "negations, misspellings, guidance, best-of-n, random-search, genetic-search, token-search, soft-prompt, "
    about += "soft-prompt-4, prefix, steering, patching, relearning, harmless-tuning, pruning, rounding"
    sub.add_argument("--attack", action="append", metavar="NAME", help=about)
    about = "a model of the same picture tokenizer that never saw the concept: what an attack draws of it is the "
    sub.add_argument("--oracle", type=flags.name, metavar="NAME_OR_DIR", help=about + "attack's own")
    about = "one attack of each kind, with budgets that a laptop can afford; for --attack and --budget"
    sub.add_argument("--light", action="store_true", help=about)
    about = "forward passes of each attack; default: each one's own"
    sub.add_argument("--budget", type=flags.count, metavar="N", help=about)
    about = "runs of each attack, with seeds from 0; default: 3"
    sub.add_argument("--runs", dest="seeds", type=flags.count, default=3, metavar="N", help=about)
    about = "prompts on which success is counted; default: 20"
    sub.add_argument("--max-prompts", type=flags.count, default=20, metavar="N", help=about)
    about = "for report.html, report.md, results.json and what was found"
    sub.add_argument("--out", required=True, type=flags.path, metavar="DIR", help=about)
    sub.add_argument(
        "--show-explicit",
        action="store_true",
        help="do not blur explicit pictures: they will be seen, and stored in DIR",
    )

    sub = command(
        "convert", "rewrite a Janus checkpoint of deepseek-ai for transformers; run again, it goes on", model=False
    )
    sub.add_argument(
        "source", type=flags.path, metavar="SRC", help="its folder: config.json, pytorch_model*.bin and the tokenizer"
    )
    sub.add_argument("target", type=flags.path, metavar="DST", help="the folder to write, for --model")

    sub = command(
        "report", "erase a concept, measure everything that applies, and write a page of it; run again, it goes on"
    )
    sub.add_argument("--concept", **flags.CONCEPT)
    sub.add_argument("--recipe", **flags.RECIPE)
    sub.add_argument(
        "--erasure", type=flags.path, metavar="DIR", help="report on this erasure in place of training one"
    )
    sub.add_argument(
        "--out",
        required=True,
        type=flags.path,
        metavar="DIR",
        help="folder for report.html, report.md, results.json and the erasure",
    )
    sub.add_argument("--set", **flags.SET)
    sub.add_argument("--seed", type=flags.seed, default=0, help="of the training")
    sub.add_argument(
        "--seeds", type=flags.seed, nargs="+", default=[0, 1], metavar="SEED", help="of the pictures; default: 0 1"
    )
    sub.add_argument(
        "--max-prompts", type=flags.count, default=20, metavar="N", help="at most N prompts of each kind; default: 20"
    )
    sub.add_argument(
        "--clip",
        metavar="MODEL",
        help=(
            "the CLIP model that scores pictures, NAME/PRETRAINED or local-dir:FOLDER of open_clip; the mini "
            "models have one"
        ),
    )
    sub.add_argument(
        "--reference",
        type=flags.path,
        metavar="DIR",
        help="real pictures to compare with (FID, KID); the mini models have some",
    )
    sub.add_argument(
        "--show-explicit",
        action="store_true",
        help="do not blur explicit pictures: they will be seen, and stored in DIR",
    )

    sub = command(
        "ecgvf",
        "write pairs of prompts, with a concept and without, draw them, and keep those whose pictures a judge tells "
        "apart; run again, it goes on",
    )
    sub.add_argument("--concept", **flags.CONCEPT)
    sub.add_argument(
        "--out",
        required=True,
        type=flags.path,
        metavar="DIR",
        help="folder for NAME.json (the kept pairs), report.md, report.json and pictures.png",
    )
    about = (
        "who writes the prompts: grammar (templates), openai:URL:MODEL (a server) or local:FOLDER (a language model); "
    )
    about += (
        "one or several; default: grammar. A server's key is read from EARLIB_WRITER_KEY, or EARLIB_WRITER_KEY_1, ..."
    )
    sub.add_argument("--writer", nargs="+", action="extend", metavar="WRITER", help=about)
    sub.add_argument(
        "--count", type=flags.count, default=40, metavar="N", help="pairs to ask each writer for; default: 40"
    )
    sub.add_argument(
        "--pictures", type=flags.count, default=4, metavar="N", help="pictures drawn of each prompt; default: 4"
    )
    about = (
        "keep a pair if at least this share of the pictures with the concept shows it, and of those without at most "
    )
    about += "the rest (1 - SHARE); default: 0.75"
    sub.add_argument("--threshold", type=flags.share, default=0.75, metavar="SHARE", help=about)
    sub.add_argument("--seed", type=flags.seed, default=0, help="of everything that is random; default: 0")
    sub.add_argument(
        "--timeout",
        type=flags.seconds,
        default=60,
        metavar="SECONDS",
        help="how long a server may take to answer; default: 60",
    )
    sub.add_argument(
        "--batch-size",
        type=flags.count,
        default=64,
        metavar="N",
        help="pictures drawn at a time, which changes speed and memory only; default: 64",
    )

    sub = command("fetch", "fetch public prompt sets that are not shipped, or take them from a folder", model=False)
    sub.add_argument(
        "name", metavar="NAME", help="ear (the authors' prompts), vangogh (50 titles) or coco (30,000 captions)"
    )
    sub.add_argument(
        "--from",
        dest="folder",
        type=flags.path,
        metavar="FOLDER",
        help="copy the files from here, for machines without a network",
    )

    sub = command("rerun", "run the notebooks of the book that are not up to date", model=False)
    sub.add_argument("--profile", **flags.PROFILE)
    sub.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME", help="notebooks; default: all")
    sub.add_argument(
        "--jobs",
        type=flags.count,
        metavar="N",
        help="notebooks at a time; default: two of the mini models', else one; with jobs, as many as may run",
    )
    sub.add_argument("--dry-run", action="store_true", help="say what would run")
    cluster(sub, "its GPUs in turn, with --gpus")

    sub = command(
        "sweep",
        "measure the rows that the tables of results lack, as book/sweeps.yml asks; run again, it goes on",
        model=False,
    )
    sub.add_argument(
        "names", nargs="*", metavar="NAME", help="tables, those of sweeps-next.yml too; default: all of book/sweeps.yml"
    )
    sub.add_argument(
        "--jobs",
        type=flags.count,
        metavar="N",
        help="processes side by side, of one thread each; default: 2, in a queue as many as may run",
    )
    sub.add_argument(
        "--effort",
        type=flags.count,
        default=1,
        metavar="N",
        help="measure with N times as many seeds, and pictures of each; default: 1, as in the shipped tables",
    )
    sub.add_argument(
        "--out",
        type=flags.path,
        metavar="DIR",
        help="folder of the tables, NAME.jsonl; default: data/sweeps, with --effort N runs/sweeps/effort-N",
    )
    sub.add_argument("--dry-run", action="store_true", help="say what would be measured")
    cluster(sub, "its CPU cores")
    sub.add_argument(
        "--check",
        action="store_true",
        help="measure the quickest row of every table again, and say how many agree with the table",
    )
    sub.add_argument(
        "--rows",
        type=flags.count,
        default=1,
        metavar="N",
        help="with --check: the N quickest rows of each table; default: 1",
    )

    sub = command("book", "run the notebooks that are not up to date, and build the pages of the book", model=False)
    sub.add_argument("--profile", **flags.PROFILE)
    return top
