"""What is counted of classified images, and the metrics that follow from the counts.

Promises
- A case contributes one entry of a confusion matrix and one bin per finding; nothing else leaves a site.
- Each metric is a function of summed counts. Those of decisions are exact; those of ranks carry the bound that
  ``shared.evaluation.ranking`` states.
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
====================  ===========================================  ====================================================

A score that is not a number in [0, 1] is refused with the case (``score-not-finite``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.evaluation.additive import IntArray, Observation, Schema
from shared.evaluation.ranking import BINS, auroc, average_precision, histogram
from shared.evaluation.undetermined import FloatArray, mean_of_determined, named, ratio

THRESHOLD = 0.5

CONFUSION = "confusion"
POSITIVES = "positives"
NEGATIVES = "negatives"


def exclusive_schema(classes: int) -> Schema:
    """Counts of K exclusive classes: a K x K confusion matrix (truth, decision), and histograms per finding."""
    findings = 1 if classes == 2 else classes
    return Schema(
        "classification-exclusive-1",
        ((CONFUSION, (classes, classes)), (POSITIVES, (findings, BINS)), (NEGATIVES, (findings, BINS))),
    )


def multilabel_schema(classes: int) -> Schema:
    """Counts of K findings that may occur together: a 2 x 2 matrix (truth, decision) and histograms for each."""
    return Schema(
        "classification-multilabel-1",
        ((CONFUSION, (classes, 2, 2)), (POSITIVES, (classes, BINS)), (NEGATIVES, (classes, BINS))),
    )


def limits(names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """The range of each metric by name: all are proportions."""
    return dict.fromkeys(names, (0.0, 1.0))


def observe_exclusive(scores: NDArray[np.float32], label: int) -> Observation:
    """One case with scores of shape (K,) and the index of its class."""
    refuse_unusable(scores)
    classes = len(scores)
    confusion = np.zeros((classes, classes), np.int64)
    confusion[label, int(scores.argmax())] = 1
    findings = slice(1, 2) if classes == 2 else slice(None)
    return {CONFUSION: confusion, **_histograms(scores[findings], np.arange(classes)[findings] == label)}


def observe_multilabel(scores: NDArray[np.float32], labels: Sequence[int]) -> Observation:
    """One case with scores of shape (K,) and a 0 or 1 for each finding."""
    refuse_unusable(scores)
    present, called = np.asarray(labels, np.int64), (scores >= THRESHOLD).astype(np.int64)
    confusion = np.zeros((len(scores), 2, 2), np.int64)
    confusion[np.arange(len(scores)), present, called] = 1
    return {CONFUSION: confusion, **_histograms(scores, present == 1)}


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


def _histograms(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> Observation:
    bins = histogram(scores)
    return {POSITIVES: bins * positive[:, None], NEGATIVES: bins * ~positive[:, None]}


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
        "auroc": auroc(counts[POSITIVES], counts[NEGATIVES]),
        "average_precision": average_precision(counts[POSITIVES], counts[NEGATIVES]),
    }
