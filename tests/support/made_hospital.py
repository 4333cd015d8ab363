"""A hospital's folder of DICOM files, masks and tables, made by hand for the tests of what is found in it."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage

from client.data.case_files import Salt
from client.data.source.discover import discover
from client.data.source.found import FileSeen, Found, Table, Wanted

SALT = Salt("north", b"source-tests-0123456789")
ROWS, COLUMNS = 6, 8
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"


def ct(series: str, number: int, person: str = "P1", **changes: Any) -> Dataset:
    """One slice of a CT series, 2.5 mm apart, on its way from feet to head."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{series}.{number + 1}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = series, "1.2.3", f"{series}.9"
    dataset.PatientID, dataset.PatientName, dataset.Modality = person, "Doe^Jane", "CT"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyDate = dataset.StudyTime = ""
    dataset.StudyID = dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.Manufacturer = ""
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.PositionReferenceIndicator = 1, number + 1, ""
    dataset.ImagePositionPatient = [-10.0, -20.0, 2.5 * number]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.75], 2.5
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = ROWS, COLUMNS
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = pixels(number).tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def pixels(number: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """What slice ``number`` shows."""
    return np.random.default_rng(number).integers(900, 1200, (ROWS, COLUMNS), np.uint16)


def cine(series: str, frames: int, number: int = 0, **changes: Any) -> Dataset:
    """A file of several frames that lie nowhere."""
    content = np.stack([pixels(frame) for frame in range(frames)]).tobytes()
    nowhere = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    return ct(series, number, NumberOfFrames=frames, PixelData=content, **nowhere, **changes)


def enhanced(series: str, frames: int) -> Dataset:
    """A file of several frames, each in its place."""
    dataset = cine(series, frames)
    dataset.PerFrameFunctionalGroupsSequence = [_group(2.5 * frame) for frame in range(frames)]
    return dataset


def _group(z: float) -> Dataset:
    group, position, orientation, measures = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [0, 0, z]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing = [0.5, 0.75]
    group.PlanePositionSequence, group.PlaneOrientationSequence = [position], [orientation]
    group.PixelMeasuresSequence = [measures]
    return group


def structures(series: str, instances: Sequence[str] = (), number: int = 0) -> Dataset:
    """An RT structure set that refers to ``series``, without any outline."""
    dataset = ct("1.8", number, SOPClassUID=RTStructureSetStorage, Modality="RTSTRUCT", Rows=None, PixelData=None)
    dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    frame, study, of_series = Dataset(), Dataset(), Dataset()
    of_series.SeriesInstanceUID, of_series.ContourImageSequence = series, []
    for instance in instances:
        image = Dataset()
        image.ReferencedSOPInstanceUID = instance
        of_series.ContourImageSequence.append(image)
    study.RTReferencedSeriesSequence = [of_series]
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    return dataset


def outline(slices: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A mask of shape (D, H, W) that differs in every slice and from its own mirror images."""
    mask = np.zeros((slices, ROWS, COLUMNS), np.uint8)
    for number in range(slices):
        mask[number, : number + 1, : 2 + number] = 1
    return mask


def write_dicom(path: Path, dataset: Dataset) -> Path:
    """Write ``dataset`` as a file of part 10."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write ``rows`` with all their columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


@dataclass(frozen=True)
class MadeHospital:
    """A folder with images in dicom/, masks in masks/ and, once something is labelled, labels.csv."""

    folder: Path

    def add(self, name: str, dataset: Dataset) -> Path:
        """One DICOM file."""
        return write_dicom(self.folder / "dicom" / name, dataset)

    def series(self, uid: str, slices: int, person: str = "P1") -> list[Path]:
        """A CT series, its files named against its order."""
        return [self.add(f"{uid}/{9 - number}", ct(uid, number, person)) for number in range(slices)]

    def label(self, *rows: Mapping[str, str]) -> None:
        """Write labels.csv anew."""
        write_csv(self.folder / "labels.csv", rows)

    def segment(self, sources: Sequence[Path], mask: np.ndarray[Any, Any], name: str = "m.dcm") -> Path:
        """A DICOM segmentation of the images ``sources``."""
        kind = codes.SCT.Liver
        segment = hd.seg.SegmentDescription(1, "x", codes.SCT.Organ, kind, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
        made = hd.seg.Segmentation(
            [pydicom.dcmread(path) for path in sources], mask, hd.seg.SegmentationTypeValues.BINARY, [segment],
            f"1.9.{len(name)}", 300, f"1.9.{len(name)}.1", 1, "m", "m", "1", "1",
        )  # fmt: skip
        path = self.folder / "masks" / name
        path.parent.mkdir(exist_ok=True)
        made.save_as(path)
        return path

    def nifti(self, mask: np.ndarray[Any, Any], name: str = "m.nii.gz") -> Path:
        """The mask on the grid of ``ct``, with axes (column, row, slice) and an affine in RAS."""
        affine = np.diag([-0.75, -0.5, 2.5, 1.0])
        affine[:3, 3] = [10.0, 20.0, 0.0]
        path = self.folder / "masks" / name
        path.parent.mkdir(exist_ok=True)
        image = nibabel.Nifti1Image(np.ascontiguousarray(mask.transpose(2, 1, 0)), affine)
        nibabel.save(image, path)
        return path

    def found(self, dimensions: Literal["auto", 2, 3] = 3, **how: Any) -> Found:
        """What is in the folder, with its labels.csv where there is one."""
        labels = self.folder / "labels.csv"
        tables = (Table(labels),) if labels.exists() else ()
        return discover(Wanted((self.folder,), tables, dimensions=dimensions, **how), SALT)


def verdicts(found: Found) -> list[tuple[str, str]]:
    """(use, code) of every file, sorted."""
    return sorted((one.use, one.code) for one in found.files)


def verdict_of(found: Found, relative: str) -> tuple[str, str]:
    """(use, code) of the one file at ``relative``."""
    (one,) = [one for one in found.files if one.name == SALT.case("file", relative)]
    return one.use, one.code


def the_code(found: Found) -> str:
    """The one reason why the one thing found cannot be used."""
    assert found.cases == ()
    (one,) = found.unusable
    return one.code


def seen(name: str, use: Any, code: str = "") -> FileSeen:
    """The verdict on the file at ``name``."""
    return FileSeen(SALT.case("file", name), use, code)
