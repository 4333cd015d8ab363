"""How requests become parcels and parcels replies: signed in production, plain in a simulation.

Promises
- ``Signed`` takes a reply for a site's only where it carries the signature of the key that the roster gives for that
  site, over this request. A suspended or unknown site has no such key, so it is refused whatever it says.
- Whatever is not signed can only be bad news: a relay may say that it could not reach its site, and nothing else.
- Every parcel yields a reply: what cannot be read or proved is a ``Refusal`` with its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import ConsiliumError, ProtocolError
from shared.message_bytes import reply_from_bytes
from shared.messages import Refusal, Reply
from shared.parcels import Body, Parcel, require_reply, signed_request


class Post(Protocol):
    """Makes and opens parcels of one run."""

    def seal(self, body: Body, site: str) -> Parcel:
        """A request to ``site``, "" for whoever it reaches."""
        ...

    def open(self, parcel: Parcel, asked: Body) -> tuple[str, Reply]:
        """(site, reply) to the request ``asked``; ("", refusal) where nobody has proved to be a site."""
        ...


@dataclass(frozen=True)
class Plain:
    """Without signatures: everything happens in one place."""

    def seal(self, body: Body, site: str) -> Parcel:
        """As ``Post`` says."""
        return Parcel(site, body.content)

    def open(self, parcel: Parcel, _asked: Body) -> tuple[str, Reply]:
        """As ``Post`` says."""
        return _opened(parcel)


@dataclass(frozen=True)
class Signed:
    """Signed both ways.

    Attributes:
        order: of the run, signed by the lead.
        run_key: the key that the order names.
        sites: the identity of every active site of the roster.
    """

    order: bytes
    run_key: SigningKey
    sites: Mapping[str, VerifyKey]

    def seal(self, body: Body, site: str) -> Parcel:
        """As ``Post`` says."""
        return signed_request(body, site, self.order, self.run_key)

    def open(self, parcel: Parcel, asked: Body) -> tuple[str, Reply]:
        """As ``Post`` says."""
        if not parcel.signature:
            return "", _bad_news(_opened(parcel)[1])
        try:
            require_reply(parcel, asked.sha256, self._identity(parcel.site))
        except ConsiliumError as error:
            return "", Refusal(error.code, error.sentence, error.hint)
        return _opened(parcel)

    def _identity(self, site: str) -> VerifyKey:
        if site not in self.sites:
            raise ProtocolError(
                "a reply comes from a site that is not in the roster, or is suspended",
                hint="consilium-server sites shows who is enrolled",
                code="not-enrolled",
            )
        return self.sites[site]


def _opened(parcel: Parcel) -> tuple[str, Reply]:
    try:
        return parcel.site, reply_from_bytes(parcel.body)
    except ConsiliumError as error:
        return "", Refusal(error.code, error.sentence, error.hint)


def _bad_news(reply: Reply) -> Refusal:
    if isinstance(reply, Refusal):
        return reply
    return Refusal("unsigned", "a reply carries no signature of a site", "somebody other than the site has answered")
