"""Class indices from whatever numbers a mask file holds.

Promises
- ``class_indices`` returns uint8. Whole numbers from 0 to ``MAX_CLASSES - 1`` are class indices as they stand, also
  where a class in between has no voxel in this mask; 0 and 255 alone are background and the one other class.
- Everything else (a greyscale drawing, soft edges, lossy compression) is refused as "mask-values", not rounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.preprocessing.image import MaskArray

MAX_CLASSES = 64
"""From here on, a number in a mask is taken for a grey value, not for a class."""

_WHITE = 255


def class_indices(values: NDArray[np.generic]) -> MaskArray:
    """Class index of each voxel, in the shape of ``values``.

    Raises:
        CaseError: "mask-values".
    """
    # Cast first and compare after: counting bytes is a hundred times faster than sorting a volume for its values.
    with np.errstate(invalid="ignore"):
        indices = values.astype(np.uint8)
    present = np.flatnonzero(np.bincount(indices.ravel()))
    whole = bool((indices == values).all())
    if whole and present[-1] == _WHITE and np.isin(present, (0, _WHITE)).all():
        return np.asarray(indices == _WHITE, np.uint8)
    if not whole or present[-1] >= MAX_CLASSES:
        raise CaseError(
            f"the mask holds {np.unique(values).size} different values that are not all class indices",
            hint=f"use 0 and 255, or class indices from 0 to {MAX_CLASSES - 1}, without smoothing or lossy compression",
            code="mask-values",
        )
    return indices


def require_same_shape(mask: Sequence[int], image: Sequence[int]) -> None:
    """Raise ``CaseError`` ("mask-shape") unless the spatial shapes agree."""
    if tuple(mask) != tuple(image):
        raise CaseError(
            f"expected a mask of shape {tuple(image)} like its image, got {tuple(mask)}",
            hint="check that the mask belongs to this image",
            code="mask-shape",
        )
