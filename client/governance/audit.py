"""The audit log of a site: what was done here, one signed line each, chained.

Promises
- A line is a JSON object with sorted keys: number, time (UTC), what was done, to which data set, counts, digests, the
  SHA-256 of the line before (zeros for the first), and the site key's signature over all of that.
- It cannot hold an identifier: counts are integers, digests are hexadecimal, and every name has the form of a name in
  a program; anything else is a ``ValueError``.
- ``append`` returns when the line is on the disk; two processes append one after the other. What a crash cut off in the
  middle of a line was never acknowledged: the next ``append`` removes it and says so in a line of its own.
- ``verify`` names the first line that was changed, removed, inserted or moved, and why.

Not promised: that nobody cut lines off the end. Whoever wants to notice keeps the digest of the last line, which
``verify`` gives, somewhere else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import ProtocolError, SiteDataError

_CONTEXT = b"consilium-audit-1\n"
_START = "0" * 64
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
REMOVED = "torn-line-removed"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was done.

    Attributes:
        name: what it was.
        dataset: the data set it was done to, "" where it is about the site.
        counts: integers by name.
        digests: 64 hexadecimal digits by name.
    """

    name: str
    dataset: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse whatever could carry an identifier."""
        names = [self.name, *self.counts, *self.digests, *([self.dataset] if self.dataset else [])]
        if not all(_NAME.fullmatch(name) for name in names):
            raise ValueError("a name in the audit log is of lower-case letters, digits, dots, hyphens and underscores")
        if not all(type(count) is int for count in self.counts.values()):
            raise ValueError("a count in the audit log is an integer")
        if not all(_DIGEST.fullmatch(digest) for digest in self.digests.values()):
            raise ValueError("a digest in the audit log is of 64 hexadecimal digits")


@dataclass(frozen=True, slots=True)
class Verified:
    """An audit log without a fault: how many lines it has, and the SHA-256 of the last one."""

    lines: int
    head: str


@dataclass(frozen=True, slots=True)
class AuditLog:
    """The log in the file ``path``, written by the holder of ``signer``."""

    path: Path
    signer: SigningKey

    @classmethod
    def create(cls, path: Path, signer: SigningKey) -> AuditLog:
        """Make an empty log, readable by its owner alone; raises ``FileExistsError`` rather than touch one."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return cls(path, signer)

    def append(self, event: Event, now: datetime) -> None:
        """Add a line for ``event``; raises ``SiteDataError`` where the log is missing or its last line is no line."""
        descriptor = self._opened()
        with os.fdopen(descriptor, "r+b") as file:
            # Held until the file is closed, or the process ends.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            lines = [content[:whole]]
            if whole < len(content):
                removed = Event(REMOVED, counts={"bytes": len(content) - whole})
                lines.append(self._line(removed, now, lines[-1]))
            lines.append(self._line(event, now, lines[-1]))
            file.truncate(whole)
            file.seek(whole)
            file.write(b"".join(lines[1:]))
            file.flush()
            os.fsync(descriptor)

    def require_sound(self) -> None:
        """Raise what ``append`` would, before anything is done that could then not be recorded."""
        with os.fdopen(self._opened(), "rb") as file:
            content = file.read()
        _follow(content[: content.rfind(b"\n") + 1])

    def _opened(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR)
        except OSError as error:
            raise SiteDataError(
                f"the audit log cannot be opened: {error.strerror}",
                hint="restore audit.jsonl from your copy, or check its permissions",
                code="audit-missing",
            ) from None

    def _line(self, event: Event, now: datetime, before: bytes) -> bytes:
        number, previous = _follow(before)
        entry = {
            "number": number,
            "at": now.astimezone(UTC).isoformat(timespec="seconds"),
            "event": event.name,
            "dataset": event.dataset,
            "counts": dict(event.counts),
            "digests": dict(event.digests),
            "previous": previous,
        }
        return _bytes(entry | {"signature": self.signer.sign(_CONTEXT + _bytes(entry)).hex()}) + b"\n"


def verify(path: Path, verify_key: VerifyKey) -> Verified:
    """Check every line of the log; raises ``SiteDataError`` ("audit-broken") that names the first bad one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SiteDataError(
            f"the audit log cannot be read: {error.strerror}", hint="check audit.jsonl", code="audit-missing"
        ) from None
    previous, number = _START, 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        fault = _fault(line, number, previous, verify_key)
        if fault:
            raise SiteDataError(
                f"line {number} of the audit log {fault}",
                hint="compare it with your copy; the lines before it are as they were written",
                code="audit-broken",
            )
        previous = hashlib.sha256(line.rstrip(b"\n")).hexdigest()
    return Verified(number, previous)


def _fault(line: bytes, number: int, previous: str, verify_key: VerifyKey) -> str:
    """What is wrong with a line; "" for nothing."""
    entry = _entry(line) if line.endswith(b"\n") else None
    if entry is None:
        return "is no whole entry"
    signature = entry.pop("signature", None)
    # The order tells what happened: a changed line has a wrong signature, a good one in a wrong place a wrong number.
    try:
        verify_key.verify(bytes.fromhex(str(signature)), _CONTEXT + _bytes(entry))
    except (ProtocolError, ValueError):
        return "was changed: its signature is not this site's"
    if _bytes({**entry, "signature": signature}) + b"\n" != line:
        return "was changed: it is not written as this site writes"
    if entry.get("number") != number:
        return f"has number {entry.get('number')}: lines were removed, inserted or moved"
    if entry.get("previous") != previous:
        return "does not follow from the line before it"
    return ""


def _follow(content: bytes) -> tuple[int, str]:
    """Number of the next line after ``content``, and the digest it must name."""
    last = content.rstrip(b"\n").rpartition(b"\n")[2]
    if not last:
        return 1, _START
    entry = _entry(last)
    number = entry.get("number") if entry else None
    if type(number) is not int:
        raise SiteDataError(
            "the last line of the audit log is no entry",
            hint="restore audit.jsonl from your copy; consilium-site audit verify says where it breaks",
            code="audit-broken",
        )
    return number + 1, hashlib.sha256(last).hexdigest()


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _bytes(entry: Mapping[str, object]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
