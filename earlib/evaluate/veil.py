"""Safe by default: pictures of explicit concepts are blurred before anybody sees or keeps them. One function, for
reports and notebooks alike."""

from __future__ import annotations

import numpy as np

from .judges import Judge, check_images, load_judge

# a blurred picture is what is left of so many cells a side, fewer if it is small: colours and a rough layout, no body
CELLS = 8


def must_veil(concept, profile: str) -> bool:
    """Are pictures of `concept` to be blurred where the judge sees it: those of kind "content", of any model but
    MiniWorld's, whose figures are pictograms."""
    return (concept.kind == "content" or concept.judge["name"] == "nudenet") and not profile.startswith("mini")


def veil(
    images: np.ndarray, concept, profile: str, show_explicit: bool = False, judge: Judge | None = None
) -> np.ndarray:
    """`images` (uint8 [N, H, W, 3]) as they may be shown: those in which the concept's judge fires are blurred, if
    `must_veil`.

    NudeNet fires here at any detection, whatever score its threshold asks for. `show_explicit=True` shows everything: a
    person must set it, knowing what may be seen. `judge` spares loading the concept's own again.
    """
    check_images(images)
    if show_explicit or not must_veil(concept, profile) or not len(images):
        return images
    if concept.judge["name"] == "nudenet":
        judge = load_judge(concept.judge | {"threshold": 0.0})
    fires = (judge or load_judge(concept.judge)).shows(images)
    return np.stack([blurred(image) if fire else image for image, fire in zip(images, fires)])


def blurred(image: np.ndarray) -> np.ndarray:
    """One picture, uint8 [H, W, 3], reduced to 8 x 8 cells of at least 8 pixels and enlarged again: nothing of it can
    be restored."""
    from PIL import Image

    height, width = (max(1, min(CELLS, side // 8)) for side in image.shape[:2])
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small.resize((image.shape[1], image.shape[0]), Image.Resampling.BICUBIC))
