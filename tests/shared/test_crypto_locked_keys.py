"""Keys under a passphrase: opened by it alone, never shown, and each guess costs what the module says."""

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from small_trust import code_of, no_passphrase

from shared.crypto.key_files import write_key_file
from shared.crypto.locked_keys import read_locked, require_passphrase, write_locked
from shared.crypto.signing import SigningKey
from shared.errors import ConsiliumError

KEY = SigningKey.generate()
PASSPHRASE = "vier Wörter sind genug".encode()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("locked") / "lead.key"
    write_locked(path, KEY.pem(), PASSPHRASE)
    return path


def test_a_locked_key_opens_with_its_passphrase(locked: Path) -> None:
    assert read_locked(locked, lambda: PASSPHRASE) == KEY.pem()


def test_a_locked_file_shows_neither_key_nor_passphrase_and_is_its_owners_alone(locked: Path) -> None:
    content = locked.read_bytes()
    assert b"PRIVATE" not in content
    assert KEY.pem().splitlines()[1] not in content
    assert PASSPHRASE not in content
    assert stat.S_IMODE(locked.stat().st_mode) == 0o600


@pytest.mark.parametrize("wrong", [b"vier Woerter sind genug", PASSPHRASE + b" ", b""], ids=["typo", "space", "empty"])
def test_another_passphrase_is_refused_and_not_repeated(locked: Path, wrong: bytes) -> None:
    with pytest.raises(ConsiliumError) as caught:
        read_locked(locked, lambda: wrong)
    assert caught.value.code == "passphrase-wrong"
    assert "Woerter" not in f"{caught.value.sentence} {caught.value.hint} {caught.value!r}"


def test_the_file_is_what_the_module_says(locked: Path) -> None:
    """scrypt, HKDF and AES-GCM put together by hand."""
    held = json.loads(locked.read_text())
    key = Scrypt(salt=bytes.fromhex(held["salt"]), length=32, n=2**17, r=8, p=1).derive(PASSPHRASE)
    sealed = bytes.fromhex(held["sealed"])
    inner = HKDF(SHA256(), 32, sealed[:32], b"consilium-sealed-text-1").derive(key)
    assert AESGCM(inner).decrypt(bytes(12), sealed[32:], b"lead.key") == KEY.pem()
    assert len(bytes.fromhex(held["salt"])) == 32


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def test_a_guess_costs_fifty_times_what_it_costs_with_pkcs_8_as_the_library_encrypts_it(locked: Path) -> None:
    """Side by side on this machine; the control is what this module is there to replace."""
    raw = load_pem_private_key(KEY.pem(), None)
    pem = raw.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE))
    theirs = min(seconds(lambda: load_pem_private_key(pem, PASSPHRASE)) for _ in range(5))
    assert seconds(lambda: read_locked(locked, lambda: PASSPHRASE)) > 50 * theirs


def test_a_key_moved_to_another_name_does_not_open(locked: Path, tmp_path: Path) -> None:
    """The authority's key must not pass as the lead's."""
    write_key_file(tmp_path / "ca.key", locked.read_bytes())
    assert code_of(lambda: read_locked(tmp_path / "ca.key", lambda: PASSPHRASE)) == "passphrase-wrong"


def test_a_plain_key_is_its_pem_and_nobody_is_asked(tmp_path: Path) -> None:
    write_locked(tmp_path / "lead.key", KEY.pem(), None)
    assert (tmp_path / "lead.key").read_bytes() == KEY.pem()
    assert read_locked(tmp_path / "lead.key", no_passphrase) == KEY.pem()


def test_a_damaged_file_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    for place, content in enumerate((b"", b"{}", b"[]", b"x", b'{"kind":"consilium-locked-key-2"}', b"[" * 5000)):
        path = tmp_path / f"{place}.key"
        write_key_file(path, content)
        assert code_of(lambda path=path: read_locked(path, no_passphrase)) == "key-damaged"  # type: ignore[misc]


def test_a_changed_byte_of_a_locked_key_is_refused(locked: Path, tmp_path: Path) -> None:
    held = json.loads(locked.read_text())
    digit = "0" if held["sealed"][100] != "0" else "1"
    changed = held | {"sealed": held["sealed"][:100] + digit + held["sealed"][101:]}
    write_key_file(tmp_path / "lead.key", json.dumps(changed).encode())
    assert code_of(lambda: read_locked(tmp_path / "lead.key", lambda: PASSPHRASE)) == "passphrase-wrong"


def test_a_file_that_others_may_read_is_refused(locked: Path, tmp_path: Path) -> None:
    write_key_file(tmp_path / "lead.key", locked.read_bytes())
    (tmp_path / "lead.key").chmod(0o640)
    assert code_of(lambda: read_locked(tmp_path / "lead.key", no_passphrase)) == "key-permissions"


def test_a_passphrase_has_twelve_characters_not_bytes() -> None:
    assert require_passphrase(("ä" * 12).encode()) == ("ä" * 12).encode()
    assert code_of(lambda: require_passphrase(("ä" * 11).encode())) == "passphrase-short"
    assert code_of(lambda: require_passphrase(b"")) == "passphrase-short"
