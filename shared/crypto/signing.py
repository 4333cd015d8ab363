"""Signatures with Ed25519 (RFC 8032), and the names that people compare keys by.

Promises
- A signature of one kind cannot be used as another: a message opens with one line that names its kind and version,
  ``consilium-KIND-N``, as all canonical bytes in Consilium do, and nothing else is signed or verified. Two kinds share
  no message, because the line ends where the names differ.
- ``verify`` returns only for a good signature; there is no answer to forget.
- A private key lies in a file that its owner alone can read (``key_files``), PEM PKCS #8, written once and never
  overwritten; its ``repr`` shows the fingerprint.

Whose key it is is left to whoever pins or enrols it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from shared.crypto.key_files import read_key_file, write_key_file
from shared.errors import ProtocolError, SiteDataError

SIGNATURE_BYTES = 64
_PUBLIC_BYTES = 32
_FINGERPRINT_BYTES = 16
_GROUP = 4
_OPENING = re.compile(rb"consilium-[a-z]+(-[a-z]+)*-[0-9]+\n")


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """The public half of a key: 32 bytes, shown to people as a fingerprint."""

    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse bytes that are no key."""
        if len(self.raw) != _PUBLIC_BYTES:
            raise ProtocolError(
                f"a public key has {_PUBLIC_BYTES} bytes, this one has {len(self.raw)}",
                hint="copy all 64 hexadecimal digits",
                code="public-key",
            )

    @classmethod
    def from_hex(cls, text: str) -> VerifyKey:
        """Inverse of ``hex``; raises ``ProtocolError``."""
        try:
            return cls(bytes.fromhex(text.strip()))
        except ValueError:
            raise ProtocolError(
                "a public key is written in hexadecimal digits", hint="copy all 64 of them", code="public-key"
            ) from None

    def hex(self) -> str:
        """64 hexadecimal digits."""
        return self.raw.hex()

    def fingerprint(self) -> str:
        """The first 128 bits of the key's SHA-256 in eight groups of four digits, to read out over a telephone.

        Nobody can make a second key with the same fingerprint: that takes 2^128 trials.
        """
        digits = hashlib.sha256(self.raw).digest()[:_FINGERPRINT_BYTES].hex()
        return " ".join(digits[start : start + _GROUP] for start in range(0, len(digits), _GROUP))

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return if this key signed ``message``; raise ``ProtocolError`` ("signature-invalid") if not."""
        if not (_OPENING.match(message) and self._signed(signature, message)):
            raise ProtocolError(
                f"the signature over {len(message)} bytes is not by the key {self.fingerprint()}",
                hint="compare the key's fingerprint with its owner's; if it is the same, the content was changed",
                code="signature-invalid",
            )

    def _signed(self, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A private key. Get one from ``generate`` or ``load``."""

    _key: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"SigningKey({self.verify_key.fingerprint()})"

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key that ``save`` wrote; raises ``SiteDataError``."""
        return cls.from_pem(read_key_file(path), path.name)

    @classmethod
    def from_pem(cls, pem: bytes, place: str) -> SigningKey:
        """Inverse of ``pem``; raises ``SiteDataError`` naming the ``place`` the bytes came from."""
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise SiteDataError(
                f"{place} holds no Ed25519 key in PEM", hint="restore it from your copy", code="key-unreadable"
            )
        return cls(key)

    def pem(self) -> bytes:
        """The private key, PKCS #8, as a key file holds it."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def save(self, path: Path) -> None:
        """Write the key for its owner alone, durably; raises ``SiteDataError`` where there is a file already."""
        write_key_file(path, self.pem())

    @property
    def verify_key(self) -> VerifyKey:
        """The public half."""
        return VerifyKey(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, message: bytes) -> bytes:
        """64 bytes over ``message``; raises ``ValueError`` where its first line is not ``consilium-KIND-N``."""
        if not _OPENING.match(message):
            raise ValueError("a message to sign opens with the line consilium-KIND-N, so that kinds stay apart")
        return self._key.sign(message)
