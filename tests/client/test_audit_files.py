"""An audit log of several files: sealed without breaking the chain, read from its end, and killed at every moment."""

import hashlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from client.governance import audit_files
from client.governance.audit import REMOVED, AuditLog, Event, Verified, lines, verify
from shared.crypto.signing import SigningKey
from shared.errors import SiteDataError

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEY = SigningKey.generate()
SMALL = 1000
"""Bytes after which a file of these tests is sealed: three lines."""


def filled(folder: Path, count: int, most_bytes: int = SMALL) -> AuditLog:
    made = AuditLog.create(folder / "audit.jsonl", KEY)
    log = AuditLog(made.path, KEY, most_bytes)
    for number in range(count):
        log.append(Event("ingest", "lesions", {"cases": number}), NOW)
    return log


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """All lines, sealed files first, without the code under test."""
    for path in [*sorted(folder.glob("audit-*.jsonl")), folder / "audit.jsonl"]:
        yield from map(json.loads, path.read_text().splitlines())


def broken(log: AuditLog) -> str:
    with pytest.raises(SiteDataError) as caught:
        verify(log.path, KEY.verify_key)
    assert caught.value.code == "audit-broken"
    return caught.value.sentence


# --- sealing ---------------------------------------------------------------------------------------------------------


def test_a_file_that_has_grown_is_sealed_under_the_next_number(tmp_path: Path) -> None:
    filled(tmp_path, 12)
    assert names(tmp_path)[:3] == ["audit-000001.jsonl", "audit-000002.jsonl", "audit-000003.jsonl"]
    assert names(tmp_path)[-1] == "audit.jsonl"
    for path in tmp_path.glob("audit-*.jsonl"):
        assert SMALL <= path.stat().st_size < SMALL + 700
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600


def test_numbers_and_chain_go_on_over_the_files(tmp_path: Path) -> None:
    log = filled(tmp_path, 12)
    said = list(entries(tmp_path))
    assert [one["number"] for one in said] == list(range(1, 13))
    assert [one["counts"]["cases"] for one in said] == list(range(12))
    last = (tmp_path / "audit-000001.jsonl").read_bytes().splitlines()[-1]
    first = json.loads((tmp_path / "audit-000002.jsonl").read_bytes().splitlines()[0])
    assert first["previous"] == hashlib.sha256(last).hexdigest()
    found = verify(log.path, KEY.verify_key)
    assert found.lines == 12
    assert found.head == hashlib.sha256(log.path.read_bytes().splitlines()[-1]).hexdigest()


def test_a_small_log_is_one_file(tmp_path: Path) -> None:
    log = filled(tmp_path, 12, AuditLog(tmp_path, KEY).most_bytes)
    assert names(tmp_path) == ["audit.jsonl"]
    assert verify(log.path, KEY.verify_key).lines == 12


def test_what_was_sealed_is_never_written_to_again(tmp_path: Path) -> None:
    log = filled(tmp_path, 8)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("audit-*.jsonl")}
    for _ in range(8):
        log.append(Event("ingest"), NOW)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("audit-000001.jsonl", "line 1 of audit-000002.jsonl has number"),
        ("audit-000002.jsonl", "line 1 of audit-000003.jsonl has number"),
        ("audit-000003.jsonl", "line 1 of audit.jsonl has number"),
    ],
)
def test_a_sealed_file_that_is_taken_away_is_found_at_the_next_one(tmp_path: Path, name: str, said: str) -> None:
    log = filled(tmp_path, 11)
    assert len(names(tmp_path)) == 4
    (tmp_path / name).unlink()
    assert broken(log).startswith(said)


def test_two_sealed_files_that_change_places_are_found(tmp_path: Path) -> None:
    log = filled(tmp_path, 12)
    first, second = (tmp_path / f"audit-00000{number}.jsonl" for number in (1, 2))
    held = first.read_bytes()
    for path, content in ((first, second.read_bytes()), (second, held)):
        path.chmod(0o600)
        path.write_bytes(content)
    assert broken(log).startswith("line 1 of audit-000001.jsonl has number")


def test_a_changed_line_is_named_by_its_file_and_its_place_there(tmp_path: Path) -> None:
    log = filled(tmp_path, 12)
    path = tmp_path / "audit-000002.jsonl"
    content = path.read_bytes().splitlines(keepends=True)
    content[1] = content[1].replace(b'"cases":', b'"cases":1')
    path.chmod(0o600)
    path.write_bytes(b"".join(content))
    assert broken(log) == "line 2 of audit-000002.jsonl was changed: its signature is not this site's"


def test_lines_cut_off_the_end_of_a_sealed_file_are_found_at_the_next_one(tmp_path: Path) -> None:
    """Of the present file that cannot be seen; of a sealed one it can."""
    log = filled(tmp_path, 12)
    path = tmp_path / "audit-000001.jsonl"
    path.chmod(0o600)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert broken(log).startswith("line 1 of audit-000002.jsonl has number")


def test_a_present_file_that_was_emptied_goes_on_where_the_sealed_ones_end(tmp_path: Path) -> None:
    log = filled(tmp_path, 12)
    kept = sum(len(path.read_bytes().splitlines()) for path in tmp_path.glob("audit-*.jsonl"))
    log.path.write_bytes(b"")
    log.require_sound()
    log.append(Event("ingest"), NOW)
    assert verify(log.path, KEY.verify_key).lines == kept + 1


def test_other_files_beside_the_log_are_none_of_it(tmp_path: Path) -> None:
    log = filled(tmp_path, 8)
    for name in ("audit-0000001.jsonl", "audit-north.txt", "audit-000001.jsonl.bak", "audit-00001.jsonl"):
        (tmp_path / name).write_text("not a line\n")
    assert verify(log.path, KEY.verify_key).lines == 8


@pytest.mark.parametrize("left", ["second name", "pending file", "both"])
def test_a_process_killed_while_it_seals_leaves_a_log_that_goes_on(tmp_path: Path, left: str) -> None:
    log = filled(tmp_path, 3)
    assert names(tmp_path) == ["audit.jsonl"]
    while log.path.stat().st_size < SMALL:
        log.append(Event("ingest"), NOW)
    before = verify(log.path, KEY.verify_key).lines
    if left != "pending file":
        os.link(log.path, tmp_path / "audit-000001.jsonl")
    if left != "second name":
        (tmp_path / "audit.jsonl.next").write_bytes(b'{"at":"20')
    assert verify(log.path, KEY.verify_key).lines == before, "a second name is no second file"
    log.append(Event("freeze"), NOW)
    assert verify(log.path, KEY.verify_key).lines == before + 1
    assert names(tmp_path) == ["audit-000001.jsonl", "audit.jsonl"]


def test_whoever_waited_for_a_file_that_was_sealed_meanwhile_writes_to_the_new_one(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    KEY.save(tmp_path / "k.pem")
    script = (
        "import sys; from pathlib import Path; from datetime import UTC, datetime\n"
        "from client.governance.audit import AuditLog, Event; from shared.crypto.signing import SigningKey\n"
        f"log = AuditLog(Path(sys.argv[1]), SigningKey.load(Path(sys.argv[2])), {SMALL})\n"
        "for _ in range(40): log.append(Event('ingest'), datetime.now(UTC))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(log.path), str(tmp_path / "k.pem")]) for _ in range(3)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert verify(log.path, KEY.verify_key).lines == 121
    assert len(list(tmp_path.glob("audit-*.jsonl"))) > 20


# --- the end of a file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "whole", "torn", "last"),
    [
        (b"", 0, 0, None),
        (b"torn", 0, 4, None),
        (b"a\n", 2, 0, b"a"),
        (b"a\nb\n", 4, 0, b"b"),
        (b"a\nb\ntorn", 4, 4, b"b"),
        (b"a\n\n", 3, 0, b""),
        (b"\n", 1, 0, b""),
        (b"a\n" + b"b" * 50_000 + b"\n" + b"c" * 40_000, 50_003, 40_000, b"b" * 50_000),
        (b"b" * 50_000 + b"\n", 50_001, 0, b"b" * 50_000),
    ],
    ids=["empty", "torn only", "one", "two", "torn", "blank", "blank only", "long", "long only"],
)
def test_the_end_of_a_file_is_what_a_reader_of_the_whole_file_finds(
    tmp_path: Path, content: bytes, whole: int, torn: int, last: bytes | None
) -> None:
    (tmp_path / "f").write_bytes(content)
    with (tmp_path / "f").open("rb") as file:
        assert audit_files.end_of(file) == audit_files.End(whole, torn, last)


def test_the_end_is_found_wherever_blocks_begin(tmp_path: Path) -> None:
    rng = random.Random(7)
    for _ in range(200):
        content = b"".join(b"x" * rng.randrange(0, 40_000) + b"\n" for _ in range(rng.randrange(3)))
        content += b"y" * rng.choice([0, 0, 1, 16_384, 20_000])
        (tmp_path / "f").write_bytes(content)
        with (tmp_path / "f").open("rb") as file:
            found = audit_files.end_of(file)
        whole = content.rfind(b"\n") + 1
        assert (found.whole, found.torn) == (whole, len(content) - whole)
        assert found.last == (content[:whole].split(b"\n")[-2] if whole else None)


def test_a_line_longer_than_any_entry_is_no_end_and_nothing_is_appended(tmp_path: Path) -> None:
    log = filled(tmp_path, 2)
    with log.path.open("ab") as file:
        file.write(b"x" * (6 << 20))
    size = log.path.stat().st_size
    for act in (log.require_sound, lambda: log.append(Event("ingest"), NOW)):
        with pytest.raises(SiteDataError, match="last line of the audit log is no entry"):
            act()
    assert log.path.stat().st_size == size
    assert broken(log) == "line 3 of the audit log is no whole entry"


def test_an_append_costs_the_same_in_a_large_log_as_in_a_small_one(tmp_path: Path) -> None:
    """By bytes read, which no other load on the machine changes."""
    reads = {}
    for name, count in (("small", 20), ("large", 4000)):
        folder = tmp_path / name
        folder.mkdir()
        log = filled(folder, 5, 1 << 30)
        line = log.path.read_bytes().splitlines(keepends=True)[-1]
        with log.path.open("ab") as file:
            file.write(line * count)
        before = read_bytes()
        log.append(Event("ingest"), NOW)
        log.require_sound()
        reads[name] = read_bytes() - before
        assert log.path.stat().st_size > count * 300
    assert reads["large"] < 100_000
    assert reads["large"] - reads["small"] < 40_000


def read_bytes() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


# --- tampering and crashes -------------------------------------------------------------------------------------------


def test_a_thousand_random_edits_are_found_or_leave_a_beginning_of_the_log(tmp_path: Path) -> None:
    log = filled(tmp_path, 9)
    paths = [*sorted(tmp_path.glob("audit-*.jsonl")), log.path]
    assert len(paths) > 2
    whole = {path: path.read_bytes() for path in paths}
    every = [line.sha256 for line in lines(log.path, KEY.verify_key)]
    rng, cuts = random.Random(11), 0
    for path in paths:
        path.chmod(0o600)
    for _ in range(1000):
        path = rng.choice(paths)
        changed = edited(rng, whole[path])
        path.write_bytes(changed)
        found = verified(log)
        if isinstance(found, Verified):
            # Only lines cut off the very end pass, and the digest that somebody kept tells.
            assert changed == whole[path] or (path == log.path and whole[path].startswith(changed))
            assert found.head == every[found.lines - 1]
            cuts += found.lines < len(every)
        else:
            assert found.code == "audit-broken"
            assert " of audit" in found.sentence
        path.write_bytes(whole[path])
    assert verify(log.path, KEY.verify_key) == Verified(9, every[-1])
    assert cuts < 500


def test_a_signature_has_one_way_to_be_written(tmp_path: Path) -> None:
    """Found by the edits above: capitals are the same number, and yet another line."""
    log = filled(tmp_path, 2)
    kept = log.path.read_bytes()
    said = json.loads(kept.splitlines()[-1])["signature"].encode()
    for other in (said.upper(), said[:64] + b" " + said[64:], said + b"00"):
        log.path.write_bytes(kept.replace(said, other))
        assert broken(log) == "line 2 of the audit log was changed: its signature is not this site's"


def verified(log: AuditLog) -> Verified | SiteDataError:
    try:
        return verify(log.path, KEY.verify_key)
    except SiteDataError as error:
        return error


def edited(rng: random.Random, content: bytes) -> bytes:
    place, changed = rng.randrange(len(content)), bytearray(content)
    match rng.randrange(5):
        case 0:
            return content[:place]
        case 1:
            changed[place] ^= 1 << rng.randrange(8)
        case 2:
            del changed[place : place + rng.randrange(1, 300)]
        case 3:
            changed[place:place] = rng.randbytes(rng.randrange(1, 30))
        case _:
            split = content.splitlines(keepends=True)
            rng.shuffle(split)
            return b"".join(split[: rng.randrange(1, len(split) + 1)])
    return bytes(changed)


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_every_line_that_it_was_told_is_there(tmp_path: Path) -> None:
    AuditLog.create(tmp_path / "audit.jsonl", KEY)
    KEY.save(tmp_path / "k.pem")
    script = (
        "import sys; from pathlib import Path; from datetime import UTC, datetime\n"
        "from client.governance.audit import AuditLog, Event; from shared.crypto.signing import SigningKey\n"
        f"log = AuditLog(Path(sys.argv[1]), SigningKey.load(Path(sys.argv[2])), {SMALL})\n"
        "while True:\n    log.append(Event('ingest'), datetime.now(UTC)); print('.', end='', flush=True)\n"
    )
    rng, told, kills = random.Random(3), 0, 12
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "audit.jsonl"), str(tmp_path / "k.pem")],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        told += 1 + len(process.stdout.read())
        process.stdout.close()
        process.wait(10)
    log = AuditLog(tmp_path / "audit.jsonl", KEY, SMALL)
    log.append(Event("freeze"), NOW)
    found = verify(log.path, KEY.verify_key)
    removed = sum(one["event"] == REMOVED for one in entries(tmp_path))
    # A line may be on the disk whose writer was killed before it said so.
    assert told <= found.lines - 1 - removed <= told + kills


# --- figures ---------------------------------------------------------------------------------------------------------


def test_figures_are_finite_numbers_and_stand_only_where_there_are_any(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    log.append(Event("leaves-update", figures={"epsilon": 1.25, "delta": 1e-5}), NOW)
    first, second = entries(tmp_path)
    assert "figures" not in first
    assert second["figures"] == {"epsilon": 1.25, "delta": 1e-5}
    assert verify(log.path, KEY.verify_key).lines == 2


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_figure_that_is_no_number_is_no_event(value: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        Event("leaves-update", figures={"epsilon": float(value)})


@pytest.mark.parametrize("value", [1, True, "1.5", None], ids=str)
def test_a_figure_of_another_type_is_no_event(value: Any) -> None:
    with pytest.raises(ValueError, match="finite"):
        Event("leaves-update", figures={"epsilon": value})


def test_the_name_of_a_figure_is_a_name() -> None:
    with pytest.raises(ValueError, match="in the audit log"):
        Event("leaves-update", figures={"Mueller^Anna": 1.0})
