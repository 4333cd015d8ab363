"""What the coordinator checks of each paper from a site before it lets it count.

Promises
- Each check returns or raises with a code of its own, and changes nothing. The site then counts as missing, and the sum
  goes on without it while enough are left.
- None of these protects a site from the coordinator: that is ``client.secure.checks``. They keep one faulty or hostile
  site from spoiling the sum of the others, as far as that can be seen under masks: shares, keys and sizes can be; what
  a site's values are cannot, beyond the range of the whole sum.

===================  =================================================================================================
code                 what was found
===================  =================================================================================================
step-order           a paper of another phase
answer-repeated      a second paper of one site in one phase
site-not-asked       a site that is not part of the sum (any more)
offer-unknown-site   an offer of nobody who is active in the roster, or in somebody else's name
offer-signature      not signed by that site for this question
offers-repeated      a key that somebody else has offered
offers-differ        another length, peak or definition than the question has
key-weak             a key that gives no secret with anybody's
dealing-holders      shares for others than the site's holders, or not one for each
masked-shape         masked values of another length or width
dealers-unsigned     masked values without the site's signature of the dealers it was told
confirmation-invalid not a signature of what all sites were told
revealed-others      shares of others than were asked for, or of the wrong kind
share-forged         a share that is not the one that was dealt
sum-range            a total that no values within the offered range make: of all sites together
===================  =================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from shared.crypto.signing import VerifyKey
from shared.errors import ProtocolError, UpdateRejected
from shared.messages import Masked
from shared.secure.agreement import KEY_BYTES, agreed
from shared.secure.context import Context
from shared.secure.held import Shape
from shared.secure.holders import Circle
from shared.secure.papers import Dealing, Dealt, Offer
from shared.secure.statements import Kind, offer_message, share_commitment

_ASK = "the sum goes on without it while enough sites are left; ask the site for its version and its log"
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_ANY_PRIVATE = bytes([1] * KEY_BYTES)
"""A key of small order gives zero with every private key (RFC 7748, section 6.1): one, which all know, shows it."""


def require_offer(context: Context, offer: Offer, site: str, members: Mapping[str, VerifyKey] | None) -> None:
    """The offer is ``site``'s own; without ``members``, who vouch for keys, only in name."""
    key = None if members is None else members.get(site)
    if offer.site != site or (members is not None and key is None):
        raise refused("offer-unknown-site", f"an offer for {offer.site} came from another, or from no active site")
    if key is not None:
        _require_signed(key, offer.signature, offer_message(context, offer), "offer-signature")
    for public in (offer.cipher_key, offer.mask_key):
        agreed(_ANY_PRIVATE, bytes.fromhex(public))


def require_alike(offer: Offer, shape: Shape, others: Iterable[Offer]) -> None:
    """The offer is of what was asked, and shares no key with ``others``."""
    if Shape.of(offer) != shape:
        raise refused("offers-differ", f"{offer.site} would add something else than was asked")
    taken = {key for one in others for key in (one.cipher_key, one.mask_key)}
    if offer.cipher_key == offer.mask_key or taken.intersection((offer.cipher_key, offer.mask_key)):
        raise refused("offers-repeated", f"{offer.site} offers a key twice, or one that another has offered")


def require_dealing(site: str, dealing: Dealing, circle: Circle) -> None:
    """One share for each holder of ``site``, in order."""
    holders = tuple(one.holder for one in dealing.dealt)
    if holders != circle.holders[site] or any(one.dealer != site for one in dealing.dealt):
        raise refused("dealing-holders", f"{site} dealt {len(holders)} shares, {len(circle.holders[site])} are due")


def require_masked(site: str, message: Masked, shape: Shape, bits: int) -> None:
    """As many values and counts, in the ring, as was offered."""
    if (message.values, message.counts, message.bits) != (shape.values, shape.counts, bits):
        raise refused(
            "masked-shape",
            f"{site} masked {message.values} values and {message.counts} counts in {message.bits} bits; "
            f"{shape.values}, {shape.counts} and {bits} are due",
        )


def require_dealers(key: VerifyKey | None, signature: str, said: bytes) -> None:
    """The site signed ``said``: whom it masked with; without ``key``, only that it wrote what can be passed on."""
    if not _SIGNATURE.fullmatch(signature):
        raise refused("dealers-unsigned", f"a signature of {len(signature)} characters is none, or not in its one form")
    if key is not None:
        _require_signed(key, signature, said, "dealers-unsigned")


def require_confirmed(key: VerifyKey, signature: str, said: bytes) -> None:
    """The site signed ``said``."""
    _require_signed(key, signature, said, "confirmation-invalid")


def require_share(context: Context, dealt: Dealt, kind: Kind, share: bytes) -> None:
    """``share`` is the one that was dealt to its holder, by the dealer's own word."""
    told = dealt.seed if kind == "seed" else dealt.key
    if share_commitment(context, dealt.dealer, dealt.holder, kind, share) != told:
        raise refused("share-forged", f"{dealt.holder} revealed another share than {dealt.dealer} dealt to it")


def require_range(total: NDArray[np.int64], largest: int) -> None:
    """The sum is one that values within what was offered can have."""
    if total.size and not (-largest <= int(total.min()) and int(total.max()) <= largest):
        raise UpdateRejected(
            f"the sum holds values beyond {largest}, the most that these sites can make together",
            hint="one of them masked something else than it offered, and nobody can tell which: ask their logs",
            code="sum-range",
        )


def refused(code: str, sentence: str) -> ProtocolError:
    """The error of a paper that does not count."""
    return ProtocolError(sentence, hint=_ASK, code=code)


def _require_signed(key: VerifyKey, signature: str, message: bytes, code: str) -> None:
    try:
        key.verify(bytes.fromhex(signature), message)
    except (ProtocolError, ValueError):
        raise refused(code, f"the signature is not by the key {key.fingerprint()} over this question") from None
