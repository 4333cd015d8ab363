"""Receipts: a line in the audit log for each message that leaves, and for whoever is refused.

Promises
- A line is on the disk before its message leaves, and says what it is, how large, by which digest it can be recognised,
  under which plan, run and round it was asked for, and, where it was noised, with how much noise, and what the patients
  who have paid most have paid since (epsilon, at the delta of the policy). Where sites share the noise, it says how
  much is left if all other sites collude (``alone``); where they ever have, what was paid then (``epsilon_alone``).
- What was approved when it was asked for and is not any more does not leave.
- The log cannot be filled from outside: of refusals whose sender nobody knows ``UNPROVED`` are written in an hour, of
  others ``PROVED``, and then how many there were more; ``ANSWERS`` messages leave in an hour, and no more.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from client.governance.approvals import Approval
from client.governance.audit import Event
from client.governance.ledger import Ledger
from client.governance.spending import cost, if_all_collude
from client.site_folder import LEDGER, SiteFolder
from shared.errors import CapacityError, ConsiliumError
from shared.messages import (
    Cross,
    Evaluate,
    Mask,
    Masked,
    Measured,
    Personalise,
    Reply,
    Request,
    Shared,
    Split,
    SumStep,
    Train,
    Update,
)
from shared.plan import Plan
from shared.privacy.accounting import epsilon
from shared.privacy.terms import statistics_terms, terms_for

if TYPE_CHECKING:
    from client.custodian.desk import Asked

UNPROVED, PROVED, ANSWERS = 60, 600, 20_000
_HOUR = timedelta(hours=1)
_CODE = re.compile(r"[a-z0-9][a-z0-9._-]{0,50}")


@dataclass
class Allowance:
    """So many an hour; counts the others."""

    most: int
    began: datetime | None = None
    used: int = 0
    more: int = 0

    def admit(self, now: datetime) -> int:
        """Begin another hour if it is time; give how many of the hour before were not admitted."""
        missed = 0
        if self.began is None or not self.began <= now < self.began + _HOUR:
            missed, self.began, self.used, self.more = self.more, now, 0, 0
        self.used += 1
        self.more += not self.admitted
        return missed

    @property
    def admitted(self) -> bool:
        """Whether the last one was within what is allowed."""
        return self.used <= self.most


@dataclass
class Receipts:
    """Receipts of a site.

    Attributes:
        site: whose audit log and ledger they are.
        approved: the approval of a plan's digest; raises ``ConsiliumError``.
        now: the time, with a zone.
    """

    site: SiteFolder
    approved: Callable[[str], Approval]
    now: Callable[[], datetime]
    _unproved: Allowance = field(default_factory=lambda: Allowance(UNPROVED), init=False)
    _proved: Allowance = field(default_factory=lambda: Allowance(PROVED), init=False)
    _answers: Allowance = field(default_factory=lambda: Allowance(ANSWERS), init=False)

    def leaves(self, asked: Asked, plan: Plan, reply: Reply, body: bytes) -> None:
        """``body``, which is ``reply``, is about to leave.

        Raises:
            PolicyError: the approval was withdrawn meanwhile.
            CapacityError: more has left in this hour than may ("too-many-answers").
            SiteDataError: the log cannot be written, or the ledger not be read.
        """
        try:
            approval = self.approved(plan.digest())
            self._require_allowed()
        except ConsiliumError as error:
            self.refused(asked, error.code)
            raise
        counts = {"round": asked.request.envelope.round, "bytes": len(body), **_size(reply), **_split(asked.request)}
        digests = _asked(asked) | {"message": hashlib.sha256(body).hexdigest(), "cohort": approval.cohort}
        figures = self._figures(asked.request, approval)
        name = f"leaves-{type(reply).__name__.lower()}"
        self.site.audit.append(Event(name, approval.dataset, counts, digests, figures), self.now())

    def refused(self, asked: Asked | None, code: str) -> None:
        """Somebody was refused; None where nobody has proved who asks."""
        now, allowance = self.now(), self._unproved if asked is None else self._proved
        self._more(allowance.admit(now), now)
        if not allowance.admitted:
            return
        counts = {f"code.{code if _CODE.fullmatch(code) else 'other'}": 1}
        if asked is None:
            self.site.audit.append(Event("refused-unproved", counts=counts), now)
            return
        said = counts | {"round": asked.request.envelope.round} | _split(asked.request)
        self.site.audit.append(Event(f"refused-{_kind(asked.request)}", counts=said, digests=_asked(asked)), now)

    def close(self) -> None:
        """Write down what was counted and not written yet."""
        now = self.now()
        for allowance in (self._unproved, self._proved):
            self._more(allowance.more, now)
            allowance.more = 0

    def _more(self, refusals: int, now: datetime) -> None:
        if refusals:
            self.site.audit.append(Event("refused-more", counts={"refusals": refusals}), now)

    def _require_allowed(self) -> None:
        self._answers.admit(self.now())
        if not self._answers.admitted:
            raise CapacityError(
                f"{ANSWERS} messages have left this site within an hour",
                hint="no run needs as many: see who asks in the site's audit log",
                code="too-many-answers",
            )

    def _figures(self, request: Request, approval: Approval) -> Mapping[str, float]:
        noise = _noise(request, approval.plan, self.site.settings.site.name)
        if not noise:
            return {}
        delta = self.site.policy.privacy.delta
        split = _measured(request) or "train"
        spent = Ledger.open(self.site.path / LEDGER).spending(approval.cohort).splits[split]
        events = [account.all() for account in spent.accounts]
        paid = {
            "epsilon": max(cost(each, delta, epsilon) for each in events),
            "epsilon_alone": if_all_collude(events, delta, epsilon),
        }
        known = {name: said for name, said in paid.items() if said is not None and math.isfinite(said)}
        return {**noise, "delta": delta, **known}


def _noise(request: Request, plan: Plan, site: str) -> dict[str, float]:
    """How an answer is protected; empty where it is not."""
    if plan.privacy.unit == "none":
        return {}
    if isinstance(request, Train) or (isinstance(request, Mask) and request.about == "train"):
        terms = terms_for(plan, site)
        alone = terms.round_event().alone
        said = {"noise_multiplier": float(terms.noise_multiplier), "clip_norm": float(terms.clip_norm)}
        return {**said, "alone": float(alone)} if alone else said
    split = _measured(request) if isinstance(request, Evaluate | Mask) else None
    if split is not None and split != "train" and plan.evaluation.release == "dp":
        return {"noise_multiplier": float(statistics_terms(plan, split).noise_multiplier)}
    return {}


def _measured(request: Request) -> Split | None:
    """Of whose patients an answer is statistics; None of nobody's."""
    if isinstance(request, Evaluate | Personalise):
        return request.split
    if isinstance(request, SumStep) and request.about != "train":
        return "test" if request.about == "personalise" else request.about
    return None


def _size(reply: Reply) -> dict[str, int]:
    """Arrays in the message, and numbers in them."""
    if isinstance(reply, Update):
        return {"tensors": 1, "values": int(reply.values.size), "bits": reply.bits}
    if isinstance(reply, Shared):
        return {"tensors": 1, "values": int(reply.weights.size)}
    if isinstance(reply, Masked):
        return {"tensors": 1, "values": reply.values + reply.counts, "bits": reply.bits}
    return {"tensors": 1, "values": int(reply.counts.size)} if isinstance(reply, Measured) else {"tensors": 0}


def _asked(asked: Asked) -> dict[str, str]:
    return {"plan": asked.order.plan_digest, "run": asked.order.run, "request": asked.sha256}


def _split(request: Request) -> dict[str, int]:
    split = "test" if isinstance(request, Cross) else _measured(request)
    return {} if split is None else {f"split.{split}": 1}


def _kind(request: Request) -> str:
    return type(request).__name__.lower()
