"""Lesions found, missed and invented: detection counted lesion by lesion, not voxel by voxel.

Promises
- A lesion is a connected component of one class: voxels that share a face, an edge or a corner belong together (8
  neighbours in 2-D, 26 in 3-D), in truth and prediction alike.
- A predicted lesion can stand for a true one if their IoU is at least ``MIN_IOU``, compared in whole numbers. Each
  stands for one at most: pairs are taken by falling IoU, equal ones in reading order of the true, then the predicted
  lesion. What is left over is missed (true) or a false positive (predicted).
- Lesions are sorted by size into public bands of equivalent diameter, the diameter of the disc or ball of the same
  size: true ones by the true size, false positives by the predicted one.
- Time is that of labelling the maps and of one pass over overlapping pairs, at most ten for a true lesion: a map of
  noise with ten thousand components is counted, not searched pair by pair.

A low IoU and one-to-one assignment: "Metrics reloaded" (Maier-Hein et al., Nature Methods 2024), for tasks in which
finding matters more than outlining. 0.1 is customary in medical detection (Jaeger et al., ML4H 2019; PI-CAI, Saha et
al., Lancet Oncology 2024). A rule of one common voxel would reward a prediction that covers everything.

=====================================  =========================================================================
situation                              what is counted
=====================================  =========================================================================
no lesion in truth, none predicted     nothing, but the case counts below false positives per case
no lesion in truth, some predicted     each is a false positive; F1 of the case 0, sensitivity not determined
lesions in truth, none predicted       each is missed; sensitivity and F1 of the case 0
true lesions of a class that touch     one lesion: a map of classes cannot tell them apart
prediction joins two true lesions      the one with the higher IoU is found, the other one missed
prediction splits a true lesion        the best part finds it if IoU allows; the other parts are false positives
one voxel                              a lesion like any other, in the lowest band
=====================================  =========================================================================

======================================  =======================================================================
metric                                  formula (found, missed, false positive)
======================================  =======================================================================
lesion_sensitivity                      found / true, mean over cases that have a true lesion
lesion_f1                               2 found / (2 found + missed + false), mean over cases that have any lesion
lesion_sensitivity_micro                found / true, lesions of all cases together
lesion_f1_micro                         as ``lesion_f1``, lesions of all cases together
lesion_dice_micro                       mean over true lesions of the Dice with what found it; missed ones count 0
lesion_false_positives_per_case         false positives / cases, healthy cases too
======================================  =======================================================================

``lesion_sensitivity_micro``, ``lesion_dice_micro`` and false positives are also given by band, as in
``lesion_dice_micro_3_to_6mm``. Without the name of a class behind them, ``_micro`` and false positives are summed over
classes, and the two means over cases are macro means. For a class that is one organ or one vessel tree, read all of
them as a count of fragments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared.evaluation.additive import CASES, IntArray, Observation
from shared.evaluation.label_maps import LabelMaps, Mask, Masks, Pair, cut
from shared.evaluation.micro import named_totals, totals
from shared.evaluation.undetermined import FloatArray, named, ratio

MIN_IOU = (1, 10)
"""Numerator and denominator of the smallest IoU that counts as found."""

BANDS_MM = (3.0, 6.0, 10.0, 20.0)
"""Equivalent diameters at which a band ends; a lesion of exactly that diameter is in the band above."""

BANDS = ("under_3mm", "3_to_6mm", "6_to_10mm", "10_to_20mm", "over_20mm")

LESIONS = "lesions"
DICE = "lesions-dice"
CASE_DEFINED = "lesions-case-defined"
CASE_SUMS = "lesions-case-sums"

FINE = 2.0**-32
"""Unit of sums of proportions: each is rounded by at most 1.2e-10, and 10**9 of them fit."""

RANGES: Mapping[str, tuple[float, float]] = {"lesion_false_positives_per_case": (0.0, math.inf)}
"""Range of each measure that is no proportion, by the beginning of its name."""

_DENSE = 2**18
"""Pairs of components up to which a full table of overlaps is cheaper than sorting."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Lesions of one class in N cases, case by case in reading order of their first voxel.

    Attributes:
        true_voxels: size of each true lesion.
        predicted_voxels: size of each predicted lesion.
        dice: of each true lesion with the predicted one that found it; 0 if it was missed.
        false: whether a predicted lesion is a false positive.
        true_cases: case of each true lesion, from 0.
        predicted_cases: case of each predicted lesion.
    """

    true_voxels: IntArray
    predicted_voxels: IntArray
    dice: FloatArray
    false: Mask
    true_cases: IntArray
    predicted_cases: IntArray

    @property
    def found(self) -> Mask:
        """Whether a true lesion was found."""
        return self.dice > 0


def shapes(foreground: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes of what a case adds: by band true, found and false; Dice by band; two means over cases."""
    by_band = (foreground, len(BANDS))
    return (LESIONS, (*by_band, 3)), (DICE, by_band), (CASE_DEFINED, (foreground, 2)), (CASE_SUMS, (foreground, 2))


def observe(maps: LabelMaps) -> Observation:
    """Contributions of N cases, each array with a leading axis of cases."""
    counted = [_by_band(matches(masks), maps.voxel_sizes, maps.dimensions) for masks in maps.masks]
    numbers, dice = (np.stack(of, axis=1) for of in zip(*counted, strict=True))
    true, hits, false = np.moveaxis(numbers.sum(axis=2), -1, 0)
    means = np.stack([ratio(hits, true), _f1(true, hits, false)], axis=-1)
    defined = ~np.isnan(means)
    return {
        LESIONS: numbers,
        DICE: dice,
        CASE_DEFINED: defined.astype(np.int64),
        CASE_SUMS: np.rint(np.where(defined, means, 0.0) / FINE).astype(np.int64),
    }


def match(prediction: Mask, truth: Mask) -> Matches:
    """Lesions of two masks of one shape, (H, W) or (D, H, W), and which found which."""
    pair = Pair(prediction.view(np.uint8), truth.view(np.uint8), (1.0,) * truth.ndim)
    return matches(cut([pair], 2).masks[0])


def matches(masks: Masks) -> Matches:
    """Lesions of one class in each case, and which found which."""
    if not len(masks.places):
        nothing = np.zeros(0, np.int64)
        return Matches(nothing, nothing, np.zeros(0), np.zeros(0, bool), nothing, nothing)
    lesions = _Lesions.of(masks)
    predictions = lesions.predictions
    predicted_voxels, true_voxels = np.split(lesions.voxels, [predictions])
    predicted_cases, true_cases = np.split(lesions.cases, [predictions])
    table = _overlaps(masks, lesions)
    either = true_voxels[table.true] + predicted_voxels[table.predicted] - table.both
    pairs = _assigned(table.where(table.both * MIN_IOU[1] >= either * MIN_IOU[0]), true_voxels, predicted_voxels)
    dice, false = np.zeros(len(true_voxels)), np.ones(predictions, bool)
    dice[pairs.true] = 2 * pairs.both / (true_voxels[pairs.true] + predicted_voxels[pairs.predicted])
    false[pairs.predicted] = False
    return Matches(true_voxels, predicted_voxels, dice, false, true_cases, predicted_cases)


def metrics(counts: Mapping[str, IntArray], classes: Sequence[str]) -> dict[str, float]:
    """Metrics from summed counts, ``additive.CASES`` among them; ``classes`` are names of the foreground classes."""
    lesions, dice, cases = totals(counts[LESIONS]), totals(counts[DICE]) * FINE, int(counts[CASES])
    by_band = {f"_{band}": (lesions[:, row], dice[:, row]) for row, band in enumerate(BANDS)}
    together = lesions.sum(axis=1), dice.sum(axis=1)
    pooled = {"lesion_f1_micro": _f1(*together[0].T)}
    for ending, (numbers, overlap) in {"": together, **by_band}.items():
        true, found, false = numbers.T
        pooled[f"lesion_sensitivity_micro{ending}"] = ratio(found, true)
        pooled[f"lesion_dice_micro{ending}"] = ratio(overlap, true)
        pooled[f"lesion_false_positives_per_case{ending}"] = ratio(false, np.full(len(false), cases))
    sensitivity, f1 = ratio(counts[CASE_SUMS] * FINE, counts[CASE_DEFINED]).T
    return named({"lesion_sensitivity": sensitivity, "lesion_f1": f1}, classes) | named_totals(pooled, classes)


def bands_of(voxels: IntArray, voxel_size: float | FloatArray, dimensions: int) -> IntArray:
    """Band of each lesion from its number of voxels and the size of one in mm2 or mm3."""
    factor = math.pi / (4 if dimensions == 2 else 6)
    # Sizes are compared, not diameters: a root may differ in its last digit from machine to machine.
    return np.searchsorted([factor * edge**dimensions for edge in BANDS_MM], voxels * voxel_size, side="right")


@dataclass(frozen=True, slots=True, eq=False)
class _Lesions:
    """Connected components of all cases, numbered from 0: first those of the predictions, then the true ones.

    Attributes:
        numbers: shape (2, N, *box), from 1; 0 is background.
        voxels: size of each lesion.
        cases: case of each lesion.
        predictions: how many are predicted.
    """

    numbers: NDArray[np.int32]
    voxels: IntArray
    cases: IntArray
    predictions: int

    @classmethod
    def of(cls, masks: Masks) -> _Lesions:
        axes = masks.shown.ndim - 2
        connected = np.zeros((3,) * (axes + 1), bool)
        connected[1] = True
        flat = masks.shown.reshape(-1, *masks.shown.shape[2:])
        numbers = np.zeros(flat.shape, np.int32)
        count = int(ndimage.label(flat, connected, output=numbers))
        which = numbers.ravel()[masks.places] - 1
        rows = np.zeros(count, np.int64)
        rows[which] = masks.places // masks.voxels
        voxels = np.bincount(which, minlength=count)
        predictions = int(np.count_nonzero(rows < masks.cases))
        return cls(numbers.reshape(masks.shown.shape), voxels, rows % masks.cases, predictions)


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Overlapping lesions: indices from 0 of a true and a predicted one, and their common voxels."""

    true: IntArray
    predicted: IntArray
    both: IntArray

    def where(self, chosen: Mask | IntArray) -> _Pairs:
        return _Pairs(self.true[chosen], self.predicted[chosen], self.both[chosen])


def _overlaps(masks: Masks, lesions: _Lesions) -> _Pairs:
    """All overlapping pairs, in order of the true, then the predicted lesion."""
    predicted, true = (side.ravel()[masks.shared].astype(np.int64) - 1 for side in lesions.numbers)
    keys = (true - lesions.predictions) * lesions.predictions + predicted
    if (len(lesions.voxels) - lesions.predictions) * lesions.predictions <= _DENSE:
        table = np.bincount(keys)
        codes = np.flatnonzero(table)
        both = table[codes]
    else:
        codes, both = np.unique(keys, return_counts=True)
    of_true, of_predicted = np.divmod(codes, max(lesions.predictions, 1))
    return _Pairs(of_true, of_predicted, both)


def _assigned(near: _Pairs, true_voxels: IntArray, predicted_voxels: IntArray) -> _Pairs:
    """One-to-one pairs by falling IoU; of equal ones, those that come first."""
    if len(set(near.true.tolist())) == len(near.true) == len(set(near.predicted.tolist())):
        return near
    either = true_voxels[near.true] + predicted_voxels[near.predicted] - near.both
    chosen: list[int] = []
    taken_true: set[int] = set()
    taken_predicted: set[int] = set()
    ranked = near.where(np.argsort(-near.both / either, kind="stable"))
    for place, (true, predicted) in enumerate(zip(ranked.true.tolist(), ranked.predicted.tolist(), strict=True)):
        if true not in taken_true and predicted not in taken_predicted:
            taken_true.add(true)
            taken_predicted.add(predicted)
            chosen.append(place)
    return ranked.where(np.array(chosen))


def _by_band(of: Matches, voxel_sizes: FloatArray, dimensions: int) -> tuple[IntArray, IntArray]:
    """True, found and false lesions by case and band, shape (N, B, 3), and their Dice, shape (N, B)."""
    shape = len(voxel_sizes), len(BANDS)

    def cells(voxels: IntArray, cases: IntArray) -> IntArray:
        return cases * len(BANDS) + bands_of(voxels, voxel_sizes[cases], dimensions)

    def summed(cells: IntArray, weights: FloatArray | None = None) -> IntArray:
        return np.bincount(cells, weights, math.prod(shape)).reshape(shape).astype(np.int64)

    true, invented = cells(of.true_voxels, of.true_cases), cells(of.predicted_voxels, of.predicted_cases)[of.false]
    numbers = np.stack([summed(true), summed(true[of.found]), summed(invented)], axis=-1)
    return numbers, summed(true, np.rint(of.dice / FINE))


def _f1(true: IntArray, found: IntArray, false: IntArray) -> FloatArray:
    return ratio(2 * found, true + found + false)
