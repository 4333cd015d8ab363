"""``consilium-server start``: the coordinator's processes, kept running until somebody stops them.

Promises
- The gateway comes first; what needs it starts when it listens. Each is restarted when it ends.
- ``CONSILIUM_FEDERATION`` tells the coordinator's process where the federation is, and nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from server.app import FEDERATION
from server.federation_folder import LOG, FederationFolder
from server.link.launch import gateway_command, superexec_command
from server.link.places import LinkFolder
from shared.supervision import Command, News, Program, Supervisor

GATEWAY, COORDINATOR = "gateway", "coordinator"


def supervisor(
    federation: FederationFolder, inherited: Mapping[str, str], tell: Callable[[News], None], *more: Program
) -> Supervisor:
    """What keeps the coordinator of ``federation`` running, and ``more`` with it."""
    root = federation.path.absolute()
    LinkFolder(root).prepare()
    return Supervisor((*_programs(root, inherited), *more), tell)


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
