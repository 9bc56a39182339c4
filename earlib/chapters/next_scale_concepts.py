"""Several concepts erased from a next-scale model at once, and other words for one: the table `var-concepts`, and
prompts that do without the name.

What is several concepts at once is in `together.py`, the next-token family's table in `composition.py`, whose functions
take this one too. Words here are also those that nobody wrote: a vector in place of a word's, learned so that an erased
model draws the concept (as in Pham et al. 2023, arXiv 2308.01508).
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

from ..sweeps.legacy import percent, told
from ..sweeps.plan import JOIN


def several(name: str = "var-concepts", effort: int = 1, **more):
    """The table of several concepts at once, with the columns of `composition.read`, so that its functions take it: one
    erasure learned all (form "joint").

    `more` goes to `table.rows`.
    """
    from ..sweeps import legacy as ablations
    from ..sweeps import legacy as table
    from . import composition

    frame, parts = ablations.read(name, effort, **more), {}
    for row in table.rows(name, effort, **more):
        if "failed" not in row:
            parts.setdefault(ablations.group_of(row), []).append(
                row["rates"].get("parts") or {row["concept"]: row["rates"]["concept"]}
            )
    frame["count"] = [concept.count(JOIN) + 1 for concept in frame.concept]
    frame["form"] = [
        "base" if label == "base" else "joint" if count > 1 else "alone"
        for label, count in zip(frame.label, frame["count"])
    ]
    frame["transport"] = "none"
    frame["of"] = [composition._pooled(parts.get(ablations.group_of(row), [])) for row in frame.to_dict("records")]
    return frame


def together(frame):
    """What learning several concepts at once costs beside learning one: for each set the share of the neighbours' rate
    that is kept beside the product of what its parts keep alone, which is what harms that do not meet would leave, and
    likewise the drift beside the sum. A DataFrame."""
    import math

    import pandas as pd

    alone, rows = {row["concept"]: row for row in frame[frame.form == "alone"].to_dict("records")}, {}
    for row in frame[frame.form == "joint"].to_dict("records"):
        parts = [alone[part] for part in row["concept"].split(JOIN) if part in alone]
        found = {
            "concepts drawn": percent(row, "direct"),
            "neighbours": percent(row, "neighbours"),
            "of the base model's": f"{row['kept']:.0%}",
        }
        found |= {
            "product of parts": f"{math.prod(p['kept'] for p in parts):.0%}",
            "KL drift": f"{row['kl_drift']:.2f}",
        }
        found |= {
            "sum of parts": f"{sum(p['kl_drift'] for p in parts):.2f}",
            "pairs that lead to another part": f"{crossed(row['concept']):.0%}",
        }
        rows[row["concept"].replace(JOIN, " + ")] = found
    return pd.DataFrame(rows).T.rename_axis("concepts")


def crossed(concepts: str) -> float:
    """The share of the pairs of several concepts ("church+boat") whose replacement names another of them: one that
    preservation then holds in its place."""
    from ..concepts import words_of
    from ..erasure import concept_words
    from ..sweeps.plan import concept_of

    parts = [concept_of(part) for part in concepts.split(JOIN)]
    others = [set().union(*(concept_words(other) for other in parts if other is not part)) for part in parts]
    leads = [bool(words & words_of(pair.replacement)) for part, words in zip(parts, others) for pair in part.pairs]
    return sum(leads) / len(leads)


def wordings(generator, prompts, word: str, others, erasures: dict, judge, seed: int = 0):
    """How often `judge` sees the concept where prompts say something else in place of `word`: (rates, pictures).

    rates: a DataFrame of hits of n, a row for each of `erasures` (name -> erasure or None), a column for each wording,
    `word` itself the first; pictures: name -> wording -> uint8 [N, H, W, 3]. All wordings of a prompt have noise of
    their own, as they are other prompts.
    """
    import pandas as pd

    from ..concepts import renamed
    from ..evaluate.pictures import draw_sets

    sets = {other: renamed(prompts, word, other) for other in (word, *others)}
    drawn = {name: draw_sets(generator, sets, seed, erasure, progress=False) for name, erasure in erasures.items()}
    hits = {
        name: {other: int(judge.shows(images).sum()) for other, images in found.items()}
        for name, found in drawn.items()
    }
    return pd.DataFrame(hits).T.rename_axis(f"hits of {len(prompts)}"), drawn


@contextmanager
def spelt(generator, word: str, vector_E):
    """Within the context the text encoder reads `vector_E` wherever a prompt has `word`, one word of its vocabulary;
    None changes nothing."""
    import torch

    token = token_of(generator, word)
    exchange = lambda module, args, out_BPE: torch.where(
        (args[0] == token)[..., None], vector_E.to(out_BPE.dtype), out_BPE
    )
    handle = generator.trunk.text.word.register_forward_hook(exchange) if vector_E is not None else None
    try:
        yield generator
    finally:
        if handle:
            handle.remove()


def token_of(generator, word: str) -> int:
    """The number of a word. UserError for what is not exactly one word that the model knows."""
    from ..errors import UserError

    ids = generator.words(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == generator.words.unk_token_id:
        raise UserError(f"'{word}' is not one word that {generator.name} knows; name one of its vocabulary")
    return ids[0]


def recalled(
    generator, prompts, word: str, erasure=None, steps: int = 60, batch: int = 10, lr: float = 0.02, seed: int = 0
):
    """A vector [E] in place of `word` with which the erased model comes to expect what the base model draws of
    `prompts`, all of which have the word; and the loss of each step.

    Adam on mean -log p(codes of the base model's picture | scales before, prompt with the vector), from the word's own
    vector. Only somebody who has the weights can do this: it asks whether the model can still be told to draw the
    concept, not whether a prompt does.
    """
    import torch

    from ..erasure.scale_terms import log_probabilities, nats_of
    from ..generators import default_keys, picture_seeds

    prompts, losses = list(prompts), []
    codes = generator.sample(prompts, picture_seeds(seed, default_keys(prompts)))
    own_E = generator.trunk.text.word.weight[token_of(generator, word)].detach().float()
    vector_E = own_E.clone().requires_grad_()
    optimizer = torch.optim.Adam([vector_E], lr=lr)
    chance = torch.Generator().manual_seed(seed)
    with erasure.on(generator) if erasure is not None else nullcontext(), spelt(generator, word, vector_E):
        for _ in range(steps):
            rows = torch.randperm(len(prompts), generator=chance)[:batch].tolist()
            q_BLCV = log_probabilities(
                generator, generator.logits(generator.encode([prompts[i] for i in rows]), codes[rows])
            )
            loss = nats_of(q_BLCV, codes[rows].to(q_BLCV.device)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return vector_E.detach(), losses


def hits(generator, prompts, judge, word: str, erasure=None, vector_E=None, seed: int = 0) -> int:
    """In how many pictures of `prompts` the judge sees the concept, with `vector_E` in place of `word`."""
    from ..generators import draw

    with spelt(generator, word, vector_E):
        return int(judge.shows(draw(generator, prompts, seed=seed, erasure=erasure, progress=False)).sum())


def gaps(frame, kinds=("synonym", "compositional", "indirect"), most: float = 0.1):
    """How far other ways of asking lie above the plain name, as a DataFrame: for each method that brings the name to
    `most` or less, and each kind of prompt, the difference in words. An empty one if no method does."""
    import pandas as pd

    rows = {}
    for row in frame[frame.recipe.notna() & (frame.direct <= most)].to_dict("records"):
        found = {"by name": percent(row, "direct")}
        for kind in kinds:
            if row.get(kind) is not None and row[f"{kind}_n"]:
                as_name = {f"direct{end}": row[f"{kind}{end}"] for end in ("", "_low", "_high")} | {"direct_seeds": {}}
                found[kind] = f"{100 * row[kind]:.0f}: {told(row | {'direct_seeds': {}}, as_name)}"
        rows[row["concept"], row["label"]] = found
    return pd.DataFrame(rows).T.rename_axis(["concept", "method"]) if rows else pd.DataFrame()
