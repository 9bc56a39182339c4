"""Windows predicted by the base model alone, written down before the sweep `windows` is measured, judged by it after.

`python -m earlib.sweeps.windows` writes data/sweeps/windows.json; with names it prints what it predicts for those
concepts and writes nothing. The rules are in `earlib/erasure/windows.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..evaluate.rate import Estimate
from ..runs import read_lines, write_json
from .compare import margin
from .keys import PROFILE, concept_of
from .plan import load_sweeps
from .read import is_row, table_folder

if TYPE_CHECKING:
    import pandas as pd

SWEEP, RECIPE = "windows", "ear"


def predictions(concepts: Sequence[str], model: str = PROFILE) -> dict[str, dict[str, int]]:
    """{concept: {rule: tokens}} of every rule, with the lengths that need no model: one row, the whole picture, and the
    paper's own where it has one."""
    from ..erasure import window_length
    from ..erasure.presets import recipe, with_settings
    from ..erasure.settings import RULES
    from ..erasure.windows import signals
    from .measure import load_model

    generator, preset, found = load_model(model), recipe(RECIPE, PROFILE), {}
    for name in concepts:
        concept = concept_of(name)
        told = signals(generator, concept.pairs, preset)
        found[name] = {rule: told.window(rule) for rule in RULES}
        for plain in ("auto", "whole", "paper")[: 3 if concept.paper.get("window") else 2]:
            length = window_length(with_settings(preset, {"windows.length": plain}), concept, generator)
            found[name]["row" if plain == "auto" else plain] = generator.num_codes if length < 0 else length
        print(f"{name}: {', '.join(f'{rule} {n}' for rule, n in found[name].items())}", flush=True)
    return found


def write(model: str = PROFILE, folder: Path | None = None) -> Path:
    """Write the predictions for the sweep's concepts into the folder of the tables; returns the file's path.

    Raises:
        UserError: the sweep has been measured, so that a prediction would come too late.
    """
    folder = folder or table_folder()
    sweep = load_sweeps()[SWEEP]
    if any(is_row(row) for row in read_lines(folder / f"{SWEEP}.jsonl")):
        raise UserError(f"{folder / SWEEP}.jsonl has rows already; what is predicted after the sweep is no prediction")
    from ..erasure.presets import recipe
    from ..erasure.windows import TOLERANCE
    from ..miniworld.summary import commit
    from .keys import weights

    guidance = recipe(RECIPE, PROFILE).guidance
    about = {"model": model, "weights": weights(model), "recipe": RECIPE, "tolerance": TOLERANCE, "guidance": guidance}
    about |= {"commit": commit(), "date": date.today().isoformat()}
    return write_json(folder / f"{SWEEP}.json", about | {"windows": predictions(sweep.concepts, model)})


def judged(frame: pd.DataFrame, predicted: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    """Each rule against the sweep, a row a rule.

    Args:
        frame: rows of `read.load("windows")`; the best window of a concept has the greatest margin of neighbours over
            the concept.
        predicted: {concept: {rule: tokens}}.

    Returns:
        DataFrame by rule: concepts; `rank correlation` of predicted and best lengths, as
        `Estimate.rank_correlation` gives it; `best`, for how many concepts no length does better than the one it says;
        `regret`, the margin that is lost against the best, in points, a mean over concepts, at the tested length that
        is nearest by ratio; `worst`, the most that is lost for one concept.
    """
    import pandas as pd

    margins: dict[str, dict[int, float]] = {}
    for row in frame[frame.recipe.notna() & frame.direct.notna()].to_dict("records"):
        margins.setdefault(row["concept"], {})[int(row["windows.length"])] = margin(row).value or 0.0
    rows = {}
    for rule in dict.fromkeys(rule for rules in predicted.values() for rule in rules):
        pairs = [(rules[rule], margins[name]) for name, rules in predicted.items() if rule in rules and name in margins]
        lost = [max(by.values()) - by[min(by, key=lambda w, n=n: max(w / n, n / w))] for n, by in pairs]
        best = [max(by, key=lambda w, by=by: by[w]) for _, by in pairs]
        cell = {"concepts": len(pairs), "rank correlation": Estimate.rank_correlation([n for n, _ in pairs], best)}
        cell["best"] = sum(not points for points in lost)
        rows[rule] = cell | {"regret": 100 * sum(lost) / len(lost), "worst": 100 * max(lost)} if pairs else cell
    return pd.DataFrame(rows).T


def main(argv: list[str] | None = None) -> int:
    """The command; exit status 2 with one line for what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m earlib.sweeps.windows", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="CONCEPT", help="print only; default: write those of the sweep")
    parser.add_argument("--model", default=PROFILE, help="a profile, or a folder of a mini model; default: mini")
    args = parser.parse_args(argv)
    try:
        print(json.dumps(predictions(args.names, args.model)) if args.names else write(args.model))
    except UserError as error:
        print("error:", error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
