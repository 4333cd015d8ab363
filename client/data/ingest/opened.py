"""A file of a case, read once: its digest, and what it holds.

Promises
- Digest, header and pixels come from the same bytes. What a file is, its first bytes say.
- ``remembering`` keeps the last answer of a reader, also where it is a refusal: cases that come one after another often
  need the same file of several frames, or the same mask of a series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeVar, TypeVarTuple

from pydicom.dataset import FileDataset

from shared.errors import CaseError
from shared.preprocessing.dicom_file import DicomFile, described, parse
from shared.preprocessing.readable import Format, Held, Readable, contents, format_of

Arguments = TypeVarTuple("Arguments")
Answer = TypeVar("Answer")

_DICOM_NAMES = (".dcm", ".dicom")


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """One file.

    Attributes:
        sha256: of its bytes, 32 of them.
        format: by its first bytes; what says nothing about itself is tried as DICOM without preamble.
        held: the bytes; none for DICOM, whose elements hold them.
        dataset: of DICOM.
    """

    sha256: bytes
    format: Format
    held: Held = field(repr=False)
    dataset: FileDataset | None = field(repr=False)


def open_file(file: Readable, role: Literal["image", "mask"] = "image") -> Opened:
    """Read ``file``; raises ``CaseError``: those of ``contents``, "unreadable-dicom", or "format-mismatch"."""
    content = contents(file, role)
    sha256, kind = hashlib.sha256(content).digest(), format_of(content) or "dicom"
    if kind == "dicom":
        return Opened(sha256, kind, Held(file.name, b""), parse(content))
    if file.name.lower().endswith(_DICOM_NAMES):
        raise CaseError(
            "the file is named as DICOM and is not: whatever its header said is lost",
            hint="export it again from the archive",
            code="format-mismatch",
        )
    return Opened(sha256, kind, Held(file.name, content), None)


def described_file(opened: Opened) -> DicomFile:
    """What a DICOM file says of itself; raises ``CaseError`` as ``described``, or "mixed-formats" for any other."""
    if opened.dataset is None:
        raise CaseError(
            "the file is no DICOM file, others of its case are", hint="keep one format a case", code="mixed-formats"
        )
    return described(opened.dataset)


def digest_of(files: Iterable[bytes]) -> str:
    """One digest for the digests of files: 64 hexadecimal digits, whatever their order, each counted once."""
    return hashlib.sha256(b"".join(sorted(set(files)))).hexdigest()


def remembering(read: Callable[[*Arguments], Answer]) -> Callable[[*Arguments], Answer]:
    """``read``, which is not asked twice in a row for the same; arguments must be hashable."""
    last: dict[tuple[*Arguments], Answer | CaseError] = {}

    def recall(*asked: *Arguments) -> Answer:
        if asked not in last:
            # Before the next is read: two volumes need not fit into memory at once.
            last.clear()
            last[asked] = _attempt(read, *asked)
        answer = last[asked]
        if isinstance(answer, CaseError):
            # A new one: what is raised again would drag all frames it ever passed along.
            raise CaseError(answer.sentence, hint=answer.hint, code=answer.code)
        return answer

    return recall


def _attempt(read: Callable[[*Arguments], Answer], *asked: *Arguments) -> Answer | CaseError:
    try:
        return read(*asked)
    except CaseError as refusal:
        return refusal
