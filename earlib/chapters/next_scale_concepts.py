"""Several concepts erased from a next-scale model at once, and other words for one.

Words here are also those that nobody wrote: a vector in place of a word's, learned so that an erased model draws the
concept (as in Pham et al. 2023, arXiv 2308.01508).
"""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from ..erasure.joint import JOIN
from ..sweeps.compare import in_words, plain

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from ..erasure.store import Erasure
    from ..evaluate.judge import Judge
    from ..generators.base import NextScale


def together(frame: pd.DataFrame) -> pd.DataFrame:
    """What learning several concepts at once costs beside learning one: for each set the share of the neighbours' rate
    that is kept beside the product of what its parts keep alone, which is what harms that do not meet would leave, and
    likewise the drift beside the sum. Rows of `several.counted`."""
    import pandas as pd

    alone = {row["concept"]: row for row in frame[frame.form == "alone"].to_dict("records")}
    rows = {}
    for row in frame[frame.form == "joint"].to_dict("records"):
        parts = [alone[part] for part in row["concept"].split(JOIN) if part in alone]
        rows[row["concept"].replace(JOIN, " + ")] = {
            "concepts drawn": plain(row["direct"]),
            "neighbours": plain(row["neighbours"]),
            "of the base model's": f"{row['kept']:.0%}",
            "product of parts": f"{math.prod(part['kept'] for part in parts):.0%}",
            "KL drift": f"{row['kl_drift'].value:.2f}",
            "sum of parts": f"{sum(part['kl_drift'].value for part in parts):.2f}",
            "pairs whose replacement names another": f"{crossed(row['concept']):.0%}",
        }
    return pd.DataFrame(rows).T.rename_axis("concepts")


def crossed(concepts: str) -> float:
    """The share of the pairs of several concepts ("church+boat") whose replacement names another of them, in the
    place of the target's or as it does: preservation then holds that one where it is."""
    from ..concepts import words_of
    from ..erasure import concept_words
    from ..sweeps.keys import concept_of

    parts = [concept_of(part) for part in concepts.split(JOIN)]
    others = [set().union(*(concept_words(other) for other in parts if other is not part)) for part in parts]
    leads = [bool(words & words_of(pair.replacement)) for part, words in zip(parts, others) for pair in part.pairs]
    return sum(leads) / len(leads)


def gaps(frame: pd.DataFrame, most: float = 0.2) -> pd.DataFrame:
    """How far other ways of asking lie above the plain name, for each method that brings the name to `most` or less."""
    import pandas as pd

    rows = {}
    for row in frame[frame.recipe.notna() & frame.direct.notna()].to_dict("records"):
        if row["direct"].value <= most:
            found = {"by name": plain(row["direct"])}
            for kind, words in (("synonym", "synonym"), ("description", "described"), ("compositional", "two things")):
                if row[kind] is not None:
                    found[words] = in_words(row[kind].minus(row["direct"]))
            rows[row["concept"], row["label"]] = found
    return pd.DataFrame(rows).T.fillna("").rename_axis(["concept", "method"]) if rows else pd.DataFrame()


def wordings(
    generator: NextScale,
    prompts: list[str],
    word: str,
    others: list[str],
    erasures: dict[str, Erasure | None],
    judge: Judge,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[str, dict[str, np.ndarray]]]:
    """How often `judge` sees the concept where prompts say something else in place of `word`.

    All wordings of a prompt have noise of their own, as they are other prompts.

    Returns:
        (hits of n, a row for each of `erasures`, a column for each wording, `word` itself the first; pictures, name ->
        wording -> uint8 [N, H, W, 3])
    """
    import pandas as pd

    from ..concepts import renamed
    from ..evaluate.pictures import draw_sets

    sets = {other: renamed(prompts, word, other) for other in (word, *others)}
    drawn = {name: draw_sets(generator, sets, seed, erasure, progress=False) for name, erasure in erasures.items()}
    hits = {name: {w: int(judge.shows(images).sum()) for w, images in of.items()} for name, of in drawn.items()}
    return pd.DataFrame(hits).T.rename_axis(f"hits of {len(prompts)}"), drawn


@contextmanager
def spelt(generator: NextScale, word: str, vector_E: torch.Tensor | None):
    """Within the context the text encoder reads `vector_E` wherever a prompt has `word`, one word of its vocabulary;
    None changes nothing."""
    import torch

    token = token_of(generator, word)

    def exchange(module, args, out_BPE):
        return torch.where((args[0] == token)[..., None], vector_E.to(out_BPE.dtype), out_BPE)

    handle = generator.trunk.text.word.register_forward_hook(exchange) if vector_E is not None else None
    try:
        yield generator
    finally:
        if handle:
            handle.remove()


def token_of(generator: NextScale, word: str) -> int:
    """The number of a word. UserError for what is not exactly one word that the model knows."""
    from ..errors import UserError

    words = generator.tokenizer_of_words
    ids = words(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == words.unk_token_id:
        raise UserError(f"'{word}' is not one word that {generator.name} knows; name one of its vocabulary")
    return ids[0]


def recalled(
    generator: NextScale,
    prompts: list[str],
    word: str,
    erasure: Erasure | None = None,
    steps: int = 60,
    batch: int = 10,
    lr: float = 0.02,
    seed: int = 0,
) -> tuple[torch.Tensor, list[float]]:
    """A vector in place of `word` with which the erased model comes to expect what the base model draws of `prompts`,
    all of which have the word.

    Adam on mean -log p(codes of the base model's picture | scales before, prompt with the vector), from the word's own
    vector. Only somebody who has the weights can do this: it asks whether the model can still be told to draw the
    concept, not whether a prompt does.

    Returns:
        (the vector, float32 [E]; the loss of each step)
    """
    import torch

    from ..generators import default_keys, picture_seeds

    codes = generator.sample(prompts, picture_seeds(seed, default_keys(prompts))).to(generator.device)
    own_E = generator.trunk.text.word.weight[token_of(generator, word)].detach().float()
    vector_E = own_E.clone().requires_grad_()
    adam, chance, losses = torch.optim.Adam([vector_E], lr=lr), torch.Generator().manual_seed(seed), []
    with erasure.on(generator) if erasure is not None else nullcontext(), spelt(generator, word, vector_E):
        for _ in range(steps):
            rows = torch.randperm(len(prompts), generator=chance)[:batch].tolist()
            logits = generator.logits(generator.encode([prompts[i] for i in rows]), codes[rows])
            nats = generator.quantiser.cross_entropy(logits.float(), codes[rows])
            loss = nats.mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
    return vector_E.detach(), losses


def hits(
    generator: NextScale,
    prompts: list[str],
    judge: Judge,
    word: str,
    erasure: Erasure | None = None,
    vector_E: torch.Tensor | None = None,
    seed: int = 0,
) -> int:
    """In how many pictures of `prompts` the judge sees the concept, with `vector_E` in place of `word`."""
    from ..generators import draw

    with spelt(generator, word, vector_E):
        return int(judge.shows(draw(generator, prompts, seed=seed, erasure=erasure, progress=False)).sum())
