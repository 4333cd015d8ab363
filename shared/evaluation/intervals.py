"""95 % intervals that respect patients: the delete-a-group jackknife.

Promises
- Patients are left out in whole groups, with all their images, so images of one person never count as independent.
- Any metric that is a function of summed counts has an interval; nothing is needed beyond the statistics themselves, so
  the interval of a pooled metric is that of all patients in one room.
- Deterministic: groups follow from salted identifiers, not from a generator.
- Speaks of new patients of the same hospitals, in the shares in which they come. It says nothing about new hospitals.

A group *bears* on a metric when it determines the metric by itself or changes it when left out: a group without a
positive case does not bear on sensitivity. With k bearing groups, theta of all patients, d_(j) = theta_(j) - theta of
all but group j, and u_j = d_(j)**2::

    variance  = (k - 1) / k * sum_j u_j                                            Shao & Tu, 1995; Kott, JOS 2001
    freedom   = min(k - 1, (3.16 - 2.77 / sqrt(k)) * (sum_j u_j)**2 / sum_j u_j**2)    Johnson & Rust, 1992
    t         = t(0.975; freedom), half = t * sqrt(variance)

    theta - half .. theta + half                                          no limits
    all p with (p - theta)**2 <= half**2 * p / theta                      a lower limit alone (here 0): distances
    all p with (p - theta)**2 <= half**2 * p (1 - p) / (theta (1 - theta))      proportions

The last one is Wilson's interval with theta (1 - theta) / variance trials in place of a binomial's, and the one before
is what becomes of it far below the upper limit. Few groups that carry the variance leave few degrees of freedom.
``docs/intervals.md`` shows how often each covers the truth, and what was tried besides.

===================================================  =================================================================
edge case                                            interval
===================================================  =================================================================
fewer than two bearing groups                        NaN: one group says nothing about spread
metric or one replicate undetermined                 NaN: that group alone decides whether the metric exists
proportion that no group changes (0, 1, a constant)  Wilson's for as many trials as groups determine the metric by
                                                     themselves; NaN for fewer than two. The jackknife alone would claim
                                                     certainty. Wide on purpose: a group is one trial
exactly on a lower limit alone                       NaN: nothing tells the scale of a distance that never showed
elsewhere without an upper limit, no group matters   the value itself
===================================================  =================================================================

Sources: Shao & Tu, The Jackknife and Bootstrap, 1995; Kott, J Official Statistics 2001;17:521; Johnson & Rust, J
Educational Statistics 1992;17:175; Wilson, JASA 1927;22:209.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from shared.evaluation.additive import CASES, GROUPS, PATIENTS, IntArray, Statistics
from shared.evaluation.undetermined import FloatArray, ratio

LEVEL = 0.95
_TAIL = (1 - LEVEL) / 2
_ROUNDING = 1e-12
"""A smaller change of a metric, relative to 1 or to it, is arithmetic and not a patient."""

MetricsOf = Callable[[Mapping[str, IntArray]], Mapping[str, float]]
Limits = Mapping[str, tuple[float, float]]
"""Range that a metric cannot leave, by name; a metric that is not named has none."""
UNLIMITED = (-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric, its 95 % interval (NaN where it is not determined), and the patients it rests on.

    ``bound`` is how far the value can be from that of unbinned scores; None where it is not taken from bins.
    """

    value: float
    low: float
    high: float
    n_patients: int
    bound: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Replicates:
    """A metric of any number of sets of patients, and of each set without each of its groups.

    Attributes:
        value: of all patients, shape (...).
        left_out: of all but one group, shape (..., groups); the value itself where a group is empty. Where the value
            rests on ungrouped counts too, it is the value plus the change that grouped counts alone see.
        alone: whether the group determines the metric by itself, shape (..., groups).
    """

    value: FloatArray
    left_out: FloatArray
    alone: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """How far chance moves a metric: each of shape (...), NaN where fewer than two groups bear on it.

    Attributes:
        variance: of the metric over sets of patients as large as this one.
        freedom: degrees of freedom of that variance.
        unseen: t**2 / n for n trials, n being the groups that determine the metric by themselves: what takes the place
            of the variance where no group changes the metric.
    """

    variance: FloatArray
    freedom: FloatArray
    unseen: FloatArray


def students_quantile(freedom: FloatArray) -> FloatArray:
    """Student's quantile that leaves half of what the level leaves on each side."""
    return np.asarray(stdtrit(freedom, 1 - _TAIL), np.float64)


def with_intervals(statistics: Statistics, metrics: MetricsOf, limits: Limits) -> dict[str, Interval]:
    """Every metric of ``statistics`` with its interval."""
    patients = int(statistics.counts[PATIENTS].sum())
    found = {}
    for name, of in replicates(statistics, metrics).items():
        low, high = bounds(of, limits.get(name, UNLIMITED))
        found[name] = Interval(float(of.value), float(low), float(high), patients)
    return found


def replicates(statistics: Statistics, metrics: MetricsOf) -> dict[str, Replicates]:
    """Every metric of all patients, of all but each group, and whether each group determines it alone."""
    together = metrics(statistics.total())
    grouped = metrics(statistics.grouped_total()) if statistics.schema.ungrouped else together
    left_out, alone = [grouped] * GROUPS, [dict.fromkeys(together, math.nan)] * GROUPS
    for group in np.flatnonzero(statistics.counts[CASES]).tolist():
        left_out[group] = metrics(statistics.without_group(group))
        alone[group] = dict(metrics(statistics.of_group(group)))
    return {
        name: Replicates(
            np.array(value),
            np.array([of[name] for of in left_out]) + (value - grouped[name] if value != grouped[name] else 0.0),
            np.isfinite([of[name] for of in alone]),
        )
        for name, value in together.items()
    }


def spread(of: Replicates) -> Spread:
    """Variance of the metric by the delete-a-group jackknife, and its degrees of freedom."""
    value = of.value[..., None]
    apart = of.left_out - value
    squares = np.where(np.abs(apart) <= _ROUNDING * np.maximum(np.abs(value), 1.0), 0.0, apart) ** 2
    bearing = np.count_nonzero(of.alone | (squares != 0), axis=-1).astype(np.float64)
    groups, total = np.where(bearing < 2, np.nan, bearing), squares.sum(axis=-1)
    shares = ratio(squares, np.broadcast_to(total[..., None], squares.shape))
    # Shares are undetermined where nothing varies: then there is nothing to correct for.
    few = ratio(3.16 - 2.77 / np.sqrt(groups), (shares**2).sum(axis=-1))
    freedom = np.maximum(np.fmin(groups - 1, few), 1.0)
    alone = np.count_nonzero(of.alone, axis=-1).astype(np.float64)
    trials = np.where(alone < 2, np.nan, alone)
    return Spread((groups - 1) / groups * total, freedom, students_quantile(trials - 1) ** 2 / trials)


def bounds(of: Replicates, limits: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    """Lower and upper bound of the 95 % interval, each of shape (...)."""
    lowest, highest = limits
    chance = spread(of)
    half = students_quantile(chance.freedom) * np.sqrt(chance.variance)
    if math.isfinite(highest - lowest):
        width = highest - lowest
        low, high = _of_proportion((of.value - lowest) / width, half / width, chance)
        return lowest + low * width, lowest + high * width
    if math.isfinite(lowest):
        above = of.value - lowest
        # 0 / 0 on the limit itself: NaN, as promised.
        wide = ratio(half**2, above)
        reach = np.sqrt(wide * above + wide**2 / 4)
        return np.clip(of.value + wide / 2 - reach, lowest, of.value), of.value + wide / 2 + reach
    return of.value - half, of.value + half


def _of_proportion(share: FloatArray, half: FloatArray, chance: Spread) -> tuple[FloatArray, FloatArray]:
    """Wilson's interval; ``wide`` is t**2 over the number of trials."""
    certain = (share <= 0) | (share >= 1) | (chance.variance == 0)
    wide = np.where(certain, chance.unseen, ratio(half**2, share * (1 - share)))
    centre = (share + wide / 2) / (1 + wide)
    reach = np.sqrt(wide * share * (1 - share) + wide**2 / 4) / (1 + wide)
    # Rounding can put a bound of exactly 0, 1 or the share itself on the wrong side of it.
    return np.clip(centre - reach, 0.0, share), np.clip(centre + reach, share, 1.0)
