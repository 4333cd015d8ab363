"""What is counted of classified images, and the metrics that follow from the counts.

Promises
- A case contributes one entry of a confusion matrix and, per finding, one bin of scores, its score in one of sixteen
  sums, its squared error and its log loss; nothing else leaves a site.
- Each metric is a function of summed counts. Those of decisions are exact, mean losses within 2**-21 (each case is
  rounded to the fixed-point grid once); ranks and calibration carry the bounds that ``shared.evaluation.ranking`` and
  ``shared.evaluation.calibration`` state.
- Statistics of a site take at most 200,000 bytes as int64, up to thirteen exclusive classes or fourteen findings that
  may occur together; two exclusive classes take 167,680. That is why a histogram has 1,024 bins for one finding and
  half as many whenever their number doubles, down to 64, which more classes then exceed.
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
    recalibration,
    sums_of,
)
from shared.evaluation.ranking import auroc, average_precision, bins_for, histogram, pack, unpack
from shared.evaluation.undetermined import FloatArray, mean_of_determined, named, ratio

THRESHOLD = 0.5

CONFUSION = "confusion"
SCORES = "scores"
"""Histograms of positives and negatives by finding, packed: ``histograms`` takes them apart."""
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


def exclusive_schema(classes: int) -> Schema:
    """Counts of K exclusive classes: a K x K confusion matrix (truth, decision), and histograms per finding."""
    findings = 1 if classes == 2 else classes
    return Schema("classification-exclusive-2", ((CONFUSION, (classes, classes)), *_by_score(findings)))


def multilabel_schema(classes: int) -> Schema:
    """Counts of K findings that may occur together: a 2 x 2 matrix (truth, decision) and histograms for each."""
    return Schema("classification-multilabel-2", ((CONFUSION, (classes, 2, 2)), *_by_score(classes)))


def histograms(counts: Mapping[str, IntArray]) -> tuple[IntArray, IntArray]:
    """Positives and negatives by finding and bin of score, each of shape (F, bins)."""
    return unpack(counts[SCORES])


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


def refuse_unusable(scores: NDArray[np.float32]) -> None:
    """Raise ``CaseError`` for a score that is not a number in [0, 1]."""
    if not ((scores >= 0) & (scores <= 1)).all():
        raise CaseError(
            f"at least one of {len(scores)} scores is not a number between 0 and 1",
            hint="the network diverged or the image is corrupt: look at the training loss and at the case",
            code="score-not-finite",
        )


def _by_score(findings: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return (
        (SCORES, (findings, bins_for(findings))),
        (SCORE_SUMS, (findings, SUMS)),
        (SQUARED_ERRORS, (findings,)),
        (LOG_LOSSES, (findings,)),
    )


def _scored(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> Observation:
    bins, exact = histogram(scores, bins_for(len(scores))), scores.astype(np.float64)
    given = np.clip(np.where(positive, exact, 1 - exact), _LEAST, 1 - _LEAST)
    return {
        SCORES: pack(bins * positive[:, None], bins * ~positive[:, None]),
        SCORE_SUMS: sums_of(scores),
        SQUARED_ERRORS: _in_units((exact - positive) ** 2),
        LOG_LOSSES: _in_units(-np.log(given)),
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
    return {
        "auroc": auroc(positives, negatives),
        "average_precision": average_precision(positives, negatives),
        "brier": ratio(counts[SQUARED_ERRORS] * UNIT, cases),
        "log_loss": ratio(counts[LOG_LOSSES] * UNIT, cases),
        "ece_equal_width": calibration_error(equal_width(positives, negatives, counts[SCORE_SUMS])),
        "ece_equal_mass": calibration_error(equal_mass(positives, negatives, counts[SCORE_SUMS])),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
    }
