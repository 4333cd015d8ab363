"""What a compressed frame says of itself, before a decoder believes it.

Promises
- ``require_modest`` refuses a codestream that declares more samples than its header does: native decoders take its word
  and ask for gigabytes, or minutes, before they notice that the data ends.
- It refuses a JP2 box of length 0 before the image, at which pydicom 3.0 waits for ever.

JPEG and JPEG-LS tell their size in a frame header (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2), JPEG 2000 in its SIZ segment
(15444-1 A.5.1). What is none of these, or is damaged before that, is left to the decoders.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.errors import CaseError

_SOI, _SOC_SIZ = b"\xff\xd8", b"\xff\x4f\xff\x51"
_JP2 = b"\0\0\0\x0cjP  "
# Start of frame: 0xC0 to 0xCF but for tables (C4), extensions (C8) and conditioning (CC); 0xF7 is JPEG-LS.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def require_modest(fragments: Iterable[bytes], samples: int) -> None:
    """Raise ``CaseError`` ("undecodable-pixels") where a codestream declares more than ``samples`` values."""
    for fragment in fragments:
        declared = declared_samples(fragment)
        if declared > samples:
            raise CaseError(
                f"a compressed frame declares {declared} samples, its header {samples}",
                hint="compare with the archive's copy",
                code="undecodable-pixels",
            )


def declared_samples(fragment: bytes) -> int:
    """Rows x columns x components that the codestream at the start of ``fragment`` declares; 0 where it says nothing.

    Raises:
        CaseError: "undecodable-pixels" for boxes that never end.
    """
    if fragment.startswith(_SOI):
        return _jpeg_samples(fragment)
    start = _after_boxes(fragment) if fragment.startswith(_JP2) else 0
    siz = fragment[start : start + 42]
    if not siz.startswith(_SOC_SIZ) or len(siz) < 42:
        return 0
    right, bottom, left, top = (int.from_bytes(siz[at : at + 4]) for at in (8, 12, 16, 20))
    return max(right - left, 0) * max(bottom - top, 0) * int.from_bytes(siz[40:42])


def _jpeg_samples(fragment: bytes) -> int:
    at = len(_SOI)
    while at + 10 <= len(fragment) and fragment[at] == 0xFF:
        if fragment[at + 1] in _FRAMES:
            # Marker, length, precision, rows, columns, components.
            return (
                int.from_bytes(fragment[at + 5 : at + 7]) * int.from_bytes(fragment[at + 7 : at + 9]) * fragment[at + 9]
            )
        at += 2 + int.from_bytes(fragment[at + 2 : at + 4])
    return 0


def _after_boxes(fragment: bytes) -> int:
    """Where the codestream begins in a JP2 file (15444-1 I.4)."""
    at = int.from_bytes(_JP2[:4])
    while at < len(fragment):
        if fragment[at + 4 : at + 8] == b"jp2c":
            return at + 8
        length = int.from_bytes(fragment[at : at + 4])
        if length == 0:
            raise CaseError(
                "a compressed frame has a box without an end", hint="fetch it again", code="undecodable-pixels"
            )
        at += length
    return at
