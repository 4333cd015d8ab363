"""Parcels: a message, whom it concerns, and what proves where it comes from.

Promises
- A signed request proves that the holder of the run's key wrote this body for this site under this order, and a signed
  reply that this site answered that very request with this body: neither can be used for another site, another run or
  another question.
- Bodies are signed by their SHA-256, so a model is hashed once however many sites it goes to.
- A parcel without a signature is for a simulation, where there is nobody to prove anything to, or a relay's word that
  no site could be reached.

What a body says is ``shared.message_bytes``', whether an order holds is ``shared.trust.orders``'. What carries parcels
need not understand either.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import ProtocolError

_REQUEST, _REPLY = b"consilium-request-1\n", b"consilium-reply-1\n"


@dataclass(frozen=True, slots=True)
class Parcel:
    """What travels.

    Attributes:
        site: whom a request is for ("" for whoever it reaches), or whom a reply is from.
        body: the message (``shared.message_bytes``).
        signature: 64 bytes, or none.
        order: the signed order of the run that a request belongs to, or none.
    """

    site: str
    body: bytes = field(repr=False)
    signature: bytes = field(default=b"", repr=False)
    order: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Body:
    """A request's bytes, hashed once for all the sites that it goes to."""

    content: bytes = field(repr=False)
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Body:
        """``content`` with its digest."""
        return cls(content, digest(content))


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def signed_request(body: Body, site: str, order: bytes, run_key: SigningKey) -> Parcel:
    """A request to ``site``, signed by the key that ``order`` names."""
    return Parcel(site, body.content, run_key.sign(_asked(site, body.sha256, order)), order)


def require_request(parcel: Parcel, run_key: VerifyKey, site: str) -> None:
    """Return where ``run_key`` wrote this for ``site`` or for anybody; raise ``ProtocolError`` where not."""
    if parcel.site not in ("", site):
        raise ProtocolError("this request is for another site", hint="the coordinator mixed up its nodes", code="site")
    run_key.verify(parcel.signature, _asked(parcel.site, digest(parcel.body), parcel.order))


def signed_reply(body: bytes, site: str, request: str, identity: SigningKey) -> Parcel:
    """What ``site`` answers to the request whose body has the SHA-256 ``request``."""
    return Parcel(site, body, identity.sign(_answered(site, request, body)))


def require_reply(parcel: Parcel, request: str, identity: VerifyKey) -> None:
    """Return where ``identity`` gave this as its answer to ``request``; raise ``ProtocolError`` where not."""
    identity.verify(parcel.signature, _answered(parcel.site, request, parcel.body))


def _asked(site: str, body: str, order: bytes) -> bytes:
    return _REQUEST + json.dumps({"body": body, "order": digest(order), "site": site}, sort_keys=True).encode()


def _answered(site: str, request: str, body: bytes) -> bytes:
    return _REPLY + json.dumps({"body": digest(body), "request": request, "site": site}, sort_keys=True).encode()
