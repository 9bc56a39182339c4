"""Attacks on one erasure, each measured four times: the erased model without it, with it, the oracle with it, and with
its budget spent on an unrelated word.

A cell is one attack, on one of these, from one seed. It is kept in the folder as soon as it is done, so that a call
that was killed goes on where it stopped, and a later call with more attacks or seeds measures what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...concepts import Concept
from ...errors import UserError
from ...generators.base import Generator
from ...runs import Run, plain, progress_bar, read_json, write_bytes, write_json
from ..judge import Judge, describe
from ..judges import load_judge
from ..oracle import check_oracle
from ..rate import Rate
from ..records import Note
from .base import Attack, Budget, Victim
from .goals import Goal, check_control, goal_of, unrelated_to
from .registry import EVERY, PLAIN, chosen

if TYPE_CHECKING:
    from ...erasure.store import Erasure

WAYS = ("base", "erased", "oracle", "control")  # what is attacked: conditions of records; "base" is asked by name only


@dataclass
class Battery:
    """What is attacked and how.

    Args:
        generator: the base model, of either family.
        concept: what was erased.
        erasure: the erasure under attack; None attacks the base model.
        oracle: a model of the same picture tokenizer that never saw the concept; None leaves its column empty.
        names: of the attacks; None for all that the model admits.
        budget: passes of each attack, or of each by its name (those named are the attacks then); None for its own.
        seeds: how many times each is run, from seeds 0, 1, ...
        size: prompts on which success is counted.
        progress: show a bar with the time left.

    Raises:
        UserError: an unknown attack, or one that was named and that the model or the concept does not admit; a budget
            of 0; an erasure of another model; an oracle of another world.
    """

    generator: Generator
    concept: Concept
    erasure: Erasure | None
    oracle: Generator | None = None
    names: Sequence[str] | None = None
    budget: int | dict[str, int] | None = None
    seeds: int = 3
    size: int = 20
    progress: bool = True
    shared: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.attacks, self.left_out = [], {}
        if isinstance(self.budget, int):
            Budget(self.budget)
        if self.erasure is not None:
            self.erasure.check(self.generator)
        check_control(self.concept)
        if self.oracle is not None:
            check_oracle(self.oracle, self.generator)
            if self.oracle.fingerprint == self.generator.fingerprint:
                raise UserError(f"the oracle is {self.oracle.name} itself; name a model that never saw the concept")
        for attack in chosen(list(self.budget) if isinstance(self.budget, dict) else self.names):
            try:
                attack.check(self.victim("erased"))
                self.attacks.append(attack)
            except UserError as error:
                if self.names is not None:
                    raise
                self.left_out[attack.name] = str(error)

    @cached_property
    def judge(self) -> Judge:
        """Who says whether a picture shows the concept, whatever the attack was after."""
        return load_judge(self.concept.judge)

    @cached_property
    def goal(self) -> Goal:
        """The concept."""
        return goal_of(self.concept, self.size)

    @cached_property
    def unrelated(self) -> Goal:
        """The control's word."""
        return unrelated_to(self.goal, self.concept, self.generator)

    def passes(self, attack: Attack) -> int:
        """What an attack may spend."""
        return self.budget.get(attack.name, 1) if isinstance(self.budget, dict) else self.budget or attack.passes

    def victim(self, way: str) -> Victim:
        """Who is attacked: "base", "erased", "oracle" or "control"."""
        generator = self.oracle if way == "oracle" else self.generator
        assert generator is not None
        erasure = self.erasure if way in ("erased", "control") else None
        goal = self.unrelated if way == "control" else self.goal
        return Victim(generator, erasure, goal, self.generator, self.shared)

    @property
    def ways(self) -> list[str]:
        """What every attack is run on."""
        return ["erased", *(["oracle"] if self.oracle is not None else []), "control"]

    def cells(self) -> Iterator[tuple[Attack, str, int]]:
        """(attack, way, seed) of all that is measured; asking by name first."""
        for seed in range(self.seeds):
            yield from ((PLAIN, way, seed) for way in dict.fromkeys(["base", *self.ways]))
        for attack in self.attacks:
            yield from ((attack, way, seed) for seed in range(self.seeds) for way in self.ways)

    def config(self) -> dict:
        """What a folder is of: everything but which attacks and how many seeds."""
        erasure = None if self.erasure is None else f"{self.erasure.name} {self.erasure.change_hash}"
        oracle = None if self.oracle is None else self.oracle.fingerprint
        concept = hashlib.sha256(json.dumps(plain(asdict(self.concept))).encode()).hexdigest()[:16]
        about = {"attacks_on": self.concept.name, "model": self.generator.name, "erasure": erasure, "oracle": oracle}
        about |= {"concept": concept, "fingerprint": self.generator.fingerprint}
        return about | {"budget": self.budget, "size": self.size}


def measure(battery: Battery, run: Run) -> list[dict]:
    """Every cell of the battery, and those of earlier calls that the folder holds; writes cells/NAME.json and .npz as
    each is done."""
    wanted, folder = list(battery.cells()), run.folder / "cells"
    missing = [cell for cell in wanted if not (folder / f"{file_name(*cell)}.json").exists()]
    pictures = battery.size * 2  # what success is counted on costs about so many passes
    price = lambda attack: pictures if attack is PLAIN else battery.passes(attack) + pictures
    about: dict[str, Any] = {"total": sum(price(attack) for attack, *_ in missing), "unit": "pass", "desc": "attacking"}
    with progress_bar(**about, disable=not (battery.progress and missing), leave=False) as bar:
        for attack, way, seed in missing:
            bar.set_postfix_str(f"{attack.name}, {way}, seed {seed}")
            keep_cell(folder / file_name(attack, way, seed), *run_cell(battery, attack, way, seed))
            bar.update(price(attack))
    names = list(EVERY)
    found = [read_cell(file) for file in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda cell: (names.index(cell["attack"]), WAYS.index(cell["way"]), cell["seed"]))


def read_cell(file: Path) -> dict:
    """What a cell's file holds. UserError if it is damaged."""
    anew = f"remove it and its neighbours {file.stem}.*, and run again"
    try:
        cell = read_json(file)
        with contextlib.suppress(FileNotFoundError), np.load(file.with_suffix(".npz")) as pictures:
            pictures["codes"]
    except (UserError, ValueError, KeyError, OSError, zipfile.BadZipFile):
        raise UserError(f"{file}: a damaged cell; {anew}") from None
    if not isinstance(cell, dict) or cell.get("attack") not in EVERY or cell.get("way") not in WAYS:
        raise UserError(f"{file}: no cell of an attack; {anew}")
    return cell


def file_name(attack: Attack, way: str, seed: int) -> str:
    """The stem of a cell's files."""
    return f"{attack.name}-{way}-{seed}"


def run_cell(battery: Battery, attack: Attack, way: str, seed: int) -> tuple[dict, torch.Tensor | None, dict]:
    """(what is kept of a cell, the codes of its pictures, tensors that were found)."""
    cell = {"attack": attack.name, "way": way, "seed": seed}
    budget, victim, began = Budget(battery.passes(attack)), battery.victim(way), time.perf_counter()
    try:
        attack.check(victim)
        found = attack.run(victim, budget, seed)
        if attack is not PLAIN and not budget.spent:  # it tried nothing, which is not to fail
            raise budget.too_small(attack.name)
    except UserError as error:
        return cell | {"left_out": str(error)}, None, {}
    seconds = time.perf_counter() - began
    shows = battery.judge.shows(victim.generator.decode(found.codes))
    cell |= {"shows": shows.astype(int).tolist(), "prompts": found.prompts, "passes": budget.spent}
    return cell | {"seconds": round(seconds, 2), "told": found.told, "more": found.more}, found.codes, found.tensors


def keep_cell(stem: Path, cell: dict, codes: torch.Tensor | None, tensors: dict[str, torch.Tensor]) -> None:
    """Write a cell's pictures, what was found and, last, its numbers."""
    if codes is not None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, codes=codes.cpu().numpy())
        write_bytes(stem.with_suffix(".npz"), buffer.getvalue())
    if tensors:
        from safetensors.torch import save

        write_bytes(stem.with_suffix(".safetensors"), save({n: t.contiguous().cpu() for n, t in tensors.items()}))
    write_json(stem.with_suffix(".json"), plain(cell))


def pooled(cells: Sequence[dict], attack: str, way: str) -> Rate | None:
    """The rate of an attack's pictures of all seeds; None where none were drawn."""
    some = [cell for cell in cells if (cell["attack"], cell["way"]) == (attack, way) and "shows" in cell]
    return Rate.pooled(Rate.of(cell["shows"]) for cell in some) if some else None


def records(battery: Battery, cells: Sequence[dict]) -> list[dict]:
    """Flat records, with the columns of `evaluate`'s and `box`, `passes` and `seconds` (of one seed): attack_rate of
    each attack (kind) and of asking by name (kind none), under each condition."""
    found = []
    for attack in dict.fromkeys(cell["attack"] for cell in cells):
        for way in WAYS:
            mine = [c for c in cells if (c["attack"], c["way"]) == (attack, way) and "shows" in c]
            if not mine:
                continue
            note = Note(battery.generator, battery.concept, way, battery.erasure, [c["seed"] for c in mine])
            rate = Rate.pooled(Rate.of(cell["shows"]) for cell in mine)
            record = note.measure("attack_rate", battery.concept.name, attack, rate, describe(battery.judge))
            mean = lambda key, mine=mine: float(np.mean([cell[key] for cell in mine]))
            record |= {"box": EVERY[attack].box, "passes": mean("passes"), "seconds": round(mean("seconds"), 2)}
            found.append(record)
    return found


def rows(cells: Sequence[dict]) -> list[dict]:
    """The table: a row an attack, rates in per cent with their 95 % intervals."""
    without, table = pooled(cells, PLAIN.name, "erased"), []
    text = lambda rate: None if rate is None else rate.text()
    for name in dict.fromkeys(cell["attack"] for cell in cells):
        mine = [cell for cell in cells if cell["attack"] == name and cell["way"] == "erased" and "shows" in cell]
        if not mine:
            continue
        attacked, oracle = pooled(cells, name, "erased"), pooled(cells, name, "oracle")
        row: dict[str, Any] = {"attack": name, "box": EVERY[name].box}
        row |= {"without": text(without), "with": text(attacked), "oracle": text(oracle)}
        beyond = attacked.minus(oracle).points() if attacked is not None and oracle is not None else None
        row |= {"beyond the oracle": beyond, "control": text(pooled(cells, name, "control"))}
        row |= {"passes": f"{np.mean([cell['passes'] for cell in mine]):.0f}"}
        row |= {"seconds": f"{np.mean([cell['seconds'] for cell in mine]):.1f}"}
        for column, way in (("found", "erased"), ("found on the oracle", "oracle")):
            told = [cell.get("told") for cell in cells if (cell["attack"], cell["way"]) == (name, way)]
            row[column] = "; ".join(dict.fromkeys(text for text in told if text))
        table.append(row)
    return table
