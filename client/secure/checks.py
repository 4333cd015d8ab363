"""What a site checks before each step of a secure sum. The coordinator is believed nothing that can be checked.

Promises
- Each check returns or raises ``ProtocolError`` with a code of its own, and changes nothing. None of them looks at what
  this site holds.
- A coordinator in the middle of two sites is seen here: keys count only with the signature of the site whose they are,
  by the roster's key, over this very question.

====================  ================================================================================================
code                  what was found
====================  ================================================================================================
offers-repeated       a name or a key twice, or not in name order
offer-unknown-site    an offer of nobody who is active in the roster
offer-altered         this site's own offer is missing, or is not what it sent
offer-signature       an offer that its site did not sign for this question
offers-differ         offers of different lengths, peaks or definitions
threshold-low         a threshold that two separate groups of sites could reach
below-threshold       fewer sites than the threshold, at whatever step
ring                  weights whose sum needs more than 32 bits
ring-announced        a width other than the one that these offers need
dealers-unknown       among those who dealt: somebody who has offered nothing, or not this site
neighbours-few        too few holders of this site's own secrets are left
shares-dealt          not exactly one sealed share from each neighbour that has dealt, addressed to this site
share-inconsistent    a share that its dealer's commitment does not fit
survivors-unknown     among the survivors: somebody who has not dealt, or not this site
dealers-differ        no signature of a neighbour among the survivors, or its own, for the dealers this site was told
both-shares           a site among the survivors and among the dropped
survivors-changed     other survivors than were confirmed, or a dealer who is neither
confirmation-unknown  a confirmation of somebody who is no survivor
confirmation-invalid  a confirmation of something else than this site has confirmed
confirmations-few     confirmations of fewer sites than the threshold
====================  ================================================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from shared.crypto.signing import VerifyKey
from shared.errors import ProtocolError
from shared.secure.agreement import open_shares
from shared.secure.context import Context
from shared.secure.held import Shape
from shared.secure.holders import Circle
from shared.secure.papers import Dealt, Offer, Offers, Received, Survivors, Unmasking
from shared.secure.ring import bits_for
from shared.secure.shamir import SHARE_BYTES
from shared.secure.statements import dealers_message, offer_message, share_commitment, survivors_message

_ASK = "this site goes on with the next question; if it happens again, telephone whoever runs the coordinator"


@dataclass(frozen=True, slots=True)
class Agreed:
    """What a site knows of a sum once it has checked everybody's offers.

    Attributes:
        context: the question.
        site: its own name.
        offers: of all, by name.
        digest: SHA-256 of the paper they came in.
        bits: width of the ring.
        keys: of each site, what its signatures are checked with: as the roster had them when offers were checked.
        circle: who holds shares of whom.
    """

    context: Context
    site: str
    offers: Mapping[str, Offer]
    digest: str
    bits: int
    keys: Mapping[str, VerifyKey]
    circle: Circle


def require_offers(context: Context, own: Offer, offers: Offers, members: Mapping[str, VerifyKey]) -> None:
    """All is well with everybody's keys; see the module for the codes."""
    _require_apart(offers)
    if own not in offers.offers:
        raise _refused("offer-altered", f"the offer of {own.site} is missing among all offers, or is another's")
    for offer in offers.offers:
        _require_signed(context, offer, members)
        if Shape.of(offer) != Shape.of(own):
            raise _refused("offers-differ", f"{offer.site} would add something else than {own.site}")
    bits = bits_for(own.peak, sum(one.weight for one in offers.offers))
    if offers.bits != bits:
        raise _refused("ring-announced", f"a ring of {offers.bits} bits was announced, these offers need {bits}")


def _require_apart(offers: Offers) -> None:
    keys = [key for one in offers.offers for key in (one.cipher_key, one.mask_key)]
    if list(offers.sites) != sorted(set(offers.sites)) or len(set(keys)) != len(keys):
        raise _refused("offers-repeated", "a name or a key is offered twice, or names are not in order")


def _require_signed(context: Context, offer: Offer, members: Mapping[str, VerifyKey]) -> None:
    key = members.get(offer.site)
    if key is None:
        raise _refused("offer-unknown-site", f"{offer.site} is not an active site of this federation")
    if not signed(key, offer.signature, offer_message(context, offer)):
        raise _refused("offer-signature", f"the keys offered for {offer.site} are not signed by it for this question")


def require_received(agreed: Agreed, received: Received) -> None:
    """Enough have dealt, and each neighbour among them to this site."""
    _require_part(agreed, received.dealers, agreed.offers, "dealers-unknown")
    expected = [name for name in agreed.circle.neighbours(agreed.site) if name in received.dealers]
    found = [one.dealer for one in received.dealt]
    if found != expected or any(one.holder != agreed.site for one in received.dealt):
        raise _refused("shares-dealt", f"{len(found)} shares for this site, {len(expected)} neighbours have dealt")


def opened(agreed: Agreed, dealt: Dealt, secret: bytes) -> bytes:
    """The two shares in ``dealt``, sealed under what both sites agreed on; raises "share-sealed" or what is above."""
    sealed = bytes.fromhex(dealt.sealed)
    plain = open_shares(secret, agreed.context, dealt.dealer, agreed.site, sealed)
    require_committed(agreed.context, dealt, plain)
    return plain


def require_committed(context: Context, dealt: Dealt, plain: bytes) -> None:
    """The shares are those that their dealer told the coordinator about."""
    seed, key = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
    told = (
        share_commitment(context, dealt.dealer, dealt.holder, "seed", seed),
        share_commitment(context, dealt.dealer, dealt.holder, "key", key),
    )
    if (dealt.seed, dealt.key) != told or len(plain) != 2 * SHARE_BYTES:
        raise _refused("share-inconsistent", f"the shares from {dealt.dealer} are not what it has committed itself to")


def require_survivors(agreed: Agreed, dealers: Sequence[str], told: Survivors) -> None:
    """The sum is of enough sites, this one among them, and whose seeds it would open masked with those it was told."""
    _require_part(agreed, told.survivors, dealers, "survivors-unknown")
    said = dealers_message(agreed.context, agreed.digest, dealers)
    for site in agreed.circle.holders[agreed.site]:
        if site in told.survivors and not signed(agreed.keys[site], told.signatures.get(site, ""), said):
            raise _refused("dealers-differ", f"{site} has not signed that it masked with the dealers named here")


def require_unmasking(agreed: Agreed, dealers: Sequence[str], confirmed: Sequence[str], asked: Unmasking) -> None:
    """What is to be revealed is what this site confirmed, and enough others confirmed the same."""
    twice = frozenset(asked.survivors).intersection(asked.dropped)
    if twice:
        raise _refused("both-shares", f"both shares of {len(twice)} sites are asked for: that would unmask each alone")
    if asked.survivors != tuple(confirmed) or frozenset(asked.survivors + asked.dropped) != frozenset(dealers):
        raise _refused("survivors-changed", "the sites to unmask are not those that this site confirmed")
    if not frozenset(asked.confirmations) <= frozenset(asked.survivors):
        raise _refused("confirmation-unknown", "a confirmation is by a site that is not in the sum")
    said = survivors_message(agreed.context, agreed.digest, dealers, confirmed)
    for site, signature in asked.confirmations.items():
        if not signed(agreed.keys[site], signature, said):
            raise _refused("confirmation-invalid", f"{site} has not confirmed what this site was told")
    if len(asked.confirmations) < agreed.circle.threshold:
        raise _refused(
            "confirmations-few",
            f"{len(asked.confirmations)} sites confirmed this sum, the threshold is {agreed.circle.threshold}",
        )


def signed(key: VerifyKey, signature: str, message: bytes) -> bool:
    """Whether ``key`` signed ``message``."""
    try:
        key.verify(bytes.fromhex(signature), message)
    except (ProtocolError, ValueError):
        return False
    return True


def _require_part(agreed: Agreed, present: Sequence[str], known: Collection[str], code: str) -> None:
    if agreed.site not in present or not frozenset(present) <= frozenset(known):
        raise _refused(
            code, "the sites named for this sum are not part of those named before, with this one among them"
        )
    agreed.circle.require_enough(present)
    agreed.circle.require_held(agreed.site, present)


def _refused(code: str, sentence: str) -> ProtocolError:
    return ProtocolError(sentence, hint=_ASK, code=code)
