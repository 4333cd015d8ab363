"""What is counted of segmented images, and the metrics that follow from the counts.

Promises
- Measured on the plan's preprocessed image, class by class without the background (class 0), each voxel decided by the
  largest score.
- A case enters a mean only where the measure is defined for it. How often it was defined is counted with it, so means,
  standard deviations and the pooled Dice are functions of sums.
- A measure of one case is rounded once to 2**-32: a mean differs by at most 1.2e-10 from that of unrounded values.
  (Squares, for standard deviations, to 2**-20.)
- A site sends 81 integers for each class and patient group: 13 kB a class, so 200 kB hold 15 classes. A level of a
  subgroup takes 55 of them, 9 kB a class: two classes and nine levels are 188 kB.

A name says what the mean is over, and there is one rule for all:

================  =====================================================================================
name              is
================  =====================================================================================
``dice``          mean over cases
``dice_patient``  mean over patients of the mean over their images (``by_patient``)
``dice_micro``    from voxels (or surface voxels, or lesions) summed over all cases: large ones dominate
``lesion_...``    of lesions, not of voxels (``lesions``)
================  =====================================================================================

With one foreground class that is all. With several, ``dice_<class>`` is of one class and ``dice`` the macro mean of
these over classes; of ``dice_micro`` the sums go over classes too.

===========  =============================================  ===============  ================  ================
measure      formula (P prediction, T truth)                both empty       only T empty      only P empty
===========  =============================================  ===============  ================  ================
dice         2 |P & T| / (|P| + |T|)  (Dice 1945)           not counted      0                 0
iou          |P & T| / |P | T|  (Jaccard 1912)              not counted      0                 0
precision    |P & T| / |P|                                  not counted      0                 0
recall       |P & T| / |T|                                  not counted      not counted       0
hd95         ``surface.agreement``, in mm                   not counted      image diagonal    image diagonal
nsd          ``surface.agreement`` at ``TOLERANCE_MM``      not counted      0                 0
..._micro    the same of sums (NaN if no voxel of either in any case)
volume_...   ``volumes``; ``area_...`` in 2-D
lesion_...   ``lesions``
===========  =============================================  ===============  ================  ================

Both empty is not counted, as in nnU-Net's evaluation (Isensee et al., Nature Methods 2021) and MONAI: a Dice of 1 there
would let the share of healthy patients decide which site looks best.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from shared.evaluation import lesions, volumes
from shared.evaluation.additive import CASES, UNIT, IntArray, Observation, Schema
from shared.evaluation.by_patient import rounded_mean
from shared.evaluation.label_maps import Labels, Pair, cut, voxel_counts
from shared.evaluation.lesions import FINE
from shared.evaluation.micro import named_totals, totals
from shared.evaluation.subgroups import Coarser
from shared.evaluation.surface import Agreements, agreements
from shared.evaluation.undetermined import FloatArray, named, ratio

__all__ = ["Labels", "Pair", "voxel_counts"]

TOLERANCE_MM = 2.0
"""Deviation of a surface that counts as agreement. Pixels where an image does not know its spacing (1.0 per axis)."""

MEASURES = ("dice", "iou", "precision", "recall", "hd95", "nsd")
PATIENT_MEASURES = ("dice", "iou", "hd95", "nsd")
"""Measures that also have a mean over patients."""

DICE_BINS = 20

VOXELS = "voxels"
SURFACE_VOXELS = "surface-voxels"
DEFINED = "defined"
SUMS = "sums"
SQUARES = "squares"
DICE_HISTOGRAM = "dice-histogram"
PATIENT_DEFINED = "patient-defined"
PATIENT_SUMS = "patient-sums"

_RANGES = {"hd95": (0.0, math.inf)} | dict(volumes.RANGES) | dict(lesions.RANGES)
_PATIENT_COLUMNS = [MEASURES.index(name) for name in PATIENT_MEASURES]


def schema(classes: int, dimensions: int) -> Schema:
    """Counts of K classes: F = K - 1 rows, one for each class but the background."""
    foreground = classes - 1
    moments = (foreground, len(MEASURES))
    by_patient = (foreground, len(PATIENT_MEASURES))
    return Schema(
        f"segmentation-3, {dimensions}-D, surface tolerance {TOLERANCE_MM:g} mm, lesions of IoU 1/10",
        (
            (VOXELS, (foreground, 3)),
            (SURFACE_VOXELS, (foreground, 2)),
            (DEFINED, moments),
            (SUMS, moments),
            (SQUARES, moments),
            (DICE_HISTOGRAM, (foreground, DICE_BINS)),
            (PATIENT_DEFINED, by_patient),
            (PATIENT_SUMS, by_patient),
            *volumes.shapes(foreground),
            *lesions.shapes(foreground),
        ),
    )


def coarser(whole: Schema) -> Coarser:
    """Of a level of a subgroup neither squares nor the histogram of Dice: no metric needs them."""
    spared = (SQUARES, DICE_HISTOGRAM)
    shapes = tuple((name, shape) for name, shape in whole.shapes if name not in spared)

    def of(observation: Observation) -> Observation:
        return {name: observation[name] for name, _ in shapes}

    return Coarser(Schema(f"{whole.definition}-level", shapes), of)


def limits(names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """The range of each metric by name; what is not named here or in ``volumes`` and ``lesions`` is a proportion."""
    return {name: next((of for known, of in _RANGES.items() if name.startswith(known)), (0.0, 1.0)) for name in names}


def lower_is_better(names: Iterable[str]) -> frozenset[str]:
    """Those of ``names`` where less is better: errors. A bias is best at 0 and is not among them."""
    return frozenset(name for name, (lowest, highest) in limits(names).items() if lowest == 0 and math.isinf(highest))


def ambiguous(classes: Sequence[str], dimensions: int) -> str | None:
    """The first of the foreground's names that would give two metrics one name, such as ``micro``."""
    single = tuple(metrics(_nothing(dimensions), ("",), dimensions))
    uses = Counter([*single, *(f"{name}_{label}" for name in single for label in classes)])
    return next((label for label in classes if any(uses[f"{name}_{label}"] > 1 for name in single)), None)


def overlap(counts: IntArray) -> dict[str, FloatArray]:
    """The four overlap measures, each of shape (..., F), from voxels of P & T, of P and of T, shape (..., F, 3)."""
    both, predicted, true = np.moveaxis(counts, -1, 0)
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
    return {name: of[0] for name, of in observe_all([Pair(prediction, truth, spacing_mm)], classes).items()}


def observe_all(pairs: Sequence[Pair], classes: int) -> Observation:
    """As ``observe`` of at least one case, each array with a leading axis of cases."""
    maps = cut(pairs, classes)
    counts = np.stack([masks.counts() for masks in maps.masks], axis=1)
    surfaces = [agreements(maps, masks, TOLERANCE_MM) for masks in maps.masks]
    values = _values(counts, surfaces)
    defined = ~np.isnan(values)
    values = np.where(defined, values, 0.0)
    no_patient = np.zeros((len(pairs), classes - 1, len(PATIENT_MEASURES)), np.int64)
    within, voxels = (np.stack(of, axis=1) for of in zip(*((of.within, of.voxels) for of in surfaces), strict=True))
    return {
        VOXELS: counts,
        SURFACE_VOXELS: np.stack([within, voxels], axis=-1),
        DEFINED: defined.astype(np.int64),
        SUMS: np.rint(values / FINE).astype(np.int64),
        SQUARES: np.rint(values**2 / UNIT).astype(np.int64),
        DICE_HISTOGRAM: _dice_bins(counts),
        PATIENT_DEFINED: no_patient,
        PATIENT_SUMS: no_patient,
        **volumes.observe(counts, maps.spacings_mm),
        **lesions.observe(maps),
    }


def of_patient(counts: Mapping[str, IntArray]) -> Observation:
    """What each patient adds, from the sum of their cases: see ``by_patient.collect_patients``."""
    number = counts[DEFINED][..., _PATIENT_COLUMNS]
    return {
        PATIENT_DEFINED: (number > 0).astype(np.int64),
        PATIENT_SUMS: rounded_mean(counts[SUMS][..., _PATIENT_COLUMNS], number),
    }


def metrics(counts: Mapping[str, IntArray], classes: Sequence[str], dimensions: int) -> dict[str, float]:
    """Metrics from summed counts; ``classes`` are the names of the foreground classes."""
    means = ratio(counts[SUMS] * FINE, counts[DEFINED])
    patients = ratio(counts[PATIENT_SUMS] * FINE, counts[PATIENT_DEFINED])
    return {
        **named(_by_measure(means), classes),
        **named({f"{name}_patient": of for name, of in zip(PATIENT_MEASURES, patients.T, strict=True)}, classes),
        **named_totals(_micro(counts), classes),
        **volumes.metrics(counts, classes, dimensions),
        **lesions.metrics(counts, classes),
    }


def standard_deviations(counts: Mapping[str, IntArray], classes: Sequence[str]) -> dict[str, float]:
    """Standard deviation over cases (n - 1) of each measure; the macro mean of them where there are several classes."""
    number, total = counts[DEFINED], counts[SUMS] * FINE
    # Rounding of sums to the grid can push a variance of exactly 0 below it.
    squares = np.maximum(counts[SQUARES] * UNIT - ratio(total**2, number), 0.0)
    return named(_by_measure(np.sqrt(ratio(squares, np.maximum(number - 1, 0)))), classes)


def _by_measure(values: FloatArray) -> dict[str, FloatArray]:
    return dict(zip(MEASURES, values.T, strict=True))


def _micro(counts: Mapping[str, IntArray]) -> dict[str, FloatArray]:
    both, predicted, true = totals(counts[VOXELS]).T
    within, voxels = totals(counts[SURFACE_VOXELS]).T
    return {
        "dice_micro": ratio(2 * both, predicted + true),
        "iou_micro": ratio(both, predicted + true - both),
        "nsd_micro": ratio(within, voxels),
    }


def _values(counts: IntArray, surfaces: Sequence[Agreements]) -> FloatArray:
    """``MEASURES`` of N cases, shape (N, F, M), NaN where not defined."""
    measured = overlap(counts)
    measured["hd95"] = np.stack([of.hd95_mm for of in surfaces], axis=-1)
    measured["nsd"] = np.stack([of.nsd for of in surfaces], axis=-1)
    return np.stack([measured[name] for name in MEASURES], axis=-1)


def _nothing(dimensions: int) -> dict[str, IntArray]:
    """Counts of no case with one foreground class."""
    shapes = schema(2, dimensions).shapes
    return {CASES: np.zeros((), np.int64), **{name: np.zeros(shape, np.int64) for name, shape in shapes}}


def _dice_bins(counts: IntArray) -> IntArray:
    """One-hot bins of Dice, shape (N, F, DICE_BINS): bin i from i / DICE_BINS on, the last one with 1."""
    both, voxels = counts[..., 0], counts[..., 1] + counts[..., 2]
    bins = np.minimum(2 * both * DICE_BINS // np.maximum(voxels, 1), DICE_BINS - 1)
    counts_in_bins: IntArray = ((np.arange(DICE_BINS) == bins[..., None]) & (voxels > 0)[..., None]).astype(np.int64)
    return counts_in_bins
