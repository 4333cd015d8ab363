"""What a worker does: read a few cases, keep them, say what became of each.

Promises
- A batch is answered when its bytes are on the disk; its records may be committed then, and not before.
- One answer for each case, a ``Record`` or a ``Quarantined``. A case that cannot be read never stops the others, also
  where the fault is ours: it is set aside as "reader-failed" under the type of what was raised.
- A worker has its own segment, and passes its full ones on to nobody.

Which cases are read at all is left to ``ingest``, what a record refers to, to ``client.data.archive``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from client.data.archive.keeping import write_case
from client.data.archive.record import Record
from client.data.archive.segments import SegmentWriter
from client.data.case_files import CaseFiles, Quarantined, Salt
from client.data.ingest.read_case import ReadCase, case_reader
from client.data.ingest.reading import Reading, Rules
from shared.errors import CapacityError, CaseError


@dataclass(frozen=True, slots=True)
class Order:
    """A case to be read, and what its record shall say it was read from."""

    files: CaseFiles
    origin: str


Batch = tuple[Order, ...]
Outcome = Record | Quarantined


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a worker reads to.

    Attributes:
        segments: folder of the archive's segments.
        key: seals them; None leaves them plain.
        rules: what the site lets in.
        salt: makes the patient's own number of days.
    """

    segments: Path
    key: bytes | None = field(repr=False)
    rules: Rules
    salt: Salt

    @contextmanager
    def __call__(self) -> Iterator[Callable[[Batch], list[Outcome]]]:
        """Open a segment, give the function that reads a batch into it, and close it."""
        worker = _Worker(SegmentWriter.create(self.segments, self.key), case_reader(self.rules, self.salt))
        try:
            yield worker.read
        finally:
            worker.writer.close()


@dataclass(slots=True)
class _Worker:
    writer: SegmentWriter
    reader: ReadCase

    def read(self, batch: Batch) -> list[Outcome]:
        self.writer = self.writer.with_room()
        outcomes = [self._attempt(order) for order in batch]
        self.writer.flush()
        return outcomes

    def _attempt(self, order: Order) -> Outcome:
        case_id = order.files.case_id
        try:
            return self._keep(order, self.reader(order.files))
        except CaseError as error:
            return Quarantined(case_id, error.code, error.sentence)
        except CapacityError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may quote a header; its type may not
            return Quarantined(case_id, "reader-failed", f"reading this case failed ({type(error).__name__})")

    def _keep(self, order: Order, reading: Reading) -> Record:
        files, image = order.files, reading.image
        written = write_case(self.writer, image, reading.mask)
        affine = () if image.affine_lps is None else tuple(float(number) for number in image.affine_lps.flat)
        return Record(
            case_id=files.case_id,
            patient=files.patient,
            aliases=files.aliases,
            study=files.study,
            series=files.series,
            modality=image.modality,
            shape=image.voxels.shape,
            kept=written.kept,
            spacing_mm=tuple(float(mm) for mm in image.spacing_mm),
            spacing_known=image.spacing_known,
            affine_lps=affine,
            masked=reading.mask is not None,
            label=files.label,
            subgroups=files.subgroups,
            acquisition=reading.acquisition,
            dropped=reading.dropped,
            suspicions=reading.suspicions,
            source_sha256=reading.source_sha256,
            sha256=written.sha256,
            origin=order.origin,
            location=written.location,
        )


def halves(batch: Batch) -> Sequence[Batch]:
    """Its cases one by one: for a batch that ended a worker."""
    return [(order,) for order in batch]
