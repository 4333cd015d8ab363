"""Predictions and truths of several cases side by side, class by class, cut to where either of them shows something.

Promises
- Cutting changes no measure: all that is cut away is background in both, and whatever lies beyond the edge counts as
  background (``surface``). Measures of a small lesion in a large volume then cost what the lesion costs.
- Cases of one call share arrays, so that a small image costs no more calls than its share: each lies at the beginning
  of its own box, the rest of which is background. Nothing is measured across boxes.
- Voxels are counted in whole numbers. The diagonal is that of the uncut image.

``cut`` finds the boxes; what is then counted once, ``Masks``, is shared by overlap, surfaces, lesions and volumes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.additive import IntArray
from shared.evaluation.undetermined import FloatArray

Labels = NDArray[np.integer]
"""Class indices, shape (H, W) or (D, H, W)."""

Mask = NDArray[np.bool_]
IndexArray = NDArray[np.intp]
Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """One class of N cases.

    Attributes:
        shown: shape (2, N, *box): predicted, then true. The outermost voxels of a box are background.
        places: where in ``shown`` laid flat the class is, in order.
        shared: where in the predictions (or the truths) laid flat both show it.
    """

    shown: Mask
    places: IndexArray
    shared: IndexArray

    @property
    def cases(self) -> int:
        """Number of cases."""
        return int(self.shown.shape[1])

    @property
    def voxels(self) -> int:
        """Of one box, margin included."""
        return math.prod(self.shown.shape[2:])

    def counts(self) -> IntArray:
        """Voxels of P & T, of P and of T, shape (N, 3)."""
        predicted, true = per_box(self.places, 2 * self.cases, self.voxels).reshape(2, -1)
        return np.stack([per_box(self.shared, self.cases, self.voxels), predicted, true], axis=-1)


@dataclass(frozen=True, slots=True, eq=False)
class LabelMaps:
    """N cases, class by class.

    Attributes:
        masks: of each class but the background.
        spacings_mm: shape (N, axes); 1.0 each where an image does not know it, and millimetres are then pixels.
        diagonals_mm: of the uncut images, shape (N,).
    """

    masks: tuple[Masks, ...]
    spacings_mm: FloatArray
    diagonals_mm: FloatArray

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return int(self.spacings_mm.shape[1])

    @property
    def voxel_sizes(self) -> FloatArray:
        """Area of a pixel in mm2, or volume of a voxel in mm3, of each case."""
        return np.array([math.prod(spacing_mm) for spacing_mm in self.spacings_mm.tolist()])


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Prediction and truth of one case, class indices on one grid, and the spacing of its axes."""

    prediction: Labels
    truth: Labels
    spacing_mm: tuple[float, ...]


def cut(pairs: Sequence[Pair], classes: int) -> LabelMaps:
    """Each class below ``classes`` in boxes that hold it; at least one pair, all of as many axes."""
    smallest = np.min_scalar_type(classes - 1)
    cuts = [_cut(pair, smallest) for pair in pairs]
    largest = np.max([one.shape[1:] for one in cuts], axis=0).tolist()
    stacked = np.zeros((2, len(cuts), *largest), smallest)
    for case, one in enumerate(cuts):
        within: tuple[slice | int, ...] = (slice(None), case, *map(slice, one.shape[1:]))
        stacked[within] = one
    diagonals_mm = [
        math.hypot(*(edge * mm for edge, mm in zip(pair.truth.shape, pair.spacing_mm, strict=True))) for pair in pairs
    ]
    spacings_mm = np.array([pair.spacing_mm for pair in pairs], np.float64)
    masks = tuple(_masks(stacked == label) for label in range(1, classes))
    return LabelMaps(masks, spacings_mm, np.array(diagonals_mm))


def per_box(places: IndexArray, boxes: int, voxels: int) -> IntArray:
    """How many of the rising ``places`` are in each of ``boxes`` boxes of ``voxels`` voxels, laid flat one by one."""
    return np.diff(places.searchsorted(np.arange(boxes + 1) * voxels)).astype(np.int64)


def voxel_counts(prediction: Labels, truth: Labels, classes: int) -> IntArray:
    """Voxels of P & T, of P and of T for each foreground class, shape (F, 3)."""
    shown = ((prediction == label, truth == label) for label in range(1, classes))
    counts = [[np.count_nonzero(mask) for mask in (found & true, found, true)] for found, true in shown]
    return np.array(counts, np.int64)


def _cut(pair: Pair, smallest: np.dtype[np.integer]) -> Labels:
    """Prediction and truth within the smallest box that holds the foreground of either, shape (2, *box)."""
    box = _box((pair.prediction | pair.truth) != 0)
    return np.stack([pair.prediction[box], pair.truth[box]]).astype(smallest, copy=False)


def _box(shown: Mask) -> Box:
    """The smallest box around all that is shown; of no voxel where nothing is."""
    box: list[slice] = []
    while shown.ndim:
        rows = np.flatnonzero(shown.reshape(len(shown), -1).any(axis=1) if shown.size else ())
        box.append(slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0))
        shown = np.bitwise_or.reduce(shown[box[-1]], axis=0)
    return tuple(box)


def _masks(shown: Mask) -> Masks:
    """Masks of shape (2, N, *S) within the smallest box that holds all of them, with a margin."""
    box = _box(np.bitwise_or.reduce(shown, axis=(0, 1)))
    within = (slice(None), slice(None), *box)
    edges = [side.stop - side.start + 2 for side in box]
    padded = np.zeros((*shown.shape[:2], *edges), bool)
    inside = (slice(None), slice(None), *[slice(1, -1)] * len(box))
    padded[inside] = shown[within]
    return Masks(padded, np.flatnonzero(padded), np.flatnonzero(padded[0] & padded[1]))
