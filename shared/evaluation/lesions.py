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
from shared.evaluation.label_maps import LabelMaps, Labels
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

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Lesions of one class in one case, in reading order of their first voxel.

    Attributes:
        true_voxels: size of each true lesion.
        predicted_voxels: size of each predicted lesion.
        dice: of each true lesion with the predicted one that found it; 0 if it was missed.
        false: whether a predicted lesion is a false positive.
    """

    true_voxels: IntArray
    predicted_voxels: IntArray
    dice: FloatArray
    false: Mask

    @property
    def found(self) -> Mask:
        """Whether a true lesion was found."""
        return self.dice > 0


def shapes(foreground: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes of what a case adds: by band true, found and false; Dice by band; two means over cases."""
    by_band = (foreground, len(BANDS))
    return (LESIONS, (*by_band, 3)), (DICE, by_band), (CASE_DEFINED, (foreground, 2)), (CASE_SUMS, (foreground, 2))


def observe(maps: LabelMaps) -> Observation:
    """One case's contribution."""
    found = [_of_class(maps, label, box) for label, box in enumerate(_boxes(maps), start=1)]
    numbers, dice = _by_band(found, maps.voxel_size, maps.truth.ndim)
    true, hits, false = numbers.sum(axis=1).T
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
    connected = ndimage.generate_binary_structure(truth.ndim, truth.ndim)
    (true, trues), (predicted, predictions) = (ndimage.label(mask, connected) for mask in (truth, prediction))
    true_voxels = np.bincount(true.ravel(), minlength=trues + 1)[1:]
    predicted_voxels = np.bincount(predicted.ravel(), minlength=predictions + 1)[1:]
    table = _overlaps(true, predicted, predictions)
    either = true_voxels[table.true] + predicted_voxels[table.predicted] - table.both
    pairs = _assigned(table.where(table.both * MIN_IOU[1] >= either * MIN_IOU[0]), true_voxels, predicted_voxels)
    dice, false = np.zeros(trues), np.ones(predictions, bool)
    dice[pairs.true] = 2 * pairs.both / (true_voxels[pairs.true] + predicted_voxels[pairs.predicted])
    false[pairs.predicted] = False
    return Matches(true_voxels, predicted_voxels, dice, false)


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


def bands_of(voxels: IntArray, voxel_size: float, dimensions: int) -> IntArray:
    """Band of each lesion from its number of voxels and the size of one in mm2 or mm3."""
    factor = math.pi / (4 if dimensions == 2 else 6)
    # Sizes are compared, not diameters: a root may differ in its last digit from machine to machine.
    return np.searchsorted([factor * edge**dimensions for edge in BANDS_MM], voxels * voxel_size, side="right")


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Overlapping lesions: indices from 0 of a true and a predicted one, and their common voxels."""

    true: IntArray
    predicted: IntArray
    both: IntArray

    def where(self, chosen: Mask | IntArray) -> _Pairs:
        return _Pairs(self.true[chosen], self.predicted[chosen], self.both[chosen])


def _overlaps(true: Labels, predicted: Labels, predictions: int) -> _Pairs:
    """All overlapping pairs, in order of the true, then the predicted lesion."""
    shared = (true > 0) & (predicted > 0)
    keys = (true[shared].astype(np.int64) - 1) * predictions + (predicted[shared] - 1)
    if int(true.max(initial=0)) * predictions <= _DENSE:
        table = np.bincount(keys)
        codes = np.flatnonzero(table)
        both = table[codes]
    else:
        codes, both = np.unique(keys, return_counts=True)
    of_true, of_predicted = np.divmod(codes, max(predictions, 1))
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


def _boxes(maps: LabelMaps) -> list[tuple[slice, ...] | None]:
    """For each foreground class the smallest box that holds it in both maps; None where neither shows it."""
    foreground = maps.classes - 1
    if not maps.truth.size:
        return [None] * foreground
    boxes = zip(*(ndimage.find_objects(labels, foreground) for labels in (maps.prediction, maps.truth)), strict=True)
    return [_joined(one, other) for one, other in boxes]


def _joined(one: tuple[slice, ...] | None, other: tuple[slice, ...] | None) -> tuple[slice, ...] | None:
    if one is None or other is None:
        return one or other
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def _of_class(maps: LabelMaps, label: int, box: tuple[slice, ...] | None) -> Matches:
    if box is None:
        nothing = np.zeros(0, np.int64)
        return Matches(nothing, nothing, np.zeros(0), np.zeros(0, bool))
    return match(maps.prediction[box] == label, maps.truth[box] == label)


def _by_band(found: Sequence[Matches], voxel_size: float, dimensions: int) -> tuple[IntArray, IntArray]:
    """True, found and false lesions by class and band, shape (F, B, 3), and their Dice, shape (F, B)."""
    shape = len(found), len(BANDS)
    hit, false, dice = (np.concatenate([getattr(of, name) for of in found]) for name in ("found", "false", "dice"))

    def cells(by_class: Sequence[IntArray]) -> IntArray:
        rows = np.repeat(np.arange(len(by_class)), [len(voxels) for voxels in by_class])
        return rows * len(BANDS) + bands_of(np.concatenate(by_class), voxel_size, dimensions)

    def summed(of: IntArray, weights: FloatArray | None = None) -> IntArray:
        return np.bincount(of, weights, math.prod(shape)).reshape(shape).astype(np.int64)

    true = cells([of.true_voxels for of in found])
    invented = cells([of.predicted_voxels for of in found])[false]
    numbers = np.stack([summed(true), summed(true[hit]), summed(invented)], axis=-1)
    return numbers, summed(true, np.rint(dice / FINE))


def _f1(true: IntArray, found: IntArray, false: IntArray) -> FloatArray:
    return ratio(2 * found, true + found + false)
