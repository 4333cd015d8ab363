"""What both ends of the link agree on: the codes of a refusal, and the environment of Flower's processes.

Promises
- A code says why the gateway turned a SuperNode away; it lies outside the numbers that Flower uses (up to 4000), and
  the answer has the form that Flower reads: ``{"code": number, "detail": sentence}``.
- ``flower_environment`` is the whole environment of a Flower process: what the machine's owner set stays, except every
  ``FLWR_`` variable, of which only ours are there. Nothing is sent to Flower's makers, whatever a message asks for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from shared.environment import SILENCE

LOOPBACK = "127.0.0.1"

NOT_ENROLLED = 9001
"""The key of this node is not registered at the coordinator."""
SUSPENDED = 9002
"""The lead has suspended the site."""
CLOCK = 9003
"""The key is right, but the clocks of the site and of the coordinator differ too much."""

PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER = "flwr-public-key", "flwr-signature", "flwr-timestamp"
"""How a SuperNode says who it is: base64 of its PEM key, base64 of its signature over the time, the time."""

_POLL_S = "0.1"
"""Of a SuperExec, which asks its own machine: Flower's second is added to every message."""
_NOWHERE = "http://127.0.0.1:9/"
"""Instead of Flower's hub; nothing listens on the discard port."""


def flower_environment(inherited: Mapping[str, str], home: Path) -> dict[str, str]:
    """Environment of a Flower process that keeps what it unpacks in ``home``.

    ``PATH`` begins with this interpreter's folder: a SuperExec starts its tasks by their bare names.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith("FLWR_")}
    loopback = ",".join(
        dict.fromkeys((*_listed(kept.get("NO_PROXY", kept.get("no_proxy", ""))), LOOPBACK, "localhost"))
    )
    return kept | SILENCE | {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _POLL_S,
        "FLWR_SUPERGRID_API_URL": _NOWHERE,
        "NO_PROXY": loopback,
        "no_proxy": loopback,
        "PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', '/usr/bin:/bin')}",
    }  # fmt: skip


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
