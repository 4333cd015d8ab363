"""What a folder's DICOM headers say, as far as it takes to sort files into cases.

Promises
- ``scan`` reads the header of every file below a folder and no pixel; it never raises for a file. What cannot be read,
  or lies outside the folder by a link, is quarantined under the salted name of its path.
- Hidden files and objects without pixels (reports, RT structures, DICOMDIR) are passed over.
- The order is that of SOP Instance UIDs, so that names and moments of an export change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from client.data.case_files import Quarantined, Salt
from shared.errors import CaseError
from shared.preprocessing.dicom_header import modality_of
from shared.preprocessing.image import Modality
from shared.preprocessing.quarantine import refusing

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage (PS3.4 B.5); pydicom 3.0.2 has no name for the second."""
_PIXELS_EXPECTED = "Image Storage"
"""How the names of SOP classes end (PS3.6 A) whose objects cannot be without Rows, unless they were cut off."""
_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "Modality",
    "Rows",
    "ReferencedSeriesSequence",
)


@dataclass(frozen=True, slots=True)
class Header:
    """One file with pixels.

    Attributes:
        path: the file.
        instance: SOP Instance UID.
        series: Series Instance UID.
        person: PatientID, "" where the file does not say.
        modality: as the plan names it.
        segments: Series Instance UIDs that a segmentation object refers to; None for an image.
    """

    path: Path = field(repr=False)
    instance: str = field(repr=False)
    series: str = field(repr=False)
    person: str = field(repr=False)
    modality: Modality
    segments: tuple[str, ...] | None = field(default=None, repr=False)


def scan(folder: Path, salt: Salt) -> tuple[list[Header], list[Quarantined]]:
    """Headers of all files with pixels below ``folder``, and what could not be read."""
    headers: list[Header] = []
    unreadable: list[Quarantined] = []
    for path in _files(folder):
        try:
            header = read_header(path, folder)
        except CaseError as error:
            name = salt.case("file", path.relative_to(folder).as_posix())
            unreadable.append(Quarantined(name, error.code, error.sentence))
        else:
            headers += [header] if header else []
    return sorted(headers, key=lambda header: (header.instance, str(header.path))), unreadable


def read_header(path: Path, folder: Path) -> Header | None:
    """The header of one file, None for an object without pixels; raises ``CaseError``."""
    with refusing("unreadable-dicom", "a file cannot be read as DICOM", "remove it or export it again"):
        if not path.is_file():
            raise CaseError("this is no regular file", hint="remove it", code="unreadable-dicom")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CaseError("a link leads out of the folder", hint="copy the file itself", code="path-outside")
        # Other elements are skipped unread: a broken value in one of them is no reason to lose the image.
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
        # A DICOMDIR has no SOP Class of its own, only that of its file (PS3.10 8.6).
        kind = _text(dataset, "SOPClassUID") or _text(dataset.file_meta, "MediaStorageSOPClassUID")
        if dataset.get("Rows"):
            return _header(path, dataset)
        if not kind or UID(kind).name.endswith(_PIXELS_EXPECTED):
            raise CaseError("a file is not DICOM, or cut off", hint="export it again", code="unreadable-dicom")
        return None


def _header(path: Path, dataset: Dataset) -> Header:
    instance, series = _text(dataset, "SOPInstanceUID"), _text(dataset, "SeriesInstanceUID")
    if not instance or not series:
        raise CaseError(
            "a DICOM file lacks its SOP Instance or Series Instance UID", hint="export it again", code="dicom-no-uid"
        )
    segments = None
    if _text(dataset, "SOPClassUID") in _SEGMENTATIONS:
        segments = tuple(_text(item, "SeriesInstanceUID") for item in dataset.get("ReferencedSeriesSequence") or ())
    return Header(path, instance, series, _text(dataset, "PatientID"), modality_of(dataset), segments)


def _text(dataset: Dataset, name: str) -> str:
    return str(dataset.get(name) or "").strip("\0 ")


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and not path.is_dir():
            yield path
