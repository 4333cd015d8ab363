"""How a site joins: its request, and the lead's welcome. Both are public; only their fingerprints need a telephone.

Promises
- A request is signed by the key that it asks to enrol: whoever sends it holds the private half. Its words
  (``shared.trust.words``) stand for all of it, node key and name included.
- A welcome is signed by the key of the lead that it names, and so is the roster in it. Its words stand for all of it:
  the address, the authority of the certificates, and every site's keys.
- Neither holds a secret: whoever reads them learns names, public keys and versions.

What is not told by a file is whose key it is: people compare the words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from shared.crypto.authority import require_authority_pem
from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import ProtocolError
from shared.trust.address import require_address
from shared.trust.documents import Digest, Document, Moment, Name, opened, seal, signer_of, stamp
from shared.trust.roster import Entry, NodeKey, Roster

Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")]
Package = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
Address = Annotated[str, Field(max_length=270), AfterValidator(require_address)]
AuthorityPem = Annotated[str, Field(max_length=4000), AfterValidator(require_authority_pem)]
SealedRoster = Annotated[str, Field(max_length=Roster.most_bytes, pattern=r"^[\x20-\x7e]+\n$")]


class EnrolmentRequest(Document):
    """A site asks to be enrolled: its name, its two public keys, and what it runs."""

    kind: ClassVar[str] = "enrolment-request"
    most_bytes: ClassVar[int] = 2**14

    site: Name
    identity: Digest
    node: NodeKey
    versions: Annotated[dict[Package, Version], Field(max_length=40)]
    created: Moment

    @property
    def entry(self) -> Entry:
        """What it would be in the roster."""
        return Entry(site=self.site, identity=self.identity, node=self.node)


class Welcome(Document):
    """The lead's answer to one site: where the coordinator is, whom to trust, and who else is there."""

    kind: ClassVar[str] = "welcome"
    most_bytes: ClassVar[int] = 2**21

    federation: Name
    address: Address
    ca: AuthorityPem
    lead: Digest
    roster: SealedRoster
    site: Name
    created: Moment

    @property
    def lead_key(self) -> VerifyKey:
        """The key that signs rosters, plans and orders of this federation."""
        return VerifyKey.from_hex(self.lead)

    def open_roster(self) -> Roster:
        """The roster in it, checked; raises ``ProtocolError``."""
        return opened(self.roster.encode("ascii"), Roster, self.lead_key)


@dataclass(frozen=True, slots=True)
class Coordinator:
    """What a welcome says of the coordinator: its federation, ``host:port``, and its authority in PEM."""

    federation: str
    address: str
    ca: str


def make_request(key: SigningKey, site: str, node: str, versions: Mapping[str, str], now: datetime) -> bytes:
    """The file of a request, signed by the site's identity ``key``."""
    request = EnrolmentRequest(
        site=site, identity=key.verify_key.hex(), node=node, versions=dict(versions), created=stamp(now)
    )
    return seal(request, key)


def open_request(content: bytes) -> EnrolmentRequest:
    """A request that is signed by the key it asks to enrol; raises ``ProtocolError``."""
    signer = signer_of(content, EnrolmentRequest)
    request = opened(content, EnrolmentRequest, signer)
    if request.identity != signer.hex():
        raise ProtocolError(
            "this request asks to enrol a key that has not signed it",
            hint="ask the site to make it again: consilium-site request",
            code="request-signer",
        )
    return request


def make_welcome(key: SigningKey, coordinator: Coordinator, roster: bytes, site: str, now: datetime) -> bytes:
    """The file of a welcome for ``site``, signed by the lead's ``key``, with the file of the signed ``roster``."""
    welcome = Welcome(
        federation=coordinator.federation,
        address=coordinator.address,
        ca=coordinator.ca,
        lead=key.verify_key.hex(),
        roster=roster.decode("ascii"),
        site=site,
        created=stamp(now),
    )
    return seal(welcome, key)


def open_welcome(content: bytes) -> tuple[Welcome, Roster]:
    """A welcome that is whole in itself, and its roster; whose key signed it is for the caller to compare.

    Raises:
        ProtocolError: it is not signed by the lead it names ("welcome-signer"), or its roster is of another federation
            or does not know the site ("welcome-roster").
    """
    signer = signer_of(content, Welcome)
    welcome = opened(content, Welcome, signer)
    if welcome.lead != signer.hex():
        raise ProtocolError(
            "this welcome names a lead whose key has not signed it", hint="ask the lead", code="welcome-signer"
        )
    roster = welcome.open_roster()
    if roster.federation != welcome.federation or roster.entry(welcome.site) is None:
        raise ProtocolError(
            f"the roster in this welcome, version {roster.version}, does not hold the site it is for",
            hint="ask the lead to write it again: consilium-server enrol REQUEST",
            code="welcome-roster",
        )
    return welcome, roster
