"""A rehearsal: from three hospitals' DICOM to a report, with the commands that people type and one site that dies.

Promises
- Every step is a command of ``consilium-server`` or ``consilium-site``, in folders of their own, with keys of their
  own, over TLS on this machine's loopback. Words that people compare by telephone are taken as compared.
- One site is killed (SIGKILL, all its processes) in round ``DIES_IN``, between its masked update and the unmasking of
  the sum, and started again seconds later. Its update counts, and the others' shares take its mask off.
- At the end every ledger and every audit log is checked, and everything that was started is stopped.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.deployed.live import Live, read_live
from server.federation_folder import RUNS
from server.results import ROUNDS, read_results, read_rounds
from shared.errors import ScenarioError
from shared.plan import load
from simulations.phantoms import write_hospitals
from simulations.phantoms.hospitals import hospitals
from simulations.progress import Stages
from simulations.rehearsal.processes import Processes, processes

PLAN = Path(__file__).with_name("plan.toml")
DIES_IN, PATIENTS, SITES, DATASET = 2, 44, 3, "ct"
_SEED = 7
_LONGEST_S = 900.0
_POLL_S, _GLANCE_S = 0.2, 0.01
_AWAY_S = 3.0

_POLICY = """\
[privacy]
delta = 1e-4
max_delta_times_patients = 0.1
"""


@dataclass(frozen=True)
class Rehearsed:
    """What happened.

    Attributes:
        run: folder of the run.
        killed: the site that died.
        rounds: who took part in each round.
        headline: name and value of the headline metric on test patients.
        epsilon: by site what its own ledger says that training patients have paid.
        log_lines: by site the lines of its audit log, all verified.
        seconds: of the whole.
    """

    run: Path
    killed: str
    rounds: tuple[tuple[str, ...], ...]
    headline: tuple[str, float | None]
    epsilon: dict[str, float]
    log_lines: dict[str, int]
    seconds: float


def rehearse(out: Path, stages: Stages, clock: Callable[[], float] = time.monotonic) -> Rehearsed:
    """Rehearse in the new or empty folder ``out``; raises ``ConsiliumError``."""
    began = clock()
    _require_empty(out)
    federation, names = out / "coordinator", _hospitals(out, stages)
    with processes(out / "log") as running:
        _prepare(running, out, names, stages)
        address = f"127.0.0.1:{_free_port()}"
        _found(running, federation, address)
        _enrol(running, out, federation, names, stages)
        _approve(running, out, federation, names, stages)
        run = _run(running, out, federation, names, stages)
        epsilon = {name: _epsilon(running, out / name) for name in names}
        log_lines = {name: _verified(running, out / name) for name in names}
    results, records = read_results(run), read_rounds(run / ROUNDS)
    value = results.final["pooled"][results.headline]["value"]
    return Rehearsed(
        run,
        names[-1],
        tuple(record.participation.participants for record in records),
        (results.headline, value),
        epsilon,
        log_lines,
        clock() - began,
    )


def _require_empty(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise ScenarioError(f"{out} is not empty", hint="name a new folder")
    out.mkdir(parents=True, exist_ok=True)


def _hospitals(out: Path, stages: Stages) -> list[str]:
    with stages.stage("making hospitals", 1) as advance:
        report = write_hospitals(out / "exports", hospitals(SITES, _SEED, patients=PATIENTS), _SEED)
        advance()
    return [hospital.name for hospital in report.hospitals]


def _prepare(running: Processes, out: Path, names: list[str], stages: Stages) -> None:
    with stages.stage("ingesting and freezing", len(names)) as advance:
        for name in names:
            site, export = out / name, out / "exports" / name
            running.call("consilium-site", "init", str(site), "--name", name, folder=out)
            (site / "policy.toml").write_text(_POLICY)
            labels = ("--labels", str(export / "labels.csv"), "--dataset", DATASET)
            running.call("consilium-site", "ingest", str(export), *labels, folder=site)
            running.call("consilium-site", "doctor", "--dataset", DATASET, folder=site)
            running.call("consilium-site", "freeze", "--dataset", DATASET, "--plan", str(PLAN), folder=site)
            advance(name)


def _found(running: Processes, federation: Path, address: str) -> None:
    said = ("--name", "rehearsal", "--address", address)
    running.call("consilium-server", "init", str(federation), *said, folder=federation.parent)


def _enrol(running: Processes, out: Path, federation: Path, names: list[str], stages: Stages) -> None:
    with stages.stage("enrolling", len(names)) as advance:
        for name in names:
            site, request, welcome = out / name, out / f"{name}.request", out / f"{name}.welcome"
            running.call("consilium-site", "request", "--out", str(request), folder=site)
            running.call("consilium-server", "enrol", str(request), "--out", str(welcome), "--yes", folder=federation)
            running.call("consilium-site", "accept", str(welcome), "--yes", folder=site)
            advance(name)


def _approve(running: Processes, out: Path, federation: Path, names: list[str], stages: Stages) -> None:
    signed = running.call("consilium-server", "sign", str(PLAN), folder=federation).strip().splitlines()[-1]
    with stages.stage("approving the plan", len(names)) as advance:
        for name in names:
            said = (str((federation / signed).resolve()), "--dataset", DATASET, "--yes")
            running.call("consilium-site", "approve", *said, folder=out / name)
            advance(name)


def _run(running: Processes, out: Path, federation: Path, names: list[str], stages: Stages) -> Path:
    """Start everybody, order the run, kill one site in its second round, and wait for the end."""
    running.start("coordinator", ("consilium-server", "start"), federation)
    for name in names:
        running.start(name, ("consilium-site", "start"), out / name)
    _wait("every site is connected", lambda: _connected(running, federation) == len(names), running)
    said = running.call("consilium-server", "run", str(PLAN), "--detach", folder=federation)
    folder = federation / RUNS / said.split()[0]
    victim, rounds = names[-1], 0
    with stages.stage("running", load(PLAN).plan.rounds) as advance:
        _wait(f"{victim} has sent its masked update", lambda: _over(folder) or _masked(folder), running, _GLANCE_S)
        running.kill(victim)
        stages.tell(f"{victim} was killed (kill -9, all its processes) in round {DIES_IN}, its masked update sent")
        time.sleep(_AWAY_S)
        running.start(victim, ("consilium-site", "start"), out / victim)
        stages.tell(f"{victim} was started again {_AWAY_S:.0f} s later")
        while not _over(folder):
            done = _live(folder, "round", 0)
            if done > rounds:
                advance("", done - rounds)
                rounds = done
            _still(running)
            time.sleep(_POLL_S)
    live = read_live(folder)
    if live is None or live.state != "finished":
        raise ScenarioError(
            f"the run did not finish: {live.sentence if live else 'it never began'}", hint=f"see {out / 'log'}"
        )
    return folder


def _masked(folder: Path) -> bool:
    """Whether the round in which a site is to die has masked updates, and no sum of them yet."""
    live = read_live(folder)
    return live is not None and (live.phase, live.round) in {(phase, DIES_IN) for phase in ("confirming", "unmasking")}


def _over(folder: Path) -> bool:
    live = read_live(folder)
    return live is not None and live.state != "running"


def _live(folder: Path, name: str, otherwise: int) -> int:
    live: Live | None = read_live(folder)
    return otherwise if live is None else int(getattr(live, name))


def _connected(running: Processes, federation: Path) -> int:
    said: dict[str, Any] = json.loads(running.call("consilium-server", "status", "--json", folder=federation))
    return sum(one["connected"] == "online" for one in said["sites"])


def _wait(what: str, condition: Callable[[], bool], running: Processes, poll_s: float = _POLL_S) -> None:
    end = time.monotonic() + _LONGEST_S
    while not condition():
        _still(running)
        if time.monotonic() > end:
            raise ScenarioError(f"waited {_LONGEST_S:.0f} s in vain until {what}", hint=f"see {running.logs}")
        time.sleep(poll_s)


def _still(running: Processes) -> None:
    if (code := running.ended("coordinator")) is not None:
        raise ScenarioError(f"the coordinator ended with {code}", hint=f"see {running.logs / 'coordinator.log'}")


def _epsilon(running: Processes, site: Path) -> float:
    lines: list[dict[str, Any]] = json.loads(running.call("consilium-site", "budget", "--json", folder=site))
    return max(float(line["spent"]) for line in lines if line["split"] == "train")


def _verified(running: Processes, site: Path) -> int:
    return int(running.call("consilium-site", "audit", "verify", folder=site).split()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
