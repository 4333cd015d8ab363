"""A file to read, wherever it lies: on disk, inside an archive, or in memory already.

``pathlib.Path`` is one. A file is read whole and once, so that its digest, its header and its pixels come from the same
bytes; nothing can be written through it.

What a file is, is told by its first bytes (``format_of``), never by its name: archives rename files, and people rename
what a viewer refuses to open.
"""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass, field
from typing import Literal, Protocol

from shared.errors import CaseError

Format = Literal["dicom", "nifti", "picture"]

_PREAMBLE = 128  # PS3.10 7.1: anything, then DICM
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_GZIP = b"\x1f\x8b"
# sizeof_hdr, in either byte order: 348 for NIfTI-1, 540 for NIfTI-2.
_NIFTI_SIZES = {size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}
# Where the magic stands, and how it begins: nifti1.h and nifti2.h.
_NIFTI_MAGICS = ((344, b"n+1"), (344, b"ni1"), (4, b"n+2"), (4, b"ni2"))
_HEADER_BYTES = 348


class Readable(Protocol):
    """Bytes with a name; the name may identify a patient and is never shown, logged or stored."""

    @property
    def name(self) -> str:
        """The last part of the path, with its extension."""

    def read_bytes(self) -> bytes:
        """Everything in it; raises ``OSError``."""


@dataclass(frozen=True, slots=True)
class Held:
    """A file that has been read: its name and all its bytes."""

    name: str = field(repr=False)
    content: bytes = field(repr=False)

    def read_bytes(self) -> bytes:
        """Everything in it, without a copy."""
        return self.content


def contents(file: Readable, role: Literal["image", "mask"] = "image") -> bytes:
    """Everything in ``file``.

    Raises:
        CaseError: "image-missing" or "mask-missing" where it is not there, "file-unreadable" where it cannot be read.
    """
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise _missing(role) from None
    except OSError as error:  # its own text would name the path
        reason = error.strerror or "input/output error"
        raise CaseError(
            f"a file of this case cannot be read: {reason}",
            hint="check the permissions and the disk",
            code="file-unreadable",
        ) from None


def _missing(role: Literal["image", "mask"]) -> CaseError:
    if role == "mask":
        return CaseError("the mask file is not there", hint="check the table's column mask", code="mask-missing")
    return CaseError("an image file is not there", hint="check that the source is complete", code="image-missing")


def format_of(content: bytes) -> Format | None:
    """What a file is by its first bytes; None where they do not say (also a DICOM file without its preamble)."""
    if content[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return "dicom"
    if content.startswith(_PICTURES):
        return "picture"
    header = _unpacked(content) if content.startswith(_GZIP) else content
    if header[:4] in _NIFTI_SIZES and any(header[at:].startswith(magic) for at, magic in _NIFTI_MAGICS):
        return "nifti"
    return None


def _unpacked(content: bytes) -> bytes:
    """The first bytes of what a gzip file holds; nothing where it is damaged."""
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(content)).read(_HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        return b""
