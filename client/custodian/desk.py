"""The desk: what a custodian does with a parcel, in this order, and nothing before it.

==  ===========================================  =======================================================================
    checked or done                              refused with
==  ===========================================  =======================================================================
1   the order is the pinned lead's, for this     signature-invalid, order-federation, order-expired, order-early
    federation, and holds now
2   the run's key signed this body for this      signature-invalid, site
    site
3   the body is a request, of the order's run    format, entry, array, kind, order-run, order-plan
    and plan
4   people here approved the plan, and did not   not-approved, withdrawn
    withdraw it
5   the policy lets this lead ask, now           policy
6   the plan lets a run ask this                 round, not-in-plan
7   the run goes forwards                        outdated, replayed-otherwise, too-many-runs, sequence-damaged
7a  the roster that comes with a greeting is     roster-older, roster-fork, roster-federation, signature-invalid
    the lead's, and follows the one held here
8   the site answers                             whatever ``client.site`` refuses
9   the receipt is on the disk                   audit-missing, audit-broken, disk-full
10  the reply is signed, and leaves
==  ===========================================  =======================================================================

Promises
- Every parcel is answered, and every answer is signed by this site: a refusal proves that the site refused.
- Nothing leaves without a receipt in the audit log, and refusals have their line there too.
- Whoever cannot prove to be asked by the lead learns which check failed first and what it compared of the order: this
  site's clock and public keys, and nothing of plans, approvals, policy or data.

Approvals, receipts and opening a site are handed in: who they are is ``client.custodian.wiring``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from client.custodian.in_plan import require_in_plan
from client.custodian.sequence import Question, Sequence, ask_again
from client.governance.judgement import permits_now, permits_sender
from client.governance.policy import Policy
from client.site import Site, refusal
from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import ConsiliumError, PolicyError, ProtocolError
from shared.message_bytes import reply_to_bytes, request_from_bytes
from shared.messages import Hello, Refusal, Reply, Request, Train
from shared.parcels import Parcel, digest, require_request, signed_reply
from shared.plan import Plan
from shared.trust.orders import Expected, RunOrder, open_order, require_valid


class Approved(Protocol):
    """A plan that people at this site approved for one of its cohorts."""

    @property
    def plan(self) -> Plan:
        """The plan itself."""
        ...

    @property
    def runs(self) -> int:
        """Most runs that may use the approval."""
        ...

    @property
    def folder(self) -> Path:
        """Where what belongs to the approval is kept."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose sender is proved, and what it is asked under."""

    order: RunOrder
    request: Request
    sha256: str


class Receipts(Protocol):
    """Where decisions and departures are written down; each call returns when the line is on the disk."""

    def leaves(self, asked: Asked, plan: Plan, reply: Reply, body: bytes) -> None:
        """``body``, which is ``reply``, is about to leave."""
        ...

    def refused(self, asked: Asked | None, code: str) -> None:
        """Somebody was refused; None where nobody has proved who asks."""
        ...


@dataclass(frozen=True)
class Standing:
    """Who this site is, and whom it trusts.

    Attributes:
        name: of the site, as enrolled.
        identity: its key.
        federation: the one it is in.
        lead: the key that was pinned when it joined.
    """

    name: str
    identity: SigningKey
    federation: str
    lead: VerifyKey


@dataclass(frozen=True)
class Desk:
    """Answers parcels, one at a time.

    Attributes:
        standing: who this is.
        approved: the approval of a plan's digest; raises ``PolicyError``.
        opened: the site under an approval, with its data and network; slow the first time.
        policy: of this hospital, read anew for each request.
        receipts: of this site.
        now: the time, with a zone.
        members: the active sites of the federation, as its roster says now; a site that knows none crosses no models.
        hold: takes a roster that the lead has sent along, or raises ``ProtocolError``.
        noted: told of each request that may be answered, by its order and plan.
    """

    standing: Standing
    approved: Callable[[str], Approved]
    opened: Callable[[Approved], Site]
    policy: Callable[[], Policy]
    receipts: Receipts
    now: Callable[[], datetime]
    members: Callable[[], frozenset[str]] = frozenset
    hold: Callable[[bytes], None] = lambda _roster: None
    noted: Callable[[RunOrder, Plan], None] = lambda _order, _plan: None

    def answer(self, parcel: Parcel) -> Parcel:
        """The signed reply to ``parcel``; raises ``ConsiliumError`` only where the audit log cannot be written."""
        asked, reply, plan = None, None, None
        try:
            asked = self._proved(parcel)
            approval = self._permitted(asked)
            plan = approval.plan
            reply = self.opened(approval).answer(asked.request)
        except ConsiliumError as error:
            reply = refusal(error, plan) if plan else Refusal(error.code, error.sentence, error.hint)
        body = reply_to_bytes(reply)
        if isinstance(reply, Refusal):
            self.receipts.refused(asked, reply.code)
        else:
            assert asked is not None  # noqa: S101 - only a proved request is answered
            assert plan is not None  # noqa: S101 - only an approved one
            self.receipts.leaves(asked, plan, reply, body)
        return signed_reply(body, self.standing.name, digest(parcel.body), self.standing.identity)

    def _proved(self, parcel: Parcel) -> Asked:
        """Checks 1 to 3."""
        standing = self.standing
        order = open_order(parcel.order, standing.lead)
        require_valid(order, Expected(standing.federation, order.plan_digest), self.now())
        require_request(parcel, order.verify_key, standing.name)
        request = request_from_bytes(parcel.body)
        if not parcel.site and not isinstance(request, Hello):
            raise ProtocolError("only a greeting may be for any site", code="site")
        said = request.envelope
        if (said.run, said.plan_digest) != (order.run, order.plan_digest):
            raise ProtocolError(
                "a request names another run or plan than the order that it comes with",
                hint="nothing was computed; tell the lead",
                code="order-run",
            )
        return Asked(order, request, digest(parcel.body))

    def _permitted(self, asked: Asked) -> Approved:
        """Checks 4 to 7a."""
        approval = self.approved(asked.order.plan_digest)
        policy, lead = self.policy(), self.standing.lead.fingerprint()
        # A round that has begun is finished: only its beginning has hours.
        begins = isinstance(asked.request, Train)
        for refused in (permits_sender(policy, lead, lead), permits_now(policy, self.now()) if begins else None):
            if refused is not None:
                raise PolicyError(refused.sentence, hint=refused.hint)
        require_in_plan(asked.request, approval.plan, self.members())
        if not ask_again(asked.request):
            sequence = Sequence(approval.folder / "runs", approval.runs)
            sequence.admit(asked.order.run, Question.of(asked.request, asked.sha256))
        if isinstance(asked.request, Hello) and asked.request.roster:
            self.hold(asked.request.roster.encode())
        self.noted(asked.order, approval.plan)
        return approval
