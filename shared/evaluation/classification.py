"""What is counted of classified images, and the metrics that follow from the counts.

Promises
- A case contributes one entry of a confusion matrix and, per finding, one bin of scores, its place there
  (``shared.evaluation.order``), its score in one of sixteen sums, its squared error and its log loss; nothing else
  leaves a site.
- Each metric is a function of summed counts. Those of decisions are exact, mean losses within 2**-21 (each case is
  rounded to the fixed-point grid once); ranks and calibration carry the bounds that ``shared.evaluation.ranking`` and
  ``shared.evaluation.calibration`` state; ``exclusive_bounds`` and ``multilabel_bounds`` are those of ranks as numbers.
- Scores are counted twice. A fine histogram of all patients gives values, curves and thresholds; a coarse one by group
  of patients gives what leaving a group out changes, and so the intervals.
- Statistics of a site take at most 200,000 bytes as int64, up to fourteen exclusive classes or twenty-one findings that
  may occur together; two exclusive classes take 112,384. That is why the fine histogram has 8,192 bins for one finding
  and half as many whenever their number doubles, down to 256, which more classes then exceed.
- Subgroups are counted in fewer bins (``coarser``): two exclusive classes take 6,176 bytes a level.
- Decisions: the largest score among exclusive classes (the first of equals), or a score of at least ``THRESHOLD`` for
  each finding of a multi-label task.

For two exclusive classes the second one is the positive. For more classes, and for multi-label findings, metrics of the
second block are taken one class against the rest: ``auroc`` is the macro mean, ``auroc_<class>`` the single one.

====================  ===========================================  ====================================================
metric                formula                                      edge cases
====================  ===========================================  ====================================================
accuracy              share of right decisions; multi-label: of    no case: NaN
                      all decisions (1 - Hamming loss)
balanced_accuracy     mean recall of the classes that occur        fewer than two classes occur: NaN
                      (Brodersen et al., ICPR 2010);
                      multi-label: macro mean of
                      (sensitivity + specificity) / 2
sensitivity           TP / (TP + FN)                               no positive: NaN
specificity           TN / (TN + FP)                               no negative: NaN
precision             TP / (TP + FP)                               none called positive: 0 if there was a positive
                                                                   (scikit-learn's zero_division), else NaN
f1                    2 TP / (2 TP + FP + FN)                      no positive, none called positive: NaN
auroc                 ``ranking.auroc``                            no positive or no negative: NaN
average_precision     ``ranking.average_precision``                no positive: NaN
brier                 mean of (score - label)**2                   no case: NaN
                      (Brier, Monthly Weather Review 1950)
log_loss              mean of -log(score given to the truth),      no case: NaN
                      scores cut to [2**-23, 1 - 2**-23]
                      (scikit-learn's cut for float32)
ece_equal_width       ``calibration.calibration_error`` of ten     no case: NaN
                      bins of one width
ece_equal_mass        the same of ten bins of like size            no case: NaN
calibration_slope,    ``calibration.recalibration``; 1 and 0 are   one class, or classes separated: NaN
calibration_          ideal
intercept
====================  ===========================================  ====================================================

A score that is not a number in [0, 1] is refused with the case (``score-not-finite``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.evaluation.additive import UNIT, IntArray, Observation, Schema
from shared.evaluation.calibration import (
    SUMS,
    calibration_error,
    equal_mass,
    equal_width,
    middle_sums,
    recalibration,
    sums_of,
)
from shared.evaluation.order import CELL_BITS, PATCH, Ordered, cell_rows, ordered, sum_rows, without_order
from shared.evaluation.ranking import (
    auroc,
    average_precision,
    average_precision_limits,
    bins_for,
    histogram,
    pack,
    tied_pairs,
    unpack,
)
from shared.evaluation.subgroups import Coarser
from shared.evaluation.undetermined import FloatArray, mean_of_determined, named, ratio

THRESHOLD = 0.5

CONFUSION = "confusion"
SCORES = "scores"
"""Histograms of positives and negatives by finding and group of patients, packed and coarse."""
CELLS = "cells"
"""The same of all patients, packed with places and fine (``shared.evaluation.order``)."""
PATCHES = "patches"
"""Sums by patch of cells, which tell the scores of few cases and of equal ones."""
SCORE_SUMS = "score_sums"
SQUARED_ERRORS = "squared_errors"
LOG_LOSSES = "log_losses"

_LEAST = 2.0**-23
_RANGES = {
    "log_loss": (0.0, math.inf),
    "calibration_slope": (-math.inf, math.inf),
    "calibration_intercept": (-math.inf, math.inf),
}
_LOWER_IS_BETTER = ("brier", "log_loss", "ece_equal_width", "ece_equal_mass")


_LEVEL_BINS = 256
_LEVEL_GROUPED = 16


def exclusive_schema(classes: int) -> Schema:
    """Counts of K exclusive classes: a K x K confusion matrix (truth, decision), and histograms per finding."""
    findings = 1 if classes == 2 else classes
    return _schema("classification-exclusive-3", (classes, classes), findings)


def multilabel_schema(classes: int) -> Schema:
    """Counts of K findings that may occur together: a 2 x 2 matrix (truth, decision) and histograms for each."""
    return _schema("classification-multilabel-3", (classes, 2, 2), classes)


def coarser(whole: Schema) -> Coarser:
    """What is counted of a level of a subgroup: at most 256 bins, sixteen by group, and no order inside a bin.

    Sums of scores are not counted by group. What leaving a group out changes of ``equal_width`` and ``equal_mass`` is
    taken as if scores were in the middle of the sixteen bins.
    """
    shapes, fine = dict(whole.shapes), dict(whole.ungrouped)[CELLS]
    bins, sums = min(_LEVEL_BINS, fine[1] // 4), shapes.pop(SCORE_SUMS)
    shapes[SCORES] = (fine[0], _LEVEL_GROUPED)
    every = ((CELLS, (fine[0], bins)), (SCORE_SUMS, sums))

    def of(observation: Observation) -> Observation:
        kept = {name: observation[name] for name in shapes}
        rows, summed = observation[CELLS], observation[SCORE_SUMS].ravel()
        placed = np.stack([rows[:, 0] // (fine[1] // bins), without_order(rows[:, 1])], axis=-1)
        return kept | {
            SCORES: observation[SCORES].reshape(fine[0], _LEVEL_GROUPED, -1).sum(axis=-1),
            CELLS: placed,
            SCORE_SUMS: np.stack([np.arange(len(summed)), summed], axis=-1),
        }

    return Coarser(Schema(f"{whole.definition}-level", tuple(shapes.items()), every), of)


def histograms(counts: Mapping[str, IntArray]) -> tuple[IntArray, IntArray]:
    """Positives and negatives by finding and bin of score, each of shape (F, bins), in the finest bins there are."""
    return unpack(counts[CELLS], CELL_BITS) if CELLS in counts else unpack(counts[SCORES])


def limits(names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """The range of each metric by name: proportions, but for log loss, slope and intercept."""
    return {name: next((of for start, of in _RANGES.items() if name.startswith(start)), (0.0, 1.0)) for name in names}


def finding_names(metrics: Iterable[str]) -> tuple[str, ...]:
    """The findings after which several of ``metrics`` are named, in order; ("",) where there is but one finding."""
    return tuple(name.removeprefix("auroc_") for name in metrics if name.startswith("auroc_")) or ("",)


def lower_is_better(names: Iterable[str]) -> frozenset[str]:
    """Those of ``names`` where less is better: losses and calibration errors."""
    return frozenset(name for name in names if name.startswith(_LOWER_IS_BETTER))


def observe_exclusive(scores: NDArray[np.float32], label: int) -> Observation:
    """One case with scores of shape (K,) and the index of its class."""
    refuse_unusable(scores)
    classes = len(scores)
    confusion = np.zeros((classes, classes), np.int64)
    confusion[label, int(scores.argmax())] = 1
    findings = slice(1, 2) if classes == 2 else slice(None)
    return {CONFUSION: confusion, **_scored(scores[findings], np.arange(classes)[findings] == label)}


def observe_multilabel(scores: NDArray[np.float32], labels: Sequence[int]) -> Observation:
    """One case with scores of shape (K,) and a 0 or 1 for each finding."""
    refuse_unusable(scores)
    present, called = np.asarray(labels, np.int64), (scores >= THRESHOLD).astype(np.int64)
    confusion = np.zeros((len(scores), 2, 2), np.int64)
    confusion[np.arange(len(scores)), present, called] = 1
    return {CONFUSION: confusion, **_scored(scores, present == 1)}


def exclusive_metrics(counts: Mapping[str, IntArray], classes: Sequence[str]) -> dict[str, float]:
    """Metrics of K exclusive classes from summed counts."""
    confusion = counts[CONFUSION]
    tables = confusion[None] if len(classes) == 2 else _one_against_rest(confusion)
    right, recalls = np.trace(confusion), ratio(confusion.diagonal(), confusion.sum(axis=1))
    several = np.count_nonzero(confusion.sum(axis=1)) > 1
    return {
        "accuracy": float(ratio(right, confusion.sum())),
        "balanced_accuracy": mean_of_determined(recalls) if several else float("nan"),
        **named(_by_finding(tables, counts), classes[1:] if len(classes) == 2 else classes),
    }


def multilabel_metrics(counts: Mapping[str, IntArray], classes: Sequence[str]) -> dict[str, float]:
    """Metrics of K findings that may occur together, from summed counts."""
    tables, by_finding = counts[CONFUSION], _by_finding(counts[CONFUSION], counts)
    right = tables[:, 0, 0] + tables[:, 1, 1]
    return {
        "accuracy": float(ratio(right.sum(), tables.sum())),
        "balanced_accuracy": mean_of_determined((by_finding["sensitivity"] + by_finding["specificity"]) / 2),
        **named(by_finding, classes),
    }


def exclusive_bounds(counts: Mapping[str, IntArray], classes: Sequence[str]) -> dict[str, float]:
    """How far metrics of ranks of K exclusive classes can be from those of unbinned scores."""
    return named(_bounds(counts), classes[1:] if len(classes) == 2 else classes)


def multilabel_bounds(counts: Mapping[str, IntArray], classes: Sequence[str]) -> dict[str, float]:
    """How far metrics of ranks of K findings that may occur together can be from those of unbinned scores."""
    return named(_bounds(counts), classes)


def refuse_unusable(scores: NDArray[np.float32]) -> None:
    """Raise ``CaseError`` for a score that is not a number in [0, 1]."""
    if not ((scores >= 0) & (scores <= 1)).all():
        raise CaseError(
            f"at least one of {len(scores)} scores is not a number between 0 and 1",
            hint="the network diverged or the image is corrupt: look at the training loss and at the case",
            code="score-not-finite",
        )


def _schema(definition: str, confusion: tuple[int, ...], findings: int) -> Schema:
    bins = bins_for(findings)
    by_group = (
        (CONFUSION, confusion),
        (SCORES, (findings, _grouped_bins(findings))),
        (SCORE_SUMS, (findings, SUMS)),
        (SQUARED_ERRORS, (findings,)),
        (LOG_LOSSES, (findings,)),
    )
    return Schema(definition, by_group, ((CELLS, (findings, bins)), (PATCHES, (findings, bins // PATCH, 4))))


def _grouped_bins(findings: int) -> int:
    return max(16, min(64, 128 >> (findings - 1).bit_length()))


def _scored(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> Observation:
    bins, exact = bins_for(len(scores)), scores.astype(np.float64)
    given, coarse = np.where(positive, exact, 1 - exact), histogram(scores, _grouped_bins(len(scores)))
    return {
        SCORES: pack(coarse * positive[:, None], coarse * ~positive[:, None]),
        SCORE_SUMS: sums_of(scores),
        SQUARED_ERRORS: _in_units((exact - positive) ** 2),
        LOG_LOSSES: _in_units(-np.log(np.clip(given, _LEAST, 1 - _LEAST))),
        CELLS: cell_rows(scores, positive, bins),
        PATCHES: sum_rows(scores, positive, bins),
    }


def _in_units(values: FloatArray) -> IntArray:
    return np.rint(values / UNIT).astype(np.int64)


def _one_against_rest(confusion: IntArray) -> IntArray:
    """Confusion matrix of K classes to K tables of (truth, decision), shape (K, 2, 2)."""
    hits = confusion.diagonal()
    missed, false = confusion.sum(axis=1) - hits, confusion.sum(axis=0) - hits
    rest = confusion.sum() - hits - missed - false
    return np.stack([rest, false, missed, hits], axis=-1).reshape(-1, 2, 2)


def _by_finding(tables: IntArray, counts: Mapping[str, IntArray]) -> dict[str, FloatArray]:
    """Metrics of each finding, shape (F,), from tables of (truth, decision), shape (F, 2, 2)."""
    rest, false, missed, hits = tables.reshape(-1, 4).T
    precision = ratio(hits, hits + false)
    precision[(hits + false == 0) & (missed > 0)] = 0.0
    return {
        "sensitivity": ratio(hits, hits + missed),
        "specificity": ratio(rest, rest + false),
        "precision": precision,
        "f1": ratio(2 * hits, 2 * hits + false + missed),
        **_by_score_of(counts),
    }


def _by_score_of(counts: Mapping[str, IntArray]) -> dict[str, FloatArray]:
    """Metrics of each finding that need no decision, shape (F,)."""
    positives, negatives = histograms(counts)
    cases = (positives + negatives).sum(axis=-1)
    intercept, slope = recalibration(positives, negatives)
    ranks, sums = _ordered(counts), counts.get(SCORE_SUMS, middle_sums(positives + negatives))
    return {
        "auroc": auroc(ranks.positives, ranks.negatives),
        "average_precision": average_precision(ranks.positives, ranks.negatives, ranks.loose, ranks.apart),
        "brier": ratio(counts[SQUARED_ERRORS] * UNIT, cases),
        "log_loss": ratio(counts[LOG_LOSSES] * UNIT, cases),
        "ece_equal_width": calibration_error(equal_width(positives, negatives, sums)),
        "ece_equal_mass": calibration_error(equal_mass(positives, negatives, sums)),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
    }


def _ordered(counts: Mapping[str, IntArray]) -> Ordered:
    """Histograms by finding, with what is known of the order inside bins."""
    if PATCHES in counts:
        return ordered(counts[CELLS], counts[PATCHES])
    positives, negatives = histograms(counts)
    several = positives + negatives > 1
    return Ordered(positives, negatives, several, np.zeros_like(several))


def _bounds(counts: Mapping[str, IntArray]) -> dict[str, FloatArray]:
    ranks = _ordered(counts)
    low, high = average_precision_limits(ranks.positives, ranks.negatives, ranks.loose, ranks.apart)
    return {
        "auroc": tied_pairs(ranks.positives, ranks.negatives, ranks.loose) / 2,
        # Differences of sums of floating point: what should be 0 may fall below it.
        "average_precision": np.maximum(high - low, 0.0) / 2,
    }
