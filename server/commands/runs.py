"""``consilium-server runs`` and ``status``: what was run, what goes on, and who is there.

Promises
- Runs are listed from their folders; nothing needs to be running for it.
- What cannot be known now (whether a site is connected, while the gateway is down) is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime

from server.deployed.live import Live, read_live
from server.deployed.run_folder import ordered
from server.federation_folder import RUNS, FederationFolder
from server.link.control import Control
from server.link.places import LinkFolder
from server.results import RESULTS, read_results
from server.validity import days_left
from shared.errors import ConsiliumError, RunError

_QUIET_S = 120.0
UNKNOWN = "unknown"
_GOING = frozenset({"running", "interrupted"})
"""States of a run that is not over."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A run in a list.

    Attributes:
        run: its identifier.
        plan: name of the plan, "" where the run has not begun.
        state: ordered, running, interrupted, finished or failed.
        round: of ``rounds``.
        headline: name and value of the headline metric, "" without one.
        sentence: why it did not finish.
    """

    run: str
    plan: str
    state: str
    round: int
    rounds: int
    headline: str
    sentence: str


def listed(federation: FederationFolder, now: datetime) -> Iterator[Listed]:
    """All runs, the newest last."""
    for run in ordered(federation):
        folder = federation.path / RUNS / run
        live = read_live(folder)
        if live is None:
            yield Listed(run, "", "ordered", 0, 0, "", "")
            continue
        headline = f"{live.headline} {live.value:.3f}" if live.value is not None else ""
        if (folder / RESULTS).exists():
            headline = _headline(federation, run) or headline
        yield Listed(run, live.plan, _state(live, now), live.round, live.rounds, headline, live.sentence)


def shown(federation: FederationFolder, now: datetime) -> Iterator[str]:
    """The list for people."""
    yield from map(_line, listed(federation, now))


def status(federation: FederationFolder, now: datetime) -> dict[str, object]:
    """Who is there, what goes on, and how long the certificates last."""
    connected = _connected(federation)
    return {
        "federation": federation.settings.name,
        "address": federation.settings.address,
        "gateway": UNKNOWN if connected is None else "running",
        "days_left": asdict(days_left(federation, now)),
        "sites": [
            {
                "site": one.site,
                "state": one.state,
                "connected": UNKNOWN if connected is None else connected.get(one.site, "never seen"),
            }
            for one in federation.roster().sites
        ],
        "runs": [asdict(one) for one in listed(federation, now) if one.state in _GOING],
    }


def status_lines(federation: FederationFolder, now: datetime) -> Iterator[str]:
    """The same for people."""
    said = status(federation, now)
    left = days_left(federation, now)
    yield f"{said['federation']} at {said['address']}, gateway {said['gateway']}"
    yield f"certificates: server {left.server} days, authority {left.authority} days"
    connected = _connected(federation)
    for one in federation.roster().sites:
        link = UNKNOWN if connected is None else connected.get(one.site, "never seen")
        yield f"{one.site:<20} {one.state:<10} {link}"
    yield from (_line(one) for one in listed(federation, now) if one.state in _GOING)


def _line(one: Listed) -> str:
    said = one.sentence or one.headline
    return f"{one.run[:12]}  {one.state:<12} round {one.round} of {one.rounds}  {one.plan:<24} {said}".rstrip()


def _state(live: Live, now: datetime) -> str:
    """A process that was killed leaves its last word; after a while that is all there is of it."""
    quiet = live.state == "running" and live.age_s(now.timestamp()) > _QUIET_S
    return "interrupted" if quiet else live.state


def _headline(federation: FederationFolder, run: str) -> str:
    try:
        results = read_results(federation.path / RUNS / run)
        value = results.final["pooled"][results.headline]["value"]
    except (ConsiliumError, OSError, KeyError, TypeError):
        return ""
    return f"{results.headline} {'undetermined' if value is None else f'{value:.3f}'}"


def _connected(federation: FederationFolder) -> dict[str, str] | None:
    """By site whether its node is connected; None where the gateway cannot be asked."""
    try:
        with Control.of(LinkFolder(federation.path)) as control:
            return {node.site: node.state for node in control.nodes()}
    except RunError:
        return None
