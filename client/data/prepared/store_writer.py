"""Writing a store of prepared cases so that it is whole or absent.

Promises
- The old index goes first, then the old data; the new data come next and the new index last; each is on the disk before
  the next. A build that was killed, or ran out of disk, therefore leaves no index, and is never opened as whole; what
  it leaves of data goes with the next build, whose segment has another file.
- Memory does not grow with the number of cases: one is held at a time.

One writer at a time: ``cache`` sees to that.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from client.data.archive.segments import SegmentWriter, numbers, path_of
from client.data.case_files import Quarantined
from client.data.prepared.store import FORMAT, INDEX, Entry, case_digest, index_digest
from shared.durable import fsync_folder, replace_file
from shared.errors import CapacityError
from shared.preprocessing.image import Case

PRIVATE = 0o700
"""Mode of a store's folder: only the user who prepares and trains may look into it."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write(folder: Path, key: str, prepared: Iterable[Case | Quarantined], seal: bytes | None = None) -> None:
    """Build a store in ``folder`` from whatever ``prepared`` yields, holding one case at a time.

    Args:
        folder: made if absent; a store already there is replaced. One writer at a time (see ``cache``).
        key: what the store is built from; ``Store.open`` compares it.
        prepared: cases to keep, and those that could not be prepared.
        seal: 32 bytes to seal the cases with; None leaves them in the clear.

    Raises:
        CapacityError: the disk is full, or a quota or file size limit is reached; nothing is left behind.
    """
    folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    _clear(folder)
    try:
        with SegmentWriter.create(folder, seal) as segment:
            index = _fill(segment, key, prepared)
        _put(folder / INDEX, json.dumps({"sha256": index_digest(index), "index": index}).encode())
    except BaseException:
        _clear(folder)
        raise


def _fill(segment: SegmentWriter, key: str, prepared: Iterable[Case | Quarantined]) -> dict[str, object]:
    entries: list[Entry] = []
    quarantined: list[Quarantined] = []
    for one in prepared:
        if isinstance(one, Quarantined):
            quarantined.append(one)
        else:
            entries.append(_append(segment, one))
    return {
        "format": FORMAT,
        "key": key,
        "segment": segment.number,
        "bytes": segment.size,
        "cases": [asdict(entry) for entry in entries],
        "quarantined": [asdict(one) for one in quarantined],
    }


def _append(segment: SegmentWriter, case: Case) -> Entry:
    # Both are views where the array is already as it is stored, which is the usual case.
    voxels = np.ascontiguousarray(case.voxels, "<f4")
    mask = None if case.mask is None else np.ascontiguousarray(case.mask, np.uint8)
    offset = segment.append(voxels.data.cast("B"))
    if mask is not None:
        segment.append(mask.data.cast("B"))
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


def _clear(folder: Path) -> None:
    """Remove a store, or what a builder that was killed left of one; the index first, on the disk."""
    (folder / INDEX).unlink(missing_ok=True)
    fsync_folder(folder)
    for number in numbers(folder):
        path_of(folder, number).unlink()


def _put(path: Path, content: bytes) -> None:
    """A file that gets its name only when it is whole and on the disk."""
    try:
        replace_file(path, content)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise CapacityError(
                f"no room for an index of {len(content)} bytes", hint="free some space", code="disk-full"
            ) from None
        raise
