"""What Janus-Pro takes on common graphics cards, step by step, as Markdown tables: arithmetic on its sizes
(`earlib.memory`) and on the cards' data sheets, not a measurement."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from .. import memory
from ..concepts import Concept, load_concept
from ..erasure import presets, retain_prompts
from ..erasure.change import PARTS, layer_range
from ..erasure.closed_form import AT_ONCE
from ..erasure.recipe import Recipe
from ..erasure.room import trained_parameters, training_bytes
from ..erasure.settings import PAPER, AnyRecipe
from ..evaluate.attacks import LIGHT
from ..evaluate.attacks.battery import Battery
from ..evaluate.evaluation import choose_prompts
from ..memory import KNOWN, Sizes, amount, gigabytes
from ..pairs.proposals import Settings

CARDS_MARK = "<!-- cards -->"  # book/janus_pro.md has this line where the tables go
DTYPE = "float16"
EXAMPLE = "church"  # the concept whose prompts are counted
RECIPES = ("recommended", "ear")
ERASED = (*RECIPES, "concept-ablation", "robust")  # the page's other choices
MOST = 64  # pictures drawn at a time (`memory.batch_that_fits`)
# pictures of a prompt pair, and others that are drawn once, which teach the rest to stay; a test counts them
ASKS = {
    "ear": {"drawn": 3, "read": 6, "learned": 2, "others": 0},
    "concept-ablation": {"drawn": 1, "read": 8, "learned": 8, "others": 0},
    "robust": {"drawn": 2, "read": 24, "learned": 104, "others": 200},
}
SQUARES = 19  # float64 matrices [width, width] at the peak of the closed form; a test counts them
EXPLAINED = """\
Nothing in these tables was measured on a card: memory and times are counted, in 16-bit numbers. Memory is that of the
card at the peak of a step, the weights with it; in brackets stands the smallest of {cards} that has it
({rooms} GB); a dash means no room. With {t4.room} GB the 7B model cannot be erased from, and what is within a gigabyte
of that is too near to trust: take the 1B model, or a larger card. A time is a bound that no program can beat. Pictures
to be measured are drawn as many at a time as fit, at most {most}. What attacks search before they draw, and judges,
take time and memory of their own, attacks that learn for gradients. `merge` needs no card, but main memory for all
weights and for what the recipe changed.
"""


class Card(NamedTuple):
    """GB of memory, GB/s, and TFLOPS in 16-bit and in 64-bit numbers, of its data sheet (64-bit of T4 and L4: 1/32 and
    1/64 of 32-bit)."""

    room: float
    bandwidth: float
    rate: float
    double: float


CARDS = {"T4": Card(16, 320, 65, 0.25), "L4": Card(24, 300, 121, 0.47), "A100": Card(40, 1555, 312, 19.5)}


# ------------------------------------------------------------------ the least time


def drawing_seconds(sizes: Sizes, pictures: int, card: str) -> float:
    """The least time that drawing takes with guidance: of each batch that the card has room for, each token is the
    longer of arithmetic and of reading weights, keys and values once."""
    on = CARDS[card]
    free = int(on.room * 1e9) - memory.weight_bytes(sizes, DTYPE)
    batch = min(pictures, MOST, memory.pictures_that_fit(sizes, DTYPE, free))
    rows, layers = 2 * batch, memory.layer_parameters(sizes)
    kept = memory.cache_bytes(sizes, DTYPE, rows, memory.PROMPT + sizes.image_tokens // 2)
    token = max(2 * layers * rows / (on.rate * 1e12), (memory.bytes_of(DTYPE) * layers + kept) / (on.bandwidth * 1e9))
    return math.ceil(pictures / batch) * sizes.image_tokens * token


def least_seconds(sizes: Sizes, counted: dict, card: str) -> float:
    """The least time of all that was counted: pictures drawn, pictures read, pictures learned from (there and back)."""
    drawn = sum(times * drawing_seconds(sizes, int(n), card) for n, times in counted["drawn"].items())
    passes = 2 * memory.layer_parameters(sizes) * sizes.image_tokens * (counted["read"] + 2 * counted["learned"])
    return drawn + passes / (CARDS[card].rate * 1e12)


def solving_seconds(sizes: Sizes, concept: Concept, pairs: int, card: str) -> float:
    """The least time of the closed form at words (`erasure.closed_form.uce`): layer after layer, all prompts are read
    up to it, and keys and values are solved for in 64-bit numbers. Each word is taken for one token: it is no less."""
    words = lambda prompts: sum(len(prompt.split()) for prompt in prompts)
    used, retained = concept.pairs[:pairs], retain_prompts(concept, "janus-pro-1b")
    targets, kept = words(pair.target for pair in used), words(retained)
    read = targets + words(pair.replacement for pair in used) + 2 * kept  # with the change so far, and without
    batches = 2 * (math.ceil(len(used) / AT_ONCE) + math.ceil(len(retained) / AT_ONCE))
    layer, before = memory.layer_parameters(sizes) // sizes.layers, sizes.layers * (sizes.layers - 1) // 2
    on, d = CARDS[card], sizes.width
    arithmetic = 2 * layer * before * read / (on.rate * 1e12)
    weights = memory.bytes_of(DTYPE) * layer * before * batches / (on.bandwidth * 1e9)
    # two sums of outer products, a solution (decomposed, then d right-hand sides), and its product with the matrix
    solving = 4 * (targets + kept) * d**2 + (2 / 3 + 2) * d**3 + 2 * sizes.cache_width * d**2
    return max(arithmetic, weights) + 2 * sizes.layers * solving / (on.double * 1e12)


def erasing_seconds(sizes: Sizes, name: str, card: str) -> float:
    """The least time of `erase` with one of ERASED."""
    recipe, concept = presets.PRESETS[name], load_concept(EXAMPLE, "janus-pro-1b")
    if not isinstance(recipe, Recipe):
        return solving_seconds(sizes, concept, recipe.pairs, card)
    asks = ASKS[name]
    drawn = Counter(n for n in (recipe.pairs * asks["drawn"], asks["others"]) if n)
    of_pairs = {what: recipe.pairs * asks[what] for what in ("read", "learned")}
    return least_seconds(sizes, of_pairs | {"drawn": drawn}, card)


# ------------------------------------------------------------------ memory


def changed_bytes(sizes: Sizes, name: str) -> int:
    """What the changed matrices of a recipe take, on disk as on the card."""
    recipe = presets.PRESETS[name]
    if isinstance(recipe, Recipe):
        return trained_parameters(sizes, recipe) * memory.bytes_of(DTYPE)
    solved = [f"layers.{i}.{p}.weight" for i in layer_range(recipe.layers, sizes.layers) for p in PARTS[recipe.modules]]
    return memory.trained_parameters(sizes, solved) * memory.bytes_of(DTYPE)


def erasing_bytes(sizes: Sizes, name: str) -> int:
    """Weights and `erase` with a preset together."""
    return recipe_bytes(sizes, presets.PRESETS[name])


def recipe_bytes(sizes: Sizes, recipe: AnyRecipe) -> int:
    """Weights and `erase` with a recipe together, its windows the paper's where it leaves them to the concept."""
    weights = memory.weight_bytes(sizes, DTYPE)
    if isinstance(recipe, Recipe):
        if recipe.windows.length == PAPER:
            recipe = presets.with_settings(recipe, {"windows.length": memory.WINDOW})
        return weights + training_bytes(sizes, DTYPE, recipe)
    changed = changed_bytes(sizes, recipe.name)
    solving = changed + SQUARES * 8 * sizes.width**2
    return weights + max(solving, 2 * changed) + memory.RESERVE  # in the end all matrices are scaled, into new ones


# ------------------------------------------------------------------ tables


def cards_table() -> str:
    """Two tables with a row for each step: memory, and the least time on each card; then what is to be known of
    them."""
    asked = sum(map(len, choose_prompts(load_concept(EXAMPLE, "janus-pro-1b")).values()))
    takes: dict[str, list[str]] = {}  # what -> a cell for each size
    least: dict[str, list[str]] = {}  # and each card
    for sizes in KNOWN.values():
        draw, erase = memory.to_draw(sizes, DTYPE), {name: erasing_bytes(sizes, name) for name in ERASED}
        column: dict[str, str] = {"weights alone": gigabytes(memory.weight_bytes(sizes, DTYPE))}
        column |= {f"erasing with `{name}`": fitting(erase[name]) for name in ERASED}
        with_it = {name: draw + changed_bytes(sizes, name) for name in RECIPES}  # beside the base model's matrices
        column |= {f"measuring and drawing with what `{name}` left": fitting(with_it[name]) for name in RECIPES}
        column |= {f"on disk: what `{name}` leaves": amount(changed_bytes(sizes, name)) for name in RECIPES}
        seconds = {name: partial(erasing_seconds, sizes, name) for name in ERASED}
        times = {f"erasing with `{name}`": on_cards(seconds[name], erase[name]) for name in ERASED}
        asks, written = Battery.seeds * Battery.size, Settings()  # the commands' own numbers
        attacked = 2 * asks * (1 + len(LIGHT))  # by name and with each attack, of the concept and of another word
        proposed = 2 * written.count * written.pictures
        picture, measure = partial(drawing_seconds, sizes, 1), partial(drawing_seconds, sizes, asked)
        times |= {f"measuring {EXAMPLE}, {2 * asked} pictures": on_cards(measure, min(with_it.values()), 2)}
        attack, pairs = partial(drawing_seconds, sizes, attacked), partial(drawing_seconds, sizes, proposed)
        times |= {f"attacking with `--light`, {attacked} pictures": on_cards(attack, min(with_it.values()))}
        times |= {f"new pairs with `ecgvf`, {proposed} pictures": on_cards(pairs, draw)}
        times |= {"one picture, drawn alone": on_cards(picture, draw)}
        for what, cell in column.items():
            takes.setdefault(what, []).append(cell)
        for what, cells in times.items():
            least.setdefault(what, []).extend(cells)
    on = [f"{name.rpartition('-')[2].upper()} on {card}" for name in KNOWN for card in CARDS]
    tables = [table("memory", [f"`{name}`" for name in KNOWN], takes), table("time, at least", on, least)]
    known = {"l4": CARDS["L4"], "t4": CARDS["T4"], "rooms": ", ".join(f"{card.room}" for card in CARDS.values())}
    return "\n".join([*tables, EXPLAINED.format(most=MOST, cards=", ".join(CARDS), **known)])


def on_cards(seconds: Callable[[str], float], takes: int, times: int = 1) -> list[str]:
    """`times` so many seconds on each card in words, a dash for one without room: `–`, `23 s`, `4 s`."""
    fits = {name: takes < card.room * 1e9 for name, card in CARDS.items()}
    return [said(times * seconds(name)) if fits[name] else "–" for name in CARDS]


def table(corner: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table, and an empty line after it."""
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    return "\n".join([*lines, *(f"| {what} | {' | '.join(cells)} |" for what, cells in rows.items()), ""])


def fitting(count: int) -> str:
    """An amount of memory and the smallest card that has it: `5.2 GB (T4)`."""
    name = next((name for name, card in CARDS.items() if count < card.room * 1e9), "none of these")
    return f"{gigabytes(count)} ({name})"


def said(seconds: float) -> str:
    """`4 s`, `12 min`, `2.5 h`; `<1 s` of less."""
    if seconds < 1:
        return "<1 s"
    short = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    return short if seconds < 6000 else f"{seconds / 3600:.1f} h"
