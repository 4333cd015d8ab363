"""A diagnosis as numbers that may leave the site: codes and counts, none of them small enough to point at anybody.

Promises
- A count below the floor is ``"suppressed"``: never zero, never left out. Zero is below every floor and treated alike,
  so that nobody can tell nought from one. Only what does not occur at all (a code, a value) is not listed.
- What is suppressed cannot be computed from the rest, even by somebody who knows these rules and that the values of a
  table add up to the number of patients. For floors of 3 and more, each suppressed count has at least two values that
  give the very same document. (With a floor of 2, "suppressed" means one, whatever else is said; 1 protects nobody.)
- No name of a case, no sentence, no picture, no histogram leaves. A table's value is named only where at least as many
  patients as the floor share it: a value that few people have may be somebody's name, in a column that slipped.

How a table is told:

========================================  =============================================================================
every value is at the floor or above      all counts, and ``"below_floor": "none"``
some values are below the floor           they are not named; ``"below_floor": "suppressed"``. One named value is
                                          suppressed with them, or their sum would follow from the number of patients:
                                          the first by name, because a choice by size would tell something about sizes,
                                          and ``unknown`` last, because a finding tells how many are unknown
these together are below twice the floor  ``"suppressed"`` for the whole table: as a named value is not below the
(or no other value is left)               floor, little would be left to guess
========================================  =============================================================================

A finding's count is told where it is at the floor or above, and so is the number of cases without it, or nought. How
many files were looked at stays at the site: files less cases would give away what is in quarantine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from client.data.case_files import UNKNOWN
from client.data.doctor.findings import Diagnosis, Finding, Severity

SUPPRESSED = "suppressed"
NONE = "none"
FORMAT = "consilium-summary-1"

_BY_WEIGHT: tuple[Severity, ...] = ("error", "warning", "note")

Told = int | str
"""A count, or ``SUPPRESSED``."""


def summary(diagnosis: Diagnosis, floor: int) -> dict[str, object]:
    """The document, ready for JSON.

    Args:
        diagnosis: what the doctor found.
        floor: smallest number of patients or cases that is told, at least 1.

    Raises:
        ValueError: ``floor`` is below 1.
    """
    if floor < 1:
        raise ValueError(f"a disclosure floor is at least 1, got {floor}")
    # Cases beyond one a patient are cases of patients who came twice: these may be few.
    cases = diagnosis.cases if _apart(diagnosis.patients, diagnosis.cases, floor) else SUPPRESSED
    return {
        "format": FORMAT,
        "dataset": diagnosis.dataset,
        "floor": floor,
        "patients": _told(diagnosis.patients, floor),
        "cases": cases,
        "quarantined": {code: _told(count, floor) for code, count in sorted(diagnosis.quarantined.items())},
        "files": SUPPRESSED,
        "tables": {name: table(counts, floor) for name, counts in sorted(diagnosis.tables.items())},
        "findings": _findings(diagnosis, floor),
    }


def table(counts: Mapping[str, int], floor: int) -> dict[str, object] | str:
    """One table of patients by value; see the module for the rules."""
    named = sorted((value for value in counts if counts[value] >= floor), key=lambda value: (value == UNKNOWN, value))
    low = [count for count in counts.values() if count < floor]
    if named and not low:
        return {"counts": {value: counts[value] for value in named}, "below_floor": NONE}
    if len(named) < 2 or sum(low) + counts[named[0]] < 2 * floor:
        return SUPPRESSED
    told = {value: SUPPRESSED if value == named[0] else counts[value] for value in named}
    return {"counts": told, "below_floor": SUPPRESSED}


def _findings(diagnosis: Diagnosis, floor: int) -> dict[str, dict[str, Told]]:
    by_code: dict[str, list[Finding]] = {}
    for finding in diagnosis.findings:
        by_code.setdefault(finding.code, []).append(finding)
    return {code: _finding(found, diagnosis.cases, floor) for code, found in sorted(by_code.items())}


def _finding(found: Iterable[Finding], of: int, floor: int) -> dict[str, Told]:
    """All findings of one code: their worst severity, and how many cases they mean; none where it is the data set."""
    found = tuple(found)
    severity = min((one.severity for one in found), key=_BY_WEIGHT.index)
    count = len({case for one in found for case in one.cases})
    if not count:
        return {"severity": severity, "about": "dataset"}
    return {"severity": severity, "about": "cases", "cases": count if _apart(count, of, floor) else SUPPRESSED}


def _told(count: int, floor: int) -> Told:
    return count if count >= floor else SUPPRESSED


def _apart(part: int, whole: int, floor: int) -> bool:
    """Whether ``part`` of ``whole`` can be told: neither it nor what it leaves is small, though it may be all."""
    return part >= floor and (part == whole or whole - part >= floor)
