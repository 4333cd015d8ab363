"""The arms of a comparison: the federation, its personalised models, pooled training, each site alone.

Promises
- Every arm is measured on the same test patients, those of all sites, so that the numbers stand side by side. The
  personalised arm is the exception its name states: each site's own model on that site's own patients.
- An arm that was not run is absent; more single sites than fit into one glance are one arm, their median and range.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from server.report.metrics import Measure, measure, ordered
from server.report.run import Run

MOST_SINGLE_SITES = 12

Kind = Literal["federation", "personalised", "central", "local"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training, with all its metrics on all test patients."""

    name: str
    kind: Kind
    metrics: Mapping[str, Measure]

    def measure(self, metric: str) -> Measure:
        """The metric, undetermined where this arm does not have it."""
        return self.metrics.get(metric, measure(None))


def arms_of(run: Run) -> list[Arm]:
    """All arms of a run: the federation first, single sites last, from best to worst."""
    results = run.results
    found = [_arm("Federation", "federation", results.final["pooled"])]
    if results.personalised and results.personalised.get("pooled"):
        found.append(_arm("Federation, then own-site steps", "personalised", results.personalised["pooled"]))
    if central := results.baselines.get("central"):
        found.append(_arm("All data in one room", "central", central))
    return found + single_sites(run)


def single_sites(run: Run) -> list[Arm]:
    """Arms of sites that trained alone, from best to worst in the headline metric, undetermined ones last."""
    local = [_arm(f"{site} alone", "local", raw) for site, raw in run.results.baselines.get("local", {}).items()]
    sign = 1 if run.headline in run.results.lower_is_better else -1

    def rank(arm: Arm) -> tuple[bool, float, str]:
        measured = arm.measure(run.headline)
        return (not measured.determined, sign * measured.value if measured.determined else 0.0, arm.name)

    return sorted(local, key=rank)


def at_a_glance(arms: list[Arm]) -> list[Arm]:
    """``arms``, with more than ``MOST_SINGLE_SITES`` single sites drawn together into their median and range."""
    local = [arm for arm in arms if arm.kind == "local"]
    if len(local) <= MOST_SINGLE_SITES:
        return arms
    names = ordered((name for arm in local for name in arm.metrics), "")
    spread = {name: _spread([arm.measure(name) for arm in local]) for name in names}
    drawn = Arm(f"Single sites: median, range of {len(local)}", "local", spread)
    return [arm for arm in arms if arm.kind != "local"] + [drawn]


def _spread(measures: list[Measure]) -> Measure:
    values = [measured.value for measured in measures if measured.determined]
    return Measure(statistics.median(values), min(values), max(values)) if values else measure(None)


def _arm(name: str, kind: Kind, raw: Mapping[str, Any]) -> Arm:
    return Arm(name, kind, {metric: measure(value) for metric, value in raw.items()})
