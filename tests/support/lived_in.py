"""A hospital that has been at work: enrolled, with an approval, a budget that was spent, and messages that left."""

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from report_runs import PRIVATE
from small_ledger import claim, cohort, sha
from small_trust import DAY, HOUR, NOW, authority_pem, new_site

from client.custodian.service import Service, listen
from client.custodian.wiring import SOCKET
from client.custodian.wiring import TOKEN as RELAY_TOKEN
from client.enrolment import accept, request
from client.governance.approvals import Terms, record, withdraw
from client.governance.audit import Event
from client.governance.ledger import Ledger
from client.site_folder import LEDGER, SiteFolder
from shared.crypto.signing import SigningKey
from shared.parcels import Parcel
from shared.plan import Plan, parse
from shared.privacy.accounting import Cap
from shared.privacy.events import Event as Paid
from shared.trust import roster as rosters
from shared.trust.documents import seal
from shared.trust.enrolment import Coordinator, make_welcome, open_request
from shared.trust.plans import sign_plan

EVENT = Paid(1.2, 0.064, 50)
LEFT = ((1, 40_960), (2, 40_960), (3, 51_200))
"""Round and bytes of each update that left."""


@dataclass
class Hospital:
    """A site folder and its lead."""

    site: SiteFolder
    lead: SigningKey = field(default_factory=SigningKey.generate)
    plan: Plan = field(default_factory=lambda: parse(PRIVATE))

    @property
    def run(self) -> Path:
        folder = self.site.path / "run"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def join(self) -> None:
        entry = open_request(request(self.site, NOW)).entry
        roster = rosters.with_site(rosters.first("lungs", NOW), entry, NOW)
        coordinator = Coordinator("lungs", "lead.example:443", authority_pem())
        content = make_welcome(self.lead, coordinator, seal(roster, self.lead), entry.site, NOW)
        accept(self.site, content, NOW)

    def approve(self, by: str = "m.curie") -> None:
        content = sign_plan(self.plan, self.lead, NOW)
        record(self.site, content, Terms("lesions", sha("first"), 2, by), NOW)

    def withdraw(self) -> None:
        withdraw(self.site, self.plan.digest(), "m.curie", NOW + HOUR)

    def pay(self, rounds: int = 2) -> None:
        ledger = Ledger.open(self.site.path / LEDGER)
        ledger.enrol(cohort("first", train=("p1", "p2"), validation=("p3",), test=("p4",)), NOW)
        for number in range(1, rounds + 1):
            granted = ledger.reserve(claim(number=number), EVENT, Cap(10, 1e-5), NOW)
            ledger.release(granted.number, sha(f"reply {number}"), NOW)

    def send(self, at: datetime = NOW) -> None:
        for place, (number, octets) in enumerate(LEFT):
            counts = {"round": number, "bytes": octets, "tensors": 1}
            self.note(Event("leaves-update", "lesions", counts), at + place * HOUR)
        self.note(Event("refused-train", counts={"code.replayed-otherwise": 1, "round": 3}), at + 4 * HOUR)

    def note(self, event: Event, at: datetime) -> None:
        self.site.audit.append(event, at)

    def session(self) -> None:
        """The SuperNode began, and then opened a session."""
        for place, name in enumerate(("superexec.secret", "session.json")):
            (self.run / name).write_text("{}")
            os.utime(self.run / name, (1000.0 + place, 1000.0 + place))


def hospital(path: Path) -> Hospital:
    """One that has worked for some days."""
    found = Hospital(new_site(path))
    found.join()
    found.approve()
    found.pay()
    found.send()
    return found


@contextmanager
def custodian(run: Path, said: Mapping[str, Any] | None = None) -> Iterator[Service]:
    """The custodian's real socket, before a desk that only echoes."""
    token = secrets.token_hex(32)
    (run / RELAY_TOKEN).touch(0o640)
    (run / RELAY_TOKEN).write_text(token + "\n")
    service = Service(token, lambda parcel: Parcel(parcel.site, parcel.body), lambda: said or {"site": "aachen"})
    server = listen(service, run / SOCKET)
    try:
        yield service
    finally:
        server.stop(0).wait()
        (run / SOCKET).unlink(missing_ok=True)


@contextmanager
def supernode(run: Path) -> Iterator[None]:
    """The lock that a SuperNode holds."""
    with (run / "supernode.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def week_later() -> datetime:
    """Three days after everything: within the week."""
    return NOW + 3 * DAY + timedelta(minutes=1)
