"""A data set's images, de-identified, with everything known about them.

::

    catalogue.sqlite    one row for each case (``catalogue``)
    segments/           the bytes of many cases each (``segments``, ``keeping``)
    .lock               held by the one process that adds cases

Promises
- A case is there whole or not at all. Its bytes are on the disk before its row is, and a row comes with one
  transaction; what a killed writer leaves is bytes that no row refers to, which the next ingest gives back to the disk.
- One process at a time adds cases; another one is told so ("archive-locked"). Its workers write segments of their own,
  and any number of processes may read meanwhile.
- The bytes of a case are hashed when an open archive first uses it, later uses trust them. Changed ones are
  ``SiteDataError`` ("archive-damaged"), never an image.
- After that, ``crop`` reads no more than the patch or slice that it returns, ``image`` no more than that image.
- Folders are 0700, files 0600. Where a key is given, voxels and masks are sealed, and so is what was measured on them,
  thumbnails included; what ``Record`` holds is not.

Which cases there should be is left to ``client.data.ingest``.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from client.data.archive import keeping
from client.data.archive.catalogue import Catalogue, Change, Measurement
from client.data.archive.record import Location, Record
from client.data.archive.segments import Segments, SegmentWriter, damaged, numbers, release
from client.data.case_files import Quarantined
from client.data.source.found import FileSeen
from shared.crypto.sealing import UnsealableError, open_text, seal_text
from shared.durable import fsync_folder
from shared.errors import SiteDataError
from shared.preprocessing.image import FloatArray, Image, MaskArray

_PRIVATE = 0o700


class Archive:
    """An open archive. Get it from ``open`` or ``open_or_create``; closes with ``close`` or its ``with`` block.

    Attributes:
        folder: where it lies.
        segments_folder: where ``SegmentWriter.create`` of a worker puts its segments.
        key: seals voxels and masks; None where they are stored as they are.
    """

    def __init__(self, folder: Path, key: bytes | None, catalogue: Catalogue, lock: int | None) -> None:
        self.folder, self.segments_folder, self.key = folder, folder / "segments", key
        self._catalogue, self._lock = catalogue, lock
        self._segments = Segments(self.segments_folder, key)
        self._verified: set[Location] = set()

    @classmethod
    def open_or_create(cls, folder: Path, key: bytes | None = None) -> Archive:
        """The archive in ``folder``, to add cases; begun where there is none.

        Args:
            folder: made if absent.
            key: 32 bytes that seal the images, or None to keep them as they are.

        Raises:
            SiteDataError: "archive-locked" while another process adds cases; and as ``open``.
            CapacityError: the disk is full.
        """
        segments = folder / "segments"
        segments.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        folder.chmod(_PRIVATE)
        fsync_folder(folder)
        fsync_folder(folder.parent)
        lock = _locked(folder)
        try:
            archive = cls(folder, key, Catalogue.open_or_create(folder, key), lock)
        except BaseException:
            os.close(lock)
            raise
        archive._give_back()
        return archive

    @classmethod
    def open(cls, folder: Path, key: bytes | None = None) -> Archive:
        """The archive in ``folder``, to read; raises ``SiteDataError`` as ``Catalogue.open`` does."""
        return cls(folder, key, Catalogue.open(folder, key), None)

    def __enter__(self) -> Archive:
        """The archive itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the catalogue and let others add cases. Arrays that were read stay valid."""
        self._catalogue.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __len__(self) -> int:
        return len(self._catalogue)

    def records(self) -> Iterator[Record]:
        """All cases, sorted by ``case_id``, a page of them in memory at a time."""
        return self._catalogue.records()

    def record(self, case_id: str) -> Record | None:
        """One case; None where it is not stored."""
        return self._catalogue.record(case_id)

    def quarantined(self) -> list[Quarantined]:
        """All cases that could not be read, sorted by ``case_id``."""
        return self._catalogue.quarantined()

    def files(self) -> Iterator[FileSeen]:
        """All files that were looked at, sorted by name."""
        return self._catalogue.files()

    def measurements(self) -> Iterator[Measurement]:
        """What was measured on cases that have not changed since, sorted by ``case_id``."""
        for case_id, sha256, said in self._catalogue.measurements():
            if self.key is None:
                yield case_id, sha256, said
                continue
            # What does not open is measured anew, like what is not there.
            with suppress(UnsealableError):
                yield case_id, sha256, open_text(self.key, said, f"{case_id} {sha256}")

    def keep_measurements(self, rows: Iterable[Measurement]) -> None:
        """Remember measurements, each with the ``sha256`` of the record that it was made on."""
        self._catalogue.keep_measurements(self._sealed(row) for row in rows)

    def image(self, record: Record) -> Image:
        """A case's image. Voxels are a read-only view of the mapped file where it holds them as float32, unsealed."""
        self._verify_once(record)
        return Image(
            voxels=keeping.read_whole(self._segments, keeping.stored_voxels(record)),
            spacing_mm=record.spacing_mm,
            modality=record.modality,
            spacing_known=record.spacing_known,
            affine_lps=np.reshape(record.affine_lps, (4, 4)) if record.affine_lps else None,
        )

    def mask(self, record: Record) -> MaskArray | None:
        """A case's mask, shape (*spatial), read-only; None where it has none."""
        if not record.masked:
            return None
        self._verify_once(record)
        return keeping.read_whole(self._segments, keeping.stored_mask(record))

    def crop(self, record: Record, start: Sequence[int], size: Sequence[int]) -> FloatArray:
        """A patch or slice of a case's voxels, all channels: shape (C, *size), a copy.

        Args:
            record: the case.
            start: its first voxel, one entry per spatial axis.
            size: its extent, likewise.

        Raises:
            ValueError: it does not lie within the image.
            SiteDataError: the case is not what was stored.
        """
        self._verify_once(record)
        return keeping.read_box(self._segments, keeping.stored_voxels(record), (0, *start), (record.shape[0], *size))

    def crop_mask(self, record: Record, start: Sequence[int], size: Sequence[int]) -> MaskArray | None:
        """The same patch of the mask, shape ``size``; None where there is none."""
        if not record.masked:
            return None
        self._verify_once(record)
        return keeping.read_box(self._segments, keeping.stored_mask(record), start, size)

    def verify(self, record: Record) -> None:
        """Hash a case's bytes, however often that was done; raises ``SiteDataError`` ("archive-damaged")."""
        if keeping.digest(self._segments, record) != record.sha256:
            raise damaged(f"case {record.case_id} does not hold what was stored")
        self._verified.add(record.location)

    def new_segment(self) -> SegmentWriter:
        """A writer for the next segment; raises ``CapacityError``. A worker process makes its own (``create``)."""
        self._require_lock()
        return SegmentWriter.create(self.segments_folder, self.key)

    def commit(self, change: Change) -> None:
        """Add, replace or remove what is known, in one transaction; on the disk when this returns.

        Storing a case ends its quarantine; a case that is stored is not quarantined.

        Raises:
            SiteDataError: a record's bytes are not on the disk ("archive-damaged"); nothing is changed.
            CapacityError: the disk is full; nothing is changed.
        """
        self._require_lock()
        self._require_bytes(change.records)
        self._catalogue.commit(change)

    def said_of(self, sources: Collection[str]) -> tuple[set[str], set[str]]:
        """Names in quarantine, and names of files, that were told of nothing but ``sources``."""
        return self._catalogue.said_of(sources)

    def annotate(self, records: Iterable[Record]) -> None:
        """Take over person, label and subgroups of ``records``, where a case of that name is stored."""
        self._require_lock()
        self._catalogue.annotate(records)

    def unreferenced(self) -> int:
        """Bytes in segments that no case refers to: of replaced cases, of killed writers, and between cases."""
        used = sum(self._catalogue.referenced().values())
        return sum(self._segments.length(number) for number in numbers(self.segments_folder)) - used

    def _sealed(self, row: Measurement) -> Measurement:
        case_id, sha256, said = row
        return (case_id, sha256, said if self.key is None else seal_text(self.key, said, f"{case_id} {sha256}"))

    def _give_back(self) -> None:
        """Empty all segments that nothing refers to: nobody else adds cases now."""
        used = self._catalogue.referenced()
        for number in numbers(self.segments_folder):
            if number not in used and self._segments.length(number):
                release(self.segments_folder, number)

    def _verify_once(self, record: Record) -> None:
        if record.location not in self._verified:
            self.verify(record)

    def _require_bytes(self, records: Collection[Record]) -> None:
        lengths = {number: self._segments.length(number) for number in {one.location.segment for one in records}}
        for one in records:
            end = one.location.offset + one.voxel_bytes + one.mask_bytes
            if end > lengths[one.location.segment]:
                raise damaged(f"case {one.case_id} ends at byte {end} of {lengths[one.location.segment]}: not flushed")

    def _require_lock(self) -> None:
        if self._lock is None:
            raise RuntimeError("an archive that was opened to read takes no cases: use open_or_create")


def _locked(folder: Path) -> int:
    """A lock that the operating system takes back when its owner ends, however that ends."""
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise SiteDataError(
            "another process is adding cases to this archive",
            hint="wait until it has ended, then run the same command again",
            code="archive-locked",
        ) from None
    return lock
