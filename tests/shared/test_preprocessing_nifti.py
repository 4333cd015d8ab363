"""NIfTI images and masks. That DICOM and NIfTI of one volume agree is tested with the DICOM series."""

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.preprocessing.image import Image
from shared.preprocessing.nifti import image_from_nifti, mask_from_nifti

RNG = np.random.default_rng(3)
LAS = np.diag([-0.5, 0.75, 2.0, 1.0])
"""First axis to the Left, second to Anterior, third to Superior: how scanners' exports usually come."""


def write(folder: Path, values: NDArray[Any], affine: NDArray[np.float64] = LAS, name: str = "case.nii.gz") -> Path:
    path = folder / name
    nibabel.Nifti1Image(values, affine).to_filename(path)
    return path


def image_refusal(path: Path) -> CaseError:
    with pytest.raises(CaseError) as caught:
        image_from_nifti(path)
    return caught.value


def mask_refusal(path: Path, image: Image) -> CaseError:
    with pytest.raises(CaseError) as caught:
        mask_from_nifti(path, image)
    return caught.value


def test_axes_become_superior_posterior_left(tmp_path: Path) -> None:
    values = RNG.integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    image = image_from_nifti(write(tmp_path, values), "ct")
    # i already runs to Left and k to Superior; j runs to Anterior and must turn round.
    assert np.array_equal(image.voxels[0], values.transpose(2, 1, 0)[:, ::-1].astype(np.float32))
    assert image.spacing_mm == pytest.approx((2.0, 0.75, 0.5))
    assert (image.modality, image.spacing_known) == ("ct", True)


def test_the_affine_says_where_each_voxel_is_in_lps(tmp_path: Path) -> None:
    affine = LAS.copy()
    affine[:3, 3] = (10, 20, 30)
    image = image_from_nifti(write(tmp_path, np.zeros((3, 4, 5), np.int16), affine))
    assert image.affine_lps is not None
    # The first canonical voxel is i = 0, j = 3, k = 0: RAS (10, 20 + 3 * 0.75, 30), so LPS (-10, -22.25, 30).
    assert image.affine_lps @ [0, 0, 0, 1] == pytest.approx([-10, -22.25, 30, 1])
    assert image.affine_lps[:3, :3] == pytest.approx(np.array([[0, 0, 0.5], [0, 0.75, 0], [2, 0, 0]]))


def test_the_scaling_of_the_header_is_applied(tmp_path: Path) -> None:
    path = write(tmp_path, np.array([[[0, 1, 100]]] * 2, np.int16).repeat(2, axis=1), name="scaled.nii")
    raw = bytearray(path.read_bytes())
    struct.pack_into("<ff", raw, 112, 0.5, -3)  # scl_slope and scl_inter of the NIfTI-1 header
    path.write_bytes(raw)
    assert np.unique(image_from_nifti(path).voxels).tolist() == [-3.0, -2.5, 47.0]


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("meter", 1000.0), ("micron", 0.001), ("unknown", 1.0)])
def test_units_of_space_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    file = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.int16), LAS)
    file.header.set_xyzt_units(unit)
    file.to_filename(tmp_path / "unit.nii")
    image = image_from_nifti(tmp_path / "unit.nii")
    assert image.spacing_mm == pytest.approx((2.0 * factor, 0.75 * factor, 0.5 * factor))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 1, 1)])
def test_one_axial_slice_is_a_2_d_image_as_displayed(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = RNG.integers(0, 99, shape).astype(np.int16)
    image = image_from_nifti(write(tmp_path, values))
    assert np.array_equal(image.voxels[0], values.reshape(4, 5).T[::-1].astype(np.float32))
    assert image.spacing_mm == pytest.approx((0.75, 0.5))
    assert image.affine_lps is None


def test_one_sagittal_slice_is_shown_head_up(tmp_path: Path) -> None:
    values = RNG.integers(0, 99, (1, 4, 5)).astype(np.int16)
    image = image_from_nifti(write(tmp_path, values))
    assert np.array_equal(image.voxels[0], values[0].T[::-1, ::-1].astype(np.float32))
    assert image.spacing_mm == pytest.approx((2.0, 0.75))


def test_colour_voxels_become_three_channels(tmp_path: Path) -> None:
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    values = np.zeros((2, 3, 4), rgb)
    values["R"], values["G"], values["B"] = 10, 20, 30
    image = image_from_nifti(write(tmp_path, values))
    assert image.voxels.shape == (3, 4, 3, 2)
    assert [set(channel.ravel()) for channel in image.voxels] == [{10.0}, {20.0}, {30.0}]


def test_a_time_series_is_refused_with_its_length(tmp_path: Path) -> None:
    error = image_refusal(write(tmp_path, np.zeros((2, 3, 4, 7), np.int16)))
    assert (error.code, "got 7" in error.sentence) == ("image-shape", True)


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    assert image_refusal(write(tmp_path, np.zeros((2, 3, 4), np.complex64))).code == "image-shape"


def test_voxels_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    assert image_refusal(write(tmp_path, np.full((2, 3, 4), np.nan, np.float32))).code == "image-not-finite"


@pytest.mark.parametrize("value", [1e39, -1e300], ids=["large", "huge"])
def test_voxels_that_float32_cannot_hold_are_refused_without_a_warning(tmp_path: Path, value: float) -> None:
    assert image_refusal(write(tmp_path, np.full((2, 3, 4), value, np.float64))).code == "image-not-finite"


def test_a_scaling_that_leaves_the_numbers_is_refused_without_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path, np.full((2, 3, 4), 30000, np.int16))
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:120] = np.array([3e38, -3e38], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(gzip.compress(bytes(content)))
    assert image_refusal(path).code == "image-not-finite"


def test_an_affine_that_does_not_span_space_is_refused(tmp_path: Path) -> None:
    flat = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], np.float64)
    header = nibabel.Nifti1Header()
    header.set_data_shape((2, 3, 4))
    header.set_sform(flat, 1)
    raw = header.binaryblock + b"\0" * 4 + b"\0" * 4 * 24
    path = tmp_path / "flat.nii"
    path.write_bytes(raw)
    assert image_refusal(path).code in {"bad-geometry", "unreadable-nifti"}


def test_a_small_file_that_declares_a_huge_volume_is_refused(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4096))
    assert image_refusal(path).code == "image-too-large"


@given(cut=st.integers(0, 700), noise=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_load_or_are_refused_and_nothing_else_escapes(
    tmp_path: Path, cut: int, noise: list[tuple[int, int]]
) -> None:
    content = bytearray(write(tmp_path, np.ones((4, 5, 6), np.int16), name="whole.nii").read_bytes())
    for place, value in noise:
        content[place] = value
    path = tmp_path / "damaged.nii"
    path.write_bytes(content[: len(content) - cut])
    try:
        image_from_nifti(path)
    except CaseError as error:
        refused = error.code
    else:
        refused = "none"
    assert refused != "case"


@pytest.mark.parametrize("name", ["text.nii", "text.nii.gz", "picture.png"])
def test_what_is_not_nifti_is_called_unreadable(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not an image at all")
    error = image_refusal(path)
    assert error.code == "unreadable-nifti"
    assert str(tmp_path) not in error.sentence + error.hint


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mask_stored_along_other_axes_lands_on_the_same_voxels(tmp_path: Path, data: st.DataObject) -> None:
    values = np.arange(60).reshape(3, 4, 5)
    classes = (values % 3).astype(np.uint8)
    image = image_from_nifti(write(tmp_path, values.astype(np.int16)))
    affine = LAS.copy()
    for axis in range(3):
        if data.draw(st.booleans()):
            classes = np.flip(classes, axis)
            affine[:3, 3] += affine[:3, axis] * (classes.shape[axis] - 1)
            affine[:3, axis] *= -1
    order = data.draw(st.permutations(range(3)))
    turned = np.ascontiguousarray(classes.transpose(order))
    mask = mask_from_nifti(write(tmp_path, turned, affine[:, [*order, 3]], "mask.nii"), image)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, image.voxels[0] % 3)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_class_indices_may_be_stored_in_any_type(tmp_path: Path, kind: type) -> None:
    classes = RNG.integers(0, 4, (3, 4, 5))
    image = image_from_nifti(write(tmp_path, classes.astype(np.int16)))
    assert np.array_equal(mask_from_nifti(write(tmp_path, classes.astype(kind)), image), image.voxels[0])


def test_the_mask_of_a_single_slice_is_flat_too(tmp_path: Path) -> None:
    classes = RNG.integers(0, 2, (1, 4, 5)).astype(np.uint8)
    path = write(tmp_path, classes)
    image = image_from_nifti(path)
    assert np.array_equal(mask_from_nifti(path, image), image.voxels[0])


def test_a_mask_of_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    image = image_from_nifti(write(tmp_path, np.zeros((3, 4, 5), np.int16)))
    error = mask_refusal(write(tmp_path, np.zeros((3, 4, 6), np.uint8)), image)
    assert error.code == "mask-shape"
    assert "(5, 4, 3)" in error.sentence
    assert "(6, 4, 3)" in error.sentence


@pytest.mark.parametrize(("shift_mm", "fits"), [(0.04, True), (0.06, False), (2.0, False)])
def test_a_mask_must_lie_within_a_tenth_of_the_smallest_spacing(tmp_path: Path, shift_mm: float, *, fits: bool) -> None:
    image = image_from_nifti(write(tmp_path, np.zeros((3, 4, 5), np.int16)))
    moved = LAS.copy()
    moved[2, 3] += shift_mm
    path = write(tmp_path, np.zeros((3, 4, 5), np.uint8), moved)
    if fits:
        assert not mask_from_nifti(path, image).any()
    else:
        error = mask_refusal(path, image)
        assert (error.code, f"{shift_mm:.3g} mm" in error.sentence) == ("mask-grid", True)


def test_a_mask_of_another_spacing_is_refused_at_its_far_corner(tmp_path: Path) -> None:
    image = image_from_nifti(write(tmp_path, np.zeros((3, 4, 50), np.int16)))
    stretched = LAS.copy()
    stretched[2, 2] = 2.01
    error = mask_refusal(write(tmp_path, np.zeros((3, 4, 50), np.uint8), stretched), image)
    assert (error.code, "0.49 mm" in error.sentence) == ("mask-grid", True)


@pytest.mark.parametrize("values", [[0.0, 0.5, 1.0], [0.0, -1.0, 1.0], [0.0, 1.0, np.nan], [0.0, 128.0, 255.0], [64.0]])
def test_numbers_that_are_no_class_are_refused_and_not_rounded(tmp_path: Path, values: list[float]) -> None:
    image = image_from_nifti(write(tmp_path, np.zeros((2, 3, 4), np.int16)))
    mask = np.resize(np.array(values, np.float32), (2, 3, 4))
    assert mask_refusal(write(tmp_path, mask), image).code == "mask-values"


def test_a_mask_in_colour_is_refused(tmp_path: Path) -> None:
    image = image_from_nifti(write(tmp_path, np.zeros((2, 3, 4), np.int16)))
    rgb = np.zeros((2, 3, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    assert mask_refusal(write(tmp_path, rgb), image).code == "mask-values"
