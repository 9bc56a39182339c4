"""The page of claims: what the papers say, what was measured here, and a verdict by one rule.

A verdict is one of BADGES. Where something is measured, the 95 % interval decides and nobody else: of the difference
from before, where the claim is of a direction; of our own value, where a bar of ours is asked for. An interval on both
sides tells nothing, nor does a value without one. Two rules keep a comparison fair (`fair`): a model that is
ruined has not erased, and two runs that gave one and the same model compare nothing. The claims stand in
book/claims.yml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UserError, nearest
from ..evaluate.rate import Estimate

CLAIMS_MARK = "<!-- claims -->"  # book/claims.md has this line where the list goes
BADGES = {  # kind -> mark, of one claim, of several
    "holds": ("✓", "holds", "hold"),
    "fails": ("✗", "does not hold", "do not hold"),
    "ruined": ("!", "of a ruined model", "of a ruined model"),
    "open": ("?", "cannot be told", "cannot be told"),
    "untested": ("–", "not tested here", "not tested here"),
    "missing": ("…", "not measured yet", "not measured yet"),
}
FIELDS = ("part", "claim", "whose", "source", "paper", "run", "select", "before", "verdict", "note")
DIRECTIONS = ("lower", "higher", "different", "same")
RULES = ("expect", "at_most", "at_least", "keeps", "tested", "carried")
MARGIN = 0.10  # a rate counts as the same if the whole interval of its change lies within so much
RUINED = 0.5  # a model is ruined if its neighbours are drawn less than so many times as often as before erasing
# what was asked of an erasure, and what came out; a record's other fields say which erasure
ASKED = ("metric", "subject", "kind", "judge", "seed", "paper", "value", "n", "low", "high")


# metric -> what its n counts, where that is not pictures
COUNTED = {"windows_skipped_rate": "windows", "regret_rate_change": "concepts", "rank_correlation": "concepts"}
COUNTED |= dict.fromkeys(("farther_rate", "oracle_agreement"), "methods on concepts")


@dataclass(frozen=True)
class Verdict:
    """One of BADGES, and in a sentence how it came about."""

    kind: str
    why: str


def measured(results: list[dict], run: str, fields: dict) -> dict | None:
    """The one quantity of notebook `run` whose records have these `fields`, pooled over its runs as
    `evaluate.records.pool` does; None without a record.

    Raises UserError if the fields fit more than one quantity.
    """
    from ..evaluate.records import KEYS, format_value, pool

    here = [r for r in results if r["run"] == run or r["run"].startswith(f"{run}/")]
    here = [
        {**dict.fromkeys(KEYS), **r}
        for r in here
        if r.get("value") is not None and all(r.get(k) == v for k, v in fields.items())
    ]
    found = pool(here)
    if len(found) > 1:
        told = [
            k
            for k in ("metric", "subject", "kind", "condition", "recipe", "judge", "profile", "paper")
            if len({str(r[k]) for r in found}) > 1
        ]
        raise UserError(
            f"book/claims.yml: {fields} in '{run}' fits {len(found)} quantities, which differ in {', '.join(told)}: "
            "add that to `select`"
        )
    return found[0] | {"text": format_value(found[0])} if found else None


def verdict_of(rule: str | dict, ours: dict | None, before: dict | None = None) -> Verdict:
    """A claim's verdict.

    Args:
        rule: {expect: lower | higher | different | same}, how ours differs from before, or from 0 without a before;
            a bar of ours, {at_most: x}, {at_least: x}, or {keeps: x}, a share of before; {tested: where}, a test of
            this repository holds it; {carried: setting}, measured with a setting in the units of the paper's own
            model, which tests nothing on another; or words that say why it was not tested.
        ours: the record measured, if there is one.
        before: that before erasure, likewise.

    Raises:
        UserError: for a rule of another form.
    """
    if not isinstance(rule, dict):
        return Verdict("untested", f"{rule[:1].upper()}{rule[1:]}.")
    if len(rule) != 1 or not set(rule) <= set(RULES):
        unknown = min(set(rule) - set(RULES), default="two rules at once")
        raise UserError(f"book/claims.yml: unknown verdict rule '{unknown}': {nearest(unknown, RULES)}")
    ((name, asked),) = rule.items()
    if name == "expect" and asked not in DIRECTIONS:
        raise UserError(f"book/claims.yml: unknown direction '{asked}': {nearest(str(asked), DIRECTIONS)}")
    if name == "tested":
        return Verdict("holds", f"Not measured but tested: `{asked}`.")
    if ours is None:
        return Verdict("missing", "No notebook of this build has measured it.")
    if name == "carried":
        carried = f"{asked} is in the units of the paper's own model and was carried over as it is."
        return Verdict("untested", f"{carried} What it does on a model of another size tells nothing of theirs.")
    now, then = _estimate(ours), _estimate(before) if before else None
    points = "rate" in ours["metric"]
    if name == "expect":
        return _by_direction(asked, now.minus(then) if then else now, points, bool(then))
    if name == "keeps":
        if then is None:
            return Verdict("missing", "What it was before has not been measured.")
        return _by_bar(
            "at_least", now.minus(then, asked), 0, f"Our bar: at least {100 * asked:g} % of what it was before."
        )
    if before and (before["value"] <= asked if name == "at_most" else before["value"] < asked):
        return Verdict("open", f"The model does not reach our bar, {100 * asked:g} %, even before erasure.")
    return _by_bar(name, now, asked, f"Our bar: {name.replace('_', ' ')} {100 * asked:g} %.")


def _estimate(record: dict) -> Estimate:
    return Estimate(*(record[key] for key in ("value", "n", "low", "high")))


def _by_direction(expected: str, change: Estimate, points: bool, differs: bool) -> Verdict:
    shown = change.text(digits=0, scale=100, sign=True, unit=" points") if points else change.text(sign=True)
    what = f"{'The difference' if differs else 'Measured'}: {shown}, with its 95 % interval."
    if expected == "same":
        bar = f"Expected: the same, within {100 * MARGIN:.0f} points either way (our margin)."
        if change.low is not None and change.high is not None and max(-change.low, change.high) <= MARGIN:
            return Verdict("holds", f"{bar} {what}")
        return Verdict("fails" if change.differs else "open", f"{bar} {what}")
    bar = f"Expected: {expected}." if differs else f"Expected: {'above' if expected == 'higher' else 'below'} 0."
    if change.low == change.high == 0:
        return Verdict("fails", f"{bar} {what} Nothing has changed at all.")
    if not change.differs:
        return Verdict("open", f"{bar} {what} It holds 0: no difference that these seeds and pictures can tell.")
    as_expected = expected == "different" or change.above == (expected == "higher")
    return Verdict("holds" if as_expected else "fails", f"{bar} {what}")


def _by_bar(name: str, found: Estimate, bar: float, said: str) -> Verdict:
    meets: Callable[[float], bool] = (lambda v: v <= bar) if name == "at_most" else (lambda v: v >= bar)
    if found.low is None or found.high is None:
        return Verdict("open", f"{said} One value without an interval cannot decide.")
    ends = {meets(found.low), meets(found.high)}
    if len(ends) == 2:
        return Verdict("open", f"{said} The 95 % interval lies on both sides of it.")
    return Verdict("holds" if ends == {True} else "fails", f"{said} The whole 95 % interval decides.")


def fair(results: list[dict], run: str, verdict: Verdict, ours: dict | None, before: dict | None) -> Verdict:
    """`verdict`, unless the comparison behind it is none.

    Untested where both records are of erasures that agree in all that was measured, to the last digit: one model.
    Ruined where a rate of the concept is judged after an erasure whose neighbours are drawn measurably less than RUINED
    times as often as before erasing: what such a model draws no more says nothing of the concept.

    Args:
        results, run: as of `measured`, where the other numbers of the same erasures are looked up.
        verdict: of `verdict_of`, for ours and before.
        ours, before: the records compared.
    """
    of = lambda record, **more: {key: value for key, value in record.items() if key not in (*ASKED, "text")} | more
    erased = [record for record in (before, ours) if record and record["condition"] == "erased"]
    here = [r for r in results if r["run"] == run or r["run"].startswith(f"{run}/")]
    if len(erased) == 2 and of(erased[0]) != of(erased[1]):  # else one erasure, asked in two ways
        numbers = [
            {(r["metric"], r["subject"], r["kind"]): r["value"] for r in here if of(r) == of(record)}
            for record in erased
        ]
        one, other = ({name: value for name, value in n.items() if name[0] != "training_seconds"} for n in numbers)
        if one == other and any(name == "kl_drift" for name, *_ in one):
            same = f"Both runs agree in all {len(one)} numbers that were measured, to the last digit: one and the same"
            return Verdict("untested", f"{same} model. A difference of nothing tests nothing.")
    if verdict.kind not in ("holds", "fails"):
        return verdict
    for record in erased:
        asked = {"metric": "neighbour_rate", "subject": "all"}
        untouched = {key: record.get(key) for key in ("table", "concept")} | {"condition": "base", "recipe": None}
        after, base = measured(results, run, of(record, **asked)), measured(results, run, untouched | asked)
        if record["metric"] == "concept_rate" and after and base:
            now, then = _estimate(after), _estimate(base)
            if now.minus(then, RUINED).below:
                less = f"measurably below {100 * RUINED:.0f} % of before: a ruined model has not erased."
                fell = f"But its neighbours fell from {then.text(0, 100)} to {now.text(0, 100)} %, {less}"
                return Verdict("ruined", f"{verdict.why} {fell}")
    return verdict


def claims_list(results: list[dict], claims: list[dict]) -> str:
    """The claims in MyST Markdown: counts of verdicts, then each claim with its badge, the paper's number, ours with
    its interval, and, folded, how it was judged.

    Args:
        results: records as `earlib.runs.collect` gives them.
        claims: each {claim, source, paper, verdict, note} and, where it is measured, {run, select, before}: `run` is
            the notebook's name, `select` the fields that its records must have, `before` the fields to change for the
            number before erasure. `whose` claim it is names the line that counts it. `part` begins a section.
            What a `verdict` may be says `verdict_of`.

    Raises:
        UserError: for a field or a rule that it does not know.
    """
    entries, kinds, whose = [], [], []
    for claim in claims:
        if unknown := set(claim) - set(FIELDS):
            raise UserError(f"book/claims.yml: unknown field '{min(unknown)}': {nearest(min(unknown), FIELDS)}")
        run, fields = claim.get("run", ""), claim.get("select", {})
        ours = measured(results, run, fields) if run else None
        before = measured(results, run, {**fields, **claim["before"]}) if ours and "before" in claim else None
        verdict = verdict_of(claim.get("verdict", "not tested"), ours, before)
        verdict = fair(results, run, verdict, ours, before) if run else verdict
        kinds.append(verdict.kind)
        whose.append(claim.get("whose", "ours"))
        if "part" in claim:
            entries.append(f"## {claim['part']}")
        entries.append(_entry(claim, verdict, ours, before))
    counted = {"in all": kinds}
    counted |= {name: [kind for kind, of in zip(kinds, whose) if of == name] for name in dict.fromkeys(whose)}
    lines = [f"- **{len(of)} {name}**: {_badges(of)}" for name, of in counted.items()]
    return "\n".join(lines[:1] if len(counted) == 2 else lines) + "\n\n" + "\n\n".join(entries) + "\n"


def _badges(kinds: list[str]) -> str:
    return " ".join(badge(kind, kinds.count(kind)) for kind in BADGES if kind in kinds)


def badge(kind: str, n: int | None = None) -> str:
    """A verdict as a word in colour; with `n`, how many claims have it."""
    mark, one, several = BADGES[kind]
    said = one if n is None else f"{n} {one if n == 1 else several}"
    return f'<span class="verdict {kind}">{mark} {said}</span>'


def _entry(claim: dict, verdict: Verdict, ours: dict | None, before: dict | None) -> str:
    one_line = lambda text: " ".join(str(text).split())
    said = f"**{one_line(claim['claim'])}**" + (f" ({one_line(claim['source'])})" if claim.get("source") else "")
    facts = [f"In the paper: {one_line(claim['paper'])}."] if claim.get("paper", "–") != "–" else []
    if ours:
        counts = dict.fromkeys(str(record["n"]) for record in (before, ours) if record)
        shown = " → ".join(record["text"] for record in (before, ours) if record)
        unit = COUNTED.get(ours["metric"], "pictures")
        facts.append(f"Here: {shown}, n\u00a0=\u00a0{', '.join(counts)} {unit}.")
    reasons = [verdict.why, one_line(claim["note"]).rstrip(".") + "." if claim.get("note") else ""]
    if verdict.kind != "missing" and (run := claim.get("run")):
        reasons.append(f"[The chapter](../notebooks/{run}.ipynb).")
    lines = [f"{badge(verdict.kind)} {said}", "", " ".join(facts), "", "::::{dropdown} How it was judged", ""]
    return "\n".join([":::::{container} claim", *lines, " ".join(filter(None, reasons)), "", "::::", ":::::"])
