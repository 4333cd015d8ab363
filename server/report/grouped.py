"""How two runs differ on the same test patients, from the statistics that each of them keeps: no case is needed.

Promises
- The same interval as within a run (``shared.evaluation.paired``): exact under summation, by patient groups, for every
  metric of the task.
- Two runs have the same test patients when every site froze the same cohort for both (its digest covers the cases and
  the rule of the split) and the patient groups are as large. Else the reason is returned in place of an interval.

============================================  ==========================================================================
case                                          what happens
============================================  ==========================================================================
a run of which statistics were not kept       not paired: it is older, or a site gave its statistics noise
a site without a digest of its cohort         not paired: nobody can tell whose patients they are
other cohorts, sites, seeds or definitions    not paired; the sentence says which
============================================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from server.differences import Pair, measured_entry
from server.measured import TEST, kept
from server.report.paired import Difference
from server.report.run import Run
from shared.errors import RunError
from shared.tasks import task_for

_TOLD = 3
"""Sites named in one sentence."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A run and where it lies."""

    path: Path
    run: Run


def grouped_difference(metric: str, first: Folder, second: Folder) -> Difference | str:
    """The second run's final model minus the first's, or the reason why there is no paired interval."""
    if reason := _other_patients(_cohorts(first.run), _cohorts(second.run)):
        return reason
    task = task_for(first.run.plan)
    try:
        measured = [kept(one.path, TEST, task.schema) for one in (first, second)]
    except RunError as error:
        return error.sentence
    if measured[0] is None or measured[1] is None:
        return "not both runs keep statistics of their test patients"
    found = measured_entry(task, Pair("first", "second"), measured[0][1], measured[1][1])
    if found["reason"]:
        return str(found["reason"])
    of = found["metrics"].get(metric) or {}
    if of.get("low") is None or of.get("high") is None:
        return "the patients in common do not determine an interval"
    return Difference(of["value"], of["low"], of["high"], of["n_patients"])


def _cohorts(run: Run) -> dict[str, str]:
    return {site: of.cohort for site, of in run.results.data.items()}


def _other_patients(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    unknown = sorted(site for of in (first, second) for site, cohort in of.items() if not cohort)
    if unknown or not first or not second:
        return f"no cohort is known of {_named(unknown) if unknown else 'any site of a run'}"
    other = sorted(site for site in first.keys() | second.keys() if first.get(site) != second.get(site))
    return f"the cohorts of {len(other)} sites are not the same: {_named(other)}" if other else ""


def _named(sites: list[str]) -> str:
    names = list(dict.fromkeys(sites))
    return ", ".join(names[:_TOLD]) + (" and others" if len(names) > _TOLD else "")
