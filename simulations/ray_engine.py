"""The same federation on Flower's own simulation engine, for work beyond one machine.

Promises
- The coordinator runs in Flower's ServerApp and the sites in its ClientApps, through the wire format that production
  uses. Non-private results on a CPU are the bytes of the in-process engine.
- A Ray actor opens each site once and keeps it; it computes with one thread, like every process of a simulation.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.simulation import run_simulation

from client.app import Answer
from client.app import make_app as make_client_app
from server.app import Connect
from server.app import make_app as make_server_app
from server.coordinator import Coordinator
from server.run_setup import Outcome, Setup, Watch
from shared.errors import RunError, ScenarioError
from shared.message_bytes import reply_to_bytes, request_from_bytes
from shared.messages import Envelope
from shared.parcels import Parcel
from shared.plan import Plan
from simulations.engine import computed
from simulations.workers import Sites, SiteSpec


def run_on_ray(setup: Setup, watch: Watch, sites: Sites, specs: tuple[SiteSpec, ...]) -> Outcome:
    """Run the rounds of ``setup`` over ``specs`` with one Ray actor per core.

    Raises:
        ScenarioError: Ray is not installed.
        ConsiliumError: whatever ended the run.
    """
    finished: list[Outcome] = []
    failed: list[Exception] = []

    def coordinate(connect: Connect, _context: Context) -> None:
        hello = Envelope(setup.journal.run, setup.plan.digest(), 0)
        try:
            fleet = connect(hello, len(specs), setup.plan.participation.deadline_s)
            finished.append(Coordinator(setup, fleet, watch).run())
        except Exception as error:  # noqa: BLE001 - Flower would swallow it; raised again below
            failed.append(error)

    _require_ray()
    client = make_client_app(_answer_from(setup.plan, sites.folder, specs))
    backend: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(make_server_app(coordinate), client, num_supernodes=len(specs), backend_config=backend)
    if failed:
        raise failed[0]
    if not finished:
        raise RunError("Flower's engine ended without running the coordinator", hint="see its log above")
    return finished[0]


def _answer_from(plan: Plan, folder: Path, specs: tuple[SiteSpec, ...]) -> Answer:
    def serve(context: Context, parcel: Parcel) -> Parcel:
        spec = specs[int(context.node_config["partition-id"])]
        reply = computed(_sites_here(plan.canonical_bytes(), folder), spec, request_from_bytes(parcel.body))
        return Parcel(spec.name, reply_to_bytes(reply))

    return serve


@lru_cache(maxsize=1)
def _sites_here(canonical_plan: bytes, folder: Path) -> Sites:
    """This actor's sites, kept between messages."""
    torch.set_num_threads(1)
    return Sites(Plan.model_validate_json(canonical_plan.partition(b"\n")[2]), folder)


def _require_ray() -> None:
    try:
        import ray  # noqa: F401, PLC0415 - an optional extra
    except ImportError:
        raise ScenarioError(
            "engine ray needs Ray, which is not installed", hint='pip install "consilium[ray]"'
        ) from None
