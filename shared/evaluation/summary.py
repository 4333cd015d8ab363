"""The final numbers of a run: pooled, per site, their mean and the worst.

Promises
- ``pooled`` comes from summed counts: each patient weighs the same, wherever they were treated. ``macro`` is the plain
  mean over sites: each hospital weighs the same.
- A site at which a metric is undetermined (no positive case, say) enters neither ``macro`` nor ``worst`` for that
  metric, and is named under ``undetermined``: it is not counted as good or bad. A metric that no site determines stands
  in neither.
- Where the plan releases only sums, there are no statistics by site, and these parts stay empty.
- A metric taken from bins of scores has ``bound`` beside it: how far it can be from that of the scores themselves. The
  mean over sites is then within the mean of theirs.
- ``final_block`` is the ``final`` object of results.json: plain JSON, with null for what is not a finite number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shared.evaluation.additive import Statistics
from shared.evaluation.intervals import Interval, with_intervals
from shared.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Worst:
    """The site with the worst value of a metric; the first by name of equals."""

    site: str
    value: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Metrics of a run by name; see the module for what each part means.

    Attributes:
        pooled: metric -> interval.
        sites: site -> metric -> interval.
        macro: metric -> mean over sites.
        worst: metric -> worst site.
        undetermined: metric -> sites that do not determine it.
    """

    pooled: Mapping[str, Interval]
    sites: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    macro: Mapping[str, float] = field(default_factory=dict)
    worst: Mapping[str, Worst] = field(default_factory=dict)
    undetermined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def measured(task: Task, statistics: Statistics) -> dict[str, Interval]:
    """Every metric of the task with its interval and, where it is taken from bins, its bound."""
    within, found = task.bounds(statistics.total()), with_intervals(statistics, task.metrics, task.limits)
    return {name: replace(of, bound=within[name]) if name in within else of for name, of in found.items()}


def summarise(task: Task, pooled: Statistics, per_site: Mapping[str, Statistics] | None = None) -> Summary:
    """Metrics with intervals of the summed statistics and, where a plan releases them, of each site's own."""
    together = measured(task, pooled)
    if not per_site:
        return Summary(together)
    sites = {site: measured(task, per_site[site]) for site in sorted(per_site)}
    known = {name: _determined(name, sites) for name in together}
    return Summary(
        pooled=together,
        sites=sites,
        macro={name: math.fsum(values.values()) / len(values) for name, values in known.items() if values},
        worst={name: _worst(values, _badness(task, name)) for name, values in known.items() if values},
        undetermined={
            name: tuple(site for site in sites if site not in values)
            for name, values in known.items()
            if len(values) < len(sites)
        },
    )


def final_block(summary: Summary) -> dict[str, Any]:
    """``summary`` as the ``final`` object of results.json."""
    return {
        "pooled": rows(summary.pooled),
        "sites": {site: rows(metrics) for site, metrics in summary.sites.items()},
        "macro": {name: _number(value) for name, value in summary.macro.items()},
        "worst": {name: {"site": of.site, "value": _number(of.value)} for name, of in summary.worst.items()},
        "undetermined": {name: list(sites) for name, sites in summary.undetermined.items()},
    }


def _determined(name: str, sites: Mapping[str, Mapping[str, Interval]]) -> dict[str, float]:
    values = {site: metrics[name].value for site, metrics in sites.items()}
    return {site: value for site, value in values.items() if math.isfinite(value)}


def _badness(task: Task, name: str) -> Callable[[float], float]:
    """Of a metric's value: the larger, the worse."""
    if name in task.signed:
        return abs
    return float if name in task.lower_is_better else float.__neg__


def _worst(values: Mapping[str, float], badness: Callable[[float], float]) -> Worst:
    site = max(values, key=lambda of: badness(values[of]))
    return Worst(site, values[site])


def rows(metrics: Mapping[str, Interval]) -> dict[str, dict[str, float | int | None]]:
    """Metrics as plain JSON: value, bounds of the interval and patients, with null for what is not a finite number.

    A determined metric that is taken from bins has ``bound`` too.
    """
    return {name: _row(found) for name, found in metrics.items()}


def _row(found: Interval) -> dict[str, float | int | None]:
    row: dict[str, float | int | None] = {
        "value": _number(found.value),
        "low": _number(found.low),
        "high": _number(found.high),
        "n_patients": found.n_patients,
    }
    stated = found.bound is not None and math.isfinite(found.value)
    return row | {"bound": found.bound} if stated else row


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
