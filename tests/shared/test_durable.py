"""A file that is replaced is the old one or the new one, whole, for its owner alone."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.durable import SHARED, held, replace_file
from shared.errors import RunError


def test_the_new_content_is_there_under_its_name_and_nothing_beside_it(tmp_path: Path) -> None:
    replace_file(tmp_path / "a.json", b"one")
    replace_file(tmp_path / "a.json", b"two")
    assert (tmp_path / "a.json").read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_only_the_owner_may_read_it_also_where_an_open_file_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"open")
    (tmp_path / "a").chmod(0o644)
    (tmp_path / "a.pending").write_bytes(b"left by a process that was killed")
    (tmp_path / "a.pending").chmod(0o666)
    replace_file(tmp_path / "a", b"closed")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert (tmp_path / "a").read_bytes() == b"closed"


def test_several_at_once_leave_one_of_theirs_whole(tmp_path: Path) -> None:
    wholes = [bytes([letter]) * 50_000 for letter in b"abcd"]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            assert [one.result() for one in [pool.submit(replace_file, tmp_path / "a", whole) for whole in wholes]]
            assert (tmp_path / "a").read_bytes() in wholes


def test_a_process_that_is_killed_while_it_holds_the_folder_holds_up_nobody(tmp_path: Path) -> None:
    code = (
        "import fcntl, os, sys; handle = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(handle, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(replace_file, tmp_path / "a", b"x")
        assert not waiting.done()
        holder.kill()
        holder.communicate()
        waiting.result(timeout=30)
    assert (tmp_path / "a").read_bytes() == b"x"


def test_a_crash_while_writing_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new, and much longer")
    assert path.read_bytes() == b"old"


def test_content_is_on_disk_before_it_takes_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    rename = Path.replace

    def renamed(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", lambda _: steps.append("fsync"))
    monkeypatch.setattr(Path, "replace", renamed)
    replace_file(tmp_path / "file", b"content")
    assert steps == ["fsync", "rename", "fsync"]


def test_a_shared_file_follows_the_users_mask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "a", b"x", SHARED)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_what_is_held_is_refused_at_once_and_free_when_the_block_ends_however_it_ends(tmp_path: Path) -> None:
    lock, refusal = tmp_path / "lock", RunError("somebody is here", code="folder-in-use")
    with held(lock, refusal), pytest.raises(RunError, match="somebody is here"), held(lock, refusal):
        pytest.fail("two hold it")
    with pytest.raises(ZeroDivisionError), held(lock, refusal):
        raise ZeroDivisionError
    with held(lock, refusal):
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600


def test_what_waits_in_the_block_is_not_taken_for_the_lock(tmp_path: Path) -> None:
    """A ``BlockingIOError`` of the work itself is the work's."""
    with pytest.raises(BlockingIOError), held(tmp_path / "lock", RunError("somebody is here")):
        raise BlockingIOError
