"""Files that hold the bytes of many cases; each is written once, by one writer.

Promises
- A segment grows at its end and is never opened for writing again. Its number is new: ``O_EXCL`` lets one writer have
  it, and it is not given again while its file lies there, be it empty.
- When ``flush`` returns, what was appended is on the disk, and so is the file's name. A row may refer to it from then
  on, and only then. A writer that is killed leaves bytes that no row refers to, never half of what one refers to.
- What is appended starts at a multiple of 64 bytes (a cache line, and one AVX-512 load).
- ``view`` copies nothing from a plain segment: the kernel loads what is touched, all processes share it, and it is
  valid for as long as anyone refers to it. From a sealed one (``sealed_segments``) it opens the chunks it touches.
- A full disk is ``CapacityError`` ("disk-full"; "disk-failed" where it gives another reason) and ends the writer: it
  says the same again to whoever goes on. What was flushed before stays good.
- A writer that was given nothing leaves no file.

Which bytes belong to which case is left to ``catalogue``, what they mean to ``keeping``.
"""

from __future__ import annotations

import errno
import io
import math
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from client.data.archive.sealed_segments import SealedSink, SealedSource, Write, plain_length
from shared.crypto.sealing import CHUNK, Bytes
from shared.durable import fsync_folder
from shared.errors import CapacityError, SiteDataError

SEGMENT_BYTES = 2**30
"""From this size on a writer is full: what it holds can be copied, backed up and mapped with ease."""

ALIGNMENT = 64
_SUFFIX = ".segment"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# A mapping holds a file descriptor; a process may have 1,024 of them on most systems.
_MOST_MAPPED = 256


class _Sink(Protocol):
    def put(self, data: memoryview) -> None: ...
    def settle(self) -> int: ...


class _Source(Protocol):
    length: int

    def view(self, offset: int, length: int) -> memoryview: ...


class SegmentWriter:
    """The one writer of a segment. Get it from ``create``; closes with ``close`` or its ``with`` block."""

    def __init__(self, path: Path, file: io.FileIO, key: bytes | None) -> None:
        self._path, self._file, self._key, self._owner = path, file, key, os.getpid()
        self.number = int(path.stem)
        self.size = 0
        """Bytes appended so far, padding included."""
        self._failure: CapacityError | None = None
        with self._unless_failed():
            self._sink: _Sink = _PlainSink(self._write) if key is None else SealedSink(self._write, key)
            fsync_folder(path.parent)

    @classmethod
    def create(cls, folder: Path, key: bytes | None) -> SegmentWriter:
        """Begin the next segment in ``folder``, sealed if there is a ``key`` (32 bytes); raises ``CapacityError``."""
        number = max(numbers(folder), default=0)
        while True:
            number += 1
            try:
                handle = os.open(path_of(folder, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:  # another process was faster
                continue
            except OSError as error:
                raise _failed(folder, 0, error) from None
            return cls(path_of(folder, number), io.FileIO(handle, "wb"), key)

    def __enter__(self) -> SegmentWriter:
        """The writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def append(self, *buffers: Bytes) -> int:
        """Add contiguous bytes, one after another; returns the offset of the first. Raises ``CapacityError``."""
        if os.getpid() != self._owner:
            raise RuntimeError("a segment has one writer: a forked process begins its own")
        with self._unless_failed():
            self._put(memoryview(bytes(-self.size % ALIGNMENT)))
            offset = self.size
            for buffer in buffers:
                self._put(memoryview(buffer))
        return offset

    def flush(self) -> None:
        """Return when everything appended is on the disk; raises ``CapacityError``.

        In a sealed segment the next bytes begin a new chunk of 64 KiB: flush for many cases at once.
        """
        with self._unless_failed():
            self.size += self._sink.settle()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and end; nothing happens where it has ended already."""
        if self._file.closed:
            return
        if self.size:
            self.flush()
        else:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def with_room(self) -> SegmentWriter:
        """This writer, or the next one where this is full: it is flushed and closed then."""
        if self.size < SEGMENT_BYTES:
            return self
        self.close()
        return SegmentWriter.create(self._path.parent, self._key)

    def _put(self, data: memoryview) -> None:
        self._sink.put(data)
        self.size += len(data)

    def _write(self, data: Bytes) -> None:
        # An unbuffered file may take less than it is given, a disk that is nearly full for one.
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]

    @contextmanager
    def _unless_failed(self) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except OSError as error:
            # How much of it was written is unknown: nothing may follow.
            with suppress(OSError):
                self._file.close()
            self._failure = _failed(self._path.parent, self.size, error)
            raise self._failure from None


class Segments:
    """All segments in a folder, for reading; sees those that are added later, too."""

    def __init__(self, folder: Path, key: bytes | None) -> None:
        self._folder, self._key = folder, key
        self._sources: dict[int, _Source] = {}
        self.worth_skipping: float = math.inf if key is None else CHUNK
        """A gap of so many bytes is cheaper to leave out than to read along; a mapping reads only what is touched."""

    def view(self, number: int, offset: int, length: int) -> memoryview:
        """``length`` bytes from ``offset``, read-only; raises ``SiteDataError`` ("archive-damaged")."""
        source = self._sources.get(number)
        if source is None or offset + length > source.length:
            source = self._opened(number)
        if offset < 0 or offset + length > source.length:
            raise damaged(
                f"segment {number} has {source.length} bytes, a case needs those from {offset} to {offset + length}"
            )
        return source.view(offset, length)

    def length(self, number: int) -> int:
        """Bytes of plain text on the disk, as of now; 0 where the file is missing."""
        try:
            size = path_of(self._folder, number).stat().st_size
        except FileNotFoundError:
            return 0
        return size if self._key is None else plain_length(size)

    def _opened(self, number: int) -> _Source:
        mapped = _mapped(path_of(self._folder, number), number)
        source = _PlainSource(mapped) if self._key is None else SealedSource(mapped, self._key)
        self._sources.pop(number, None)
        if len(self._sources) >= _MOST_MAPPED:
            # Not closed: views of it may be in use, and the last of them takes it along.
            del self._sources[next(iter(self._sources))]
        self._sources[number] = source
        return source


class _PlainSink:
    def __init__(self, write: Write) -> None:
        self.put: Write = write

    def settle(self) -> int:
        return 0


class _PlainSource:
    def __init__(self, mapped: memoryview) -> None:
        self._mapped, self.length = mapped, len(mapped)

    def view(self, offset: int, length: int) -> memoryview:
        return self._mapped[offset : offset + length]


def path_of(folder: Path, number: int) -> Path:
    """Where a segment lies; a number is all that its name says."""
    return folder / f"{number:06d}{_SUFFIX}"


def numbers(folder: Path) -> list[int]:
    """Of all segments in ``folder``, in order, empty ones included."""
    return sorted(int(path.stem) for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal())


def release(folder: Path, number: int) -> None:
    """Give a segment's room back; an empty file keeps its number, lest a reader that maps it meet another's bytes."""
    empty = path_of(folder, number).with_suffix(".empty")
    os.close(os.open(empty, os.O_WRONLY | os.O_CREAT, 0o600))
    empty.replace(path_of(folder, number))


def damaged(what: str) -> SiteDataError:
    """The error for bytes that are not what was stored."""
    return SiteDataError(
        what,
        hint="check the disk; then ingest the same sources with --check-stored, or restore the folder from a copy",
        code="archive-damaged",
    )


def _mapped(path: Path, number: int) -> memoryview:
    try:
        with path.open("rb") as file:
            # A mapping must not be empty.
            empty = os.fstat(file.fileno()).st_size == 0
            return memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise damaged(f"segment {number} cannot be read: {error.strerror}") from None


def _failed(folder: Path, size: int, error: OSError) -> CapacityError:
    hint = "free some space, then run the same command again: what is stored stays"
    if error.errno not in _NO_ROOM:
        said = f"a segment cannot be written after {size / 2**20:.1f} MiB: {error.strerror}"
        return CapacityError(said, hint=hint.replace("free some space", "check the disk"), code="disk-failed")
    free = shutil.disk_usage(folder).free
    return CapacityError(
        f"no room after {size / 2**20:.1f} MiB of a segment; the disk has {free / 2**20:.0f} MiB left",
        hint=hint,
        code="disk-full",
    )
