"""Somebody on the hospital's machine: another user, another process, or a hand in the site's folder.

What two real users can read of each other is tried in ``tests/network/test_two_users.py``.
"""

import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attacked import Victim, charges
from deciding_hospital import NOW, PRIVATE, Hospital, train
from small_trust import code_of

from client.custodian import caller, wiring
from client.custodian.service import Service, listen
from client.custodian.wiring import LOCK, RUN, TOKEN, custodian
from client.governance.audit import Event, verify
from client.site_folder import LEDGER
from shared.crypto.signing import SigningKey
from shared.durable import replace_file
from shared.messages import Update
from shared.parcels import Parcel

STRANGER = 64103


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


# --- the folder of the socket ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o2770, 0o702])
def test_a_folder_that_others_may_write_to_gets_no_socket(hospital: Hospital, mode: int) -> None:
    folder = hospital.site.path / RUN
    folder.mkdir()
    folder.chmod(mode)
    assert code_of(lambda: wiring.run(hospital.site, lambda: NOW)) == "run-folder"
    assert list(folder.iterdir()) == [], "no token, no lock"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_belongs_to_somebody_else_gets_no_socket(hospital: Hospital) -> None:
    folder = hospital.site.path / RUN
    folder.mkdir(mode=0o700)
    os.chown(folder, STRANGER, STRANGER)
    assert code_of(lambda: wiring.run(hospital.site, lambda: NOW)) == "run-folder"


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o2750])
def test_the_folders_that_we_make_ourselves_are_taken(hospital: Hospital, mode: int) -> None:
    """A control, as far as the lock: it is held, so nothing is started."""

    folder = hospital.site.path / RUN
    folder.mkdir()
    folder.chmod(mode)
    with (folder / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert code_of(lambda: wiring.run(hospital.site, lambda: NOW)) == "folder-in-use"


def test_a_token_that_is_a_link_to_another_file_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    """What ``run`` does with the token's file, before which somebody has put a link there."""
    precious, token = tmp_path / "precious", tmp_path / TOKEN
    precious.write_text("precious")
    precious.chmod(0o600)
    token.symlink_to(precious)
    replace_file(token, b"ab" * 32 + b"\n")
    token.chmod(0o640)
    assert (precious.read_text(), stat.S_IMODE(precious.stat().st_mode)) == ("precious", 0o600)
    assert not token.is_symlink()


def test_what_lies_at_the_sockets_place_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.sock"
    elsewhere.touch()
    (tmp_path / "c.sock").symlink_to(elsewhere)
    server = listen(Service("ab" * 32, lambda parcel: parcel, dict), tmp_path / "c.sock")
    server.stop(0).wait()
    assert elsewhere.is_file()


@pytest.mark.parametrize("content", ["", "ab" * 31, "zz" * 32, "ab" * 64, "\x00" * 64])
def test_a_token_file_that_holds_no_token_is_not_sent(tmp_path: Path, content: str) -> None:
    token = tmp_path / TOKEN
    token.touch(0o600)
    token.write_text(content)
    code_of(lambda: caller.read_token(token))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that all users get to; those of pytest are closed."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.network
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_another_user_who_stole_the_token_does_not_get_to_the_socket(open_folder: Path) -> None:
    heard: list[Parcel] = []

    def answer(parcel: Parcel) -> Parcel:
        heard.append(parcel)
        return parcel

    server = listen(Service("ab" * 32, answer, dict), open_folder / "c.sock")
    script = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))\n"
        "try:\n    socket.socket(socket.AF_UNIX).connect(sys.argv[2]); print('in')\n"
        "except OSError as error: print(error.errno)\n"
    )

    def tried(uid: int) -> str:
        argv = [sys.executable, "-c", script, str(uid), str(open_folder / "c.sock")]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        assert tried(STRANGER) == "13", "permission denied"
        assert tried(0) == "in", "a control: its own user gets there"
        with socket.socket(socket.AF_UNIX) as mine:
            mine.connect(str(open_folder / "c.sock"))
    finally:
        server.stop(0).wait()
    assert heard == []


# --- the ledger ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["empty", "torn", "missing", "garbage"])
def test_a_damaged_ledger_stops_everything_and_is_named(tmp_path: Path, damage: str) -> None:
    victim = Victim(tmp_path, **PRIVATE)
    path = victim.folder / LEDGER
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "torn": content[: len(content) // 2], "garbage": b"x" * 5000}[damage])
    reply = victim.ask(train(victim.plan))
    assert not isinstance(reply, Update)
    assert victim.lines("leaves-update") == []
    code_of(lambda: wiring._begin(victim.hospital.site, lambda: NOW))


def test_an_older_ledger_that_was_put_back_can_be_shown_by_the_log(tmp_path: Path) -> None:
    """Not prevented (R10): what the next start of a custodian notes is what an earlier one noted, and not the last."""
    victim = Victim(tmp_path, **PRIVATE)
    wiring._begin(victim.hospital.site, lambda: NOW)
    shutil.copyfile(victim.folder / LEDGER, tmp_path / "old")
    assert isinstance(victim.ask(train(victim.plan)), Update)
    assert charges(victim.folder) == 1
    wiring._begin(victim.hospital.site, lambda: NOW)
    shutil.copyfile(tmp_path / "old", victim.folder / LEDGER)
    wiring._begin(victim.hospital.site, lambda: NOW)
    first, second, third = (line["digests"]["ledger"] for line in victim.lines("custodian-start"))
    assert first == third != second


# --- the audit log ---------------------------------------------------------------------------------------------------


def removed(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], *lines[3:]]


def moved(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[3], lines[2], *lines[4:]]


def repeated(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], lines[2], *lines[3:]]


def first_removed(lines: list[bytes]) -> list[bytes]:
    return lines[1:]


def changed(lines: list[bytes]) -> list[bytes]:
    said = json.loads(lines[2]) | {"at": "2020-01-01T00:00:00+00:00"}
    return [*lines[:2], json.dumps(said, sort_keys=True, separators=(",", ":")).encode() + b"\n", *lines[3:]]


def signed_by_another(lines: list[bytes]) -> list[bytes]:
    said = {name: value for name, value in json.loads(lines[2]).items() if name != "signature"}
    text = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    said["signature"] = SigningKey.generate().sign(b"consilium-audit-1\n" + text).hex()
    return [*lines[:2], json.dumps(said, sort_keys=True, separators=(",", ":")).encode() + b"\n", *lines[3:]]


def doubled_key(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b'{"at"', b'{"event":"x","at"', 1), *lines[3:]]


@pytest.mark.parametrize(
    ("attack", "place"),
    [
        (removed, 3),
        (moved, 3),
        (repeated, 4),
        (first_removed, 1),
        (changed, 3),
        (signed_by_another, 3),
        (doubled_key, 3),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_hand_in_the_audit_log_is_named_by_its_line(
    hospital: Hospital, attack: Callable[[list[bytes]], list[bytes]], place: int
) -> None:
    path, key = hospital.site.path / "audit.jsonl", hospital.site.signing_key().verify_key
    for number in range(3):
        hospital.site.audit.append(Event("check", counts={"n": number}), NOW)
    assert verify(path, key).lines > 5
    path.write_bytes(b"".join(attack(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(Exception, match=rf"^line {place} of the audit log ") as caught:
        verify(path, key)
    assert getattr(caught.value, "code", "") == "audit-broken"


def test_nothing_leaves_where_the_log_cannot_be_written(tmp_path: Path) -> None:
    victim = Victim(tmp_path)
    parcel = victim.hospital.parcel(victim.plan, train(victim.plan))
    (victim.folder / "audit.jsonl").rename(tmp_path / "aside")
    assert code_of(lambda: victim.custodian.answer(parcel)) == "audit-missing"
    (tmp_path / "aside").rename(victim.folder / "audit.jsonl")
    assert victim.lines("leaves-update") == []
    assert isinstance(victim.send(parcel), Update)


@pytest.mark.parametrize(
    "event",
    [
        {"name": "approve\nevil"},
        {"name": "approve", "counts": {"by.jan\x1b": 1}},
        {"name": "approve", "dataset": "../x"},
        {"name": "approve", "counts": {"n": True}},
        {"name": "approve", "digests": {"plan": "maria huber"}},
        {"name": "аpprove"},  # noqa: RUF001 - the look-alike is the attack
    ],
    ids=ascii,
)
def test_no_line_of_the_log_can_be_given_a_line_of_its_own_or_a_name(event: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="audit log"):
        Event(**event)


def test_a_custodian_begins_with_another_clock_and_the_same_folder(hospital: Hospital) -> None:
    """A control for the fixtures: this folder is sound."""
    assert custodian(hospital.site, lambda: NOW).desk.standing.name == "aachen"
