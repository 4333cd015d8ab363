"""How two models, or two rounds of one, differ on the same patients: from their statistics alone.

Promises
- Every metric that is a function of summed counts has a difference with a 95 % interval; no case leaves a site for it.
- Both models are measured without the same group of patients, group by group, so what makes a patient easy or hard
  cancels. Images of one person stay together.
- Several models can stand as one: their mean is a metric too, and what it owes to its patients is not counted twice.
- Statistics of other patients are refused by the number of patients and of cases in each group.

With d_(j) the difference without group j, variance and degrees of freedom are those of ``intervals`` for the metric
"second minus first", and the interval is symmetric, cut to what a difference can be::

    d - t * sqrt(variance) .. d + t * sqrt(variance)

===================================================  =================================================================
edge case                                            interval of the difference
===================================================  =================================================================
one of the two undetermined, or fewer than two       NaN
groups bear on the difference
no group changes the difference of proportions       the difference give or take Wilson's bound for none of k trials,
(two models that nothing tells apart, say)           where k groups determine both metrics by themselves: wide on
                                                     purpose, for what was not seen is not absent
no group tells the two apart, other metrics          NaN: nothing tells the scale of a difference that never showed
===================================================  =================================================================

Left to others: that the truth is the same on both sides (equal counts cannot show that), and comparisons from saved
predictions, which resample patients one by one (``server/report/paired.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from shared.errors import RunError
from shared.evaluation.additive import CASES, PATIENTS, Statistics
from shared.evaluation.intervals import (
    UNLIMITED,
    Interval,
    Limits,
    MetricsOf,
    Replicates,
    bounds,
    replicates,
    spread,
)
from shared.evaluation.undetermined import FloatArray


def paired_intervals(first: Statistics, second: Statistics, metrics: MetricsOf, limits: Limits) -> dict[str, Interval]:
    """Second minus first for every metric, with its interval.

    Raises:
        RunError: the two were not measured by one definition on the same patients.
    """
    return paired_with_mean((first,), second, metrics, limits)


def paired_with_mean(
    firsts: Sequence[Statistics], second: Statistics, metrics: MetricsOf, limits: Limits
) -> dict[str, Interval]:
    """Second minus the plain mean of each metric over the models ``firsts``, at least one, with its interval.

    All models are measured without the same group. The mean is undetermined where one model's metric is.

    Raises:
        RunError: two of them were not measured by one definition on the same patients.
    """
    for first in firsts:
        _refuse_other_patients(first, second)
    each, two = [replicates(first, metrics) for first in firsts], replicates(second, metrics)
    patients = int(second.counts[PATIENTS].sum())
    found = {}
    for name, after in two.items():
        of = difference(_mean([one[name] for one in each]), after)
        low, high = difference_bounds(of, limits.get(name, UNLIMITED))
        found[name] = Interval(float(of.value), float(low), float(high), patients)
    return found


def difference(first: Replicates, second: Replicates) -> Replicates:
    """Second minus first as a metric of its own."""
    return Replicates(second.value - first.value, second.left_out - first.left_out, first.alone & second.alone)


def difference_bounds(of: Replicates, limits: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    """Bounds of the 95 % interval of a ``difference`` of metrics with these limits, each of shape (...)."""
    width, chance = limits[1] - limits[0], spread(of)
    low, high = bounds(of, UNLIMITED)
    if not math.isfinite(width):
        unseen = (chance.variance == 0) & (of.value == 0)
        return np.where(unseen, np.nan, low), np.where(unseen, np.nan, high)
    reach = np.where(chance.variance == 0, width * chance.unseen / (1 + chance.unseen), 0.0)
    return np.maximum(low - reach, -width), np.minimum(high + reach, width)


def _mean(models: Sequence[Replicates]) -> Replicates:
    """The mean of a metric over models as a metric of its own."""
    return Replicates(
        np.mean([of.value for of in models], axis=0),
        np.mean([of.left_out for of in models], axis=0),
        np.all([of.alone for of in models], axis=0),
    )


def _refuse_other_patients(first: Statistics, second: Statistics) -> None:
    if first.schema != second.schema:
        raise RunError(
            f"statistics under {first.schema.definition} and {second.schema.definition} cannot be paired",
            hint="measure both models with one version of the software",
        )
    for counted in (PATIENTS, CASES):
        one, two = first.counts[counted], second.counts[counted]
        if (one != two).any():
            raise RunError(
                f"{np.count_nonzero(one != two)} of {len(one)} groups hold other {counted}: "
                f"{one.sum()} in all on the first side, {two.sum()} on the second",
                hint="compare models on the same test patients, or treat them as independent",
            )
