"""The gateway's log: one JSON object a line, for its owner alone, without content.

Promises
- A line says when, which API, which call, the verdict, the HTTP status, and the address of who asked.
- Refusals from outside cannot fill the disk: so many a minute are written, and the next line says how many were not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from server.link.gate import Note, Noted

A_MINUTE = 120
"""Refusals that are written each minute; control calls always are."""


def json_log(path: Path, clock: Callable[[], datetime]) -> Note:
    """Append to ``path``; ``clock`` has a time zone."""
    minute, written, dropped = "", 0, 0

    def note(noted: Noted) -> None:
        nonlocal minute, written, dropped
        now = clock()
        if (current := f"{now:%Y-%m-%dT%H:%M}") != minute:
            minute, written = current, 0
        if noted.api != "control":
            written += 1
            if written > A_MINUTE:
                dropped += 1
                return
        line: dict[str, object] = {"time": now.isoformat(timespec="milliseconds"), **asdict(noted)}
        if dropped:
            line["not_written"] = dropped
            dropped = 0
        _append(path, json.dumps(line, separators=(",", ":")) + "\n")

    return note


def _append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
