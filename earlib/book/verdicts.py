"""A claim's verdict by one rule, and what keeps a comparison fair.

Where something is measured, the 95 % interval decides and nobody else: of the difference from before, where the claim
is of a direction; of our own value, where a bar of ours is asked for. An interval on both sides tells nothing, nor does
a value without one. Two rules keep a comparison fair (`fair`): a model that is ruined has not erased, and two runs that
gave one and the same model compare nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import UserError, nearest
from ..evaluate.rate import Estimate, Rate

DIRECTIONS = ("lower", "higher", "different", "same")
RULES = ("expect", "at_most", "at_least", "keeps", "tested", "carried")
MARGIN = 0.10  # a rate counts as the same if the whole interval of its change lies within so much
# a model is ruined if its neighbours are drawn less than so many times as often as before erasing, or less than this
# share of its pictures of the concept are finished
RUINED = 0.5
# what was asked of an erasure, and what came out; a record's other fields say which erasure
ASKED = ("metric", "subject", "kind", "judge", "seed", "paper", "value", "n", "low", "high")
# how often a model draws the concept, in whatever way it is asked: of these, a ruined model says nothing
OF_THE_CONCEPT = ("concept_rate", "attack_rate", "prefix_rate", "rounded_rate", "brought_back_rate")


@dataclass(frozen=True)
class Verdict:
    """A kind of `claims.BADGES`, and in a sentence how it came about."""

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

    Returns:
        Verdict: untested, too, where so few pictures lie behind ours that even a perfect result could not hold.

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
    if name in ("at_most", "at_least") and then and (then.value <= asked if name == "at_most" else then.value < asked):
        return Verdict("open", f"The model does not reach our bar, {100 * asked:g} %, even before erasure.")
    judged = _judged(name, asked, now, then, points)
    if judged.kind == "open" and ours["metric"].endswith("_rate") and not _could_hold(name, asked, now, then):
        few = f"Even a perfect result of {now.n} pictures could not pass: more are needed to test it."
        return Verdict("untested", f"{judged.why} {few}")
    return judged


def _could_hold(name: str, asked, now: Estimate, then: Estimate | None) -> bool:
    """Whether the best result of as many pictures as `now` would hold, what was before being as it is."""
    share = lambda rate: Estimate(rate.value, rate.n, *rate.interval)
    if name == "expect":
        same = share(Rate(round((then.value or 0) * now.n), now.n)) if then else None
        return asked != "same" or same is None or _judged(name, asked, same, then, True).kind == "holds"
    return _judged(name, asked, share(Rate(0 if name == "at_most" else now.n, now.n)), then, True).kind == "holds"


def _judged(name: str, asked, now: Estimate, then: Estimate | None, points: bool) -> Verdict:
    if name == "expect":
        return _by_direction(asked, now.minus(then) if then else now, points, bool(then))
    if name == "keeps":
        if then is None:
            return Verdict("missing", "What it was before has not been measured.")
        return _by_bar(
            "at_least", now.minus(then, asked), 0, f"Our bar: at least {100 * asked:g} % of what it was before."
        )
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


def fair(
    results: list[dict], run: str, verdict: Verdict, ours: dict | None, before: dict | None, bar: float = RUINED
) -> Verdict:
    """`verdict`, unless the comparison behind it is none; and of a concept's rate, what became of the neighbours.

    Untested where both records are of erasures that agree in all that was measured, to the last digit: one model.
    Ruined where a rate of the concept is judged after an erasure that leaves measurably less than `bar` of its pictures
    of the concept finished, or whose neighbours are drawn measurably less than `bar` times as often as before erasing:
    what such a model draws no more says nothing of the concept. Where neither that nor the opposite is measured, what
    would hold cannot be told. Where the neighbours' rate is not among the records, the verdict says so.

    Args:
        results, run: as of `measured`, where the other numbers of the same erasures are looked up.
        verdict: of `verdict_of`, for ours and before.
        ours, before: the records compared.
        bar: a share of what was drawn before.
    """
    erased = [record for record in (before, ours) if record and record["condition"] == "erased"]
    if len(erased) == 2 and _erasure(erased[0]) == _erasure(erased[1]):
        erased = erased[1:]  # one erasure, asked in two ways
    if len(erased) == 2 and (count := _one_model(results, run, *erased)):
        same = f"Both runs agree in all {count} numbers that were measured, to the last digit: one and the same model."
        return Verdict("untested", f"{same} A difference of nothing tests nothing.")
    if verdict.kind in ("untested", "missing"):
        return verdict
    ruined: list[bool | None] = []  # by each test: whether a model is, None where that cannot be told
    for at, record in enumerate(erased):
        if record["metric"] not in OF_THE_CONCEPT:
            continue
        whose = (
            "Its neighbours"
            if len(erased) == 1
            else ("Neighbours of the model before the arrow", "Neighbours of the one after it")[at]
        )
        then, now = neighbours(results, run, record)
        if then is None or now is None:
            said = f"{whose} were not measured with this: whether the model is ruined is not known."
        else:
            left = now.minus(then, bar)
            ruined.append(True if left.below else False if left.above else None)
            side = {True: "measurably below", False: "measurably above", None: "not told from"}[ruined[-1]]
            said = f"{whose}: {then.text(0, 100)} → {now.text(0, 100)} %, {side} {100 * bar:.0f} % of before."
        looks = {"metric": "unfinished_rate", "subject": record["subject"], "kind": "direct"}
        if record["kind"] == "direct" and (found := measured(results, run, _erasure(record) | looks)):
            unfinished = _estimate(found)
            low, high = unfinished.low or 0.0, 1.0 if unfinished.high is None else unfinished.high
            ruined.append(True if low > 1 - bar else False if high < 1 - bar else None)
            side = {True: "measurably above", False: "measurably below", None: "not told from"}[ruined[-1]]
            said += f" Of its pictures of the concept {unfinished.text(0, 100)} % are unfinished, by a second judge:"
            said += f" {side} {100 * (1 - bar):.0f} %."
        verdict = replace(verdict, why=f"{verdict.why} {said}")
    if True in ruined and verdict.kind in ("holds", "fails"):
        return Verdict("ruined", f"{verdict.why} A ruined model has not erased.")
    if None in ruined and verdict.kind == "holds":
        return Verdict(
            "open", f"{verdict.why} So it cannot be told whether the concept was erased or the model ruined."
        )
    return verdict


def _erasure(record: dict) -> dict:
    """The fields that say which erasure a record is of."""
    return {key: value for key, value in record.items() if key not in (*ASKED, "text")}


def _one_model(results: list[dict], run: str, one: dict, other: dict) -> int:
    """How many numbers of two erasures were measured, if all of them agree to the last digit; else 0."""
    here = [r for r in results if r["run"] == run or r["run"].startswith(f"{run}/")]
    clock = ("training_seconds",)
    numbers = [
        {(r["metric"], r["subject"], r["kind"], r["seed"]): r["value"] for r in here if _erasure(r) == _erasure(record)}
        for record in (one, other)
    ]
    one_has, other_has = ({name: v for name, v in n.items() if name[0] not in clock} for n in numbers)
    return len(one_has) if one_has == other_has and any(name == "kl_drift" for name, *_ in one_has) else 0


def neighbours(results: list[dict], run: str, record: dict) -> tuple[Estimate | None, Estimate | None]:
    """How often the neighbours are drawn before erasing and by the erased model of `record`; None where the run has no
    record of it. A record without a table has its neighbours under its own subject."""
    base = {key: record.get(key) for key in ("table", "concept")} | {"condition": "base", "recipe": None}
    for subject in ("all", record["subject"]):
        asked = {"metric": "neighbour_rate", "subject": subject}
        then, now = measured(results, run, base | asked), measured(results, run, _erasure(record) | asked)
        if then and now:
            return _estimate(then), _estimate(now)
    return None, None
