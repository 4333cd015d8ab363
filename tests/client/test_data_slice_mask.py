from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from client.data.ingest.slice_mask import SeriesMask, mask_of_slice, read_series_mask
from shared.errors import CaseError
from shared.preprocessing.dicom_file import read_file

ROWS, COLUMNS = 4, 5
CLASSES = np.arange(3 * ROWS * COLUMNS, dtype=np.uint8).reshape(3, ROWS, COLUMNS)
"""A number of its own for each voxel of an axial series of three slices, 2 mm apart."""

AXIAL = SeriesMask(CLASSES, np.array([[0, 0, 0.5, 10], [0, 1.5, 0, 20], [2, 0, 0, 30], [0, 0, 0, 1]], float))
"""(d, h, w) -> LPS: w runs along x, h along y, d along z."""


def mr(folder: Path, position: list[float], orientation: list[float], spacing: list[float], **changes: Any) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = MRImageStorage, "1.2.1", "1.2"
    dataset.PatientID, dataset.Modality = "P1", "MR"
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing = position, orientation, spacing
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = ROWS, COLUMNS
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.PixelData = bytes(2 * dataset.Rows * dataset.Columns)
    pydicom.dcmwrite(folder / "slice", dataset, enforce_file_format=True)
    return folder / "slice"


def code_of(series: SeriesMask, image: Path) -> str:
    with pytest.raises(CaseError) as caught:
        mask_of_slice(series, read_file(image))
    return caught.value.code


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_axial_slice_is_a_plane_of_the_volume(tmp_path: Path, number: int) -> None:
    image = mr(tmp_path, [10, 20, 30 + 2 * number], [1, 0, 0, 0, 1, 0], [1.5, 0.5])
    np.testing.assert_array_equal(mask_of_slice(AXIAL, read_file(image)), CLASSES[number])


def test_a_slice_that_is_stored_mirrored_gets_a_mirrored_mask(tmp_path: Path) -> None:
    """Rows run from right to left here, starting at the last column of the volume."""
    image = mr(tmp_path, [10 + 0.5 * 4, 20, 32], [-1, 0, 0, 0, 1, 0], [1.5, 0.5])
    np.testing.assert_array_equal(mask_of_slice(AXIAL, read_file(image)), CLASSES[1][:, ::-1])


def test_a_slice_that_is_stored_turned_gets_a_turned_mask(tmp_path: Path) -> None:
    image = mr(tmp_path, [10, 20, 34], [0, 1, 0, 1, 0, 0], [0.5, 1.5], Rows=COLUMNS, Columns=ROWS)
    np.testing.assert_array_equal(mask_of_slice(AXIAL, read_file(image)), CLASSES[2].T)


def test_a_sagittal_slice_is_a_plane_across_the_volume(tmp_path: Path) -> None:
    """Columns run towards posterior, rows towards the feet, at the volume's fourth column."""
    image = mr(tmp_path, [10 + 0.5 * 3, 20, 34], [0, 1, 0, 0, 0, -1], [2, 1.5], Rows=3, Columns=ROWS)
    np.testing.assert_array_equal(mask_of_slice(AXIAL, read_file(image)), CLASSES[::-1, :, 3])


def test_a_slice_of_a_tilted_series_finds_its_voxels(tmp_path: Path) -> None:
    """A volume turned by 20 degrees about x, by hand: the slice at d = 1."""
    cos, sin = np.cos(np.radians(20)), np.sin(np.radians(20))
    down, across = np.array([0, cos, sin]), np.array([0, -sin, cos])
    affine = np.eye(4)
    affine[:3] = np.stack([2 * across, 1.5 * down, [0.5, 0, 0], [10, 20, 30]], axis=1)
    image = mr(tmp_path, list(affine[:3, 3] + 2 * across), [1, 0, 0, *down], [1.5, 0.5])
    np.testing.assert_array_equal(mask_of_slice(SeriesMask(CLASSES, affine), read_file(image)), CLASSES[1])


@pytest.mark.parametrize(
    "position",
    [[10, 20, 31], [10, 20, 28], [10, 20, 36], [10.25, 20, 30], [10, 21.5, 30], [9.5, 20, 30]],
)
def test_a_slice_between_voxels_or_beyond_the_volume_is_refused(tmp_path: Path, position: list[float]) -> None:
    assert code_of(AXIAL, mr(tmp_path, position, [1, 0, 0, 0, 1, 0], [1.5, 0.5])) == "mask-grid"


def test_a_slice_of_another_spacing_is_refused(tmp_path: Path) -> None:
    assert code_of(AXIAL, mr(tmp_path, [10, 20, 30], [1, 0, 0, 0, 1, 0], [1.5, 0.55])) == "mask-grid"


def test_rounding_of_a_tenth_of_a_voxel_is_forgiven(tmp_path: Path) -> None:
    image = mr(tmp_path, [10.02, 20.05, 30.1], [1, 0, 0, 0, 1, 0], [1.5, 0.5])
    np.testing.assert_array_equal(mask_of_slice(AXIAL, read_file(image)), CLASSES[0])


def test_a_slice_without_position_is_refused(tmp_path: Path) -> None:
    image = mr(tmp_path, [10, 20, 30], [1, 0, 0, 0, 1, 0], [1.5, 0.5], ImagePositionPatient=[])
    assert code_of(AXIAL, image) == "no-position"


def test_a_single_image_is_no_series(tmp_path: Path) -> None:
    image = mr(tmp_path, [10, 20, 30], [1, 0, 0, 0, 1, 0], [1.5, 0.5])
    with pytest.raises(CaseError) as caught:
        read_series_mask(tmp_path / "m.nii", (image,))
    assert caught.value.code == "mask-grid"
