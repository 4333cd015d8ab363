"""Victims for attacks: a hospital whose custodian answers from a real folder, and a coordinator that outsiders call."""

import asyncio
import json
import sqlite3
import warnings
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deciding_hospital import DATASET, NOW, Hospital, plan_of
from small_trust import new_federation

from client.commands import approve
from client.commands.approve import Wanted
from client.custodian.wiring import custodian
from client.governance.audit import verify
from client.site_folder import LEDGER
from server.gateway import superlink
from server.link.admission import admission
from server.link.gate import Event, Limits, local_gate, public_gate
from server.link.log import json_log
from server.link.standing import standing
from shared.crypto import node_keys
from shared.crypto.node_signatures import sign
from shared.crypto.signing import SigningKey
from shared.link import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from shared.messages import Refusal, Reply, Request
from shared.parcels import Parcel
from shared.trust import roster as rosters

MARIA = "maria"
TOKEN = "f" * 64
LIMITS = Limits(body_bytes=1 << 20, pause_s=0.05, body_s=0.2)


class Victim:
    """A hospital that approved a plan; every attack is judged by what is answered and what stands in its log."""

    def __init__(self, folder: Path, runs: int = 1, **changes: Any) -> None:
        self.hospital, self.plan = Hospital(folder), plan_of(**changes)
        wanted = Wanted(self.hospital.signed(self.plan), folder, DATASET, runs)
        approve.approve(self.hospital.site, approve.offered(self.hospital.site, wanted), MARIA, lambda: NOW)
        self.custodian = custodian(self.hospital.site, lambda: NOW)

    @property
    def folder(self) -> Path:
        return self.hospital.site.path

    def ask(self, request: Request) -> Reply:
        """What the holder of the run's key is told."""
        return self.send(self.hospital.parcel(self.plan, request))

    def send(self, parcel: Parcel) -> Reply:
        """What anybody is told, by the site's own signature."""
        return self.hospital.read(self.custodian.answer(parcel), parcel)

    def refused(self, request: Request | Parcel) -> str:
        """The code of a refusal, for which nothing was paid, nothing left, and one line was written."""
        before, paid = self.lines(), charges(self.folder)
        reply = self.send(request) if isinstance(request, Parcel) else self.ask(request)
        assert isinstance(reply, Refusal), type(reply)
        assert charges(self.folder) == paid
        (line,) = self.lines()[len(before) :]
        assert str(line["event"]).startswith("refused-")
        assert line["counts"][f"code.{reply.code}"] == 1
        return reply.code

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """The audit log, after it was verified."""
        path = self.folder / "audit.jsonl"
        verify(path, self.hospital.site.signing_key().verify_key)
        said = [json.loads(line) for line in path.read_text().splitlines()]
        return [one for one in said if event in ("", one["event"])]


def charges(folder: Path) -> int:
    """Rows that were ever reserved in a ledger."""
    connection = sqlite3.connect(folder / LEDGER)
    try:
        return int(connection.execute("select count(*) from reservations").fetchone()[0])
    finally:
        connection.close()


class Coordinator:
    """Flower's own application behind both gates, with one active and one suspended site, called without a network."""

    def __init__(self, folder: Path) -> None:
        self.federation = new_federation(folder)
        self.keys = {name: node_keys.generate() for name in ("active", "suspended", "stranger")}
        for name in ("active", "suspended"):
            self._enrol(name)
        self.log = folder / "gateway.jsonl"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Flower's own
            self._link = superlink(folder / "superlink.sqlite", b"s" * 32)
        self.reopen()

    def reopen(self) -> None:
        """Both gates anew, with a new allowance of the log."""
        note = json_log(self.log, self.now)
        admit = admission(standing(self.federation, print), self._link.register, self.now)
        self.public = public_gate(self._link.app, admit, note, LIMITS)
        self.local = local_gate(self._link.app, TOKEN, note, LIMITS)

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)

    def _enrol(self, name: str) -> None:
        lead = self.federation.lead_key(lambda: b"")
        node, identity = node_keys.public_pem(self.keys[name]), SigningKey.generate().verify_key.hex()
        entry = rosters.Entry(site=name, identity=identity, node=node)
        self.federation.change_roster(lead, lambda held: rosters.with_site(held, entry, self.now()))
        if name == "suspended":
            self.federation.change_roster(lead, lambda held: rosters.with_state(held, name, "suspended", self.now()))

    def signed(self, name: str, ago: timedelta = timedelta(0)) -> dict[str, bytes]:
        """The headers of a node, as Flower's SuperNode makes them."""
        said = (self.now() - ago).isoformat().encode()
        return {
            PUBLIC_KEY_HEADER: b64encode(node_keys.public_pem(self.keys[name]).encode()),
            TIMESTAMP_HEADER: said,
            SIGNATURE_HEADER: b64encode(sign(self.keys[name], said)),
        }

    def call(
        self,
        path: str,
        headers: Mapping[str, bytes] | None = None,
        body: Callable[[int], bytes] = lambda _: b"",
        pieces: int = 1,
        **scope: Any,
    ) -> tuple[int, bytes]:
        """Status and body of one request; ``body`` gives its pieces, the slow ones by sleeping."""
        gate = self.local if scope.pop("local", False) else self.public
        sent: list[Event] = []
        read = 0
        said = {
            "type": "http",
            "method": "POST",
            "http_version": "1.1",
            "scheme": "https",
            "server": ("127.0.0.1", 443),
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "client": ("192.0.2.66", 4000),
            "headers": [(name.lower().encode(), value) for name, value in (headers or {}).items()],
        } | scope

        async def receive() -> Event:
            nonlocal read
            read += 1
            if read > pieces:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": body(read), "more_body": read < pieces}

        async def send(event: Event) -> None:
            sent.append(event)

        async def asked() -> None:
            await gate(said, receive, send)

        asyncio.run(asked())
        return int(sent[0].get("status", 403)), b"".join(one.get("body", b"") for one in sent[1:])

    def noted(self) -> list[dict[str, Any]]:
        """The gateway's log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
