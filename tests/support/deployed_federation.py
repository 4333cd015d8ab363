"""A real federation without a network: signed orders, desks that check them, the coordinator's own process code."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from desk_of import Book
from tiny_federation import tiny_site

from client.custodian.desk import Desk, Standing
from client.governance.policy import Policy
from server.deployed.coordinate import Link, coordinate
from server.deployed.run_folder import RunFolder, begin
from server.enrolment import enrol
from server.federation_folder import FederationFolder, settings_for
from server.post import Post
from shared.crypto import node_keys
from shared.crypto.signing import SigningKey
from shared.message_bytes import request_to_bytes
from shared.messages import Reply, Request
from shared.parcels import Body, Parcel
from shared.plan import Plan
from shared.trust.enrolment import make_request, open_request

SITES = ("aachen", "bergen", "coimbra")
Relay = Callable[[str, Parcel, Parcel], Parcel | None]
"""(site, request, honest reply) -> what the relay hands back; None for nothing."""


class Deployed:
    """Three sites with desks, and a coordinator's folder that knows their keys."""

    def __init__(self, folder: Path, plan: Plan, relay: Relay = lambda _site, _request, reply: reply) -> None:
        self.plan, self.relay = plan, relay
        self.federation = FederationFolder.init(
            folder / "coordinator", settings_for("tiny", "127.0.0.1:9443"), None, self.now()
        )
        self.lead = self.federation.lead_key(lambda: b"")
        self.identities = {site: SigningKey.generate() for site in SITES}
        self.books = {site: Book(plan, folder / site) for site in SITES}
        self.desks = {site: self._desk(site) for site in SITES}
        for site in SITES:
            self._enrol(site)

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)

    def order(self) -> RunFolder:
        return begin(self.federation, self.plan, self.lead, self.now(), timedelta(days=1))

    def run(self, found: RunFolder) -> Path:
        nodes = {site: number for number, site in enumerate(SITES, 1)}
        return coordinate(self.federation.path, found.run, Link(lambda: nodes, self._fleet))

    def _fleet(self, nodes: Mapping[str, int], post: Post) -> "DeskFleet":
        return DeskFleet(self, tuple(nodes), post)

    def _desk(self, site: str) -> Desk:
        book = self.books[site]
        opened = tiny_site(site, self.plan, book.folder)
        standing = Standing(site, self.identities[site], "tiny", self.federation.lead)
        members = lambda: self.federation.roster().active  # noqa: E731
        return Desk(standing, book.approved, lambda _approved: opened, Policy, book, self.now, members)

    def _enrol(self, site: str) -> None:
        node = node_keys.public_pem(node_keys.generate())
        request = make_request(self.identities[site], site, node, {"consilium": "1"}, self.now())
        enrol(self.federation, open_request(request), self.lead, self.now())


class DeskFleet:
    """Asks the desks as Flower would: in parcels."""

    def __init__(self, deployed: Deployed, sites: tuple[str, ...], post: Post) -> None:
        self._deployed, self._sites, self._post = deployed, sites, post

    def names(self) -> tuple[str, ...]:
        return self._sites

    def ask(self, requests: Mapping[str, Request], deadline_s: float) -> Iterator[tuple[str, Reply]]:
        assert deadline_s > 0
        for site, request in requests.items():
            body = Body.of(request_to_bytes(request))
            sealed = self._post.seal(body, site)
            arrived = self._deployed.relay(site, sealed, self._deployed.desks[site].answer(sealed))
            if arrived is not None:
                yield site, self._post.open(arrived, body)[1]
