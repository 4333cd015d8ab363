"""Who may come in, by the signed roster and nothing else.

Promises
- The roster on the disk is what counts, from one request to the next: enrolling, suspending or removing a site needs no
  restart and touches no other site.
- A roster that cannot be read, or that the lead has not signed, lets nobody in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.federation_folder import ROSTER, FederationFolder
from shared.errors import ConsiliumError


@dataclass(frozen=True, slots=True)
class Standing:
    """How a node key stands: whose it is, and whether that site takes part. Nobody's key is "unknown"."""

    state: Literal["active", "suspended", "unknown"]
    site: str = ""


Judge = Callable[[str], Standing]
"""PEM key -> how it stands."""


def standing(folder: FederationFolder, warn: Callable[[str], None]) -> Judge:
    """A judge that reads the roster again whenever the file has changed; ``warn`` is told why it lets nobody in."""
    path = folder.path / ROSTER
    seen: object = None
    held: dict[str, Standing] = {}

    def judge(public_pem: str) -> Standing:
        nonlocal seen, held
        mark = _mark(path)
        if mark != seen:
            held = _read(folder, warn)
            seen = mark
        return held.get(public_pem, Standing("unknown"))

    return judge


def _mark(path: Path) -> object:
    """What changes with the file: a roster is replaced, never written into."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(folder: FederationFolder, warn: Callable[[str], None]) -> dict[str, Standing]:
    try:
        return {one.node: Standing(one.state, one.site) for one in folder.roster().sites}
    except ConsiliumError as error:
        warn(f"nobody is let in: {error.sentence}")
        return {}
