"""Everything that the page shows, read off the federation folder and the link, as one value.

Promises
- Nothing is written, no key is opened, and nothing is asked of a site.
- One thing that cannot be read is a sentence on the page, not a page that fails: a damaged run hides no other.
- A run is what its folder says: ``live.json``, ``rounds.jsonl`` and the signed plan, whose signatures are checked.

What is said about it is ``sentences``', how it looks is ``page``'s.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from server.deployed.live import Live, read_live
from server.deployed.run_folder import open_run, ordered
from server.federation_folder import CA_PEM, RUNS, SERVER_PEM, FederationFolder
from server.link.control import Node
from server.report.page import REPORT
from server.results import ROUNDS, RoundRecord, read_rounds
from shared.crypto.certificates import from_pem
from shared.errors import ConsiliumError
from shared.plan import Plan

SHOWN_RUNS = 25
"""Older runs are in their folders; ``consilium-server runs`` lists all."""

Nodes = Callable[[], Sequence[Node] | None]
"""The registered nodes; None where the gateway does not answer."""
Link = Literal["connected", "away", "never", "unknown"]


@dataclass(frozen=True, slots=True)
class SiteLook:
    """A site of the roster, and its link.

    Attributes:
        name: of the site.
        state: "active" or "suspended".
        link: whether it is connected; "unknown" where the gateway does not answer.
        away_s: how long it has been away, where that is known.
    """

    name: str
    state: str
    link: Link
    away_s: float | None = None


@dataclass(frozen=True, slots=True)
class RunLook:
    """A run: what it said last, what its rounds were, and its plan where that can be read.

    Attributes:
        run: identifier.
        live: None where the run has said nothing yet.
        rounds: finished.
        plan: as signed.
        fault: why the run's folder cannot be trusted; "" where it can.
        report: whether there is a report.
    """

    run: str
    live: Live | None = None
    rounds: tuple[RoundRecord, ...] = ()
    plan: Plan | None = None
    fault: str = ""
    report: bool = False

    @property
    def going(self) -> bool:
        """Whether it says that it goes on."""
        return self.live is not None and self.live.state == "running"

    @property
    def name(self) -> str:
        """What the plan is called."""
        return self.plan.plan.name if self.plan else self.live.plan if self.live else self.run[:12]

    @property
    def sites(self) -> tuple[str, ...]:
        """Every site that was asked for something."""
        took_part = [record.participation for record in self.rounds]
        found = {site for one in took_part for site in (*one.participants, *one.missing)}
        if self.live:
            found |= {*self.live.asked, *self.live.answered, *self.live.failed}
        return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class CertificateLook:
    """A certificate, and whole days until it ends."""

    name: str
    days: int


@dataclass(frozen=True, slots=True)
class Look:
    """The federation at one moment.

    Attributes:
        now: that moment.
        federation: its name, at ``address``.
        gateway: whether it answers.
        sites: of the roster.
        runs: the newest first.
        certificates: of the server and of the authority.
        disk_free: bytes, of ``disk_total``.
        version: of Consilium.
        faults: sentence and hint of what could not be read.
    """

    now: datetime
    federation: str
    address: str
    gateway: bool
    sites: tuple[SiteLook, ...]
    runs: tuple[RunLook, ...]
    certificates: tuple[CertificateLook, ...]
    disk_free: int
    disk_total: int
    version: str
    faults: tuple[tuple[str, str], ...] = ()

    @property
    def run(self) -> RunLook | None:
        """The run that goes on, else the last one."""
        return next((one for one in self.runs if one.going), self.runs[0] if self.runs else None)


@dataclass
class Faults:
    """Collects what could not be read."""

    found: list[tuple[str, str]] = field(default_factory=list)

    def said(self, error: ConsiliumError) -> None:
        """Note an error."""
        self.found.append((error.sentence, error.hint))


def look(folder: FederationFolder, nodes: Nodes, now: datetime) -> Look:
    """The federation in ``folder`` at the moment ``now``."""
    faults, registered, disk = Faults(), nodes(), shutil.disk_usage(folder.path)
    return Look(
        now=now,
        federation=folder.settings.name,
        address=folder.settings.address,
        gateway=registered is not None,
        sites=_sites(folder, registered, now, faults),
        runs=_runs(folder),
        certificates=_certificates(folder, now, faults),
        disk_free=disk.free,
        disk_total=disk.total,
        version=version("consilium"),
        faults=tuple(faults.found),
    )


def read_run(folder: FederationFolder, run: str) -> RunLook:
    """One run, whatever state it is in."""
    path = folder.path / RUNS / run
    live, report = read_live(path), (path / REPORT).is_file()
    try:
        return RunLook(run, live, read_rounds(path / ROUNDS), open_run(folder, run).plan, report=report)
    except ConsiliumError as error:
        return RunLook(run, live, fault=error.sentence, report=report)


def report_file(folder: FederationFolder, run: str) -> Path | None:
    """The report of a run that was ordered; None where there is none, or it is no plain file of that run's folder."""
    if run not in set(ordered(folder)):
        return None
    path = folder.path / RUNS / run / REPORT
    return path if path.is_file() and not path.is_symlink() else None


def _sites(
    folder: FederationFolder, nodes: Sequence[Node] | None, now: datetime, faults: Faults
) -> tuple[SiteLook, ...]:
    try:
        roster = folder.roster()
    except ConsiliumError as error:
        faults.said(error)
        return ()
    # A name alone is nobody's proof: a node counts where its key is the roster's.
    by_key = {node.public_pem.strip(): node for node in nodes or ()}
    found = []
    for one in roster.sites:
        link, away_s = _link(by_key.get(one.node.strip()), now)
        found.append(SiteLook(one.site, one.state, "unknown" if nodes is None else link, away_s))
    return tuple(found)


def _link(node: Node | None, now: datetime) -> tuple[Link, float | None]:
    if node is None or node.state in {"registered", "unregistered"}:
        return "never", None
    if node.state == "online":
        return "connected", None
    return "away", None if node.seen is None else max(0.0, now.timestamp() - node.seen)


def _runs(folder: FederationFolder) -> tuple[RunLook, ...]:
    newest = list(ordered(folder))[::-1][:SHOWN_RUNS]
    return tuple(read_run(folder, run) for run in newest)


def _certificates(folder: FederationFolder, now: datetime, faults: Faults) -> tuple[CertificateLook, ...]:
    found = []
    for name, file in (("server certificate", SERVER_PEM), ("authority", CA_PEM)):
        try:
            days = from_pem(folder.read(file))[0].remaining(now) // timedelta(days=1)
        except ConsiliumError as error:
            faults.said(error)
        else:
            found.append(CertificateLook(name, days))
    return tuple(found)
