"""Orders to run: the lead's signature under one execution of one plan, checked by each custodian.

Promises
- An order names its run, the plan by digest, the federation, the roster it was given under, the run's own key, and a
  time to begin and to end. The run's key is made for it: what signs requests every round is worth one run, and the
  lead's key need not be on the machine while it lasts.
- ``require_valid`` compares it with what this hospital approved and pinned. Clocks may differ by ``SKEW``, two hours:
  a clock that is one hour off stops nothing.

The roster's version tells those who need each other's keys whether they hold the same roster; by itself it refuses
nothing, because a site that joins or leaves must not stop the runs of the others. What a run may cost is judged by
policy and ledger: an order only says that the lead wants it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import PolicyError, ProtocolError
from shared.trust.documents import Digest, Document, Moment, Name, moment, opened, seal, stamp
from shared.trust.roster import Roster

SKEW = timedelta(hours=2)
"""How far the clocks of the lead and of a hospital may be apart."""
LONGEST = timedelta(days=366)
"""Longest time that one order may last."""

_RUN = r"^[0-9a-f]{32}$"


class RunOrder(Document):
    """One execution of a plan."""

    kind: ClassVar[str] = "run-order"
    most_bytes: ClassVar[int] = 2**12

    run: Annotated[str, Field(pattern=_RUN)]
    plan_digest: Digest
    federation: Name
    roster_version: Annotated[int, Field(ge=1)]
    run_key: Digest
    created: Moment
    expires: Moment

    @model_validator(mode="after")
    def _lasts_a_while(self) -> RunOrder:
        lasts = moment(self.expires) - moment(self.created)
        if not timedelta(0) < lasts <= LONGEST:
            raise ValueError("an order lasts longer than nothing and at most 366 days")
        return self

    @property
    def verify_key(self) -> VerifyKey:
        """What the requests of this run are checked with."""
        return VerifyKey.from_hex(self.run_key)


@dataclass(frozen=True, slots=True)
class Times:
    """From when to when an order holds."""

    created: datetime
    expires: datetime


@dataclass(frozen=True, slots=True)
class Expected:
    """What an order is compared with: the federation this site is in, and the digest of the plan it approved."""

    federation: str
    plan_digest: str


def sign_order(order: RunOrder, key: SigningKey) -> bytes:
    """The file of an order, signed by the lead's ``key``."""
    return seal(order, key)


def make_order(run: str, plan_digest: str, roster: Roster, run_key: VerifyKey, times: Times) -> RunOrder:
    """An order for ``run`` under the present ``roster``."""
    return RunOrder(
        run=run,
        plan_digest=plan_digest,
        federation=roster.federation,
        roster_version=roster.version,
        run_key=run_key.hex(),
        created=stamp(times.created),
        expires=stamp(times.expires),
    )


def open_order(content: bytes, lead: VerifyKey) -> RunOrder:
    """An order that ``lead`` has signed; raises ``ProtocolError``."""
    return opened(content, RunOrder, lead)


def require_valid(order: RunOrder, expected: Expected, now: datetime) -> None:
    """Return if ``order`` is for this federation and this plan, and holds ``now``.

    Raises:
        ProtocolError: for another federation ("order-federation").
        PolicyError: for a plan that was not approved ("order-plan"), over ("order-expired") or not yet begun
            ("order-early"), by more than ``SKEW``.
    """
    if order.federation != expected.federation:
        raise ProtocolError(
            f"this order is for the federation {order.federation}, not for {expected.federation}",
            hint="nothing was computed; tell the lead",
            code="order-federation",
        )
    if order.plan_digest != expected.plan_digest:
        raise PolicyError(
            f"this order is for plan {order.plan_digest[:12]}, approved was {expected.plan_digest[:12]}",
            hint="read and approve the plan first, or refuse the run",
            code="order-plan",
        )
    if now > moment(order.expires) + SKEW:
        raise PolicyError(
            f"this order ended at {order.expires}, and here it is {stamp(now)}",
            hint="ask the lead to resume the run under a new order; compare the clocks if the time is wrong",
            code="order-expired",
        )
    if now < moment(order.created) - SKEW:
        raise PolicyError(
            f"this order begins at {order.created}, and here it is {stamp(now)}",
            hint="compare the clocks: more than two hours lie between them",
            code="order-early",
        )
