"""The steps of a secure sum at a site: from what it knows and what it is asked, what it then knows and answers.

Promises
- Each step checks everything first (``checks``), then answers. It changes nothing but by its return value.
- A site gives shares of a seed only where it saw that its owner masked with the dealers that it was told itself: each
  signs that with its masked answer, and the others check it before they confirm.
- What a site knows has one type for each step, and holds no secret longer than the next step needs it: after masking,
  its own keys, seed and values are gone; after revealing, the shares of others too.
- A step draws from ``entropy`` in a fixed order: cipher key, mask key, seed; coefficients of the seed's shares, then of
  the key's.

====================  ==============================================================================================
step                  answer
====================  ==============================================================================================
offer                 two fresh public keys, a commitment to a fresh seed, lengths and weight; signed
deal                  shares of the seed and of the private mask key, sealed to their holders
mask                  weight * values + own mask + a mask with each neighbour that dealt, added or subtracted by name;
                      with them a signature of who dealt
confirm               a signature of who dealt and who is in the sum, if its neighbours signed for the same dealers
unmask                one share of each site that it holds shares of: of its seed, or of its key if it dropped out
====================  ==============================================================================================

Source: Bonawitz et al., CCS 2017, figure 4; signatures of the dealers are ours. The order of steps is kept by
``client.secure.party``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from client.secure.checks import (
    Agreed,
    opened,
    require_offers,
    require_received,
    require_survivors,
    require_unmasking,
)
from shared.crypto.signing import SigningKey, VerifyKey
from shared.messages import Masked
from shared.secure import masks, ring
from shared.secure.agreement import KeyPair, agreed, mask_key, seal_shares, self_key, sign_of
from shared.secure.context import Context
from shared.secure.entropy import Entropy
from shared.secure.held import Held, LongWords, Words, masked
from shared.secure.holders import Threshold
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
from shared.secure.shamir import SECRET_BYTES, SHARE_BYTES, split
from shared.secure.statements import (
    dealers_message,
    graph_seed,
    offer_message,
    seed_commitment,
    share_commitment,
    survivors_message,
)


@dataclass(frozen=True, slots=True, eq=False)
class Secrets:
    """What a site draws for one sum: keys that shares are sealed with, keys that masks come from, and a seed."""

    cipher: KeyPair
    mask: KeyPair
    seed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Offered:
    """After ``offer``."""

    context: Context
    held: Held
    secrets: Secrets
    offer: Offer


@dataclass(frozen=True, slots=True, eq=False)
class HasDealt:
    """After ``deal``; ``own`` is this site's share of its own secrets."""

    agreed: Agreed
    held: Held
    secrets: Secrets
    own: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class HasMasked:
    """After ``mask``; ``shares`` are those of each dealer that this site holds, of the seed and then of the key."""

    agreed: Agreed
    dealers: tuple[str, ...]
    shares: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class HasConfirmed:
    """After ``confirm``."""

    agreed: Agreed
    dealers: tuple[str, ...]
    shares: Mapping[str, bytes] = field(repr=False)
    survivors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HasRevealed:
    """After ``unmask``: nothing is left."""


def offer(context: Context, held: Held, site: str, identity: SigningKey, entropy: Entropy) -> Offered:
    """Draw secrets, and offer what is public of them."""
    secrets = Secrets(KeyPair.generate(entropy), KeyPair.generate(entropy), entropy(SECRET_BYTES))
    bare = Offer(
        site=site,
        cipher_key=secrets.cipher.public.hex(),
        mask_key=secrets.mask.public.hex(),
        commitment=seed_commitment(context, site, secrets.seed),
        weight=held.weight,
        values=held.values.size,
        counts=held.counts.size,
        peak=held.peak,
        definition=held.definition,
    )
    signature = identity.sign(offer_message(context, bare)).hex()
    return Offered(context, held, secrets, bare.model_copy(update={"signature": signature}))


def agree(before: Offered, offers: Offers, members: Mapping[str, VerifyKey], threshold: Threshold) -> Agreed:
    """What everybody's offers say, once they are checked."""
    context, own = before.context, before.offer
    require_offers(context, own, offers, members)
    digest = offers.sha256()
    circle = threshold.circle(offers.sites, graph_seed(context, digest), len(members))
    keys = {site: members[site] for site in offers.sites}
    by_name = {one.site: one for one in offers.offers}
    return Agreed(context, own.site, by_name, digest, offers.bits, keys, circle)


def deal(before: Offered, known: Agreed, entropy: Entropy) -> tuple[HasDealt, Dealing]:
    """Split this site's secrets among its holders."""
    holders, needed = known.circle.holders[known.site], known.circle.needed
    seeds = split(before.secrets.seed, len(holders), needed, entropy)
    keys = split(before.secrets.mask.private, len(holders), needed, entropy)
    pairs = dict(zip(holders, zip(seeds, keys, strict=True), strict=True))
    dealt = tuple(_dealt(known, before.secrets.cipher, holder, *pairs[holder]) for holder in holders)
    return HasDealt(known, before.held, before.secrets, b"".join(pairs[known.site])), Dealing(dealt=dealt)


def _dealt(known: Agreed, cipher: KeyPair, holder: str, seed: bytes, key: bytes) -> Dealt:
    context, dealer = known.context, known.site
    sealed = b""
    if holder != dealer:
        secret = agreed(cipher.private, bytes.fromhex(known.offers[holder].cipher_key))
        sealed = seal_shares(secret, context, dealer, holder, seed + key)
    return Dealt(
        dealer=dealer,
        holder=holder,
        sealed=sealed.hex(),
        seed=share_commitment(context, dealer, holder, "seed", seed),
        key=share_commitment(context, dealer, holder, "key", key),
    )


def mask(before: HasDealt, received: Received, identity: SigningKey) -> tuple[HasMasked, Masked]:
    """Open what neighbours dealt, hide what this site holds, and sign with whom."""
    known = before.agreed
    require_received(known, received)
    shares = {known.site: before.own}
    for one in received.dealt:
        secret = agreed(before.secrets.cipher.private, bytes.fromhex(known.offers[one.dealer].cipher_key))
        shares[one.dealer] = opened(known, one, secret)
    peers = tuple(one.dealer for one in received.dealt)
    signature = identity.sign(dealers_message(known.context, known.digest, received.dealers)).hex()
    values, counts = _hidden(known, before.held, before.secrets, peers)
    return HasMasked(known, received.dealers, shares), masked(values, counts, known.bits, signature)


def _hidden(known: Agreed, held: Held, secrets: Secrets, peers: tuple[str, ...]) -> tuple[Words, LongWords]:
    context, me = known.context, known.site
    values = ring.to_ring(held.values, held.weight, known.bits)
    counts = held.counts.astype(np.int64).view(np.uint64)
    masks.add(self_key(secrets.seed, context, me), 1, values, counts)
    for peer in peers:
        secret = agreed(secrets.mask.private, bytes.fromhex(known.offers[peer].mask_key))
        masks.add(mask_key(secret, context, *sorted((me, peer))), sign_of(me, peer), values, counts)
    # Masks cover 32 bits; those above the ring's would tell which multiples were carried.
    np.bitwise_and(values, np.uint32(2**known.bits - 1), out=values)
    return values, counts


def confirm(before: HasMasked, told: Survivors, identity: SigningKey) -> tuple[HasConfirmed, Confirmation]:
    """Sign who is in the sum."""
    known, dealers, survivors = before.agreed, before.dealers, told.survivors
    require_survivors(known, dealers, told)
    said = survivors_message(known.context, known.digest, dealers, survivors)
    after = HasConfirmed(known, dealers, before.shares, survivors)
    return after, Confirmation(signature=identity.sign(said).hex())


def unmask(before: HasConfirmed, asked: Unmasking) -> tuple[HasRevealed, Revelation]:
    """One share of each dealer whose shares this site holds, never two."""
    require_unmasking(before.agreed, before.dealers, before.survivors, asked)
    survivors = frozenset(before.survivors)
    seeds = {site: one[:SHARE_BYTES].hex() for site, one in before.shares.items() if site in survivors}
    keys = {site: one[SHARE_BYTES:].hex() for site, one in before.shares.items() if site not in survivors}
    return HasRevealed(), Revelation(seeds=dict(sorted(seeds.items())), keys=dict(sorted(keys.items())))
