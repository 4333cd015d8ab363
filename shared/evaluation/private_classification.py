"""Classification where statistics get noise: few bins, one unit of weight for each patient.

Promises
- A finding is a block of 2 x ``BINS`` cells: bins of the score for positives, and for negatives. An image has all its
  weight in one of them. Positives are summed up from below and negatives from above (``design.ladder``), which is where
  a useful network leaves few of each.
- More than two exclusive classes add a block of decisions: (class, right or wrong).
- Metrics follow the formulas of ``shared.evaluation.classification`` with two differences: each *patient* weighs the
  same, not each image; and inside a bin positives and negatives are taken to be spread evenly.

====================  =================================================  =============================================
metric                from cells                                         error by binning
====================  =================================================  =============================================
accuracy,             two classes and findings: weight beyond 0.5        none: 0.5 is the edge of a bin, and a score of
sensitivity, ...                                                         0.5 falls on the side where it is decided
accuracy,             more classes: decisions                            none
balanced_accuracy
auroc                 a pair in one bin counts one half                  at most half the share of pairs in one bin
average_precision     precision integrated over recall, bin by bin       at most the distance to that with all negatives
                                                                         of a bin before, or after, its positives
====================  =================================================  =============================================

Edges lie at log odds from -5 to 5 (scores of .007 and .993; what lies beyond shares a bin), .12 apart in the middle and
.8 at the ends (a hyperbolic sine): networks answer near 0 or 1 or, early and under noise, all at nearly the same score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from shared.evaluation.classification import refuse_unusable
from shared.evaluation.design import Block, PrivateSchema, ladder
from shared.evaluation.estimates import PATIENTS
from shared.evaluation.undetermined import FloatArray, named_rows, ratio

BINS = 32
_ABOVE = BINS // 2
"""First bin of scores that are called positive."""

_REACH = 5.0
"""Log odds of the last edge."""


def _edges() -> FloatArray:
    steps = 2.7 * np.linspace(-1.0, 1.0, BINS - 1)
    edges: FloatArray = expit(_REACH * np.sinh(steps) / np.sinh(2.7))
    return edges


EDGES: FloatArray = _edges()
"""Inner edges, shape (BINS - 1,); the middle one is 0.5."""

_TIE: Mapping[str, Literal["left", "right"]] = {"exclusive": "left", "multilabel": "right"}
"""Whether a score on an edge belongs below (two equal scores: the first class) or above (a score of at least 0.5)."""


def schema(kind: Literal["exclusive", "multilabel"], classes: int) -> PrivateSchema:
    """What leaves a site: one block for each finding, and one of decisions for three or more exclusive classes."""
    rows = 1 if kind == "exclusive" and classes == 2 else classes
    findings = tuple(Block(f"finding-{row}", _finding()) for row in range(rows))
    decisions = (Block("decisions", np.eye(2 * classes)),) if kind == "exclusive" and classes > 2 else ()
    return PrivateSchema(f"private-classification-{kind}-1", findings + decisions)


def observe_exclusive(scores: NDArray[np.float32], label: int) -> FloatArray:
    """Weights of one image with scores (K,) and the index of its class."""
    refuse_unusable(scores)
    classes = len(scores)
    if classes == 2:
        return _placed(scores[1:], np.array([label == 1]), "exclusive")
    decisions = np.zeros((classes, 2))
    decisions[label, int(scores.argmax() != label)] = 1.0
    return np.concatenate([_placed(scores, np.arange(classes) == label, "exclusive"), decisions.ravel()])


def observe_multilabel(scores: NDArray[np.float32], labels: Sequence[int]) -> FloatArray:
    """Weights of one image with scores (K,) and a 0 or 1 for each finding."""
    refuse_unusable(scores)
    return _placed(scores, np.asarray(labels) == 1, "multilabel")


def exclusive_metrics(cells: FloatArray, classes: Sequence[str]) -> dict[str, FloatArray]:
    """Metrics of K exclusive classes; cells (N, cells) to (N,) each."""
    if len(classes) == 2:
        return multilabel_metrics(cells, classes[1:])
    findings, decisions = np.split(cells, [2 * BINS * len(classes)], axis=-1)
    right, wrong = np.moveaxis(decisions.reshape(len(cells), len(classes), 2), -1, 0)
    ranked = {name: _RANKED[name](*_histograms(findings)) for name in _RANKED}
    recalls = named_rows({"recall": ratio(right, right + wrong)}, "")["recall"]
    return {
        PATIENTS: (right + wrong).sum(axis=-1),
        "accuracy": ratio(right.sum(axis=-1), (right + wrong).sum(axis=-1)),
        "balanced_accuracy": recalls,
        **named_rows(ranked, classes),
    }


def multilabel_metrics(cells: FloatArray, classes: Sequence[str]) -> dict[str, FloatArray]:
    """Metrics of findings that may occur together; cells (N, cells) to (N,) each."""
    positives, negatives = _histograms(cells)
    hits, false = positives[..., _ABOVE:].sum(axis=-1), negatives[..., _ABOVE:].sum(axis=-1)
    missed, rest = positives[..., :_ABOVE].sum(axis=-1), negatives[..., :_ABOVE].sum(axis=-1)
    every = hits + false + missed + rest
    sensitivity, specificity = ratio(hits, hits + missed), ratio(rest, rest + false)
    by_finding = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": np.where(hits + false > 0, ratio(hits, hits + false), ratio(0 * hits, missed)),
        "f1": ratio(2 * hits, 2 * hits + false + missed),
        **{name: metric(positives, negatives) for name, metric in _RANKED.items()},
    }
    return {
        PATIENTS: every.mean(axis=-1),
        "accuracy": ratio((hits + rest).sum(axis=-1), every.sum(axis=-1)),
        "balanced_accuracy": named_rows({"": (sensitivity + specificity) / 2}, "")[""],
        **named_rows(by_finding, classes),
    }


def auroc(positives: FloatArray, negatives: FloatArray) -> FloatArray:
    """Area under the receiver operating characteristic; shapes (..., BINS) to (...)."""
    below = negatives.cumsum(axis=-1) - negatives / 2
    return ratio((positives * below).sum(axis=-1), positives.sum(axis=-1) * negatives.sum(axis=-1))


def average_precision(positives: FloatArray, negatives: FloatArray) -> FloatArray:
    """Precision integrated over recall, both classes spread evenly inside a bin; shapes (..., BINS) to (...).

    Inside a bin with p of c positives, after a positives of b: the integral over u from 0 to 1 of
    p (a + u p) / (b + u c), which is p (p/c + (a - b p/c) ln(1 + c/b) / c).
    """
    inside, before = positives + negatives, _before(positives + negatives)
    share = np.nan_to_num(ratio(positives, inside))
    later = np.nan_to_num(ratio((_before(positives) - before * share) * np.log1p(_over(inside, before)), inside))
    return ratio((positives * (share + later)).sum(axis=-1), positives.sum(axis=-1))


def binning(cells: FloatArray, kind: Literal["exclusive", "multilabel"], classes: Sequence[str]) -> dict[str, float]:
    """Largest error by binning of each metric of ranks."""
    two = kind == "exclusive" and len(classes) == 2
    findings = classes[1:] if two else classes
    positives, negatives = _histograms(cells[None, : 2 * BINS * len(findings)])
    tied = ratio((positives * negatives).sum(-1), positives.sum(-1) * negatives.sum(-1)) / 2
    found = {"auroc": tied, "average_precision": _precision_bound(positives, negatives)}
    return {name: float(bound[0]) for name, bound in named_rows(found, findings).items()}


_RANKED = {"auroc": auroc, "average_precision": average_precision}


def _finding() -> FloatArray:
    """Positives summed up from below and negatives from above, shape (2 BINS, 2 BINS)."""
    matrix = np.zeros((2 * BINS, 2 * BINS))
    matrix[:BINS, :BINS] = ladder(BINS)
    matrix[BINS:, BINS:] = ladder(BINS)[:, ::-1]
    return matrix


def _placed(scores: NDArray[np.float32], positive: NDArray[np.bool_], kind: str) -> FloatArray:
    """All weight of each finding in its bin, flat: shape (findings * 2 * BINS,)."""
    cells = np.zeros((len(scores), 2, BINS))
    bins = np.searchsorted(EDGES, scores.astype(np.float64), side=_TIE[kind])
    cells[np.arange(len(scores)), (~positive).astype(np.intp), bins] = 1.0
    return cells.ravel()


def _histograms(cells: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Positives and negatives by finding, each of shape (N, findings, BINS)."""
    split = cells.reshape(len(cells), -1, 2, BINS)
    return split[:, :, 0], split[:, :, 1]


def _before(histograms: FloatArray) -> FloatArray:
    """Weight of all bins above each bin."""
    above: FloatArray = histograms[..., ::-1].cumsum(axis=-1)[..., ::-1]
    # Differences of sums of floating point: what should be 0 may fall below it.
    return np.maximum(above - histograms, 0.0)


def _over(inside: FloatArray, before: FloatArray) -> FloatArray:
    """Quotient of the two; 0 where nothing is before, since then nothing depends on it."""
    return np.nan_to_num(ratio(inside, np.where(before > 1e-9, before, 0.0)))


def _precision_bound(positives: FloatArray, negatives: FloatArray) -> FloatArray:
    middle = average_precision(positives, negatives)
    hits, false = _before(positives), _before(negatives)

    def with_rivals(rivals: FloatArray) -> FloatArray:
        """All negatives ``rivals`` of a bin come before its positives."""
        ahead = hits + false + rivals
        gain = 1 + (hits - ahead) * np.nan_to_num(ratio(np.log1p(_over(positives, ahead)), positives))
        return ratio((positives * gain).sum(axis=-1), positives.sum(axis=-1))

    return np.maximum(middle - with_rivals(negatives), with_rivals(0 * negatives) - middle)
