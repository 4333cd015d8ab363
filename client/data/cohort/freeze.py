"""From a data set to the cohort that a hospital approves.

Promises
- A cohort is a function of the archive, the rule and what is excluded: frozen twice, it has the same digest. No clock,
  no path and no order of files enters it.
- What is excluded is said: every case that was left out is named and counted under its reason. A word that names
  neither a case nor a finding is refused, and nothing is frozen.
- Nothing is excluded that nobody asked for: a finding is advice, and cases that could not be read are counted apart.

Memory grows with the number of cases by their names and digests, not by their voxels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from client.data.archive.archive import Archive
from client.data.archive.record import Record
from client.data.cohort.manifest import Cohort, Member, SplitRule
from client.data.cohort.split import split_of
from client.data.doctor.findings import Finding
from shared.errors import SiteDataError
from shared.plan_errors import suggest

BY_NAME = "by-name"
"""Reason of a case that was excluded under its own name; others are excluded under a finding's code."""


def freeze(
    archive: Archive,
    site: str,
    dataset: str,
    rule: SplitRule,
    exclude: Collection[str] = (),
    findings: Sequence[Finding] = (),
) -> Cohort:
    """The cohort of all cases of ``archive`` but those excluded.

    Args:
        archive: the data set.
        site: as enrolled; part of who is trained on (``split_of``).
        dataset: its name.
        rule: how patients are divided.
        exclude: salted names of cases, or codes of findings, which exclude every case that they name.
        findings: what the data doctor found.

    Raises:
        SiteDataError: ``exclude-unknown`` or ``exclude-nothing``.
    """
    reasons = _reasons(archive, exclude, findings)
    members = tuple(_member(one, site, rule) for one in archive.records() if one.case_id not in reasons)
    return Cohort(
        site=site,
        dataset=dataset,
        rule=rule,
        members=members,
        excluded=_counted(reasons.values()),
        quarantined=_counted(one.code for one in archive.quarantined()),
        left_out=tuple(sorted(reasons)),
    )


def _member(record: Record, site: str, rule: SplitRule) -> Member:
    return Member(
        case_id=record.case_id,
        patient=record.patient,
        split=split_of(rule, site, record.patient),
        source_sha256=record.source_sha256,
        content=record.content(),
        shape=record.shape,
        spacing_mm=record.spacing_mm,
        modality=record.modality,
        masked=record.masked,
        label=record.label,
    )


def _reasons(archive: Archive, exclude: Collection[str], findings: Sequence[Finding]) -> Mapping[str, str]:
    """Why each case that is left out is; of several reasons its own name, else the first code in the alphabet."""
    found: dict[str, set[str]] = {}
    for finding in findings:
        found.setdefault(finding.code, set()).update(finding.cases)
    reasons: dict[str, str] = {}
    for place, word in sorted(enumerate(exclude, start=1), key=lambda pair: pair[1], reverse=True):
        if word in found:
            reasons |= dict.fromkeys(_present(archive, word, found[word]), word)
        elif archive.record(word) is None:
            # The word itself is not repeated: somebody may have typed a name.
            raise SiteDataError(
                f"number {place} of the {len(exclude)} exclusions is no case of this data set and no finding",
                hint=suggest(word, found) if found else "name a case as the doctor's report does, or run the doctor",
                code="exclude-unknown",
            )
    return reasons | dict.fromkeys((word for word in exclude if word not in found), BY_NAME)


def _present(archive: Archive, code: str, cases: Collection[str]) -> list[str]:
    present = [case for case in cases if archive.record(case) is not None]
    if not present:
        raise SiteDataError(
            f"the finding {code} names no case of this data set that could be excluded",
            hint="exclude cases by their names",
            code="exclude-nothing",
        )
    return present


def _counted(reasons: Iterable[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(reasons).items()))
