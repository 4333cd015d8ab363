"""What our long-running processes say of themselves: one JSON object a line, for programs that collect logs.

Promises
- A line holds a time (UTC), a process, an event and fields of ``FIELDS``; every field has a type and a form, and
  anything else is a ``ValueError`` before it is written. No field is free text, so no patient's data, path or sentence
  of a third party's error can enter.
- A line is written whole, by one call, for the owner of the file alone; several processes may write into one file.
- A file that has grown larger than ``LARGEST`` is put aside as ``NAME.1``, in place of the one put aside before.

What a hospital must be able to prove stands in its audit log (``client.governance.audit``): these lines are not signed,
and a full disk loses them.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

LARGEST = 10 << 20
EVENTS = "events.jsonl"
"""File in the folder of logs, of a site and of a federation."""

_NAME = re.compile(r"(?=.*[a-z])[a-z0-9][a-z0-9._-]{0,62}")
"""With a letter: dates and numbers of patients are no names."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RUN = re.compile(r"[0-9a-f]{32}")

Value = str | int | float
FIELDS: Mapping[str, re.Pattern[str] | type[int] | type[float]] = {
    "attempt": int,
    "bytes": int,
    "code": _NAME,
    "count": int,
    "dataset": _NAME,
    "days": int,
    "digest": _DIGEST,
    "exit": int,
    "phase": _NAME,
    "pid": int,
    "plan": _DIGEST,
    "port": int,
    "program": _NAME,
    "round": int,
    "run": _RUN,
    "seconds": float,
    "site": _NAME,
    "status": int,
}
"""What a line may say beside its event: names, digests, whole numbers, and seconds."""


@dataclass(frozen=True)
class Log:
    """Lines of one process.

    Attributes:
        path: the file, made where there is none.
        process: which of our processes writes.
        clock: the time, with a zone.
    """

    path: Path
    process: str
    clock: Callable[[], datetime]

    def say(self, event: str, **fields: Value) -> None:
        """Write one line; raises ``ValueError`` for what may not be said, ``OSError`` where it cannot be written."""
        written = line(self.clock(), self.process, event, fields)
        if self.path.exists() and self.path.stat().st_size > LARGEST:
            self.path.replace(self.path.with_name(self.path.name + ".1"))
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, written)
        finally:
            os.close(descriptor)


def utc_now() -> datetime:
    """The time, for processes; tests have clocks of their own."""
    return datetime.now(UTC)


def line(now: datetime, process: str, event: str, fields: Mapping[str, Value]) -> bytes:
    """One line of a log; raises ``ValueError`` for what may not be said."""
    if not (_NAME.fullmatch(process) and _NAME.fullmatch(event)):
        raise ValueError("a process and an event have names of lower-case letters, digits, dots and hyphens")
    for name, value in fields.items():
        if not _allowed(name, value):
            # Neither name nor value is repeated: a traceback is a log, too.
            raise ValueError("a field of the log has a name, type or form that is not in FIELDS")
    time = now.astimezone(UTC).isoformat(timespec="milliseconds")
    said = {"time": time, "process": process, "event": event, **dict(sorted(fields.items()))}
    return json.dumps(said, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _allowed(name: str, value: Value) -> bool:
    form = FIELDS.get(name)
    if isinstance(form, re.Pattern):
        return isinstance(value, str) and form.fullmatch(value) is not None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if form is float else form is int and isinstance(value, int)
