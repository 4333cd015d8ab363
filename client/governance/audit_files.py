"""The files of an audit log: the one that is written to, and those that were sealed when they had grown large.

::

    audit-000001.jsonl    sealed: the oldest lines; read only
    audit-000002.jsonl    sealed: what follows
    audit.jsonl           the present lines, which go on with the numbers and the chain of the sealed ones

Promises
- Turning to a new file is one change of a name: there is a present file at every moment, and a process that is killed
  leaves the old one, or the new one with its first line. A second name for the present file, which such a process may
  leave, is no file of its own and is used by the next turn.
- The end of a log is found from its end: what it costs does not grow with the log.

What the lines say is ``client.governance.audit``'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shared.durable import fsync_folder
from shared.errors import SiteDataError

MOST_LINE_BYTES = 1 << 20
_BLOCK = 1 << 14
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class End:
    """Where a file ends.

    Attributes:
        whole: bytes up to the end of its last whole line.
        torn: bytes after that.
        last: the last whole line, without its line feed; None where there is none.
    """

    whole: int
    torn: int
    last: bytes | None


def end_of(file: IO[bytes]) -> End:
    """The end of ``file``; raises ``SiteDataError`` ("audit-broken") where no line ends within what a line may have."""
    size, block = file.seek(0, os.SEEK_END), _BLOCK
    while True:
        start = max(0, size - block)
        file.seek(start)
        content = file.read(size - start)
        feed = content.rfind(b"\n")
        before = content.rfind(b"\n", 0, max(feed, 0))
        if start == 0 or before >= 0:
            last = content[before + 1 : feed] if feed >= 0 else None
            return End(start + feed + 1, size - start - feed - 1, last)
        if block > 2 * MOST_LINE_BYTES:
            raise broken_end()
        block *= 2


def broken_end() -> SiteDataError:
    """What is raised where nothing can be appended."""
    return SiteDataError(
        "the last line of the audit log is no entry",
        hint="restore audit.jsonl from your copy; consilium-site audit verify says where it breaks",
        code="audit-broken",
    )


def sealed(path: Path, present: int) -> tuple[Path, ...]:
    """The sealed files of the log at ``path``, oldest first; ``present`` is the inode of the one that is written to."""
    return tuple(one for one in _numbered(path) if one.stat().st_ino != present)


def turn(path: Path, first: bytes) -> None:
    """Seal the file at ``path`` under the next number, and begin a new one with the line ``first``.

    Whoever calls this holds the lock on the file.
    """
    pending = path.with_name(path.name + ".next")
    pending.unlink(missing_ok=True)
    with os.fdopen(os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(first)
        file.flush()
        os.fsync(file.fileno())
    name = _linked(path)
    fsync_folder(path.parent)
    pending.replace(path)
    fsync_folder(path.parent)
    name.chmod(0o400)


def opened(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Each file of the log with its name, oldest first, as they are at one moment; raises ``OSError``."""
    with path.open("rb") as present:
        # A process that turns over meanwhile gives this very file a number, under which it is not read again.
        for one in sealed(path, os.fstat(present.fileno()).st_ino):
            with one.open("rb") as file:
                yield one.name, file
        yield path.name, present


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """Lines with their line feeds; the last one, or one that is too long, has none."""
    while line := file.readline(MOST_LINE_BYTES):
        yield line


def _numbered(path: Path) -> list[Path]:
    form = re.compile(rf"{re.escape(path.stem)}-[0-9]{{{_DIGITS}}}{re.escape(path.suffix)}")
    return sorted(one for one in path.parent.iterdir() if form.fullmatch(one.name))


def _linked(path: Path) -> Path:
    present = path.stat().st_ino
    found = _numbered(path)
    for one in found:
        if one.stat().st_ino == present:
            return one
    number = 1 + (int(found[-1].stem[-_DIGITS:]) if found else 0)
    name = path.with_name(f"{path.stem}-{number:0{_DIGITS}d}{path.suffix}")
    os.link(path, name)
    return name
