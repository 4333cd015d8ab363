"""A desk in memory: real keys, orders and site, and approvals and receipts that a test can look into."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tiny_federation import tiny_plan, tiny_site

from client.custodian.desk import Asked, Desk, Standing
from client.governance.policy import Policy
from client.site import Site
from shared.crypto.signing import SigningKey
from shared.errors import PolicyError, ProtocolError, SiteDataError
from shared.message_bytes import reply_from_bytes, request_to_bytes
from shared.messages import Envelope, Reply, Request, Train
from shared.parcels import Body, Parcel, require_reply, signed_request
from shared.plan import Plan
from shared.trust.documents import stamp
from shared.trust.orders import RunOrder, sign_order

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RUN = "ab" * 16


@dataclass
class Book:
    """Approvals and receipts of a test."""

    plan: Plan
    folder: Path
    runs: int = 2
    withdrawn: bool = False
    broken: bool = False
    lines: list[tuple[str, str, int]] = field(default_factory=list)

    def approved(self, digest: str) -> "Book":
        if digest != self.plan.digest() or self.withdrawn:
            raise PolicyError("nobody approved this plan", code="withdrawn" if self.withdrawn else "not-approved")
        return self

    def leaves(self, asked: Asked, plan: Plan, reply: Reply, body: bytes) -> None:
        if self.broken:
            raise SiteDataError("the audit log is gone", code="audit-missing")
        assert (plan, asked.order.run) == (self.plan, asked.request.envelope.run)
        self.lines.append(("leaves", type(reply).__name__, len(body)))

    def refused(self, asked: Asked | None, code: str) -> None:
        self.lines.append(("refused", code, 0 if asked is None else 1))


class Correspondent:
    """A lead with a run, and the one site that it writes to."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.plan = tiny_plan(**changes)
        self.lead, self.run_key, self.identity = (SigningKey.generate() for _ in range(3))
        self.book = Book(self.plan, folder)
        self.site = tiny_site("aachen", self.plan)
        self.weights = self.site.workbench.initial_weights()
        self.opened: list[int] = []
        self.now = NOW
        self.rules = Policy()
        self.members = frozenset({"aachen", "bergen", "coimbra"})
        self.rosters: list[bytes] = []

    def desk(self) -> Desk:
        standing = Standing("aachen", self.identity, "tiny", self.lead.verify_key)
        return Desk(
            standing,
            self.book.approved,
            self._open,
            lambda: self.rules,
            self.book,
            lambda: self.now,
            lambda: self.members,
            self.hold,
        )

    def hold(self, roster: bytes) -> None:
        """Take a roster; one that says so is older."""
        if roster == b"older":
            raise ProtocolError("an older roster", code="roster-older")
        self.rosters.append(roster)

    def _open(self, _approved: object) -> Site:
        self.opened.append(1)
        return self.site

    def order(self, signer: SigningKey | None = None, **changes: Any) -> bytes:
        said: dict[str, Any] = {
            "run": RUN,
            "plan_digest": self.plan.digest(),
            "federation": "tiny",
            "roster_version": 1,
            "run_key": self.run_key.verify_key.hex(),
            "created": stamp(NOW),
            "expires": stamp(NOW + timedelta(days=1)),
        }
        return sign_order(RunOrder(**said | changes), signer or self.lead)

    def envelope(self, round_number: int = 1, run: str = RUN) -> Envelope:
        return Envelope(run, self.plan.digest(), round_number)

    def train(self, round_number: int = 1, add: float = 0.0, run: str = RUN) -> Train:
        return Train(self.envelope(round_number, run), (self.weights + np.float32(add)).astype(np.float32))

    def parcel(self, request: Request, site: str = "aachen", order: bytes | None = None) -> Parcel:
        return signed_request(Body.of(request_to_bytes(request)), site, order or self.order(), self.run_key)

    def ask(self, request: Request, change: Callable[[Parcel], Parcel] = lambda parcel: parcel, **how: Any) -> Reply:
        parcel = change(self.parcel(request, **how))
        reply = self.desk().answer(parcel)
        require_reply(reply, Body.of(parcel.body).sha256, self.identity.verify_key)
        assert reply.site == "aachen"
        return reply_from_bytes(reply.body)
