"""How the coordinator's processes are started: command line and environment, for whoever supervises them.

Promises
- No secret stands on a command line or in an environment: files are named.
- Both processes may be killed and started again at any time; a run goes on if they are back within Flower's minute.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from server.link.places import LinkFolder
from shared.errors import RunError
from shared.link import LOOPBACK, flower_environment


@dataclass(frozen=True, slots=True)
class Command:
    """What to start, with umask 077; ``environment`` is all of it."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def gateway_command(root: Path, inherited: Mapping[str, str]) -> Command:
    """The gateway with Flower's SuperLink in it. Ready when ``link/gateway.json`` names its process."""
    argv = (sys.executable, "-m", "server.gateway", str(root))
    return Command(argv, flower_environment(inherited, LinkFolder(root).flower_home))


def superexec_command(root: Path, inherited: Mapping[str, str]) -> Command:
    """Flower's SuperExec, which starts a ServerApp for each run; raises ``RunError`` before the first gateway."""
    folder = LinkFolder(root)
    port = folder.announced().get("local", 0)
    if not port:
        raise RunError("no gateway has been started in this folder", hint="start the gateway first", code="no-gateway")
    argv = (
        str(Path(sys.executable).parent / "flower-superexec"),
        "--insecure",
        "--runtime-api-address",
        f"{LOOPBACK}:{port}",
        "--superexec-auth-secret-file",
        str(folder.secret),
    )
    return Command(argv, flower_environment(inherited, folder.flower_home))
