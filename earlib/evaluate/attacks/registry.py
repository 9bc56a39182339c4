"""Every attack by its name, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UserError, nearest
from .base import Attack
from .compress import Pruning
from .draws import BestOfN, Guidance, Plain
from .prefix import Prefix
from .relearn import HarmlessTuning, Relearning
from .rounding import Rounding
from .search import GeneticSearch, RandomSearch
from .soft import SoftPrompt
from .states import Patching, Steering
from .tokens import TokenSearch
from .wordings import Compositions, Misspellings, Negations, Wordings

PLAIN = Plain()
ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        *(Wordings(), Compositions(), Negations(), Misspellings(), Guidance(), BestOfN()),
        *(RandomSearch(), GeneticSearch(), TokenSearch(), SoftPrompt(1), SoftPrompt(4)),
        *(Prefix(), Steering(), Patching(), Relearning(), HarmlessTuning(), Pruning(), Rounding()),
    )
}
EVERY: dict[str, Attack] = {PLAIN.name: PLAIN, **ATTACKS}  # with asking by name, which is no attack


def chosen(names: Sequence[str] | None) -> list[Attack]:
    """The attacks of these names in the registry's order, each once; all of them for None.

    Raises:
        UserError: an unknown name.
    """
    for name in names or ():
        if name not in ATTACKS:
            raise UserError(f"unknown attack '{name}'; {nearest(name, ATTACKS)}")
    return [attack for name, attack in ATTACKS.items() if names is None or name in names]
