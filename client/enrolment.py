"""How this site joins a federation: it asks with its public keys, and pins what the lead answers.

Promises
- ``request`` sends public keys and versions, nothing else. The node key is made where there is none, once.
- ``offered`` checks a welcome whole before anybody is asked about it: signed by the lead it names, for this site under
  this name and both its keys, with a roster that says so.
- The first welcome that is accepted pins lead, federation and authority. After that another lead, federation or
  authority is refused, and so is anything older than what is held; the same lead's newer welcome or roster replaces it.
- Everything is in the audit log, before it takes effect: what was asked, what was accepted, what was refused.

Whether the words are the lead's is for people to compare, before ``accept``.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Literal

from client.governance.audit import Event
from client.pinned import LOCK, TRUST, Pinned, keep_roster, keep_welcome
from client.site_folder import KEYS, SiteFolder
from shared.crypto import node_keys
from shared.durable import alone
from shared.errors import PolicyError, ProtocolError
from shared.trust.documents import moment, opened
from shared.trust.enrolment import Welcome, make_request, open_welcome
from shared.trust.roster import Roster, require_successor

NODE = "node.pem"
_PACKAGES = ("consilium", "flwr", "torch", "monai")

News = Literal["first", "newer", "same"]


@dataclass(frozen=True, slots=True)
class Offer:
    """A welcome that this site may accept, its file, and whether it is the first, a newer one, or held already."""

    content: bytes
    welcome: Welcome
    roster: Roster
    news: News


def request(site: SiteFolder, now: datetime) -> bytes:
    """The file that asks for enrolment; raises ``SiteDataError``."""
    key, audit = site.signing_key(), site.audit
    audit.require_sound()
    path = site.path / KEYS / NODE
    if not path.exists():
        node_keys.save(node_keys.generate(), path)
    node = _node(site)
    content = make_request(key, site.settings.site.name, node, _versions(), now)
    digests = {"identity": key.verify_key.hex(), "node": _sha256(node.encode()), "request": _sha256(content)}
    audit.append(Event("request", digests=digests), now)
    return content


def offered(site: SiteFolder, content: bytes, now: datetime) -> Offer:
    """A welcome that this site may accept; what it may not is refused and logged.

    Raises:
        ProtocolError: not a welcome, for another site ("welcome-site") or other keys ("welcome-keys"), older than what
            is held ("welcome-older", "roster-older").
        PolicyError: another lead, federation or authority than the pinned one ("pinned").
    """
    try:
        return _judged(site, content)
    except (ProtocolError, PolicyError) as error:
        site.audit.append(Event("accept-refused", counts={error.code: 1}, digests={"welcome": _sha256(content)}), now)
        raise


def accept(site: SiteFolder, content: bytes, now: datetime) -> Offer:
    """Pin a welcome; judged anew, because something else may have been accepted since; raises as ``offered`` does."""
    (site.path / TRUST).mkdir(mode=0o700, exist_ok=True)
    with alone(site.path / TRUST / LOCK):
        offer = offered(site, content, now)
        if offer.news != "same":
            site.audit.append(_accepted(offer), now)
            keep_welcome(site.path, content, offer.welcome)
    return offer


def take_roster(site: SiteFolder, content: bytes, now: datetime) -> Pinned:
    """Hold a roster that the pinned lead has signed, if it is newer than the one held; gives what is held then.

    Raises:
        ProtocolError: another's, older, or one that excludes the one held (``shared.trust.roster``).
        PolicyError: nothing was accepted yet ("not-enrolled").
    """
    require_pinned(site)
    with alone(site.path / TRUST / LOCK):
        held = require_pinned(site)
        try:
            roster = opened(content, Roster, held.lead)
            require_successor(held.roster, roster)
        except ProtocolError as error:
            refused = Event("roster-refused", counts={error.code: 1}, digests={"roster": _sha256(content)})
            site.audit.append(refused, now)
            raise
        if roster.version > held.roster.version:
            taken = Event("roster", counts={"version": roster.version}, digests={"roster": roster.sha256()})
            site.audit.append(taken, now)
            keep_roster(site.path, content)
    return require_pinned(site)


def require_pinned(site: SiteFolder) -> Pinned:
    """What this site holds of its federation; raises ``PolicyError`` ("not-enrolled") where it has accepted nothing."""
    found = site.pinned
    if found is None:
        raise PolicyError(
            "this site belongs to no federation yet",
            hint="consilium-site request, then consilium-site accept WELCOME",
            code="not-enrolled",
        )
    return found


def _judged(site: SiteFolder, content: bytes) -> Offer:
    welcome, roster = open_welcome(content)
    _require_ours(site, welcome, roster)
    held = site.pinned
    if held is None:
        return Offer(content, welcome, roster, "first")
    if welcome == held.welcome:
        return Offer(content, welcome, roster, "same")
    _require_same(held, welcome)
    require_successor(held.roster, roster)
    if moment(welcome.created) < moment(held.welcome.created):
        raise ProtocolError(
            f"this welcome was written at {welcome.created}, the one held here at {held.welcome.created}",
            hint="an older welcome is never taken back: ask the lead for the present one",
            code="welcome-older",
        )
    return Offer(content, welcome, roster, "newer")


def _require_ours(site: SiteFolder, welcome: Welcome, roster: Roster) -> None:
    name = site.settings.site.name
    if welcome.site != name:
        raise ProtocolError(
            f"this welcome is for {welcome.site}, and this site is {name}",
            hint="ask the lead for yours",
            code="welcome-site",
        )
    entry, node = roster.entry(name), site.path / KEYS / NODE
    ours = (site.signing_key().verify_key.hex(), _node(site) if node.exists() else "")
    if entry is None or (entry.identity, entry.node) != ours:
        raise ProtocolError(
            f"this welcome enrols other keys than this site's under the name {name}",
            hint="telephone the lead: somebody else has enrolled under this name, or the keys here are new",
            code="welcome-keys",
        )


def _require_same(held: Pinned, welcome: Welcome) -> None:
    pinned = {"lead": held.welcome.lead, "federation": held.federation, "authority": held.welcome.ca}
    said = {"lead": welcome.lead, "federation": welcome.federation, "authority": welcome.ca}
    other = [what for what, value in pinned.items() if said[what] != value]
    if other:
        raise PolicyError(
            f"this welcome has another {' and '.join(other)} than this site has pinned: federation {held.federation}, "
            f"lead {held.lead.fingerprint()}",
            hint="telephone the lead. To join another federation, make another site; to start over in this one, move "
            f"the folder {TRUST} away",
            code="pinned",
        )


def _accepted(offer: Offer) -> Event:
    digests = {
        "welcome": _sha256(offer.content),
        "lead": offer.welcome.lead,
        "authority": _sha256(offer.welcome.ca.encode()),
        "roster": offer.roster.sha256(),
    }
    return Event("accept", counts={"roster.version": offer.roster.version}, digests=digests)


def _node(site: SiteFolder) -> str:
    return node_keys.public_pem(node_keys.load(site.path / KEYS / NODE))


def _versions() -> Mapping[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
