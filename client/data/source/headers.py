"""What a DICOM header says about a file, as far as it takes to sort files into cases; identifiers end here.

Promises
- ``read_header`` reads no pixel and raises nothing but ``CaseError``. Elements that are not needed are skipped unread:
  a broken value in one of them is no reason to lose the image.
- Everything in a ``Header`` is salted or says nothing about a person. One identifier gives one salted name, wherever it
  stands.
- A patient is PatientID alone. The same number under two issuers counts as one person: taking two people for one costs
  a little accuracy, taking one person for two would let them into two splits and halve what protects them.
- ``aliases`` are what else tells people apart: PatientID however it was typed, name with birth date and sex, and the
  study, which belongs to one person.
- Objects without pixels (reports, waveforms, plans, DICOMDIR) are None, but for structure sets, which are masks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, Literal

from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from client.data.case_files import Salt
from client.data.source.files import SourceFile
from client.data.source.kinds import HEAD_BYTES
from shared.errors import CaseError
from shared.preprocessing.dicom_header import frames_of, items, modality_of, planes_of, text
from shared.preprocessing.image import Modality
from shared.preprocessing.quarantine import refusing

Role = Literal["image", "segmentation", "structures"]
Place = tuple[float, float, float]

MOST_FRAMES = 2**16
"""Frames that one file may hold as images of their own: an hour of ultrasound has 54,000 at 15 a second."""

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage (PS3.4 B.5); pydicom 3.0.2 has no name for the second."""
_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
_PIXELS_EXPECTED = "Image Storage"
"""How the names of SOP classes end (PS3.6 A) whose objects cannot be without Rows, unless they were cut off."""
_TAGS: list[BaseTag | int] = [
    Tag(name)
    for name in (
        "SOPClassUID", "SOPInstanceUID", "Modality", "ReferencedSeriesSequence",
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
        "ImagerPixelSpacing", "NominalScannedPixelSpacing", "SpacingBetweenSlices",
        "StudyInstanceUID", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient",
        "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "TotalPixelMatrixColumns",
        "DetectorInformationSequence", "SliceVector", "GridFrameOffsetVector", "ReferencedFrameOfReferenceSequence",
        "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    )
]  # fmt: skip
_POSITION, _FRAMES, _ROWS = (int(Tag(name)) for name in ("ImagePositionPatient", "NumberOfFrames", "Rows"))
# After group 28 only files of several frames, without pixels, or without a position at top level, have more to say.
_DESCRIBED, _PIXELS = 0x0029, 0x7FE0
_KNOWN = 2**12
# A byte above 127, and the escape that begins another character set (PS3.5 6.1.2.5.3).
_NOT_ASCII = frozenset("\N{REPLACEMENT CHARACTER}\x1b")


@dataclass(frozen=True, slots=True)
class Header:
    """One file with pixels, or the outlines of a structure set.

    Attributes:
        file: where it lies.
        role: what it is.
        case: name of the case that its series makes as a volume.
        frame_cases: names of the cases that its frames make as images, one for each frame.
        instance: salted SOP Instance UID.
        series: salted Series Instance UID.
        study: salted Study Instance UID, "" where there is none.
        patient: salted name of the person, "" where the file does not say.
        aliases: see ``Salt.alias``.
        modality: as the plan names it.
        places: up to two different positions of its frames in LPS mm; none where they are not placed in space.
        refers: salted Series Instance UIDs that a mask was drawn on.
        instances: salted SOP Instance UIDs that a mask names, of those series.
    """

    file: SourceFile
    role: Role
    case: str
    frame_cases: tuple[str, ...]
    instance: str
    series: str
    study: str
    patient: str
    aliases: tuple[str, ...]
    modality: Modality
    places: tuple[Place, ...] = ()
    refers: tuple[str, ...] = ()
    instances: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Names:
    """Salted names, each made once while the same identifier comes again and again."""

    uid: Callable[[str], str]
    person: Callable[..., str]
    case: Callable[..., str]
    alias: Callable[..., str]

    @staticmethod
    def of(salt: Salt) -> Names:
        """For one search."""
        kept = lru_cache(_KNOWN)
        return Names(kept(salt.uid), kept(salt.person), salt.case, kept(salt.alias))


def read_header(file: SourceFile, head: bytes, names: Names) -> Header | None:
    """What a file says; None for an object without pixels.

    Args:
        file: to read.
        head: its first ``HEAD_BYTES``, or all of it where that is less.
        names: salts what it says.

    Raises:
        CaseError: "unreadable-dicom", "dicom-no-uid", "tiled-image" or "image-too-large".
    """
    with refusing("unreadable-dicom", "a file cannot be read as DICOM", "remove it or export it again"):
        dataset = _dataset(file, head)
        # A DICOMDIR has no SOP Class of its own, only that of its file (PS3.10 8.6).
        kind = text(dataset, "SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID") or "")
        if not dataset.get("Rows") and kind != _STRUCTURES:
            if not kind or UID(kind).name.endswith(_PIXELS_EXPECTED):
                raise CaseError("a file is not DICOM, or cut off", hint="export it again", code="unreadable-dicom")
            return None
        role: Role = "structures" if kind == _STRUCTURES else "segmentation" if kind in _SEGMENTATIONS else "image"
        return _header(file, role, dataset, names)


def _dataset(file: SourceFile, head: bytes) -> FileDataset:
    """The elements that are needed: from the head alone where it holds them, which saves most of the reading."""
    if len(head) < HEAD_BYTES:
        return _read(io.BytesIO(head))[0]
    try:
        dataset, complete = _read(io.BytesIO(head))
    except Exception:  # noqa: BLE001 - the head ends within an element
        complete = False
    if not complete:
        with file.open() as whole:
            dataset, _ = _read(whole)
    return dataset


def _read(file: BinaryIO) -> tuple[FileDataset, bool]:
    """The elements that are needed, and whether reading ended before the file did."""
    met: list[int] = []

    def enough(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        # Shifted, because comparing a BaseTag costs as much as reading an element.
        group = tag >> 16
        if group < _POSITION >> 16:
            return False
        if group < _DESCRIBED:
            met.extend({int(tag)} & {_POSITION, _FRAMES, _ROWS})
            return False
        if group >= _PIXELS or met == [_POSITION, _ROWS]:
            met.append(_PIXELS)
            return True
        return False

    dataset = read_partial(file, enough, force=True, specific_tags=_TAGS)
    return dataset, met[-1:] == [_PIXELS]


def _header(file: SourceFile, role: Role, dataset: FileDataset, names: Names) -> Header:
    instance, series, study = (text(dataset, f"{level}InstanceUID") for level in ("SOP", "Series", "Study"))
    if not instance or not series:
        raise CaseError(
            "a DICOM file lacks its SOP Instance or Series Instance UID", hint="export it again", code="dicom-no-uid"
        )
    person = _told(dataset, "PatientID")
    references = list(_drawn_on(dataset, role))
    return Header(
        file=file,
        role=role,
        case=names.case(series),
        frame_cases=_frame_cases(dataset, series, instance, names) if role == "image" else (),
        instance=names.uid(instance),
        series=names.uid(series),
        study=names.uid(study) if study else "",
        patient=names.person(person) if person else "",
        aliases=tuple(_aliases(dataset, person, study, names)),
        modality=modality_of(dataset),
        places=_places(dataset) if role == "image" else (),
        refers=tuple(dict.fromkeys(names.uid(one) for item in references if (one := text(item, "SeriesInstanceUID")))),
        instances=frozenset(names.uid(uid) for item in references for uid in _instances(item)),
    )


def _frame_cases(dataset: Dataset, series: str, instance: str, names: Names) -> tuple[str, ...]:
    frames = frames_of(dataset)
    if frames == 1:
        return (names.case(series, instance),)
    if "TotalPixelMatrixColumns" in dataset:
        raise CaseError(
            f"the file holds {frames} tiles of a slide",
            hint="export the region of interest as one image",
            code="tiled-image",
        )
    if frames > MOST_FRAMES:
        raise CaseError(
            f"a file of {frames} frames is above the limit of {MOST_FRAMES}", hint="split it", code="image-too-large"
        )
    return tuple(names.case(series, instance, str(number)) for number in range(1, frames + 1))


def _places(dataset: Dataset) -> tuple[Place, ...]:
    """Two positions tell a volume from frames at one place; more of them would only cost memory."""
    try:
        planes = planes_of(dataset)
    except CaseError:  # numbers that cannot be a plane: whoever reads the pixels refuses them
        planes = None
    found: list[Place] = []
    for plane in planes or ():
        x, y, z = plane.position_mm.tolist()
        if (x, y, z) not in found:
            found.append((x, y, z))
        if len(found) == 2:
            break
    return tuple(found)


def _drawn_on(dataset: Dataset, role: Role) -> Iterator[Dataset]:
    """The references of a segmentation (PS3.3 C.8.20) or structure set (PS3.3 C.8.8.5) to series."""
    if role == "segmentation":
        yield from items(dataset, "ReferencedSeriesSequence")
    if role == "structures":
        for frame in items(dataset, "ReferencedFrameOfReferenceSequence"):
            for study in items(frame, "RTReferencedStudySequence"):
                yield from items(study, "RTReferencedSeriesSequence")


def _instances(reference: Dataset) -> Iterator[str]:
    for name in ("ReferencedInstanceSequence", "ContourImageSequence"):
        yield from (uid for item in items(reference, name) if (uid := text(item, "ReferencedSOPInstanceUID")))


def _aliases(dataset: Dataset, person: str, study: str, names: Names) -> Iterator[str]:
    if number := plain(person).lstrip("0"):
        yield names.alias("id", number)
    name, born = plain(_told(dataset, "PatientName")), text(dataset, "PatientBirthDate")
    if name and born:
        yield names.alias("birth", name, born, text(dataset, "PatientSex").upper())
    if study:
        yield names.alias("study", study)


def plain(identifier: str) -> str:
    """What is left of an identifier or name however it was typed: capitals and digits."""
    return "".join(letter for letter in identifier.upper() if letter.isalnum())


def _told(dataset: Dataset, name: str) -> str:
    """A text element in its own character set; pydicom's way, twenty times slower, only where ASCII does not do."""
    found = text(dataset, name)
    if not _NOT_ASCII.intersection(found):
        return found
    raw = dataset.get_item(name)
    try:
        return str(dataset.get(name) or "").strip("\0 ")
    except (LookupError, ValueError):  # an unknown character set: the bytes tell people apart all the same
        return bytes(raw.value).decode("latin-1").strip("\0 ") if raw else ""
