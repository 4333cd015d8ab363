"""Keys on the NIST curve P-384 (FIPS 186-5): a SuperNode's, by which its connection is known, and a server's for TLS.

Promises
- A private key is PEM PKCS #8 in a file for its owner alone (``key_files``), written once.
- A public key has one text: SubjectPublicKeyInfo in PEM, as ``public_pem`` writes it. ``require_public_pem`` refuses
  every other spelling and every other curve, so that equal keys are equal texts.

A node key opens the way to the coordinator and nothing else: what a site answers is signed by its identity key.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from shared.crypto.key_files import read_key_file, write_key_file
from shared.errors import SiteDataError

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def generate() -> PrivateKey:
    """A new key from the operating system's randomness."""
    return ec.generate_private_key(ec.SECP384R1())


def save(key: PrivateKey, path: Path) -> None:
    """Write a private key for its owner alone; raises ``SiteDataError`` where there is a file already."""
    write_key_file(path, private_pem(key))


def load(path: Path) -> PrivateKey:
    """Inverse of ``save``; raises ``SiteDataError``."""
    return from_pem(read_key_file(path), path.name)


def from_pem(pem: bytes, place: str) -> PrivateKey:
    """Inverse of ``private_pem``; raises ``SiteDataError`` naming the ``place`` the bytes came from."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1)):
        raise SiteDataError(
            f"{place} holds no key on the curve P-384 in PEM", hint="restore it from your copy", code="key-unreadable"
        )
    return key


def private_pem(key: PrivateKey) -> bytes:
    """A private key in PEM, PKCS #8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: PrivateKey | PublicKey) -> str:
    """The public half in PEM, SubjectPublicKeyInfo."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def require_public_pem(text: str) -> str:
    """``text`` if it is a public key as ``public_pem`` writes it; raises ``ValueError``."""
    try:
        key = load_pem_public_key(text.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    on_curve = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
    if not (isinstance(key, ec.EllipticCurvePublicKey) and on_curve and public_pem(key) == text):
        raise ValueError("a node key is a public key on P-384, SubjectPublicKeyInfo in PEM")
    return text
