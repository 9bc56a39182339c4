"""What a notebook measured: records for its results.json, and the same numbers in words for its text."""

from __future__ import annotations

import re
from collections import defaultdict

from .. import ROOT
from ..evaluate.rate import Estimate, Rate
from ..evaluate.records import KEYS


class Ledger:
    """Notes numbers as flat records (`records`) and in words by name (`words`).

    Args:
        **shared: fields that all records have, unless `keep` says otherwise ("subject", "profile", ...).
    """

    def __init__(self, **shared):
        self.shared, self.records, self.words = shared, [], {}

    def keep(
        self,
        name: str,
        metric: str,
        kind: str,
        found: Rate | Estimate | dict | float,
        form: str | None = None,
        scale: float = 1,
        **more,
    ) -> str:
        """Note one number.

        Args:
            name: what `words` calls it.
            metric, kind: fields of the record; `condition` is "base" unless `more` says otherwise.
            found: the number, with its interval if it has one.
            form, scale: how it is written: `format(scale * value, form)`; None writes a rate in per cent and all else
                with three significant digits.
            **more: further fields of the record.

        Returns:
            str: `0.84 [0.81–0.86]`, `-0.2 [-0.5 to 0.1]`, or `0.84` without an interval.
        """
        if form is None:
            form, scale = (".0f", 100) if isinstance(found, Rate) else (".3g", scale)
        if isinstance(found, Rate | Estimate):
            found = found.flat()
        elif not isinstance(found, dict):
            found = {"value": float(found), "n": 1, "low": None, "high": None}
        found = {key: found[key] for key in ("value", "n", "low", "high")}
        record = dict.fromkeys(KEYS) | {"metric": metric, "kind": kind, "condition": "base"}
        record |= self.shared | more | found
        if record not in self.records:
            self.records.append(record)
        form = form if "z" in form else re.sub(r"^([+ -]?)", r"\1z", form)  # z: no -0
        value, low, high = (
            None if found[key] is None else f"{float(scale * found[key]):{form}}" for key in ("value", "low", "high")
        )
        between = " to " if form.startswith("+") or (low is not None and found["low"] < 0) else "–"
        self.words[name] = str(value) if low is None else f"{value} [{low}{between}{high}]"
        return self.words[name]


def link(repository: str, commit: str, where: str) -> str:
    """A Markdown link to lines of a public file at one commit; `where` is a path, with `:line` or `:first-last`."""
    path, _, lines = where.partition(":")
    anchor = "#L" + lines.replace("-", "-L") if lines else ""
    said = f", {'lines' if '-' in lines else 'line'} {lines.replace('-', '–')}" if lines else ""
    return f"[`{path}`{said}]({repository}/blob/{commit}/{path}{anchor})"


def findings(words: dict[str, str]) -> str:
    """The items of book/audit.yml in Markdown, a paragraph and a list each, their numbers filled in from `words`
    (`Ledger.words`)."""
    import yaml

    known = defaultdict(lambda: "*(not measured in this run)*", words)
    audit = yaml.safe_load((ROOT / "book" / "audit.yml").read_text(encoding="utf-8"))
    parts = []
    for item in audit["items"]:
        measured = item.get("measured", "Read in the code; nothing to show on mini.").format_map(known)
        places = "; ".join(link(audit["repository"], audit["commit"], where) for where in item["where"])
        parts += [f"**{item['item']}.** {item['code']} ({places})", ""]
        parts += [f"- *The paper:* {item['paper']}"] if item["paper"] != "–" else []
        parts += [f"- *Measured here:* {measured}", f"- *What follows:* {item['follows']}", ""]
    return "\n".join(parts)
