"""Files that hold a key: for their owner alone, written once.

Promises
- A key file is made with mode 0600, under a name that was free, and is on the disk when the call returns.
- One that its group or others may read is not used: they may have. The answer is the ``chmod`` to type.
- A secret is 64 hexadecimal digits, so that it can be kept on paper. No error repeats any of them.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from shared.durable import fsync_folder
from shared.errors import SiteDataError

SECRET_BYTES = 32
_SECRET = re.compile(r"[0-9a-fA-F]{64}")
_MODE = 0o600


def write_key_file(path: Path, content: bytes) -> None:
    """Write ``content`` for its owner alone, durably; raises ``SiteDataError`` ("key-exists") rather than overwrite."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    except FileExistsError:
        raise SiteDataError(
            f"there is a key in {path.name} already", hint="a key is never overwritten; move it away", code="key-exists"
        ) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    fsync_folder(path.parent)


def read_key_file(path: Path) -> bytes:
    """Everything in a key file; raises ``SiteDataError`` where it is missing or open to others."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except FileNotFoundError:
        raise SiteDataError(
            f"there is no key file {path.name}", hint="restore it from your copy", code="key-missing"
        ) from None
    except OSError as error:
        raise SiteDataError(
            f"the key file {path.name} cannot be read: {error.strerror}",
            hint="run this as the user that owns the site folder",
            code="key-unreadable",
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SiteDataError(
            f"the key file {path.name} is open to others (mode {mode:04o}, expected {_MODE:04o})",
            hint=f"chmod {_MODE:o} {path}",
            code="key-permissions",
        )
    return content


def write_secret(path: Path, secret: bytes) -> None:
    """Write 32 secret bytes as ``write_key_file`` does."""
    write_key_file(path, secret.hex().encode() + b"\n")


def read_secret(path: Path) -> bytes:
    """Inverse of ``write_secret``; raises ``SiteDataError``."""
    return secret_from_hex(read_key_file(path).decode("ascii", "replace"), f"the key file {path.name}")


def secret_from_hex(text: str, place: str) -> bytes:
    """32 bytes from 64 hexadecimal digits; raises ``SiteDataError`` naming the ``place`` they came from."""
    if not _SECRET.fullmatch(text.strip()):
        raise SiteDataError(
            f"{place} holds {len(text.strip())} characters, expected 64 hexadecimal digits",
            hint="restore it from your copy; a new one does not open what the old one closed",
            code="secret-form",
        )
    return bytes.fromhex(text.strip())
