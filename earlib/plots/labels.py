"""Labels of marks in a plane, placed where they cover least."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .series import Series
from .style import ink

SIZE = 8  # points
LABEL, MARK, INTERVAL = 20.0, 1.0, 0.3  # how bad it is to cover so many pixels of one


def draw_labels(axis, series: Sequence[Series]) -> None:
    """The labels of one plane's marks, where they cover least of each other, of the marks and of their intervals."""
    axis.figure.draw_without_rendering()  # where they fit depends on the layout
    taken = []  # pixels: left, bottom, right, top; and what it costs to cover one
    for s in series:
        for x, y in s.points:
            (middle, left, right), (level, bottom, top) = s.at(x), s.at(y)
            px, py = axis.transData.transform((middle, level))
            (x0, y0), (x1, y1) = axis.transData.transform([(left, bottom), (right, top)])
            taken.append((px - 5, py - 5, px + 5, py + 5, MARK))
            taken += [(x0, py - 1, x1, py + 1, INTERVAL), (px - 1, y0, px + 1, y1, INTERVAL)]
    for number, s in enumerate(series):
        for (x, y), text in zip(s.points, s.labels):
            if text:
                taken.append(_beside(axis, s.at(x)[0], s.at(y)[0], text, s.look(number)[0], taken))


def _beside(axis, x: float, y: float, text: str, colour: str, taken: list[tuple]) -> tuple:
    """Write `text` near (x, y) where covering what is `taken` costs least; returns what it takes itself."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.patheffects import withStroke

    scale = axis.figure.dpi / 72
    draw = axis.figure.canvas.get_renderer()
    wide, *_ = draw.get_text_width_height_descent(text, FontProperties(size=SIZE), False)
    high = 1.25 * SIZE * scale
    (px, py), frame, others = axis.transData.transform((x, y)), axis.get_window_extent(), np.array(taken)
    ways, found = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1)), []
    for reach, (across, up) in itertools.product((6, 13, 22, 32, 45), ways):
        left, middle = px + across * reach * scale - wide * (1 - across) / 2, py + up * reach * scale
        box = left, middle - high / 2, left + wide, middle + high / 2
        shared = np.minimum(box[2:], others[:, 2:4]) - np.maximum(box[:2], others[:, :2])
        outside = max(0, frame.x0 - box[0]) + max(0, box[2] - frame.x1) + max(0, box[3] - frame.y1)
        cost = (shared.clip(0).prod(1) * others[:, 4]).sum() + 20 * outside * high + 4 * reach
        found.append((cost, box, (across * reach, up * reach), across))
    _, box, shift, across = min(found, key=lambda way: way[0])
    arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6} if max(map(abs, shift)) > 8 else None
    align = {"ha": ("center", "left", "right")[across], "va": "center", "annotation_clip": False}
    look = {"fontsize": SIZE, "color": ink(colour), "path_effects": [withStroke(linewidth=2, foreground="white")]}
    axis.annotate(text, (x, y), shift, textcoords="offset points", arrowprops=arrow, **align, **look)
    return (*box, LABEL)
