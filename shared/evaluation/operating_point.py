"""A threshold for use: chosen on pooled validation statistics, held fixed, measured on test patients.

Promises
- ``threshold`` sees validation statistics only. What is measured at it on test patients is honest: its sensitivity may
  miss what was asked for, and its interval says by how much that may be chance.
- A threshold is an edge of the histogram, so what is counted at it is exact: positive is a score of at least it.
- Intervals come from the coarse histogram by group. A threshold inside one of its bins divides it in each group as it
  does over all patients; of what chance does inside that one bin, the interval misses a part.
- One threshold for all sites. It is the largest with at least the stated sensitivity, or the smallest with at least the
  stated specificity: the other of the two is then as large as the bins allow.

===========================  ===================================  ===================================================
metric                       formula                              edge cases
===========================  ===================================  ===================================================
sensitivity                  TP / (TP + FN)                       no positive: NaN
specificity                  TN / (TN + FP)                       no negative: NaN
ppv                          TP / (TP + FP)                       none called positive: NaN
npv                          TN / (TN + FN)                       all called positive: NaN
threshold                    see above                            validation without that class, or no edge reaches
                                                                  what is asked: NaN, and so are the four above
===========================  ===================================  ===================================================

PPV and NPV hold for the prevalence among the cases counted, which is seldom that of a clinic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shared.evaluation.additive import IntArray, Statistics
from shared.evaluation.classification import finding_names, histograms
from shared.evaluation.intervals import Interval, with_intervals
from shared.evaluation.ranking import edges_of, from_the_top
from shared.evaluation.summary import rows
from shared.evaluation.undetermined import FloatArray, named, ratio
from shared.plan import OperatingPoint
from shared.tasks.task import Task


def thresholds(counts: Mapping[str, IntArray], wanted: OperatingPoint) -> FloatArray:
    """The threshold of each finding, shape (F,), from summed validation counts."""
    positives, negatives = histograms(counts)
    edges, found = edges_of(positives.shape[-1])[:-1], at_every_edge(positives, negatives)
    if wanted.sensitivity is not None:
        enough = found["sensitivity"] >= wanted.sensitivity
        which = enough.shape[-1] - 1 - enough[..., ::-1].argmax(axis=-1)
    else:
        # The plan says one of the two.
        enough = found["specificity"] >= (wanted.specificity or 1.0)
        which = enough.argmax(axis=-1)
    return np.where(enough.any(axis=-1), edges[which], np.nan)


def at_every_edge(positives: IntArray, negatives: IntArray) -> dict[str, FloatArray]:
    """The four metrics with the lower edge of each bin as threshold; histograms (..., bins) to the same shape."""
    return _of_table(
        from_the_top(positives),
        from_the_top(negatives),
        positives.sum(-1, keepdims=True),
        negatives.sum(-1, keepdims=True),
    )


def at(counts: Mapping[str, IntArray], chosen: FloatArray) -> dict[str, FloatArray]:
    """The four metrics of each finding at its threshold, shapes (F,); a threshold counts as the edge at or below it.

    NaN determines nothing.
    """
    called = _called(chosen, histograms(counts)[0].shape[-1])
    return _at(counts, chosen, (called, called))


def measured(statistics: Statistics, chosen: FloatArray, findings: Sequence[str]) -> dict[str, Interval]:
    """The four metrics on ``statistics`` at fixed thresholds, with 95 % intervals over patients.

    Several findings give the plain mean by metric, and ``<metric>_<finding>``.
    """
    coarsely, bins = _coarsely(statistics, chosen), histograms(statistics.total())[0].shape[-1]

    def metrics(counts: Mapping[str, IntArray]) -> dict[str, float]:
        if histograms(counts)[0].shape[-1] == bins:
            return named(at(counts, chosen), findings)
        return named(_at(counts, chosen, coarsely), findings)

    return with_intervals(statistics, metrics, dict.fromkeys(metrics(statistics.total()), (0.0, 1.0)))


def chosen_block(task: Task, validation: Statistics, wanted: OperatingPoint) -> dict[str, float | None]:
    """The threshold by finding (the name of a task's only finding is ""), as a round's record keeps it."""
    values = thresholds(validation.total(), wanted).tolist()
    return {name: _number(value) for name, value in zip(finding_names(task.limits), values, strict=True)}


def measured_block(
    task: Task, chosen: Mapping[str, float | None], pooled: Statistics, sites: Mapping[str, Statistics]
) -> dict[str, Any]:
    """What ``chosen_block`` gave, and the four metrics at it on test patients: pooled, and by site where released."""
    findings = finding_names(task.limits)
    fixed = np.array([chosen[name] for name in findings], np.float64)
    return {
        "thresholds": dict(chosen),
        "pooled": rows(measured(pooled, fixed, findings)),
        "sites": {site: rows(measured(of, fixed, findings)) for site, of in sorted(sites.items())},
    }


def _called(chosen: FloatArray, bins: int) -> FloatArray:
    """1 for each bin from the threshold on and else 0, shape (F, bins)."""
    edges = edges_of(bins)[:-1]
    lowest = edges[np.maximum(np.searchsorted(edges, chosen, side="right") - 1, 0)]
    return (edges >= lowest[:, None]).astype(np.float64)


def _at(
    counts: Mapping[str, IntArray], chosen: FloatArray, called: tuple[FloatArray, FloatArray]
) -> dict[str, FloatArray]:
    """The four metrics of each finding where these shares of each bin's positives and negatives are called."""
    (positives, negatives), (yes, no) = histograms(counts), called
    found = _of_table((positives * yes).sum(-1), (negatives * no).sum(-1), positives.sum(-1), negatives.sum(-1))
    return {name: np.where(np.isnan(chosen), np.nan, values) for name, values in found.items()}


def _coarsely(statistics: Statistics, chosen: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Shares of the positives and negatives of each bin by group that are called, over all patients: (F, bins)."""
    bins = histograms(statistics.grouped_total())[0].shape[-1]
    fine = histograms(statistics.total())
    called = _called(chosen, fine[0].shape[-1])
    parts = [np.stack([of * called, of]).reshape(2, len(of), bins, -1).sum(axis=-1) for of in fine]
    positives, negatives = (np.nan_to_num(ratio(above, every)) for above, every in parts)
    return positives, negatives


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _of_table(
    hits: IntArray | FloatArray, false: IntArray | FloatArray, positives: IntArray, negatives: IntArray
) -> dict[str, FloatArray]:
    every, none = np.broadcast_to(positives, hits.shape), np.broadcast_to(negatives, hits.shape)
    missed, cleared = every - hits, none - false
    return {
        "sensitivity": ratio(hits, every),
        "specificity": ratio(cleared, none),
        "ppv": ratio(hits, hits + false),
        "npv": ratio(cleared, cleared + missed),
    }
