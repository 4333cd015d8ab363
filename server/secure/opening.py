"""From shares to secrets, and from secrets to a sum without masks.

Promises
- A secret counts only if it is the one that its dealer told everybody about: a seed by the commitment in its offer, a
  mask key by the public key in it. Else "secret-inconsistent" names the dealer: each share was dealt as committed, so
  it dealt shares that do not belong together.
- Of each site one secret is put together, the one that its place in the sum demands: the seed of one that is in it, the
  mask key of one that is not. Fewer than the needed shares are refused ("shares-missing").
- Masks are taken off in place and one at a time: memory does not grow with the number of sites.

What it costs: one mask for each survivor, and for each site that dropped out one for each surviving neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.secure import masks
from shared.secure.agreement import KeyPair, agreed, mask_key, self_key, sign_of
from shared.secure.context import Context
from shared.secure.holders import Circle
from shared.secure.papers import Offer
from shared.secure.shamir import combine
from shared.secure.statements import Kind, seed_commitment


@dataclass(frozen=True, slots=True)
class Sum:
    """Who is in a sum.

    Attributes:
        context: the question.
        offers: of all that offered, by name.
        circle: who holds shares of whom.
        survivors: whose masked values were added.
        dropped: who dealt, and whose masked values did not come.
    """

    context: Context
    offers: Mapping[str, Offer]
    circle: Circle
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]

    def due(self, holder: str, kind: Kind) -> frozenset[str]:
        """Of whose secrets of that ``kind`` the ``holder`` is asked for a share."""
        dealers = self.survivors if kind == "seed" else self.dropped
        return frozenset(dealer for dealer in dealers if holder in self.circle.holders[dealer])


@dataclass(frozen=True, slots=True)
class Opened:
    """Seeds of the survivors and private mask keys of the dropped, checked."""

    seeds: Mapping[str, bytes] = field(repr=False)
    keys: Mapping[str, bytes] = field(repr=False)


def opened(of: Sum, seeds: Mapping[str, Mapping[str, bytes]], keys: Mapping[str, Mapping[str, bytes]]) -> Opened:
    """All secrets of a sum from their shares, by dealer and then by holder.

    Raises:
        ProtocolError: "shares-missing", "secret-inconsistent".
    """
    found = Opened(
        {site: _secret(of, site, seeds.get(site, {})) for site in of.survivors},
        {site: _secret(of, site, keys.get(site, {})) for site in of.dropped},
    )
    for site, seed in found.seeds.items():
        _require(site, of.offers[site].commitment, seed_commitment(of.context, site, seed))
    for site, private in found.keys.items():
        _require(site, of.offers[site].mask_key, KeyPair.from_private(private).public.hex())
    return found


def take_off(of: Sum, secrets: Opened, values: NDArray[np.uint32], counts: NDArray[np.uint64]) -> None:
    """Subtract all masks from the sum, in place."""
    for key, sign in _keys(of, secrets):
        masks.remove(key, sign, values, counts)


def _keys(of: Sum, secrets: Opened) -> Iterator[tuple[bytes, Literal[1, -1]]]:
    """Each mask that is left in the sum, and the sign with which it is in there."""
    for site, seed in secrets.seeds.items():
        yield self_key(seed, of.context, site), 1
    for site, private in secrets.keys.items():
        for peer in of.circle.neighbours(site):
            if peer in secrets.seeds:
                secret = agreed(private, bytes.fromhex(of.offers[peer].mask_key))
                yield mask_key(secret, of.context, *sorted((site, peer))), sign_of(peer, site)


def _secret(of: Sum, dealer: str, shares: Mapping[str, bytes]) -> bytes:
    if len(shares) < of.circle.needed:
        raise ProtocolError(
            f"{len(shares)} shares of a secret of {dealer} were revealed, {of.circle.needed} are needed",
            hint="the sum cannot be had; the round is repeated, or skipped",
            code="shares-missing",
        )
    place = {holder: number for number, holder in enumerate(of.circle.holders[dealer])}
    try:
        return combine({place[holder]: share for holder, share in shares.items()}, of.circle.needed)
    except ProtocolError:
        raise _inconsistent(dealer) from None


def _require(dealer: str, told: str, found: str) -> None:
    if told != found:
        raise _inconsistent(dealer)


def _inconsistent(dealer: str) -> ProtocolError:
    return ProtocolError(
        f"the shares that {dealer} dealt make another secret than it offered, or none",
        hint=f"leave {dealer} out and ask the question again; then ask the site what it runs",
        code="secret-inconsistent",
    )
