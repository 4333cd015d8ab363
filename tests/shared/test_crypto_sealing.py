"""Sealing, against RFC 5869 by hand and AES-GCM of another library."""

import hashlib
import hmac
import os

import pytest
from Crypto.Cipher import AES
from hypothesis import given
from hypothesis import strategies as st

from shared.crypto.sealing import (
    CHUNK,
    SALT_BYTES,
    SEALED_CHUNK,
    Sealer,
    UnsealableError,
    key_check,
    new_salt,
    open_text,
    seal_text,
)

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
SALT, OTHER_SALT = b"s" * SALT_BYTES, b"t" * SALT_BYTES
TEXT = bytes(position * position % 251 for position in range(CHUNK))


def by_hand(key: bytes, salt: bytes, purpose: bytes) -> bytes:
    """HKDF-SHA256 for 32 bytes: extract, then one block of expand (RFC 5869, 2.2 and 2.3)."""
    extracted = hmac.digest(salt, key, hashlib.sha256)
    return hmac.digest(extracted, purpose + b"\x01", hashlib.sha256)


def sealed(text: bytes = TEXT, position: int = 0, key: bytes = KEY, salt: bytes = SALT) -> bytes:
    out = bytearray(SEALED_CHUNK)
    Sealer(key, salt).seal(position, text, out)
    return bytes(out)


def opened(chunk: bytes, position: int = 0, key: bytes = KEY, salt: bytes = SALT) -> bytes:
    out = bytearray(CHUNK)
    Sealer(key, salt).open(position, chunk, out)
    return bytes(out)


def test_the_hkdf_of_the_oracle_is_that_of_the_standard() -> None:
    """RFC 5869, A.1, cut to the first block."""
    expected = bytes.fromhex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf")
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    assert by_hand(b"\x0b" * 22, bytes(range(13)), info) == expected


@pytest.mark.parametrize("position", [0, 1, 255, 2**32 + 5])
def test_a_chunk_is_aes_256_gcm_under_a_derived_key_with_its_position_as_nonce(position: int) -> None:
    cipher = AES.new(by_hand(KEY, SALT, b"consilium-sealed-file-1"), AES.MODE_GCM, nonce=position.to_bytes(12, "big"))
    expected, tag = cipher.encrypt_and_digest(TEXT)
    assert sealed(position=position) == expected + tag


@given(st.binary(min_size=1, max_size=100), st.integers(0, 2**40))
def test_what_is_sealed_opens_again(part: bytes, position: int) -> None:
    text = (part * CHUNK)[:CHUNK]
    assert opened(sealed(text, position), position) == text


@given(st.integers(0, 8 * SEALED_CHUNK - 1))
def test_a_flipped_bit_is_refused_wherever_it_is(bit: int) -> None:
    chunk = bytearray(sealed())
    chunk[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UnsealableError):
        opened(bytes(chunk))


@pytest.mark.parametrize(
    "where",
    [{"position": 1}, {"salt": OTHER_SALT}, {"key": OTHER_KEY}],
    ids=["another position", "another file", "another key"],
)
def test_a_chunk_opens_nowhere_but_where_it_was_sealed(where: dict[str, object]) -> None:
    assert opened(sealed()) == TEXT
    with pytest.raises(UnsealableError):
        opened(sealed(), **where)  # type: ignore[arg-type]


def test_a_chunk_that_was_cut_off_is_refused() -> None:
    with pytest.raises(UnsealableError):
        Sealer(KEY, SALT).open(0, sealed()[:-1], bytearray(CHUNK - 1))


def test_the_same_text_looks_different_at_each_position_and_in_each_file() -> None:
    chunks = [sealed(), sealed(position=1), sealed(salt=OTHER_SALT), sealed(key=OTHER_KEY)]
    blocks = {chunk[start : start + 16] for chunk in chunks for start in range(0, CHUNK, 16)}
    assert len(blocks) == len(chunks) * CHUNK // 16


def test_each_file_gets_a_salt_of_its_own() -> None:
    salts = {new_salt() for _ in range(1000)}
    assert len(salts) == 1000
    assert {len(salt) for salt in salts} == {SALT_BYTES}


def test_the_check_of_a_key_knows_it_again_and_no_other() -> None:
    check = key_check(KEY, SALT)
    assert check == by_hand(KEY, SALT, b"consilium-key-check-1").hex()
    assert check not in {key_check(OTHER_KEY, SALT), key_check(KEY, OTHER_SALT)}


def test_the_check_of_a_key_is_no_key_of_a_file() -> None:
    """Else whoever reads the check could open the file with the same salt."""
    assert key_check(KEY, SALT) != by_hand(KEY, SALT, b"consilium-sealed-file-1").hex()
    cipher = AES.new(bytes.fromhex(key_check(KEY, SALT)), AES.MODE_GCM, nonce=bytes(12))
    with pytest.raises(ValueError, match="MAC check failed"):
        cipher.decrypt_and_verify(sealed()[:CHUNK], sealed()[CHUNK:])


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused_and_not_shown(length: int) -> None:
    key = os.urandom(length)
    with pytest.raises(ValueError, match=f"this one has {length}$"):
        Sealer(key, SALT)
    with pytest.raises(ValueError, match="has 32 bytes"):
        key_check(key, SALT)


def test_a_sealed_text_opens_beside_what_it_was_bound_to_and_nowhere_else() -> None:
    key, other = bytes(range(32)), bytes(range(1, 33))
    sealed = seal_text(key, "a thumbnail \N{GREEK SMALL LETTER ALPHA}", "case 1")
    assert open_text(key, sealed, "case 1") == "a thumbnail \N{GREEK SMALL LETTER ALPHA}"
    assert b"thumbnail".hex() not in sealed
    for wrong in ((key, sealed, "case 2"), (other, sealed, "case 1"), (key, sealed[:-2], "case 1"), (key, "plain", "")):
        with pytest.raises(UnsealableError):
            open_text(*wrong)


def test_equal_texts_are_sealed_differently() -> None:
    key = bytes(range(32))
    assert seal_text(key, "x", "y") != seal_text(key, "x", "y")


@given(st.binary(min_size=1, max_size=4), st.integers(0, 200))
def test_a_changed_byte_of_a_sealed_text_is_found(change: bytes, place: int) -> None:
    key = bytes(range(32))
    sealed = bytearray.fromhex(seal_text(key, "sixteen by sixteen", "case"))
    before, at = bytes(sealed), place % (len(sealed) - len(change))
    sealed[at : at + len(change)] = change
    if bytes(sealed) != before:
        with pytest.raises(UnsealableError):
            open_text(key, sealed.hex(), "case")
