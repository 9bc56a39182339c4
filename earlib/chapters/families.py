"""Next-token models against next-scale ones, on the same concepts, prompts and judges: what each is, and which heals
itself, measured live.

One operation serves both: the first codes of a picture are given, as they are or damaged, and the model draws on.
Erasures are compared, as tables have them, in `families_tables.py`; figures are in `families_figures.py`; what only
next-scale models have is looked at in `scales.py`.

Letters: N pictures, T codes of each, K of them given. A code is a token (next-token), or what stands at one position of
one scale (next-scale).
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import torch

from .. import DATA
from ..errors import UserError
from ..evaluate.rate import Estimate, Rate
from ..generators import picture_seeds
from ..generators.base import NextScale, NextToken
from ..runs import read_json

QUALITY = {
    "mini": DATA / "mini" / "quality.json",
    "mini-var": DATA / "mini-var" / "metrics.json",
}  # what was measured of the shipped models


# ---------------------------------------------------------------- one operation on both


def bits(generator) -> float:
    """Bits of one code, if all were equally likely."""
    if isinstance(generator, NextToken):
        return math.log2(generator.codebook_size)
    return (
        float(generator.config.code_width)
        if generator.quantiser.code_shape
        else math.log2(generator.config.codebook_size)
    )


def beginnings(generator, shares) -> list[int]:
    """Numbers of first codes that can be given of a picture: for `shares` of it with a next-token model, for whole
    scales with a next-scale one."""
    T = generator.num_codes
    return (
        [0, *(span.stop for span in generator.spans)]
        if isinstance(generator, NextScale)
        else sorted({round(share * T) for share in shares})
    )


def drawn_on(generator, prompts: list[str], seeds: list[int], given_NK: torch.Tensor, erasure=None) -> torch.Tensor:
    """Codes of pictures that begin with `given_NK` ([N, K] or [N, K, C]) and are drawn on as the model does."""
    if given_NK.shape[1] == generator.num_codes:
        return given_NK
    with erasure.on(generator) if erasure is not None else nullcontext():
        return generator.sample(prompts, seeds, given=given_NK)


def handed_over(
    generator, codes_NT: torch.Tensor, prompts: list[str], counts: list[int], shows, erasure=None, seed: int = 1
) -> dict[str, dict[int, np.ndarray]]:
    """The first codes of pictures, drawn on under `prompts`: {"drawn on": {count: bool [N]}, "pasted": the same},
    whether `shows(images)` it.

    "pasted" is what those codes show by themselves: laid over the picture that the same model draws of the same prompt
    when nothing is given.
    """
    seeds = picture_seeds(seed, [f"handed over/{i}/{prompt}" for i, prompt in enumerate(prompts)])
    own_NT = drawn_on(generator, prompts, seeds, codes_NT[:, :0], erasure)
    found: dict[str, dict[int, np.ndarray]] = {"drawn on": {}, "pasted": {}}
    for count in counts:
        given = codes_NT[:, :count]
        whole = drawn_on(generator, prompts, seeds, given, erasure) if count else own_NT
        found["drawn on"][count] = shows(generator.decode(whole))
        found["pasted"][count] = shows(generator.decode(torch.cat([given, own_NT[:, count:]], 1)))
    return found


def damaged(generator, codes_NK: torch.Tensor, share: float, seed: int = 0) -> torch.Tensor:
    """The codes, each replaced with probability `share` by one drawn by chance from all that there are."""
    chance = torch.Generator().manual_seed(1_000_003 * seed + round(1000 * share))
    hit = torch.rand(codes_NK.shape[:2], generator=chance) < share
    values = 2 if codes_NK.dim() == 3 else round(2 ** bits(generator))
    other = torch.randint(values, codes_NK.shape, generator=chance)
    return torch.where(hit.view(*hit.shape, *[1] * (codes_NK.dim() - 2)), other, codes_NK)


def spelled(generator, prompts: list[str], codes_NT: torch.Tensor) -> np.ndarray:
    """-log2 p of each code, given the prompt and the codes before, without guidance and at temperature 1: bits, float64
    [N, T]."""
    from ..erasure.scale_terms import nats_of

    nats_NT = nats_of(generator.log_probabilities(prompts, codes_NT, guidance=1.0), codes_NT).sum(-1)
    return nats_NT.double().numpy() / math.log(2)


# ---------------------------------------------------------------- how the two are built


def portrait(generators: dict, prompts: list[str], seed: int = 0):
    """What each model is and does, as a DataFrame with a column for each of `generators`: sizes, the cost of a picture
    (measured now), the bits of a picture as a format, and those that the model itself needs for its own pictures of
    `prompts`: it draws them, and spells them again with their prompts."""
    import pandas as pd

    from ..evaluate.scales import race

    columns = {}
    for timed, (name, generator) in zip(race(generators, prompts, repeats=1, seed=seed), generators.items()):
        needed = spelled(generator, prompts, generator.sample(prompts, picture_seeds(seed, prompts))).sum(1)
        of = Estimate.mean(needed, prompts).flat()
        columns[name] = {
            "model": generator.name,
            "parameters of the transformer": f"{timed['parameters'] / 1e6:.2f} million",
            "codes of a picture": f"{timed['codes']}",
            "passes of the transformer for a picture": f"{timed['passes']}",
            "milliseconds a picture, in a batch": f"{1000 * timed['seconds'] / len(prompts):.0f}",
            "milliseconds a code": f"{1000 * timed['seconds'] / len(prompts) / timed['codes']:.2f}",
            "bits of a code": f"{bits(generator):g}",
            "bits of a picture, as a format": f"{bits(generator) * timed['codes']:.0f}",
            "bits of its own pictures, to itself": f"{of['value']:.0f} [{of['low']:.0f}, {of['high']:.0f}]"
            if of["low"] is not None
            else f"{of['value']:.0f}",
            "guidance": f"{generator.guidance:g}",
        }
        columns[name] |= {f"drawn as asked: {part} (%)": told for part, told in quality(generator).items()}
    return pd.DataFrame(columns).fillna("not measured").rename_axis("")


def quality(generator) -> dict[str, str]:
    """What the files beside a mini model's weights say about its pictures: part -> per cent right, with the interval.
    Empty for other models and weights."""
    file = QUALITY.get(generator.profile)
    found = read_json(file) if file is not None and file.is_file() else {}
    if found.get("fingerprint") != generator.fingerprint:
        return {}
    return {
        row["part"]: f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        for row in found["rows"]
        if row["what"] == "drawn"
    }


# ---------------------------------------------------------------- a picture that changes hands


def exchanged(generator, pairs, counts: list[int], shows, seed: int = 0) -> list[dict]:
    """The beginnings of the base model's pictures, given to itself with the pair's other prompt. Rows:

    {"first", "how", "codes", "share", "evidence", "value", "low", "high", "n"}: `first` is whose picture it began as
    (target or replacement, and the other prompt finished it), `how` as in `handed_over`, `share` that of the picture's
    codes, hence of its bits; `value` the rate of the concept. `evidence` is how much sooner the model itself would have
    drawn the given codes for the first prompt than for the second, in bits:

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
                rows.append(
                    {
                        "first": first,
                        "how": how,
                        **_given(generator, count),
                        "evidence": float(evidence_N[some].mean()),
                        **Rate.of(hit_N[some]).flat(),
                    }
                )
    return rows


def strips(generator, pairs, counts: list[int], seed: int = 0) -> list[list[np.ndarray]]:
    """For each pair a picture of its target, the beginning finished under the replacement's prompt: uint8 [H, W, 3] for
    each of `counts`."""
    targets, replacements = [pair.target for pair in pairs], [pair.replacement for pair in pairs]
    codes_NT = generator.sample(targets, picture_seeds(seed, targets))
    later = picture_seeds(seed + 1, replacements)
    columns = [generator.decode(drawn_on(generator, replacements, later, codes_NT[:, :count])) for count in counts]
    return [list(row) for row in zip(*columns)]


def erase(generator, concept, recipe: str, out=None):
    """An erasure of `concept` by the recipe of that name of the model's own family, in a run folder `out`."""
    if isinstance(generator, NextScale):
        from ..erasure.scale_methods import erase
    else:
        from ..erasure import erase
    return erase(generator, concept, recipe, out=out, progress=False)


def brought_back(generator, prompts: list[str], counts: list[int], shows, erasure, seed: int = 0) -> list[dict]:
    """The beginnings of the base model's pictures in which the concept is seen, finished by the erased model under the
    same prompts, from another seed.

    Rows {"how", "codes", "share", "value", "low", "high", "n"}. UserError if the base model draws no picture of the
    concept.
    """
    codes_NT = generator.sample(prompts, picture_seeds(seed, [f"{prompt}#{i}" for i, prompt in enumerate(prompts)]))
    seen = np.flatnonzero(shows(generator.decode(codes_NT)))
    if not len(seen):
        raise UserError(
            f"the judge sees the concept in none of {len(prompts)} pictures that {generator.name} draws of it; give more prompts"
        )
    hits = handed_over(generator, codes_NT[seen], [prompts[i] for i in seen], counts, shows, erasure, seed + 1)
    return [
        {"how": how, **_given(generator, count), **Rate.of(hit_N).flat()}
        for how, found in hits.items()
        for count, hit_N in found.items()
    ]


def mended(generator, prompts: list[str], early: float, shares, right, seed: int = 0) -> list[dict]:
    """The base model's pictures, the first of their codes damaged: those of at most a share `early` of the picture, as
    `beginnings` has them. Rows

    {"how", "damage", "codes", "share", "value", "low", "high", "n", "distance", "distance_low", "distance_high"}: with
    how many of them exchanged by chance ones (a `damage` of 0: the clean picture), the rate of pictures that are as
    they were asked for, `right(images)` bool [N], and how far they are from the clean ones (root mean square over
    pixels, of 255, mean over pictures): "drawn on", with the noise of the clean picture, or "pasted" over its other
    codes. "gain" is {"value", "n", "low", "high"} of the rate less that of the pasted ones, picture by picture.
    """
    seeds = picture_seeds(seed, [f"{prompt}#{i}" for i, prompt in enumerate(prompts)])
    codes_NT = generator.sample(prompts, seeds)
    count = max(k for k in beginnings(generator, [early]) if k <= round(early * generator.num_codes))
    given = torch.cat([damaged(generator, codes_NT[:, :count], damage, seed) for damage in shares])
    times, clean = len(shares), generator.decode(codes_NT).astype(float)
    whole = {"drawn on": drawn_on(generator, prompts * times, seeds * times, given)}
    whole["pasted"] = torch.cat([given, codes_NT[:, count:].repeat(times, *[1] * (codes_NT.dim() - 1))], 1)
    rows, found = [], {}
    for how, codes in whole.items():
        for damage, images in zip(shares, np.split(generator.decode(codes), times)):
            found[how, damage] = np.asarray(right(images))
            far = Estimate.mean(np.sqrt(np.square(images - clean).mean((1, 2, 3)))).flat()
            row = {"how": how, "damage": damage, **_given(generator, count), **Rate.of(found[how, damage]).flat()}
            rows.append(row | {"distance": far["value"], "distance_low": far["low"], "distance_high": far["high"]})
    for row in rows:
        row["gain"] = Estimate.paired(found["pasted", row["damage"]], found[row["how"], row["damage"]]).flat()
    return rows


def _given(generator, count: int) -> dict:
    return {"codes": count, "share": count / generator.num_codes}


def decided(rows: list[dict]) -> tuple[dict, dict] | None:
    """Of one curve's rows, those between which its rate passes the middle of its two ends: (the last on the first end's
    side, the first beyond it).

    None if the rate is the same at both ends, so that nothing is decided between them.
    """
    rows = sorted(rows, key=lambda row: row["share"])
    start, end = rows[0]["value"], rows[-1]["value"]
    if start == end:
        return None
    beyond = next(i for i, row in enumerate(rows) if (row["value"] - start) * (end - start) >= (end - start) ** 2 / 2)
    return rows[beyond - 1], rows[beyond]


def noted(
    rows: list[dict], metric: str, generator, subject: str, judge: str, recipe: str | None = None, seed: int = 0
) -> list[dict]:
    """Rows of this file as flat records for results.json (DESIGN section 6), with what else they hold; what drawing on
    gains over pasting is one more."""
    shared = {
        "metric": metric,
        "subject": subject,
        "condition": "base" if recipe is None else "erased",
        "seed": seed,
        "profile": generator.profile,
    }
    shared |= {
        "recipe": recipe,
        "judge": judge,
        "paper": None,
        "family": "next-scale" if isinstance(generator, NextScale) else "next-token",
    }
    records = []
    for row in rows:
        told = [row["how"], f"{row['codes']} of {generator.num_codes} codes given"]
        told += (
            [f"{row['first']} first"]
            if "first" in row
            else [f"{100 * row['damage']:.0f} % wrong"]
            if "damage" in row
            else []
        )
        record = shared | {"kind": ", ".join(told)} | {k: v for k, v in row.items() if k != "gain"}
        records.append(record)
        if row.get("gain") and row["how"] == "drawn on":
            records.append(record | row["gain"] | {"metric": f"{metric}_change"})
    return records


def gains(rows: list[dict]):
    """Of `mended`'s rows, each with "called", its family: what drawing on does to damaged pictures, against leaving
    them, as a DataFrame."""
    import pandas as pd

    of = {(row["called"], row["damage"], row["how"]): row for row in rows}
    told: dict[str, dict] = {}
    for (called, damage, how), row in of.items():
        if damage and how == "drawn on":
            gain, mine = row["gain"], told.setdefault(f"{100 * damage:.0f} %", {})
            mine[f"{called}: more pictures right (points)"] = (
                f"{100 * gain['value']:+.0f} [{100 * gain['low']:+.0f}, {100 * gain['high']:+.0f}]"
            )
            mine[f"{called}: distance, of the pasted ones'"] = (
                f"{row['distance'] / of[called, damage, 'pasted']['distance']:.0%}"
            )
    return pd.DataFrame(told).T.rename_axis("of the early codes wrong")
