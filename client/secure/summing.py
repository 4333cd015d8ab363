"""What a site sends under secure aggregation instead of an update or statistics.

Promises
- An update and statistics are kept in memory and never returned. What leaves in their place are public keys, then what
  ``client.secure.party`` says of each step.
- Numbers are masked after everything that protects them: clipping, noise, rounding and suppression are done.
- Whatever is no sum (a model of this site's own) is refused, should a plan ever ask for it.

Loss, steps, saturated parameters and milliseconds of training are counts, and go through the same sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from client.secure.party import Party
from shared.errors import ProtocolError
from shared.fixed_point import peak
from shared.messages import (
    About,
    Bytes,
    Confirm,
    Confirmed,
    Deal,
    Dealt,
    Envelope,
    Evaluate,
    Mask,
    Measured,
    Offered,
    Personalise,
    Refusal,
    Reply,
    Request,
    Revealed,
    SumStep,
    Train,
    Unmask,
    Update,
    Welcome,
)
from shared.plan import Plan
from shared.secure.context import Context
from shared.secure.held import Held
from shared.secure.papers import Offers, Received, Survivors, Unmasking

_MILLISECONDS = 1000


@dataclass(frozen=True)
class Summing:
    """Masks what one site answers under one plan."""

    party: Party
    plan: Plan
    _took: dict[Context, int] = field(default_factory=dict, init=False, repr=False)

    def held(self, request: Request, reply: Reply) -> Reply:
        """What leaves in answer to ``request``; ``reply`` is kept where it is a part of a sum."""
        match reply:
            case Welcome() | Refusal():
                return reply
            case Update():
                held = self._update(_context(request.envelope, _about(request)), reply)
            case Measured():
                held = Held(np.zeros(0, np.int32), reply.counts, 1, 0, reply.schema)
            case _:
                raise ProtocolError(
                    "under secure aggregation only parts of a sum leave this site",
                    hint="nothing was sent; tell the lead",
                    code="not-in-plan",
                )
        return Offered(_content(self.party.offer(_context(request.envelope, _about(request)), held).to_bytes()))

    def step(self, request: SumStep) -> Reply:
        """The answer to one step; raises ``ProtocolError`` where it is refused."""
        party, context, content = self.party, _context(request.envelope, request.about), request.content.tobytes()
        match request:
            case Deal():
                return Dealt(_content(party.deal(context, Offers.from_bytes(content)).to_bytes()))
            case Mask():
                return party.mask(context, Received.from_bytes(content))
            case Confirm():
                return Confirmed(_content(party.confirm(context, Survivors.from_bytes(content)).to_bytes()))
            case Unmask():
                return Revealed(_content(party.unmask(context, Unmasking.from_bytes(content)).to_bytes()))

    def _update(self, context: Context, update: Update) -> Held:
        # Asked again, a site trains again: the time of the first lets the same answer be the same offer.
        milliseconds = self._took.setdefault(context, round(update.seconds * _MILLISECONDS))
        counts = np.array([update.loss_sum, update.steps, update.saturated, milliseconds], np.int64)
        return Held(update.values, counts, update.weight, peak(self.plan.aggregation.fixed_point), update.schema)


def _context(envelope: Envelope, about: About) -> Context:
    return Context(envelope.plan_digest, envelope.run, envelope.round, about)


def _about(request: Request) -> About:
    match request:
        case Train():
            return "train"
        case Evaluate():
            return request.split
        case Personalise():
            return "personalise"
        case _:
            raise ProtocolError("only answers to questions are added up", code="not-in-plan")


def _content(paper: bytes) -> Bytes:
    return np.frombuffer(paper, np.uint8)
