"""What a site and the coordinator write to each other on the way to a sum: documents, each with one form only.

Promises
- A paper is JSON with sorted keys, without spaces, in ASCII. There is exactly one way to write it: ``from_bytes``
  refuses every other ("paper-form"), so that whoever compares bytes compares contents.
- Its size is bounded before anything is parsed ("paper-size"), and so is every list in it. Unknown fields and wrong
  types are refused. Names in a list are sorted and told once. No error repeats what a paper said.
- No paper holds a value of a site: values and counts travel masked, as numbers (``shared.secure.held``), with a
  signature of the dealers beside them.

=============  ===========================  ==============================================================
paper          from                         what it holds
=============  ===========================  ==============================================================
Offer          a site                       two public keys, a commitment, what it would add; signed
Offers         the coordinator              all offers, and the width of the ring that they need
Dealing        a site                       sealed shares of its two secrets, and commitments to each share
Received       the coordinator, to each     who has dealt, and what they dealt to the reader
Survivors      the coordinator              whose masked values are in the sum; who dealt, signed by each
Confirmation   a site                       its signature of who dealt and who is in the sum
Unmasking      the coordinator              the names again, those who dropped out, and the signatures
Revelation     a site                       one share of each neighbour: of its seed or of its key, never both
=============  ===========================  ==============================================================

What is right in them is left to ``client.secure.checks`` and ``server.secure.checks``, what is signed to
``shared.secure.statements``.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ProtocolError
from shared.secure.names import Name
from shared.secure.ring import LEAST_BITS, MOST_BITS
from shared.secure.shamir import SHARE_BYTES
from shared.trust.documents import Digest

MOST_BYTES = 2**23
"""Of a paper: 8 MiB, room for the sealed shares of more than 10,000 neighbours."""

MOST_WEIGHT = 2**31 - 1
"""Of a site."""

_MOST_SITES = 10_000


def _told_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if list(names) != sorted(set(names)):
        raise ValueError("names are sorted, and each is told once")
    return names


Names = Annotated[tuple[Name, ...], Field(max_length=_MOST_SITES), AfterValidator(_told_once)]
Key = Digest
"""A public key of X25519: 64 hexadecimal digits."""
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Share = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * SHARE_BYTES}}}$")]
Sealed = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=1024)]
Length = Annotated[int, Field(ge=0, le=2**40)]
Shares = Annotated[dict[Name, Share], Field(max_length=_MOST_SITES)]


class Paper(BaseModel):
    """What all papers share: one form."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: ClassVar[str]

    def to_bytes(self) -> bytes:
        """The one JSON that says this."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode("ascii")

    def sha256(self) -> str:
        """SHA-256 of ``to_bytes``, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Inverse of ``to_bytes``; raises ``ProtocolError``: "paper-size" or "paper-form"."""
        if len(content) > MOST_BYTES:
            raise ProtocolError(
                f"{len(content)} bytes are too many for the {cls.kind} of a secure sum: {MOST_BYTES} at most",
                hint="run the same version everywhere; if they agree, ask the sender",
                code="paper-size",
            )
        try:
            paper = cls.model_validate_json(content)
        except ValidationError:
            raise _malformed(cls.kind) from None
        if paper.to_bytes() != content:
            raise _malformed(cls.kind)
        return paper


class Offer(Paper):
    """What a site brings to a sum, signed with its identity key (``statements.offer_message``).

    Attributes:
        cipher_key: shares are sealed to it.
        mask_key: pairwise masks are agreed on with it.
        commitment: to the seed of the site's own mask (``statements.seed_commitment``).
        weight: that its values are multiplied with.
        values: how many it adds.
        counts: how many it adds.
        peak: most that a value may be, either sign.
        definition: digest of what values and counts mean.
        signature: Ed25519; empty only while it is being made.
    """

    kind: ClassVar[str] = "offer"

    site: Name
    cipher_key: Key
    mask_key: Key
    commitment: Digest
    weight: Annotated[int, Field(ge=1, le=MOST_WEIGHT)]
    values: Length
    counts: Length
    peak: Annotated[int, Field(ge=0, le=2**31 - 1)]
    definition: Annotated[str, Field(pattern=r"^[0-9a-z-]{1,128}$")]
    signature: Signature | Annotated[str, Field(max_length=0)] = ""


class Offers(Paper):
    """All offers, by name, and the width in bits of the ring in which their sum is told apart."""

    kind: ClassVar[str] = "offers"

    bits: Annotated[int, Field(ge=LEAST_BITS, le=MOST_BITS)]
    offers: Annotated[tuple[Offer, ...], Field(max_length=_MOST_SITES)]

    @property
    def sites(self) -> tuple[str, ...]:
        """Whose they are, in their order."""
        return tuple(one.site for one in self.offers)


class Dealt(BaseModel):
    """What one site deals to one holder.

    Attributes:
        dealer: whose secrets are split.
        holder: whose share this is.
        sealed: both shares under authenticated encryption to the holder; empty for the dealer's own, which stays.
        seed: commitment to the share of the seed.
        key: commitment to the share of the mask key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dealer: Name
    holder: Name
    sealed: Sealed
    seed: Digest
    key: Digest


class Dealing(Paper):
    """All that one site deals: one for each holder, itself among them, by holder."""

    kind: ClassVar[str] = "dealing"

    dealt: Annotated[tuple[Dealt, ...], Field(max_length=_MOST_SITES)]


class Received(Paper):
    """Who has dealt, and what its neighbours among them dealt to the reader, by dealer."""

    kind: ClassVar[str] = "received"

    dealers: Names
    dealt: Annotated[tuple[Dealt, ...], Field(max_length=_MOST_SITES)]


class Survivors(Paper):
    """Whose masked values are in the sum, and what each has signed of the dealers (``statements.dealers_message``)."""

    kind: ClassVar[str] = "survivors"

    survivors: Names
    signatures: Annotated[dict[Name, Signature], Field(max_length=_MOST_SITES)]


class Confirmation(Paper):
    """A site's signature of dealers and survivors (``statements.survivors_message``)."""

    kind: ClassVar[str] = "confirmation"

    signature: Signature


class Unmasking(Paper):
    """Whose own masks and whose pairwise masks are to be taken off, and who confirmed that."""

    kind: ClassVar[str] = "unmasking"

    survivors: Names
    dropped: Names
    confirmations: Annotated[dict[Name, Signature], Field(max_length=_MOST_SITES)]


class Revelation(Paper):
    """Shares of seeds of survivors, and shares of mask keys of those who dropped out, by their dealer."""

    kind: ClassVar[str] = "revelation"

    seeds: Shares
    keys: Shares


def _malformed(kind: str) -> ProtocolError:
    return ProtocolError(
        f"this is no {kind} of a secure sum, or not as Consilium writes it",
        hint="run the same version everywhere; if they agree, ask the sender",
        code="paper-form",
    )
