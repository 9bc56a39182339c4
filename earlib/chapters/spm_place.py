"""SPM on Janus, the poster's second figure with numbers: whether the place or the size of a change harms.

The runs are the table `spm-place`. Measured live is what single membranes do to what passes through them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..evaluate.rate import Estimate, Rate
from ..sweeps.compare import KINDS, in_words, plain, told

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ..concepts import Concept
    from ..erasure.store import Erasure
    from ..generators.base import NextToken

PLACES = {"attention": "attention", "mlp": "MLP", "both": "attention + MLP"}  # a recipe's modules -> their name
STRENGTH = "erasure.strength"  # how much of the change is switched on


def called(row) -> str:
    """A run by its learning rate and strength: `0.003 × 0.5`."""
    return f"{row['lr']:g} × {row[STRENGTH]:g}"


def at_rates(frame: pd.DataFrame) -> pd.DataFrame:
    """The whole changes beside the one on attention at the same learning rate: rates and their differences."""
    import pandas as pd

    rows = {}
    for lr, trained in frame[(frame[STRENGTH] == 1) & frame.direct.notna()].groupby("lr"):
        of = trained.set_index("modules").to_dict("index")
        for place in (place for place in PLACES if place in of):
            row = {words: plain(of[place][kind]) for kind, words in KINDS.items()}
            if place != "attention":
                row |= {
                    f"{words}, against attention": told(of["attention"], of[place], k) for k, words in KINDS.items()
                }
            rows[f"{lr:g}", PLACES[place]] = row
    return pd.DataFrame(rows).T.fillna("").rename_axis(["learning rate", "membranes on"])


def spared(frame: pd.DataFrame, most: float = 0.1) -> pd.DataFrame:
    """Of each place the run that keeps most neighbours among those that leave the concept in at most `most` of its
    pictures."""
    import pandas as pd

    rows, reference = {}, None
    for place, words in PLACES.items():
        runs = frame[(frame.modules == place) & frame.direct.notna()].to_dict("records")
        erased = [row for row in runs if row["direct"].value <= most]
        if erased:
            row = max(erased, key=lambda row: row["neighbours"].value)
            reference = row if place == "attention" else reference
            rows[words] = {"run": called(row), "size": f"{row['change_size'].value:.1f}"}
            rows[words] |= {"CLIP": plain(row["clip"], "clip")} | {w: plain(row[kind]) for kind, w in KINDS.items()}
            alone = reference is None or row is reference
            rows[words]["neighbours, against attention"] = "" if alone else told(reference, row, "neighbours")
    return pd.DataFrame(rows).T.rename_axis("membranes on")


def matched(frame: pd.DataFrame, one: str, other: str) -> list[tuple[dict, dict]]:
    """Each run with membranes on `one` (a recipe's modules) beside what `other` would give at the same size of the
    change and the same strength, where its runs reach that far.

    That is read off the line through the runs of `other` over the logarithm of the size: between two runs their rates
    and the ends of their intervals (which are wider than those of a mean of two) are taken in proportion.

    Returns:
        Pairs of a row of the table and {"modules", "size", "direct", "neighbours"}, the last two Estimates.
    """
    size = lambda row: row["change_size"].value
    trained = frame[frame.recipe.notna() & frame.direct.notna()].to_dict("records")
    pairs = []
    for strength in dict.fromkeys(row[STRENGTH] for row in trained):
        alike = sorted((row for row in trained if row[STRENGTH] == strength), key=size)
        line = [row for row in alike if row["modules"] == other]
        for row in alike:
            if row["modules"] != one or not line or not size(line[0]) <= size(row) <= size(line[-1]):
                continue
            found = {"modules": other, "size": size(row)}
            for kind in KINDS:
                ends = [[getattr(r[kind], end) for r in line] for end in ("value", "low", "high")]
                at = [float(np.interp(np.log(size(row)), np.log([size(r) for r in line]), values)) for values in ends]
                found[kind] = Estimate(at[0], min(r[kind].n for r in line), *at[1:])
            pairs.append((row, found))
    return pairs


def apart(first: dict, second: dict, kind: str) -> Estimate:
    """`second - first` of a pair of `matched`."""
    rate = first[kind]
    return second[kind].minus(Estimate(rate.value, rate.n, rate.low, rate.high))


def beside(pairs: list[tuple[dict, dict]]) -> pd.DataFrame:
    """What `matched` gave, a row for each run: both rates in per cent, and their difference."""
    import pandas as pd

    rows = []
    for first, second in pairs:
        rows.append({"run": called(first), "size": f"{second['size']:.2g}"})
        for kind, words in KINDS.items():
            rows[-1][words] = f"{100 * first[kind].value:.0f} → {100 * second[kind].value:.0f}"
            rows[-1][f"{words}, difference"] = in_words(apart(first, second, kind))
    return pd.DataFrame(rows)


def verdicts(pairs: list[tuple[dict, dict]], kind: str) -> str:
    """In how many pairs of `matched` the second's rate is lower, higher, or neither: `lower in 3, higher in 1, ...`."""
    found = {"lower": 0, "higher": 0, "cannot be told": 0}
    for first, second in pairs:
        points = apart(first, second, kind)
        found["cannot be told" if not points.differs else "lower" if points.value < 0 else "higher"] += 1
    return ", ".join(f"{words} in {n}" for words, n in found.items())


def staying(generator, concept: Concept, erasures: dict[str, Erasure], each: int = 4, seed: int = 0) -> pd.DataFrame:
    """What stays of the pictures of a concept's neighbours: a row for each of `erasures` (title -> erasure), of `each`
    prompts of each neighbour.

    Columns are what MiniWorld's classifier looks for: in per cent of pictures, whether their likeliest object, colour,
    style and place are those of the base model's picture with the same noise. The last row is the base model with other
    noise: prompts that leave a thing open agree on it no better than that.
    """
    import pandas as pd

    from ..evaluate.judges import load_judge
    from ..generators import draw

    judge = load_judge(concept.judge)
    prompts = [prompt for group in concept.neighbours.values() for prompt in group[:each]]

    def looks(seed: int, erasure: Erasure | None = None) -> dict[str, np.ndarray]:
        images = draw(generator, prompts, seed, erasure=erasure, progress=False)
        return {group: p_NY.argmax(1) for group, p_NY in judge.probabilities(images).items()}

    base = looks(seed)
    seen = {title: looks(seed, erasure) for title, erasure in erasures.items()}
    seen["before, other noise"] = looks(seed + 1)
    rows = {
        title: {group: Rate.of(likeliest[group] == base[group]).text() for group in base} | {"n": f"{len(prompts)}"}
        for title, likeliest in seen.items()
    }
    return pd.DataFrame(rows).T.rename_axis("per cent the same")


def passing(generator: NextToken, erasure: Erasure, prompts: list[str], tokens_BT: torch.Tensor) -> pd.DataFrame:
    """What passes through each membrane of `erasure`, along pictures of the prompts.

    Args:
        prompts: B prompts.
        tokens_BT: int64, their pictures, which the base model reads but for the last token.

    Returns:
        A row for each module, with its `layer` and `part` and, |.| being the root mean square over all positions,

        input    root mean square of what the matrix reads, over positions and width
        step     what the first step of Adam changes about its output at learning rate 1, as a share of it: |dB A x| /
                 |W x|, where all of dB are +-1 and A is a fresh one
        change   what the trained membrane changes about it: |B A x| / |W x|
    """
    import pandas as pd
    import torch

    from ..erasure.closed_form import reads

    modules = list(dict.fromkeys(name.rpartition(".lora_")[0] for name in erasure.tensors))
    batch, rows = generator.encode(list(prompts)), []
    read_BS = torch.nn.functional.pad(batch.mask_BP.bool(), (0, tokens_BT.shape[1] - 1), value=True)
    length = lambda y_ND: y_ND.square().sum(-1).mean().sqrt().item()
    with torch.no_grad():
        states = reads(generator, modules, batch, tokens_BT=tokens_BT.to(generator.device))
        for module in modules:
            x_ND, weight = states[module][read_BS].float(), generator.trunk.get_submodule(module).weight.float()
            a, b = (erasure.tensors[f"{module}.lora_{side}.weight"].to(x_ND) for side in "AB")
            out, wide = weight.shape
            _, layer, _, part = module.split(".")
            own = length(x_ND @ weight.T)
            fresh = length(x_ND) / (3 * wide) ** 0.5  # |A x| on average, entries of A uniform within 1 / sqrt(wide)
            row = {"layer": int(layer), "part": part.removesuffix("_proj"), "input": length(x_ND) / wide**0.5}
            changed = erasure.strength * length(x_ND @ a.T @ b.T)
            rows.append(row | {"step": out**0.5 * fresh / own, "change": changed / own})
    return pd.DataFrame(rows)
