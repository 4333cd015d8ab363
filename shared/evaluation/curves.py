"""Curves of the final model as plain data: what a report draws and results.json holds.

Promises
- Every point is what was counted at a threshold of the histogram; a line between two points is the reader's.
- For classification only, from pooled statistics; any other task has no curves. Numbers have four decimals.
- As JSON without spaces all curves together take at most ``MOST_BYTES``, up to eight findings: the more findings,
  the fewer points each.
- A bin of a reliability curve with fewer than ``FLOOR`` cases is null, not zero; how many cases a bin has is not told.

======================  ==============================================================================================
key                     value: lists of equal length, by finding (the name of a task's only finding is "")
======================  ==============================================================================================
roc                     ``false_positive_rate``, ``sensitivity``: from (1, 1) down to (0, 0)
pr                      ``recall``, ``precision``: from the lowest threshold to the highest that calls anyone positive
reliability_width       ``score``, ``observed``: ten bins, ``calibration.equal_width``
reliability_mass        the same of ``calibration.equal_mass``
decision                ``threshold``, ``model``, ``treat_all``: net benefit; that of treating none is 0
======================  ==============================================================================================

A curve that is not determined (no positive, no negative, no case) is left out.

Leaves to others: drawing; and deciding whether pooled curves may be shown at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from shared.evaluation.additive import IntArray, Statistics
from shared.evaluation.calibration import Reliability, equal_mass, equal_width
from shared.evaluation.classification import SCORE_SUMS, finding_names, histograms
from shared.evaluation.decision_curve import decision_curve
from shared.evaluation.ranking import from_the_top
from shared.evaluation.undetermined import FloatArray
from shared.tasks.task import Task

MOST_BYTES = 10_000
FLOOR = 3
MOST_POINTS = 60

Points = dict[str, list[float | None]]
Curves = dict[str, dict[str, Points]]
"""Curve, then finding, then coordinate."""

_DECISIONS = np.round(np.arange(1, 20) / 20, 2)
"""Thresholds of the decision curve are the edges next to these."""


def curves(task: Task, statistics: Statistics) -> Curves:
    """All curves of ``statistics``, or an empty mapping for a task without scores of findings."""
    if task.name != "classification":
        return {}
    findings, counts = finding_names(task.limits), statistics.total()
    positives, negatives = histograms(counts)
    found = [_of_finding(*each, len(findings)) for each in zip(positives, negatives, counts[SCORE_SUMS], strict=True)]
    drawn = {
        kind: {name: of[kind] for name, of in zip(findings, found, strict=True) if kind in of}
        for kind in ("roc", "pr", "reliability_width", "reliability_mass", "decision")
    }
    return {kind: by_finding for kind, by_finding in drawn.items() if by_finding}


def _of_finding(positives: IntArray, negatives: IntArray, sums: IntArray, findings: int) -> dict[str, Points]:
    most, found = max(6, MOST_POINTS // findings), {}
    hits, false = np.append(from_the_top(positives), 0), np.append(from_the_top(negatives), 0)
    if hits[0] and false[0]:
        found["roc"] = _thinned({"false_positive_rate": false / false[0], "sensitivity": hits / hits[0]}, most)
    if hits[0]:
        calls = hits + false > 0
        precision = hits[calls] / (hits + false)[calls]
        found["pr"] = _thinned({"recall": hits[calls] / hits[0], "precision": precision}, most)
    if hits[0] + false[0]:
        found["reliability_width"] = _reliability(equal_width(positives, negatives, sums))
        found["reliability_mass"] = _reliability(equal_mass(positives, negatives, sums))
        found["decision"] = _decision(positives, negatives)
    return found


def _thinned(coordinates: Mapping[str, FloatArray], most: int) -> Points:
    """At most ``most`` points of a curve, about evenly along its length, with both ends."""
    steps = sum(np.abs(np.diff(values)) for values in coordinates.values())
    along = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0.0, along[-1], most)
    kept = np.unique(np.append(np.minimum(np.searchsorted(along, wanted), len(along) - 1), len(along) - 1))
    # Thresholds between the same two scores give the same point: one of them is enough.
    kept = kept[np.concatenate([[True], np.diff(along[kept]) > 0])]
    return {name: _rounded(values[kept]) for name, values in coordinates.items()}


def _reliability(curve: Reliability) -> Points:
    shown = curve.cases >= FLOOR
    return {
        "score": _rounded(np.where(shown, curve.score, np.nan)),
        "observed": _rounded(np.where(shown, curve.observed, np.nan)),
    }


def _decision(positives: IntArray, negatives: IntArray) -> Points:
    curve = decision_curve(positives, negatives)
    kept = np.unique(np.abs(curve.threshold[:, None] - _DECISIONS).argmin(axis=0))
    return {
        "threshold": _rounded(curve.threshold[kept]),
        "model": _rounded(curve.model[kept]),
        "treat_all": _rounded(curve.treat_all[kept]),
    }


def _rounded(values: FloatArray) -> list[float | None]:
    return [round(value, 4) if math.isfinite(value) else None for value in values.tolist()]
