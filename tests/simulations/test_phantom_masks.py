"""Masks read back by the libraries that hospitals and researchers use: equal to the truth, voxel by voxel."""

import gzip
import io
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map
from pydicom import dcmread
from pydicom.dataset import Dataset

from simulations.phantoms.anatomy import LESION, ORGAN, Population
from simulations.phantoms.cohort import Scan, members, scans
from simulations.phantoms.files import Names, dicom_bytes, images
from simulations.phantoms.hospitals import Hospital
from simulations.phantoms.masks import nifti_bytes, segmentation
from simulations.phantoms.scanner import Grid, Scanner

FLAT = Hospital("small", "Testmed", patients=1, images=(1, 1), scanner=Scanner(shape=(40, 56), spacing_mm=7.0))
DEEP = replace(FLAT, dimensions=3, scanner=replace(FLAT.scanner, slices=6, slice_mm=20.0))
BOTH = pytest.mark.parametrize("hospital", [FLAT, DEEP], ids=["slice", "volume"])


def drawn(hospital: Hospital, seed: int = 1) -> tuple[list[Dataset], Dataset, Scan]:
    """Source images, the segmentation as read from bytes, and the truth."""
    member = next(members(hospital, seed))
    scan = next(scans(hospital, member, seed))
    names = Names(seed, hospital.name, member.place, scan.place)
    sources = images(hospital, member, scan, names)
    written = dicom_bytes(segmentation(sources, scan.truth.mask, scan.grid, names))
    return sources, dcmread(io.BytesIO(written)), scan


def by_frames(dataset: Dataset, scan: Scan) -> np.ndarray:
    """Class indices from the frames alone: each to the slice at its position, as a reader without highdicom would."""
    result = np.zeros(scan.truth.mask.shape, np.uint8)
    _, rows, columns = result.shape
    pixels = dataset.pixel_array.reshape(-1, rows, columns)
    for frame, groups in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        z = float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
        place = round((z - scan.grid.origin_mm[2]) / scan.grid.spacing_mm[0])
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        result[place][frame > 0] = segment
    return result


@BOTH
def test_a_segmentation_is_the_truth_to_highdicom(hospital: Hospital) -> None:
    sources, dataset, scan = drawn(hospital)
    found = hd.seg.Segmentation.from_dataset(dataset).get_pixels_by_source_instance(
        [source.SOPInstanceUID for source in sources],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    assert np.array_equal(found, scan.truth.mask)


@BOTH
def test_a_segmentation_is_the_truth_to_pydicom(hospital: Hospital) -> None:
    _, dataset, scan = drawn(hospital)
    assert np.array_equal(by_frames(dataset, scan), scan.truth.mask)


@BOTH
def test_a_segmentation_says_what_it_was_drawn_on_and_whose_it_is(hospital: Hospital) -> None:
    sources, dataset, _ = drawn(hospital)
    referenced = dataset.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == sources[0].SeriesInstanceUID
    instances = {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence}
    assert instances == {source.SOPInstanceUID for source in sources}
    for attribute in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert getattr(dataset, attribute) == getattr(sources[0], attribute)
    assert dataset.SeriesInstanceUID != sources[0].SeriesInstanceUID


def test_segments_are_numbered_and_coded_as_liver_and_lesion() -> None:
    _, dataset, _ = drawn(FLAT)
    found = [
        (one.SegmentNumber, one.SegmentLabel, one.SegmentedPropertyTypeCodeSequence[0].CodeValue)
        for one in dataset.SegmentSequence
    ]
    assert found == [(ORGAN, "Liver", "10200004"), (LESION, "Lesion", "52988006")]
    assert dataset.SegmentationType == "BINARY"


def test_empty_frames_are_left_out() -> None:
    _, dataset, scan = drawn(DEEP)
    filled = sum(int((scan.truth.mask == segment).any(axis=(1, 2)).sum()) for segment in (ORGAN, LESION))
    assert dataset.NumberOfFrames == filled < 2 * 6


def test_a_segmentation_holds_nothing_from_the_clock_or_from_chance() -> None:
    first, second = (dicom_bytes(drawn(FLAT)[1]) for _ in range(2))
    assert first == second
    _, dataset, _ = drawn(FLAT)
    moments = [
        str(element.value)
        for element in dataset.iterall()
        if element.VR in {"DA", "DT"} and element.value and element.keyword != "PatientBirthDate"
    ]
    assert moments
    assert {moment[:8] for moment in moments} == {dataset.StudyDate}
    identifiers = [str(element.value) for element in dataset.iterall() if element.VR == "UI"]
    assert all(one.startswith(("2.25.", "1.2.840.10008.")) for one in identifiers)


def test_drawing_a_mask_leaves_its_sources_alone() -> None:
    member = next(members(FLAT, 1))
    scan = next(scans(FLAT, member, 1))
    names = Names(1, "small", 0, 0)
    sources = images(FLAT, member, scan, names)
    before = [dicom_bytes(source) for source in sources]
    coarse = Grid(scan.grid.origin_mm, (5.0, 14.0, 14.0), (1, 20, 28))
    other = segmentation(sources, scan.truth.mask[:, ::2, ::2], coarse, names)
    assert [dicom_bytes(source) for source in sources] == before
    assert (other.Rows, other.Columns) == (20, 28)
    spacing = other.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert [float(part) for part in spacing] == [14.0, 14.0]


def opened(content: bytes, folder: Path) -> nibabel.Nifti1Image:
    path = folder / "mask.nii.gz"
    path.write_bytes(content)
    image = nibabel.load(path)
    assert isinstance(image, nibabel.Nifti1Image)
    return image


@BOTH
def test_a_nifti_mask_is_the_truth_with_axes_turned(hospital: Hospital, tmp_path: Path) -> None:
    _, _, scan = drawn(hospital)
    image = opened(nifti_bytes(scan.truth.mask, scan.grid), tmp_path)
    values = np.asanyarray(image.dataobj)
    assert values.dtype == np.uint8
    assert np.array_equal(values.transpose(2, 1, 0), scan.truth.mask)


def test_a_nifti_mask_lies_where_its_image_lies(tmp_path: Path) -> None:
    """NIfTI counts towards Right, Anterior and Superior being negative, negative, positive LPS."""
    sources, _, scan = drawn(DEEP)
    image = opened(nifti_bytes(scan.truth.mask, scan.grid), tmp_path)
    for place, source in enumerate(sources):
        x, y, z = (float(part) for part in source.ImagePositionPatient)
        right, anterior, superior = (image.affine @ [0, 0, place, 1])[:3]
        assert (-right, -anterior, superior) == pytest.approx((x, y, z), abs=1e-4)
    assert image.header.get_zooms() == pytest.approx((7.0, 7.0, 20.0))
    assert image.header.get_xyzt_units()[0] == "mm"
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")


def test_a_nifti_mask_carries_no_time_of_compression() -> None:
    _, _, scan = drawn(FLAT)
    content = nifti_bytes(scan.truth.mask, scan.grid)
    assert content[4:8] == bytes(4)
    assert content == nifti_bytes(scan.truth.mask, scan.grid)
    assert gzip.decompress(content)[344:348] == b"n+1\0"


def test_segmentations_have_what_the_standard_requires() -> None:
    """Mandatory modules of the Segmentation IOD (PS3.3 A.51), by the tables that highdicom ships."""
    _, dataset, _ = drawn(DEEP)
    required = [
        (attribute["keyword"], attribute["type"])
        for module in get_iod_module_map()["segmentation"]
        if module["usage"] == "M"
        for attribute in get_module_attribute_map()[module["key"]]
        if attribute["type"] in {"1", "2"} and not attribute["path"]
    ]
    assert len(required) > 40
    assert [keyword for keyword, _ in required if keyword not in dataset] == []
    assert [keyword for keyword, kind in required if kind == "1" and dataset[keyword].is_empty] == []


def test_a_person_without_lesions_has_frames_of_the_liver_only() -> None:
    healthy = replace(DEEP, population=Population(lesion_prevalence=0.0))
    _, dataset, scan = drawn(healthy)
    segments = {
        groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for groups in dataset.PerFrameFunctionalGroupsSequence
    }
    assert segments == {ORGAN}
    assert np.array_equal(by_frames(dataset, scan), scan.truth.mask)
    assert [one.SegmentNumber for one in dataset.SegmentSequence] == [ORGAN, LESION]
