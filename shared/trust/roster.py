"""The roster: which sites are in a federation, with which keys. Signed by the lead, versioned, chained.

Promises
- One site has one name, one identity key and one node key, and no two sites share any of them.
- Each change makes the next version, which names the digest of the one before; the first names zeros. A change of one
  site leaves every other entry as it is, byte for byte.
- ``require_successor`` is what a holder asks before replacing its roster: an older one is refused, and two that carry
  one version are named as what they are, a lead's key in two places.

Signing and keeping rosters is left to ``server.federation_folder``, pinning them to ``client.pinned``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from shared.crypto.node_keys import require_public_pem
from shared.crypto.signing import VerifyKey
from shared.errors import FederationError, ProtocolError
from shared.trust.documents import Digest, Document, Moment, Name, stamp

State = Literal["active", "suspended"]
START = "0" * 64

NodeKey = Annotated[str, Field(max_length=400), AfterValidator(require_public_pem)]
"""Public key of a SuperNode: EC P-384, SubjectPublicKeyInfo in PEM."""


class Entry(BaseModel):
    """One site: its name, its identity key (Ed25519), its node key, and whether it takes part."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    site: Name
    identity: Digest
    node: NodeKey
    state: State = "active"

    @property
    def verify_key(self) -> VerifyKey:
        """What the site's signatures are checked with."""
        return VerifyKey.from_hex(self.identity)


class Roster(Document):
    """All sites, by name."""

    kind: ClassVar[str] = "roster"
    most_bytes: ClassVar[int] = 2**20

    federation: Name
    version: Annotated[int, Field(ge=1)]
    sites: tuple[Entry, ...]
    created: Moment
    previous: Digest

    @model_validator(mode="after")
    def _tells_sites_apart(self) -> Roster:
        names = [one.site for one in self.sites]
        keys = [{one.identity for one in self.sites}, {one.node for one in self.sites}]
        if names != sorted(set(names)) or any(len(found) != len(names) for found in keys):
            raise ValueError("sites are sorted by name, and share neither name nor key")
        if (self.previous == START) != (self.version == 1):
            raise ValueError("the first roster, and no other, follows none")
        return self

    @property
    def active(self) -> frozenset[str]:
        """Names of the sites that take part."""
        return frozenset(one.site for one in self.sites if one.state == "active")

    def entry(self, site: str) -> Entry | None:
        """The site of that name, None where there is none."""
        return next((one for one in self.sites if one.site == site), None)


def first(federation: str, now: datetime) -> Roster:
    """A roster without sites."""
    return Roster(federation=federation, version=1, sites=(), created=stamp(now), previous=START)


def with_site(roster: Roster, entry: Entry, now: datetime) -> Roster:
    """The next roster, with one more site; raises ``FederationError`` where its name or a key is taken."""
    for other in roster.sites:
        _require_apart(entry, other)
    return _next(roster, (*roster.sites, entry), now)


def with_state(roster: Roster, site: str, state: State, now: datetime) -> Roster:
    """The next roster, with one site suspended or active again; raises ``FederationError``."""
    found = _known(roster, site)
    if found.state == state:
        raise FederationError(f"{site} is {state} already", hint="nothing was changed", code="site-state")
    changed = found.model_copy(update={"state": state})
    return _next(roster, tuple(changed if one.site == site else one for one in roster.sites), now)


def without(roster: Roster, site: str, now: datetime) -> Roster:
    """The next roster, without a site; raises ``FederationError``."""
    _known(roster, site)
    return _next(roster, tuple(one for one in roster.sites if one.site != site), now)


def require_successor(held: Roster, offered: Roster) -> None:
    """Return if whoever holds ``held`` may take ``offered``, which may say the same; both signed by the same lead.

    Raises:
        ProtocolError: another federation's ("roster-federation"), older ("roster-older"), or not what follows from
            ``held`` although its version says so ("roster-fork"). Between versions further apart, nothing shows
            whether one follows from the other but the lead's signature.
    """
    if offered.federation != held.federation:
        raise ProtocolError(
            f"this roster is of the federation {offered.federation}, not of {held.federation}",
            hint="nothing was changed; ask its sender",
            code="roster-federation",
        )
    if offered.version < held.version:
        raise ProtocolError(
            f"this roster has version {offered.version}, the one held here {held.version}",
            hint="an older roster is never taken back: ask the lead for the present one",
            code="roster-older",
        )
    step = {held.version: offered.sha256(), held.version + 1: offered.previous}.get(offered.version, held.sha256())
    if step != held.sha256():
        raise ProtocolError(
            f"the lead has signed two rosters that exclude each other, of versions {held.version} and "
            f"{offered.version}",
            hint="telephone the lead: a copy of the federation folder, or of its key, is in use elsewhere",
            code="roster-fork",
        )


def _next(roster: Roster, sites: tuple[Entry, ...], now: datetime) -> Roster:
    return Roster(
        federation=roster.federation,
        version=roster.version + 1,
        sites=tuple(sorted(sites, key=lambda one: one.site)),
        created=stamp(now),
        previous=roster.sha256(),
    )


def _known(roster: Roster, site: str) -> Entry:
    found = roster.entry(site)
    if found is None:
        raise FederationError(
            f"the federation {roster.federation} has no site of that name among its {len(roster.sites)}",
            hint="consilium-server sites lists them",
            code="site-unknown",
        )
    return found


def _require_apart(entry: Entry, other: Entry) -> None:
    if entry.site == other.site and entry.identity != other.identity:
        raise FederationError(
            f"the name {other.site} belongs to the key {other.verify_key.fingerprint()}, and this request bears "
            f"the key {entry.verify_key.fingerprint()}",
            hint="telephone the site. If it has lost its keys: remove it, then enrol it again; if not, somebody else "
            "uses its name",
            code="site-name-taken",
        )
    if entry.site != other.site and (entry.identity == other.identity or entry.node == other.node):
        raise FederationError(
            f"{entry.site} brings a key that belongs to {other.site}",
            hint="two sites cannot share a key: each makes its own with consilium-site init",
            code="site-key-taken",
        )
    if entry.site == other.site:
        raise FederationError(
            f"{other.site} is enrolled under this identity key already, with another node key",
            hint="if the site made a new node key: remove it, then enrol it again",
            code="site-enrolled",
        )
