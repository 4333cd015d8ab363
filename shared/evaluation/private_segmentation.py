"""Segmentation where statistics get noise: the mean Dice of patients, and nothing that has no bound.

Promises
- A class is a block: a patient's Dice of that class, as weights on ``NODES`` values from 0 to 1, sent as count, first
  and second moment (``design.moments``). Weights are split between the two nearest nodes so that their mean is the Dice
  itself: the mean has no error by binning.
- Dice of an image follows ``shared.evaluation.segmentation``: an image that shows no voxel of the class in truth or
  prediction does not determine it. A patient's Dice is the mean over the images that do.
- ``dice`` is the mean over patients (of one class; of several, the macro mean). Each patient weighs the same.

Distances have no upper limit and voxel counts grow with the lesion: one patient could move their sums by any amount.
Other overlap measures would each add noise to this one. None of them is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.evaluation.design import Block, PrivateSchema, moments
from shared.evaluation.estimates import PATIENTS
from shared.evaluation.segmentation import Labels, overlap, voxel_counts
from shared.evaluation.undetermined import FloatArray, named_rows, ratio

NODES = 41
_VALUES: FloatArray = np.linspace(0.0, 1.0, NODES)


def schema(classes: int) -> PrivateSchema:
    """What leaves a site of K classes: three numbers for each class but the background."""
    blocks = tuple(Block(f"dice-{row}", moments(_VALUES)) for row in range(1, classes))
    return PrivateSchema("private-segmentation-1", blocks)


def observe(prediction: Labels, truth: Labels, classes: int) -> FloatArray:
    """Weights of one image; NaN for the block of a class that it does not determine."""
    return spread(overlap(voxel_counts(prediction, truth, classes))["dice"]).ravel()


def spread(dice: FloatArray) -> FloatArray:
    """Weights on nodes with the mean ``dice``: shape (F,) becomes (F, NODES), NaN where it is NaN."""
    position = dice[:, None] * (NODES - 1)
    return np.maximum(1.0 - np.abs(position - np.arange(NODES)), 0.0)


def metrics(cells: FloatArray, classes: Sequence[str]) -> dict[str, FloatArray]:
    """Mean Dice from cells (N, cells); ``classes`` are the names of the foreground classes."""
    weights = cells.reshape(len(cells), -1, NODES)
    patients = weights.sum(axis=-1)
    return {PATIENTS: patients.mean(axis=-1), **named_rows({"dice": ratio(weights @ _VALUES, patients)}, classes)}
