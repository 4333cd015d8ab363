"""Writing a store of prepared cases so that it is whole or absent.

Promises
- The old index goes first, the data file next, the new index last; each is flushed to the disk before it gets its name.
  A build that was killed, or ran out of disk, therefore leaves no index, and is never opened as whole.
- Memory does not grow with the number of cases: one is held at a time.

One writer at a time: ``cache`` sees to that.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from client.data.case_files import Quarantined
from client.data.prepared.store import DATA, FORMAT, INDEX, Entry, aligned, case_digest, index_digest
from shared.errors import CapacityError
from shared.preprocessing.image import Case

PRIVATE = 0o700
"""Mode of a store's folder: only the user who prepares and trains may look into it."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write(folder: Path, key: str, prepared: Iterable[Case | Quarantined]) -> None:
    """Build a store in ``folder`` from whatever ``prepared`` yields, holding one case at a time.

    Args:
        folder: made if absent; a store already there is replaced. One writer at a time (see ``cache``).
        key: what the store is built from; ``Store.open`` compares it.
        prepared: cases to keep, and those that could not be prepared.

    Raises:
        CapacityError: the disk is full, or a quota or file size limit is reached; nothing is left behind.
    """
    folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    _flush_names(folder)
    entries: list[Entry] = []
    quarantined: list[Quarantined] = []
    with _appearing(folder / DATA) as file:
        for one in prepared:
            if isinstance(one, Quarantined):
                quarantined.append(one)
            else:
                entries.append(_append(file, one))
        size = file.tell()
    index = {
        "format": FORMAT,
        "key": key,
        "bytes": size,
        "cases": [asdict(entry) for entry in entries],
        "quarantined": [asdict(one) for one in quarantined],
    }
    with _appearing(folder / INDEX) as file:
        file.write(json.dumps({"sha256": index_digest(index), "index": index}).encode())


def _append(file: IO[bytes], case: Case) -> Entry:
    # Both are views where the array is already as it is stored, which is the usual case.
    voxels = np.ascontiguousarray(case.voxels, "<f4")
    mask = None if case.mask is None else np.ascontiguousarray(case.mask, np.uint8)
    offset = _write_aligned(file, voxels)
    if mask is not None:
        _write_aligned(file, mask)
    return Entry(
        case_id=case.case_id,
        patient=case.patient,
        label=case.label,
        spacing_mm=case.spacing_mm,
        subgroups=case.subgroups,
        offset=offset,
        shape=voxels.shape,
        masked=mask is not None,
        sha256=case_digest(voxels, mask),
    )


def _write_aligned(file: IO[bytes], array: NDArray[np.generic]) -> int:
    file.write(bytes(aligned(file.tell()) - file.tell()))
    offset = file.tell()
    file.write(array.data)
    return offset


@contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name only when it is whole and on the disk."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _flush_names(path.parent)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _full(path.parent, partial) from None
        raise
    finally:
        partial.unlink(missing_ok=True)


def _flush_names(folder: Path) -> None:
    # A rename is durable only when the folder that holds the name is (fsync(2)).
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _full(folder: Path, partial: Path) -> CapacityError:
    written = partial.stat().st_size if partial.exists() else 0
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    return CapacityError(
        f"no room after {written / 2**20:.1f} MiB of prepared cases; the disk has {free / 2**20:.0f} MiB left",
        hint="free some space, choose another folder, or reduce preprocessing.size",
        code="disk-full",
    )
