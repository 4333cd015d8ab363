"""Files inside a .zip archive, which is read like a folder.

Promises
- ``members`` reads the table of contents and no content. An archive as a whole is refused under "archive-broken",
  "archive-encrypted" or "archive-bomb" (``CaseError``): it declares more than an honest export can hold.
- ``unpacked`` gives one member's bytes and never more of them than the member declares; whatever does not agree with
  length or checksum is an ``OSError``, as from a bad disk. It needs no table of contents: reading all members of an
  archive takes time in proportion to their number.
- Nothing is unpacked to disk, so that names in an archive can reach no other file.

Archives inside an archive are left closed.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.errors import CaseError
from shared.preprocessing.quarantine import refusing

LARGEST_BYTES = 2**32
"""Of one member: 2**30 samples as float32, the largest image that is read at all."""

_SMALL_BYTES = 2**26
# Deflate reaches 1032 : 1 on zeros. CT and MR pack 2 : 1 to 4 : 1, masks up to 100 : 1.
_RATIO = 200
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# APPNOTE 4.3.7: the local header has 30 bytes, the last four of which are the lengths of name and extra field.
_LOCAL = struct.Struct("<4s22xHH")
_SIGNATURE = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Member:
    """Where one file lies in its archive.

    Attributes:
        name: path within the archive.
        offset: of the local header, in bytes.
        packed: length as it lies there.
        size: length when unpacked.
        method: 0 stored, 8 deflated.
        crc: CRC-32 when unpacked.
    """

    name: str = field(repr=False)
    offset: int
    packed: int
    size: int
    method: int
    crc: int


def members(path: str) -> list[Member]:
    """All files of the archive at ``path``, by name; raises ``CaseError``."""
    with refusing("archive-broken", "a .zip archive cannot be opened", "pack it again"), zipfile.ZipFile(path) as file:
        entries = [entry for entry in file.infolist() if not entry.is_dir()]
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise CaseError("a .zip archive is encrypted", hint="unpack it first", code="archive-encrypted")
    if any(entry.compress_type not in _METHODS for entry in entries):
        raise CaseError("a .zip archive is packed in a rare way", hint="pack it with deflate", code="archive-broken")
    _refuse_bomb(entries)
    found = [
        Member(one.filename, one.header_offset, one.compress_size, one.file_size, one.compress_type, one.CRC)
        for one in entries
    ]
    return sorted(found, key=lambda member: (member.name, member.offset))


def _refuse_bomb(entries: Sequence[zipfile.ZipInfo]) -> None:
    """Judged by what is declared, which ``unpacked`` holds every member to."""
    # Members that overlap make a small archive large without any suspicious ratio: only the sum can tell.
    end = max((entry.header_offset + entry.compress_size for entry in entries), default=0)
    pairs = [(sum(entry.file_size for entry in entries), end)]
    pairs += [(entry.file_size, entry.compress_size) for entry in entries]
    largest = max((entry.file_size for entry in entries), default=0)
    if largest > LARGEST_BYTES or any(size > _SMALL_BYTES and size > _RATIO * packed for size, packed in pairs):
        raise CaseError(
            f"a .zip archive of {len(entries)} files declares {pairs[0][0]} bytes in {end}",
            hint="unpack it where there is room, and look at it",
            code="archive-bomb",
        )


def unpacked(path: str, member: Member, most: int = LARGEST_BYTES) -> bytes:
    """The first ``most`` bytes of ``member``, checked where that is all of them; raises ``OSError``."""
    with open(path, "rb") as file:  # noqa: PTH123 - a string takes a quarter of the memory of a Path
        file.seek(member.offset)
        local = file.read(_LOCAL.size)
        if len(local) < _LOCAL.size or not local.startswith(_SIGNATURE):
            raise OSError("the archive has changed")
        _, name, extra = _LOCAL.unpack(local)
        file.seek(name + extra, 1)
        wanted = min(most, member.size)
        content = _content(file.read(_to_read(member, wanted)), member, wanted)
    if len(content) != wanted or (wanted == member.size and zlib.crc32(content) != member.crc):
        raise OSError("a file in the archive is damaged")
    return content


def _to_read(member: Member, wanted: int) -> int:
    # Deflate never makes more than a thousandth longer: what is wanted lies within so many packed bytes.
    return min(member.packed, wanted + wanted // 1000 + 64)


def _content(packed: bytes, member: Member, wanted: int) -> bytes:
    if member.method == zipfile.ZIP_STORED:
        return packed[:wanted]
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, wanted) if wanted else b""
    except zlib.error:
        raise OSError("a file in the archive is damaged") from None
