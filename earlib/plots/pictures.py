"""Figures made of pictures: grids of them, the token grid, what a window covers, a value per token, matrices."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import UserError
from ..evaluate.rate import Rate
from .style import INK, QUIET, WIDTH
from .style import look as look_of


def grid(
    images,
    columns: int | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    scale: float = 1.0,
):
    """A grid of pictures, every pixel a sharp square, no wider than a page.

    Args:
        images: uint8 [N, H, W, 3], or a list of such pictures, filled row by row.
        columns: pictures a row (default: one row up to 10).
        row_labels: to the left of each row.
        column_labels: above each column.
        titles: under each picture.
        scale: 1 draws a picture 1.1 inches wide, if there is room.

    Returns:
        matplotlib.figure.Figure

    Raises:
        UserError: no pictures, or labels that do not fit the grid.
    """
    import matplotlib.pyplot as plt

    count = len(images)
    if count == 0:
        raise UserError("no pictures to show")
    columns = columns or (len(column_labels) if column_labels is not None else min(count, 10))
    rows = -(-count // columns)
    for labels, wanted, what in (
        (row_labels, rows, "row labels"),
        (column_labels, columns, "column labels"),
        (titles, count, "titles"),
    ):
        if labels is not None and len(labels) != wanted:
            raise UserError(f"{len(labels)} {what} for a grid of {rows} rows and {columns} columns")
    longest = max((len(line) for label in row_labels or () for line in label.split("\n")), default=0)
    side = min(1.1 * scale, (WIDTH - 0.075 * longest) / columns - 0.06)
    gap = 0.06 + (0.17 if titles is not None else 0)
    high = side * images[0].shape[0] / images[0].shape[1]
    fig, axes = plt.subplots(rows, columns, figsize=(columns * (side + 0.06), rows * (high + gap)), squeeze=False)
    fig.subplots_adjust(left=0, right=1, top=1, bottom=0, wspace=0.06 / side, hspace=gap / high)
    for number, axis in enumerate(axes.flat):
        bare(axis)
        if number >= count:
            continue
        axis.imshow(images[number], interpolation="nearest")
        row, column = divmod(number, columns)
        if titles is not None:
            axis.set_xlabel(titles[number], fontsize=8, labelpad=2)
        if row_labels is not None and column == 0:
            axis.set_ylabel(row_labels[row], rotation=0, ha="right", va="center", labelpad=6, fontsize=9)
        if column_labels is not None and row == 0:
            axis.set_title(column_labels[column], fontsize=8.5, fontweight="normal", loc="center", pad=4)
    return fig


def bare(axis, title: str | None = None) -> None:
    """Take ticks, grid and frame from an axis, as a picture has none."""
    axis.set_xticks([]), axis.set_yticks([])
    axis.grid(False)
    axis.spines[:].set_visible(False)
    if title:
        axis.set_title(title, fontsize=8.5, fontweight="normal", loc="center", pad=4)


def token_grid(image: np.ndarray, tokens_T, grid: tuple[int, int], numbers: bool = True):
    """A picture cut into its patches, and beside it the code of each patch.

    Args:
        image: uint8 [H, W, 3].
        tokens_T: int [T], row by row.
        grid: (rows, columns) of the tokens.
        numbers: write the codes.

    Returns:
        matplotlib.figure.Figure
    """
    import matplotlib.pyplot as plt

    rows, columns = grid
    high, wide = image.shape[0] / rows, image.shape[1] / columns
    fig, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.9), layout="constrained")
    for axis, title in zip(axes, ("the picture, cut into patches", f"the same as {rows * columns} tokens, row by row")):
        axis.imshow(image, interpolation="nearest", alpha=1.0 if axis is axes[0] else 0.28)
        bare(axis, title)
        colour = "white" if axis is axes[0] else QUIET
        axis.hlines(np.arange(rows + 1) * high - 0.5, -0.5, image.shape[1] - 0.5, color=colour, linewidth=0.5)
        axis.vlines(np.arange(columns + 1) * wide - 0.5, -0.5, image.shape[0] - 0.5, color=colour, linewidth=0.5)
    for t, token in enumerate(np.asarray(tokens_T)) if numbers else ():
        spot = ((t % columns + 0.5) * wide - 0.5, (t // columns + 0.5) * high - 0.5)
        axes[1].text(*spot, int(token), ha="center", va="center", fontsize=6, color=INK)
    return fig


def cover(image: np.ndarray, start: int, length: int, grid: tuple[int, int], dim: float = 0.72) -> np.ndarray:
    """The picture with everything but tokens [start, start + length) faded: float [H, W, 3] in 0..1."""
    mask = np.zeros(grid[0] * grid[1], bool)
    mask[start : start + length] = True
    mask = mask.reshape(grid).repeat(image.shape[0] // grid[0], 0).repeat(image.shape[1] // grid[1], 1)[..., None]
    picture = image / 255.0
    return np.where(mask, picture, picture * (1 - dim) + dim * 0.94)


def token_maps(images, values, shape: tuple[int, int], titles: Sequence[str], label: str, log: bool = False):
    """Pictures above, a value for each of their tokens below, on one colour scale for all maps.

    Args:
        images: uint8 [N, H, W, 3].
        values: float [N, T].
        shape: (rows, columns) of the tokens.
        titles: above each picture.
        label: of the colour scale.
        log: a logarithmic scale, from the 2nd to the 99.8th percentile of all values.

    Returns:
        matplotlib.figure.Figure
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm, Normalize

    values = np.asarray(values, float).reshape(len(images), *shape)
    norm = LogNorm(*np.quantile(values[values > 0], (0.02, 0.998))) if log else Normalize(0, values.max())
    side = min(1.6, (WIDTH - 0.9) / len(images))
    size = (side * len(images) + 0.9, 2 * side + 0.55)
    fig, axes = plt.subplots(2, len(images), figsize=size, squeeze=False, layout="constrained")
    for above, below, image, value, title in zip(*axes, images, values, titles):
        above.imshow(image, interpolation="nearest")
        shown = below.imshow(value, cmap="viridis", norm=norm)
        bare(above, title)
        bare(below)
    fig.colorbar(shown, ax=axes[1].tolist(), label=label, shrink=0.9, extend="both" if log else "neither")
    return fig


def matrices(shares: dict[str, np.ndarray], names: Sequence[str]):
    """Square matrices of shares from 0 to 1, rows the truth and columns the answer, side by side under their titles;
    returns the figure."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    size = (min(WIDTH, 2.3 * len(shares) + 0.9), 2.9)
    fig, axes = plt.subplots(1, len(shares), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (title, values) in zip(axes[0], shares.items()):
        last = axis is axes[0, -1]
        sns.heatmap(
            values, vmin=0, vmax=1, cmap="Blues", square=True, cbar=False, ax=axis, xticklabels=names, yticklabels=names
        )
        axis.tick_params(axis="y", rotation=0, left=False)
        axis.set(title=title, xlabel="answer")
        if last:
            fig.colorbar(axis.collections[0], ax=list(axes[0]), shrink=0.7, label="share of the row", pad=0.02)
    axes[0, 0].set_ylabel("truth")
    return fig


def heat(panels: Mapping[str, Mapping[tuple, Rate]], rows: Sequence[str], columns: Mapping[str, str], bold: Mapping):
    """Rates as numbers in per cent on colour.

    Args:
        panels: title -> {(row, column): Rate}; what is missing stays empty.
        rows: from top to bottom, their names in the colours of `style.COLOURS`.
        columns: column -> how it is called.
        bold: title -> those (row, column) whose numbers are printed in bold, in a frame.

    Returns:
        matplotlib.figure.Figure
    """
    import matplotlib.pyplot as plt

    size = (min(WIDTH, 1.6 + 1.9 * len(panels)), 1.25 + 0.21 * len(rows))
    size_of = 8 if len(panels) * len(columns) <= 24 else 7  # of numbers, of three digits too
    fig, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (title, found) in zip(axes[0], panels.items()):
        value = lambda row, column, found=found: 100 * found[row, column].value if (row, column) in found else np.nan
        cells = np.array([[value(row, column) for column in columns] for row in rows], float)
        axis.imshow(cells, vmin=0, vmax=100, cmap="Oranges", aspect="auto")
        for (y, row), (x, column) in itertools.product(enumerate(rows), enumerate(columns)):
            if not np.isnan(cells[y, x]):
                marked = (row, column) in bold.get(title, ())
                look = {"color": "white" if cells[y, x] > 65 else INK, "fontsize": size_of}
                look |= {"fontweight": "bold"} if marked else {}
                axis.text(x, y, f"{cells[y, x]:.0f}", ha="center", va="center", **look)
                if marked:  # bold alone is hard to see where the colour is dark
                    corner = (x - 0.45, y - 0.43)
                    axis.add_patch(plt.Rectangle(corner, 0.9, 0.86, fill=False, edgecolor=INK, linewidth=1.1))
        axis.set_xticks(range(len(columns)), list(columns.values()), rotation=90)
        axis.set_yticks(range(len(rows)), rows)
        axis.set_title(title)
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    for label in axes[0, 0].get_yticklabels():
        label.set_color(look_of(label.get_text(), 7)[0])
    return fig
