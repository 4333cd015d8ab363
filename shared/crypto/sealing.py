"""Bytes at rest under AES-256-GCM (NIST SP 800-38D), in chunks that open one by one.

Promises
- Each file has a key of its own: HKDF-SHA256 (RFC 5869) of the site's key, salted with 32 bytes that the operating
  system drew for that file. A chunk's nonce is its position in the file. No pair of key and nonce is used twice as long
  as a file has one writer that seals each position once: ``client.data.archive.sealed_segments``.
- A chunk opens in its own file at its own position or not at all: changed, moved, swapped with one of another file or
  sealed under another key, it is refused.
- A text is sealed under a key of its own, too, and opens only beside what it was bound to (``seal_text``).
- ``key_check`` tells a wrong key from damage before anything is opened. It says nothing about the key.

Not promised: that the end of a file is there. Its writer may be killed at any moment, so no chunk can be marked as the
last; how long a file must be is known to those who refer to it. Sizes of files are not hidden.

A chunk costs 16 bytes and about 0.6 µs. 64 KiB is where a longer one gains little (measured: 10.9 GB/s at 16 KiB, 16.5
at 64, 18.9 at 256), and random patches of 64³ from a CT of 512² take least time: they open more bytes of longer chunks,
and wait longer for more of shorter ones.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

CHUNK = 2**16
"""Bytes of plain text in a chunk."""

SEALED_CHUNK = CHUNK + 16
"""Bytes of a sealed chunk: the text, and GCM's tag."""

SALT_BYTES = 32
_KEY_BYTES = 32
_NONCE_BYTES = 12
_FILE, _TEXT, _CHECK = b"consilium-sealed-file-1", b"consilium-sealed-text-1", b"consilium-key-check-1"

Bytes = bytes | bytearray | memoryview


class UnsealableError(Exception):
    """A chunk is not what was sealed at this position of this file under this key."""


class Sealer:
    """Seals and opens the chunks of one file."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._cipher = AESGCM(_derived(key, salt, _FILE))

    def seal(self, position: int, plain: Bytes, sealed: bytearray) -> None:
        """Seal ``CHUNK`` bytes into ``SEALED_CHUNK`` bytes; each ``position`` once in the life of a file."""
        self._cipher.encrypt_into(_nonce(position), plain, None, sealed)

    def open(self, position: int, sealed: Bytes, plain: Bytes) -> None:
        """Inverse of ``seal``; raises ``UnsealableError``."""
        try:
            self._cipher.decrypt_into(_nonce(position), sealed, None, plain)
        except InvalidTag:
            raise UnsealableError from None


def new_salt() -> bytes:
    """``SALT_BYTES`` bytes for a new file; among 2^64 files two are alike with probability 2^-128."""
    return os.urandom(SALT_BYTES)


def seal_text(key: bytes, text: str, bound: str) -> str:
    """``text`` sealed, as hexadecimal digits; it opens only with the same ``bound``, which stays readable."""
    salt = new_salt()
    cipher = AESGCM(_derived(key, salt, _TEXT))
    return (salt + cipher.encrypt(_nonce(0), text.encode(), bound.encode())).hex()


def open_text(key: bytes, sealed: str, bound: str) -> str:
    """Inverse of ``seal_text``; raises ``UnsealableError``."""
    try:
        content = bytes.fromhex(sealed)
        cipher = AESGCM(_derived(key, content[:SALT_BYTES], _TEXT))
        return cipher.decrypt(_nonce(0), content[SALT_BYTES:], bound.encode()).decode()
    except (ValueError, InvalidTag):
        raise UnsealableError from None


def key_check(key: bytes, salt: bytes) -> str:
    """64 hexadecimal digits by which ``key`` is known again; HKDF keeps them apart from every file's key."""
    return _derived(key, salt, _CHECK).hex()


def _derived(key: bytes, salt: bytes, purpose: bytes) -> bytes:
    if len(key) != _KEY_BYTES:
        raise ValueError(f"a key for sealing has {_KEY_BYTES} bytes, this one has {len(key)}")
    return HKDF(SHA256(), _KEY_BYTES, salt, purpose).derive(key)


def _nonce(position: int) -> bytes:
    return position.to_bytes(_NONCE_BYTES, "big")
