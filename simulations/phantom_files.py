"""Synthetic images and masks as bytes: DICOM CT Image Storage, DICOM SEG, NIfTI.

Promises
- Bytes are a function of a hospital, a member, a scan and a seed. Dates, identifiers and the implementation's name, which libraries would take from the clock, from chance or from their version, are set here.
- Unique identifiers stand under 2.25, the root of those derived from a UUID (DICOM PS3.5 B.2).
- Files hold what a hospital's files hold, identifying attributes included (name, birth date, address, comments, a
  private element), so that removing them can be tested. All of them are invented; file names identify nobody.
- Compression is lossless; ``RescaleSlope`` and ``RescaleIntercept`` lead back to Hounsfield units.
- A SEG has one segment per class but the background, refers to the instances it was drawn on, and leaves out empty
  frames. A NIfTI mask holds class indices with axes (column, row, slice) and the affine of the images in RAS.

Which file goes where is left to ``phantoms``.
"""

from __future__ import annotations

import gzip
import io
import uuid
from dataclasses import dataclass

import highdicom as hd
import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from shared.seeds import derive
from simulations.phantom_cohort import Identity, Member, Scan
from simulations.phantom_hospitals import Hospital
from simulations.phantom_scanner import Encoding, Grid, Stored

Mask = NDArray[np.uint8]

IMPLEMENTATION = UID("2.25.141536739631175762696035877132556770409")
IMPLEMENTATION_NAME = "CONSILIUM_1"
_WHEN = "104512"
_SYNTAX = {
    "rle": (RLELossless, "pylibjpeg"),
    "jpeg-ls": (JPEGLSLossless, "pyjpegls"),
    "jpeg-2000": (JPEG2000Lossless, "pylibjpeg"),
}
_PRIVATE_GROUP = 0x0029


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


def segmentation(sources: list[Dataset], mask: Mask, names: Names) -> Dataset:
    """The mask, shape (D, H, W), as DICOM SEG on ``sources``; rows and columns need not agree with theirs."""
    drawn_on = [_resized(source, mask.shape[1:]) for source in sources]
    dataset: Dataset = hd.seg.Segmentation(
        drawn_on,
        mask,
        hd.seg.SegmentationTypeValues.BINARY,
        _segments(),
        series_instance_uid=names.uid("mask"),
        series_number=300,
        sop_instance_uid=names.uid("mask", "instance"),
        instance_number=1,
        manufacturer="Consilium",
        manufacturer_model_name="Phantom",
        software_versions="1",
        device_serial_number="1",
    )
    return _settled(dataset, str(sources[0].StudyDate), names)


def nifti_bytes(mask: Mask, grid: Grid) -> bytes:
    """The mask, shape (D, H, W), as compressed NIfTI-1 with axes (column, row, slice) and an RAS affine in mm."""
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine = np.diag([*grid.spacing_mm[::-1], 1.0])
    affine[:3, 3] = grid.origin_mm
    image = nibabel.Nifti1Image(np.ascontiguousarray(mask.transpose(2, 1, 0)), lps_to_ras @ affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


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
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = _WHEN
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
    dataset.FrameOfReferenceUID = names.uid("frame")
    dataset.PositionReferenceIndicator = ""
    dataset.SeriesNumber = scan.place + 1
    dataset.SeriesDescription = f"Abdomen {hospital.scanner.phase}"
    dataset.Modality = "CT"
    dataset.Manufacturer = hospital.vendor
    dataset.ManufacturerModelName = f"{hospital.vendor.split()[0]} {hospital.scanner.shape[0]}"
    dataset.DeviceSerialNumber = f"{derive(0, hospital.name) % 10**6:06d}"
    dataset.StationName = f"CT-{hospital.name.upper()}"[:16]
    dataset.SoftwareVersions = "1"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
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
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = encoding.slope, encoding.intercept, "HU"
    dataset.WindowCenter, dataset.WindowWidth = 60, 400
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = encoding.photometric
    dataset.Rows, dataset.Columns = plane.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, encoding.bits, encoding.bits - 1
    dataset.PixelRepresentation = int(encoding.signed)
    dataset.file_meta = _file_meta(dataset)
    _store_pixels(dataset, plane, encoding)
    return dataset


def _store_pixels(dataset: Dataset, plane: Stored, encoding: Encoding) -> None:
    if encoding.syntax == "explicit-le":
        dataset.add_new("PixelData", "OW", plane.astype(plane.dtype.newbyteorder("<")).tobytes())
    else:
        syntax, plugin = _SYNTAX[encoding.syntax]
        dataset.compress(syntax, plane, encoding_plugin=plugin, generate_instance_uid=False)


def _file_meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.ImplementationVersionName = IMPLEMENTATION_NAME
    return meta


def _resized(source: Dataset, shape: tuple[int, ...]) -> Dataset:
    resized = Dataset()
    resized.update(source)
    resized.file_meta = source.file_meta
    # New elements: assigning values would change the source's own.
    resized.add_new("Rows", "US", shape[0])
    resized.add_new("Columns", "US", shape[1])
    return resized


def _segments() -> list[hd.seg.SegmentDescription]:
    structure = Code("123037004", "SCT", "Anatomical structure")
    abnormal = Code("49755003", "SCT", "Morphologically abnormal structure")
    by_hand = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    return [
        hd.seg.SegmentDescription(1, "Liver", structure, Code("10200004", "SCT", "Liver"), by_hand),
        hd.seg.SegmentDescription(2, "Lesion", abnormal, Code("52988006", "SCT", "Lesion"), by_hand),
    ]


def _settled(dataset: Dataset, day: str, names: Names) -> Dataset:
    """Replace what highdicom takes from the clock and from chance."""
    dataset.InstanceCreationDate = dataset.ContentDate = day
    dataset.InstanceCreationTime = dataset.ContentTime = _WHEN
    for equipment in dataset.get("ContributingEquipmentSequence", []):
        equipment.ContributionDateTime = day + _WHEN
    organization = names.uid("mask", "dimensions")
    for item in [*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence]:
        item.DimensionOrganizationUID = organization
    dataset.file_meta = _file_meta(dataset)
    return dataset
