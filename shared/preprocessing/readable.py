"""A file to read, wherever it lies: on disk, or inside an archive.

``pathlib.Path`` is one. A file is read whole and once, so that its digest, its header and its pixels come from the same
bytes; nothing can be written through it.
"""

from __future__ import annotations

from typing import Protocol


class Readable(Protocol):
    """Bytes with a name; the name may identify a patient and is never shown, logged or stored."""

    @property
    def name(self) -> str:
        """The last part of the path, with its extension."""

    def read_bytes(self) -> bytes:
        """Everything in it; raises ``OSError``."""
