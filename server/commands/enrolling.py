"""``consilium-server enrol``: what the lead is shown before and after a site's words are compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from server.federation_folder import FederationFolder
from shared.trust import documents
from shared.trust.enrolment import EnrolmentRequest, open_request
from shared.trust.words import spoken, words_of


def read_request(path: Path) -> EnrolmentRequest:
    """The request in a file, signed by the key it asks for; raises ``ConsiliumError``."""
    return open_request(documents.read(path, EnrolmentRequest))


def shown(request: EnrolmentRequest) -> Iterator[str]:
    """A request for people."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(request.versions.items()))
    yield f"{request.site} asks to be enrolled; written {request.created}"
    yield f"versions: {versions}"
    yield "The site's key in words:"
    yield spoken(request.entry.verify_key)


def document(request: EnrolmentRequest, folder: FederationFolder, welcome: Path) -> dict[str, object]:
    """What was done, for programs; the lead's own words are for the site to hear."""
    return {
        "site": request.site,
        "identity": request.identity,
        "words": list(words_of(request.entry.verify_key)),
        "roster": folder.roster().version,
        "lead": {"key": folder.lead.hex(), "words": list(words_of(folder.lead))},
        "welcome": str(welcome),
    }
