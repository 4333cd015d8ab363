"""Key files that a passphrase opens, or that are plain.

Promises
- Under a passphrase the file holds AES-256-GCM of the key's PEM (``shared.crypto.sealing``), under a key that scrypt
  (RFC 7914; N = 2^17, r = 8, p = 1: 128 MiB, about half a second) makes of the passphrase and a salt of the file's own.
  The encryption that comes with PKCS #8 here runs PBKDF2 2048 times, which is 0.4 ms for a guess: too fast for
  passphrases that people can remember.
- Without one it is the PEM itself. Either way its owner alone can read it (``key_files``).
- A passphrase is asked for only where a file needs one, and no error and no ``repr`` shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from shared.crypto.key_files import read_key_file, write_key_file
from shared.crypto.sealing import UnsealableError, new_salt, open_text, seal_text
from shared.errors import FederationError

Passphrase = Callable[[], bytes]
"""Gives the passphrase when a file needs it; raises ``ConsiliumError`` where there is none to be had."""

FEWEST_CHARACTERS = 12
_KIND = "consilium-locked-key-1"
_N, _R, _P = 2**17, 8, 1


def require_passphrase(passphrase: bytes) -> bytes:
    """``passphrase`` if it is long enough; raises ``FederationError`` ("passphrase-short")."""
    count = len(passphrase.decode("utf-8", "replace"))
    if count < FEWEST_CHARACTERS:
        raise FederationError(
            f"the passphrase has {count} characters, {FEWEST_CHARACTERS} are needed",
            hint="take four words or more",
            code="passphrase-short",
        )
    return passphrase


def write_locked(path: Path, pem: bytes, passphrase: bytes | None) -> None:
    """Write a key, under ``passphrase`` unless that is None; raises ``SiteDataError`` where there is a file already."""
    write_key_file(path, pem if passphrase is None else _locked(path.name, pem, passphrase))


def read_locked(path: Path, passphrase: Passphrase) -> bytes:
    """The PEM that ``write_locked`` was given.

    Raises:
        SiteDataError: the file is missing or open to others.
        FederationError: the passphrase does not open it ("passphrase-wrong"), or it is damaged ("key-damaged").
    """
    content = read_key_file(path)
    if content.startswith(b"-----BEGIN "):
        return content
    try:
        held = json.loads(content)
        salt, sealed = bytes.fromhex(held["salt"]), str(held["sealed"])
        known = held["kind"] == _KIND
    except (ValueError, TypeError, KeyError, RecursionError):
        known, salt, sealed = False, b"", ""
    if not known:
        raise FederationError(
            f"the key file {path.name} is neither PEM nor a locked key",
            hint="restore it from your copy",
            code="key-damaged",
        )
    try:
        return open_text(_stretched(passphrase(), salt), sealed, path.name).encode("ascii")
    except UnsealableError:
        raise FederationError(
            f"the passphrase does not open {path.name}, or the file was damaged",
            hint="try again; then restore the file from your copy",
            code="passphrase-wrong",
        ) from None


def _locked(name: str, pem: bytes, passphrase: bytes) -> bytes:
    salt = new_salt()
    sealed = seal_text(_stretched(passphrase, salt), pem.decode("ascii"), name)
    return json.dumps({"kind": _KIND, "salt": salt.hex(), "sealed": sealed}, sort_keys=True).encode() + b"\n"


def _stretched(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_N, r=_R, p=_P).derive(passphrase)
