"""A scan with a known answer, and every way of writing it: what a phantom is, is told in ``Phantom``."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    RTDoseStorage,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from shared.preprocessing.readable import Held

Vector = NDArray[np.float64]
Files = list[FileDataset]
AIR_HU = -1000

AXIAL = np.eye(3)
SAGITTAL = np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]], float)
CORONAL = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)
OBLIQUE = Rotation.from_euler("xyz", (20, -31, 12), degrees=True).as_matrix()
TILT = np.array([0.0, 2.5 * np.tan(np.radians(22)), 0.0])
"""How far each slice is moved along the patient by a gantry that leans by 22 degrees, mm."""


@dataclass(frozen=True)
class Phantom:
    """The truth.

    Attributes:
        directions: columns: along a row (right), along a column (down), from slice to slice; LPS.
        step: what each slice is moved by besides, mm.
    """

    directions: Any = field(default_factory=lambda: AXIAL)
    step: Any = (0.0, 0.0, 0.0)
    shape: tuple[int, int, int] = (9, 14, 11)
    spacing_mm: tuple[float, float, float] = (2.5, 0.7, 0.9)
    origin_mm: tuple[float, float, float] = (-31.25, 12.5, 140.75)

    def affine(self) -> Vector:
        """(slice, row, column) -> LPS mm."""
        right, down, across = np.asarray(self.directions).T
        made = np.eye(4)
        made[:3, 0] = across * self.spacing_mm[0] + self.step
        made[:3, 1], made[:3, 2] = down * self.spacing_mm[1], right * self.spacing_mm[2]
        made[:3, 3] = self.origin_mm
        return made

    def bright(self) -> dict[int, Vector]:
        """Hounsfield units of each bright voxel, and where it is in the patient."""
        affine = self.affine()
        return {hu: affine[:3, :3] @ voxel + affine[:3, 3] for hu, voxel in self.spots().items()}

    def spots(self) -> dict[int, Vector]:
        """Hounsfield units of each bright voxel, and its (slice, row, column): no symmetry, all corners apart."""
        last = np.array(self.shape) - 1
        places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1), (0.5, 0.25, 0.75), (0.25, 0.5, 0.125)]
        return {500 + 100 * number: np.rint(last * place) for number, place in enumerate(places)}

    def stored(self) -> NDArray[np.uint16]:
        """Pixels as stored, with an intercept of -1024."""
        made = np.full(self.shape, AIR_HU + 1024, np.uint16)
        for hu, voxel in self.spots().items():
            made[tuple(voxel.astype(int))] = hu + 1024
        return made


def header(storage: UID = CTImageStorage) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = storage, meta.MediaStorageSOPInstanceUID, "CT"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    return made


def decimals(numbers: Sequence[float] | Vector) -> list[str]:
    """As DICOM writes them: 16 characters at most (PS3.5 6.2, DS)."""
    return [f"{number:.16g}"[:16] if abs(number) >= 1e-4 else f"{number:.8f}" for number in numbers]


def place(made: Dataset, phantom: Phantom, number: int) -> None:
    affine = phantom.affine()
    made.ImagePositionPatient = decimals(affine[:3, 3] + number * affine[:3, 0])
    orient(made, phantom)


def orient(made: Dataset, phantom: Phantom) -> None:
    right, down, _ = np.asarray(phantom.directions).T
    made.ImageOrientationPatient = decimals([*right, *down])
    made.PixelSpacing = decimals(phantom.spacing_mm[1:])


def fill(made: FileDataset, pixels: NDArray[np.unsignedinteger]) -> None:
    made.Rows, made.Columns = pixels.shape[-2:]
    made.PixelData = pixels.tobytes()


def series(phantom: Phantom) -> Files:
    """One file a slice; instance numbers, locations and thickness are there to mislead."""
    made = []
    for number, pixels in enumerate(phantom.stored()):
        one = header()
        place(one, phantom, number)
        fill(one, pixels)
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        one.InstanceNumber, one.SliceLocation, one.SliceThickness = 7 * number % 5, -number, 77
        made.append(one)
    return made


def enhanced(phantom: Phantom) -> Files:
    """All slices in one object, each frame with its own place (PS3.3 C.7.6.16), in an order of their own."""
    made = header(EnhancedCTImageStorage)
    order = np.random.default_rng(3).permutation(phantom.shape[0])
    shared, orientation, measures, transform = Dataset(), Dataset(), Dataset(), Dataset()
    orient(orientation, phantom)
    measures.PixelSpacing = orientation.PixelSpacing
    del orientation.PixelSpacing
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 1, -1024, "HU"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Items([orientation]), Items([measures])
    shared.PixelValueTransformationSequence = Items([transform])
    made.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for number in order:
        position, frame = Dataset(), Dataset()
        affine = phantom.affine()
        position.ImagePositionPatient = decimals(affine[:3, 3] + number * affine[:3, 0])
        frame.PlanePositionSequence = Items([position])
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence, made.NumberOfFrames = Items(frames), len(frames)
    fill(made, phantom.stored()[order])
    return [made]


def multi_frame(phantom: Phantom) -> Files:
    """All slices in one classic object, with distances along the normal (a dose grid)."""
    made = header(RTDoseStorage)
    place(made, phantom, 0)
    # Along the normal, which is right x down: downwards where the phantom's slices go the other way.
    step = phantom.spacing_mm[0] * np.sign(np.linalg.det(phantom.directions))
    made.GridFrameOffsetVector = decimals([number * step for number in range(phantom.shape[0])])
    made.NumberOfFrames, made.RescaleIntercept, made.RescaleSlope = phantom.shape[0], -1024, 1
    fill(made, phantom.stored())
    return [made]


def files_of(made: Sequence[FileDataset], seed: int = 11) -> list[Held]:
    """As an archive hands them out: shuffled, with names that say nothing."""
    order = np.random.default_rng(seed).permutation(len(made))
    return [Held(f"IM{position:05}", content_of(made[number])) for position, number in enumerate(order)]


def content_of(made: FileDataset) -> bytes:
    stream = DicomBytesIO()
    made.save_as(stream, enforce_file_format=True)
    return bytes(stream.getvalue())


def nifti_of(phantom: Phantom, order: Sequence[int], kind: Any, *, packed: bool) -> Held:
    """The phantom with its axes stored in ``order``, in RAS."""
    hounsfield = phantom.stored().astype(np.int16) - 1024
    affine = np.diag([-1.0, -1, 1, 1]) @ phantom.affine()[:, [*order, 3]]
    content = kind(hounsfield.transpose(order), affine).to_bytes()
    return Held("volume", gzip.compress(content, 1) if packed else content)


def segmentation(phantom: Phantom, classes: NDArray[np.uint8]) -> FileDataset:
    """A DICOM SEG of one segment for each class, a frame for each slice that it is in; ``classes`` as stored."""
    made = header(UID("1.2.840.10008.5.1.4.1.1.66.4"))
    made.Modality, made.SegmentationType = "SEG", "BINARY"
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orient(orientation, phantom)
    measures.PixelSpacing = orientation.PixelSpacing
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Items([orientation]), Items([measures])
    made.SharedFunctionalGroupsSequence = Items([shared])
    frames, pixels = [], []
    for index in range(1, int(classes.max()) + 1):
        for number in np.flatnonzero((classes == index).any(axis=(1, 2))):
            frames.append(frame_item(index))
            position = Dataset()
            place(position, phantom, int(number))
            frames[-1].PlanePositionSequence = Items([position])
            pixels.append((classes[number] == index).astype(np.uint8))
    made.PerFrameFunctionalGroupsSequence, made.NumberOfFrames = Items(frames), len(frames)
    fill(made, np.stack(pixels))
    return made


def frame_item(segment: int) -> Dataset:
    """The functional groups of a frame that shows ``segment``."""
    identity, made = Dataset(), Dataset()
    identity.ReferencedSegmentNumber = segment
    made.SegmentIdentificationSequence = Items([identity])
    return made


def structure_set(phantom: Phantom, outlines: dict[str, dict[int, NDArray[np.float64]]]) -> FileDataset:
    """An RT structure set: for each name, (row, column) outlines by slice."""
    made, affine = header(UID("1.2.840.10008.5.1.4.1.1.481.3")), phantom.affine()
    named, drawn = [], []
    for number, (name, by_slice) in enumerate(outlines.items(), start=1):
        roi, contours = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, contours.ReferencedROINumber = number, name, number
        contours.ContourSequence = Items([])
        for place_number, outline in by_slice.items():
            voxels = np.column_stack([np.full(len(outline), place_number), outline])
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(outline)
            contour.ContourData = decimals((voxels @ affine[:3, :3].T + affine[:3, 3]).ravel())
            contours.ContourSequence.append(contour)
        named.append(roi)
        drawn.append(contours)
    made.StructureSetROISequence, made.ROIContourSequence = Items(named), Items(drawn)
    return made


def cine(phantom: Phantom) -> FileDataset:
    """The slices as frames without a place in space, as ultrasound stores a loop."""
    made = header(UID("1.2.840.10008.5.1.4.1.1.3.1"))
    made.Modality, made.NumberOfFrames = "US", phantom.shape[0]
    fill(made, phantom.stored())
    return made
