"""The audit log written out for the data-protection officer: whether it holds, and every line since a day."""

import csv
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from client.governance.audit import AuditLog, Event, verify
from client.governance.audit_export import Export, Form, export, written
from shared.crypto.signing import SigningKey
from shared.errors import SiteDataError

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEY = SigningKey.generate()
DIGEST = "ab" * 32


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    """Six lines on six days, in several files."""
    made = AuditLog(AuditLog.create(tmp_path / "audit.jsonl", KEY).path, KEY, 900)
    for day in range(6):
        event = Event("leaves-update", "lesions", {"round": day, "bytes": 1234}, {"plan": DIGEST}, {"epsilon": day / 7})
        made.append(event, NOW - timedelta(days=5 - day))
    return made


def taken(log: AuditLog, since: date | None = None) -> Export:
    return export(log.path, "aachen", KEY.verify_key, since, NOW)


def text(log: AuditLog, since: date | None = None, form: Form = "text") -> list[str]:
    return written(taken(log, since), form).decode().splitlines()


def test_on_top_stands_that_the_log_was_verified_and_the_digest_of_its_last_line(log: AuditLog) -> None:
    head = verify(log.path, KEY.verify_key).head
    for form in ("text", "csv"):
        said = "\n".join(text(log, form=form)[:5])
        assert "verified: 6 lines, none changed, removed or moved" in said
        assert head in said
        assert KEY.verify_key.fingerprint() in said
        assert "Audit log of aachen, written out 2026-11-20T12:00:00+00:00" in said


def test_every_line_is_a_row_with_what_it_says(log: AuditLog) -> None:
    rows = text(log)[7:]
    assert len(rows) == 6
    assert rows[3].split() == [
        "4",
        "2026-11-18T12:00:00+00:00",
        "leaves-update",
        "lesions",
        "bytes=1234",
        "round=3",
        "epsilon=0.428571",
        "plan=abababababab",
    ]


def test_the_table_for_programs_can_be_read_as_one_and_has_whole_digests(log: AuditLog) -> None:
    rows = list(csv.DictReader(line for line in text(log, form="csv") if not line.startswith("#")))
    assert [row["number"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert rows[5] == {
        "number": "6",
        "at": "2026-11-20T12:00:00+00:00",
        "event": "leaves-update",
        "dataset": "lesions",
        "counts": "bytes=1234 round=5",
        "figures": "epsilon=0.714286",
        "digests": f"plan={DIGEST}",
    }


@pytest.mark.parametrize(("days", "left"), [(0, 1), (1, 2), (5, 6), (400, 6), (-1, 0)])
def test_lines_before_the_first_day_are_left_out_and_still_verified(log: AuditLog, days: int, left: int) -> None:
    found = taken(log, NOW.date() - timedelta(days=days))
    assert len(found.entries) == left
    assert found.lines == 6


def test_of_a_broken_log_the_good_lines_are_shown_and_where_it_breaks(log: AuditLog) -> None:
    content = log.path.read_bytes()
    log.path.write_bytes(content.replace(b'"bytes":1234', b'"bytes":4321', 1))
    found, whole = taken(log), len(list(log.path.parent.glob("audit-*")))
    assert whole > 1
    assert found.fault == "line 1 of audit.jsonl was changed: its signature is not this site's"
    assert len(found.entries) == found.lines == 6 - content.count(b"\n")
    said = written(found, "text").decode()
    assert f"NOT VERIFIED: {found.fault}; {found.lines} lines before it" in said
    assert "\nverified:" not in said
    assert "4321" not in said


def test_a_log_that_is_not_there_is_an_error_and_no_empty_export(log: AuditLog) -> None:
    log.path.unlink()
    with pytest.raises(SiteDataError) as caught:
        taken(log)
    assert caught.value.code == "audit-missing"


def test_another_key_s_log_is_not_verified(log: AuditLog) -> None:
    found = export(log.path, "aachen", SigningKey.generate().verify_key, None, NOW)
    assert found.fault.startswith("line 1 of audit-000001.jsonl was changed")
    assert found.entries == ()


def test_nothing_of_a_key_or_a_signature_is_written_out(log: AuditLog) -> None:
    for form in ("text", "csv"):
        said = "\n".join(text(log, form=form))
        assert not re.search(r"[0-9a-f]{128}", said)
        assert "signature" not in said
        assert "PRIVATE" not in said


def test_an_empty_log_is_a_table_without_rows(tmp_path: Path) -> None:
    log = AuditLog.create(tmp_path / "audit.jsonl", KEY)
    assert "verified: 0 lines" in "\n".join(text(log))
    assert len(text(log)) == 7
