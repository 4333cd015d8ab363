"""The measurements of an archive's cases: made once, in parallel, and kept beside the cases.

Promises
- A case is measured when it is new, when its bytes have changed, or when what is measured has; else its measurement is
  read. What was measured before an interruption is kept.
- A case that is not what was stored, or that ends the process that reads it, costs itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from client.data.archive.archive import Archive
from client.data.archive.record import Record
from client.data.doctor.measure import Measurement, from_text, is_current, measure, to_text
from client.data.ingest.crew import Lost, Trade, work_through
from client.data.progress import Progress
from shared.errors import SiteDataError

_AT_ONCE = 64
"""Cases handed to a worker, and measurements that an interruption may cost it."""

Job = tuple[str, ...]
"""Names of the cases to measure."""
Row = tuple[str, str, str]
"""(case, sha256 of its record, measurement as text); no text where the case is not what was stored."""


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Cases without a measurement.

    Attributes:
        damaged: not what was stored.
        lost: no worker came back from them.
    """

    damaged: tuple[str, ...]
    lost: tuple[str, ...]


def measure_missing(archive: Archive, workers: int, progress: Progress) -> Unmeasured:
    """Measure and keep what is not measured yet; ``progress`` counts all cases."""
    todo = _missing(archive)
    total, done = len(archive), len(archive) - len(todo)
    damaged: list[str] = []
    lost: list[str] = []
    progress(done, total)
    jobs = [tuple(todo[start : start + _AT_ONCE]) for start in range(0, len(todo), _AT_ONCE)]
    trade: Trade[Job, Sequence[Row]] = Trade(_Measurer(archive.folder, archive.key), _one_by_one)
    for job, answer in work_through(jobs, trade, workers):
        if isinstance(answer, Lost):
            lost.extend(job)
        else:
            archive.keep_measurements(row for row in answer if row[2])
            damaged.extend(case for case, _, text in answer if not text)
        done += len(job)
        progress(done, total)
    return Unmeasured(tuple(sorted(damaged)), tuple(sorted(lost)))


def measured(archive: Archive) -> Iterator[tuple[Record, Measurement]]:
    """Every case that has a measurement, sorted by case."""
    kept = archive.measurements()
    found = next(kept, None)
    for record in archive.records():
        while found is not None and found[0] < record.case_id:
            found = next(kept, None)
        if found is not None and found[0] == record.case_id:
            measurement = from_text(found[2])
            if measurement is not None:
                yield record, measurement


def _missing(archive: Archive) -> list[str]:
    current = (case for case, _, text in archive.measurements() if is_current(text))
    known = next(current, None)
    missing = []
    for record in archive.records():
        while known is not None and known < record.case_id:
            known = next(current, None)
        if known != record.case_id:
            missing.append(record.case_id)
    return missing


@dataclass(frozen=True, slots=True)
class _Measurer:
    """Opens the archive in a worker."""

    folder: Path
    key: bytes | None = field(repr=False)

    @contextmanager
    def __call__(self) -> Iterator[Callable[[Job], Sequence[Row]]]:
        with Archive.open(self.folder, self.key) as archive:
            yield lambda job: [_row(archive, record) for record in map(archive.record, job) if record is not None]


def _row(archive: Archive, record: Record) -> Row:
    try:
        text = to_text(measure(archive.image(record), archive.mask(record)))
    except SiteDataError:
        text = ""
    return record.case_id, record.sha256, text


def _one_by_one(job: Job) -> Sequence[Job]:
    return [(case,) for case in job]
