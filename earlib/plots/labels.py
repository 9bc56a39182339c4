"""Labels of marks in a plane, placed where they cover least."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .series import Series


def draw_labels(axis, series: Sequence[Series]) -> None:
    """The labels of one plane's marks, where they cover least of the marks and of each other."""
    axis.figure.draw_without_rendering()  # where they fit depends on the layout
    spots = [axis.transData.transform((s.at(x)[0], s.at(y)[0])) for s in series for x, y in s.points]
    boxes = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    for number, s in enumerate(series):
        for (x, y), text in zip(s.points, s.labels):
            if text:
                _beside(axis, s.at(x)[0], s.at(y)[0], text, s.look(number)[0], boxes)


def _beside(axis, x: float, y: float, text: str, colour: str, boxes: list[tuple]) -> None:
    """Write `text` near (x, y) where it covers least of `boxes` (pixels: left, bottom, right, top); adds its own."""
    scale = axis.figure.dpi / 72
    wide, high = 4.4 * scale * len(text), 9 * scale
    (px, py), frame, others = axis.transData.transform((x, y)), axis.get_window_extent(), np.array(boxes)
    ways, found = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1)), []
    for reach, (across, up) in itertools.product((6, 13, 22, 32), ways):
        left, middle = px + across * reach * scale - wide * (1 - across) / 2, py + up * reach * scale
        box = left, middle - high / 2, left + wide, middle + high / 2
        shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
        outside = max(0, frame.x0 - box[0]) + max(0, box[2] - frame.x1) + max(0, box[3] - frame.y1)
        cost = shared.clip(0).prod(1).sum() + 20 * outside * high + 4 * reach
        found.append((cost, box, (across * reach, up * reach), across))
    _, box, shift, across = min(found, key=lambda way: way[0])
    boxes.append(box)
    arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6} if max(map(abs, shift)) > 8 else None
    align = {"ha": ("center", "left", "right")[across], "va": "center", "annotation_clip": False}
    axis.annotate(text, (x, y), shift, textcoords="offset points", fontsize=8, color=colour, arrowprops=arrow, **align)
