"""The audit log of a site: what was done here, one signed line each, chained.

Promises
- A line is a JSON object with sorted keys: number, time (UTC), what was done, to which data set, counts, digests,
  figures where there are any, the SHA-256 of the line before (zeros for the first), and the site key's signature over
  all of that.
- It cannot hold an identifier: counts are integers, figures finite numbers, digests hexadecimal, and every name has the
  form of a name in a program; anything else is a ``ValueError``.
- ``append`` returns when the line is on the disk; two processes append one after the other. What a crash cut off in the
  middle of a line was never acknowledged: the next ``append`` removes it and says so in a line of its own.
- What ``append`` costs does not grow with the log. A file of ``MOST_BYTES`` is sealed, and the next one goes on with
  its numbers and its chain (``audit_files``).
- ``verify`` follows all files, and names the first line that was changed, removed, inserted or moved, and why.

Not promised: that nobody cut lines off the end. Whoever wants to notice keeps the digest of the last line, which
``verify`` gives, somewhere else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from client.governance import audit_files
from client.governance.audit_files import End
from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import ProtocolError, SiteDataError

_CONTEXT = b"consilium-audit-1\n"
_START = "0" * 64
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{32}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
REMOVED = "torn-line-removed"
MOST_BYTES = 16 << 20
"""Of a file that is still added to."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was done.

    Attributes:
        name: what it was.
        dataset: the data set it was done to, "" where it is about the site.
        counts: integers by name.
        digests: 64 hexadecimal digits, or 32 of a run, by name.
        figures: finite numbers by name.
    """

    name: str
    dataset: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse whatever could carry an identifier."""
        names = [self.name, *self.counts, *self.digests, *self.figures, *([self.dataset] if self.dataset else [])]
        if not all(_NAME.fullmatch(name) for name in names):
            raise ValueError("a name in the audit log is of lower-case letters, digits, dots, hyphens and underscores")
        if not all(type(count) is int for count in self.counts.values()):
            raise ValueError("a count in the audit log is an integer")
        if not all(_DIGEST.fullmatch(digest) for digest in self.digests.values()):
            raise ValueError("a digest in the audit log is of 64 or 32 hexadecimal digits")
        if not all(type(figure) is float and math.isfinite(figure) for figure in self.figures.values()):
            raise ValueError("a figure in the audit log is a finite number")


@dataclass(frozen=True, slots=True)
class Verified:
    """An audit log without a fault: how many lines it has, and the SHA-256 of the last one."""

    lines: int
    head: str


NOTHING = Verified(0, _START)
"""Of a log without a line."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line without a fault: the name of its file, its place there from 1, what it says, and its SHA-256."""

    file: str
    place: int
    entry: Mapping[str, Any]
    sha256: str


@dataclass(frozen=True, slots=True)
class AuditLog:
    """The log in the file ``path`` and those that were sealed beside it, written by the holder of ``signer``."""

    path: Path
    signer: SigningKey
    most_bytes: int = MOST_BYTES

    @classmethod
    def create(cls, path: Path, signer: SigningKey) -> AuditLog:
        """Make an empty log, readable by its owner alone; raises ``FileExistsError`` rather than touch one."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return cls(path, signer)

    def append(self, event: Event, now: datetime) -> None:
        """Add a line for ``event``; raises ``SiteDataError`` where the log is missing or its last line is no line."""
        with self._alone() as file:
            end = audit_files.end_of(file)
            removed = (Event(REMOVED, counts={"bytes": end.torn}),) if end.torn else ()
            written = b"".join(self._lines((*removed, event), now, self._next(end, file)))
            if end.whole >= self.most_bytes and not end.torn:
                audit_files.turn(self.path, written)
                return
            file.truncate(end.whole)
            file.seek(end.whole)
            file.write(written)
            file.flush()
            os.fsync(file.fileno())

    def require_sound(self) -> None:
        """Raise what ``append`` would, before anything is done that could then not be recorded."""
        with os.fdopen(self._opened(), "rb") as file:
            self._next(audit_files.end_of(file), file)

    @contextmanager
    def _alone(self) -> Iterator[IO[bytes]]:
        """The file that is written to, locked until the block ends or the process does."""
        while True:
            with os.fdopen(self._opened(), "r+b") as file:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
                # Another process may have sealed it while this one waited.
                if os.fstat(file.fileno()).st_ino == self.path.stat().st_ino:
                    yield file
                    return

    def _opened(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR)
        except OSError as error:
            raise SiteDataError(
                f"the audit log cannot be opened: {error.strerror}",
                hint="restore audit.jsonl from your copy, or check its permissions",
                code="audit-missing",
            ) from None

    def _next(self, end: End, file: IO[bytes]) -> tuple[int, str]:
        """Number of the next line, and the digest it must name."""
        if end.last is not None:
            return _follow(end.last)
        before = audit_files.sealed(self.path, os.fstat(file.fileno()).st_ino)
        if not before:
            return 1, _START
        with before[-1].open("rb") as older:
            return _follow(audit_files.end_of(older).last or b"")

    def _lines(self, events: tuple[Event, ...], now: datetime, follows: tuple[int, str]) -> Iterator[bytes]:
        number, previous = follows
        for event in events:
            line = self._line(event, now, number, previous)
            yield line + b"\n"
            number, previous = number + 1, hashlib.sha256(line).hexdigest()

    def _line(self, event: Event, now: datetime, number: int, previous: str) -> bytes:
        entry = {
            "number": number,
            "at": now.astimezone(UTC).isoformat(timespec="seconds"),
            "event": event.name,
            "dataset": event.dataset,
            "counts": dict(event.counts),
            "digests": dict(event.digests),
            "previous": previous,
        } | ({"figures": dict(event.figures)} if event.figures else {})
        return _bytes(entry | {"signature": self.signer.sign(_CONTEXT + _bytes(entry)).hex()})


def verify(path: Path, verify_key: VerifyKey) -> Verified:
    """Check every line of the log; raises ``SiteDataError`` ("audit-broken") that names the first bad one."""
    found = NOTHING
    for line in lines(path, verify_key):
        found = Verified(found.lines + 1, line.sha256)
    return found


def lines(path: Path, verify_key: VerifyKey) -> Iterator[Line]:
    """Every line of the log in order, checked as it comes; raises ``SiteDataError`` as ``verify`` does."""
    previous, number = _START, 0
    try:
        for name, file in audit_files.opened(path):
            for place, line in enumerate(audit_files.lines_of(file), start=1):
                number += 1
                fault = _fault(line, number, previous, verify_key)
                if fault:
                    raise _bad_line(place, "the audit log" if name == path.name and place == number else name, fault)
                previous = hashlib.sha256(line[:-1]).hexdigest()
                yield Line(name, place, json.loads(line), previous)
    except OSError as error:
        raise SiteDataError(
            f"the audit log cannot be read: {error.strerror}", hint="check audit.jsonl", code="audit-missing"
        ) from None


def _bad_line(place: int, name: str, fault: str) -> SiteDataError:
    return SiteDataError(
        f"line {place} of {name} {fault}",
        hint="compare it with your copy; the lines before it are as they were written",
        code="audit-broken",
    )


def _fault(line: bytes, number: int, previous: str, verify_key: VerifyKey) -> str:
    """What is wrong with a line; "" for nothing."""
    entry = _entry(line) if line.endswith(b"\n") else None
    if entry is None:
        return "is no whole entry"
    signature = entry.pop("signature", None)
    # The order tells what happened: a changed line has a wrong signature, a good one in a wrong place a wrong number.
    try:
        # One way to write it: ``fromhex`` would take capitals and spaces for the same signature.
        written = str(signature) if _SIGNATURE.fullmatch(str(signature)) else ""
        verify_key.verify(bytes.fromhex(written), _CONTEXT + _bytes(entry))
    except (ProtocolError, ValueError):
        return "was changed: its signature is not this site's"
    if _bytes({**entry, "signature": signature}) + b"\n" != line:
        return "was changed: it is not written as this site writes"
    if entry.get("number") != number:
        return f"has number {entry.get('number')}: lines were removed, inserted or moved"
    if entry.get("previous") != previous:
        return "does not follow from the line before it"
    return ""


def _follow(last: bytes) -> tuple[int, str]:
    """Number of the line after ``last``, and the digest it must name."""
    entry = _entry(last)
    number = entry.get("number") if entry else None
    if type(number) is not int:
        raise audit_files.broken_end()
    return number + 1, hashlib.sha256(last).hexdigest()


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _bytes(entry: Mapping[str, object]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
