"""One secure sum at the coordinator: papers in, papers out, and at the end the sum and nothing else.

::

    phase        takes                     and ends with        if enough are left
    ─────────────────────────────────────────────────────────────────────────────────────
    offering     offer(site, Offer)        offers()             by the threshold
    dealing      dealt(site, Dealing)      received(site)       by the threshold
    masking      masked(site, Masked)      survivors()          ... and each secret has holders left
    confirming   confirmed(site, …)        unmasking()          ... and each secret has confirmed holders left
    revealing    revealed(site, …)         total()              ... and each secret has enough shares
    summed

Promises
- What one site sends is checked whole, then counts; if it is refused, nothing has changed and the site has not
  answered. A site that drops out of one phase is not asked in the next.
- Masked values are added at once, modulo 2**32, of which 2**bits is a divisor, and are kept nowhere: memory is one sum
  and one vector on its way into it, however many sites there are. Masks are taken off the same way.
- The sum is exact, and the same whoever drops out and in whichever order papers arrive: integers modulo 2**bits, wide
  enough for the sum of all that offered.
- Below the threshold, ``ProtocolError`` is raised at the end of the phase ("below-threshold", "neighbours-few") and no
  share was asked for. Where too few shares come in, the sum is lost ("shares-missing"): what was revealed by then are
  shares of one secret of each site, and the other hides it.
- A forged share is told by what its dealer committed itself to; its holder counts as missing, and the sum is exact if
  enough good shares are left. A total outside the range that the offers allow is refused ("sum-range"): somebody added
  what it had not offered.
- Pure: no clock, no network, no deadline. When a phase ends is left to the caller.

Which weight a site may offer is left to the caller, who agreed on it with the site. What the coordinator must not learn
does not depend on this module: sites see to that (``client.secure``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from server.secure import checks, opening
from shared.crypto.signing import VerifyKey
from shared.messages import Masked
from shared.secure.context import Context
from shared.secure.held import Shape, parts
from shared.secure.holders import Circle, Threshold
from shared.secure.papers import (
    Confirmation,
    Dealing,
    Dealt,
    Offer,
    Offers,
    Received,
    Revelation,
    Survivors,
    Unmasking,
)
from shared.secure.ring import bits_for, lift, lift_counts
from shared.secure.statements import Kind, dealers_message, graph_seed, survivors_message

Phase = Literal["offering", "dealing", "masking", "confirming", "revealing", "summed"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class Summed:
    """What the coordinator learns.

    Attributes:
        values: shape (P,), int64: the sum of weight * values over ``sites``.
        counts: shape (C,), int64: the sum of counts.
        weight: of all ``sites`` together.
        sites: whose answers are in it, by name.
    """

    values: NDArray[np.int64] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    weight: int
    sites: tuple[str, ...]


class SumRound:
    """The state of one sum."""

    def __init__(
        self, context: Context, threshold: Threshold, members: Mapping[str, VerifyKey] | None, shape: Shape
    ) -> None:
        """A sum that nobody has offered to take part in yet.

        Args:
            context: the question.
            threshold: the plan's rule.
            members: keys of the sites that are active in the roster; None where nobody vouches for keys.
            shape: of each answer.
        """
        self._context, self._threshold, self._members, self._shape = context, threshold, members, shape
        self._phase: Phase = "offering"
        self._offered: dict[str, Offer] = {}
        self._dealings: dict[str, dict[str, Dealt]] = {}
        self._added: dict[str, str] = {}
        self._values, self._counts = np.zeros(0, np.uint32), np.zeros(0, np.uint64)
        self._confirmations: dict[str, str] = {}
        self._shares: dict[Kind, dict[str, dict[str, bytes]]] = {"seed": {}, "key": {}}
        self._revealed: set[str] = set()
        self._offers: Offers
        self._digest: str
        self._circle: Circle
        self._sum: opening.Sum
        self._total: Summed

    @property
    def phase(self) -> Phase:
        """What is collected now."""
        return self._phase

    @property
    def answered(self) -> tuple[str, ...]:
        """Who has answered in this phase, by name."""
        of: dict[Phase, Collection[str]] = {
            "offering": self._offered,
            "dealing": self._dealings,
            "masking": self._added,
            "confirming": self._confirmations,
        }
        return tuple(sorted(of.get(self._phase, self._revealed)))

    def offer(self, site: str, offer: Offer) -> None:
        """A site's public keys; raises ``ProtocolError``."""
        self._require("offering", site, None)
        checks.require_offer(self._context, offer, site, self._members)
        checks.require_alike(offer, self._shape, self._offered.values())
        self._offered[site] = offer

    def offers(self) -> Offers:
        """For everybody who offered; ends the phase. Raises "below-threshold", "threshold-low" or ``PlanError``."""
        if self._closing("offering"):
            offered = tuple(self._offered[site] for site in sorted(self._offered))
            enrolled = 0 if self._members is None else len(self._members)
            self._threshold.of(len(offered), enrolled)
            bits = bits_for(self._shape.peak, sum(one.weight for one in offered))
            self._offers = Offers(bits=bits, offers=offered)
            self._digest = self._offers.sha256()
            seed = graph_seed(self._context, self._digest)
            self._circle = self._threshold.circle(self._offers.sites, seed, enrolled)
            self._phase = "dealing"
        return self._offers

    def dealt(self, site: str, dealing: Dealing) -> None:
        """A site's sealed shares; raises ``ProtocolError``."""
        self._require("dealing", site, self._offered)
        checks.require_dealing(site, dealing, self._circle)
        self._dealings[site] = {one.holder: one for one in dealing.dealt}

    def received(self, site: str) -> Received:
        """For one of those who dealt; the first ends the phase. Raises "below-threshold", "site-not-asked"."""
        if self._closing("dealing"):
            self._circle.require_enough(tuple(self._dealings))
            self._values = np.zeros(self._shape.values, np.uint32)
            self._counts = np.zeros(self._shape.counts, np.uint64)
            self._phase = "masking"
        if site not in self._dealings:
            raise checks.refused("site-not-asked", f"{site} has dealt nothing, and has no part in this sum")
        dealers = [name for name in self._circle.neighbours(site) if name in self._dealings]
        dealt = tuple(self._dealings[name][site] for name in dealers)
        return Received(dealers=tuple(sorted(self._dealings)), dealt=dealt)

    def masked(self, site: str, message: Masked) -> None:
        """Add a site's masked values; raises ``ProtocolError``."""
        self._require("masking", site, self._dealings)
        checks.require_masked(site, message, self._shape, self._offers.bits)
        key = None if self._members is None else self._members[site]
        said = dealers_message(self._context, self._digest, tuple(self._dealings))
        checks.require_dealers(key, message.signature, said)
        values, counts = parts(message)
        np.add(self._values, values, out=self._values)
        np.add(self._counts, counts, out=self._counts)
        self._added[site] = message.signature

    def survivors(self) -> Survivors:
        """For everybody in the sum; ends the phase. Raises "below-threshold", "neighbours-few"."""
        if self._closing("masking"):
            self._require_left(tuple(sorted(self._added)))
            survivors = tuple(sorted(self._added))
            dropped = tuple(sorted(self._dealings.keys() - self._added.keys()))
            self._sum = opening.Sum(self._context, self._offered, self._circle, survivors, dropped)
            self._phase = "confirming"
        return Survivors(survivors=self._sum.survivors, signatures=dict(sorted(self._added.items())))

    def confirmed(self, site: str, confirmation: Confirmation) -> None:
        """A site's signature; raises ``ProtocolError``."""
        self._require("confirming", site, self._added)
        if self._members is not None:
            dealers, survivors = tuple(self._dealings), self._sum.survivors
            said = survivors_message(self._context, self._digest, dealers, survivors)
            checks.require_confirmed(self._members[site], confirmation.signature, said)
        self._confirmations[site] = confirmation.signature

    def unmasking(self) -> Unmasking:
        """For everybody who confirmed; ends the phase. Raises "below-threshold", "neighbours-few"."""
        if self._closing("confirming"):
            self._require_left(tuple(self._confirmations))
            self._phase = "revealing"
        confirmations = dict(sorted(self._confirmations.items()))
        return Unmasking(survivors=self._sum.survivors, dropped=self._sum.dropped, confirmations=confirmations)

    def revealed(self, site: str, revelation: Revelation) -> None:
        """A site's shares, all of them good or none counted; raises ``ProtocolError``."""
        self._require("revealing", site, self._confirmations)
        said: dict[Kind, dict[str, str]] = {"seed": revelation.seeds, "key": revelation.keys}
        for kind, shares in said.items():
            if shares.keys() != self._sum.due(site, kind):
                raise checks.refused("revealed-others", f"{site} revealed other shares than it was asked for")
            for dealer, share in shares.items():
                checks.require_share(self._context, self._dealings[dealer][site], kind, bytes.fromhex(share))
        for kind, shares in said.items():
            for dealer, share in shares.items():
                self._shares[kind].setdefault(dealer, {})[site] = bytes.fromhex(share)
        self._revealed.add(site)

    def total(self) -> Summed:
        """The sum; ends the round. Raises "shares-missing", "secret-inconsistent", "sum-range"."""
        if self._closing("revealing"):
            secrets = opening.opened(self._sum, self._shares["seed"], self._shares["key"])
            opening.take_off(self._sum, secrets, self._values, self._counts)
            self._total = self._lifted()
            self._phase = "summed"
        checks.require_range(self._total.values, self._shape.peak * self._total.weight)
        return self._total

    def _lifted(self) -> Summed:
        sites = self._sum.survivors
        weight = sum(self._offered[site].weight for site in sites)
        return Summed(lift(self._values, self._offers.bits), lift_counts(self._counts), weight, sites)

    def _require(self, phase: Phase, site: str, part: Collection[str] | None) -> None:
        """The phase is ``phase``, and ``site`` is of ``part`` and has not answered."""
        if self._phase != phase:
            raise checks.refused("step-order", f"this belongs to {phase}, the sum is {self._phase} now")
        if part is not None and site not in part:
            raise checks.refused("site-not-asked", f"{site} has no part in this sum, or dropped out of it")
        if site in self.answered:
            raise checks.refused("answer-repeated", f"{site} has answered already")

    def _closing(self, phase: Phase) -> bool:
        """Whether ``phase`` ends now, and not before; raises where it has not begun."""
        if PHASES.index(self._phase) < PHASES.index(phase):
            raise checks.refused("step-order", f"{phase} has not begun, the sum is {self._phase} now")
        return self._phase == phase

    def _require_left(self, present: Sequence[str]) -> None:
        self._circle.require_enough(present)
        for dealer in self._dealings:
            self._circle.require_held(dealer, present)
