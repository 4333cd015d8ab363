"""From what was found in a hospital's folders to an archive that holds it, whole, once, and as it is now.

Promises
- Only what is new is read: a case whose files, rules and reader are those of last time is left alone, one whose label,
  patient or subgroups alone have changed is annotated. A second run on the same folders changes no row.
- A case that cannot be read is quarantined with one reason and tried again next time; a case that is stored stays,
  should its files have become unreadable. Where headers and tables have come to contradict each other about a stored
  case, nobody knows any more whose it is or what it shows: it is withdrawn.
- Killed at any moment, or out of disk, it has stored whole cases only, and the next run goes on from there.
- Every file that was looked at is accounted for (``FileSeen``): what became of a case decides what became of its files.

Finding files is left to ``client.data.source``, reading one case to ``read_case``, processes to ``crew``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from client.data.archive.archive import Archive
from client.data.archive.catalogue import Change
from client.data.archive.record import Record
from client.data.case_files import CaseFiles, Quarantined, Salt
from client.data.ingest.batches import Batch, Bench, Order, Outcome, halves
from client.data.ingest.crew import Lost, Trade, work_through
from client.data.ingest.origin import OriginOf, origins, place_of
from client.data.ingest.reading import Rules
from client.data.progress import Progress, silent
from client.data.source.files import SourceFile
from client.data.source.found import FileSeen, Found
from shared.errors import SiteDataError

_BATCH_FILES = 64
"""Files that are read before their cases are committed: half a second of work, against milliseconds for the disk."""
_CONTRADICTIONS = {"labels-conflict", "patient-conflict", "patient-unknown", "mask-ambiguous", "duplicate-instance"}
"""Reasons after which nobody knows whose a stored case is, or what it shows; others only keep it from being read."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What an ingest has done.

    Attributes:
        stored: cases that were new.
        replaced: cases whose files, or the rules for them, had changed.
        annotated: cases of which only label, patient or subgroups had changed.
        unchanged: cases that were left alone.
        kept: cases that stay as they were stored before, although they cannot be read any more.
        withdrawn: cases that were stored, and that headers and tables now contradict each other about.
        quarantined: cases and files that cannot be used, by reason.
        files: files that were looked at, by what became of them.
        unread: why the cases of ``kept`` could not be read, by reason.
    """

    stored: int
    replaced: int
    annotated: int
    unchanged: int
    kept: int
    withdrawn: int
    quarantined: Mapping[str, int]
    files: Mapping[str, int]
    unread: Mapping[str, int] = field(default_factory=dict)


def withdraw_damaged(archive: Archive) -> int:
    """Withdraw stored cases that are not what was stored, so that they are read again; returns how many."""
    damaged = [record.case_id for record in archive.records() if not _is_whole(archive, record)]
    archive.commit(Change(withdrawn=damaged))
    return len(damaged)


def _is_whole(archive: Archive, record: Record) -> bool:
    try:
        archive.verify(record)
    except SiteDataError:
        return False
    return True


def ingest(
    archive: Archive, found: Found, rules: Rules, salt: Salt, *, workers: int = 1, progress: Progress = silent
) -> Intake:
    """Bring ``archive`` to what ``found`` says.

    Args:
        archive: open for adding.
        found: cases, and what cannot be one.
        rules: what the site lets in.
        salt: of the site.
        workers: processes to read with; 1 reads in this one.
        progress: called with how many cases are done of how many.

    Raises:
        CapacityError: the disk is full; what was stored until then stays.
    """
    wanted = _wanted(archive, found.cases, origins(rules, salt))
    archive.annotate(wanted.annotated)
    tally: Counter[str] = Counter()
    stored_before = [one for one in found.unusable if archive.record(one.case_id) is not None]
    withdrawn = [one.case_id for one in stored_before if one.code in _CONTRADICTIONS]
    kept = {one.case_id: one.code for one in stored_before if one.case_id not in withdrawn}
    aside = {one.case_id: one for one in found.unusable if one.case_id not in kept}
    done = len(found.cases) - len(wanted.orders)
    progress(done, len(found.cases))
    bench = Bench(archive.segments_folder, archive.key, rules, salt)
    for batch, outcomes in work_through(_batches(wanted.orders), Trade(bench, halves), workers):
        read, failed = _divided(batch, _outcomes(batch, outcomes), wanted.known)
        tally.update("replaced" if one.case_id in wanted.known else "stored" for one in read)
        kept |= {one.case_id: one.code for one in failed if one.case_id in wanted.known}
        fresh = [one for one in failed if one.case_id not in wanted.known]
        aside.update((one.case_id, one) for one in fresh)
        archive.commit(Change(read, fresh, sources=found.sources))
        done += len(batch)
        progress(done, len(found.cases))
    files = _accounted(found, aside)
    gone_quarantine, gone_files = _gone(archive, found, aside)
    archive.commit(Change((), found.unusable, files, found.sources, withdrawn, gone_quarantine, gone_files))
    return Intake(
        stored=tally["stored"],
        replaced=tally["replaced"],
        annotated=len(wanted.annotated),
        unchanged=len(found.cases) - len(wanted.orders) - len(wanted.annotated),
        kept=len(kept),
        withdrawn=len(withdrawn),
        quarantined=Counter(one.code for one in aside.values()),
        files=Counter(file.use for file in files),
        unread=Counter(kept.values()),
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What there is to do: cases to read, records to annotate, and what is known of the former that are stored."""

    orders: tuple[Order, ...]
    annotated: tuple[Record, ...]
    known: Mapping[str, Record]


def _wanted(archive: Archive, cases: Iterable[CaseFiles], origin_of: OriginOf) -> _Wanted:
    orders, annotated, known = list[Order](), list[Record](), dict[str, Record]()
    for files in cases:
        record, origin = archive.record(files.case_id), origin_of(files)
        if record is None or record.origin != origin:
            orders.append(Order(files, origin))
            known |= {} if record is None else {files.case_id: record}
        elif (said := _annotated(record, files)) != record:
            annotated.append(said)
    # Slices of one series share their mask, frames of one file its bytes: they are read one after another.
    orders.sort(key=lambda order: (order.files.series, order.files.case_id))
    return _Wanted(tuple(orders), tuple(annotated), known)


def _annotated(record: Record, files: CaseFiles) -> Record:
    said = {name: getattr(files, name) for name in ("patient", "aliases", "label", "subgroups")}
    return replace(record, **said)


def _batches(orders: Sequence[Order]) -> list[Batch]:
    batches: list[Batch] = []
    batch: list[Order] = []
    files = 0
    for order in orders:
        if batch and files + len(order.files.images) > _BATCH_FILES:
            batches.append(tuple(batch))
            batch, files = [], 0
        batch.append(order)
        files += len(order.files.images)
    return [*batches, tuple(batch)] if batch else batches


def _outcomes(batch: Batch, answer: list[Outcome] | Lost) -> list[Outcome]:
    if not isinstance(answer, Lost):
        return answer
    sentence = f"reading this case {answer.why}"
    return [Quarantined(order.files.case_id, "reader-crashed", sentence) for order in batch]


def _divided(
    batch: Batch, outcomes: Iterable[Outcome], known: Mapping[str, Record]
) -> tuple[list[Record], list[Quarantined]]:
    """Records to commit, and what cannot be stored; ``known`` are those that would be replaced."""
    stored, failed = list[Record](), list[Quarantined]()
    for order, one in zip(batch, outcomes, strict=True):
        before = known.get(one.case_id)
        if isinstance(one, Quarantined):
            failed.append(one)
        elif before is not None and _is_another(one, before):
            # The case of this name is another one: it is the file that is set aside.
            sentence = "a picture from another folder is stored under the same name"
            failed += [Quarantined(name, "name-taken", sentence) for name in _names(order.files)]
        else:
            stored.append(one)
    return stored, failed


def _is_another(new: Record, old: Record) -> bool:
    """Whether two pictures merely share a name: DICOM has UIDs, a picture only its path within a folder."""
    moved = place_of(new.origin) != place_of(old.origin)
    return moved and not new.series and new.source_sha256 != old.source_sha256


def _accounted(found: Found, aside: Mapping[str, Quarantined]) -> list[FileSeen]:
    """What became of each file, now that its cases were read: one good case is enough for a file of many."""
    reasons = {file.name: aside[file.name].code for file in found.files if file.name in aside}
    good: set[str] = set()
    for case in found.cases:
        for name in _names(case):
            if case.case_id in aside:
                reasons.setdefault(name, aside[case.case_id].code)
            elif name not in aside:
                good.add(name)
    return [
        replace(file, use="quarantined", code=reasons[file.name])
        if file.name in reasons and file.name not in good
        else file
        for file in found.files
    ]


def _names(case: CaseFiles) -> Iterator[str]:
    return (file.seen for file in case.images if isinstance(file, SourceFile))


def _gone(archive: Archive, found: Found, aside: Mapping[str, Quarantined]) -> tuple[list[str], list[str]]:
    """What is in quarantine no longer, and which files are gone: found in order, or not found in these sources."""
    quarantined, files = archive.said_of(found.sources)
    seen = {file.name for file in found.files}
    mended = (seen | {case.case_id for case in found.cases} | quarantined) - aside.keys()
    return [one.case_id for one in archive.quarantined() if one.case_id in mended], sorted(files - seen)
