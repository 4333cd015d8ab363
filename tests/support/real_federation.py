"""A federation of real processes: the installed commands on loopback, found, killed, paused and started again.

``invariants`` is what must hold after anything that is done to it.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tomli_w
from loopback import closed_port
from real_sites import NAMES, Joined, join

from client.governance.audit import verify
from client.governance.ledger import Ledger
from client.governance.policy import cap
from client.governance.spending import cost
from client.site_folder import LEDGER
from server.deployed.live import Live, read_live
from server.deployed.run_folder import JOURNAL
from server.federation_folder import RUNS
from server.link.control import Control
from server.link.places import LinkFolder
from server.results import ROUNDS, RoundRecord, read_rounds
from shared import checkpoint
from shared.errors import ConsiliumError
from shared.plan import Plan
from shared.privacy.accounting import epsilon
from simulations.rehearsal.processes import Processes, _family, processes

COORDINATOR = "coordinator"
AT_COORDINATOR = ("gateway", "superexec", "serverapp")
AT_SITE = ("custodian", "supernode", "site-superexec", "relay")
_SAID = {
    "gateway": "server.gateway",
    "superexec": "flower-superexec",
    "serverapp": "flwr-serverapp",
    "custodian": "client.custodian.wiring",
    "supernode": "client.supernode",
    "site-superexec": "flower-superexec",
    "relay": "flwr-clientapp",
}
"""What the command line of each kind of process holds."""


def until(condition: Callable[[], object], seconds: float = 400.0, what: str = "") -> float:
    """Wait for what other processes do, and say how long it took; patient, because others use this machine too."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"did not happen within {seconds} s: {what or condition}"
        time.sleep(0.05)
    return time.monotonic() - began


@dataclass
class RealFederation:
    """What runs, and where.

    Attributes:
        joined: the folders.
        running: the commands.
        plan: approved everywhere.
        variables: by name of a command what else stands in its environment.
    """

    joined: Joined
    running: Processes
    plan: Plan
    variables: dict[str, dict[str, str]] = field(default_factory=dict)
    leads: int = 0
    kills: Counter[str] = field(default_factory=Counter)

    @property
    def root(self) -> Path:
        return self.joined.root

    @property
    def coordinator(self) -> Path:
        return self.joined.federation.path

    @property
    def plan_file(self) -> Path:
        return self.root / "plan.toml"

    def start(self, *names: str) -> None:
        """Start the coordinator or sites, by name; all where none is named."""
        for name in names or (COORDINATOR, *NAMES):
            with _environment(self.variables.get(name, {})):
                if name == COORDINATOR:
                    self.running.start(name, ("consilium-server", "start", "--page", "0"), self.coordinator)
                else:
                    self.running.start(name, ("consilium-site", "start"), self.root / name)

    def online(self) -> set[str]:
        try:
            with Control.of(LinkFolder(self.coordinator)) as control:
                return {node.site for node in control.nodes() if node.state == "online"}
        except ConsiliumError:
            return set()

    def ready(self, *names: str, seconds: float = 400.0) -> float:
        """Wait until the sites are connected."""
        return until(lambda: self.online() >= set(names or NAMES), seconds, f"{names or NAMES} connected")

    def order(self, *, follow: bool = True) -> Path:
        """Order a run as the lead does, and give its folder. Who follows it starts it again when it is killed."""
        before = set((self.coordinator / RUNS).iterdir())
        self._lead("run", str(self.plan_file), *([] if follow else ["--detach"]))
        until(lambda: set((self.coordinator / RUNS).iterdir()) - before, 60, "the run was ordered")
        (run,) = set((self.coordinator / RUNS).iterdir()) - before
        return run

    def resume(self, run: Path) -> None:
        """As the lead does, and follow."""
        self._lead("resume", run.name)

    def resume_when_noticed(self, run: Path, seconds: float = 180.0) -> None:
        """Resume as soon as Flower has noticed that the last process is gone."""
        end = time.monotonic() + seconds
        while True:
            self.resume(run)
            until(lambda: self.lead_ended() is not None or "round " in self.lead_said(), 120, "the lead is answered")
            if "goes on already" not in self.lead_said():
                return
            assert time.monotonic() < end, self.everything_said(run)
            time.sleep(3)

    def server(self, *words: str) -> str:
        return self.running.call("consilium-server", *words, folder=self.coordinator)

    def _lead(self, *words: str) -> None:
        self.leads += 1
        self.running.start(f"lead-{self.leads}", ("consilium-server", *words), self.coordinator)

    def lead_ended(self) -> int | None:
        return self.running.ended(f"lead-{self.leads}")

    def lead_said(self) -> str:
        return self.said(f"lead-{self.leads}")

    def said(self, name: str) -> str:
        """What a command has printed."""
        path = self.running.logs / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def finish(self, run: Path, seconds: float = 600.0) -> float:
        """Wait for the lead's command to end well; raises with all that was said otherwise."""
        took = until(lambda: self.lead_ended() is not None, seconds, f"{run.name[:8]} is over: {read_live(run)}")
        assert self.lead_ended() == 0, self.everything_said(run)
        return took

    def fails(self, run: Path, seconds: float = 600.0) -> str:
        """Wait for the lead's command to end badly, and give what it says."""
        until(lambda: self.lead_ended() is not None, seconds, f"{run.name[:8]} is over: {read_live(run)}")
        assert self.lead_ended() == 1, self.everything_said(run)
        return " ".join(self.lead_said().split())

    def everything_said(self, run: Path) -> str:
        logs = [*self.running.logs.glob("*.log"), *self.coordinator.glob("log/*.log"), *self.root.glob("*/log/*.log")]
        tails = [f"== {path.relative_to(self.root)}\n{path.read_text(errors='replace')[-1500:]}" for path in logs]
        return "\n".join([str(read_live(run)), *journalled(run), *tails])

    def pids(self, kind: str, name: str = COORDINATOR) -> list[int]:
        """Processes of a kind at the coordinator or at a site, oldest first."""
        found = []
        for pid in self._all(name):
            line = _command_line(pid)
            # A SuperNode names its SuperExec's folder, a task its own link: the first words say what a process is.
            if _SAID[kind] in " ".join(line[:4]):
                found.append(pid)
        return sorted(found)

    def _all(self, name: str) -> list[int]:
        """Everything that belongs to a command, and what lost its parent but works in the same folder."""
        family = set(_family(self.running._running[name].pid)) if name in self.running._running else set()
        folder = str(self.coordinator if name == COORDINATOR else self.root / name)
        orphans = {pid for pid in _everybody() if _home(pid).startswith(folder)}
        return sorted(family | orphans)

    def kill(self, kind: str, name: str = COORDINATOR) -> bool:
        """``kill -9`` of every process of a kind; False where there is none now."""
        return self.signal(kind, name, signal.SIGKILL)

    def signal(self, kind: str, name: str, number: int) -> bool:
        hit = False
        for pid in self.pids(kind, name):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                hit = True
        if hit and number == signal.SIGKILL:
            self.kills[kind] += 1
        return hit

    def down(self, name: str) -> None:
        """``kill -9`` of everything of one command, as a machine that loses its power."""
        everything = self._all(name)
        self.running.kill(name)
        for pid in everything:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kills["machine"] += 1

    def stop(self, *names: str) -> None:
        for name in names:
            self.running.stop(name)


@contextmanager
def real_federation(
    root: Path, plan: Plan, addresses: Callable[[int], Mapping[str, str]] = lambda _port: {}, runs: int = 1
) -> Iterator[RealFederation]:
    """Folders of a federation of its own whose plan is approved; nothing runs yet, and at the end nothing any more."""
    port = closed_port()
    joined = join(root, f"127.0.0.1:{port}", addresses(port))
    joined.approve(plan, runs)
    (root / "plan.toml").write_text(tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True)))
    with processes(root / "log") as running:
        made = RealFederation(joined, running, plan)
        try:
            yield made
        finally:
            for name in (*NAMES, COORDINATOR):
                for kind in ("custodian", "supernode", "gateway"):
                    with suppress(KeyError):
                        made.signal(kind, name, signal.SIGCONT)
            left = [pid for name in (*NAMES, COORDINATOR) for pid in made._all(name)]
            for name in reversed(list(running._running)):
                running.stop(name)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """What is started in the block inherits these variables, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in more.items():
            patch.setenv(name, value)
        yield


def _everybody() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _command_line(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def _home(pid: int) -> str:
    """Where a process of Flower keeps its things: every one of ours has a folder of its own."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"FLWR_HOME="):
                return entry[10:].decode()
    return ""


def live(run: Path) -> Live:
    found = read_live(run)
    return found or Live("", "", 0)


def at(run: Path, phase: str, round_number: int) -> bool:
    """Whether a run is in a phase of a round now, or has passed it."""
    found = live(run)
    return found.state != "running" or (found.round, found.phase == phase) >= (round_number, True)


def journalled(run: Path) -> list[str]:
    """Events of a run's journal, one a line; read without a lock."""
    with suppress(sqlite3.Error, OSError), closing(sqlite3.connect(f"file:{run / JOURNAL}?mode=ro", uri=True)) as read:
        rows = read.execute("select round, phase, kind, site, code, sentence from events order by number")
        return [" ".join(str(part) for part in row) for row in rows]
    return []


def rounds(run: Path) -> tuple[RoundRecord, ...]:
    return read_rounds(run / ROUNDS)


def checkpoints(run: Path) -> list[str]:
    """Digest of the model after each round, by the journal, and the bytes are there under that name."""
    with closing(sqlite3.connect(f"file:{run / JOURNAL}?mode=ro", uri=True)) as read:
        found = [str(row[0]) for row in read.execute("select checkpoint from completed order by round")]
    for digest in found:
        checkpoint.load(checkpoint.path_of(run / "checkpoints", digest))
    return found


def model_files(run: Path) -> dict[str, bytes]:
    """Checkpoints by name, with their bytes."""
    return {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}


@dataclass(frozen=True)
class Kept:
    """What a federation has on its disks that must not go wrong.

    Attributes:
        reservations: by site how many the ledger has, and ``claims`` how many different claims they are for.
        epsilon: by site what the patients who have paid most have paid.
        lines: by site of the audit log, all verified.
        completed: by run its finished rounds.
    """

    reservations: dict[str, int]
    claims: dict[str, int]
    epsilon: dict[str, float]
    lines: dict[str, int]
    completed: dict[str, int]


def kept(federation: RealFederation) -> Kept:
    """Read everything, and check it on the way: raises where something is damaged."""
    paid = {name: _paid(federation.root / name / LEDGER) for name in NAMES}
    return Kept(
        {name: found[0] for name, found in paid.items()},
        {name: found[1] for name, found in paid.items()},
        {name: _spent(federation, name) for name in NAMES},
        {name: _verified(federation, name) for name in NAMES},
        {run.name: _completed(run) for run in (federation.coordinator / RUNS).iterdir()},
    )


def invariants(federation: RealFederation, before: Kept) -> Kept:
    """What holds after any fault, whatever the run came to; gives what is kept now."""
    after = kept(federation)
    most = {name: cap(federation.joined.site(name).policy).epsilon for name in NAMES}
    for name in NAMES:
        assert after.reservations[name] == after.claims[name], f"{name} has paid for one claim twice"
        assert after.reservations[name] >= before.reservations[name], f"{name} has forgotten what was paid"
        assert after.epsilon[name] <= most[name], f"{name} has paid more than its cap"
        assert after.lines[name] >= before.lines[name], f"{name} has lost lines of its log"
    for run, done in before.completed.items():
        assert after.completed[run] >= done, f"run {run[:8]} has lost rounds"
    return after


def _paid(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as read:
        assert read.execute("pragma integrity_check").fetchone() == ("ok",)
        assert read.execute("pragma foreign_key_check").fetchone() is None
        rows = read.execute("select cohort, split, run, plan, round, purpose from reservations").fetchall()
        assert not read.execute(
            "select reservation from releases group by reservation having count(*) > 1"
        ).fetchall(), "two replies to one reservation"
    return len(rows), len(set(rows))


def _spent(federation: RealFederation, name: str) -> float:
    site = federation.joined.site(name)
    ledger, delta = Ledger.open(site.path / LEDGER), cap(site.policy).delta
    paid = [
        cost(account.all(), delta, epsilon)
        for cohort in ledger.cohorts()
        for split in ledger.spending(cohort.digest).splits.values()
        for account in split.accounts
    ]
    return max(paid, default=0.0)


def _verified(federation: RealFederation, name: str) -> int:
    site = federation.joined.site(name)
    return verify(site.audit.path, site.signing_key().verify_key).lines


def _completed(run: Path) -> int:
    if not (run / JOURNAL).exists():
        return 0
    with closing(sqlite3.connect(f"file:{run / JOURNAL}?mode=ro", uri=True)) as read:
        assert read.execute("pragma integrity_check").fetchone() == ("ok",)
    done, told = checkpoints(run), rounds(run)
    assert [record.participation.round for record in told] == list(range(1, len(told) + 1))
    assert [record.checkpoint for record in told[: len(done)]] == done
    return len(done)


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """``folder`` as a disk of its own of that size; needs the right to mount."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "consilium-test", str(folder)], check=False
    )
    if done.returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
