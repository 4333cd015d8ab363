"""A federation of real processes on the loopback, without hospitals: gateway, SuperExec, SuperNodes, and stand-ins.

Promises
- Everything on the way is what runs in production: TLS, node keys, the gateway, a relay for each message, the
  custodian's socket. What answers behind the socket is ``deployed_sites``', which trains nothing.
- Each site reaches the gateway through a port of its own, where bytes are counted in both directions, TLS included.
- What was started is ended with the block, by its number; no other process is touched.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from processes import HERE, ArmError

from client import pinned, supernode
from server.app import FEDERATION
from server.federation_folder import FederationFolder, settings_for
from server.link.control import Control
from server.link.launch import gateway_command, superexec_command
from server.link.places import LinkFolder
from shared.bundle import INSTALLED, Bundle, bundle_sha256
from shared.crypto import node_keys
from shared.crypto.signing import SigningKey
from shared.errors import ConsiliumError
from shared.link import LOOPBACK
from shared.trust import roster as rosters
from shared.trust.enrolment import make_welcome, open_welcome

_GRACE_S, _LONGEST_S, _POLL_S = 15.0, 240.0, 0.1
_PIECE = 1 << 18


@dataclass
class Counted:
    """Bytes that one site has sent (``up``) and received (``down``)."""

    up: int = 0
    down: int = 0


@dataclass
class Link:
    """What runs.

    Attributes:
        root: folder of the federation; sites are in ``sites/NAME`` of it.
        counted: by site.
    """

    root: Path
    federation: FederationFolder
    counted: dict[str, Counted]
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def start(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process in the group of this one; what it says goes to ``NAME.out``."""
        with (self.root / f"{name}.out").open("wb") as out:
            self._running[name] = subprocess.Popen(
                list(argv), env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def require_running(self) -> None:
        """Raise ``ArmError`` with the last words of whoever has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                said = (self.root / f"{name}.out").read_text(errors="replace").strip().splitlines()[-3:]
                raise ArmError(f"{name} ended with {process.returncode}: {' '.join(said)}")

    def until(self, condition: Callable[[], bool], what: str, longest_s: float = _LONGEST_S) -> None:
        end = time.monotonic() + longest_s
        while not condition():
            self.require_running()
            if time.monotonic() > end:
                raise ArmError(f"waited {longest_s:.0f} s in vain until {what}")
            time.sleep(_POLL_S)

    def bytes(self) -> tuple[int, int]:
        """Up and down, of all sites."""
        return sum(one.up for one in self.counted.values()), sum(one.down for one in self.counted.values())

    def control(self) -> Control:
        return Control.of(LinkFolder(self.root))

    def online(self) -> int:
        try:
            with self.control() as control:
                return sum(node.state == "online" for node in control.nodes())
        except ConsiliumError:
            return 0

    def own(self, words: str) -> list[int]:
        """Processes of this federation's Flower whose command line holds ``words``."""
        return [pid for pid in _processes() if words in _text(pid, "cmdline") and self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        return f"\0FLWR_HOME={self.root}" in "\0" + _text(pid, "environ")

    def end(self) -> None:
        for process in reversed(self._running.values()):
            process.terminate()
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
            process.kill()
            process.wait()
        for pid in (pid for pid in _processes() if self._is_ours(pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def link(root: Path, sites: int, files: Mapping[str, str], bundle: Bundle = INSTALLED) -> Iterator[Link]:
    """A federation with ``files`` whose sites are connected; the stand-ins are started where the bundle is ours."""
    port = _free_port()
    federation = FederationFolder.init(root, settings_for("bench", f"{LOOPBACK}:{port}"), None, datetime.now(UTC))
    made = Link(root, federation, {f"site-{number}": Counted() for number in range(1, sites + 1)})
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    lead, environment = federation.lead_key(lambda: b""), _environment()
    for name, counted in made.counted.items():
        _enrol(made, lead, name, _forward(port, counted))
    try:
        _coordinator(made, environment)
        if bundle == INSTALLED:
            made.start("sites", (sys.executable, str(HERE / "deployed_sites.py"), str(root)), environment)
        for name in made.counted:
            argv = (*supernode.command(root / "sites" / name), "--bundle", bundle_sha256(bundle))
            made.start(name, argv, environment)
        made.until(lambda: made.online() == sites, "all sites are connected")
        yield made
    finally:
        made.end()


def _coordinator(made: Link, environment: Mapping[str, str]) -> None:
    folder = LinkFolder(made.root)
    folder.prepare()
    gateway = gateway_command(made.root, environment)
    made.start("gateway", gateway.argv, gateway.environment)
    made.until(lambda: folder.announced().get("pid") == made.pid("gateway"), "the gateway listens")
    superexec = superexec_command(made.root, environment)
    made.start("superexec", superexec.argv, {**superexec.environment, FEDERATION: str(made.root)})


def _enrol(made: Link, lead: SigningKey, name: str, port: int) -> None:
    site, identity = made.root / "sites" / name, SigningKey.generate()
    for folder in ("keys", pinned.TRUST, "run"):
        (site / folder).mkdir(parents=True, mode=0o700)
    node_keys.save(key := node_keys.generate(), site / "keys" / "node.pem")
    identity.save(site / "keys" / "identity.pem")
    entry = rosters.Entry(site=name, identity=identity.verify_key.hex(), node=node_keys.public_pem(key))
    roster = made.federation.change_roster(lead, lambda held: rosters.with_site(held, entry, datetime.now(UTC)))
    there = replace(made.federation.coordinator(), address=f"{LOOPBACK}:{port}")
    welcome = make_welcome(lead, there, roster, name, datetime.now(UTC))
    pinned.keep_welcome(site, welcome, open_welcome(welcome)[0])


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}


def _forward(port: int, counted: Counted) -> int:
    """Listen at a free port, pass everything on to ``port`` and count it."""
    listening = socket.create_server((LOOPBACK, 0), backlog=64)

    def serve() -> None:
        while True:
            near, _ = listening.accept()
            with suppress(OSError):
                far = socket.create_connection((LOOPBACK, port))
                for one, other, name in ((near, far, "up"), (far, near, "down")):
                    threading.Thread(target=_pump, args=(one, other, counted, name), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return int(listening.getsockname()[1])


def _pump(one: socket.socket, other: socket.socket, counted: Counted, name: str) -> None:
    buffer = memoryview(bytearray(_PIECE))
    with suppress(OSError):
        while got := one.recv_into(buffer):
            other.sendall(buffer[:got])
            setattr(counted, name, getattr(counted, name) + got)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _text(pid: int, name: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    return ""
