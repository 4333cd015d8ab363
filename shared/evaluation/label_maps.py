"""Prediction and truth of one case side by side, cut to where either of them shows something.

Promises
- Cutting changes no measure: all that is cut away is background in both, and whatever lies beyond the edge counts as
  background (``surface``). Measures of a small lesion in a large volume then cost what the lesion costs.
- Voxels are counted in whole numbers. The diagonal is that of the uncut image.

A case without any foreground is cut to nothing: both maps have no voxel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.additive import IntArray

Labels = NDArray[np.integer]
"""Class indices, shape (H, W) or (D, H, W)."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelMaps:
    """Class indices below ``classes``, predicted and true, on one grid.

    Attributes:
        prediction: shape (H, W) or (D, H, W), after cutting.
        truth: of the same shape.
        spacing_mm: one entry per axis; 1.0 each where an image does not know it, and millimetres are then pixels.
        classes: number of classes with the background, which is class 0.
        diagonal_mm: of the uncut image.
    """

    prediction: Labels
    truth: Labels
    spacing_mm: tuple[float, ...]
    classes: int
    diagonal_mm: float

    @property
    def voxel_size(self) -> float:
        """Area of a pixel in mm2, or volume of a voxel in mm3."""
        return math.prod(self.spacing_mm)


def cut(prediction: Labels, truth: Labels, spacing_mm: tuple[float, ...], classes: int) -> LabelMaps:
    """Both maps cut to the smallest box that holds the foreground of either."""
    diagonal_mm = math.hypot(*(n * mm for n, mm in zip(truth.shape, spacing_mm, strict=True)))
    box: tuple[slice, ...] = ()
    shown = (prediction | truth) != 0
    for axis in range(truth.ndim):
        part = shown[box]
        where = np.flatnonzero(part.any(axis=tuple(other for other in range(truth.ndim) if other != axis)))
        box += (slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0),)
    smallest = np.min_scalar_type(classes - 1)
    found, wanted = (labels[box].astype(smallest) for labels in (prediction, truth))
    return LabelMaps(found, wanted, spacing_mm, classes, diagonal_mm)


def voxel_counts(prediction: Labels, truth: Labels, classes: int) -> IntArray:
    """Voxels of P & T, of P and of T for each foreground class, shape (F, 3)."""
    pairs = truth.astype(np.intp).ravel() * classes + prediction.ravel()
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    counts = np.stack([confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)], axis=-1)
    return counts[1:].astype(np.int64)
