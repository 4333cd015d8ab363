"""All checks of a machine, in the order in which somebody would mend things.

Promises
- Every check is reported, each time, under the same name: what cannot be told is ``skipped`` and says why.
- Nothing is changed, on this machine or elsewhere: files are looked at, connections are opened and closed again.
- It ends: whatever waits for somebody else has a deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from client.machine import compute, network, storage
from client.machine.check import Check

__all__ = ["Check", "examine"]


def examine(
    folder: Path, coordinator: str | None, ca_file: Path | None, environ: Mapping[str, str], now: datetime
) -> tuple[Check, ...]:
    """Look at this machine.

    Args:
        folder: of the site; need not exist yet.
        coordinator: its address, ``host``, ``host:port`` or ``https://host:port``; None where there is none yet.
        ca_file: PEM file with the coordinator's own authority; None means the authorities that this machine trusts.
        environ: where ``HTTPS_PROXY`` and ``NO_PROXY`` are looked up.
        now: this machine's clock, with a time zone.
    """
    return (
        *compute.checks(Path("/"), compute.look_at_cuda()),
        *storage.checks(folder),
        *network.checks(coordinator, ca_file, environ, now),
    )
