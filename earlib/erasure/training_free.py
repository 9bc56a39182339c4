"""Methods that erase without training: their recipe, and how a concept is named to those that guide.

Two of them guide (`steering.py`) and store nothing but a text. The other two change what decoder layers compute where
the words of a prompt stand (`closed_form.py`), and their tensors are switched on and off like trained ones.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher

from ..errors import UserError
from .recipe import CHOICES as TRAINED_CHOICES
from .recipe import refuse, unused

USED = {  # method -> the fields that mean something to it
    "negative-prompt": ("text", "strength"),
    "safe-guidance": ("text", "strength", "slope", "threshold"),
    "uce": ("strength", "layers", "modules", "positions", "preserve", "ridge", "pairs"),
    "leace": ("strength", "layers", "pairs"),
}
GUIDING = ("negative-prompt", "safe-guidance")
CHOICES = {"method": tuple(USED)} | {name: TRAINED_CHOICES[name] for name in ("modules", "positions")}
LOOSE = ("a", "an", "and", "as", "at", "by", "in", "of", "on", "the", "with")  # words that end no name


@dataclass(frozen=True)
class TrainingFree:
    """A method without training. Frozen; fields that mean nothing to its method must keep their defaults."""

    name: str = "negative-prompt"
    method: str = "negative-prompt"  # one of USED
    text: str = ""  # guidance: what to steer away from; empty takes the concept's own name (`name_of`)
    strength: float = 1.0  # how much of the change is made: 0 none, 1 as published; more goes beyond
    slope: float = 1.0  # safe-guidance: how fast a code's correction grows to its full size, per nat
    threshold: float = (
        0.0  # safe-guidance: codes that the prompt favours over the concept by so many nats or more are left alone
    )
    layers: tuple[float, float] = (0.0, 1.0)  # uce, leace: which decoder layers change, as shares of the depth
    modules: str = "kv"  # uce: which of their matrices
    positions: str = "words"  # uce: where the new matrices act, at the prompts' words or everywhere
    preserve: float = 1.0  # uce: weight of what retained prompts read, beside what the concept's prompts read
    ridge: float = 0.01  # uce: lambda, in units of the mean square of what a matrix reads
    pairs: int = 50  # uce, leace: prompt pairs used

    def check(self) -> TrainingFree:
        """Itself, or a UserError that names the first field with an impossible value, or one that means nothing to the
        method."""
        positive = {
            "strength": self.strength >= 0,
            "preserve": self.preserve >= 0,
            "slope": self.slope > 0,
            "ridge": self.ridge > 0,
            "pairs": self.pairs >= 1,
        }
        refuse(self, CHOICES, positive, ("layers",), unused(self, USED))
        return self

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)

    def named(self, concept) -> TrainingFree:
        """The same recipe, with the concept's name as its text where it guides and has none yet."""
        return dataclasses.replace(self, text=name_of(concept)) if self.method in GUIDING and not self.text else self


def name_of(concept) -> str:
    """How prompts name the concept: the first of its `words`, or else the phrase that most targets have where their
    replacement says something else.

    Of phrases that as many targets share, the longest: "church"; "nude figure"; "in the style of van gogh". UserError
    if there is none.
    """
    if concept.words:
        return concept.words[0]
    shared = Counter()
    for pair in concept.pairs:
        target, other = (re.findall(r"[\w-]+", prompt.casefold()) for prompt in (pair.target, pair.replacement))
        own = [
            (a, b)
            for kind, a, b, *_ in SequenceMatcher(None, target, other, autojunk=False).get_opcodes()
            if kind in ("replace", "delete")
        ]
        shared.update(
            {
                tuple(target[i:j])
                for a, b in own
                for i in range(a, b)
                for j in range(i + 1, b + 1)
                if target[j - 1] not in LOOSE
            }
        )
    if not shared:
        raise UserError(f"the prompt pairs of concept '{concept.name}' do not say how it is called; give it: text=...")
    return " ".join(max(sorted(shared), key=lambda phrase: (shared[phrase], len(phrase))))


def without_training(
    generator, pairs, recipe: TrainingFree, seed: int = 0, run=None, progress: bool = False, retain: list[str] = ()
):
    """Erase with `recipe` from `generator`, whose weights stay as they are; returns (changed tensors by name, info), as
    `train.train` does.

    `retain` are prompts without the concept, which UCE preserves. No chance is involved and nothing is worth a
    checkpoint: `seed` and `run` are not read.
    """
    from .change import scaled
    from .closed_form import leace, uce
    from .trajectories import draw_trajectories

    began = time.perf_counter()
    pairs, retain = ([], []) if recipe.method in GUIDING else (list(pairs)[: recipe.pairs], list(retain))
    tokens_NT = None
    if recipe.positions == "all" and retain:  # then image tokens are read through the new matrices too
        tokens_NT = draw_trajectories(generator, {"retain": retain}, 0, generator.guidance, progress)["retain"]
    sampled = time.perf_counter()
    tensors = {}
    if recipe.method == "uce":
        tensors = uce(generator, pairs, recipe, retain, tokens_NT)
    elif recipe.method == "leace":
        tensors = leace(generator, pairs, recipe)
    if recipe.strength != 1:  # guidance keeps its strength in the recipe
        tensors = scaled(generator.trunk, tensors, recipe.strength)
    done = time.perf_counter()
    info = {"windows_trained": 0, "windows_skipped": 0, "tokens_trained": 0}
    info |= {
        "seconds": round(done - began, 3),
        "seconds_sampling": round(sampled - began, 3),
        "seconds_training": round(done - sampled, 3),
    }
    return tensors, info | {"pairs": len(pairs), "parameters": sum(t.numel() for t in tensors.values())}
