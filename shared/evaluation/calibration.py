"""Whether scores are probabilities: reliability curve, calibration error, logistic recalibration, temperature.

Promises
- Everything of a finding is a function of its two histograms and of ``SUMS`` sums of scores, which add up over sites.
- A calibration error here is of scores as they are; nothing is fitted before it is measured.

======================  ============================================================  ==================================
what                    definition                                                    distance from unbinned scores
======================  ============================================================  ==================================
``equal_width``         ten bins, edges at the tenths, lower edge included            none, but for the grid of sums:
                                                                                      2**-21
``equal_mass``          up to ten bins: scores in order, cut after the histogram bin  mean scores within
                        in which a tenth of the cases is complete; equal scores stay  ``score_bound``; shares are exact
                        together                                                      for these cuts
``calibration_error``   sum over bins of (cases in it / cases) times                  as that of the curve
                        abs(mean score - observed share)
                        (Naeini et al., AAAI 2015)
``recalibration``       maximum likelihood fit of P(positive) = expit(intercept +     each log odds within
                        slope * logit(score)), scores cut to [2**-15, 1 - 2**-15]     ``log_odds_bound``; errors fall on
                        first (Cox, Biometrika 1958; Van Calster et al., BMC          both sides, so slopes of simulated
                        Medicine 2019)                                                networks stay within 0.2 %
======================  ============================================================  ==================================

A slope below 1 is overconfidence; an intercept below 0, at a slope of 1, is risk overstated. Both are NaN where the
likelihood has no maximum: one class only, or scores that separate the classes. Without a case every error is NaN.

Temperature (Guo et al., ICML 2017): scores become softmax(logits / T). It changes no decision of exclusive classes and
no order of a finding's scores. T is fitted at a site, on its own validation patients, and stays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logit

from shared.evaluation.additive import UNIT, IntArray
from shared.evaluation.ranking import edges_of
from shared.evaluation.undetermined import FloatArray, ratio

SUMS = 16
"""Bins of sums of scores: four below a tenth, one for each tenth up to nine, four above; every 64th edge of 1,024."""
TENTHS = 10
HOTTEST = 20.0
"""Largest temperature that a fit may give; the smallest is its inverse."""

_OF_SUMS = np.array([0, 4, 5, 6, 7, 8, 9, 10, 11, 12])
"""First bin of sums in each tenth."""
_LEAST = 2.0**-15
_STEPS = 60
_CLOSE = 1e-9


@dataclass(frozen=True, eq=False)
class Reliability:
    """Bins of a reliability curve, lowest scores first; shapes (..., 10). An empty bin has NaN and no case.

    Attributes:
        score: mean score of the bin's cases.
        observed: share of them that is positive.
        cases: their number.
    """

    score: FloatArray
    observed: FloatArray
    cases: IntArray


def sums_of(scores: NDArray[np.float32]) -> IntArray:
    """Each score on the fixed-point grid in its bin of sums: shape (K,) becomes (K, SUMS)."""
    bins = np.searchsorted(edges_of(SUMS)[1:-1], scores, side="right")
    sums = np.zeros((*scores.shape, SUMS), np.int64)
    np.put_along_axis(sums, bins[..., None], np.rint(scores.astype(np.float64) / UNIT).astype(np.int64)[..., None], -1)
    return sums


def middle_sums(cases: IntArray) -> IntArray:
    """The sums (..., SUMS) of as many scores as ``cases`` (..., bins) counts, each in the middle of its bin."""
    edges = edges_of(cases.shape[-1])
    sums = (cases * ((edges[1:] + edges[:-1]) / 2)).reshape(*cases.shape[:-1], SUMS, -1).sum(axis=-1)
    found: IntArray = np.rint(sums / UNIT).astype(np.int64)
    return found


def equal_width(positives: IntArray, negatives: IntArray, sums: IntArray) -> Reliability:
    """Reliability of scores in tenths; histograms (..., bins) and sums of scores (..., SUMS)."""
    first = _OF_SUMS * (positives.shape[-1] // SUMS)
    hits, cases = (np.add.reduceat(counts, first, axis=-1) for counts in (positives, positives + negatives))
    return Reliability(ratio(np.add.reduceat(sums, _OF_SUMS, axis=-1) * UNIT, cases), ratio(hits, cases), cases)


def equal_mass(positives: IntArray, negatives: IntArray, sums: IntArray) -> Reliability:
    """Reliability of tenths of the cases; histograms (..., bins) and sums of scores (..., SUMS)."""
    cases = positives + negatives
    before = cases.cumsum(axis=-1) - cases
    part = np.minimum(TENTHS * before // np.maximum(cases.sum(axis=-1, keepdims=True), 1), TENTHS - 1)
    inside = part[..., None, :] == np.arange(TENTHS)[:, None]
    hits, every = (inside * positives[..., None, :]).sum(-1), (inside * cases[..., None, :]).sum(-1)
    total = (inside * (cases * _means(cases, sums))[..., None, :]).sum(-1)
    return Reliability(ratio(total, every), ratio(hits, every), every)


def calibration_error(curve: Reliability) -> FloatArray:
    """Mean gap between score and observed share, each bin with the weight of its cases: shape (..., 10) to (...)."""
    gaps = np.abs(np.nan_to_num(curve.score) - np.nan_to_num(curve.observed))
    return ratio((curve.cases * gaps).sum(axis=-1), curve.cases.sum(axis=-1))


def score_bound(bins: int) -> float:
    """How far a mean score of ``equal_mass`` can be from that of the unbinned scores."""
    return float(np.diff(edges_of(bins)).max())


def log_odds_bound(bins: int) -> float:
    """How far the log odds that ``recalibration`` takes for a score can be from its own."""
    return float(np.diff(_log_odds_edges(bins)).max() / 2)


def recalibration(positives: IntArray, negatives: IntArray) -> tuple[FloatArray, FloatArray]:
    """Intercept and slope of each finding; histograms (..., bins) to two arrays of shape (...)."""
    shape, bins = positives.shape[:-1], positives.shape[-1]
    edges = _log_odds_edges(bins)
    middle = (edges[1:] + edges[:-1]) / 2
    fits = [
        _fit(middle, hits, hits + misses)
        for hits, misses in zip(positives.reshape(-1, bins), negatives.reshape(-1, bins), strict=True)
    ]
    intercepts, slopes = np.array(fits, np.float64).reshape(-1, 2).T
    return intercepts.reshape(shape), slopes.reshape(shape)


def tempered(scores: FloatArray, temperature: float, kind: Literal["exclusive", "multilabel"]) -> FloatArray:
    """Scores (..., K) as they would be with all logits divided by ``temperature``.

    A power of probabilities is a quotient of logits, so logits are not needed. Scores of 0 and 1 stay as they are.
    """
    if kind == "multilabel":
        cooled: FloatArray = expit(logit(scores) / temperature)
        return cooled
    powers = (scores / scores.max(axis=-1, keepdims=True)) ** (1 / temperature)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def fitted_temperature(
    scores: FloatArray, labels: Sequence[int] | IntArray, kind: Literal["exclusive", "multilabel"]
) -> float:
    """The temperature of least log loss on scores (N, K) and labels (N,), or (N, K) of 0 and 1 for findings.

    Between 1 / HOTTEST and HOTTEST; 1, which changes nothing, without a case.
    """
    if not len(scores):
        return 1.0
    truth = np.asarray(labels, np.intp)
    kept = np.clip(scores, 1e-12, 1 - 1e-12)

    def loss(log_temperature: float) -> float:
        found = tempered(kept, float(np.exp(log_temperature)), kind)
        right = np.where(truth == 1, found, 1 - found) if kind == "multilabel" else found[np.arange(len(truth)), truth]
        return float(-np.log(np.maximum(right, 1e-300)).mean())

    reach = float(np.log(HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=(-reach, reach), method="bounded", options={"xatol": 1e-6}).x))


def _log_odds_edges(bins: int) -> FloatArray:
    edges: FloatArray = logit(np.clip(edges_of(bins), _LEAST, 1 - _LEAST))
    return edges


def _means(cases: IntArray, sums: IntArray) -> FloatArray:
    """Mean score by bin: its middle, moved so that every bin of sums has the sum that was counted."""
    bins = cases.shape[-1]
    edges = edges_of(bins)
    middle = np.broadcast_to((edges[1:] + edges[:-1]) / 2, cases.shape)
    coarse = (*cases.shape[:-1], SUMS, bins // SUMS)
    missing = sums * UNIT - (cases * middle).reshape(coarse).sum(axis=-1)
    shift = np.nan_to_num(ratio(missing, cases.reshape(coarse).sum(axis=-1)))
    # A whole bin of sums moves together, and nothing moves out of its own bin.
    return np.clip(middle + np.repeat(shift, bins // SUMS, axis=-1), edges[:-1], edges[1:])


def _fit(log_odds: FloatArray, hits: IntArray, cases: IntArray) -> tuple[float, float]:
    """Intercept and slope for binned log odds, by Newton's method with halved steps; NaN without a maximum."""
    used = cases > 0
    x, k, n = log_odds[used], hits[used].astype(np.float64), cases[used].astype(np.float64)
    if not _overlap(k > 0, k < n):
        return float("nan"), float("nan")
    # Centred and scaled: the two unknowns then hardly depend on each other, and one tolerance fits both.
    centre, scale = float(n @ x / n.sum()), float(np.ptp(x))
    design = np.stack([np.ones_like(x), (x - centre) / scale])
    found = np.array([logit(k.sum() / n.sum()), scale])
    best = _log_likelihood(found, design, k, n)
    for _ in range(_STEPS):
        chance = expit(found @ design)
        bent = (design * (n * chance * (1 - chance))) @ design.T
        step = np.linalg.lstsq(bent, design @ (k - n * chance), rcond=None)[0]
        while np.abs(step).max() > _CLOSE and _log_likelihood(found + step, design, k, n) < best - _CLOSE:
            step = step / 2
        found = found + step
        best = _log_likelihood(found, design, k, n)
        if np.abs(step).max() <= _CLOSE:
            break
    slope = float(found[1]) / scale
    return float(found[0]) - slope * centre, slope


def _overlap(positive: NDArray[np.bool_], negative: NDArray[np.bool_]) -> bool:
    """Whether neither class lies wholly on one side of the other (a shared last bin is still one side)."""
    above, below = np.flatnonzero(positive), np.flatnonzero(negative)
    return bool(above.size and below.size and above[0] < below[-1] and below[0] < above[-1])


def _log_likelihood(found: FloatArray, design: FloatArray, hits: FloatArray, cases: FloatArray) -> float:
    inclined = found @ design
    return float(hits @ log_expit(inclined) + (cases - hits) @ log_expit(-inclined))
