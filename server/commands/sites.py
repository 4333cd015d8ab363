"""``consilium-server sites``: who is enrolled, by which words, and how long the certificates last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime

from server.federation_folder import FederationFolder
from server.validity import days_left
from shared.trust.words import words_of


def shown(folder: FederationFolder, now: datetime) -> Iterator[str]:
    """Lines for people."""
    roster, left = folder.roster(), days_left(folder, now)
    yield f"{folder.settings.name} at {folder.settings.address}, roster {roster.version}, {_count(len(roster.sites))}"
    yield f"certificates: server {left.server} days, authority {left.authority} days"
    for one in roster.sites:
        yield f"{one.site:<20} {one.state:<10} {' '.join(words_of(one.verify_key))}"


def _count(sites: int) -> str:
    return f"{sites} site" + "s" * (sites != 1)


def document(folder: FederationFolder, now: datetime) -> dict[str, object]:
    """The same for programs."""
    roster = folder.roster()
    return {
        "federation": folder.settings.name,
        "address": folder.settings.address,
        "lead": {"key": folder.lead.hex(), "words": list(words_of(folder.lead))},
        "roster": {"version": roster.version, "sha256": roster.sha256()},
        "days_left": asdict(days_left(folder, now)),
        "sites": [
            {
                "site": one.site,
                "state": one.state,
                "identity": one.identity,
                "words": list(words_of(one.verify_key)),
                "node": one.node,
            }
            for one in roster.sites
        ],
    }
