"""Three sites in memory that learn to tell bright from dark squares, in a fraction of a second."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from client.data.prepared.site_data import SiteData, by_patient
from client.site import Site
from client.workbench import Workbench
from server.coordinator import Coordinator
from server.journal import Journal
from server.run_setup import Outcome, Setup, Watch
from server.run_state import ModelFiles
from shared.crypto.signing import VerifyKey
from shared.messages import Reply, Request
from shared.plan import Plan, from_document
from shared.preprocessing.image import Case
from shared.seeds import generator

SITES = ("aachen", "bergen", "coimbra")


def tiny_plan(**changes: Any) -> Plan:
    document: dict[str, Any] = {
        "plan": {"name": "tiny", "task": "classification", "rounds": 3, "seed": 3},
        "data": {"modality": "other", "classes": ["dark", "bright"]},
        "preprocessing": {"size": [8, 8]},
        "model": {"name": "cnn", "channels": [4, 8], "norm": "group"},
        "training": {"steps": 4, "patients_per_step": 4, "learning_rate": 0.02},
        "privacy": {"unit": "none"},
        "participation": {"quorum": 2, "deadline_s": 60.0},
        "evaluation": {"every": 1, "release": "site"},
    }
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        document.setdefault(section, {})[key] = value
    return from_document(document)


def tiny_cases(site: str, count: int, purpose: str) -> list[Case]:
    rng = generator(5, site, purpose)
    cases = []
    for number in range(count):
        label = number % 2
        voxels = rng.normal(label - 0.5, 0.5, (1, 8, 8)).astype(np.float32)
        cases.append(
            Case(f"{site}-{purpose}-{number}", f"{site}-{purpose}-p{number // 2}", voxels, None, label, (1.0, 1.0))
        )
    return cases


def tiny_data(site: str) -> SiteData:
    train, validation, test = (
        tiny_cases(site, n, split) for split, n in (("train", 12), ("validation", 6), ("test", 8))
    )
    return SiteData(train, validation, test, by_patient([case.patient for case in train]))


def tiny_site(name: str, plan: Plan, folder: Path | None = None) -> Site:
    return Site(name, tiny_data(name), Workbench.for_plan(plan), folder)


Tamper = Callable[[str, Request, Reply], Reply | None]
"""(site, request, honest reply) -> what arrives instead; None for nothing."""


class MemoryFleet:
    """Sites in this process whose replies a test may change, drop or reorder."""

    def __init__(self, plan: Plan, *, tamper: Tamper | None = None, reverse: bool = False) -> None:
        self.sites = {name: tiny_site(name, plan) for name in SITES}
        self.identities: dict[str, VerifyKey] = {}
        self.asked: list[tuple[str, str, int]] = []
        self._tamper, self._reverse = tamper, reverse

    def names(self) -> tuple[str, ...]:
        return tuple(self.sites)

    def ask(self, requests: Mapping[str, Request], deadline_s: float) -> Iterator[tuple[str, Reply]]:
        assert deadline_s > 0
        for name in sorted(requests, reverse=self._reverse):
            request = requests[name]
            self.asked.append((name, type(request).__name__, request.envelope.round))
            reply = self.sites[name].answer(request)
            arrived = self._tamper(name, request, reply) if self._tamper else reply
            if arrived is not None:
                yield name, arrived


def coordinate(plan: Plan, fleet: MemoryFleet, folder: Path, watch: Watch | None = None) -> Outcome:
    """Run a plan over a fleet with everything durable in ``folder``; going on where a journal is there already."""
    for name in ("checkpoints", "server-state"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    bench = Workbench.for_plan(plan)
    with Journal.open_or_create(folder / "journal.sqlite", plan, lambda: 0.0) as journal:
        files = ModelFiles(folder, bench.parameters, plan.digest())
        setup = Setup(plan, bench.task, files, journal, bench.initial_weights(), fleet.identities)
        return Coordinator(setup, fleet, watch).run()
