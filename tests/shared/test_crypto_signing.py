"""Signatures: RFC 8032 is the oracle, OpenSSL reads the key files, and no message of one kind passes as another."""

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from shared.crypto.key_files import write_key_file
from shared.crypto.signing import SIGNATURE_BYTES, SigningKey, VerifyKey
from shared.errors import ProtocolError, SiteDataError

# RFC 8032 section 7.1, test 2.
SEED = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"

MESSAGE = b"consilium-cohort-1\n{}"


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


def from_seed(folder: Path, seed: str) -> SigningKey:
    raw = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
    write_key_file(folder / "k.pem", raw.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return SigningKey.load(folder / "k.pem")


def refused(key: VerifyKey, signature: bytes, message: bytes) -> bool:
    with pytest.raises(ProtocolError) as caught:
        key.verify(signature, message)
    return caught.value.code == "signature-invalid"


def test_the_public_key_of_a_private_one_is_that_of_rfc_8032(tmp_path: Path) -> None:
    assert from_seed(tmp_path, SEED).verify_key.hex() == PUBLIC


def test_signatures_are_deterministic_and_those_of_the_primitive_over_the_very_message(tmp_path: Path) -> None:
    oracle = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED)).sign(MESSAGE)
    assert from_seed(tmp_path, SEED).sign(MESSAGE) == oracle
    assert len(oracle) == SIGNATURE_BYTES


def test_a_good_signature_is_accepted(key: SigningKey) -> None:
    key.verify_key.verify(key.sign(MESSAGE), MESSAGE)
    VerifyKey.from_hex(key.verify_key.hex() + "\n").verify(key.sign(MESSAGE), MESSAGE)


@given(place=st.integers(0, 8 * SIGNATURE_BYTES - 1))
def test_one_flipped_bit_of_the_signature_is_refused(key: SigningKey, place: int) -> None:
    signature = bytearray(key.sign(MESSAGE))
    signature[place // 8] ^= 1 << place % 8
    assert refused(key.verify_key, bytes(signature), MESSAGE)


@given(place=st.integers(0, 8 * len(MESSAGE) - 1))
def test_one_flipped_bit_of_the_message_is_refused(key: SigningKey, place: int) -> None:
    message = bytearray(MESSAGE)
    message[place // 8] ^= 1 << place % 8
    assert refused(key.verify_key, key.sign(MESSAGE), bytes(message))


@pytest.mark.parametrize("signature", [b"", b"short", bytes(SIGNATURE_BYTES), bytes(SIGNATURE_BYTES + 1)])
def test_what_is_no_signature_is_refused(key: SigningKey, signature: bytes) -> None:
    assert refused(key.verify_key, signature, MESSAGE)


def test_another_key_s_signature_is_refused_with_the_fingerprint_to_compare(key: SigningKey) -> None:
    with pytest.raises(ProtocolError, match=key.verify_key.fingerprint()) as caught:
        key.verify_key.verify(SigningKey.generate().sign(MESSAGE), MESSAGE)
    assert "fingerprint" in caught.value.hint


def test_a_signature_of_one_kind_is_none_of_another(key: SigningKey) -> None:
    body = b'{"site":"north"}'
    signature = key.sign(b"consilium-cohort-1\n" + body)
    for opening in (b"consilium-audit-1\n", b"consilium-cohort-11\n", b"consilium-cohort-2\n"):
        assert refused(key.verify_key, signature, opening + body)


@pytest.mark.parametrize(
    "message", [b"", b"{}", b"consilium-cohort-1", b"consilium--1\n", b"consilium-Cohort-1\n", b" consilium-cohort-1\n"]
)
def test_a_message_that_does_not_say_what_it_is_is_neither_signed_nor_verified(
    key: SigningKey, tmp_path: Path, message: bytes
) -> None:
    with pytest.raises(ValueError, match="consilium-KIND-N"):
        key.sign(message)
    raw = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED))
    assert refused(from_seed(tmp_path, SEED).verify_key, raw.sign(message), message)


def test_a_saved_key_signs_the_same_after_loading_and_is_its_owner_s_alone(key: SigningKey, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        key.save(tmp_path / "identity.pem")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "identity.pem").stat().st_mode) == 0o600
    assert SigningKey.load(tmp_path / "identity.pem").sign(MESSAGE) == key.sign(MESSAGE)


def test_openssl_reads_the_key_file_and_finds_the_same_public_key(key: SigningKey, tmp_path: Path) -> None:
    key.save(tmp_path / "identity.pem")
    try:
        command = ["openssl", "pkey", "-in", tmp_path / "identity.pem", "-pubout", "-outform", "DER"]
        der = subprocess.run(command, capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert der[-32:].hex() == key.verify_key.hex()


def test_a_key_is_never_overwritten(key: SigningKey, tmp_path: Path) -> None:
    key.save(tmp_path / "identity.pem")
    with pytest.raises(SiteDataError, match="already") as caught:
        SigningKey.generate().save(tmp_path / "identity.pem")
    assert caught.value.code == "key-exists"
    assert SigningKey.load(tmp_path / "identity.pem").verify_key == key.verify_key


@pytest.mark.parametrize("content", [b"", b"no PEM", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    write_key_file(tmp_path / "identity.pem", content)
    with pytest.raises(SiteDataError, match=r"identity\.pem holds no Ed25519 key") as caught:
        SigningKey.load(tmp_path / "identity.pem")
    assert caught.value.code == "key-unreadable"


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    pem = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_key_file(tmp_path / "identity.pem", pem)
    with pytest.raises(SiteDataError, match="holds no Ed25519 key"):
        SigningKey.load(tmp_path / "identity.pem")


def test_the_fingerprint_is_the_start_of_the_key_s_sha_256_in_groups_of_four() -> None:
    digits = hashlib.sha256(bytes.fromhex(PUBLIC)).hexdigest()
    groups = VerifyKey.from_hex(PUBLIC).fingerprint().split(" ")
    assert "".join(groups) == digits[:32]
    assert {len(group) for group in groups} == {4}


@pytest.mark.parametrize("text", ["", "zz" * 32, PUBLIC[:-2], PUBLIC + "00"])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="public key") as caught:
        VerifyKey.from_hex(text)
    assert caught.value.code == "public-key"


def test_no_key_shows_itself_when_printed(tmp_path: Path) -> None:
    key = from_seed(tmp_path, SEED)
    shown = repr(key) + str(key) + f"{key!s}" + repr(key.verify_key)
    assert SEED not in shown
    assert key.verify_key.fingerprint() in shown
