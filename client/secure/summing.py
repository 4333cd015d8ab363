"""What a site sends under secure aggregation instead of an update or statistics.

Promises
- An update and statistics are kept in memory and never returned. What leaves in their place are public keys, then what
  ``client.secure.party`` says of each step.
- Numbers are masked after everything that protects them: clipping, noise, rounding and suppression are done.
- A sum is of one model: what is offered names the digest of the model that was asked about.
- Of each run it keeps what its present sum needs, and nothing once the run is forgotten.
- Whatever is no sum (a model of this site's own) is refused, should a plan ever ask for it.

Loss, steps, saturated parameters and milliseconds of training are counts, and go through the same sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from client.secure.party import Party
from shared.errors import ProtocolError, UpdateRejected
from shared.fixed_point import peak
from shared.messages import (
    About,
    Bytes,
    Confirm,
    Confirmed,
    Counts,
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
from shared.secure.question import definition, noised_run

_MILLISECONDS = 1000
LARGEST_COUNT = 2**52
"""As where sums are not masked: of 2,047 sites they stay below 2**63."""


@dataclass(frozen=True)
class Summing:
    """Masks what one site answers under one plan."""

    party: Party
    plan: Plan
    _took: dict[str, tuple[Context, int]] = field(default_factory=dict, init=False, repr=False)

    @property
    def runs(self) -> tuple[str, ...]:
        """Runs of which it holds anything."""
        return tuple(dict.fromkeys((*self.party.runs, *self._took)))

    def forget(self, run: str) -> None:
        """Hold nothing more of ``run``; a question that it asks after all begins a new sum."""
        self._took.pop(run, None)
        self.party.forget(run)

    def held(self, request: Request, reply: Reply) -> Reply:
        """What leaves in answer to ``request``; ``reply`` is kept where it is a part of a sum."""
        match reply:
            case Welcome() | Refusal():
                return reply
            case Update():
                held = self._update(request, reply)
            case Measured():
                held = Held(np.zeros(0, np.int32), _bounded(reply.counts), 1, 0, self._defined(request, reply.schema))
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

    def _update(self, request: Request, update: Update) -> Held:
        # Asked again, a site trains again: the time of the first lets the same answer be the same offer.
        context = _context(request.envelope, _about(request))
        known = self._took.get(context.run)
        milliseconds = known[1] if known and known[0] == context else round(update.seconds * _MILLISECONDS)
        self._took[context.run] = context, milliseconds
        counts = _bounded([update.loss_sum, update.steps, update.saturated, milliseconds])
        defined = self._defined(request, update.schema)
        return Held(update.values, counts, update.weight, peak(self.plan.aggregation.fixed_point), defined)

    def _defined(self, request: Request, schema: str) -> str:
        run = noised_run(self.plan, _about(request), request.envelope.run)
        assert isinstance(request, Train | Evaluate | Personalise)  # noqa: S101 - ``_about`` refuses all others
        return definition(schema, request.weights, run)


def _bounded(counts: Counts | list[int]) -> Counts:
    """``counts``, of which many can be added; raises ``UpdateRejected``."""
    if any(abs(int(one)) > LARGEST_COUNT for one in counts):
        raise UpdateRejected(
            f"a loss or a count is beyond {LARGEST_COUNT}, so that it cannot be added up with others'",
            hint="lower the learning rate, or look at the model that was sent",
            code="update-counts",
        )
    return np.asarray(counts, np.int64)


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
