"""A federation that is being looked at: real folders, rosters, orders and rounds, as the real writers leave them."""

import contextlib
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from report_runs import PLAN_TEXT, PRIVATE, interval
from small_trust import DAY, NOW, Member, new_federation, no_passphrase

from server.deployed.board import Board
from server.deployed.live import LIVE, Live
from server.deployed.run_folder import RunFolder, begin
from server.federation_folder import FederationFolder
from server.link.control import Node
from server.results import ROUNDS, Participation, RoundRecord, append_round
from shared.plan import Plan, parse
from shared.trust import roster as rosters

TOKEN = "k" * 43
SITES = ("aachen", "basel", "chur", "delft")
SUSPENDED = "delft"
HOST = "http://127.0.0.1:8701"


ROOMY = 100 << 30
"""Bytes free that no page warns about."""


@dataclass
class Watched:
    """A federation of four sites, one of them suspended, and the gateway's view of their nodes."""

    folder: FederationFolder
    members: Mapping[str, Member]
    online: set[str] = field(default_factory=lambda: {"aachen", "basel"})
    away: set[str] = field(default_factory=lambda: {"chur"})
    gateway: bool = True
    now: datetime = NOW + DAY

    def clock(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()

    def nodes(self) -> tuple[Node, ...] | None:
        if not self.gateway:
            return None
        states = {**dict.fromkeys(self.online, "online"), **dict.fromkeys(self.away, "offline")}
        seen = (self.now - timedelta(minutes=12)).timestamp()
        return tuple(
            Node(place, site, state, self.members[site].entry.node, seen)
            for place, (site, state) in enumerate(sorted(states.items()), start=1)
        )

    def begin(self, plan: Plan | None = None) -> RunFolder:
        lead = self.folder.lead_key(no_passphrase)
        return begin(self.folder, plan or parse(PLAN_TEXT), lead, self.now, timedelta(days=2))

    def board(self, run: RunFolder) -> Board:
        found = Board(run.path / LIVE, self.seconds, Live(run.run, run.plan.plan.name, 40))
        found.say(headline="dice")
        return found

    def trained(self, run: RunFolder, rounds: int, missing: Mapping[int, Mapping[str, str]] | None = None) -> Board:
        """A run that has finished so many rounds and works on the next one."""
        board = self.board(run)
        watch = board.watch()
        for at in range(1, rounds + 1):
            record = finished(at, (missing or {}).get(at, {}))
            append_round(run.path / ROUNDS, record)
            watch.round(record)
        board.say(phase="training", round=rounds + 1, asked=("aachen", "chur"), answered=("basel",))
        return board


def finished(at: int, missing: Mapping[str, str]) -> RoundRecord:
    """A round whose loss and Dice follow from its number alone."""
    took_part = tuple(site for site in SITES[:3] if site not in missing)
    metrics = {"pooled": {"dice": interval(0.79 * (1 - 0.62 * 0.86**at), 0.02, 52)}, "sites": {}}
    measured = metrics if at % 5 == 0 or at == 1 else None
    return RoundRecord(Participation(at, took_part, missing), 0.21 + 0.9 * 0.84**at, f"{at:064x}", measured, 6.1)


def watched(path: Path, now: datetime = NOW) -> Watched:
    """A new federation in ``path``."""
    folder = new_federation(path, now=now)
    members = {site: Member(site) for site in SITES}
    lead = folder.lead_key(no_passphrase)
    for site in SITES:
        folder.change_roster(lead, lambda held, site=site: rosters.with_site(held, members[site].entry, now))  # type: ignore[misc]
    folder.change_roster(lead, lambda held: rosters.with_state(held, SUSPENDED, "suspended", now))
    return Watched(folder, members, now=now + DAY)


def disk_of(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let every disk have so many bytes free, whatever this machine has: a page says when there are few."""
    usage = SimpleNamespace(total=200 << 30, used=(200 << 30) - free, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)


def private_plan() -> Plan:
    """Forty rounds that promise epsilon 8."""
    return parse(PRIVATE)


@contextlib.asynccontextmanager
async def browser(app: object, *, known: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A client that has opened the printed address before, unless it has not."""
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url=HOST) as client:
        if known:
            assert (await client.get("/", params={"token": TOKEN})).status_code == 303
        yield client


def damage(run: RunFolder) -> None:
    """Change one byte of the signed plan."""
    path = run.path / "plan.json"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
