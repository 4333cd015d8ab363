"""One DICOM file with pixels, read but not decoded.

Promises
- ``parse`` accepts the bytes of part 10 files and of bare datasets without preamble. Whatever the bytes are, the only
  exception is ``CaseError``, and its sentence holds no header value but counts.
- What later steps decide on (size, kind, modality, geometry) is read once, here; a file that says something impossible
  is refused before its pixels are decoded.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Literal

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag

from shared.errors import CaseError
from shared.preprocessing.dicom_header import (
    Plane,
    frames_of,
    holders_of,
    modality_of,
    pixel_spacing,
    planes_of,
    text,
    whole,
)
from shared.preprocessing.image import Modality
from shared.preprocessing.quarantine import refuse_oversized, refusing
from shared.preprocessing.readable import Readable, contents

PALETTE = "PALETTE COLOR"
"""The photometric interpretation of stored values that are entries of a colour table."""

_PIXEL_ELEMENTS = tuple(Tag(name) for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
# SOP classes: Segmentation Storage and Label Map Segmentation Storage.
_SEGMENTATIONS = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}


@dataclass(frozen=True, slots=True, eq=False)
class DicomFile:
    """One file that holds pixels, read but not decoded.

    Attributes:
        shape: (frames, channels, rows, columns) after ``decode``.
        kind: what the frames are, by SOP class.
        modality: the plan's name for the modality.
        photometric: how stored values stand for grey or colour.
        planes: where each frame lies, or None where the file does not say.
        spacing_mm: (between rows, between columns), or None where the file does not say.
        dataset: the whole header, which identifies a patient: never shown, logged or stored. Reading an element from it
            may raise anything, and warn with its value, so that belongs inside ``refusing``.
    """

    shape: tuple[int, int, int, int]
    kind: Literal["image", "segmentation", "tiles"]
    modality: Modality
    photometric: str
    planes: tuple[Plane, ...] | None
    spacing_mm: tuple[float, float] | None
    dataset: FileDataset = field(repr=False)


def read_file(file: Readable) -> DicomFile:
    """Read a file's header and its still encoded pixels.

    Raises:
        CaseError: "unreadable-dicom", "no-pixel-data", "image-too-large" or "bad-geometry", or those of ``contents``.
    """
    return described(parse(contents(file)))


def parse(content: bytes) -> FileDataset:
    """All elements of a DICOM file, not yet interpreted; raises ``CaseError`` ("unreadable-dicom")."""
    with refusing("unreadable-dicom", "the file cannot be read as DICOM", "check that the transfer was complete"):
        # Forced: archives of the nineties wrote files without the preamble that marks DICOM today.
        dataset = dcmread(io.BytesIO(content), force=True)
        # pydicom would keep the whole file in memory beside the elements it made of it.
        dataset.buffer = None
        if "SOPClassUID" not in dataset and "Rows" not in dataset:
            raise CaseError(
                "the file is not DICOM, or its header is damaged", hint="fetch it again", code="unreadable-dicom"
            )
        return dataset


def described(dataset: FileDataset) -> DicomFile:
    """What later steps decide on; raises ``CaseError`` as ``read_file``."""
    with refusing("unreadable-dicom", "the header cannot be interpreted", "check that the transfer was complete"):
        if not any(tag in dataset for tag in _PIXEL_ELEMENTS):
            raise CaseError("the DICOM file has no pixel data", hint="send images only", code="no-pixel-data")
        return _described(dataset)


def _described(dataset: FileDataset) -> DicomFile:
    photometric = text(dataset, "PhotometricInterpretation").upper() or "MONOCHROME2"
    channels = 3 if whole(dataset, "SamplesPerPixel") == 3 or photometric == PALETTE else 1
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    if not rows or not columns:
        raise CaseError("the DICOM file does not say how large its image is", code="unreadable-dicom")
    shape = (frames_of(dataset), channels, rows, columns)
    refuse_oversized(shape)
    planes = planes_of(dataset)
    return DicomFile(
        shape=shape,
        kind=_kind(dataset),
        modality=modality_of(dataset),
        photometric=photometric,
        planes=planes,
        spacing_mm=planes[0].spacing_mm if planes else pixel_spacing(holders_of(dataset, 0)),
        dataset=dataset,
    )


def _kind(dataset: Dataset) -> Literal["image", "segmentation", "tiles"]:
    if text(dataset, "SOPClassUID") in _SEGMENTATIONS:
        return "segmentation"
    return "tiles" if "TotalPixelMatrixColumns" in dataset and frames_of(dataset) > 1 else "image"
