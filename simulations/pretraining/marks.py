"""What stands on a screen beside the image: callipers, letters, scales. None of it tells anything of the diagnosis.

Promises
- ``burned_in`` never changes shape, and draws every mark without regard to what the lesion is, only to where it lies.
"""

from __future__ import annotations

import numpy as np

from shared.preprocessing.image import MaskArray
from simulations.pretraining.fields import Field

_LETTER = (6, 4)


def burned_in(rng: np.random.Generator, grey: Field, mask: MaskArray) -> Field:
    """``grey`` (H, W) with the marks that somebody may have left: about half of all images have one."""
    marked = grey.copy()
    if rng.random() < 0.3:
        _callipers(rng, marked, mask)
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.5 else 0):
        _line_of_letters(rng, marked)
    if rng.random() < 0.2:
        _scale(rng, marked)
    return marked


def _callipers(rng: np.random.Generator, grey: Field, mask: MaskArray) -> None:
    """Crosses at the lesion's four extremes, or at two of them, give or take a slip of the hand."""
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return
    middle = int(rows.mean()), int(columns.mean())
    ends = [
        (rows.min(), middle[1]),
        (rows.max(), middle[1]),
        (middle[0], columns.min()),
        (middle[0], columns.max()),
    ]
    arm, level = int(rng.integers(2, 4)), rng.uniform(0.7, 1.0)
    for row, column in ends[: 4 if rng.random() < 0.7 else 2]:
        at = int(row + rng.integers(-3, 4)), int(column + rng.integers(-3, 4))
        if arm <= at[0] < grey.shape[0] - arm and arm <= at[1] < grey.shape[1] - arm:
            grey[at[0] - arm : at[0] + arm + 1, at[1]] = level
            grey[at[0], at[1] - arm : at[1] + arm + 1] = level


def _line_of_letters(rng: np.random.Generator, grey: Field) -> None:
    """Random bitmaps the size of letters: to a network that cannot read they are writing."""
    height, width = _LETTER
    row = int(rng.integers(0, grey.shape[0] - height))
    column, level = int(rng.integers(0, grey.shape[1] // 2)), rng.uniform(0.6, 1.0)
    for _ in range(int(rng.integers(2, 14))):
        if column + width >= grey.shape[1]:
            return
        strokes = rng.random((height, width - 1)) < 0.6
        grey[row : row + height, column : column + width - 1][strokes] = level
        column += width if rng.random() < 0.85 else 2 * width


def _scale(rng: np.random.Generator, grey: Field) -> None:
    """Ticks down one side."""
    column = int(rng.choice([1, grey.shape[1] - 4]))
    step = int(rng.integers(8, 40))
    for row in range(int(rng.integers(0, step)), grey.shape[0] - 1, step):
        grey[row : row + 2, column : column + 2] = 0.8
