"""Keys on P-384: OpenSSL reads what is written, one key has one text, and other curves are refused."""

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from small_trust import code_of

from shared.crypto import node_keys
from shared.crypto.key_files import write_key_file
from shared.crypto.signing import SigningKey


@pytest.fixture(scope="module")
def key() -> node_keys.PrivateKey:
    return node_keys.generate()


def openssl(*words: object) -> str:
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=True).stdout


def test_openssl_reads_both_halves_and_finds_p_384(key: node_keys.PrivateKey, tmp_path: Path) -> None:
    node_keys.save(key, tmp_path / "node.pem")
    assert "secp384r1" in openssl("pkey", "-in", tmp_path / "node.pem", "-noout", "-text")
    assert openssl("pkey", "-in", tmp_path / "node.pem", "-pubout") == node_keys.public_pem(key)


def test_a_key_is_read_as_it_was_saved_and_is_its_owners_alone(key: node_keys.PrivateKey, tmp_path: Path) -> None:
    node_keys.save(key, tmp_path / "node.pem")
    assert stat.S_IMODE((tmp_path / "node.pem").stat().st_mode) == 0o600
    assert node_keys.private_pem(node_keys.load(tmp_path / "node.pem")) == node_keys.private_pem(key)
    assert code_of(lambda: node_keys.save(node_keys.generate(), tmp_path / "node.pem")) == "key-exists"


def test_two_keys_differ() -> None:
    assert node_keys.public_pem(node_keys.generate()) != node_keys.public_pem(node_keys.generate())


def test_a_public_key_is_taken_as_it_is_written(key: node_keys.PrivateKey) -> None:
    assert node_keys.require_public_pem(node_keys.public_pem(key)) == node_keys.public_pem(key)
    assert node_keys.public_pem(key.public_key()) == node_keys.public_pem(key)


def spki(public: ec.EllipticCurvePublicKey, encoding: Encoding = Encoding.PEM) -> str:
    return public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo).decode("latin-1")


def test_other_curves_and_other_spellings_are_refused(key: node_keys.PrivateKey) -> None:
    pem = node_keys.public_pem(key)
    others = [
        spki(ec.generate_private_key(ec.SECP256R1()).public_key()),
        spki(ec.generate_private_key(ec.SECP521R1()).public_key()),
        spki(key.public_key(), Encoding.DER),
        key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        node_keys.private_pem(key).decode(),
        SigningKey.generate().pem().decode(),
        pem[:-1],
        pem + pem,
        pem.replace("A", "B", 1),
        "",
        "ä",
    ]
    for other in others:
        with pytest.raises(ValueError, match=r"."):
            node_keys.require_public_pem(other)


def test_a_file_with_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    SigningKey.generate().save(tmp_path / "ed25519.pem")
    write_key_file(tmp_path / "nothing.pem", b"nothing")
    for name in ("ed25519.pem", "nothing.pem"):
        assert code_of(lambda name=name: node_keys.load(tmp_path / name)) == "key-unreadable"  # type: ignore[misc]
    assert code_of(lambda: node_keys.load(tmp_path / "none.pem")) == "key-missing"
