"""How well an attack tells patients that were trained on from others.

Promises
- Rates are those of all (model, patient) pairs. Everything is a function of scores and truth, without a threshold that
  somebody chose by looking at the answer: the advantage is that of thresholds chosen on the other half of the models.
- Intervals resample patients, with the answers of all models for each: a patient who is easy to find is found by many
  models, which are not so many independent successes.

=====================  ==================================================  ============
measure                meaning                                             guessing
=====================  ==================================================  ============
AUC                    chance that a member scores above a stranger        0.5
TPR at 1 % (10 %) FPR  share of members found, where 1 (10) in 100         0.01 (0.1)
                       strangers are accused: how Carlini et al. (IEEE
                       S&P 2022) want attacks compared
advantage              TPR - FPR (Yeom et al., CSF 2018)                   0
=====================  ==================================================  ============
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from simulations.attacks.bounds import LEVEL, Flags, Reals

Places = NDArray[np.int64]

RESAMPLED = 400


@dataclass(frozen=True, slots=True)
class Curve:
    """A receiver operating characteristic: corners from (0, 0) to (1, 1), one for each distinct score."""

    fpr: Reals
    tpr: Reals


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Success:
    """How well one attack did."""

    auc: Estimate
    tpr_at_1: float
    tpr_at_10: float
    advantage: Estimate


def curve(scores: Reals, members: Flags) -> Curve:
    """The curve of scores against the truth, both of the same shape; ties are one corner."""
    order = np.argsort(-scores, axis=None, kind="stable")
    ordered, truth = scores.ravel()[order], members.ravel()[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    found, accused = np.cumsum(truth)[last], np.cumsum(~truth)[last]
    return Curve(np.append(0.0, accused / max(1, accused[-1])), np.append(0.0, found / max(1, found[-1])))


def auc(scores: Reals, members: Flags) -> float:
    """Chance that a member scores above a stranger, ties counting half (Mann & Whitney 1947); NaN without both."""
    inside = int(members.sum())
    pairs = inside * (members.size - inside)
    ranks = rankdata(scores.ravel())[members.ravel()].sum()
    return float((ranks - inside * (inside + 1) / 2) / pairs) if pairs else float("nan")


def tpr_at(found: Curve, fpr: float) -> float:
    """Largest share of members found with at most this share of false alarms."""
    return float(found.tpr[found.fpr <= fpr].max())


def decisions(scores: Reals, members: Flags) -> Flags:
    """Who is said to be a member, shape (N, P): even models by the best threshold of odd ones, and the reverse."""
    said = np.zeros(scores.shape, bool)
    for half in (0, 1):
        said[half::2] = scores[half::2] >= _best_threshold(scores[1 - half :: 2], members[1 - half :: 2])
    return said


def success(scores: Reals, members: Flags, rng: np.random.Generator) -> Success:
    """All measures of an attack's scores, shape (N, P): model n, patient p."""
    said, found = decisions(scores, members), curve(scores, members)
    return Success(
        auc=_estimate(lambda some: auc(scores[:, some], members[:, some]), scores.shape[1], rng),
        tpr_at_1=tpr_at(found, 0.01),
        tpr_at_10=tpr_at(found, 0.1),
        advantage=_estimate(lambda some: _advantage(said[:, some], members[:, some]), scores.shape[1], rng),
    )


def _best_threshold(scores: Reals, members: Flags) -> float:
    ordered = np.unique(scores)
    found = curve(scores, members)
    # Corner k + 1 of the curve says "member" from the k-th largest score on.
    return float(ordered[::-1][max(0, int(np.argmax(found.tpr - found.fpr)) - 1)])


def _advantage(said: Flags, members: Flags) -> float:
    return float(said[members].mean() - said[~members].mean())


def _estimate(measure: Callable[[Places], float], patients: int, rng: np.random.Generator) -> Estimate:
    tail = (1 - LEVEL) / 2
    drawn = [measure(rng.integers(patients, size=patients)) for _ in range(RESAMPLED)]
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return Estimate(measure(np.arange(patients)), float(low), float(high))
