"""Next-token models against next-scale ones, on the same concepts, prompts and judges: what each is, whose
erasures do better by their tables, and which heals itself, measured live.

One operation serves both: the first codes of a picture are given, as they are or damaged, and the model draws on. In
comparisons everything is next-scale less next-token.

Letters: N pictures, T codes of each, K of them given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import DATA
from ..errors import UserError
from ..evaluate.attacks.prefix import finished
from ..evaluate.rate import Estimate, Rate
from ..generators import picture_seeds
from ..generators.base import Generator, NextScale
from ..runs import read_json

if TYPE_CHECKING:
    import pandas as pd

    from ..concepts import PromptPair
    from ..erasure.store import Erasure

    Shows = Callable[[np.ndarray], np.ndarray]  # pictures -> bool [N]

FAMILIES = ("next-token", "next-scale")
QUALITY = {  # profile -> what was measured of the shipped model
    "mini": DATA / "mini" / "quality-janus.json",
    "mini-var": DATA / "mini" / "quality-var.json",
}
IDEAS = {  # what it is -> (next-token recipe, next-scale recipe, in what the two differ besides)
    "the name as a negative prompt": ("negative-prompt", "negative-prompt", "nothing"),
    "guidance steered off the name": (
        "safe-guidance",
        "scale-erasure-style",
        "all logits; bits where prompt and name agree",
    ),
    "in closed form": ("uce", "uce", "keys and values at words, every layer; those of cross-attention"),
    "in closed form, further": ("recommended", "recommended", "the same; next-scale changes the start token, too"),
    "each its own history": ("ear", "naive", "hidden states, pushed away; probabilities, pulled to the replacement"),
    "the replacement's history": ("concept-ablation", "vare", "KL, keys and values; squared error, cross-attention"),
    "made for the family": ("obliviate", "s-vare", "to no prompt; to the replacement, filtered, with preservation"),
    "with preservation": ("ablation-at-words", "s-vare", "of other prompts, at words; of the replacements, everywhere"),
    "as released": ("ear-released", "s-vare-released", "EAR's idea; S-VARE's: what their authors' code computes"),
}
AHEAD = ("next-scale", "next-token", "cannot be told")  # in which family an idea works better


# ---------------------------------------------------------------- how the two are built


def bits(generator: Generator) -> float:
    """Bits of one code, if all its values were equally likely."""
    parts = math.prod(generator.code_shape)
    return parts * math.log2(generator.outputs / parts)


def spelled(generator: Generator, prompts: list[str], codes_NT: torch.Tensor) -> np.ndarray:
    """-log2 p of each code, given the prompt and the codes before, without guidance and at temperature 1: bits, float64
    [N, T]."""
    log_p = generator.log_probabilities(prompts, codes_NT, guidance=1.0)
    nats_NT = -log_p.gather(-1, codes_NT.cpu().reshape(*codes_NT.shape[:2], -1, 1)).double().sum((2, 3))
    return nats_NT.numpy() / math.log(2)


def quality(generator: Generator) -> dict[str, Rate]:
    """What the files beside a mini model say about its pictures of direct prompts: part -> how many are right. Empty
    for other models and weights."""
    file = QUALITY.get(generator.profile)
    measured = read_json(file) if file is not None and file.is_file() else {}
    if measured.get("fingerprint") != generator.fingerprint:
        return {}
    drawn = [row for row in measured["rows"] if (row["what"], row["judge"], row["value"]) == ("direct", "judge", None)]
    return {row["part"]: Rate(row["hits"], row["n"]) for row in drawn}


# ---------------------------------------------------------------- a picture that changes hands


def beginnings(generator: Generator, shares: Sequence[float]) -> list[int]:
    """Numbers of first codes that can be given of a picture: for `shares` of it with a next-token model, for whole
    scales with a next-scale one."""
    if isinstance(generator, NextScale):
        return [0, *(span.stop for span in generator.spans)]
    return sorted({round(share * generator.num_codes) for share in shares})


def handed_over(
    generator: Generator,
    codes_NT: torch.Tensor,
    prompts: list[str],
    counts: Sequence[int],
    shows: Shows,
    erasure: Erasure | None = None,
    seed: int = 1,
) -> dict[str, dict[int, np.ndarray]]:
    """The first codes of pictures, drawn on under `prompts`: whether a judge `shows` the concept.

    Returns:
        {"drawn on": {count: bool [N]}, "pasted": the same}. "pasted" is what those codes show by themselves: laid over
        the picture that the same model draws of the same prompt when nothing is given.
    """
    seeds = picture_seeds(seed, [f"handed over/{i}/{prompt}" for i, prompt in enumerate(prompts)])
    own_NT = finished(generator, prompts, seeds, codes_NT[:, :0], erasure)
    found: dict[str, dict[int, np.ndarray]] = {"drawn on": {}, "pasted": {}}
    for count in counts:
        given = codes_NT[:, :count]
        whole = finished(generator, prompts, seeds, given, erasure) if count else own_NT
        found["drawn on"][count] = shows(generator.decode(whole))
        found["pasted"][count] = shows(generator.decode(torch.cat([given, own_NT[:, count:]], 1)))
    return found


def exchanged(
    generator: Generator, pairs: Sequence[PromptPair], counts: Sequence[int], shows: Shows, seed: int = 0
) -> list[dict]:
    """The beginnings of the base model's pictures, given to itself with the pair's other prompt.

    Returns:
        Rows {"first", "how", "codes", "share", "evidence", "rate"}: `first` is whose picture it began as (target or
        replacement, and the other prompt finished it), `how` as in `handed_over`, `share` that of the picture's codes,
        hence of its bits. `evidence` is how much sooner the model itself would have drawn the given codes for the first
        prompt than for the second, in bits:

        mean over pictures of sum_(t < codes) log2 p(x_t | x_<t, first) - log2 p(x_t | x_<t, second)
    """
    sides = [pair.target for pair in pairs], [pair.replacement for pair in pairs]
    own, other = sides[0] + sides[1], sides[1] + sides[0]  # both ways at once: a batch is quicker than two
    codes_NT = generator.sample(own, picture_seeds(seed, [f"exchanged/{i}/{prompt}" for i, prompt in enumerate(own)]))
    ahead_NT = spelled(generator, other, codes_NT) - spelled(generator, own, codes_NT)
    rows = []
    for how, hits in handed_over(generator, codes_NT, other, counts, shows, seed=seed + 1).items():
        for count, hit_N in hits.items():
            evidence_N = ahead_NT[:, :count].sum(1)
            for first, some in (("target", slice(len(pairs))), ("replacement", slice(len(pairs), None))):
                row = {"first": first, "how": how} | _given(generator, count)
                rows.append(row | {"evidence": float(evidence_N[some].mean()), "rate": Rate.of(hit_N[some])})
    return rows


def brought_back(
    generator: Generator,
    prompts: list[str],
    counts: Sequence[int],
    shows: Shows,
    erasure: Erasure | None,
    seed: int = 0,
) -> list[dict]:
    """The beginnings of the base model's pictures in which the concept is seen, finished by the erased model under the
    same prompts, from another seed.

    Returns:
        Rows {"how", "codes", "share", "rate"}.

    Raises:
        UserError: the base model draws no picture of the concept.
    """
    codes_NT = generator.sample(prompts, picture_seeds(seed, [f"{prompt}#{i}" for i, prompt in enumerate(prompts)]))
    seen = np.flatnonzero(shows(generator.decode(codes_NT)))
    if not len(seen):
        drew = f"{len(prompts)} pictures that {generator.name} draws of it"
        raise UserError(f"the judge sees the concept in none of {drew}; give more prompts")
    hits = handed_over(generator, codes_NT[seen], [prompts[i] for i in seen], counts, shows, erasure, seed + 1)
    of_how = [(how, count, hit_N) for how, found in hits.items() for count, hit_N in found.items()]
    return [{"how": how} | _given(generator, count) | {"rate": Rate.of(hit_N)} for how, count, hit_N in of_how]


def damaged(generator: Generator, codes_NK: torch.Tensor, share: float, seed: int = 0) -> torch.Tensor:
    """The codes, each replaced with probability `share` by one drawn by chance from all that there are."""
    chance = torch.Generator().manual_seed(1_000_003 * seed + round(1000 * share))
    hit = torch.rand(codes_NK.shape[:2], generator=chance) < share
    values = 2 if codes_NK.dim() == 3 else generator.outputs
    other = torch.randint(values, codes_NK.shape, generator=chance)
    return torch.where(hit.view(*hit.shape, *[1] * (codes_NK.dim() - 2)), other, codes_NK)


def mended(
    generator: Generator, prompts: list[str], early: float, shares: Sequence[float], right: Shows, seed: int = 0
) -> list[dict]:
    """The base model's pictures, the first of their codes damaged.

    Args:
        early: damaged are the codes of at most this share of the picture, as `beginnings` has them.
        shares: of those, how many are exchanged for chance ones; 0 is the clean picture.
        right: whether pictures are as they were asked for.

    Returns:
        Rows {"how", "damage", "codes", "share", "rate", "distance", "gain"}: `rate` of pictures that are right;
        `distance` from the clean ones (root mean square over pixels, of 255); "drawn on", with the noise of the clean
        picture, or "pasted" over its other codes; `gain` is the rate less that of the pasted ones, picture by picture.
    """
    seeds = picture_seeds(seed, [f"{prompt}#{i}" for i, prompt in enumerate(prompts)])
    codes_NT = generator.sample(prompts, seeds)
    count = max(k for k in beginnings(generator, [early]) if k <= round(early * generator.num_codes))
    given = torch.cat([damaged(generator, codes_NT[:, :count], damage, seed) for damage in shares])
    times, clean = len(shares), generator.decode(codes_NT).astype(float)
    whole = {"drawn on": finished(generator, prompts * times, seeds * times, given)}
    whole["pasted"] = torch.cat([given, codes_NT[:, count:].repeat(times, *[1] * (codes_NT.dim() - 1))], 1)
    rows, of = [], {}
    for how, codes in whole.items():
        for damage, images in zip(shares, np.split(generator.decode(codes), times)):
            of[how, damage] = np.asarray(right(images))
            far = Estimate.mean(np.sqrt(np.square(images - clean).mean((1, 2, 3))))
            row = {"how": how, "damage": damage} | _given(generator, count)
            rows.append(row | {"rate": Rate.of(of[how, damage]), "distance": far})
    for row in rows:
        row["gain"] = Estimate.paired(of["pasted", row["damage"]], of[row["how"], row["damage"]])
    return rows


def _given(generator: Generator, count: int) -> dict:
    return {"codes": count, "share": count / generator.num_codes}


def decided(rows: list[dict]) -> tuple[dict, dict] | None:
    """Of one curve's rows, those between which its rate passes the middle of its two ends: (the last on the first end's
    side, the first beyond it). None if the rate is the same at both ends."""
    rows = sorted(rows, key=lambda row: row["share"])
    values = [row["rate"].value for row in rows]
    rise = values[-1] - values[0]
    if not rise:
        return None
    beyond = next(i for i, value in enumerate(values) if (value - values[0]) * rise >= rise**2 / 2)
    return rows[beyond - 1], rows[beyond]


def flat(rows: list[dict], metric: str, generator: Generator, **shared) -> list[dict]:
    """Rows of this file as flat records for results.json, with what else they hold; what drawing on gains over pasting
    is one more, METRIC_change."""
    family, records = FAMILIES[isinstance(generator, NextScale)], []
    shared = dict.fromkeys(("paper", "recipe")) | {"seed": 0, "profile": generator.profile, "family": family} | shared
    shared["condition"] = "base" if shared["recipe"] is None else "erased"
    for row in rows:
        kind = f"{row['how']}, {row['codes']} of {generator.num_codes} codes given"
        kind += f", {row['first']} first" if "first" in row else ""
        kind += f", {100 * row['damage']:.0f} % wrong" if "damage" in row else ""
        told = {name: row[name] for name in ("how", "codes", "share", "first", "damage", "evidence") if name in row}
        records.append({"metric": metric, "kind": kind} | shared | told | row["rate"].flat())
        if "gain" in row and row["how"] == "drawn on":
            records.append(records[-1] | row["gain"].flat() | {"metric": f"{metric}_change"})
    return records


# ---------------------------------------------------------------- erasures, by the tables


def share_of(rate: Rate, base: Rate) -> Estimate:
    """A rate as a share of the base model's: 1 where all is as before; no value where the base has none.

    The interval is that of a ratio of two independent rates, recovered from their Wilson intervals (Donner and Zou
    2012, method MOVER-R).
    """
    p, l, u = rate.value, rate.low, rate.high
    q, m, v = base.value, base.low, base.high
    if not q:
        return Estimate(None, 0)
    low = (p * q - math.sqrt(max(0.0, (p * q) ** 2 - l * v * (2 * p - l) * (2 * q - v)))) / (v * (2 * q - v))
    high = (p * q + math.sqrt(max(0.0, (p * q) ** 2 - u * m * (2 * p - u) * (2 * q - m)))) / (m * (2 * q - m))
    return Estimate(p / q, min(rate.n, base.n), max(0.0, low), high)


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, with the interval that theirs give."""
    n = len(estimates)
    value = sum(e.value for e in estimates) / n
    below, above = (math.hypot(*(e.value - getattr(e, end) for e in estimates)) / n for end in ("low", "high"))
    return Estimate(value, sum(e.n for e in estimates), value - below, value + above)


def erased(frame: pd.DataFrame, family: str, codes: int) -> list[dict]:
    """Rows of a table's recipes, as far as they did not diverge.

    Args:
        frame: what `read.load` gives.
        codes: of a picture.

    Returns:
        Each with `left` and `kept`, the shares of the base model's rates of the concept and of its neighbours that
        remain, `balance`, kept less left (1: all gone and all kept, 0: nothing gained), and `drift` in bits a picture,
        which tables have in nats a code.
    """
    rows = []
    for row in frame[frame.recipe.notna() & frame.direct.notna()].to_dict("records"):
        left, kept = (share_of(row[kind], row[f"{kind}_base"]) for kind in ("direct", "neighbours"))
        drift = codes * row["kl_drift"].value / math.log(2)
        rows.append(row | {"family": family, "left": left, "kept": kept, "balance": kept.minus(left), "drift": drift})
    return rows


def counterparts(rows: list[dict], ideas: dict[str, tuple[str, str, str]] = IDEAS) -> list[dict]:
    """Every idea and concept that both families have.

    Returns:
        {"idea", "concept", "next-token": row, "next-scale": row, "balance", "left", "kept"}, the last three being
        next-scale's less next-token's; below them each idea's mean over its concepts, called "all", without rows.
    """
    of = {(row["family"], row["concept"], row["label"]): row for row in rows}
    found, parts = [], ("balance", "left", "kept")
    for idea, (token, scale, _) in ideas.items():
        mine = []
        for concept in dict.fromkeys(row["concept"] for row in rows):
            one, other = of.get(("next-token", concept, token)), of.get(("next-scale", concept, scale))
            if one and other:
                both = {"idea": idea, "concept": concept, "next-token": one, "next-scale": other}
                mine.append(both | {part: other[part].minus(one[part]) for part in parts})
        found += mine
        if len(mine) > 1:
            over_all = {part: mean([row[part] for row in mine]) for part in parts}
            found.append({"idea": idea, "concept": "all"} | over_all)
    return found


def ahead(balance: Estimate) -> str:
    """Which family an idea works better in, of a difference next-scale less next-token."""
    return AHEAD[0 if balance.above else 1 if balance.below else 2]


def best(rows: list[dict]) -> dict[tuple[str, str], dict]:
    """(concept, family) -> the row of that family's recipe with the greatest balance. It was picked for it, so that it
    looks better than it is."""
    found: dict[tuple[str, str], dict] = {}
    for row in sorted(rows, key=lambda row: -row["balance"].value):
        found.setdefault((row["concept"], row["family"]), row)
    return dict(sorted(found.items()))
