"""Oracles: models trained as MiniJanus is, in a world that lacks a concept. They are what an erasure should come to.

Scenes with the concept are replaced by other scenes, so that neither its pictures nor their captions are ever met. The
pictures of all other lessons are those that MiniJanus has at the same step, and nothing else changes. Tokenizer and eye
are those of the whole world.

There are two ways to one. `make --without church` trains from the first step without churches. A fork costs less than
half: one joint run, `make --without church,nudity,vangogh`, is shown none of the three and keeps its checkpoint of step
6,000, until when the learning rates are level; `make --without church --fork DIR --at 6000` goes on from there with the
lessons of a world in which only churches are missing. So the fork never saw a church either: not before step 6,000, as
the joint run was shown none of the three, and not after it. Nude figures and Van Gogh it meets for the first time then,
with 40 % of its training still before it. Forks of one joint run share their first 6,000 steps: two of them that differ
by their seed differ less than two oracles trained apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import UserError, nearest
from ..runs import read_json, write_json
from .scenes import NAMES, Scenes
from .words import CONCEPTS

NEVER = "never.json"  # beside a checkpoint: what its run was never shown
FORK = "fork.json"  # beside that of a fork: of which run, and of which step


def concepts_in(text: str) -> tuple[str, ...]:
    """The concepts of `church,nudity`, each once, in the order of CONCEPTS.

    Raises:
        UserError: one of them is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in CONCEPTS]:
        raise UserError(f"no concept '{unknown[0]}' in MiniWorld; {nearest(unknown[0], CONCEPTS)}")
    return tuple(name for name in CONCEPTS if name in names)


def absent(names: tuple[str, ...]) -> Callable[[Scenes], np.ndarray] | None:
    """The function that says which scenes show one of the concepts `names`, bool [N]; None for no concepts."""
    if not names:
        return None

    def shown(scenes: Scenes) -> np.ndarray:
        found = np.zeros(len(scenes), bool)
        for attribute, value in map(CONCEPTS.__getitem__, names):
            index = NAMES[attribute].index(value)
            found |= getattr(scenes, attribute) == index
            if attribute == "object":
                found |= scenes.object2 == index
        return found

    return shown


def begin(state: Path, never: tuple[str, ...], seed: int, fork: Path | None = None, at: int | None = None) -> None:
    """Make `state` ready for an oracle's training: note what it is never shown, and with `fork` let it go on from the
    checkpoint of step `at` of the run in that folder. What has begun already goes on as it is.

    Raises:
        UserError: there is no such checkpoint, or its run has been shown what the oracle must never see; or what has
            begun is another run than is asked for.
    """
    asked = None if fork is None else {"of": fork.name, "at": at}
    if (state / "state.pt").exists():
        begun = told(never_of(state), fork_of(state))
        if begun != told(never, asked):
            line = f"{state}: holds a run {begun}, not one {told(never, asked)}"
            raise UserError(f"{line}; go on with it as what it is, or choose another --out")
        return
    (state / FORK).unlink(missing_ok=True)
    if fork is not None:
        import torch

        file = fork / f"state-{at}.pt"
        if not file.exists():
            kept = ", ".join(sorted(path.name for path in fork.glob("state-*.pt"))) or "none"
            raise UserError(f"{file} is missing; kept there: {kept}")
        if seen := [name for name in never if name not in never_of(fork)]:
            raise UserError(f"the run in {fork} was shown '{seen[0]}', so a fork of it is no oracle of that")
        checkpoint = torch.load(file, weights_only=True) | {"seed": seed}
        state.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, state / "state.tmp")
    write_json(state / NEVER, list(never))
    if fork is not None:
        write_json(state / FORK, asked)
        (state / "state.tmp").rename(state / "state.pt")


def never_of(state: Path) -> tuple[str, ...]:
    """The concepts that the run in `state` was never shown."""
    return tuple(read_json(state / NEVER)) if (state / NEVER).exists() else ()


def fork_of(state: Path) -> dict | None:
    """{"of", "at"}: the run and the step that the run in `state` was forked from; None where it was not."""
    return read_json(state / FORK) if (state / FORK).exists() else None


def told(never: tuple[str, ...], fork: dict | None) -> str:
    """What a run is never shown and how it began, in words."""
    began = f"forked from {fork['of']} at step {fork['at']}" if fork else "begun at its own first step"
    return f"without {', '.join(never) or 'nothing'}, {began}"
