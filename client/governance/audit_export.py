"""The audit log for the data-protection officer: what was done since a day, as a table to read or one to compute with.

Promises
- On top stands whether the whole log was verified, how many lines it has, and the digest of its last line; of a broken
  log the lines before the first bad one are shown, and where it breaks.
- Nothing is added to what the lines say, and signatures are left out: to check them, ask for the log itself.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

from client.governance import audit
from shared.crypto.signing import VerifyKey
from shared.errors import SiteDataError
from shared.trust.documents import stamp

Form = Literal["text", "csv"]
_COLUMNS = ("number", "at", "event", "dataset", "counts", "figures", "digests")
_SHOWN_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported.

    Attributes:
        site: whose log it is.
        key: fingerprint of the key that signed it.
        made: when.
        since: the first day.
        lines: of the whole log that were verified.
        head: digest of the last of them.
        fault: where the log breaks and why; "" where it does not.
        entries: those since the first day.
    """

    site: str
    key: str
    made: str
    since: str
    lines: int
    head: str
    fault: str
    entries: tuple[Mapping[str, Any], ...]


def export(log: Path, site: str, verify_key: VerifyKey, since: date | None, now: datetime) -> Export:
    """Verify the log and take what was written since; raises ``SiteDataError`` where there is no log."""
    entries, found, fault = [], audit.NOTHING, ""
    first = since.isoformat() if since else ""
    try:
        for line in audit.lines(log, verify_key):
            found = audit.Verified(found.lines + 1, line.sha256)
            if str(line.entry["at"])[:10] >= first:
                entries.append(line.entry)
    except SiteDataError as error:
        if error.code != "audit-broken":
            raise
        fault = error.sentence
    key = verify_key.fingerprint()
    return Export(site, key, stamp(now), first or "the beginning", found.lines, found.head, fault, tuple(entries))


def written(exported: Export, form: Form) -> bytes:
    """The file."""
    body = _csv(exported) if form == "csv" else _text(exported)
    return body.encode()


def _head(exported: Export) -> Iterator[str]:
    yield f"Audit log of {exported.site}, written out {exported.made}"
    yield f"signed by the key {exported.key}"
    if exported.fault:
        yield f"NOT VERIFIED: {exported.fault}; {exported.lines} lines before it are as they were written"
    else:
        yield f"verified: {exported.lines} lines, none changed, removed or moved"
    yield f"SHA-256 of the last good line: {exported.head}"
    yield f"since {exported.since}: {len(exported.entries)} lines"


def _text(exported: Export) -> str:
    rows: list[tuple[str, ...]] = [(*_COLUMNS[:4], "what")]
    for entry in exported.entries:
        said = [_pairs(entry, "counts"), _pairs(entry, "figures"), _pairs(entry, "digests", _SHOWN_DIGITS)]
        rows.append((*(str(entry[name]) for name in _COLUMNS[:4]), " ".join(part for part in said if part)))
    widths = [max(len(row[place]) for row in rows) for place in range(4)]
    table = (
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4])).rstrip()
        for row in rows
    )
    return "\n".join((*_head(exported), "", *table)) + "\n"


def _csv(exported: Export) -> str:
    file = io.StringIO()
    for line in _head(exported):
        file.write(f"# {line}\n")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for entry in exported.entries:
        cells = [str(entry[name]) for name in _COLUMNS[:4]]
        writer.writerow([*cells, *(_pairs(entry, name) for name in _COLUMNS[4:])])
    return file.getvalue()


def _pairs(entry: Mapping[str, Any], name: str, digits: int | None = None) -> str:
    return " ".join(f"{key}={_cell(value)[:digits]}" for key, value in sorted(entry.get(name, {}).items()))


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
