"""DICOM SEG on its image's grid: highdicom writes, the mask's voxels are compared with what was drawn on the image."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid
from scipy.spatial.transform import Rotation

from shared.errors import CaseError
from shared.preprocessing.dicom import image_from_files
from shared.preprocessing.dicom_segmentation import read_segmentation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import highdicom

SHAPE = (4, 6, 5)
SPACING = (2.0, 0.75, 0.5)
OBLIQUE = Rotation.from_euler("xyz", (12, -8, 15), degrees=True).as_matrix()
SAGITTAL = np.array([(0, 1, 0), (0, 0, -1), (-1, 0, 0)], np.float64).T

Classes = NDArray[np.uint8]


@dataclass(frozen=True)
class Study:
    """Source slices (each voxel holds its own number, counted over the volume) and where they lie on disk."""

    sources: list[FileDataset]
    paths: list[Path]


def slice_dataset(index: int, directions: NDArray[np.float64], common: dict[str, Any]) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(made, name, "")
    made.StudyDate, made.StudyTime, made.ReferringPhysicianName = "20200101", "101010", ""
    for name, value in common.items():
        setattr(made, name, value)
    made.Modality, made.InstanceNumber, made.SeriesNumber = "CT", index + 1, 1
    made.Rows, made.Columns = SHAPE[1:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 0
    right, down, across = directions.T
    made.ImagePositionPatient = [f"{mm:.10g}" for mm in 10 + index * SPACING[0] * across]
    made.ImageOrientationPatient = [f"{cosine:.10g}" for cosine in (*right, *down)]
    made.PixelSpacing, made.SliceThickness = list(SPACING[1:]), SPACING[0]
    area = SHAPE[1] * SHAPE[2]
    made.PixelData = np.arange(index * area, (index + 1) * area, dtype=np.uint16).tobytes()
    return made


def study(folder: Path, directions: NDArray[np.float64], count: int = SHAPE[0]) -> Study:
    common = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    sources = [slice_dataset(index, directions, common) for index in range(count)]
    return Study(sources, write(folder, sources))


def write(folder: Path, made: Sequence[Any]) -> list[Path]:
    paths = []
    for one in made:
        paths.append(folder / f"{one.SOPInstanceUID}.dcm")
        one.save_as(paths[-1], enforce_file_format=True)
    return paths


def drawing(count: int = SHAPE[0]) -> Classes:
    """Two organs and background over the source slices (slice, row, column), unlike in every direction."""
    made = np.zeros((count, *SHAPE[1:]), np.uint8)
    made[0, 1:4, 1:3] = 1
    made[-1, 0, :] = 2
    made[-1, 5, 4] = 1
    return made


def segmentation(sources: Sequence[FileDataset], classes: Classes, kind: str = "BINARY", **options: Any) -> Any:
    numbers = sorted(set(np.unique(classes)) - {0})
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=int(number),
            segment_label=f"organ {number}",
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in numbers
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return highdicom.seg.Segmentation(
            source_images=list(sources),
            pixel_array=classes,
            segmentation_type=kind,
            segment_descriptions=described,
            series_instance_uid=generate_uid(),
            series_number=2,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="none",
            manufacturer_model_name="none",
            software_versions="0",
            device_serial_number="0",
            **options,
        )


def refusal(path: Path, reference: Sequence[Path]) -> CaseError:
    with pytest.raises(CaseError) as caught:
        read_segmentation(path, reference)
    return caught.value


def expected_on(paths: Sequence[Path], classes: Classes) -> Classes:
    """The drawing carried to the image's voxels by the numbers that the source voxels hold."""
    numbers = image_from_files(paths).voxels[0].astype(np.int64)
    return classes.ravel()[numbers]


@pytest.mark.parametrize("directions", [np.eye(3), SAGITTAL, OBLIQUE], ids=["axial", "sagittal", "oblique"])
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_the_mask_lies_on_the_voxels_it_was_drawn_on(
    tmp_path: Path, directions: NDArray[np.float64], kind: str
) -> None:
    made = study(tmp_path, directions)
    (path,) = write(tmp_path, [segmentation(made.sources, drawing(), kind)])
    mask = read_segmentation(path, made.paths)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected_on(made.paths, drawing()))


def test_the_order_of_the_image_files_does_not_matter(tmp_path: Path) -> None:
    made = study(tmp_path, OBLIQUE)
    (path,) = write(tmp_path, [segmentation(made.sources, drawing())])
    assert np.array_equal(read_segmentation(path, made.paths[::-1]), read_segmentation(path, made.paths))


def test_slices_that_are_not_stored_are_empty(tmp_path: Path) -> None:
    made = study(tmp_path, np.eye(3))
    (path,) = write(tmp_path, [segmentation(made.sources, drawing(), omit_empty_frames=True)])
    mask = read_segmentation(path, made.paths)
    assert not mask[1:-1].any()
    assert np.array_equal(mask, drawing())


def test_a_fractional_segmentation_counts_from_half_on(tmp_path: Path) -> None:
    made = study(tmp_path, np.eye(3))
    fractions = np.zeros((*SHAPE, 1), np.float64)
    fractions[1, 2, :, 0] = (0.0, 0.25, 0.49, 0.51, 1.0)
    described = segmentation(made.sources, (fractions[..., 0] > 0).astype(np.uint8)).SegmentSequence
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = highdicom.seg.Segmentation(
            list(made.sources),
            fractions,
            "FRACTIONAL",
            [highdicom.seg.SegmentDescription.from_dataset(one) for one in described],
            generate_uid(),
            2,
            generate_uid(),
            1,
            "none",
            "none",
            "0",
            "0",
            max_fractional_value=200,
        )
    (path,) = write(tmp_path, [whole])
    mask = read_segmentation(path, made.paths)
    assert mask[1, 2].tolist() == [0, 0, 0, 1, 1]
    assert mask.sum() == 2


def test_a_single_slice_has_a_flat_mask(tmp_path: Path) -> None:
    made = study(tmp_path, OBLIQUE, count=1)
    (path,) = write(tmp_path, [segmentation(made.sources, drawing(1))])
    assert np.array_equal(read_segmentation(path, made.paths), drawing(1)[0])


def without_position(made: FileDataset) -> FileDataset:
    """As a radiograph or an ultrasound image comes."""
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
        delattr(made, name)
    return made


def planar(folder: Path) -> tuple[Path, Path]:
    """A segmentation without positions, and the image that it names as its source."""
    made = study(folder, np.eye(3), count=1)
    flat = segmentation(made.sources, drawing(1))
    for group in (*flat.SharedFunctionalGroupsSequence, *flat.PerFrameFunctionalGroupsSequence):
        for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
            if name in group:
                delattr(group, name)
    del flat.FrameOfReferenceUID
    (path,) = write(folder, [flat])
    (image,) = write(folder, [without_position(made.sources[0])])
    return path, image


def test_an_image_without_position_takes_the_mask_that_names_it(tmp_path: Path) -> None:
    path, image = planar(tmp_path)
    assert np.array_equal(read_segmentation(path, [image]), drawing(1)[0])


def test_an_image_without_position_refuses_the_mask_of_another(tmp_path: Path) -> None:
    path, _ = planar(tmp_path)
    other = study(tmp_path, np.eye(3), count=1)
    (image,) = write(tmp_path, [without_position(other.sources[0])])
    assert refusal(path, [image]).code == "mask-grid"


def test_two_segments_on_one_voxel_are_refused_with_their_number(tmp_path: Path) -> None:
    made = study(tmp_path, np.eye(3))
    both = np.zeros((*SHAPE, 2), np.uint8)
    both[1, 2, :3, 0] = 1
    both[1, 2, 1:, 1] = 1
    described = segmentation(made.sources, drawing()).SegmentSequence
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        overlapping = highdicom.seg.Segmentation(
            list(made.sources),
            both,
            "BINARY",
            [highdicom.seg.SegmentDescription.from_dataset(one) for one in described],
            generate_uid(),
            2,
            generate_uid(),
            1,
            "none",
            "none",
            "0",
            "0",
        )
    (path,) = write(tmp_path, [overlapping])
    error = refusal(path, made.paths)
    assert (error.code, error.sentence.split()[0]) == ("overlapping-segments", "2")


@pytest.mark.parametrize(
    ("shift_mm", "code"),
    [((0.01, 0, 0), None), ((0.25, 0, 0), "mask-grid"), ((0, 0, 1.0), "mask-grid"), ((0, 0, 8.0), "mask-grid")],
)
def test_a_mask_is_moved_by_no_fraction_of_a_voxel_and_never_beyond_the_image(
    tmp_path: Path, shift_mm: tuple[float, ...], code: str | None
) -> None:
    made = study(tmp_path, np.eye(3))
    inner = np.zeros(SHAPE, np.uint8)
    inner[1, 1:3, 1:3] = 1
    moved = segmentation(made.sources, inner)
    for group in moved.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        position.ImagePositionPatient = list(np.add([float(mm) for mm in position.ImagePositionPatient], shift_mm))
    (path,) = write(tmp_path, [moved])
    if code is None:
        assert np.array_equal(read_segmentation(path, made.paths), inner)
    else:
        error = refusal(path, made.paths)
        assert (error.code, "beyond" in error.sentence) == (code, shift_mm[2] > SPACING[0])


def test_a_mask_moved_by_whole_voxels_lies_where_it_says(tmp_path: Path) -> None:
    made = study(tmp_path, np.eye(3))
    inner = np.zeros(SHAPE, np.uint8)
    inner[1, 1:3, 1:3] = 1
    moved = segmentation(made.sources, inner)
    for group in moved.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        step = (SPACING[2], SPACING[1], SPACING[0])
        position.ImagePositionPatient = list(np.add([float(mm) for mm in position.ImagePositionPatient], step))
    (path,) = write(tmp_path, [moved])
    assert np.array_equal(read_segmentation(path, made.paths), np.roll(inner, (1, 1, 1), (0, 1, 2)))


def test_a_mask_with_pixels_of_exactly_twice_the_size_is_refused_and_not_spread_as_dots(tmp_path: Path) -> None:
    made = study(tmp_path, np.eye(3))
    corner = np.zeros(SHAPE, np.uint8)
    corner[1, 0, :2] = 1
    coarse = segmentation(made.sources, corner)
    for group in (*coarse.SharedFunctionalGroupsSequence, *coarse.PerFrameFunctionalGroupsSequence):
        if "PixelMeasuresSequence" in group:
            group.PixelMeasuresSequence[0].PixelSpacing = [2 * SPACING[1], 2 * SPACING[2]]
    (path,) = write(tmp_path, [coarse])
    error = refusal(path, made.paths)
    assert (error.code, "another size" in error.sentence) == ("mask-grid", True)


def test_a_mask_of_another_patient_space_is_refused(tmp_path: Path) -> None:
    made = study(tmp_path, np.eye(3))
    other = segmentation(made.sources, drawing())
    other.FrameOfReferenceUID = generate_uid()
    (path,) = write(tmp_path, [other])
    error = refusal(path, made.paths)
    assert error.code == "mask-grid"
    assert other.FrameOfReferenceUID not in error.sentence


def test_an_image_is_not_a_segmentation(tmp_path: Path) -> None:
    made = study(tmp_path, np.eye(3))
    assert refusal(made.paths[0], made.paths).code == "not-a-segmentation"


def test_a_segment_number_that_no_class_can_have_is_refused(tmp_path: Path) -> None:
    made = study(tmp_path, np.eye(3))
    numbered = segmentation(made.sources, drawing())
    for group in numbered.PerFrameFunctionalGroupsSequence:
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 300
    (path,) = write(tmp_path, [numbered])
    assert refusal(path, made.paths).code == "mask-values"


def test_a_damaged_segmentation_is_a_refusal(tmp_path: Path) -> None:
    made = study(tmp_path, np.eye(3))
    damaged = segmentation(made.sources, drawing())
    for group in damaged.PerFrameFunctionalGroupsSequence:
        del group.SegmentIdentificationSequence
    (path,) = write(tmp_path, [damaged])
    assert refusal(path, made.paths).code == "unreadable-dicom"
    path.write_bytes(path.read_bytes()[:-10])
    assert refusal(path, made.paths).code in {"undecodable-pixels", "unreadable-dicom"}


def test_a_compressed_segmentation_is_the_same_mask(tmp_path: Path) -> None:
    made = study(tmp_path, np.eye(3))
    (path,) = write(tmp_path, [segmentation(made.sources, drawing(), "LABELMAP", transfer_syntax_uid=RLELossless)])
    assert np.array_equal(read_segmentation(path, made.paths), drawing())
