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

    about = "say what is installed, which device will be used and why, what is shipped and cached; or what an erasure"
    about += " is"
    sub = command("doctor", about, model=False)
    sub.flag("--erasure", "say what this is, for which model, and whether it fits; default: none", flags.DIR)
    sub.flag("--model", "with --erasure: a profile or a folder; default: every profile", type=flags.name)

    sub = command("generate", "draw a picture for every prompt of a file; run again, it draws what is missing")
    about = "one prompt a line, JSON lines with key and prompt, or a table with a column 'prompt'"
    sub.flag("--prompts", about, flags.FILE, required=True)
    sub.flag("--out", "folder for the pictures, KEY.png, and their list, index.jsonl", flags.DIR, required=True)
    about = "default: 0; where the prompt file has a column seed or evaluation_seed, that is the picture's"
    sub.flag("--seed", about, type=flags.seed)
    about = "an erasure to switch on: the folder that `erase` wrote, a LoRA folder of peft, or a .pt file of the EAR "
    about += "authors; several times for several at once"
    sub.flag("--erasure", about, flags.DIR, action="append")
    sub.flag("--by-prompt", "switch each erasure on only for prompts that have words of its concept", flags.ON)
    about = "say which prompts the model may not understand: words that it has never seen or cuts into many pieces, "
    about += "and prompts that hardly move what it draws"
    sub.flag("--inspect", about, flags.ON)
    about = "what is done with those: drawn at a higher temperature, or not at all"
    sub.flag("--unsure", about, choices=("hotter", "decline"))
    sub.flag("--guidance", "default: the model's own", type=flags.guidance, metavar="SCALE")
    about = "pictures drawn at a time, which changes speed and memory only; default: what fits, at most 128"
    sub.flag("--batch-size", about, flags.N)
    about = "draw part K of N; run once more without it to join the parts' indexes"
    sub.flag("--shard", about, type=flags.shard, default=(1, 1), metavar="K/N")

    sub = command("erase", "make an erasure of one concept, or of several at once")
    more = "; several at once with + between them: church+nudity"
    sub.add_argument("--concept", **flags.CONCEPT | {"help": flags.CONCEPT["help"] + more})
    sub.add_argument("--recipe", **flags.RECIPE)
    sub.flag("--out", "folder for the erasure and the log of its training", flags.DIR, required=True)
    sub.add_argument("--set", **flags.SET)
    sub.flag("--seed", "of everything that is random; default: 0", type=flags.seed, default=0)
    sub.flag("--resume", "go on with the run in DIR, if there is one", flags.ON)

    sub = command("merge", "write the model with an erasure in it, as a plain checkpoint that transformers loads alone")
    about = "what to merge: as with generate; given several times, adapters are added up"
    sub.flag("--erasure", about, flags.DIR, required=True, action="append")
    sub.flag("--out", "for the model; new, or empty", flags.DIR, required=True)

    sub = command("evaluate", "measure a model, with an erasure or without, on one concept")
    sub.add_argument("--concept", **flags.CONCEPT)
    sub.flag("--erasure", "what `erase` wrote; default: the model as it is", flags.DIR)
    sub.flag("--json", "where to write each measurement, a list of records", flags.FILE)
    sub.flag("--prompts", "test prompts to use in place of the concept's own, drawn from --seeds", flags.FILE)
    about = "a picture of each prompt with each; default: 0"
    sub.flag("--seeds", about, type=flags.seed, nargs="+", default=[0], metavar="SEED")
    sub.flag("--max-prompts", "at most N prompts of each kind", flags.N)
    sub.flag("--no-fidelity", "leave out FID, KID and CLIP score", flags.ON)

    about = "try to bring an erased concept back, and write a page of what worked; run again, it goes on"
    sub = command("attack", about)
    sub.add_argument("--concept", **flags.CONCEPT)
    sub.flag("--erasure", "the erasure under attack", flags.DIR, required=True)
    about = "an attack to run; several times for several; default: all that the model admits. wordings, compositions,"
    about += " negations, misspellings, guidance, best-of-n, random-search, genetic-search, token-search, soft-prompt,"
    about += " soft-prompt-4, prefix, steering, patching, relearning, harmless-tuning, pruning, rounding"
    sub.flag("--attack", about, action="append", metavar="NAME")
    about = "a model of the same picture tokenizer that never saw the concept: what an attack draws of it is the "
    about += "attack's own"
    sub.flag("--oracle", about, type=flags.name, metavar="NAME_OR_DIR")
    about = "one attack of each kind, with budgets that a laptop can afford; for --attack and --budget"
    sub.flag("--light", about, flags.ON)
    sub.flag("--budget", "forward passes of each attack; default: each one's own", flags.N)
    sub.flag("--runs", "runs of each attack, with seeds from 0; default: 3", flags.N, dest="seeds", default=3)
    sub.flag("--max-prompts", "prompts on which success is counted; default: 20", flags.N, default=20)
    sub.flag("--out", "for report.html, report.md, results.json and what was found", flags.DIR, required=True)
    sub.flag("--show-explicit", "do not blur explicit pictures: they will be seen, and stored in DIR", flags.ON)

    about = "rewrite a Janus checkpoint of deepseek-ai for transformers; run again, it goes on"
    sub = command("convert", about, model=False)
    sub.flag("source", "its folder: config.json, pytorch_model*.bin and the tokenizer", type=flags.path, metavar="SRC")
    sub.flag("target", "the folder to write, for --model", type=flags.path, metavar="DST")

    about = "erase a concept, measure everything that applies, and write a page of it; run again, it goes on"
    sub = command("report", about)
    sub.add_argument("--concept", **flags.CONCEPT)
    sub.add_argument("--recipe", **flags.RECIPE)
    sub.flag("--erasure", "report on this erasure in place of training one", flags.DIR)
    sub.flag("--out", "folder for report.html, report.md, results.json and the erasure", flags.DIR, required=True)
    sub.add_argument("--set", **flags.SET)
    sub.flag("--seed", "of the training", type=flags.seed, default=0)
    sub.flag("--seeds", "of the pictures; default: 0 1", type=flags.seed, nargs="+", default=[0, 1], metavar="SEED")
    sub.flag("--max-prompts", "at most N prompts of each kind; default: 20", flags.N, default=20)
    about = "the CLIP model that scores pictures, NAME/PRETRAINED or local-dir:FOLDER of open_clip; the mini models "
    about += "have one"
    sub.flag("--clip", about, metavar="MODEL")
    sub.flag("--reference", "real pictures to compare with (FID, KID); the mini models have some", flags.DIR)
    sub.flag("--show-explicit", "do not blur explicit pictures: they will be seen, and stored in DIR", flags.ON)

    about = "write pairs of prompts, with a concept and without, draw them, and keep those whose pictures a judge "
    about += "tells apart; run again, it goes on"
    sub = command("ecgvf", about)
    sub.add_argument("--concept", **flags.CONCEPT)
    about = "folder for NAME.json (the kept pairs), report.md, report.json and pictures.png"
    sub.flag("--out", about, flags.DIR, required=True)
    about = "who writes the prompts: grammar (templates), openai:URL:MODEL (a server) or local:FOLDER (a language "
    about += "model); one or several; default: grammar. A server's key is read from EARLIB_WRITER_KEY, or "
    about += "EARLIB_WRITER_KEY_1, ..."
    sub.flag("--writer", about, nargs="+", action="extend", metavar="WRITER")
    sub.flag("--count", "pairs to ask each writer for; default: 40", flags.N, default=40)
    sub.flag("--pictures", "pictures drawn of each prompt; default: 4", flags.N, default=4)
    about = "keep a pair if at least this share of the pictures with the concept shows it, and of those without at "
    about += "most the rest (1 - SHARE); default: 0.75"
    sub.flag("--threshold", about, type=flags.share, default=0.75, metavar="SHARE")
    sub.flag("--seed", "of everything that is random; default: 0", type=flags.seed, default=0)
    about = "how long a server may take to answer; default: 60"
    sub.flag("--timeout", about, type=flags.seconds, default=60, metavar="SECONDS")
    about = "pictures drawn at a time, which changes speed and memory only; default: 64"
    sub.flag("--batch-size", about, flags.N, default=64)

    sub = command("fetch", "fetch public prompt sets that are not shipped, or take them from a folder", model=False)
    sub.flag("name", "ear (the authors' prompts), vangogh (50 titles) or coco (30,000 captions)", metavar="NAME")
    about = "copy the files from here, for machines without a network"
    sub.flag("--from", about, dest="folder", type=flags.path, metavar="FOLDER")

    sub = command("rerun", "run the notebooks of the book that are not up to date", model=False)
    sub.add_argument("--profile", **flags.PROFILE)
    sub.flag("--only", "notebooks; default: all", nargs="+", action="extend", default=[], metavar="NAME")
    about = "notebooks at a time; default: two of the mini models', else one; with jobs, as many as may run"
    sub.flag("--jobs", about, flags.N)
    sub.flag("--dry-run", "say what would run", flags.ON)
    cluster(sub, "its GPUs in turn, with --gpus")

    about = "measure the rows that the tables of results lack, as book/sweeps.yml asks; run again, it goes on"
    sub = command("sweep", about, model=False)
    sub.flag("names", "tables; default: all of book/sweeps.yml", nargs="*", metavar="NAME")
    sub.flag("--jobs", "processes side by side, of one thread each; default: 2, in a queue as many as may run", flags.N)
    about = "measure with N times as many seeds, and pictures of each; default: 1, as in the shipped tables"
    sub.flag("--effort", about, flags.N, default=1)
    about = "folder of the tables, NAME.jsonl; default: data/sweeps, with --effort N runs/sweeps/effort-N"
    sub.flag("--out", about, flags.DIR)
    sub.flag("--dry-run", "say what would be measured", flags.ON)
    cluster(sub, "its CPU cores")
    about = "measure the quickest row of every table again, and say how many agree with the table"
    sub.flag("--check", about, flags.ON)
    sub.flag("--rows", "with --check: the N quickest rows of each table; default: 1", flags.N, default=1)

    sub = command("book", "run the notebooks that are not up to date, and build the pages of the book", model=False)
    sub.add_argument("--profile", **flags.PROFILE)
    return top
