"""Key files: for their owner alone, written once, refused when others could have read them."""

import os
import stat
from pathlib import Path

import pytest

from shared.crypto.key_files import read_key_file, read_secret, secret_from_hex, write_key_file, write_secret
from shared.errors import SiteDataError

SECRET = bytes(range(32))


def test_a_secret_comes_back_and_lies_in_the_file_as_64_digits(tmp_path: Path) -> None:
    write_secret(tmp_path / "s.secret", SECRET)
    assert read_secret(tmp_path / "s.secret") == SECRET
    assert (tmp_path / "s.secret").read_text() == "".join(f"{byte:02x}" for byte in SECRET) + "\n"


def test_a_key_file_is_0600_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        write_key_file(tmp_path / "k", b"key")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


def test_a_key_file_is_not_written_over(tmp_path: Path) -> None:
    write_key_file(tmp_path / "k", b"first")
    with pytest.raises(SiteDataError) as caught:
        write_key_file(tmp_path / "k", b"second")
    assert caught.value.code == "key-exists"
    assert read_key_file(tmp_path / "k") == b"first"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o610, 0o644, 0o777])
def test_a_key_that_others_may_touch_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    write_key_file(tmp_path / "k", b"key")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(SiteDataError, match=f"mode {mode:04o}, expected 0600") as caught:
        read_key_file(tmp_path / "k")
    assert caught.value.code == "key-permissions"
    assert caught.value.hint == f"chmod 600 {tmp_path / 'k'}"
    assert os.system(caught.value.hint) == 0  # noqa: S605 - the hint is what people type
    assert read_key_file(tmp_path / "k") == b"key"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_key_that_its_owner_alone_may_touch_is_read(tmp_path: Path, mode: int) -> None:
    write_key_file(tmp_path / "k", b"key")
    (tmp_path / "k").chmod(mode)
    assert read_key_file(tmp_path / "k") == b"key"


def test_the_file_behind_a_link_is_what_must_be_closed(tmp_path: Path) -> None:
    write_key_file(tmp_path / "k", b"key")
    (tmp_path / "link").symlink_to(tmp_path / "k")
    assert read_key_file(tmp_path / "link") == b"key"
    (tmp_path / "k").chmod(0o644)
    with pytest.raises(SiteDataError, match="open to others"):
        read_key_file(tmp_path / "link")


def test_a_missing_key_and_a_folder_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(SiteDataError, match="there is no key file k") as missing:
        read_key_file(tmp_path / "k")
    with pytest.raises(SiteDataError, match="cannot be read: Is a directory") as folder:
        read_key_file(tmp_path)
    assert (missing.value.code, folder.value.code) == ("key-missing", "key-unreadable")


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "ab" * 31, "ab" * 33, "ab" * 31 + "é", "ab " * 32])
def test_what_is_not_64_digits_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SiteDataError, match=r"the variable K holds .* expected 64 hexadecimal digits") as caught:
        secret_from_hex(text, "the variable K")
    assert caught.value.code == "secret-form"
    assert len(text) < 3 or text not in caught.value.sentence + caught.value.hint


def test_digits_of_either_case_with_space_around_them_are_taken() -> None:
    assert secret_from_hex(f"  {SECRET.hex().upper()}\n", "x") == SECRET


def test_bytes_that_are_no_text_are_refused_as_a_secret(tmp_path: Path) -> None:
    write_key_file(tmp_path / "s", b"\xff" * 64)
    with pytest.raises(SiteDataError, match="the key file s holds 64 characters"):
        read_secret(tmp_path / "s")
