"""What else MiniWorld's second judge sees in the pictures of a concept's prompts, so that ruin cannot win.

A concept is seen less often too where pictures fall apart. Beside each of its rates stand therefore

    second_rate         the concept, as the second judge sees it
    object_rate         any object at all
    replacement_rate    something that training pairs put in the concept's place
    unfinished_rate     pictures in which nothing is whole

The second judge is of another architecture, was trained on other pictures, and has learned that blended, cut, patched
and coarse ones show none of it (`earlib/miniworld/judges.py`).
"""

from __future__ import annotations

import numpy as np

from ..miniworld.concepts import replaced_by
from .judge import SECOND_JUDGE, Judge, MiniWorldJudge

BESIDE = ("second", "object", "replacement", "unfinished")


def second_judge(judge: Judge) -> MiniWorldJudge:
    """The second judge, asked for the same as `judge`, the first.

    Raises:
        UserError: its weights are not there.
    """
    assert isinstance(judge, MiniWorldJudge)
    return MiniWorldJudge(judge.group, judge.label, judge.threshold, SECOND_JUDGE)


def seen_beside(judge: Judge, images: np.ndarray) -> dict[str, np.ndarray]:
    """Each of BESIDE in each picture: name to bool [N]; nothing where the concept's `judge` is not MiniWorld's.

    Args:
        judge: the concept's own.
        images: uint8 [N, H, W, 3].
    """
    if not isinstance(judge, MiniWorldJudge):
        return {}
    second = second_judge(judge)
    found, names = second.probabilities(images), second.groups[judge.group]
    instead = [names.index(name) for name in replaced_by(judge.label, names)]
    scores = (
        found[judge.group][:, names.index(judge.label)],
        found["object"].max(1),
        found[judge.group][:, instead].max(1),
        found["state"][:, second.groups["state"].index("unfinished")],
    )
    return {name: score >= judge.threshold for name, score in zip(BESIDE, scores)}
