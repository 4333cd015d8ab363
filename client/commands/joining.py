"""``consilium-site request`` and ``accept``: what people are shown before and after they compare words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from client.enrolment import Offer, offered, request
from client.site_folder import SiteFolder
from shared.crypto.signing import VerifyKey
from shared.trust import documents
from shared.trust.enrolment import Welcome
from shared.trust.words import spoken, words_of


@dataclass(frozen=True, slots=True)
class Requested:
    """Where a request was written, and the key that signed it."""

    path: Path
    site: str
    key: VerifyKey

    def shown(self) -> Iterator[str]:
        """For people."""
        yield f"request of {self.site}: {self.path}\nSend this file to the lead; it holds no secret."
        yield f"Words to read out to the lead by telephone:\n{spoken(self.key)}"

    def document(self) -> dict[str, object]:
        """For programs."""
        return {
            "request": str(self.path),
            "site": self.site,
            "identity": self.key.hex(),
            "words": list(words_of(self.key)),
        }


def write_request(site: SiteFolder, out: Path | None, now: datetime) -> Requested:
    """Write the request to ``out``, or ``NAME.request`` here; raises ``ConsiliumError``."""
    name = site.settings.site.name
    path = out or Path(f"{name}.request")
    documents.write(path, request(site, now))
    return Requested(path, name, site.signing_key().verify_key)


def read_welcome(site: SiteFolder, path: Path, now: datetime) -> Offer:
    """The welcome in a file, which this site may accept; raises ``ConsiliumError``."""
    return offered(site, documents.read(path, Welcome), now)


def shown(offer: Offer) -> Iterator[str]:
    """A welcome for people."""
    states = [one.state for one in offer.roster.sites]
    count = f"{len(states)} site" + "s" * (len(states) != 1)
    yield (
        f"federation {offer.welcome.federation} at {offer.welcome.address}\n"
        f"roster {offer.roster.version}: {count}, {states.count('suspended')} suspended"
    )
    yield f"The lead's key in words:\n{spoken(offer.welcome.lead_key)}"


def document(offer: Offer) -> dict[str, object]:
    """The same for programs."""
    return {
        "federation": offer.welcome.federation,
        "address": offer.welcome.address,
        "lead": {"key": offer.welcome.lead, "words": list(words_of(offer.welcome.lead_key))},
        "roster": {"version": offer.roster.version, "sites": [one.site for one in offer.roster.sites]},
        "news": offer.news,
    }
