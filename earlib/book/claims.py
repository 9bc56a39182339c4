"""The page of claims: what the papers say, what was measured here, and a verdict by one rule (`verdicts.py`).

A verdict is one of BADGES. The claims stand in book/claims.yml.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np

from ..errors import UserError, nearest
from .verdicts import RUINED, Verdict, fair, measured, verdict_of

CLAIMS_MARK = "<!-- claims -->"  # book/claims.md has this line where the list goes
BADGES = {  # kind -> mark, of one claim, of several
    "holds": ("✓", "holds", "hold"),
    "fails": ("✗", "does not hold", "do not hold"),
    "ruined": ("!", "of a ruined model", "of a ruined model"),
    "open": ("?", "cannot be told", "cannot be told"),
    "untested": ("–", "not tested here", "not tested here"),
    "missing": ("…", "not measured yet", "not measured yet"),
}
FIELDS = ("part", "claim", "whose", "source", "paper", "run", "select", "before", "beside", "verdict", "note")
# metric -> what its n counts, where that is not pictures
COUNTED = {"windows_skipped_rate": "windows", "regret_rate_change": "concepts", "rank_correlation": "concepts"}
OTHER_BARS = (RUINED - 0.1, RUINED + 0.1)  # RUINED was set when the numbers were known: how much hangs on it is said
COUNTED |= dict.fromkeys(("farther_rate", "oracle_agreement"), "methods on concepts")


def claims_list(results: list[dict], claims: list[dict], complete: bool = True) -> str:
    """The claims in MyST Markdown: counts of verdicts, then each claim with its badge, the paper's number, ours with
    its interval and what it was erased with, and, folded, how it was judged.

    Args:
        results: records as `earlib.runs.collect` gives them.
        claims: each {claim, source, paper, verdict, note} and, where it is measured, {run, select, before, beside}:
            `run` is the notebook's name, `select` the fields that its records must have, `before` the fields to change
            for the number before erasure, `beside` {words: the fields to change for a number shown beside it}, with
            the one before it where `before` changes other fields. `whose` claim it is names the line that counts it.
            `part` begins a section. What a `verdict` may be says `verdict_of`.
        complete: the records of a run are those that the claims were written for. False for another model than the
            mini ones, whose runs have not all of them: what is lacking is then not measured yet.

    Raises:
        UserError: for a field or a rule that it does not know, and for fields that fit no record of a run that is
            there.
    """
    entries, kinds, whose, at_other, trained = [], [], [], dict.fromkeys(OTHER_BARS, 0), []
    for claim in claims:
        if unknown := set(claim) - set(FIELDS):
            raise UserError(f"book/claims.yml: unknown field '{min(unknown)}': {nearest(min(unknown), FIELDS)}")
        run, fields = claim.get("run", ""), claim.get("select", {})
        there = complete and any(r["run"] == run or r["run"].startswith(f"{run}/") for r in results)

        def one(changed: dict, of: dict = claim, run: str = run, fields: dict = fields, there: bool = there):
            found = measured(results, run, fields | changed) if run else None
            if there and found is None:
                raise UserError(f"book/claims.yml: '{of['claim']}': no record of '{run}' has {fields | changed}")
            return found

        ours = one({})
        trained += [ours.get("seed")] if ours and ours["condition"] == "erased" else []
        before = one(claim["before"]) if ours and "before" in claim else None
        verdict = verdict_of(claim.get("verdict", "not tested"), ours, before)
        if run:
            judged = [fair(results, run, verdict, ours, before, bar) for bar in (RUINED, *OTHER_BARS)]
            at_other = {bar: n + (o.kind != judged[0].kind) for (bar, n), o in zip(at_other.items(), judged[1:])}
            verdict = judged[0]
        beside = {}
        for words, changed in claim.get("beside", {}).items() if ours else ():
            pair = (
                one(claim["before"] | changed) if before and not set(claim["before"]) & set(changed) else None,
                one(changed),
            )
            beside[words] = " → ".join(_shown(record) for record in pair if record)
        kinds.append(verdict.kind)
        whose.append(claim.get("whose", "ours"))
        if "part" in claim:
            entries.append(f"## {claim['part']}")
        entries.append(_entry(claim, verdict, ours, before, beside))
    counted = {"in all": kinds}
    counted |= {name: [kind for kind, of in zip(kinds, whose) if of == name] for name in dict.fromkeys(whose)}
    lines = [f"- **{len(of)} {name}**: {_badges(of)}" for name, of in counted.items()]
    bars = " and ".join(f"with {100 * bar:.0f} % in its place {n} verdicts" for bar, n in at_other.items())
    hangs = f"The bar for a ruined model is ours, set when the numbers were known: {bars} would be others."
    shown = lines[:1] if len(counted) == 2 else lines
    return "\n\n".join(["\n".join(shown), f"{hangs} {_trainings(trained)}", *entries]) + "\n"


def _trainings(seeds: list) -> str:
    """How many of the claims on erased models rest on one training; `seeds` of each, as a pooled record has them."""
    several = sum("," in str(seed) for seed in seeds)
    told = sum(seed is not None for seed in seeds)
    return (
        f"Of {len(seeds)} claims on erased models {several} rest on several trainings and {told - several} on one; the "
        "others pool rows, and their chapters say of how many. With one training an interval counts pictures only: "
        "read such a verdict as of that training."
    )


def _badges(kinds: list[str]) -> str:
    return " ".join(badge(kind, kinds.count(kind)) for kind in BADGES if kind in kinds)


def badge(kind: str, n: int | None = None) -> str:
    """A verdict as a word in colour; with `n`, how many claims have it."""
    mark, one, several = BADGES[kind]
    said = one if n is None else f"{n} {one if n == 1 else several}"
    return f'<span class="verdict {kind}">{mark} {said}</span>'


def erased_with(record: dict) -> str:
    """Which erasure a record is of, in words: the recipe, its learning rate with the published one beside it, the
    window, the concept and the seeds of training. "" of a model that is not erased, and where the record does not tell
    (`settings` are those of a table's row; without a table, those of the preset for its subject).
    """
    from ..erasure import presets, window_length
    from ..erasure.recipe import Recipe
    from ..sweeps.keys import concept_of, image_tokens

    name, model, settings = record.get("recipe"), record.get("profile"), record.get("settings")
    concept, about = record.get("concept") or record["subject"], None
    with contextlib.suppress(UserError):
        about = concept_of(concept) if concept else None
    if record["condition"] != "erased" or not name or not model or (settings is None and about is None):
        return ""
    changed = {field: value for field, value in (settings or {}).items() if field in ("lr", "windows.length")}
    recipe, published = presets.recipe(name, model, **changed), presets.FAMILIES[presets.family_of(model)][name]
    said, ours, theirs = [f"`{name}`"], getattr(recipe, "lr", None), getattr(published, "lr", None)
    if ours and theirs:
        said.append(f"learning rate {_plain(ours)}" + (f" (published: {_plain(theirs)})" if ours != theirs else ""))
    if isinstance(recipe, Recipe) and (about or recipe.windows.length):
        total, asked = image_tokens(model), about or concept_of("church")  # which is not asked, the length being set
        length = window_length(recipe, asked, SimpleNamespace(num_codes=total))
        whole = not 0 < length < total
        said.append("the whole picture as one window" if whole else f"windows of {length} of {total} tokens")
    said += [concept] if about else []
    return ", ".join(said) + (f", seed {record['seed']}" if record.get("seed") else "")


def _shown(record: dict) -> str:
    """A number with its interval; of one training, which has none, alone."""
    return f"{record['value']:.3g}" if record["low"] == record["high"] else record["text"]


def _plain(number: float) -> str:
    """`3e-5`, `0.01`."""
    return f"{number:g}" if number >= 0.01 else np.format_float_scientific(number, trim="-", exp_digits=1)


def _entry(claim: dict, verdict: Verdict, ours: dict | None, before: dict | None, beside: dict[str, str]) -> str:
    one_line = lambda text: " ".join(str(text).split())
    said = f"**{one_line(claim['claim'])}**" + (f" ({one_line(claim['source'])})" if claim.get("source") else "")
    facts = [f"In the paper: {one_line(claim['paper'])}."] if claim.get("paper", "–") != "–" else []
    if ours:
        counts = dict.fromkeys(str(record["n"]) for record in (before, ours) if record)
        shown = " → ".join(record["text"] for record in (before, ours) if record)
        unit = COUNTED.get(ours["metric"], "pictures")
        facts.append(f"Here: {shown}, n\u00a0=\u00a0{', '.join(counts)} {unit}.")
        facts += [f"Beside it: {'; '.join(f'{words} {text}' for words, text in beside.items())}."] if beside else []
        erasures = dict.fromkeys(filter(None, (erased_with(record) for record in (before, ours) if record)))
        facts += [f"Erased with {', then '.join(erasures)}."] if erasures else []
    reasons = [verdict.why, one_line(claim["note"]).rstrip(".") + "." if claim.get("note") else ""]
    if verdict.kind != "missing" and (run := claim.get("run")):
        reasons.append(f"[The chapter](../notebooks/{run}.ipynb).")
    lines = [f"{badge(verdict.kind)} {said}", "", " ".join(facts), "", "::::{dropdown} How it was judged", ""]
    return "\n".join([":::::{container} claim", *lines, " ".join(filter(None, reasons)), "", "::::", ":::::"])
