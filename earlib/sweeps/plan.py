"""What book/sweeps.yml asks for: the sweeps, and every row of their tables with the key under which it is kept.

A sweep is a list of cases; a case is a recipe with settings, and a setting with a list of values is an axis: several
axes are a product. Each is trained on every concept with every seed, and the base model has a row beside them.
`run.py` fills the tables, `measure.py` measures a row, `read.py` reads. Several concepts at once are one concept with
"+" in its name (`several.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .. import CHECKOUT, DATA, ROOT
from ..concepts import Concept, list_concepts
from ..erasure.joint import JOIN
from ..errors import UserError, nearest
from ..evaluate.attacks import LIGHT
from ..generators.load import family_of
from .keys import PROFILE, chosen, concept_of, image_tokens, prompts, short, weights
from .several import check_form
from .typed import checked_fields, is_list_of, is_number
from .written import CONTROLS, FILTER, MANNERS, WRITERS, WRONG, check_written

SWEEPS = ROOT / "book" / "sweeps.yml" if CHECKOUT else DATA / "sweeps.yml"
# Settings of a case that are no fields of its recipe: how much of the trained change is switched on; how several
# concepts are erased at once; which prompts open the change. Of the last two the first value holds where none is set.
STRENGTH, FORM, TRANSPORT = "erasure.strength", "erasure.form", "erasure.transport"
VALUES = {FORM: ("joint", "composed", "sequential"), TRANSPORT: ("none", "overlap", "similarity")}
VALUES |= {WRITERS: ("file", *MANNERS, *CONTROLS), FILTER: ("none", "visual")}
# set by a sweep's `attacks`: what a row's model is attacked with, at what cost
ATTACK, PASSES = "attack", "attack.passes"
OURS = (STRENGTH, *VALUES, WRONG, ATTACK, PASSES)
MODELS = (PROFILE, "mini-var", "mini-emu3")
SPLITS = ("test", "dev", "nonsense")
ASKED = ("sweep", "label", "concept", "recipe", "settings", "seed", "split")  # what a measured row says it was asked
# The version of all rows: raise it when the numbers of a row would change for a reason that is not in its key, and
# measure all tables again. In the key are weights, prompts, recipe, seeds and numbers of pictures; not in it is the
# code, nor what preservation reads of other concepts.
TABLE_VERSION = 2
# pictures of a row at size 1: of each kind of test prompt, of all neighbours together, and of benign prompts
PICTURES = {"direct": 30, "synonym": 15, "description": 15, "held-out": 8, "compositional": 8, "indirect": 8, "odd": 0}
PICTURES |= {"neighbours": 36, "benign": 24}


@dataclass(frozen=True)
class Row:
    """One row to measure: a model trained on one concept with one seed. All that decides its numbers, but for weights
    and prompts, which `key` adds."""

    concept: str
    recipe: str | None  # a preset's name; None is the base model
    settings: dict[str, Any]  # recipe field -> value
    seed: int  # of the training and of the pictures
    # test; dev: the prompts that a recipe is chosen on; nonsense: test, but trained on a word that means nothing
    split: str
    pictures: dict[str, int]  # as PICTURES
    fidelity: bool  # KID and diversity too
    model: str = PROFILE  # a mini profile, or a folder of such a model
    oracle: str = ""  # a model that never saw the concept, to which the distance is measured; "" measures none
    sweep: str = ""  # in whose table it stands, and under which name: these decide no number
    label: str = ""

    def __str__(self):
        settings = "".join(f" {name}={value}" for name, value in self.settings.items())
        return f"{self.concept} {self.label}{settings} seed {self.seed}"

    def place(self) -> tuple[str, str, str]:
        """Where it stands in a table (`place_of` a measured row): one model may stand there under several labels."""
        return self.key(), self.label, json.dumps(self.settings)

    @property
    def strength(self) -> float:
        """Times the trained change: rows that differ in nothing else are trained once."""
        return float(self.settings.get(STRENGTH, 1.0))

    @property
    def form(self) -> str:
        """Of VALUES[FORM]. One concept has none: whatever is set, it is trained by itself."""
        return self.settings.get(FORM, VALUES[FORM][0]) if JOIN in self.concept else VALUES[FORM][0]

    @property
    def transport(self) -> str:
        """Of VALUES[TRANSPORT]."""
        return self.settings.get(TRANSPORT, VALUES[TRANSPORT][0])

    @property
    def pairs(self) -> list:
        """[whose pairs train, the share of wrong ones, the filter] (`written.py`); empty for the file's own."""
        who, wrong, how = (self.settings.get(*what) for what in ((WRITERS, "file"), (WRONG, 0), (FILTER, "none")))
        return [who, wrong, how] if who != "file" else []

    @property
    def attack(self) -> str | None:
        """What its model is attacked with; None where its pictures are counted by kind of prompt."""
        return self.settings.get(ATTACK)

    def _without(self, *names: str) -> dict[str, Any]:
        return {name: value for name, value in self.settings.items() if name not in names}

    def alone(self) -> list[Row]:
        """Rows of its concepts by themselves, each with a seed of its own: one for all would start them from one
        regulator."""
        settings, parts = self._without(*OURS), self.concept.split(JOIN)
        return [
            dataclasses.replace(self, concept=part, settings=settings, seed=self.seed + 100 * i)
            for i, part in enumerate(parts)
        ]

    def before(self) -> Row:
        """The row without its last concept."""
        return dataclasses.replace(self, concept=self.concept.rpartition(JOIN)[0])

    def training(self) -> str:
        """The key that all rows share which are trained alike."""
        return dataclasses.replace(self, settings=self._without(STRENGTH, TRANSPORT, ATTACK, PASSES)).key()

    @property
    def trained_on(self) -> Concept:
        """The concept as it trains: development prompts change what is measured, not what is trained."""
        return concept_of(self.concept, "test" if self.split == "dev" else self.split)

    def preset(self):
        """The recipe that is trained; of several concepts at once it takes the pairs of all. UserError if none."""
        from ..erasure.presets import recipe

        scale = "mini-var" if family_of(self.model) == "next-scale" else PROFILE
        settings, parts = self._without(*OURS), self.concept.count(JOIN) + 1
        found = recipe(self.recipe, scale, **settings)
        if parts == 1 or self.form != "joint":
            return found
        return recipe(self.recipe, scale, **settings | {"pairs": parts * found.pairs})

    def _resolved(self):
        """The recipe with its window in tokens, so that 12 by name and 12 by the concept's own are one. UserError if a
        picture has fewer."""
        from ..erasure import window_length
        from ..erasure.presets import with_settings
        from ..erasure.settings import RULES

        recipe = self.preset()
        if not hasattr(recipe, "windows") or recipe.windows.length in RULES.values():
            return recipe  # methods that do not train, or train on scales; windows that the model itself is to predict
        grid = SimpleNamespace(num_codes=image_tokens(self.model))
        return with_settings(recipe, {"windows.length": window_length(recipe, concept_of(self.concept), grid)})

    def key(self) -> str:
        """16 hex digits that change whenever a number of the row could."""
        recipe = None if self.recipe is None else self._resolved()
        fields = None if recipe is None else [type(recipe).__name__, chosen(recipe)]
        decides = [TABLE_VERSION, weights(self.model), prompts(self.concept, self.split), fields, self.seed]
        decides += [self.pictures, self.fidelity]
        decides += [self.strength] if self.strength != 1 else []
        decides += [{"oracle": weights(self.oracle)}] if self.oracle else []
        decides += self.pairs
        decides += [ATTACK, self.attack, self.settings[PASSES]] if self.attack else []
        if recipe is not None:
            decides += [
                value for name, value in ((FORM, self.form), (TRANSPORT, self.transport)) if value != VALUES[name][0]
            ]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    def check(self) -> None:
        """Raise UserError, one line, for a recipe, field or value that cannot be."""
        if not (is_number(self.settings.get(STRENGTH, 1)) and self.strength >= 0):
            raise UserError(f"{STRENGTH} is a number from 0, not {self.settings[STRENGTH]!r}")
        for name, values in VALUES.items():
            if (value := self.settings.get(name, values[0])) not in values:
                raise UserError(f"unknown {name} '{value}'; {nearest(str(value), values)}")
        if family_of(self.model) == "next-scale" and {FORM, TRANSPORT} & set(self.settings):
            raise UserError(f"{FORM} and {TRANSPORT} work with next-token models only; leave them out")
        check_written(self.settings)
        check_form(self.preset(), self.settings.get(FORM, "joint"), self.transport)


@dataclass(frozen=True)
class Sweep:
    """One entry of the file."""

    name: str
    question: str  # one line
    concepts: list[str]
    cases: list[dict]  # {recipe, label, settings: {field: value or list of values}}
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    size: float = 1.0  # factor on the numbers of pictures
    split: str = "test"
    pictures: dict = field(default_factory=dict)  # other numbers of pictures at size 1 than PICTURES has
    fidelity: bool = False
    model: str = PROFILE
    oracle: str = ""  # a profile or folder
    # {attack: passes}, or "light"; each erasure of the table is attacked with each, in rows of their own
    attacks: dict | str = field(default_factory=dict)

    def rows(self, effort: int = 1, model: str | None = None) -> list[Row]:
        """Every row of the table, those of one concept and seed together, the base model's first. `effort` multiplies
        pictures and seeds."""
        more = [seed for seed in range(len(self.seeds) * (effort + 1)) if seed not in self.seeds]
        seeds = [*self.seeds, *more][: effort * len(self.seeds)]
        asked = (PICTURES | self.pictures).items()
        pictures = {kind: max(1, round(n * self.size * effort)) if n else 0 for kind, n in asked}
        if self.attacks:  # success is counted on prompts that name the concept
            pictures = dict.fromkeys(pictures, 0) | {"direct": pictures["direct"]}
        shared = {"split": self.split, "pictures": pictures, "fidelity": self.fidelity}
        shared |= {"model": model or self.model, "oracle": self.oracle, "sweep": self.name}
        return [
            Row(concept, recipe, settings, seed, label=label, **shared)
            for concept, seed, (recipe, label, settings) in itertools.product(self.concepts, seeds, self._cells())
        ]

    def _cells(self) -> list[tuple[str | None, str, dict]]:
        """(recipe, label, settings) of the base model and of each point of each case."""
        cells: list[tuple[str | None, str, dict]] = [(None, "base", {})]
        for case in self.cases:
            settings = case.get("settings", {}).items()
            axes = [
                [(name, v) for v in (values if isinstance(values, list) else [values])] for name, values in settings
            ]
            label = case.get("label", case["recipe"])
            cells += [(case["recipe"], label, dict(cell)) for cell in itertools.product(*axes)]
        if not self.attacks:
            return cells
        attacks = LIGHT if isinstance(self.attacks, str) else self.attacks
        return [
            (recipe, label, settings | {ATTACK: attack, PASSES: passes})
            for recipe, label, settings in cells
            for attack, passes in ({"none": 1} | attacks).items()
        ]


def place_of(measured: dict) -> tuple[str, str, str]:
    """The `Row.place` of a row as it was measured."""
    return measured["key"], measured["label"], json.dumps(measured["settings"])


# ---------------------------------------------------------------- the file, checked


def load_sweeps(file: Path = SWEEPS) -> dict[str, Sweep]:
    """The sweeps by name.

    Raises:
        UserError: one line for what is unknown, missing, of a wrong type, or a recipe that is none: before anything is
            measured.
    """
    import yaml

    where = short(file)
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{where}: there is no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{where}: must hold sweeps, NAME: {{question, concepts, cases, ...}}")
    sweeps = {}
    for name, entry in content.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise UserError(f"{where}: sweep '{name}': a name is letters, digits, - and _, as its table is a file")
        try:
            sweeps[name] = _sweep(name, entry)
        except UserError as error:
            raise UserError(f"{where}: sweep '{name}': {error}") from None
    return sweeps


def _sweep(name: str, entry: object) -> Sweep:
    known = [f.name for f in dataclasses.fields(Sweep) if f.name != "name"]
    sweep = Sweep(name, **checked_fields(entry, known, ("question", "concepts", "cases")))
    _check_types(sweep)
    _check_names(sweep)
    for number, case in enumerate(sweep.cases, 1):
        try:
            settings = checked_fields(case, ("recipe", "label", "settings"), ("recipe",)).get("settings", {})
            if not isinstance(settings, dict) or [] in settings.values():
                raise UserError(f"settings are FIELD: VALUE or FIELD: [VALUES], not {settings!r}")
        except UserError as error:
            raise UserError(f"case {number}: {error}") from None
    _check_rows(sweep)
    return sweep


def _check_types(sweep: Sweep) -> None:
    right = {
        "concepts": is_list_of(str, sweep.concepts),
        "seeds": is_list_of(int, sweep.seeds) and 0 <= min(sweep.seeds) <= max(sweep.seeds) < 2**63,
        "cases": is_list_of(dict, sweep.cases) and all(isinstance(c.get("recipe", ""), str) for c in sweep.cases),
        "size": is_number(sweep.size) and 0 < sweep.size < math.inf,
        "fidelity": isinstance(sweep.fidelity, bool),
        "oracle": isinstance(sweep.oracle, str),
        "pictures": isinstance(sweep.pictures, dict) and all(is_number(n) and n >= 0 for n in sweep.pictures.values()),
        "attacks": sweep.attacks == "light"
        or isinstance(sweep.attacks, dict)
        and all(isinstance(n, int) and n > 0 for n in sweep.attacks.values()),
    }
    said = {
        "concepts": "a list of names",
        "seeds": "a list of whole numbers from 0",
        "cases": "a list of {recipe: NAME}",
    }
    said |= {"size": "a number above 0", "fidelity": "true or false", "oracle": "a profile or a folder"}
    said |= {"pictures": "{kind: a number from 0}", "attacks": "light, or {attack: passes}"}
    for part, fine in right.items():
        if not fine:
            raise UserError(f"{part} cannot be {getattr(sweep, part)!r}: it is {said[part]}")


def _check_names(sweep: Sweep) -> None:
    known = list_concepts(PROFILE)
    names = [(part, known, "concept") for concept in sweep.concepts for part in concept.split(JOIN)]
    names += [(kind, PICTURES, "kind of picture") for kind in sweep.pictures]
    if isinstance(sweep.attacks, dict) and sweep.attacks:
        from ..evaluate.attacks.registry import ATTACKS

        names += [(name, ATTACKS, "attack") for name in sweep.attacks]
    for value, options, what in (*names, (sweep.split, SPLITS, "split"), (sweep.model, MODELS, "model")):
        if value not in options:
            raise UserError(f"unknown {what} '{value}'; {nearest(value, options)}")
    for concept in sweep.concepts:
        parts = concept.split(JOIN)
        if len(set(parts)) < len(parts):
            raise UserError(f"concept '{concept}' names one concept twice; name each once")
        for what in ("fidelity", "oracle", "attacks"):
            if len(parts) > 1 and getattr(sweep, what):
                raise UserError(
                    f"{what}: measured for one concept at a time, and '{concept}' has {len(parts)}; leave {what} out"
                )


def _check_rows(sweep: Sweep) -> None:
    """No row twice; each case once by `Row.check`, as seeds and concepts change nothing about it."""
    seen = set()
    for row in sweep.rows():
        if str(row) in seen:
            raise UserError(f"asks twice for {row}; give one of them another label")
        seen.add(str(row))
        if row.recipe is not None and row.concept == sweep.concepts[0] and row.seed == sweep.seeds[0]:
            try:
                row.check()
            except UserError as error:
                raise UserError(f"{row.label}: {error}") from None
