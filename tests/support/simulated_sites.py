"""A run of real site folders without a link: the coordinator and the sites in this process, as in a simulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from real_federation import RealFederation
from real_sites import NAMES, now

from client.custodian.warm import open_site
from client.governance import approvals
from client.site import Site
from server.coordinator import Coordinator
from server.journal import Journal
from server.run_setup import Setup
from server.run_state import ModelFiles
from shared.messages import Reply, Request


class Simulated:
    """The approved sites of a federation; they answer in another order than they are asked."""

    def __init__(self, federation: RealFederation) -> None:
        self.sites: dict[str, Site] = {}
        for name in NAMES:
            site = federation.joined.site(name)
            self.sites[name] = open_site(site, approvals.find(site, federation.plan.digest()), now)

    def names(self) -> tuple[str, ...]:
        return NAMES

    def ask(self, requests: Mapping[str, Request], deadline_s: float) -> Iterator[tuple[str, Reply]]:
        assert deadline_s > 0
        for name in sorted(requests, reverse=True):
            yield name, self.sites[name].answer(requests[name])


def simulate(federation: RealFederation, folder: Path) -> Path:
    """Run the federation's plan, with nobody away, into ``folder``."""
    fleet, plan = Simulated(federation), federation.plan
    for name in ("checkpoints", "server-state"):
        (folder / name).mkdir(parents=True)
    bench = fleet.sites[NAMES[0]].workbench
    with Journal.open_or_create(folder / "journal.sqlite", plan, lambda: 0.0) as journal:
        files = ModelFiles(folder, bench.parameters, plan.digest())
        Coordinator(Setup(plan, bench.task, files, journal, bench.initial_weights()), fleet).run()
    return folder
