"""How the models of one run differ on the same patients, as ``differences`` of results.json holds it.

Promises
- An entry is ``second`` minus ``first`` for every metric with its 95 % interval (``shared.evaluation.paired``): both
  models are measured without the same patient groups, and no case leaves a site for it.
- Where a pair was not measured on the same patients the entry says so in a sentence (``reason``) and has no numbers.
- Where sites are released and some site answered for one model alone, the others are compared.

======================================  ==========================================================  ==================
pair                                    what it asks                                                patients
======================================  ==========================================================  ==================
federation, the initial model           has the federation learned anything                         test
federation, all data in one room        what is lost by not pooling                                 test
federation, mean of single sites        what a site gains on average                                test
own-site steps, federation              what fine-tuning adds, each site on its own patients        test
last round, first measured round        was training still worth it                                 validation
======================================  ==========================================================  ==================

Pairs with the initial model and with baselines exist in simulations only (``simulations.analyses``), the others
wherever a plan asks for them. Statistics that hold noise are not paired: the noise of two releases does not cancel.

Leaves to others: measuring, and showing (``server.report.differences``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.intake import Measurement
from shared.errors import RunError
from shared.evaluation.additive import Statistics
from shared.evaluation.paired import paired_with_mean
from shared.evaluation.summary import rows
from shared.tasks.task import Task

FEDERATION, INITIAL, CENTRAL, LOCAL_MEAN, PERSONALISED = (
    "federation",
    "initial",
    "central",
    "local-mean",
    "personalised",
)

Patients = Literal["test", "validation"]
Entry = dict[str, Any]
"""``first``, ``second``, ``patients``, ``metrics`` (metric -> interval), ``reason`` (empty where there are metrics)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Names of two models, and the patients that both were measured on."""

    first: str
    second: str
    patients: Patients = "test"


def entry(task: Task, pair: Pair, firsts: Sequence[Statistics], second: Statistics) -> Entry:
    """``second`` minus the mean of ``firsts``, or the reason why there is no such difference."""
    try:
        return _entry(pair, metrics=rows(paired_with_mean(firsts, second, task.metrics, task.limits)))
    except RunError as error:
        return _entry(pair, reason=error.sentence)


def measured_entry(task: Task, pair: Pair, first: Measurement, second: Measurement) -> Entry:
    """The same of two measurements, at the sites that answered for both."""
    if not (isinstance(first.pooled, Statistics) and isinstance(second.pooled, Statistics)):
        return _entry(pair, reason="the statistics hold noise, which does not cancel")
    common = sorted(first.sites.keys() & second.sites.keys())
    if not common:
        return entry(task, pair, [first.pooled], second.pooled)
    zero = Statistics.zero(task.schema)
    one, two = (sum((of.sites[site] for site in common), zero) for of in (first, second))
    return entry(task, pair, [one], two)


def _entry(pair: Pair, metrics: Any = None, reason: str = "") -> Entry:  # noqa: ANN401 - JSON
    named = {"first": pair.first, "second": pair.second, "patients": pair.patients}
    return {**named, "metrics": metrics or {}, "reason": reason}
