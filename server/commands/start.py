"""``consilium-server start``: the coordinator's processes, kept running until somebody stops them.

Promises
- The gateway comes first; what needs it starts when it listens. Each is restarted when it ends.
- One folder is kept running once: a second command is refused.
- ``CONSILIUM_FEDERATION`` tells the coordinator's process where the federation is, and nobody else.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from server.app import FEDERATION
from server.dashboard.app import TOKEN
from server.federation_folder import LINK, LOG, FederationFolder
from server.link.launch import gateway_command, superexec_command
from server.link.places import LinkFolder
from shared.durable import held
from shared.environment import SILENCE
from shared.errors import RunError
from shared.link import LOOPBACK
from shared.local_page.serving import address
from shared.logs import EVENTS, Log, utc_now
from shared.supervision import Command, News, Program, Supervisor, noting

GATEWAY, COORDINATOR, PAGE = "gateway", "coordinator", "page"


def supervisor(
    federation: FederationFolder, inherited: Mapping[str, str], tell: Callable[[News], None], page: int = 0
) -> Supervisor:
    """What keeps the coordinator of ``federation`` running, with its page at the port ``page``; 0 has none."""
    root = federation.path.absolute()
    LinkFolder(root).prepare()
    programs = (*_programs(root, inherited), *([_page(root, inherited, page)] if page else []))
    return Supervisor(programs, noting(Log(root / LOG / EVENTS, "start", utc_now), tell))


def alone(federation: FederationFolder) -> AbstractContextManager[None]:
    """Hold the folder while a coordinator is kept running; raises ``RunError`` where another one is."""
    folder = LinkFolder(federation.path)
    folder.prepare()
    refusal = RunError(
        "another coordinator works in this federation folder",
        hint="stop it first; two coordinators never share a folder",
        code="folder-in-use",
    )
    return held(federation.path / LINK / "start.lock", refusal)


def page_address(federation: FederationFolder, port: int) -> str:
    """What to type into a browser on this machine, once the page is ready."""
    return address(port, (federation.path / TOKEN).read_text(encoding="ascii").strip())


def _programs(root: Path, inherited: Mapping[str, str]) -> tuple[Program, Program]:
    folder = LinkFolder(root)

    def gateway() -> Command:
        found = gateway_command(root, inherited)
        return Command(found.argv, found.environment)

    def coordinator() -> Command:
        found = superexec_command(root, inherited)
        return Command(found.argv, {**found.environment, FEDERATION: str(root)})

    def listens(pid: int) -> bool:
        return folder.announced().get("pid") == pid

    return (
        Program(GATEWAY, gateway, root / LOG / f"{GATEWAY}.log", ready=listens),
        Program(COORDINATOR, coordinator, root / LOG / f"{COORDINATOR}.log"),
    )


def _page(root: Path, inherited: Mapping[str, str], port: int) -> Program:
    command = Command((sys.executable, "-m", "server.dashboard", str(root), str(port)), {**inherited, **SILENCE})
    return Program(PAGE, lambda: command, root / LOG / f"{PAGE}.log", ready=lambda _pid: _answers(port))


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
