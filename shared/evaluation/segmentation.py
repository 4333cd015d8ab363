"""What is counted of segmented images, and the metrics that follow from the counts.

Promises
- Measured on the plan's preprocessed image, class by class without the background (class 0), each voxel decided by the
  largest score.
- A case enters a mean only where the measure is defined for it. How often it was defined is counted with it, so means,
  standard deviations and the pooled Dice are functions of sums.
- A measure of one case is rounded once to 2**-20: a mean differs by at most 5e-7 from that of unrounded values.

With one foreground class metrics are called ``dice`` and so on. With several, ``dice_<class>`` is the mean over cases
of one class, and ``dice`` the macro mean of these over classes.

===========  =============================================  ===============  ================  ================
measure      formula (P prediction, T truth)                both empty       only T empty      only P empty
===========  =============================================  ===============  ================  ================
dice         2 |P & T| / (|P| + |T|)  (Dice 1945)           not counted      0                 0
iou          |P & T| / |P | T|  (Jaccard 1912)              not counted      0                 0
precision    |P & T| / |P|                                  not counted      0                 0
recall       |P & T| / |T|                                  not counted      not counted       0
hd95         ``surface.agreement``, in mm                   not counted      image diagonal    image diagonal
nsd          ``surface.agreement`` at ``TOLERANCE_MM``      not counted      0                 0
dice_micro   dice of voxels summed over cases and classes   (NaN if no voxel of either in any case)
===========  =============================================  ===============  ================  ================

Both empty is not counted, as in nnU-Net's evaluation (Isensee et al., Nature Methods 2021) and MONAI: a Dice of 1 there
would let the share of healthy patients decide which site looks best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.additive import UNIT, IntArray, Observation, Schema, in_units
from shared.evaluation.surface import agreement
from shared.evaluation.undetermined import FloatArray, named, ratio

TOLERANCE_MM = 2.0
"""Deviation of a surface that counts as agreement. Pixels where an image does not know its spacing (1.0 per axis)."""

MEASURES = ("dice", "iou", "precision", "recall", "hd95", "nsd")
DICE_BINS = 100

VOXELS = "voxels"
DEFINED = "defined"
SUMS = "sums"
SQUARES = "squares"
DICE_HISTOGRAM = "dice-histogram"

Labels = NDArray[np.integer]
"""Class indices, shape (H, W) or (D, H, W)."""


def schema(classes: int) -> Schema:
    """Counts of K classes: F = K - 1 rows, one for each class but the background."""
    foreground = classes - 1
    moments = (foreground, len(MEASURES))
    return Schema(
        f"segmentation-1, surface tolerance {TOLERANCE_MM:g} mm",
        (
            (VOXELS, (foreground, 3)),
            (DEFINED, moments),
            (SUMS, moments),
            (SQUARES, moments),
            (DICE_HISTOGRAM, (foreground, DICE_BINS)),
        ),
    )


def limits(names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """The range of each metric by name: distances have no upper limit, all others are proportions."""
    return {name: (0.0, float("inf") if name.startswith("hd95") else 1.0) for name in names}


def voxel_counts(prediction: Labels, truth: Labels, classes: int) -> IntArray:
    """Voxels of P & T, of P and of T for each foreground class, shape (F, 3)."""
    pairs = truth.astype(np.intp).ravel() * classes + prediction.ravel()
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    counts = np.stack([confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)], axis=-1)
    return counts[1:].astype(np.int64)


def overlap(counts: IntArray) -> dict[str, FloatArray]:
    """The four overlap measures, each of shape (F,), from ``voxel_counts``."""
    both, predicted, true = counts.T
    precision = ratio(both, predicted)
    precision[(predicted == 0) & (true > 0)] = 0.0
    return {
        "dice": ratio(2 * both, predicted + true),
        "iou": ratio(both, predicted + true - both),
        "precision": precision,
        "recall": ratio(both, true),
    }


def observe(prediction: Labels, truth: Labels, spacing_mm: tuple[float, ...], classes: int) -> Observation:
    """One case's contribution; prediction and truth hold class indices below ``classes``."""
    counts = voxel_counts(prediction, truth, classes)
    measured = overlap(counts) | _surfaces(prediction, truth, spacing_mm, classes)
    values = np.stack([measured[name] for name in MEASURES], axis=-1)
    defined = ~np.isnan(values)
    return {
        VOXELS: counts,
        DEFINED: defined.astype(np.int64),
        SUMS: _rounded(np.where(defined, values, 0.0)),
        SQUARES: _rounded(np.where(defined, values, 0.0) ** 2),
        DICE_HISTOGRAM: _dice_bins(counts),
    }


def metrics(counts: Mapping[str, IntArray], classes: Sequence[str]) -> dict[str, float]:
    """Metrics from summed counts; ``classes`` are the names of the foreground classes."""
    both, predicted, true = counts[VOXELS].sum(axis=0)
    means = ratio(counts[SUMS] * UNIT, counts[DEFINED])
    return {**named(_by_measure(means), classes), "dice_micro": float(ratio(2 * both, predicted + true))}


def standard_deviations(counts: Mapping[str, IntArray], classes: Sequence[str]) -> dict[str, float]:
    """Standard deviation over cases (n - 1) of each measure; the macro mean of them where there are several classes."""
    number, total = counts[DEFINED], counts[SUMS] * UNIT
    # Rounding of sums to the grid can push a variance of exactly 0 below it.
    squares = np.maximum(counts[SQUARES] * UNIT - ratio(total**2, number), 0.0)
    return named(_by_measure(np.sqrt(ratio(squares, np.maximum(number - 1, 0)))), classes)


def _by_measure(values: FloatArray) -> dict[str, FloatArray]:
    return dict(zip(MEASURES, values.T, strict=True))


def _surfaces(prediction: Labels, truth: Labels, spacing_mm: tuple[float, ...], classes: int) -> dict[str, FloatArray]:
    found = [agreement(prediction == c, truth == c, spacing_mm, TOLERANCE_MM) for c in range(1, classes)]
    return {"hd95": np.array([of.hd95_mm for of in found]), "nsd": np.array([of.nsd for of in found])}


def _rounded(values: FloatArray) -> IntArray:
    return np.array([[in_units(value) for value in row] for row in values.tolist()], np.int64)


def _dice_bins(counts: IntArray) -> IntArray:
    """One-hot bins of Dice, shape (F, DICE_BINS): bin i holds i % <= Dice < (i + 1) %, and the last one also 100 %."""
    both, voxels = counts[:, 0], counts[:, 1] + counts[:, 2]
    bins = np.minimum(2 * both * DICE_BINS // np.maximum(voxels, 1), DICE_BINS - 1)
    counts_in_bins = np.zeros((len(counts), DICE_BINS), np.int64)
    counts_in_bins[np.arange(len(counts)), bins] = voxels > 0
    return counts_in_bins
