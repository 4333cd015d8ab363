"""Replacing a file so that whoever reads it finds the old one or the new one, whole.

Promises
- When ``replace_file`` returns, the content is on the disk under its name; a process that is killed before leaves the
  old file, and at most one unfinished file beside it, which the next call writes over.
- The file is readable by its owner alone.
- Several processes may replace files of one folder at once: one after the other, by a lock on the folder, which the
  operating system takes back from a process that ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` in place of what is at ``path``, if anything is."""
    with _alone_in(path.parent) as folder:
        pending = path.with_name(path.name + ".pending")
        with os.fdopen(os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        pending.replace(path)
        os.fsync(folder)


@contextmanager
def _alone_in(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
