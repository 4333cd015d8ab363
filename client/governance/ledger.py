"""The privacy ledger of a site: which patients have paid for what left, over all runs; append-only.

Promises
- Reserve before release. ``reserve`` returns when the event is on the disk, and refuses before the patients who have
  paid most would pay more than the cap. A crash after it wastes what was reserved and leaks nothing.
- One reservation for each claim. The same question again is charged once, however often it is asked; another question
  under the same name is refused ("replayed-otherwise").
- A cohort that shares patients with others inherits: who was paid for in one cohort has paid in all, by salted name
  (``spending``). Disjoint cohorts do not touch each other.
- Rows say what was done (a mechanism with its parameters), not what it costs, so that better accounting can be asked
  again. Where sites share the noise, a row holds what is left of it if all other sites collude beside what the plan
  assumes, which is what is charged. What is summed up is computed from rows each time and kept nowhere.
- Every method is one transaction, whole or not at all (``ledger_layout``): processes and threads wait for each other.

A claim goes through two states, and a third that it starts from::

    unknown --reserve--> reserved --release--> released
                          |    ^                |    ^
                          +----+ reserve:       +----+ reserve, release: the same reply
                                 not charged again

What is computed between the two, and keeping replies, is left to ``paid`` and ``replies``.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from client.governance import ledger_layout, ledger_rows
from client.governance.ledger_layout import transaction
from client.governance.spending import (
    Claim,
    CohortPatients,
    Inheritance,
    Price,
    Spending,
    require_within,
)
from shared.errors import ProtocolError, SiteDataError
from shared.messages import Split
from shared.privacy.accounting import Cap, epsilon
from shared.privacy.events import Event


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was granted to a claim.

    Attributes:
        number: of the reservation.
        state: "new"; "again" where it was granted before and nothing left; "released" where the reply left.
        reply: SHA-256 of the reply that left.
    """

    number: int
    state: Literal["new", "again", "released"]
    reply: str | None = None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A cohort that the ledger knows."""

    digest: str
    dataset: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """A ledger that is there. Get one from ``create`` or ``open``; it holds no file open between calls.

    Attributes:
        path: of the file.
        price: what events cost.
    """

    path: Path
    price: Price = epsilon

    @classmethod
    def create(cls, path: Path) -> Ledger:
        """Make an empty ledger; raises ``FileExistsError`` rather than touch one."""
        ledger_layout.make(path)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """The ledger in ``path``; raises ``SiteDataError`` ("ledger-missing", "ledger-damaged", "ledger-version")."""
        ledger_layout.prepare(path)
        return cls(path)

    def enrol(self, cohort: CohortPatients, at: datetime) -> Inheritance:
        """Note who is in a cohort, once, and say what they have paid in earlier ones.

        Raises:
            SiteDataError: the cohort is known with other patients ("cohort-otherwise").
        """
        with transaction(self.path, "commit") as connection:
            return _enrolled(connection, cohort, _utc(at))

    def outlook(self, cohort: CohortPatients) -> Inheritance:
        """What ``enrol`` would say, with nothing noted. Raises as ``enrol``."""
        with transaction(self.path, "rollback") as connection:
            return _enrolled(connection, cohort, "")

    def reserve(self, claim: Claim, event: Event, cap: Cap, at: datetime) -> Reservation:
        """Grant ``event`` to ``claim``, if patients then have paid no more than ``cap``.

        A claim that was granted before is not charged again; one whose reply has left is not held to the cap again.

        Raises:
            BudgetError: it would cost more than the cap.
            ProtocolError: the claim was granted to another request or event ("replayed-otherwise").
            SiteDataError: the cohort is not enrolled ("cohort-unknown").
        """
        _require_possible(event)
        with transaction(self.path, "commit") as connection:
            cohort = _known(connection, claim.cohort)
            granted = ledger_rows.granted(connection, cohort, claim)
            if granted:
                _require_same(granted, claim, event)
            if granted and granted.reply is not None:
                return Reservation(granted.number, "released", granted.reply)
            accounts = ledger_rows.spent(connection, cohort, claim.split).accounts
            require_within(claim, () if granted else (event,), accounts, cap, self.price)
            if granted:
                return Reservation(granted.number, "again")
            return Reservation(ledger_rows.add_reservation(connection, cohort, claim, event, _utc(at)), "new")

    def release(self, number: int, reply: str, at: datetime) -> None:
        """Note that the reply with the SHA-256 ``reply`` leaves; the same again changes nothing.

        Raises:
            ProtocolError: another reply to this reservation left before ("released-otherwise").
            SiteDataError: there is no such reservation ("reservation-unknown").
        """
        with transaction(self.path, "commit") as connection:
            left = ledger_rows.reply_of(connection, number)
            if left is None:
                raise SiteDataError(f"the ledger knows no reservation {number}", code="reservation-unknown")
            if left == "":
                ledger_rows.add_release(connection, number, reply, _utc(at))
            elif left != reply:
                raise ProtocolError(
                    f"another reply to reservation {number} has left: {left[:12]}, and not {reply[:12]}",
                    hint="nothing left now; ask again for the reply that was given",
                    code="released-otherwise",
                )

    def spending(self, digest: str) -> Spending:
        """What the patients of a cohort have paid; raises ``SiteDataError`` ("cohort-unknown")."""
        with transaction(self.path, "rollback") as connection:
            return _spending(connection, _known(connection, digest), digest)

    def cohorts(self) -> tuple[Enrolled, ...]:
        """All cohorts in the order of their enrolment."""
        with transaction(self.path, "rollback") as connection:
            return tuple(Enrolled(*row) for row in ledger_rows.cohorts(connection))

    def digest(self) -> str:
        """SHA-256 over all rows, 64 hexadecimal digits: for the audit log, where an older ledger is then noticed.

        It is the same before and after a ledger of layout 2 is brought to layout 3 (``ledger_rows.everything``).
        """
        said = hashlib.sha256(b"consilium-ledger-2\n")
        with transaction(self.path, "rollback") as connection:
            for row in ledger_rows.everything(connection):
                said.update(json.dumps(row).encode() + b"\n")
        return said.hexdigest()


def create(path: Path) -> None:
    """Make an empty ledger, readable by its owner alone, durable; raises ``FileExistsError`` rather than touch one."""
    ledger_layout.make(path)


def _enrolled(connection: sqlite3.Connection, cohort: CohortPatients, at: str) -> Inheritance:
    number = ledger_rows.number_of(connection, cohort.digest)
    if number is None:
        number = ledger_rows.add_cohort(connection, cohort, at)
    elif ledger_rows.members(connection, number) != set(cohort.pairs()):
        raise SiteDataError(
            f"cohort {cohort.digest[:12]} is in the ledger with other patients",
            hint="freeze the data set anew: a cohort with other patients has another digest",
            code="cohort-otherwise",
        )
    return Inheritance(ledger_rows.shared(connection, number), _spending(connection, number, cohort.digest))


def _spending(connection: sqlite3.Connection, cohort: int, digest: str) -> Spending:
    splits: tuple[Split, ...] = get_args(Split)
    return Spending(digest, {split: ledger_rows.spent(connection, cohort, split) for split in splits})


def _known(connection: sqlite3.Connection, digest: str) -> int:
    number = ledger_rows.number_of(connection, digest)
    if number is None:
        raise SiteDataError(
            f"cohort {digest[:12]} is not in the ledger",
            hint="enrol it first: what its patients have paid before is not known otherwise",
            code="cohort-unknown",
        )
    return number


def _require_same(granted: ledger_rows.Granted, claim: Claim, event: Event) -> None:
    if (granted.request, granted.event) != (claim.request, event):
        what = "request" if granted.request != claim.request else "noise, sampling rate or number of steps"
        raise ProtocolError(
            f"round {claim.round} of this run was asked for before, with another {what}",
            hint="each round is answered once; go on with the next one, or start a new run",
            code="replayed-otherwise",
        )


def _require_possible(event: Event) -> None:
    noise = 0 < event.noise_multiplier < math.inf and 0 <= event.alone <= event.noise_multiplier
    if not (noise and 0 < event.sampling_rate <= 1 and event.steps >= 1):
        raise ValueError(f"no mechanism can do this: {event}")


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
