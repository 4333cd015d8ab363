"""Whole volumes against the truth that wrote them: every way of storing a scan ends at the same geometry to 1e-3 mm,
and every damaged series under the code that says what is wrong.

A phantom is dark but for a few bright voxels, each of a value of its own at a place in the patient that the test chose.
What is compared are millimetres: where the image says a bright voxel is, and where it was put.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantom_scan import (
    AIR_HU,
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    TILT,
    Files,
    Phantom,
    Vector,
    content_of,
    decimals,
    enhanced,
    files_of,
    multi_frame,
    nifti_of,
    series,
)
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from scipy.spatial.transform import Rotation

from shared.errors import CaseError
from shared.preprocessing.dicom import image_from_files
from shared.preprocessing.image import Image
from shared.preprocessing.nifti import image_from_nifti

WITHIN_MM = 1e-3


def image_of(made: Sequence[FileDataset]) -> Image:
    return image_from_files(files_of(made))


def misplaced_mm(image: Image, phantom: Phantom) -> float:
    """By how much the bright voxel that is furthest from its true place is off; infinite where one is lost."""
    worst = 0.0
    assert image.affine_lps is not None
    for hu, place_mm in phantom.bright().items():
        voxels = np.argwhere(image.voxels[0] == hu)
        if len(voxels) != 1:
            return np.inf
        found = image.affine_lps[:3, :3] @ voxels[0] + image.affine_lps[:3, 3]
        worst = max(worst, float(np.linalg.norm(found - place_mm)))
    return worst


def check(image: Image, phantom: Phantom) -> None:
    """The geometry of ``image`` is that of ``phantom`` to 1e-3 mm, and its values are Hounsfield units."""
    assert misplaced_mm(image, phantom) < WITHIN_MM
    assert (image.voxels == AIR_HU).sum() == image.voxels.size - len(phantom.bright())
    assert image.affine_lps is not None
    truth, columns = phantom.affine()[:3, :3], image.affine_lps[:3, :3]
    # The image's axes are the phantom's, in some order and sense: the one that is nearest must be equal.
    sources = [int(np.argmax(np.abs(truth.T @ column) / np.linalg.norm(truth, axis=0))) for column in columns.T]
    assert sorted(sources) == [0, 1, 2]
    for axis, source in enumerate(sources):
        sign = np.sign(columns[:, axis] @ truth[:, source])
        assert np.abs(columns[:, axis] - sign * truth[:, source]).max() * image.shape[axis] < WITHIN_MM
        assert image.spacing_mm[axis] == pytest.approx(float(np.linalg.norm(truth[:, source])), abs=WITHIN_MM)
        assert image.shape[axis] == phantom.shape[source]
    assert [int(np.argmax(np.abs(column))) for column in columns.T] == [2, 1, 0]
    assert all(columns[row, axis] > 0 for axis, row in enumerate((2, 1, 0)))


PHANTOMS = {
    "axial": Phantom(),
    "axial, feet first": Phantom(AXIAL * [1, 1, -1]),
    "sagittal": Phantom(SAGITTAL),
    "coronal": Phantom(CORONAL),
    "oblique": Phantom(OBLIQUE),
    "gantry tilt": Phantom(step=TILT),
    "oblique with a tilt": Phantom(OBLIQUE, step=OBLIQUE @ TILT),
    "thin slices": Phantom(spacing_mm=(0.625, 0.4883, 0.4883)),
}


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_shuffled_series_has_the_geometry_of_the_phantom(name: str) -> None:
    check(image_of(series(PHANTOMS[name])), PHANTOMS[name])


@pytest.mark.parametrize("name", PHANTOMS)
def test_an_enhanced_object_has_the_geometry_of_the_phantom(name: str) -> None:
    check(image_of(enhanced(PHANTOMS[name])), PHANTOMS[name])


@pytest.mark.parametrize("name", [name for name in PHANTOMS if "tilt" not in name])
def test_a_classic_object_of_many_frames_has_the_geometry_of_the_phantom(name: str) -> None:
    """Its frames follow each other along the normal: it cannot say that a gantry was tilted."""
    check(image_of(multi_frame(PHANTOMS[name])), PHANTOMS[name])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_the_way_of_writing_a_file_plays_no_part(syntax: UID) -> None:
    made = series(PHANTOMS["oblique"])
    for one in made:
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
        if syntax == RLELossless:
            one.compress(RLELossless)
    check(image_of(made), PHANTOMS["oblique"])


@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), lean=st.floats(-25, 25), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_any_scan_has_the_geometry_of_the_phantom(angles: tuple[float, float, float], lean: float, seed: int) -> None:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    phantom = Phantom(turn, step=turn @ [0, 2.5 * np.tan(np.radians(lean)), 0])
    image = image_from_files(files_of(series(phantom), seed))
    assert misplaced_mm(image, phantom) < WITHIN_MM
    assert sorted(image.spacing_mm) == pytest.approx(
        sorted(np.linalg.norm(phantom.affine()[:3, :3], axis=0)), abs=WITHIN_MM
    )


@pytest.mark.parametrize("shift_mm", [0.01, 0.5])
def test_the_check_notices_a_phantom_that_lies_elsewhere(shift_mm: float) -> None:
    image = image_of(series(Phantom()))
    moved = Phantom(origin_mm=(-31.25 + shift_mm, 12.5, 140.75))
    assert misplaced_mm(image, moved) == pytest.approx(shift_mm, abs=WITHIN_MM)
    mirrored = Phantom(AXIAL * [-1, 1, 1])
    assert misplaced_mm(image, mirrored) > 1


def missing(made: Files) -> None:
    del made[4]


def several_missing(made: Files) -> None:
    del made[5:7]


def duplicate(made: Files) -> None:
    made.append(dcmread(DicomBytesIO(content_of(made[3]))))


def localiser(made: Files) -> None:
    made[2].ImageOrientationPatient = decimals([*SAGITTAL[:, 0], *SAGITTAL[:, 1]])


def half_turned(made: Files) -> None:
    for one in made[:4]:
        one.ImageOrientationPatient = decimals([*OBLIQUE[:, 0], *OBLIQUE[:, 1]])


def aside(made: Files) -> None:
    made[4].ImagePositionPatient = decimals([float(mm) + 4 for mm in made[4].ImagePositionPatient[:2]] + [150.75])


DAMAGES: dict[str, tuple[Callable[[Files], None], str]] = {
    "a slice is missing": (missing, "slice-gap"),
    "several slices are missing": (several_missing, "slice-gap"),
    "a slice is there twice": (duplicate, "duplicate-slice"),
    "a localiser is among them": (localiser, "mixed-orientation"),
    "two orientations": (half_turned, "mixed-orientation"),
    "a slice lies beside the others": (aside, "shifted-slice"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_series_ends_under_the_code_that_says_what_is_wrong(damage: str, seed: int) -> None:
    made = series(Phantom())
    spoil, code = DAMAGES[damage]
    spoil(made)
    with pytest.raises(CaseError) as caught:
        image_from_files(files_of(made, seed))
    assert caught.value.code == code
    assert any(character.isdigit() for character in caught.value.sentence)


@pytest.mark.parametrize(
    ("shift_mm", "orientation", "code"),
    [((0, 0, 2.5), None, "duplicate-slice"), ((0, 0, 1.2), None, "slice-gap"), (None, CORONAL, "mixed-orientation")],
)
def test_a_frame_out_of_place_in_an_enhanced_object_ends_under_the_same_codes(
    shift_mm: tuple[float, float, float] | None, orientation: Vector | None, code: str
) -> None:
    made = enhanced(Phantom())
    frames = made[0].PerFrameFunctionalGroupsSequence
    # The frame below the top one, found by its height.
    heights = [float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) for frame in frames]
    frame = frames[int(np.argsort(heights)[-2])]
    if shift_mm is not None:
        position = frame.PlanePositionSequence[0]
        position.ImagePositionPatient = decimals(
            [float(mm) + shift for mm, shift in zip(position.ImagePositionPatient, shift_mm, strict=True)]
        )
    if orientation is not None:
        other = Dataset()
        other.ImageOrientationPatient = decimals([*orientation[:, 0], *orientation[:, 1]])
        frame.PlaneOrientationSequence = Items([other])
    with pytest.raises(CaseError) as caught:
        image_of(made)
    assert caught.value.code == code


ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", PHANTOMS)
def test_nifti_and_dicom_of_one_volume_agree_voxel_for_voxel_and_in_space(name: str, kind: Any) -> None:
    phantom = PHANTOMS[name]
    dicom = image_of(series(phantom))
    for number, order in enumerate(ORDERS):
        nifti = image_from_nifti(nifti_of(phantom, order, kind, packed=bool(number % 2)), "ct")
        assert np.array_equal(nifti.voxels, dicom.voxels)
        assert nifti.affine_lps is not None
        assert dicom.affine_lps is not None
        assert np.abs(nifti.affine_lps - dicom.affine_lps).max() < WITHIN_MM
        assert nifti.spacing_mm == pytest.approx(dicom.spacing_mm, abs=WITHIN_MM)
        check(nifti, phantom)
