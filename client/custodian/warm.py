"""Sites kept open between rounds: data mapped, network built, mechanism tested, ready for the next question.

Promises
- What a plan needs is opened with its first question and stays; of several plans the last ``KEPT`` asked for do. What
  is closed has forgotten the secrets of its sums, whoever may still hold it.
- What is opened is what was approved: the cohort by its digest, as this site signed it, and prepared cases whose key
  covers the plan and the code. A cohort that has changed since is refused, not prepared again under a coordinator's
  deadline.
- Under patient-level privacy the site pays from its own ledger, to the cap of its own policy.
- Under secure aggregation it agrees on masks with the active sites of the roster as it is then, and with nobody else.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from client.data.archive.archive import Archive
from client.data.cohort import files
from client.data.cohort.manifest import Cohort
from client.data.prepared.cache import prepared_store
from client.data.prepared.site_data import load_site_data
from client.data.progress import Progress, silent
from client.enrolment import require_pinned
from client.governance.ledger import Ledger
from client.governance.paid import Till
from client.governance.policy import cap
from client.governance.replies import Replies
from client.governance.spending import CohortPatients
from client.protected import Guard
from client.secure.party import Identity, Party
from client.secure.released import Notes
from client.secure.summing import Summing
from client.site import Site
from client.site_folder import LEDGER, SiteFolder
from client.workbench import Workbench
from shared.crypto.signing import VerifyKey
from shared.plan import Plan
from shared.secure.threshold import rule_of

KEPT = 2
REPLIES, PERSONAL, SUMS = "replies", "personal", "sums"


class Opening(Protocol):
    """What is needed to open a site under a plan."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        ...

    @property
    def dataset(self) -> str:
        """The data set whose cohort was approved."""
        ...

    @property
    def cohort(self) -> str:
        """Digest of that cohort."""
        ...

    @property
    def folder(self) -> Path:
        """Where what belongs to the approval is kept."""
        ...


@dataclass
class Warm:
    """Sites of one folder by plan.

    Attributes:
        site: the folder.
        now: the time, with a zone, for the ledger.
    """

    site: SiteFolder
    now: Callable[[], datetime]
    _open: OrderedDict[str, Site] = field(default_factory=OrderedDict, init=False)

    def opened(self, opening: Opening) -> Site:
        """The site under ``opening``; raises ``ConsiliumError`` where it cannot take part."""
        digest = opening.plan.digest()
        if digest not in self._open:
            while len(self._open) >= KEPT:
                self.forget(next(iter(self._open)))
            self._open[digest] = open_site(self.site, opening, self.now)
        self._open.move_to_end(digest)
        return self._open[digest]

    def forget(self, digest: str) -> None:
        """Close what is open for a plan, if anything is."""
        closed = self._open.pop(digest, None)
        if closed is not None and closed.summing is not None:
            for run in closed.summing.runs:
                closed.summing.forget(run)

    @property
    def plans(self) -> tuple[str, ...]:
        """Digests of the plans that are open."""
        return tuple(self._open)

    def sums(self) -> Iterator[tuple[str, Summing]]:
        """What masks under each plan that is open, by its digest."""
        yield from ((digest, site.summing) for digest, site in self._open.items() if site.summing is not None)


def open_site(folder: SiteFolder, opening: Opening, now: Callable[[], datetime], progress: Progress = silent) -> Site:
    """Data, network and guard of the site under ``opening``; prepares cases where that was not done."""
    name, dataset = folder.settings.site.name, folder.dataset(opening.dataset)
    cohort = files.load(dataset.cohorts, folder.signing_key().verify_key, opening.cohort)
    bench = Workbench.for_plan(opening.plan, opening.folder)
    with Archive.open(dataset.archive, folder.store_key()) as archive:
        store = prepared_store(dataset.prepared, cohort, archive, opening.plan, bench.task, progress=progress)
    data = load_site_data(store, cohort, opening.plan)
    guard = _guard(folder, cohort, opening, now)
    return Site(name, data, bench, opening.folder / PERSONAL, guard, _summing(folder, opening))


def _summing(folder: SiteFolder, opening: Opening) -> Summing | None:
    if not opening.plan.secure_aggregation.enabled:
        return None
    identity = Identity(folder.settings.site.name, folder.signing_key())
    agreed, notes = rule_of(opening.plan), Notes(folder.path / SUMS)
    return Summing(Party(identity, partial(_members, folder), agreed, notes, os.urandom), opening.plan)


def _members(folder: SiteFolder) -> dict[str, VerifyKey]:
    return {one.site: one.verify_key for one in require_pinned(folder).roster.sites if one.state == "active"}


def _guard(folder: SiteFolder, cohort: Cohort, opening: Opening, now: Callable[[], datetime]) -> Guard | None:
    if opening.plan.privacy.unit == "none":
        return None
    ledger = Ledger.open(folder.path / LEDGER)
    ledger.enrol(CohortPatients.of(cohort), now())
    return Guard(cohort.digest(), Till(ledger, Replies(folder.path / REPLIES), cap(folder.policy), now))
