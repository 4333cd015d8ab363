"""Metrics from sums that hold noise, with what the noise costs stated beside each.

Promises
- Sums over sites come first, metrics after: noise of many sites then meets the patients of all of them.
- Only released values and public constants are read, so nothing here costs privacy (post-processing).
- The interval covers patient sampling and noise together, at 95 %; ``Error`` says how much is which.
- ``n_patients`` is an estimate from the same noisy sums. The true number is nowhere.

How. The released values y are M x plus noise of known standard deviation s, with unknown cells x >= 0 and a public
matrix M (``shared.evaluation.design``).

1. Cells: the non-negative x~ nearest to y in released values (Lawson & Hanson 1974). It determines every metric, but
   leans: noise can only add weight to empty cells.
2. Value: the metric of x~ plus its derivative times what the fit left over, y - M x~ (one-step estimator: Bickel, JASA
   1975). This takes the lean away to first order. It is then cut to the metric's range.
3. Spread, by the delta method: noise s * ||h||, where h is the derivative by released value; sampling
   sqrt(sum_j x~_j g_j**2), where g_j is the change by one more patient in cell j. A patient whose images fall into
   several cells varies less than that (Jensen), so sampling is never understated for that reason. Over several blocks,
   which share patients, standard deviations are added up: an upper bound.

================================================  ======================================================================
edge case                                         estimate
================================================  ======================================================================
the cells do not determine the metric             NaN, with NaN limits: undetermined, as without noise
noise larger than the sums                        the interval grows to the whole range: little was learnt, and it shows
================================================  ======================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import nnls

from shared.evaluation.additive import UNIT, IntArray
from shared.evaluation.design import PrivateSchema
from shared.evaluation.undetermined import FloatArray

_QUANTILE = 1.959963984540054
"""Of the standard normal distribution at 0.975."""

_PASSES = 100
"""Most passes of the fit for each cell; it ends sooner."""

PATIENTS = "patients"

CellMetrics = Callable[[FloatArray], Mapping[str, FloatArray]]
"""Cells (N, cells) -> metric by name, shape (N,); ``patients`` among them."""


@dataclass(frozen=True)
class PrivateMeasures:
    """What a task counts and measures where statistics get noise.

    Attributes:
        schema: what leaves a site.
        observe: (scores of one case (K, ...), case) -> its weights, shape (cells,); see ``PrivateSchema.contribution``.
        metrics: cells -> metrics.
        binning: cells (cells,) -> largest error of a metric for values known only by their cell; 0 if not named.
        limits: range of each metric by name; (0, 1) if not named.
    """

    schema: PrivateSchema
    observe: Callable[..., FloatArray]
    metrics: CellMetrics
    binning: Callable[[FloatArray], Mapping[str, float]] = lambda _cells: {}
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Noised:
    """Sums over sites that hold noise.

    Attributes:
        schema: what they are sums of.
        counts: shape (schema.length,), int64, in units of ``UNIT``.
        noise_std: standard deviation of the noise in each of them, in patients (``statistics.summed_std``).
    """

    schema: PrivateSchema
    counts: IntArray
    noise_std: float


@dataclass(frozen=True, slots=True)
class Error:
    """Standard errors by noise and by patient sampling, and the largest error by binning."""

    noise: float
    sampling: float
    binning: float = 0.0

    @property
    def standard(self) -> float:
        """Standard error by noise and sampling together."""
        return math.hypot(self.noise, self.sampling)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric from noisy sums, its 95 % interval, its errors, and about how many patients it rests on."""

    value: float
    low: float
    high: float
    n_patients: int
    error: Error


def estimates(measures: PrivateMeasures, released: Noised) -> dict[str, Estimate]:
    """Every metric of ``measures`` from released sums."""
    fit = _fitted(released)
    now = measures.metrics(fit.cells[None])
    more = measures.metrics(fit.cells + np.eye(len(fit.cells)))
    binning = measures.binning(fit.cells)
    found = {name: _moved(fit, float(now[name][0]), more[name] - now[name][0]) for name in now}
    patients = max(round(found.pop(PATIENTS)[0]), 0)
    return {
        name: _estimate(value, error, patients, measures.limits.get(name, (0.0, 1.0)), binning.get(name, 0.0))
        for name, (value, error) in found.items()
    }


def estimates_block(measures: PrivateMeasures, released: Noised) -> dict[str, Any]:
    """A block of results.json: pooled only, each metric with its error."""
    rows = {name: _row(found) for name, found in estimates(measures, released).items()}
    return {"pooled": rows, "sites": {}, "macro": {}, "worst": {}, "undetermined": {}}


@dataclass(frozen=True, eq=False)
class _Fit:
    """Cells that fit best, what they leave over by block, and the noise's standard deviation."""

    schema: PrivateSchema
    cells: FloatArray
    left_over: list[FloatArray]
    noise_std: float


def _fitted(released: Noised) -> _Fit:
    parts = released.schema.by_value(released.counts.astype(np.float64) * UNIT)
    cells = [
        # A fit that runs out of passes raises, which would end the run: far more than any sum tried has needed.
        nnls(block.matrix, part, maxiter=_PASSES * block.matrix.shape[1])[0]
        for block, part in zip(released.schema.blocks, parts, strict=True)
    ]
    left = [y - b.matrix @ x for b, y, x in zip(released.schema.blocks, parts, cells, strict=True)]
    return _Fit(released.schema, np.concatenate(cells), left, released.noise_std)


def _moved(fit: _Fit, value: float, influence: FloatArray) -> tuple[float, Error]:
    """The one-step value and its errors, from the metric of the fitted cells and the change by one more patient."""
    if not (math.isfinite(value) and np.isfinite(influence).all()):
        return (value if math.isfinite(value) else math.nan), Error(math.nan, math.nan)
    step = noise = sampling = 0.0
    parts = zip(
        fit.schema.blocks, fit.left_over, fit.schema.by_cell(influence), fit.schema.by_cell(fit.cells), strict=True
    )
    for block, left_over, change, cells in parts:
        by_value = np.linalg.lstsq(block.matrix.T, change, rcond=None)[0]
        step += float(by_value @ left_over)
        noise += float(by_value @ by_value)
        sampling += math.sqrt(float(cells @ change**2))
    return value + step, Error(fit.noise_std * math.sqrt(noise), sampling)


def _estimate(value: float, error: Error, patients: int, limits: tuple[float, float], binning: float) -> Estimate:
    if not math.isfinite(error.standard):
        return Estimate(math.nan, math.nan, math.nan, patients, error)
    half = _QUANTILE * error.standard
    ends = np.clip([value, value - half, value + half], *limits).tolist()
    return Estimate(ends[0], ends[1], ends[2], patients, Error(error.noise, error.sampling, binning))


def _row(found: Estimate) -> dict[str, Any]:
    return {
        "value": _number(found.value),
        "low": _number(found.low),
        "high": _number(found.high),
        "n_patients": found.n_patients,
        "error": {name: _number(getattr(found.error, name)) for name in ("noise", "sampling", "binning")},
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
