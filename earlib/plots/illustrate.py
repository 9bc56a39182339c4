"""Figures that explain: the token grid, what a window covers, a value per token laid on the picture, how a training run
went.

General figures (picture grids, bars, curves) and the style are in `figures.py`.
"""

from __future__ import annotations

import numpy as np

from .figures import AFTER, INK, PALETTE, QUIET


def _bare(axis, title: str | None = None):
    axis.set_xticks([]), axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    if title:
        axis.set_title(title, fontsize=9, fontweight="normal", loc="center", pad=5)


def token_grid(image, tokens_T, grid: tuple[int, int], numbers: bool = True):
    """The picture, its grid of patches, and the code of each patch. image: uint8 [H, W, 3]; tokens: int [T]. Returns
    the figure."""
    import matplotlib.pyplot as plt

    rows, columns = grid
    high, wide = image.shape[0] / rows, image.shape[1] / columns
    fig, axes = plt.subplots(1, 2, figsize=(8.6, 4.3))
    for axis, title in zip(axes, ("the picture, cut into patches", f"the same as {rows * columns} tokens, row by row")):
        axis.imshow(image, interpolation="nearest", alpha=1.0 if axis is axes[0] else 0.28)
        _bare(axis, title)
        for r in range(rows + 1):
            axis.axhline(r * high - 0.5, color="white" if axis is axes[0] else QUIET, linewidth=0.5)
        for c in range(columns + 1):
            axis.axvline(c * wide - 0.5, color="white" if axis is axes[0] else QUIET, linewidth=0.5)
    if numbers:
        for t, token in enumerate(np.asarray(tokens_T)):
            r, c = divmod(t, columns)
            axes[1].text(
                (c + 0.5) * wide - 0.5,
                (r + 0.5) * high - 0.5,
                int(token),
                ha="center",
                va="center",
                fontsize=6.5,
                color=INK,
            )
    fig.tight_layout()
    return fig


def cover(image, start: int, length: int, grid: tuple[int, int], dim: float = 0.72):
    """The picture with everything but tokens [start, start + length) faded: float [H, W, 3] in 0..1."""
    mask = np.zeros(grid[0] * grid[1], bool)
    mask[start : start + length] = True
    mask = mask.reshape(grid).repeat(image.shape[0] // grid[0], 0).repeat(image.shape[1] // grid[1], 1)[..., None]
    picture = image / 255.0
    return np.where(mask, picture, picture * (1 - dim) + dim * 0.94)


def windows_of(image, lengths, grid: tuple[int, int], at: float = 0.5):
    """What one window of each length covers, `at` a share of the way through the picture. Returns the figure."""
    import matplotlib.pyplot as plt

    total = grid[0] * grid[1]
    fig, axes = plt.subplots(1, len(lengths), figsize=(1.75 * len(lengths), 2.2), squeeze=False)
    for axis, length in zip(axes[0], lengths):
        start = min(int(at * total) // length * length, total - length)
        axis.imshow(cover(image, start, length, grid), interpolation="nearest")
        _bare(axis, f"{length} of {total} tokens\n({100 * length / total:.0f} %, {length / grid[1]:.3g} rows)")
    fig.tight_layout()
    return fig


def token_maps(images, values, grid: tuple[int, int], titles, label: str, own_scale: bool = False):
    """Pictures above, a value per token below; one colour scale for all maps, or each up to its own maximum. values:
    float [N, T]. Returns the figure."""
    import matplotlib.pyplot as plt

    values = np.asarray(values, float).reshape(len(images), *grid)
    if own_scale:
        values = values / values.max((1, 2), keepdims=True)
    fig, axes = plt.subplots(
        2, len(images), figsize=(1.7 * len(images) + 0.9, 3.7), squeeze=False, layout="constrained"
    )
    for axis, image, title in zip(axes[0], images, titles):
        axis.imshow(image, interpolation="nearest")
        _bare(axis, title)
    for axis, value in zip(axes[1], values):
        shown = axis.imshow(value, cmap="cividis", vmin=0, vmax=values.max())
        _bare(axis)
    fig.colorbar(shown, ax=axes[1].tolist(), label=label, shrink=0.9)
    return fig


def growing(image, grid: tuple[int, int], steps: int = 6):
    """The picture as its rows arrive: a list of uint8 pictures whose undrawn part is pale grey, and their titles."""
    total = grid[0] * grid[1]
    done = [round(total * (i + 1) / steps) for i in range(steps)]
    return [(cover(image, 0, n, grid, dim=1.0) * 255).astype(np.uint8) for n in done], [f"{n} tokens" for n in done]


def training_run(rows: list[dict], threshold: float, gate: str = "window"):
    """Loss of every window of a run in the order of training (`metrics.jsonl`), skipped ones hollow, the threshold as a
    line. Returns the figure."""
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(7.6, 3.1))
    loss, trained = np.array([r["loss"] for r in rows]), np.array([r["trained"] for r in rows])
    x = np.arange(len(rows))
    axis.scatter(x[trained], loss[trained], s=7, color=PALETTE[0], label=f"trained on ({trained.sum()})")
    if (~trained).any():
        axis.scatter(
            x[~trained],
            loss[~trained],
            s=12,
            facecolors="none",
            edgecolors=AFTER,
            label=f"skipped ({(~trained).sum()})",
        )
    if threshold > 0:
        axis.axhline(
            threshold, color=AFTER, linestyle="--", linewidth=1.2, label=f"threshold μ = {threshold:g} on a {gate}"
        )
    lessons = max(r["lesson"] for r in rows) + 1
    axis.set(
        yscale="log", xlabel=f"window, in the order of training ({lessons} prompt pairs)", ylabel="loss of the window"
    )
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8)
    return fig
