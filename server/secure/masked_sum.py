"""One question of a run, answered by a sum: what is asked in each phase, who takes the answers, what it comes to.

Promises
- An answer counts if it is of the network, the weight and the lengths that were agreed; each site's part of the sum is
  added under its masks and forgotten.
- ``summed`` gives the sum over all sites whose masked answers arrived, or raises; there is no way to a single part.
- A site whose shares are forged has not answered; the others go on.

What is right in each paper is ``server.secure.round``'s; the order of phases is ``server.rounds``'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from server.aggregation.exact import Total
from server.intake import Intake, expect
from server.round_values import Phase, Question
from server.secure.round import Summed, SumRound
from shared.errors import RunError, UpdateRejected
from shared.fixed_point import peak
from shared.messages import (
    About,
    Bytes,
    Confirm,
    Confirmed,
    Deal,
    Dealt,
    Envelope,
    Mask,
    Masked,
    Offered,
    Reply,
    Request,
    Revealed,
    Unmask,
)
from shared.plan import FixedPoint
from shared.secure.context import Context
from shared.secure.held import Shape
from shared.secure.papers import Confirmation, Dealing, Offer, Revelation
from shared.secure.threshold import rule_of

if TYPE_CHECKING:
    from server.run_setup import Setup

ABOUT: Mapping[Phase, About] = {
    Phase.TRAINING: "train",
    Phase.MEASURING: "validation",
    Phase.TESTING: "test",
    Phase.PERSONALISING: "personalise",
}
"""Phases whose answers are only ever added up."""

_TRAINING_COUNTS = 4
_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class Expected:
    """What every site's answer to a question is.

    Attributes:
        definition: digest of what its numbers mean.
        length: how many numbers.
        fixed_point: of values; None where the numbers are counts.
        weights: agreed with each site; of counts, 1.
    """

    definition: str
    length: int
    fixed_point: FixedPoint | None = None
    weights: Mapping[str, int] | None = None

    @property
    def shape(self) -> Shape:
        """As offers announce it: beside values go loss, steps, saturated parameters and milliseconds."""
        if self.fixed_point is None:
            return Shape(0, self.length, 0, self.definition)
        return Shape(self.length, _TRAINING_COUNTS, peak(self.fixed_point), self.definition)

    def require_weight(self, offer: Offer) -> None:
        """Return where ``offer`` announces the weight that was agreed; raise ``UpdateRejected``."""
        agreed = 1 if self.weights is None else self.weights.get(offer.site)
        if offer.weight != agreed:
            raise UpdateRejected(f"the site offers weight {offer.weight}, {agreed} was agreed", code="update-weight")


class _Taking:
    """Takes the replies of one phase with a function of its own."""

    def __init__(self, take: Callable[[str, Reply], None]) -> None:
        self.take = take


class MaskedSum:
    """The sum of the answers to one question."""

    def __init__(self, about: About, expected: Expected, sums: SumRound) -> None:
        self._about, self._expected, self._round = about, expected, sums
        self._takes: Mapping[Phase, Callable[[str, Reply], None]] = {
            Phase.DEALING: self._dealt,
            Phase.MASKING: self._masked,
            Phase.CONFIRMING: self._confirmed,
            Phase.UNMASKING: self._revealed,
        }

    @classmethod
    def begin(cls, run: str, question: Question, expected: Expected, setup: Setup) -> MaskedSum:
        """Before ``question`` is asked; raises ``RunError`` where nobody could sign."""
        if not setup.identities:
            raise RunError(
                "secure aggregation needs the key of every site, and none is known here",
                hint="enrol the sites, or use an engine that keeps keys",
                code="no-identities",
            )
        plan, about = setup.plan, ABOUT[question.phase]
        agreed = rule_of(plan)
        context = Context(plan.digest(), run, question.round, about)
        return cls(about, expected, SumRound(context, agreed, setup.identities, expected.shape))

    def intake(self, phase: Phase) -> Intake:
        """What takes the replies of ``phase``."""
        return _Taking(self._takes.get(phase, self._offered))

    def requests(self, phase: Phase, envelope: Envelope, sites: tuple[str, ...]) -> dict[str, Request]:
        """What each of ``sites`` is asked in ``phase``; the same for all but in masking."""
        about, sums = self._about, self._round
        match phase:
            case Phase.DEALING:
                return dict.fromkeys(sites, Deal(envelope, about, _content(sums.offers().to_bytes())))
            case Phase.MASKING:
                return {site: Mask(envelope, about, _content(sums.received(site).to_bytes())) for site in sites}
            case Phase.CONFIRMING:
                return dict.fromkeys(sites, Confirm(envelope, about, _content(sums.survivors().to_bytes())))
            case _:
                return dict.fromkeys(sites, Unmask(envelope, about, _content(sums.unmasking().to_bytes())))

    def summed(self) -> Summed:
        """The sum over all whose masked answers arrived; raises ``ConsiliumError`` where it cannot be had."""
        return self._round.total()

    def _offered(self, site: str, reply: Reply) -> None:
        offer = Offer.from_bytes(expect(reply, Offered).content.tobytes())
        self._expected.require_weight(offer)
        self._round.offer(site, offer)

    def _dealt(self, site: str, reply: Reply) -> None:
        self._round.dealt(site, Dealing.from_bytes(expect(reply, Dealt).content.tobytes()))

    def _masked(self, site: str, reply: Reply) -> None:
        self._round.masked(site, expect(reply, Masked))

    def _confirmed(self, site: str, reply: Reply) -> None:
        self._round.confirmed(site, Confirmation.from_bytes(expect(reply, Confirmed).content.tobytes()))

    def _revealed(self, site: str, reply: Reply) -> None:
        self._round.revealed(site, Revelation.from_bytes(expect(reply, Revealed).content.tobytes()))


def training_total(summed: Summed | None) -> tuple[Total, float]:
    """The sum as an unmasked round has it, and seconds of training; zero where there is none."""
    if summed is None:
        return Total(np.zeros(0, np.int64)), 0.0
    loss_sum, steps, saturated, milliseconds = (int(count) for count in summed.counts)
    return Total(summed.values, summed.weight, loss_sum, steps, saturated), milliseconds / _MILLISECONDS


def _content(paper: bytes) -> Bytes:
    return np.frombuffer(paper, np.uint8)
