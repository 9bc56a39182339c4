"""What the flags of the command line may hold: readers of their values, each of which complains in one line, and the
flags that several commands have."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError, nearest


class Parser(argparse.ArgumentParser):
    """argparse that raises one line instead of printing its usage, and names the nearest flag or command."""

    def __init__(self, **more):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **more)

    def flag(self, name: str, about: str, kind: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Add an argument: what `--help` says of it, and what it takes (`kind` and `more`, as for `add_argument`)."""
        self.add_argument(name, help=about, **(kind or {}), **more)

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


def path(text: str) -> Path:
    """`--out=~/x` too: a shell expands ~ only at the beginning of a word."""
    return Path(text).expanduser()


def name(text: str) -> str:
    """A name, or a path: of a model, or of a concept."""
    return str(path(text)) if text.startswith("~") else text


def seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"'{text}' is no seed; a seed is a whole number from 0")
    return int(text)


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return int(text)


def minutes(text: str) -> int:
    from .jobs.needs import minutes_of

    return minutes_of(text)


def gpus(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no number of GPUs")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is no shard; 3/8 is the third of eight")
    return int(part), int(parts)


def number(fits: Callable[[float], bool], complaint: str) -> Callable[[str], float]:
    """A reader of numbers for which `fits` holds; `complaint` goes on after the text that is none."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and fits(value)):
            raise argparse.ArgumentTypeError(f"'{text}' {complaint}")
        return value

    return read


guidance = number(lambda x: x >= 0, "is no guidance scale; a scale is a number from 0, such as 3 (1 means no guidance)")
share = number(
    lambda x: 0.5 < x <= 1, "is no threshold; a threshold is a share of pictures above 0.5 and at most 1, such as 0.75"
)
seconds = number(lambda x: x > 0, "is no time; give seconds, such as 60")


# what several flags take
DIR: dict[str, Any] = {"type": path, "metavar": "DIR"}
FILE: dict[str, Any] = {"type": path, "metavar": "FILE"}
N: dict[str, Any] = {"type": count, "metavar": "N"}
ON: dict[str, Any] = {"action": "store_true"}
# flags that several commands have
CONCEPT = {"required": True, "type": name, "help": "a name that `doctor` lists, or a JSON file of your own"}
RECIPE = {"help": "how to erase, a name that `doctor` lists; default: ear, for a next-scale model (mini-var) s-vare"}
SET: dict[str, Any] = {"nargs": "+", "action": "extend", "default": [], "metavar": "FIELD=VALUE"}
SET["help"] = "change fields of the recipe, for example windows.length=12 lr=1e-4"
PROFILE = {"default": "mini", "help": "whose parameters book/manifest.yml gives: mini, janus-pro-1b, ..."}
