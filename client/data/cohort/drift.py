"""Whether a data set is still the one that was frozen.

Promises
- Everything that training could notice is compared (``Record.content``): voxels, masks, labels, patients, geometry,
  subgroups, and the source files' bytes. Where a case is stored, and when, is not.
- A difference is told in numbers, never in names: which cases they are, the doctor's report at the site can show.

What lies in the archive is taken at its word; that its bytes are those of its records is left to ``Archive.verify``.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.data.archive.archive import Archive
from client.data.cohort.manifest import Cohort
from shared.errors import SiteDataError


@dataclass(frozen=True, slots=True)
class Drift:
    """What changed since a cohort was frozen, in numbers of cases.

    Attributes:
        added: in the data set now, and neither a member nor left out then.
        removed: members that are gone.
        altered: members that are other than they were.
    """

    added: int
    removed: int
    altered: int


UNCHANGED = Drift(0, 0, 0)


def drift(cohort: Cohort, archive: Archive) -> Drift:
    """What changed in ``archive`` since ``cohort`` was frozen."""
    frozen = {member.case_id: member.content for member in cohort.members}
    left_out = set(cohort.left_out)
    added = altered = kept = 0
    for record in archive.records():
        content = frozen.get(record.case_id)
        added += content is None and record.case_id not in left_out
        kept += content is not None
        altered += content is not None and content != record.content()
    return Drift(added, len(frozen) - kept, altered)


def require_unchanged(cohort: Cohort, archive: Archive) -> None:
    """Refuse to go on with a cohort that is no longer there as it was frozen.

    Raises:
        SiteDataError: ``cohort-drift``, with the three numbers.
    """
    found = drift(cohort, archive)
    if found != UNCHANGED:
        raise SiteDataError(
            f"the data set is not the one that was frozen ({len(cohort.members)} cases): "
            f"{found.added} added, {found.removed} removed, {found.altered} altered",
            hint="bring back the data as they were, or freeze them anew and have the new cohort approved",
            code="cohort-drift",
        )
