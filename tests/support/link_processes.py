"""A coordinator and sites as real processes on loopback: gateway, SuperExec, SuperNodes, under a throw-away authority.

Every process that is started here is ended here, by its number.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import loopback

from client import pinned, supernode
from server.federation_folder import Federation as FederationSettings
from server.federation_folder import FederationFolder, settings_for
from server.link.control import Control
from server.link.launch import Command, gateway_command, superexec_command
from server.link.places import LinkFolder
from shared.bundle import Bundle, bundle_bytes, bundle_sha256
from shared.crypto import node_keys
from shared.crypto.signing import SigningKey
from shared.trust import roster as rosters
from shared.trust.documents import seal
from shared.trust.enrolment import make_welcome, open_welcome

TEST_BUNDLE = Bundle("exchange_app:server", "exchange_app:client")
FAR_NAME = "coordinator.test"
"""Resolved by no name server: a site gets there through a proxy or not at all."""
_SUPPORT = Path(__file__).parent


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something that another process does; patiently, since others may use this machine too."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"did not happen within {seconds} s: {condition}"
        time.sleep(0.05)


@dataclass
class Started:
    """One process, and the file it writes to."""

    process: subprocess.Popen[bytes]
    output: Path

    def kill(self, number: int = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)

    def said(self) -> str:
        return self.output.read_text(errors="replace")


@dataclass
class Federation:
    """A federation folder whose gateway listens at a free port, with what the test has started for it."""

    root: Path
    port: int
    processes: list[Started] = field(default_factory=list)

    @property
    def folder(self) -> LinkFolder:
        return LinkFolder(self.root)

    def control(self) -> Control:
        return Control.of(self.folder)

    def start(self, name: str, command: Command) -> Started:
        output = self.root / f"{name}-{len(self.processes)}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command.argv, env=dict(command.environment), stdout=file, stderr=subprocess.STDOUT, cwd=self.root
            )
        self.processes.append(Started(process, output))
        return self.processes[-1]

    def start_gateway(self) -> Started:
        """Without waiting for it."""
        return self.start("gateway", gateway_command(self.root, inherited()))

    def gateway(self) -> Started:
        started = self.start_gateway()
        announced = self.root / "link" / "gateway.json"

        def ready() -> bool:
            assert started.process.poll() is None, started.said()
            return announced.exists() and json.loads(announced.read_bytes())["pid"] == started.process.pid

        until(ready)
        return started

    def superexec(self) -> Started:
        return self.start("superexec", superexec_command(self.root, inherited()))

    def site(self, name: str) -> Path:
        """A folder as ``request`` and ``accept`` leave it, of a site that the coordinator's roster has lost."""
        return self._accepted(name, lambda change: seal(change(self.lead.roster()), self.lead_key))

    def enrolled(self, name: str) -> Path:
        """A site that is in the roster."""
        return self._accepted(name, self.change)

    def _accepted(self, name: str, roster: Callable[[Callable[[rosters.Roster], rosters.Roster]], bytes]) -> Path:
        """``roster`` gives the file of what a change makes of the lead's."""
        site = self.root / "sites" / name
        (site / "keys").mkdir(parents=True)
        node_keys.save(node_keys.generate(), site / "keys" / "node.pem")
        identity = SigningKey.generate().verify_key.hex()
        entry = rosters.Entry(site=name, identity=identity, node=public_pem(site))
        signed = roster(lambda held: rosters.with_site(held, entry, now()))
        welcome = make_welcome(self.lead_key, self.lead.coordinator(), signed, name, now())
        (site / pinned.TRUST).mkdir(mode=0o700)
        pinned.keep_welcome(site, welcome, open_welcome(welcome)[0])
        return site

    @property
    def lead(self) -> FederationFolder:
        return FederationFolder.open(self.root)

    @property
    def lead_key(self) -> SigningKey:
        return self.lead.lead_key(no_passphrase)

    def change(self, change: Callable[[rosters.Roster], rosters.Roster]) -> bytes:
        """What the lead does to the roster; gives its file."""
        return self.lead.change_roster(self.lead_key, change)

    def supernode(self, site: Path, *more: str, bundle: str = "", extra: Sequence[tuple[str, str]] = ()) -> Started:
        argv = (*supernode.command(site), "--bundle", bundle or bundle_sha256(TEST_BUNDLE), *more)
        return self.start(site.name, Command(argv, inherited() | dict(extra)))

    def run(self, sites: int, rounds: int, label: str = "", bundle: Bundle = TEST_BUNDLE) -> tuple[int, str]:
        name = f"run-{sites}-{rounds}-{label}"
        with self.control() as control:
            number = control.start_run({"run": name, "federation": str(self.root)}, bundle_bytes(bundle))
        return number, name

    def rounds(self, name: str) -> list[dict[str, Any]]:
        path = self.root / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.folder.log.read_text().splitlines()]

    def online(self) -> list[str]:
        with self.control() as control:
            return sorted(node.site for node in control.nodes() if node.state == "online")

    def ended(self, number: int) -> str:
        with self.control() as control:
            run = control.run(number)
            return run.outcome if run.state == "finished" else ""


def public_pem(site: Path) -> str:
    return node_keys.public_pem(node_keys.load(site / "keys" / "node.pem"))


def no_passphrase() -> bytes:
    raise AssertionError("the keys of these tests are not locked")


def _settings(port: int) -> FederationSettings:
    settings = settings_for("test", f"127.0.0.1:{port}")
    return settings.model_copy(update={"names": (*settings.names, FAR_NAME)})


def now() -> datetime:
    return datetime.now(UTC)


def inherited() -> dict[str, str]:
    """What a user's shell would hand on, and where this test's apps are."""
    root = Path(supernode.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": f"{_SUPPORT}:{root}", "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def federation(root: Path) -> Iterator[Federation]:
    """A folder with a certificate for 127.0.0.1; nothing runs yet. At the end nothing runs any more."""
    port = loopback.closed_port()
    FederationFolder.init(root, _settings(port), None, now())
    made = Federation(root, port)
    try:
        yield made
    finally:
        for started in reversed(made.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.kill(signal.SIGTERM)
            started.kill()
