"""The contact sheet of MiniWorld: every object in every style. `python -m earlib.miniworld.sheet` writes the README's
picture."""

from __future__ import annotations

import numpy as np

from .. import ROOT
from .scenes import OBJECTS, SIZE, STYLES, VARIANTS, Scenes, render


def contact_sheet(places: int = 3) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 [N, 48, 48, 3], an object a row, each style in so many places, and the rows' labels; colours and
    positions vary."""
    cells = [
        (o, s, (o + 2 * s + k * 2) % 5, k)
        for o in range(len(OBJECTS))
        for s in range(len(STYLES))
        for k in range(places)
    ]
    o, s, p, k = np.array(cells).T
    none = np.full(len(o), -1)
    scenes = Scenes(
        object=o,
        colour=(3 * o + s + 2 * k) % 5,
        place=p,
        style=s,
        object2=none,
        colour2=none,
        position=(o + k) % 3,
        flip=(s + k) % 2,
        variant=(o + s + k) % VARIANTS,
    )
    return render(scenes), list(OBJECTS)


def main() -> None:
    from PIL import Image

    images, rows = contact_sheet()
    columns = len(images) // len(rows)
    gap, zoom = 2, 2
    page = np.full((len(rows) * (SIZE + gap) - gap, columns * (SIZE + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        r, c = divmod(i, columns)
        page[r * (SIZE + gap) :][:SIZE, c * (SIZE + gap) :][:, :SIZE] = image
    file = ROOT / "book" / "images" / "miniworld.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(page.repeat(zoom, 0).repeat(zoom, 1)).quantize(255).save(file, optimize=True)
    print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
