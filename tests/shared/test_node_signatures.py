"""What a SuperNode signs."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.supercore.primitives.asymmetric import sign_message, verify_signature

from shared.crypto import node_keys
from shared.crypto.node_signatures import sign, signed_by

KEY, OTHER = node_keys.generate(), node_keys.generate()
PEM = node_keys.public_pem(KEY)
MESSAGE = b"2026-03-01T12:00:00+00:00"


def test_ours_and_flowers_signatures_are_the_same_kind() -> None:
    assert signed_by(PEM, MESSAGE, sign_message(KEY, MESSAGE))
    assert verify_signature(KEY.public_key(), MESSAGE, sign(KEY, MESSAGE))


def test_another_key_another_message_or_a_changed_bit_is_no_signature() -> None:
    signature = sign(KEY, MESSAGE)
    assert signed_by(PEM, MESSAGE, signature)
    assert not signed_by(node_keys.public_pem(OTHER), MESSAGE, signature)
    assert not signed_by(PEM, MESSAGE + b" ", signature)
    assert not signed_by(PEM, MESSAGE, signature[:-1] + bytes([signature[-1] ^ 1]))
    assert not signed_by(PEM, MESSAGE, b"")


def pem_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "not a key",
        PEM.replace("\n", "\r\n"),
        PEM + "\n",
        "ü" * 10,
        "x" * 100_000,
        pem_of(ec.generate_private_key(ec.SECP256R1())),
        pem_of(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["nothing", "words", "line ends", "one line more", "letters", "long", "another curve", "another kind"],
)
def test_what_is_no_key_in_its_one_spelling_has_signed_nothing(pem: str) -> None:
    assert not signed_by(pem, MESSAGE, sign(KEY, MESSAGE))
