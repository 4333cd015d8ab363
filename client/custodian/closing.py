"""When the secrets of secure sums are forgotten: none outlives what it was drawn for.

====================================================  =============================================================
what is over                                          what is forgotten
====================================================  =============================================================
a plan: its approval was withdrawn or does not open   everything that is open for it
this site's place in the federation: suspended,       the sums of every plan
removed, or what it holds of it does not open
a run: the time of its order                          its sums
a sum: for ``SILENT`` deadlines of the plan the run   the sums of this run
has asked nothing
====================================================  =============================================================

Promises
- It is looked at before each parcel, and by the custodian's process every few seconds in between: nobody has to ask
  anything more for a withdrawal to take secrets away. What has not been noted as going on is over.
- Forgetting costs a sum at most. A run that goes on after all is offered new keys with the next question; what was
  unmasked, what was paid and what a run has asked are on the disk, and stay there.

No coordinator says that a run is over. But one waits for each step of a sum no longer than the plan's deadline, and
asks for the next within it: a site that hears nothing for two has been left out, or the run has ended. Two runs of one
plan may go on side by side, so that a new one ends no other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from client.custodian.warm import Warm
from client.enrolment import require_pinned
from client.governance import approvals
from client.site_folder import SiteFolder
from shared.errors import ConsiliumError
from shared.plan import Plan
from shared.trust.documents import moment
from shared.trust.orders import LONGEST, SKEW, RunOrder

SILENT = 2
"""Deadlines of a plan in which a run that goes on asks at least once."""


@dataclass(frozen=True)
class Closing:
    """What is open at a site, and how long each run may go on.

    Attributes:
        site: the folder.
        warm: what is open.
    """

    site: SiteFolder
    warm: Warm
    _until: dict[tuple[str, str], datetime] = field(default_factory=dict, init=False, repr=False)

    def asked(self, order: RunOrder, plan: Plan, now: datetime) -> None:
        """Note that a run has asked something that may be answered: it goes on for a while."""
        silent = timedelta(seconds=min(SILENT * plan.participation.deadline_s, LONGEST.total_seconds()))
        self._until[order.plan_digest, order.run] = min(moment(order.expires) + SKEW, now + silent)

    def close(self, now: datetime) -> None:
        """Forget what is over."""
        for digest in self.warm.plans:
            if not self._approved(digest):
                self.warm.forget(digest)
        for key in [key for key, until in self._until.items() if until < now]:
            del self._until[key]
        active = self._active()
        for digest, summing in self.warm.sums():
            for run in summing.runs:
                if not active or (digest, run) not in self._until:
                    summing.forget(run)

    def _approved(self, digest: str) -> bool:
        try:
            approvals.find(self.site, digest)
        except (ConsiliumError, OSError):
            return False
        return True

    def _active(self) -> bool:
        try:
            return require_pinned(self.site).standing == "active"
        except (ConsiliumError, OSError):
            return False
