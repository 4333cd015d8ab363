"""Synthetic images as DICOM files: CT Image Storage (PS3.3 A.3).

Promises
- With the same libraries, bytes are a function of a hospital, a member, a scan and a seed. Dates, identifiers and the
  implementation's name, which libraries would take from the clock or from chance, are set here.
- Unique identifiers stand under 2.25, the root of those derived from a UUID (DICOM PS3.5 B.2).
- Files hold what a hospital's files hold, identifying attributes included (name, birth date, address, comments, a
  private element), so that removing them can be tested. All of them are invented; file names identify nobody.
- Compression is lossless; ``RescaleSlope`` and ``RescaleIntercept`` lead back to Hounsfield units, under MONOCHROME1
  after inversion.

Masks are left to ``masks``; which file goes where, to ``folders``.
"""

from __future__ import annotations

import io
import uuid
from dataclasses import dataclass

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from shared.seeds import derive
from simulations.phantoms.cohort import Identity, Member, Scan
from simulations.phantoms.hospitals import Hospital
from simulations.phantoms.scanner import Encoding, Grid, Stored

IMPLEMENTATION = UID("2.25.141536739631175762696035877132556770409")
IMPLEMENTATION_NAME = "CONSILIUM_1"
TIME_OF_DAY = "104512"
_SYNTAX = {
    "rle": (RLELossless, "pylibjpeg"),
    "jpeg-ls": (JPEGLSLossless, "pyjpegls"),
    "jpeg-2000": (JPEG2000Lossless, "pylibjpeg"),
}
_PRIVATE_GROUP = 0x0029
_WINDOW_HU = (60.0, 400.0)
"""Centre and width of the usual window for an abdomen."""


@dataclass(frozen=True, slots=True)
class Names:
    """Unique identifiers of one image: study, series, frame of reference, and the series of its mask."""

    seed: int
    hospital: str
    member: int
    scan: int

    def uid(self, *purpose: str | int) -> UID:
        """The identifier of ``purpose`` within this image."""
        return unique(self.seed, self.hospital, self.member, "scan", self.scan, *purpose)

    @property
    def study(self) -> UID:
        """Study Instance UID: one visit of the person."""
        return unique(self.seed, self.hospital, self.member, "study")

    @property
    def frame(self) -> UID:
        """Frame of Reference UID: the person does not move during the visit."""
        return unique(self.seed, self.hospital, self.member, "frame")

    @property
    def series(self) -> UID:
        """Series Instance UID: one image."""
        return self.uid("series")


def unique(seed: int, *names: str | int) -> UID:
    """A unique identifier under 2.25 that follows from a seed and names."""
    return UID(f"2.25.{uuid.UUID(int=derive(seed, 'phantom-uid', *names), version=4).int}")


def images(hospital: Hospital, member: Member, scan: Scan, names: Names) -> list[Dataset]:
    """The scan's slices as CT Image Storage, from feet to head."""
    shared = Dataset()
    shared.SpecificCharacterSet = "ISO_IR 192"
    _describe_patient(shared, member.identity)
    _describe_study(shared, hospital, member.identity, names)
    _describe_series(shared, hospital, scan, names)
    return [
        _slice(shared, hospital.encoding, scan.grid, plane, names, place) for place, plane in enumerate(scan.stored)
    ]


def dicom_bytes(dataset: Dataset) -> bytes:
    """A dataset as a DICOM file."""
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _describe_patient(dataset: Dataset, identity: Identity) -> None:
    dataset.PatientName = f"{identity.family_name}^{identity.given_name}"
    dataset.PatientID = identity.patient_id
    dataset.IssuerOfPatientID = "Registry"
    dataset.PatientBirthDate = f"{identity.born:%Y%m%d}"
    dataset.PatientSex = identity.sex
    dataset.PatientAge = f"{identity.age:03d}Y"
    dataset.PatientAddress = f"{identity.age} Harbour Street"
    dataset.PatientTelephoneNumbers = f"+00 555 {identity.patient_id[-5:]}"


def _describe_study(dataset: Dataset, hospital: Hospital, identity: Identity, names: Names) -> None:
    dataset.StudyInstanceUID = names.study
    dataset.StudyID = "1"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = (
        f"{identity.examined:%Y%m%d}"
    )
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = TIME_OF_DAY
    dataset.AccessionNumber = f"A{derive(names.seed, names.hospital, names.member, 'accession') % 10**9:09d}"
    dataset.ReferringPhysicianName = "Lindqvist^Sara^^Dr."
    dataset.OperatorsName = "Okafor^Jude"
    dataset.InstitutionName = f"{hospital.name.title()} General Hospital"
    dataset.InstitutionAddress = "1 Hospital Road"
    dataset.StudyDescription = f"CT abdomen {identity.family_name}"
    dataset.ImageComments = f"{identity.given_name} {identity.family_name}, born {identity.born:%d.%m.%Y}"
    block = dataset.private_block(_PRIVATE_GROUP, f"{hospital.vendor.upper()} EXTRA", create=True)
    block.add_new(0x10, "LO", f"{identity.family_name}/{identity.patient_id}")


def _describe_series(dataset: Dataset, hospital: Hospital, scan: Scan, names: Names) -> None:
    dataset.SeriesInstanceUID = names.series
    dataset.FrameOfReferenceUID = names.frame
    dataset.PositionReferenceIndicator = ""
    dataset.SeriesNumber = scan.place + 1
    dataset.SeriesDescription = f"Abdomen {hospital.scanner.phase}"
    dataset.Modality = "CT"
    dataset.Manufacturer = hospital.vendor
    dataset.ManufacturerModelName = f"{hospital.vendor.split()[0]} {hospital.scanner.shape[0]}"
    dataset.DeviceSerialNumber = f"{derive(0, hospital.name) % 10**6:06d}"
    dataset.StationName = f"CT-{hospital.name.upper()}"[:16]
    dataset.SoftwareVersions = "1"
    dataset.BodyPartExamined = "ABDOMEN"
    dataset.PatientPosition = "HFS"
    dataset.KVP = "120"
    dataset.AcquisitionNumber = 1
    dataset.BurnedInAnnotation = "NO"


def _slice(shared: Dataset, encoding: Encoding, grid: Grid, plane: Stored, names: Names, place: int) -> Dataset:
    """Slice number ``place``: the shared attributes, the plane's position, and its pixels."""
    dataset = Dataset()
    dataset.update(shared)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = names.uid("instance", place)
    dataset.InstanceNumber = place + 1
    x, y, z = grid.origin_mm
    height = round(z + place * grid.spacing_mm[0], 6)
    dataset.ImagePositionPatient = [x, y, height]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.SliceLocation = height
    dataset.SliceThickness = grid.spacing_mm[0]
    dataset.PixelSpacing = [grid.spacing_mm[1], grid.spacing_mm[2]]
    _describe_values(dataset, encoding)
    dataset.Rows, dataset.Columns = plane.shape
    dataset.file_meta = file_meta(dataset)
    _store_pixels(dataset, plane, encoding)
    return dataset


def _describe_values(dataset: Dataset, encoding: Encoding) -> None:
    """What stored numbers mean; inverted ones are derived and of no specified unit until inverted again."""
    inverted = encoding.photometric == "MONOCHROME1"
    dataset.ImageType = ["DERIVED" if inverted else "ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.RescaleType = "US" if inverted else "HU"
    dataset.RescaleSlope, dataset.RescaleIntercept = encoding.slope, encoding.intercept
    # A display windows modality values and inverts afterwards: the window has to be mirrored with the numbers.
    mirror = encoding.slope * sum(encoding.limits) + 2 * encoding.intercept
    dataset.WindowCenter = mirror - _WINDOW_HU[0] if inverted else _WINDOW_HU[0]
    dataset.WindowWidth = _WINDOW_HU[1]
    dataset.PhotometricInterpretation = encoding.photometric
    dataset.SamplesPerPixel = 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, encoding.bits, encoding.bits - 1
    dataset.PixelRepresentation = int(encoding.signed)


def _store_pixels(dataset: Dataset, plane: Stored, encoding: Encoding) -> None:
    if encoding.syntax == "explicit-le":
        dataset.add_new("PixelData", "OW", plane.astype(plane.dtype.newbyteorder("<")).tobytes())
    else:
        syntax, plugin = _SYNTAX[encoding.syntax]
        dataset.compress(syntax, plane, encoding_plugin=plugin, generate_instance_uid=False)


def file_meta(dataset: Dataset) -> FileMetaDataset:
    """The file meta information of ``dataset``: uncompressed, and written by us whatever the libraries' versions."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.ImplementationVersionName = IMPLEMENTATION_NAME
    return meta
