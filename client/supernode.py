"""Flower's SuperNode for one site, in a process of its own, with what Flower leaves out.

::

    python -m client.supernode SITE [--address HOST:PORT] [--ca FILE] [--key FILE] [--run FOLDER]
                                    [--custodian FOLDER] [--bundle SHA256 ...]

Promises
- Only approved bundles are taken (``client.bundle_guard``), and each message is handled by a new process, which talks
  to this one on the loopback, authenticated by a secret that is drawn at every start.
- The coordinator's authority is pinned: no other one is trusted. ``HTTPS_PROXY`` and ``NO_PROXY`` are honoured.
- Address and authority that the command line does not give are the lead's: the welcome's signature is checked at every
  start (``client.pinned``). Given both, nothing of ``trust/`` is read: a relay with a user of its own cannot.
- A session that ``kill -9`` left open is closed before a new one begins, so that the coordinator learns at once that
  what was under way is lost, and the site is back in seconds instead of Flower's minute.
- What a coordinator sends is not decompressed.
- It ends with a status that says what to do (``Ending``); one SuperNode a folder, by a lock.

It holds the node's key and no other, no image, and imports no torch.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import uvicorn
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supernode import start_client_internal as start_client_internal_module
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.main import create_app
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.nodestate import NodeStateFactory
from httpx import _decoders

from client import bundle_guard, pinned
from client.link_watch import Ending, Watch, try_soon
from shared.bundle import bundle_sha256
from shared.crypto import node_keys
from shared.durable import replace_file
from shared.errors import ConsiliumError, RunError, SiteDataError
from shared.link import LOOPBACK, flower_environment

__all__ = ["Ending", "NodeSettings", "command", "main", "read_settings", "run"]

_PAUSE_S = 2.0
"""Between the end of an old session and a new one: the coordinator looks several times a second who has gone away."""
_RESTART_S = 1.0
_POLL_S = 0.5
_LENT = "CREDENTIALS_DIRECTORY"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What one SuperNode needs.

    Attributes:
        address: of the coordinator, ``host:port``.
        ca_pem: the authority that signed its certificate, the only one that is trusted.
        key: the node's own.
        custodian: its socket; told to every relay, with ``token``.
        token: file that holds what a relay shows to the custodian.
        run: folder for what lasts as long as the process; nobody else may write there. Where the custodian has a user
            of its own, the socket is in another one, which only the custodian may write to.
        approved: SHA-256 of the bundles that are taken.
    """

    address: str
    ca_pem: bytes
    key: node_keys.PrivateKey
    custodian: Path
    token: Path
    run: Path
    approved: frozenset[str]

    @property
    def flower_home(self) -> Path:
        """Where bundles are unpacked; emptied at every start."""
        return self.run / "flower"


def command(site: Path) -> tuple[str, ...]:
    """Command line of the SuperNode of a site folder."""
    return (sys.executable, "-m", "client.supernode", str(site))


def read_settings(argv: Sequence[str]) -> NodeSettings:
    """From the command line and, where it does not say, from the site folder; raises ``SiteDataError``."""
    said = _parser().parse_args(argv)
    site: Path = said.site.absolute()
    run_folder = (said.run or site / "run").absolute()
    custodian: Path = (said.custodian or run_folder).absolute()
    address, authority = (said.address, b"") if said.address and said.ca else _pinned(site)
    return NodeSettings(
        address=said.address or address,
        ca_pem=said.ca.read_bytes() if said.ca else authority,
        key=_key(said.key or site / "keys" / "node.pem", os.environ),
        custodian=custodian / "custodian.sock",
        token=custodian / "relay.token",
        run=run_folder,
        approved=frozenset(said.bundle or (bundle_sha256(),)),
    )


def run(settings: NodeSettings) -> Watch:
    """Serve until told to stop or turned away; Flower's variables must be in this process's environment already."""
    watch = Watch()
    watch.install()
    try_soon()
    _ask_often()
    _unpack_nothing()
    session = settings.run / "session.json"
    bundle_guard.install(
        settings.approved, _say, lambda node: replace_file(session, json.dumps({"node": node}).encode())
    )
    shutil.rmtree(settings.flower_home, ignore_errors=True)
    _close_old_session(settings, session)
    state = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    secret = settings.run / "superexec.secret"
    replace_file(secret, secrets.token_bytes(32))
    with _runtime(state, secret.read_bytes()) as port, _superexec(port, secret, settings):
        try:
            _serve(settings, state, f"{LOOPBACK}:{port}", secret.read_bytes())
        except SystemExit as ended:
            if ended.code == 0:
                watch.stopped()
    return watch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the SuperNode of a site; the status is an ``Ending``."""
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv)
        _restart_in_silence(settings.flower_home)
        os.umask(0o077)
        settings.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(settings.run / "supernode.lock"):
            watch = run(settings)
    except ConsiliumError as error:
        sys.stderr.write(f"error: {error.sentence}\nhint: {error.hint}\n")
        return Ending.FAILED
    if watch.ending:
        sys.stderr.write(f"error: {watch.sentence}\nhint: {watch.hint}\n")
    return watch.ending


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m client.supernode", description="Flower's SuperNode for one site.")
    parser.add_argument("site", type=Path, help="folder of the site")
    parser.add_argument("--address", help="of the coordinator, host:port (default: from trust/welcome.json)")
    parser.add_argument("--ca", type=Path, help="PEM file of its authority (default: from trust/welcome.json)")
    parser.add_argument("--key", type=Path, help="the node's key (default: keys/node.pem)")
    parser.add_argument("--run", type=Path, help="folder for sockets and the like (default: run)")
    parser.add_argument("--custodian", type=Path, help="folder of the custodian's socket (default: that of --run)")
    parser.add_argument("--bundle", action="append", help="SHA-256 of an approved bundle (default: the installed one)")
    return parser


def _key(path: Path, environ: Mapping[str, str]) -> node_keys.PrivateKey:
    """The node's key, from a file that is this user's alone; raises ``SiteDataError``.

    What systemd lends a service (LoadCredential=) is read as it is: its list of readers shows as rights of the group.
    """
    lent = environ.get(_LENT)
    if lent and path.parent == Path(lent):
        return node_keys.from_pem(path.read_bytes(), path.name)
    return node_keys.load(path)


def _pinned(site: Path) -> tuple[str, bytes]:
    """Address and authority, as ``accept`` pinned them and the lead signed them; raises ``SiteDataError``."""
    found = pinned.load(site)
    if found is None:
        raise SiteDataError(
            "this site has not been accepted into a federation: there is no trust/welcome.json",
            hint="consilium-site accept WELCOME",
            code="not-accepted",
        )
    return found.address, found.welcome.ca.encode("ascii")


def _serve(settings: NodeSettings, state: NodeStateFactory, runtime: str, secret: bytes) -> None:
    start_client_internal_module.start_client_internal(
        state_factory=state,
        server_address=settings.address,
        node_config={"custodian": str(settings.custodian), "token": str(settings.token)},
        root_certificates=settings.ca_pem,
        insecure=False,
        authentication_keys=(settings.key, settings.key.public_key()),
        isolation="process",
        runtime_api_address=runtime,
        trusted_entities=bundle_guard.TRUSTED,
        superexec_auth_secret=secret,
        runtime_dependency_install=False,
    )


def _unpack_nothing() -> None:
    """What a coordinator has compressed stays so, and is no message: a few bytes of it could fill this machine."""
    for packed in _decoders.SUPPORTED_DECODERS.keys() - {"identity"}:
        del _decoders.SUPPORTED_DECODERS[packed]


def _ask_often() -> None:
    """Flower sleeps 3 s between two questions, which every message would wait for."""
    flower: Any = start_client_internal_module
    flower.time = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, _POLL_S)))


def _close_old_session(settings: NodeSettings, session: Path) -> None:
    """Tell the coordinator that the session of a process that was killed is over.

    A node keeps its number for life. Where no session is open Flower refuses, and nothing is lost by having asked.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, httpx.HTTPError):
        node = int(json.loads(session.read_bytes())["node"])
        interceptors: list[ProtobufClientInterceptor] = [
            RuntimeVersionHttpInterceptor("SuperNode"),
            NodeAuthHttpInterceptor(settings.key, settings.key.public_key()),
        ]
        with FleetHttpClient.from_server_address(settings.address, False, settings.ca_pem, interceptors) as client:  # noqa: FBT003
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
        time.sleep(_PAUSE_S)


@contextmanager
def _runtime(state: NodeStateFactory, secret: bytes) -> Iterator[int]:
    """Serve what the relays ask for, on the loopback, and give the port."""
    config = uvicorn.Config(
        create_app(state, secret), host=LOOPBACK, port=0, log_config=None, access_log=False, ws="none"
    )
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, name="runtime-api", daemon=True)
    thread.start()
    try:
        yield int(socket.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(3)


@contextmanager
def _superexec(port: int, secret: Path, settings: NodeSettings) -> Iterator[None]:
    """Keep Flower's SuperExec running, which starts a relay for each message."""
    argv = (
        str(Path(sys.executable).parent / "flower-superexec"),
        "--insecure",
        "--runtime-api-address",
        f"{LOOPBACK}:{port}",
        "--superexec-auth-secret-file",
        str(secret),
        "--parent-pid",
        str(os.getpid()),
    )
    environment = flower_environment(os.environ, settings.flower_home)
    over = threading.Event()
    child = [subprocess.Popen(argv, env=environment)]  # noqa: S603 - our own command line

    def watch() -> None:
        while not over.is_set():
            child[0].wait()
            if not over.wait(_RESTART_S):
                child[0] = subprocess.Popen(argv, env=environment)  # noqa: S603

    thread = threading.Thread(target=watch, name="superexec", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        child[0].terminate()
        thread.join(3)


def _restart_in_silence(home: Path) -> None:
    """Flower reads its variables when it is imported, which this module has done: begin again with ours in place."""
    wanted = flower_environment(os.environ, home)
    if any(os.environ.get(name) != value for name, value in wanted.items() if name != "PATH"):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)  # noqa: S606 - our own command line


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise RunError(
            "another SuperNode works for this site",
            hint="stop it first: one node has one session",
            code="folder-in-use",
        ) from None
    finally:
        os.close(descriptor)


def _say(reason: str) -> None:
    sys.stderr.write(f"refused: {reason}\n")


if __name__ == "__main__":
    sys.exit(main())
