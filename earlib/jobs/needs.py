"""What a job asks of a cluster: by the profile, the manifest and the command line, each over the one before."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from .. import memory
from ..errors import UserError, nearest

EXECUTORS = ("local", "slurm")
SMALL = ("mini", "test")  # profiles whose models need no GPU
NO_TIME = "give minutes, such as 90, or hours, such as 2:30:00"


@dataclass(frozen=True)
class Asked:
    """What the command line says about jobs; None: what the profile needs.

    Attributes:
        executor: "local": this machine; "slurm": its queue.
        partition: of the cluster.
        gpus: GPUs of a job.
        minutes: after which a job may be ended.
        jobs: how many run at a time.
    """

    executor: str = "local"
    partition: str | None = None
    gpus: int | None = None
    minutes: int | None = None
    jobs: int | None = None

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise UserError(f"unknown executor '{self.executor}': {nearest(self.executor, EXECUTORS)}")
        if self.executor == "local" and (self.partition or self.minutes):
            raise UserError("--partition and --time are the cluster's: add --executor slurm")

    @property
    def as_jobs(self) -> bool:
        """Whether jobs do the work; else processes of this command do."""
        return self.executor == "slurm" or bool(self.gpus)


LOCAL = Asked()


@dataclass(frozen=True)
class Needs:
    """What a job asks for. `options` are further ones of sbatch, (name, value)."""

    cpus: int = 1
    memory: int = 4  # GB, of the machine's
    gpus: int = 0
    minutes: int = 60
    alone: bool = False  # nothing runs beside it
    options: tuple[tuple[str, str], ...] = ()

    def but(self, asked: Asked, options: dict[str, Any] | None = None) -> Needs:
        """With what the manifest sets (`options` of sbatch), and over that what the command line asks."""
        left = {name.replace("_", "-"): str(value) for name, value in (options or {}).items()}
        limit = left.pop("time", None)
        if asked.gpus is not None:
            left.pop("gres", None)
        if asked.partition is not None:
            left["partition"] = asked.partition
        gpus = self.gpus if asked.gpus is None else asked.gpus
        minutes = asked.minutes or (minutes_of(limit) if limit else self.minutes)
        return replace(self, gpus=gpus, minutes=minutes, options=tuple(sorted(left.items())))

    def __str__(self) -> str:
        gpus = f"{self.gpus or 'no'} GPU{'s' if self.gpus > 1 else ''}"
        more = "".join(f", {name} {value}" for name, value in self.options) + ", alone" * self.alone
        return f"{self.cpus} core{'s' if self.cpus > 1 else ''}, {self.memory} GB, {gpus}, {self.minutes} min{more}"


def needs_of(profile: str, minutes: float) -> Needs:
    """What running a notebook takes: a core for the mini models, a GPU for others, and room to load their weights.

    Args:
        profile: of the manifest.
        minutes: what the notebook costs on the mini models.
    """
    if profile in SMALL:
        return Needs(minutes=max(30, math.ceil(10 * minutes)))
    sizes = memory.KNOWN.get(profile)
    weights = memory.weight_bytes(sizes, "bfloat16", "all") / 1e9 if sizes else 15
    return Needs(cpus=4, memory=math.ceil(4 + 2 * weights), gpus=1, minutes=240)


def minutes_of(text: str) -> int:
    """Slurm's times: `90`, `2:30:00`, `1-12`, `1-12:30`; seconds are rounded up. UserError for anything else."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(text).strip())
    if not found:
        raise UserError(f"'{text}' is no time; {NO_TIME}")
    days, *parts = (int(part) if part else 0 for part in found.groups())
    if found[1]:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = parts
    elif found[4]:  # hours:minutes:seconds
        hours, minutes, seconds = parts
    else:  # minutes[:seconds]
        hours, (minutes, seconds) = 0, parts[:2]
    total = math.ceil((days * 24 + hours) * 60 + minutes + seconds / 60)
    if not total:
        raise UserError(f"'{text}' is no time; {NO_TIME}")
    return total
