"""A case's record as a row of the catalogue, and back.

Promises
- ``record_of(row_of(record)) == record``.
- A row ends with a SHA-256 over the rest of it: one that changed by a bit is ``SiteDataError`` ("archive-damaged").
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from client.data.archive.record import Location, Record
from client.data.archive.segments import damaged

Row = tuple[str | int | None, ...]

_REST = ("aliases", "study", "series", "modality", "shape", "kept", "spacing_mm", "spacing_known", "affine_lps",
         "masked", "acquisition", "dropped", "suspicions", "source_sha256")  # fmt: skip
"""Fields that no statement asks for: one column of JSON."""


def row_of(record: Record) -> Row:
    """One value for each column of the table of cases, in their order."""
    row = (
        record.case_id,
        record.patient,
        record.label,
        json.dumps(record.subgroups),
        record.sha256,
        record.origin,
        record.location.segment,
        record.location.offset,
        record.voxel_bytes + record.mask_bytes,
        json.dumps({name: getattr(record, name) for name in _REST}, separators=(",", ":")),
    )
    return (*row, _digest(row))


def record_of(row: tuple[Any, ...]) -> Record:
    """Inverse of ``row_of``; raises ``SiteDataError``."""
    if _digest(row[:-1]) != row[-1]:
        raise damaged("a row of the archive's catalogue is not what was written")
    case_id, patient, label, subgroups, sha256, origin, segment, offset, _, rest, _ = row
    return Record(
        case_id=case_id,
        patient=patient,
        label=label,
        subgroups=_tuples(json.loads(subgroups)),
        sha256=sha256,
        origin=origin,
        location=Location(segment, offset),
        **{name: _tuples(value) for name, value in json.loads(rest).items()},
    )


def _digest(row: Row) -> str:
    # A changed byte can make a text of a number, or bytes that JSON does not hold.
    return hashlib.sha256(json.dumps(row, default=repr).encode()).hexdigest()


def _tuples(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """JSON has lists only; a frozen record has tuples, so that records can be compared."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
