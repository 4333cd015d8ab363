"""``consilium-site freeze``: from a data set that the doctor has seen to a signed cohort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from client.commands.clock import Clock
from client.commands.quota import require_fit, share_quarantined
from client.data.archive.archive import Archive
from client.data.cohort import files
from client.data.cohort.freeze import freeze as freeze_archive
from client.data.cohort.manifest import Cohort, SplitRule
from client.data.dataset import Dataset, Examined, state_of
from client.data.doctor.findings import Finding
from client.governance.audit import Event
from client.site_folder import SiteFolder
from shared.errors import SiteDataError


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which terms a cohort is frozen.

    Attributes:
        rule: how patients are divided.
        exclude: salted names of cases, or codes of findings.
        accept: codes of errors that the doctor found and that are taken as they are.
    """

    rule: SplitRule
    exclude: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()


def freeze(site: SiteFolder, name: str, terms: Terms, now: Clock) -> Cohort:
    """Freeze a data set as the doctor last saw it, sign the cohort and make it the current one.

    Raises:
        SiteDataError: the doctor has not looked at this state ("doctor-missing", "doctor-outdated"), found errors that
            nobody settled ("doctor-errors"), too many cases are quarantined ("quota"), or a case is not what was
            stored ("archive-damaged").
    """
    audit, key, dataset = site.audit, site.signing_key(), site.dataset(name)
    audit.require_sound()
    dataset.require_begun()
    with Archive.open(dataset.archive, site.store_key()) as archive:
        examined = _examined(dataset, archive)
        require_fit(share_quarantined(len(archive), len(archive.quarantined())), site.settings.quarantine.quota)
        require_settled(examined.diagnosis.findings, terms)
        # What is signed was read, every byte of it: the doctor may have measured it long before.
        for record in archive.records():
            archive.verify(record)
        who = site.settings.site.name
        cohort = freeze_archive(archive, who, name, terms.rule, terms.exclude, examined.diagnosis.findings)
    digest = files.save(cohort, dataset.cohorts, key)
    counts = _counted(cohort, examined.diagnosis.findings, terms)
    audit.append(Event("freeze", name, counts, {"cohort": digest, "state": examined.state}), now())
    return cohort


def require_settled(findings: Sequence[Finding], terms: Terms) -> None:
    """Raise ``SiteDataError`` ("doctor-errors") where an error is neither left out nor accepted.

    An error is left out when every case it names is, under whichever word; one about the data set as a whole can only
    be accepted.
    """
    out = {case for finding in findings if finding.code in terms.exclude for case in finding.cases} | {*terms.exclude}
    errors = [one for one in findings if one.severity == "error" and one.code not in terms.accept]
    left = sorted({one.code for one in errors if not one.cases or not out.issuperset(one.cases)})
    if left:
        raise SiteDataError(
            f"the doctor reports errors that are neither left out nor accepted: {', '.join(left)}",
            hint=f"mend them and ingest again, or leave their cases out (--exclude {left[0]}), "
            f"or take them as they are (--accept-findings {left[0]})",
            code="doctor-errors",
        )


def _examined(dataset: Dataset, archive: Archive) -> Examined:
    examined = dataset.examined()
    hint = f"consilium-site doctor --dataset {dataset.name}"
    if examined is None:
        raise SiteDataError("the doctor has not looked at this data set yet", hint=hint, code="doctor-missing")
    if examined.state != state_of(archive):
        raise SiteDataError("the data set has changed since the doctor looked at it", hint=hint, code="doctor-outdated")
    return examined


def _counted(cohort: Cohort, findings: Sequence[Finding], terms: Terms) -> dict[str, int]:
    splits: dict[str, int] = Counter(member.split for member in cohort.members)
    accepted = {f"accepted.{one.code}": len(one.cases) for one in findings if one.code in terms.accept}
    return {"cases": len(cohort.members), "excluded": len(cohort.left_out), **splits, **accepted}
