"""The audit log: chained, signed, and unable to hold an identifier; every kind of tampering is found on its line."""

import hashlib
import json
import multiprocessing
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from client.governance.audit import REMOVED, AuditLog, Event, verify
from shared.crypto.signing import SigningKey
from shared.errors import SiteDataError

NOW = datetime(2025, 3, 1, 12, 30, tzinfo=UTC)
KEY = SigningKey.generate()
Lines = list[bytes]


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    made = AuditLog.create(tmp_path / "audit.jsonl", KEY)
    for number in range(1, 5):
        made.append(Event("ingest", "lesions", {"cases": number}, {"state": f"{number:064x}"}), NOW)
    return made


def lines_of(log: AuditLog) -> Lines:
    return log.path.read_bytes().splitlines(keepends=True)


def entry(log: AuditLog, place: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lines_of(log)[place])
    return found


def fault(log: AuditLog) -> str:
    with pytest.raises(SiteDataError) as caught:
        verify(log.path, KEY.verify_key)
    assert caught.value.code == "audit-broken"
    return caught.value.sentence


# --- what a line says ------------------------------------------------------------------------------------------------


def test_a_line_says_what_was_done_when_to_what_with_counts_and_digests(log: AuditLog) -> None:
    said = entry(log, 1)
    assert said.pop("signature")
    assert said.pop("previous") == hashlib.sha256(lines_of(log)[0].rstrip(b"\n")).hexdigest()
    assert said == {
        "number": 2,
        "at": "2025-03-01T12:30:00+00:00",
        "event": "ingest",
        "dataset": "lesions",
        "counts": {"cases": 2},
        "digests": {"state": f"{2:064x}"},
    }


def test_the_first_line_follows_from_zeros(log: AuditLog) -> None:
    assert entry(log, 0)["previous"] == "0" * 64


def test_times_are_written_in_utc_whatever_the_clock_s_zone(log: AuditLog) -> None:
    log.append(Event("ingest"), NOW.astimezone(timezone(timedelta(hours=5))))
    assert entry(log, -1)["at"] == "2025-03-01T12:30:00+00:00"


def test_a_signature_can_be_checked_without_this_code(log: AuditLog) -> None:
    said = entry(log, 2)
    signature = bytes.fromhex(said.pop("signature"))
    message = b"consilium-audit-1\n" + json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    KEY.verify_key.verify(signature, message)


def test_the_log_is_its_owner_s_alone_and_never_made_over_another(log: AuditLog) -> None:
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        AuditLog.create(log.path, KEY)


# --- what it cannot hold ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"name": "Müller Anna"},
        {"name": ""},
        {"dataset": "/data/Mueller^Anna"},
        {"counts": {"Mueller^Anna": 1}},
        {"counts": {"cases": "Mueller^Anna"}},
        {"counts": {"cases": 1.5}},
        {"counts": {"cases": True}},
        {"digests": {"of": "Mueller^Anna"}},
        {"digests": {"of": "19700101"}},
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_could_carry_an_identifier_is_no_event(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="in the audit log"):
        Event(**({"name": "ingest"} | said))


# --- verifying -------------------------------------------------------------------------------------------------------


def test_a_log_as_written_is_verified_with_its_length_and_the_digest_of_its_last_line(log: AuditLog) -> None:
    found = verify(log.path, KEY.verify_key)
    assert found.lines == 4
    assert found.head == hashlib.sha256(lines_of(log)[-1].rstrip(b"\n")).hexdigest()


def test_an_empty_log_has_no_lines(tmp_path: Path) -> None:
    assert verify(AuditLog.create(tmp_path / "a", KEY).path, KEY.verify_key).lines == 0


def resigned(line: bytes, key: SigningKey, **changes: object) -> bytes:
    said = json.loads(line) | changes
    del said["signature"]
    message = b"consilium-audit-1\n" + json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    said["signature"] = key.sign(message).hex()
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode() + b"\n"


TAMPERED: dict[str, tuple[Callable[[Lines], Lines], int, str]] = {
    "a count was changed": (
        lambda a: [a[0], a[1].replace(b'"cases":2', b'"cases":9'), *a[2:]],
        2,
        "its signature is not this site's",
    ),
    "a line was removed": (lambda a: [a[0], *a[2:]], 2, "has number 3: lines were removed"),
    "the first line was removed": (lambda a: a[1:], 1, "has number 2"),
    "a line was repeated": (lambda a: [a[0], a[1], *a[1:]], 3, "has number 2"),
    "two lines were swapped": (lambda a: [a[0], a[2], a[1], a[3]], 2, "has number 3"),
    "a line was inserted by another key": (
        lambda a: [a[0], resigned(a[1], SigningKey.generate(), counts={}), *a[2:]],
        2,
        "its signature is not this site's",
    ),
    "a line was written anew by the site's own key": (
        lambda a: [a[0], resigned(a[1], KEY, counts={"cases": 9}), *a[2:]],
        3,
        "does not follow",
    ),
    "the last line was cut": (lambda a: [*a[:3], a[3][:-20]], 4, "is no whole entry"),
    "a line is no JSON": (lambda a: [*a[:2], b"edited by hand\n", a[3]], 3, "is no whole entry"),
    "a line is a list": (lambda a: [*a[:2], b"[]\n", a[3]], 3, "is no whole entry"),
    "a line is empty": (lambda a: [*a[:2], b"\n", *a[2:]], 3, "is no whole entry"),
    "a line is nested deeply": (lambda a: [*a[:2], b"[" * 200_000 + b"\n", a[3]], 3, "is no whole entry"),
    "a line has no signature": (lambda a: [*a[:2], b"{}\n", a[3]], 3, "its signature"),
    "a space was added": (lambda a: [a[0], a[1].replace(b'":', b'": ', 1), *a[2:]], 2, "not written as"),
    "a key was doubled": (lambda a: [a[0], a[1].replace(b"{", b'{"at":"x",', 1), *a[2:]], 2, "not written as"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_is_found_on_its_line(log: AuditLog, name: str) -> None:
    change, number, said = TAMPERED[name]
    log.path.write_bytes(b"".join(change(lines_of(log))))
    assert fault(log).startswith(f"line {number} of the audit log ")
    assert said in fault(log)


def test_a_flipped_bit_anywhere_is_found(log: AuditLog) -> None:
    whole = log.path.read_bytes()
    for place in range(0, len(whole), 17):
        changed = bytearray(whole)
        changed[place] ^= 1
        log.path.write_bytes(changed)
        number = whole[:place].count(b"\n") + 1
        assert f"line {number} " in fault(log)


def test_another_site_s_key_verifies_nothing(log: AuditLog) -> None:
    with pytest.raises(SiteDataError, match="line 1 of the audit log was changed"):
        verify(log.path, SigningKey.generate().verify_key)


def test_lines_cut_off_the_end_are_not_found_by_the_chain_but_by_the_head_that_somebody_kept(log: AuditLog) -> None:
    """The limit that the module states."""
    kept = verify(log.path, KEY.verify_key).head
    log.path.write_bytes(b"".join(lines_of(log)[:-1]))
    assert verify(log.path, KEY.verify_key).head != kept


# --- appending -------------------------------------------------------------------------------------------------------


def test_a_torn_line_is_removed_at_the_next_append_and_that_is_written_down(log: AuditLog) -> None:
    with log.path.open("ab") as file:
        file.write(b'{"at":"2025-0')
    log.require_sound()
    log.append(Event("freeze", "lesions"), NOW)
    assert (entry(log, -2)["event"], entry(log, -2)["counts"]) == (REMOVED, {"bytes": 13})
    assert entry(log, -1)["event"] == "freeze"
    assert verify(log.path, KEY.verify_key).lines == 6


def test_after_a_last_line_that_is_none_nothing_is_appended(log: AuditLog) -> None:
    with log.path.open("ab") as file:
        file.write(b"edited by hand\n")
    before = log.path.read_bytes()
    for act in (log.require_sound, lambda: log.append(Event("freeze"), NOW)):
        with pytest.raises(SiteDataError, match="last line of the audit log is no entry") as caught:
            act()
        assert caught.value.code == "audit-broken"
    assert log.path.read_bytes() == before


def test_a_missing_log_is_not_begun_anew(log: AuditLog) -> None:
    log.path.unlink()
    for act in (log.require_sound, lambda: log.append(Event("freeze"), NOW), lambda: verify(log.path, KEY.verify_key)):
        with pytest.raises(SiteDataError, match=r"audit log cannot be .*: No such file") as caught:
            act()
        assert caught.value.code == "audit-missing"
    assert not log.path.exists()


def _append_some(path: Path, key_file: Path) -> None:
    log = AuditLog(path, SigningKey.load(key_file))
    for _ in range(10):
        log.append(Event("ingest"), NOW)


def test_processes_that_append_at_the_same_time_leave_one_chain(log: AuditLog, tmp_path: Path) -> None:
    KEY.save(tmp_path / "k.pem")
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_some, args=(log.path, tmp_path / "k.pem")) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert verify(log.path, KEY.verify_key).lines == 44
