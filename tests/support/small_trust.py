"""A lead, sites and their papers, made in memory; and folders of both sides, made once for a module of tests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest

from client.settings import template
from client.site_folder import SiteFolder
from server.federation_folder import FederationFolder, settings_for
from shared.crypto import node_keys
from shared.crypto.authority import Authority
from shared.crypto.signing import SigningKey
from shared.errors import ConsiliumError
from shared.trust import roster as rosters
from shared.trust.documents import seal
from shared.trust.enrolment import Coordinator, EnrolmentRequest, make_welcome, open_request
from shared.trust.roster import Entry, Roster

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def code_of(call: Callable[[], object]) -> str:
    """The code of the error that ``call`` raises."""
    with pytest.raises(ConsiliumError) as caught:
        call()
    assert caught.value.hint, "an error without a hint leaves its reader alone"
    return caught.value.code


def no_passphrase() -> bytes:
    """For keys that are plain: asking is a fault."""
    raise AssertionError("a plain key needs no passphrase")


@cache
def node_pem(_site: str) -> str:
    """Public node key of a site of this test process: made once for each name."""
    return node_keys.public_pem(node_keys.generate())


@dataclass(frozen=True)
class Member:
    """A site with its private key."""

    name: str
    key: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def entry(self) -> Entry:
        return Entry(site=self.name, identity=self.key.verify_key.hex(), node=node_pem(self.name))


@dataclass(frozen=True)
class Lead:
    """A lead with an authority and some sites."""

    members: tuple[Member, ...] = ()
    federation: str = "lungs"
    key: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def roster(self) -> Roster:
        found = rosters.first(self.federation, NOW)
        for place, member in enumerate(self.members, start=1):
            found = rosters.with_site(found, member.entry, NOW + place * HOUR)
        return found

    def welcome(self, site: str, address: str = "lead.example:443", now: datetime = NOW) -> bytes:
        coordinator = Coordinator(self.federation, address, authority_pem())
        return make_welcome(self.key, coordinator, seal(self.roster, self.key), site, now)


@cache
def authority_pem() -> str:
    """An authority's certificate."""
    return Authority.create("lungs", NOW).certificate_pem().decode()


def new_site(path: Path, name: str = "aachen") -> SiteFolder:
    """A site folder without data."""
    return SiteFolder.init(path / name, template(name), NOW)


def new_federation(path: Path, address: str = "localhost:8443", now: datetime = NOW) -> FederationFolder:
    """A federation folder with plain keys."""
    return FederationFolder.init(path / "federation", settings_for("lungs", address), None, now)


def request_of(content: bytes) -> EnrolmentRequest:
    """What a request says."""
    return open_request(content)
