"""Files and names that are on the disk when a call returns.

Promises
- ``replace_file``: whoever reads the file finds the old content or the new one, whole. A process that is killed before
  it returns leaves the old file, and at most one unfinished file beside it, which the next call writes over.
- Several processes may replace files of one folder at once: one after the other, by a lock on the folder, which the
  operating system takes back from a process that ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ConsiliumError

PRIVATE = 0o600
"""For its owner alone."""
SHARED = 0o666
"""For whomever the user's file mode creation mask lets in."""


def replace_file(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Put ``content`` in place of what is at ``path``, if anything is; ``mode`` is that of the new file."""
    with _alone_in(path.parent) as folder:
        pending = path.with_name(path.name + ".pending")
        pending.unlink(missing_ok=True)
        with os.fdopen(os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        pending.replace(path)
        os.fsync(folder)


def fsync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: a file is there after a crash only when its folder says so (fsync(2))."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock file at ``path``, made where there is none, until the block ends or the process does."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def held(path: Path, refusal: ConsiliumError) -> Iterator[None]:
    """Hold the lock file at ``path`` as ``alone`` does; raises ``refusal`` at once where somebody else holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusal from None
        yield
    finally:
        os.close(handle)


@contextmanager
def _alone_in(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
