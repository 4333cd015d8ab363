"""The gateway: Flower's SuperLink in one process, served twice, so that the sites reach its fleet API and nothing else.

::

    python -m server.gateway FEDERATION [--listen ADDRESS]

Promises
- Outside, over TLS: the fleet API for enrolled nodes, and ``/health``. On this machine: control for the lead's token,
  runtime for Flower's own secrets. Everything else is 403 (``server.link.gate``).
- One process a folder, one database, one set of routes: both servers share one application in one event loop.
- SIGTERM ends it in order, SIGHUP reads the certificate again, and ``kill -9`` costs nothing: what is not in the
  database, or in the files beside it (``server.link.objects``), was not answered yet, and both ports are the same when
  it comes back.

What Flower does behind the gate is Flower's: node sessions, messages, runs (FAB, 1.41).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from server.federation_folder import Federation, FederationFolder
from server.link.admission import Register, admission
from server.link.gate import App, Limits, local_gate, public_gate
from server.link.listen import Listener, bind, listener, load_certificate, tls_context
from server.link.log import json_log
from server.link.objects import FileObjects, wait_for_the_database
from server.link.places import LinkFolder
from server.link.standing import standing
from shared.crypto.key_files import read_key_file
from shared.errors import ConsiliumError, RunError
from shared.link import LOOPBACK, flower_environment
from shared.trust.address import split_address

Place = tuple[str, int]
"""A host and a port of this machine."""

_LEGACY = ("FLWR_INTERNAL_GRPC_CONTROL_API", "FLWR_INTERNAL_GRPC_FLEET_API", "FLWR_OIDC_ENABLED")


@dataclass(frozen=True, slots=True)
class SuperLink:
    """Flower's application, what it needs to have running, and how it learns of a node."""

    app: App
    lifespan: AbstractAsyncContextManager[object]
    register: Register


def superlink(database: Path, secret: bytes) -> SuperLink:
    """Flower's SuperLink on a database file: nodes must be registered, ServerApps run in processes of their own."""
    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=LOOPBACK,
        port=0,
        insecure=True,  # of the application behind the gates; TLS is the public server's
        certificates=None,
        superexec_auth_secret=secret,
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(database),
        isolation="process",
        runtime_dependency_install=False,
    )
    app = create_app(config, SuperLinkLifespan)
    wait_for_the_database()
    objects = FileObjects(database, database.with_name("objects"))
    objects.initialize()
    app.state.linkstate_factory.objectstore_factory.store_instance = objects
    state = app.state.linkstate_factory.state()

    def register(public_pem: str, site: str) -> None:
        if state.get_node_id_by_public_key(public_pem.encode()) is None:
            state.create_node(
                NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_pem.encode(), HEARTBEAT_DEFAULT_INTERVAL, name=site
            )

    return SuperLink(app, app.router.lifespan_context(app), register)


async def serve(federation: FederationFolder, place: Place, link: SuperLink, limits: Limits) -> None:
    """Serve at ``place`` until SIGTERM or SIGINT; raises ``RunError`` where a port or a certificate cannot be had."""
    folder = LinkFolder(federation.path)
    note = json_log(folder.log, _now)
    context = tls_context(folder.certificate, folder.key)
    admit = admission(standing(federation, _warn), link.register, _now)
    public = listener(public_gate(link.app, admit, note, limits), context)
    local = listener(local_gate(link.app, folder.token(), note, limits), None)
    outer, inner = bind(*place), _local_socket(folder.announced().get("local", 0))
    _on_signals((public, local), lambda: load_certificate(context, folder.certificate, folder.key))
    async with link.lifespan:
        serving = [asyncio.create_task(public.serve([outer])), asyncio.create_task(local.serve([inner]))]
        while not (public.started and local.started) and not any(task.done() for task in serving):
            await asyncio.sleep(0.01)
        folder.announce(outer.getsockname()[1], inner.getsockname()[1])
        await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
        public.should_exit = local.should_exit = True
        await asyncio.gather(*serving)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the gateway of a federation folder; 0 when it was stopped, 1 when it could not go on."""
    said = _parser().parse_args(argv)
    folder = LinkFolder(said.federation.absolute())
    _restart_in_silence(folder.flower_home)
    os.umask(0o077)
    try:
        federation = FederationFolder.open(folder.root)
        folder.prepare()
        with folder.alone():
            link = superlink(folder.database, read_key_file(folder.secret))
            asyncio.run(serve(federation, _place(federation.settings, said.listen), link, Limits()))
    except ConsiliumError as error:
        sys.stderr.write(f"error: {error.sentence}\nhint: {error.hint}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m server.gateway", description="The gateway of a federation.")
    parser.add_argument("federation", type=Path, help="folder of the federation")
    parser.add_argument("--listen", help="address of this machine at which sites come in (default: all)")
    return parser


def _place(settings: Federation, listen: str | None) -> Place:
    """Where to listen: as the command line says, or the settings, or at the port that sites know."""
    if listen is None and settings.listen:
        return split_address(settings.listen)
    return listen or _everywhere(settings.host), settings.port


def _everywhere(host: str) -> str:
    """All addresses of this machine, except where the federation is called by the loopback itself."""
    return host if host.startswith("127.") or host == "::1" else "::" if ":" in host else "0.0.0.0"  # noqa: S104


def _restart_in_silence(home: Path) -> None:
    """Flower reads its variables when it is imported, which this module has done: begin again with ours in place."""
    wanted = flower_environment(os.environ, home)
    if any(os.environ.get(name) != value for name, value in wanted.items() if name != "PATH") or any(
        name in os.environ for name in _LEGACY
    ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)  # noqa: S606 - our own command line


def _local_socket(port: int) -> socket.socket:
    """The port of last time, where nobody has taken it."""
    with suppress(RunError):
        if port:
            return bind(LOOPBACK, port)
    return bind(LOOPBACK, 0)


def _on_signals(servers: tuple[Listener, ...], reload: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    def renew() -> None:
        try:
            reload()
        except RunError as error:
            _warn(f"{error.sentence}; the old certificate stays in use")

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGHUP, renew)


def _warn(sentence: str) -> None:
    sys.stderr.write(f"warning: {sentence}\n")


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
