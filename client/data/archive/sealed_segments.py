"""Segments under AES-256-GCM: the same bytes at the same offsets, on disk in sealed chunks.

::

    "consilium-sealed-1", a line feed, zeros to 32 bytes | salt, 32 bytes | chunk 0 | chunk 1 | ...

Promises
- Each position is sealed once: only whole chunks are written, one after another, by a writer that never opens a file
  again. What would leave a chunk half full is padded with zeros when it must reach the disk (``settle``).
- A view opens the chunks it touches and no others.
- A chunk that was changed or moved is ``SiteDataError`` ("archive-damaged").

The cryptography is left to ``shared.crypto.sealing``; files, numbers and locks to ``segments``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shared.crypto.sealing import CHUNK, SALT_BYTES, SEALED_CHUNK, Bytes, Sealer, UnsealableError, new_salt
from shared.errors import SiteDataError

_OPENING = b"consilium-sealed-1\n".ljust(32, b"\0")
_HEADER = len(_OPENING) + SALT_BYTES

Write = Callable[[Bytes], None]
"""Writes all bytes to the end of a file."""


class SealedSink:
    """Takes plain text, writes whole sealed chunks."""

    def __init__(self, write: Write, key: bytes) -> None:
        salt = new_salt()
        self._write, self._sealer = write, Sealer(key, salt)
        self._held, self._filled, self._position = bytearray(CHUNK), 0, 0
        self._sealed = bytearray(SEALED_CHUNK)
        write(_OPENING + salt)

    def put(self, data: memoryview) -> None:
        """Append; up to a chunk is held in memory until ``settle``."""
        while data:
            room = CHUNK - self._filled
            part, data = data[:room], data[room:]
            if len(part) == CHUNK:
                self._seal(part)
            else:
                self._hold(part)

    def settle(self) -> int:
        """Write what is held, padded to a whole chunk; returns how many zeros were added."""
        padding = -self._filled % CHUNK
        self.put(memoryview(bytes(padding)))
        return padding

    def _hold(self, part: memoryview) -> None:
        self._held[self._filled : self._filled + len(part)] = part
        self._filled += len(part)
        if self._filled == CHUNK:
            self._filled = 0
            self._seal(self._held)

    def _seal(self, chunk: Bytes) -> None:
        # Counted before it is used: not even a failed write lets a nonce come twice.
        position, self._position = self._position, self._position + 1
        self._sealer.seal(position, chunk, self._sealed)
        self._write(self._sealed)


class SealedSource:
    """A sealed segment, mapped; ``length`` is that of the plain text."""

    def __init__(self, mapped: memoryview, key: bytes) -> None:
        if len(mapped) < _HEADER or mapped[: len(_OPENING)] != _OPENING:
            raise SiteDataError(
                f"a segment of {len(mapped)} bytes does not open as one that was sealed here",
                hint="restore the data set's folder from a copy, or ingest again into a new data set",
                code="archive-damaged",
            )
        self._sealer = Sealer(key, bytes(mapped[len(_OPENING) : _HEADER]))
        self._chunks = mapped[_HEADER:]
        self.length = plain_length(len(mapped))

    def view(self, offset: int, length: int) -> memoryview:
        """Plain text of ``length`` bytes from ``offset``, all of which are there; raises ``SiteDataError``."""
        first, behind = offset // CHUNK, -(-(offset + length) // CHUNK)
        # Not a bytearray, which would be filled with zeros first.
        plain = np.empty((behind - first) * CHUNK, np.uint8).data
        try:
            for number, position in enumerate(range(first, behind)):
                sealed = self._chunks[position * SEALED_CHUNK : (position + 1) * SEALED_CHUNK]
                self._sealer.open(position, sealed, plain[number * CHUNK : (number + 1) * CHUNK])
        except UnsealableError:
            raise SiteDataError(
                f"chunk {position} of a sealed segment was changed or moved",
                hint="restore the data set's folder from a copy, or ingest again into a new data set",
                code="archive-damaged",
            ) from None
        start = offset - first * CHUNK
        return plain[start : start + length].toreadonly()


def plain_length(size: int) -> int:
    """Bytes of plain text in a sealed file of ``size`` bytes; a chunk that was cut off does not count."""
    return max(0, size - _HEADER) // SEALED_CHUNK * CHUNK
