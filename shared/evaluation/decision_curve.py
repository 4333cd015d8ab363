"""Whether a model is worth using: net benefit over thresholds, from histograms that add up.

Promises
- A threshold p is the risk from which on one would act: it prices one needless action at p / (1 - p) of a case found.
- Thresholds are edges of the histogram, so counts above them are exact; no score is interpolated.

=================  ===================================================================================================
strategy           net benefit at threshold p, with n cases (Vickers & Elkin, Medical Decision Making 2006)
=================  ===================================================================================================
use the model      true positives / n - false positives / n * p / (1 - p), positive from a score of p on
treat all          prevalence - (1 - prevalence) * p / (1 - p)
treat none         0
=================  ===================================================================================================

Without a case all are NaN; without a positive the model can at best reach 0.

Leaves to others: which thresholds are clinically meaningful. Net benefit takes scores at their word, so it is read
beside the reliability curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.evaluation.additive import IntArray
from shared.evaluation.ranking import edges_of, from_the_top
from shared.evaluation.undetermined import FloatArray, ratio


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit by threshold; ``threshold`` has shape (T,), the others (..., T).

    Attributes:
        threshold: the risk from which on one acts, above 0 and below 1, rising.
        model: net benefit of acting on the model.
        treat_all: net benefit of acting always; that of never acting is 0.
    """

    threshold: FloatArray
    model: FloatArray
    treat_all: FloatArray


def decision_curve(positives: IntArray, negatives: IntArray) -> DecisionCurve:
    """Net benefit at every edge between 0 and 1; histograms of shape (..., bins)."""
    threshold = edges_of(positives.shape[-1])[1:-1]
    hits, false = from_the_top(positives)[..., 1:], from_the_top(negatives)[..., 1:]
    found, needless = positives.sum(axis=-1, keepdims=True), negatives.sum(axis=-1, keepdims=True)
    cases, price = np.broadcast_to(found + needless, hits.shape), threshold / (1 - threshold)
    return DecisionCurve(
        threshold=threshold,
        model=ratio(hits - false * price, cases),
        treat_all=ratio(found - needless * price, cases),
    )
