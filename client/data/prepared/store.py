"""Prepared cases on disk, read as if they were in memory.

Promises
- One segment (``client.data.archive.segments``) holds the arrays of all cases one after another, each at a multiple of
  64 bytes (a cache line, and one AVX-512 load); ``index.json`` says where, and everything else about a case. Cases may
  differ in size.
- A store without an index does not exist, and the index is written last (``store_writer``).
- The index carries a SHA-256 of each case and one of itself. A flipped bit is a ``SiteDataError``, never an image.
- ``case`` copies nothing: its arrays are read-only views of the mapped file, loaded by the kernel as they are touched,
  shared by all processes that open the store, and valid for as long as anyone refers to them. In a sealed store they
  are opened from the disk each time, into memory of their own; nothing is ever written there in the clear.
- Nothing in the index can name a patient: identifiers are salted, paths are not kept. It does not know splits.

Writing is left to ``store_writer``; which cases go in, and when a store is out of date, to ``cache``.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from client.data.archive.segments import ALIGNMENT, Segments
from client.data.case_files import Quarantined
from shared.errors import SiteDataError
from shared.preprocessing.image import Case

FORMAT = 2
INDEX = "index.json"

Verify = Literal["on-open", "on-use"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A case but for its arrays.

    Attributes:
        offset: of the voxels in the segment, in bytes; the mask follows at the next multiple of 64.
        shape: of the voxels, (C, *spatial), float32 little-endian.
        masked: whether a mask of shape (*spatial), uint8, follows.
        sha256: of the voxels' bytes and then the mask's.
    """

    case_id: str
    patient: str
    label: int | tuple[int, ...] | None
    spacing_mm: tuple[float, ...]
    subgroups: tuple[tuple[str, str], ...]
    offset: int
    shape: tuple[int, ...]
    masked: bool
    sha256: str

    @property
    def mask_offset(self) -> int:
        """Where the mask starts, if there is one."""
        return aligned(self.offset + 4 * math.prod(self.shape))


@dataclass(frozen=True, eq=False)
class Store:
    """An open store.

    Attributes:
        folder: where it lies.
        key: what the store was built from, as ``write`` was told.
        digest: SHA-256 of the index, and through it of every case.
        entries: one for each case, in the order they were written.
        quarantined: cases that could not be prepared.
    """

    folder: Path
    key: str
    digest: str
    entries: tuple[Entry, ...]
    quarantined: tuple[Quarantined, ...]
    _segments: Segments = field(repr=False)
    _segment: int = field(repr=False)
    _unverified: set[int] = field(repr=False)

    @classmethod
    def open(cls, folder: Path, key: str | None = None, verify: Verify = "on-open", seal: bytes | None = None) -> Store:
        """Map the store in ``folder``.

        Args:
            folder: where ``write`` put it.
            key: what it must have been built from; None takes any.
            verify: hash all cases now (about 1.8 GB/s), or each when it is first used.
            seal: what its bytes were sealed with; None where they lie in the clear.

        Raises:
            SiteDataError: ``store-missing``, ``store-damaged`` or ``store-other`` (another key or format).
        """
        index, digest = _read_index(folder)
        if index["format"] != FORMAT or (key is not None and index["key"] != key):
            raise _refused("was built from other data, settings or versions", "store-other")
        entries = tuple(_entry(document) for document in index["cases"])
        quarantined = tuple(Quarantined(**document) for document in index["quarantined"])
        segments = _segments(folder, seal, index["segment"], index["bytes"])
        everything = set(range(len(entries)))
        store = cls(folder, index["key"], digest, entries, quarantined, segments, index["segment"], everything)
        if verify == "on-open":
            store.verify()
        return store

    def __len__(self) -> int:
        return len(self.entries)

    def case(self, position: int) -> Case:
        """Case number ``position`` as views of the mapped file; raises ``SiteDataError`` if its bytes changed."""
        entry = self.entries[position]
        voxels, mask = self._arrays(entry)
        # Once is enough: a store is replaced under its name, never written in place.
        if position in self._unverified:
            if case_digest(voxels, mask) != entry.sha256:
                raise _refused(f"does not hold what was written (case {position + 1} of {len(self)})", "store-damaged")
            self._unverified.discard(position)
        return Case(entry.case_id, entry.patient, voxels, mask, entry.label, entry.spacing_mm, entry.subgroups)

    def verify(self) -> None:
        """Hash every case that has not been hashed yet; raises ``SiteDataError``."""
        for position in range(len(self)):
            self.case(position)

    def _arrays(self, entry: Entry) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
        shape, spatial = entry.shape, entry.shape[1:]
        voxels = np.frombuffer(self._bytes(entry.offset, 4 * math.prod(shape)), "<f4").reshape(shape)
        if not entry.masked:
            return voxels, None
        return voxels, np.frombuffer(self._bytes(entry.mask_offset, math.prod(spatial)), np.uint8).reshape(spatial)

    def _bytes(self, offset: int, length: int) -> memoryview:
        try:
            return self._segments.view(self._segment, offset, length)
        except SiteDataError as error:
            raise _refused(f"cannot be read: {error.sentence}", "store-damaged") from None


def aligned(offset: int) -> int:
    """The first multiple of ``ALIGNMENT`` at or after ``offset``."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def case_digest(voxels: NDArray[np.float32], mask: NDArray[np.uint8] | None) -> str:
    """SHA-256 of a case's bytes as they are stored."""
    digest = hashlib.sha256(voxels.data)
    if mask is not None:
        digest.update(mask.data)
    return digest.hexdigest()


def index_digest(index: dict[str, Any]) -> str:
    """SHA-256 of an index, independent of how it is written down."""
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _read_index(folder: Path) -> tuple[dict[str, Any], str]:
    try:
        document = json.loads((folder / INDEX).read_bytes())
        index: dict[str, Any] = document["index"]
        digest = index_digest(index)
        whole = digest == document["sha256"]
    except OSError:
        raise _refused("has no index: it was never finished, or is elsewhere", "store-missing") from None
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise _refused("has an index that is not what was written", "store-damaged")
    return index, digest


def _entry(document: dict[str, Any]) -> Entry:
    label = document["label"]
    return Entry(
        **{
            **document,
            # JSON has lists only; a frozen entry has tuples, so that labels can be counted and compared.
            "label": tuple(label) if isinstance(label, list) else label,
            "spacing_mm": tuple(document["spacing_mm"]),
            "subgroups": tuple((column, value) for column, value in document["subgroups"]),
            "shape": tuple(document["shape"]),
        }
    )


def _segments(folder: Path, seal: bytes | None, number: int, size: int) -> Segments:
    segments = Segments(folder, seal)
    # Sealed bytes end with a whole chunk.
    found = segments.length(number)
    if found < size or (seal is None and found > size):
        raise _refused(f"has {found} bytes of data, its index says {size}", "store-damaged")
    try:
        # Mapped now: a store that is built anew meanwhile takes nothing from those who have this one open. Without
        # cases there is no file.
        if size:
            segments.view(number, 0, 0)
    except SiteDataError as error:
        raise _refused(f"cannot be opened: {error.sentence}", "store-damaged") from None
    return segments


def _refused(what: str, code: str) -> SiteDataError:
    return SiteDataError(
        f"the store of prepared cases {what}", hint="it can be rebuilt from the site's files", code=code
    )
