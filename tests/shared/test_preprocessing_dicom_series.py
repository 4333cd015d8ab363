"""Files of one case to one image: each voxel's value tells where in the patient it was written, so geometry is its own
oracle, however the scan is turned, cut, shuffled or packed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, RTDoseStorage, generate_uid
from scipy.spatial.transform import Rotation

from shared.errors import CaseError
from shared.preprocessing.dicom import image_from_files
from shared.preprocessing.dicom_header import Plane
from shared.preprocessing.image import Image
from shared.preprocessing.nifti import image_from_nifti
from shared.preprocessing.orientation import canonical_axes
from shared.preprocessing.slice_grid import affine_of, order_of

Vector = NDArray[np.float64]
AXIAL = np.eye(3)
"""Columns: direction along columns (right), along rows (down), from slice to slice."""


@dataclass(frozen=True)
class Scan:
    """A scan to be written: a grid in space, LPS."""

    shape: tuple[int, int, int] = (4, 5, 6)  # slices, rows, columns
    spacing: tuple[float, float, float] = (2.5, 0.8, 0.6)
    directions: Any = None
    origin: tuple[float, float, float] = (-30.0, 12.0, 100.0)
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def affine(self) -> Vector:
        """(slice, row, column) -> LPS mm."""
        right, down, across = (AXIAL if self.directions is None else self.directions).T
        made = np.eye(4)
        made[:3, 0] = across * self.spacing[0] + self.tilt
        made[:3, 1] = down * self.spacing[1]
        made[:3, 2] = right * self.spacing[2]
        made[:3, 3] = self.origin
        return made

    def values(self) -> NDArray[np.int16]:
        """What is stored: a slanted plane in patient millimetres, (slice, row, column)."""
        return np.rint(
            field(np.moveaxis(np.indices(self.shape), 0, -1) @ self.affine()[:3, :3].T + self.origin)
        ).astype(np.int16)


def field(point: Vector) -> Vector:
    """A value for each place in the patient, distinct along every axis."""
    return np.asarray(point @ [41.0, 97.0, 13.0], np.float64)


def header(scan: Scan, storage: str = CTImageStorage) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    made.Modality = "MR"
    made.Rows, made.Columns = scan.shape[1:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 1
    return made


def decimals(numbers: Vector | Sequence[float]) -> list[str]:
    """As DICOM writes them: at most 16 characters."""
    return [f"{number:.10g}" for number in numbers]


def slices(scan: Scan, **elements: Any) -> list[FileDataset]:
    affine, values = scan.affine(), scan.values()
    right, down = affine[:3, 2] / scan.spacing[2], affine[:3, 1] / scan.spacing[1]
    made = []
    for index in range(scan.shape[0]):
        one = header(scan)
        one.ImagePositionPatient = decimals(affine[:3, 3] + index * affine[:3, 0])
        one.ImageOrientationPatient = decimals([*right, *down])
        one.PixelSpacing = decimals(scan.spacing[1:])
        one.SliceThickness = 77
        one.PixelData = values[index].tobytes()
        for name, value in elements.items():
            setattr(one, name, value)
        made.append(one)
    return made


def write(folder: Path, made: Sequence[FileDataset]) -> list[Path]:
    paths = []
    for one in made:
        paths.append(folder / f"{one.SOPInstanceUID}.dcm")
        one.save_as(paths[-1], enforce_file_format=True)
    return paths


def image_of(folder: Path, scan: Scan) -> Image:
    return image_from_files(write(folder, slices(scan)))


def refusal(paths: Sequence[Path]) -> CaseError:
    with pytest.raises(CaseError) as caught:
        image_from_files(paths)
    return caught.value


def misplacement(image: Image) -> float:
    """Largest difference between a voxel and the field at the place where the image says the voxel is."""
    assert image.affine_lps is not None
    indices = np.moveaxis(np.indices(image.shape), 0, -1)
    points = indices @ image.affine_lps[:3, :3].T + image.affine_lps[:3, 3]
    return float(np.abs(image.voxels[0] - field(points)).max())


@st.composite
def scans(draw: st.DrawFn) -> Scan:
    """Any rotation or mirroring of any grid."""
    quaternion = draw(
        st.tuples(*[st.floats(-1, 1).map(lambda x: round(x, 3))] * 4).filter(lambda q: np.any(np.abs(q) > 0.1))
    )
    directions = Rotation.from_quat(quaternion).as_matrix()
    if draw(st.booleans()):
        directions = directions @ np.diag([1, 1, -1])
    millimetres = st.floats(0.3, 6).map(lambda x: round(x, 3))
    return Scan(
        shape=draw(st.tuples(*[st.integers(2, 6)] * 3)),
        spacing=draw(st.tuples(*[millimetres] * 3)),
        directions=directions,
        origin=draw(st.tuples(*[st.floats(-100, 100).map(lambda x: round(x, 2))] * 3)),
    )


@given(scan=scans(), data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_voxel_lies_where_the_affine_says_for_any_orientation_and_file_order(
    tmp_path: Path, scan: Scan, data: st.DataObject
) -> None:
    paths = write(tmp_path, slices(scan))
    image = image_from_files(data.draw(st.permutations(paths)))
    assert misplacement(image) < 0.51  # values were rounded to integers, directions to ten digits
    assert image.affine_lps is not None
    axes = image.affine_lps[:3, :3] / np.linalg.norm(image.affine_lps[:3, :3], axis=0)
    towards = axes[[2, 1, 0], [0, 1, 2]]
    best = max(abs(axes[[2, 1, 0], list(order)]).sum() for order in permutations(range(3)))
    assert (towards > 0).all()
    assert abs(towards).sum() == pytest.approx(best, abs=2e-4)
    assert sorted(image.spacing_mm) == pytest.approx(sorted(scan.spacing), rel=1e-6)


@given(scan=scans(), flips=st.tuples(*[st.booleans()] * 3), order=st.permutations(range(3)))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nifti_stored_in_any_order_is_voxel_for_voxel_the_dicom_image(
    tmp_path: Path, scan: Scan, flips: tuple[bool, ...], order: list[int]
) -> None:
    from_dicom = image_of(tmp_path, scan)
    values, affine = scan.values(), scan.affine()
    for axis, flip in enumerate(flips):
        if flip:
            values = np.flip(values, axis)
            affine[:3, 3] += affine[:3, axis] * (values.shape[axis] - 1)
            affine[:3, axis] *= -1
    affine = affine[:, [*order, 3]]
    ras = np.diag([-1, -1, 1, 1]) @ affine
    nibabel.Nifti1Image(np.ascontiguousarray(values.transpose(order)), ras).to_filename(tmp_path / "scan.nii")
    from_nifti = image_from_nifti(tmp_path / "scan.nii", "mr")
    assert np.array_equal(from_nifti.voxels, from_dicom.voxels)
    assert np.allclose(from_nifti.affine_lps, from_dicom.affine_lps, atol=1e-4)  # NIfTI keeps float32
    assert from_nifti.spacing_mm == pytest.approx(from_dicom.spacing_mm, rel=1e-5)
    assert (from_nifti.modality, from_nifti.spacing_known) == (from_dicom.modality, from_dicom.spacing_known)


@pytest.mark.parametrize(
    ("right", "down", "shape"),
    [
        ((1, 0, 0), (0, 1, 0), (4, 5, 6)),  # axial: slices, rows, columns are D, H, W
        ((0, 1, 0), (0, 0, -1), (5, 6, 4)),  # sagittal: rows are D, columns H, slices W
        ((1, 0, 0), (0, 0, -1), (5, 4, 6)),  # coronal: rows are D, slices H, columns W
    ],
)
def test_axial_sagittal_and_coronal_scans_end_on_the_same_axes(
    tmp_path: Path, right: tuple[int, ...], down: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    directions = np.array([right, down, np.cross(right, down)], np.float64).T
    image = image_of(tmp_path, Scan(directions=directions))
    assert image.shape == shape
    assert image.affine_lps is not None
    assert np.argmax(image.affine_lps[:3, :3], axis=0).tolist() == [2, 1, 0]


@pytest.mark.parametrize("axis", range(3))
def test_at_exactly_45_degrees_the_choice_does_not_depend_on_how_the_axes_are_stored(axis: int) -> None:
    turned = Rotation.from_euler("xyz"[axis], 45, degrees=True).as_matrix()
    chosen = set()
    for order in permutations(range(3)):
        for signs in np.array(np.meshgrid(*[[1, -1]] * 3)).reshape(3, -1).T:
            affine = np.eye(4)
            affine[:3, :3] = (turned * signs)[:, list(order)]
            axes, _ = canonical_axes(affine)
            chosen.add(tuple(order[source] for source in axes))
    assert len(chosen) == 1


def test_distances_come_from_positions_and_not_from_slice_thickness(tmp_path: Path) -> None:
    assert image_of(tmp_path, Scan(spacing=(3.0, 0.5, 0.25))).spacing_mm == pytest.approx((3.0, 0.5, 0.25))


def test_shuffled_files_give_the_same_bytes(tmp_path: Path) -> None:
    paths = write(tmp_path, slices(Scan(shape=(7, 4, 4))))
    images = [image_from_files(order) for order in (paths, paths[::-1], paths[3:] + paths[:3])]
    assert {image.voxels.tobytes() for image in images} == {images[0].voxels.tobytes()}
    assert all(np.array_equal(image.affine_lps, images[0].affine_lps) for image in images)


def test_one_slice_is_a_2_d_image_as_displayed(tmp_path: Path) -> None:
    scan = Scan(shape=(1, 5, 6))
    image = image_of(tmp_path, scan)
    assert np.array_equal(image.voxels, scan.values().astype(np.float32))
    assert (image.spacing_mm, image.affine_lps) == ((0.8, 0.6), None)


def test_a_gantry_tilt_is_kept_in_the_affine(tmp_path: Path) -> None:
    image = image_of(tmp_path, Scan(tilt=(0.0, 0.9, 0.0)))
    assert image.affine_lps is not None
    assert image.affine_lps[:3, 0] == pytest.approx([0.0, 0.9, 2.5])
    assert misplacement(image) < 0.51


def test_positions_that_are_rounded_still_make_an_even_stack(tmp_path: Path) -> None:
    made = slices(Scan(shape=(9, 3, 3), spacing=(0.625, 1, 1)))
    for one in made:
        one.ImagePositionPatient = [round(float(mm), 1) for mm in one.ImagePositionPatient]
    assert image_from_files(write(tmp_path, made)).spacing_mm[0] == pytest.approx(0.625, abs=0.01)


def lost(made: list[FileDataset]) -> None:
    del made[2]


def doubled(made: list[FileDataset]) -> None:
    made[3].ImagePositionPatient = made[2].ImagePositionPatient


def turned(made: list[FileDataset]) -> None:
    made[1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def shifted(made: list[FileDataset]) -> None:
    made[2].ImagePositionPatient = [
        float(mm) + shift for mm, shift in zip(made[2].ImagePositionPatient, (3, 0, 0), strict=True)
    ]


def sheared(made: list[FileDataset]) -> None:
    for index, one in enumerate(made):
        one.ImagePositionPatient = [20.0 * index, 0.0, 2.5 * index]


def smaller(made: list[FileDataset]) -> None:
    made[0].Rows, made[0].PixelData = 4, made[0].PixelData[:48]


def finer(made: list[FileDataset]) -> None:
    made[0].PixelSpacing = [0.4, 0.6]


def other_modality(made: list[FileDataset]) -> None:
    made[0].Modality = "PT"


def placeless(made: list[FileDataset]) -> None:
    del made[0].ImagePositionPatient


def skewed(made: list[FileDataset]) -> None:
    made[0].ImageOrientationPatient = [1, 0, 0, 0.5, 0.5, 0]


def endless(made: list[FileDataset]) -> None:
    made[0].ImagePositionPatient = ["0", "0", "nan"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lost, "slice-gap"),
        (doubled, "duplicate-slice"),
        (turned, "mixed-orientation"),
        (shifted, "shifted-slice"),
        (sheared, "shifted-slice"),
        (smaller, "mixed-size"),
        (finer, "mixed-spacing"),
        (other_modality, "mixed-modality"),
        (placeless, "no-position"),
        (skewed, "bad-geometry"),
        (endless, "bad-geometry"),
    ],
)
def test_a_stack_that_is_no_grid_is_refused_by_name(
    tmp_path: Path, damage: Callable[[list[FileDataset]], None], code: str
) -> None:
    made = slices(Scan(shape=(6, 5, 6)))
    damage(made)
    error = refusal(write(tmp_path, made))
    assert error.code == code
    assert error.sentence


@pytest.mark.parametrize("missing", range(1, 5))
@pytest.mark.parametrize("count", [6, 40])
def test_a_missing_slice_is_noticed_wherever_it_was(missing: int, count: int) -> None:
    planes = [
        Plane(np.array([0, 0, 2.0 * k]), np.array([0, 1.0, 0]), np.array([1.0, 0, 0]), (1, 1)) for k in range(count)
    ]
    del planes[missing]
    with pytest.raises(CaseError) as caught:
        affine_of(planes)
    assert caught.value.code == "slice-gap"


def test_planes_are_ordered_along_their_normal() -> None:
    heights = [5.0, -1.0, 3.0]
    planes = [Plane(np.array([0, 0, z]), np.array([0, 1.0, 0]), np.array([1.0, 0, 0]), (1, 1)) for z in heights]
    assert order_of(planes).tolist() == [1, 2, 0]


def test_a_bad_file_is_named_by_its_place(tmp_path: Path) -> None:
    paths = write(tmp_path, slices(Scan()))
    paths[2].write_bytes(b"damaged")
    error = refusal(paths)
    assert error.sentence.startswith("file 3 of 4: ")
    assert str(tmp_path) not in error.sentence


def test_no_files_are_no_case() -> None:
    assert refusal([]).code == "no-files"


def packed(scan: Scan, storage: str = EnhancedMRImageStorage) -> FileDataset:
    made = header(scan, storage)
    made.NumberOfFrames = scan.shape[0]
    made.PixelData = scan.values().tobytes()
    return made


def enhanced(scan: Scan) -> FileDataset:
    """The same scan as one enhanced object: what all frames share, and where each of them lies."""
    single = slices(scan)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = single[0].ImageOrientationPatient
    measures.PixelSpacing = single[0].PixelSpacing
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Items([orientation]), Items([measures])
    frames = []
    for one in single:
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = one.ImagePositionPatient
        frame.PlanePositionSequence = Items([position])
        frames.append(frame)
    made = packed(scan)
    made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence = Items([shared]), Items(frames)
    return made


def dose_grid(scan: Scan) -> FileDataset:
    first = slices(scan)[0]
    made = packed(scan, RTDoseStorage)
    made.ImagePositionPatient, made.ImageOrientationPatient = first.ImagePositionPatient, first.ImageOrientationPatient
    made.PixelSpacing = first.PixelSpacing
    made.GridFrameOffsetVector = decimals(np.arange(scan.shape[0]) * scan.spacing[0])
    return made


def tomogram(scan: Scan) -> FileDataset:
    first = slices(scan)[0]
    detector = Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = (
        first.ImagePositionPatient,
        first.ImageOrientationPatient,
    )
    made = packed(scan)
    made.DetectorInformationSequence = Items([detector])
    made.PixelSpacing, made.SpacingBetweenSlices = first.PixelSpacing, scan.spacing[0]
    made.SliceVector = list(range(1, scan.shape[0] + 1))
    return made


@pytest.mark.parametrize("pack", [enhanced, dose_grid, tomogram])
def test_many_frames_in_one_file_are_the_volume_of_as_many_files(
    tmp_path: Path, pack: Callable[[Scan], FileDataset]
) -> None:
    oblique = Rotation.from_euler("xyz", (10, -15, 20), degrees=True).as_matrix()
    scan = Scan(directions=oblique)
    single = image_of(tmp_path, scan)
    together = image_from_files(write(tmp_path, [pack(scan)]))
    assert np.array_equal(together.voxels, single.voxels)
    assert np.allclose(together.affine_lps, single.affine_lps, atol=1e-6)


def test_enhanced_frames_in_any_order_make_the_same_volume(tmp_path: Path) -> None:
    scan = Scan()
    made = enhanced(scan)
    order = [2, 0, 3, 1]
    made.PerFrameFunctionalGroupsSequence = Items([made.PerFrameFunctionalGroupsSequence[k] for k in order])
    made.PixelData = scan.values()[order].tobytes()
    shuffled = image_from_files(write(tmp_path, [made]))
    assert np.array_equal(shuffled.voxels, image_of(tmp_path, scan).voxels)


def test_a_cine_loop_is_not_a_volume(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, [packed(Scan(shape=(30, 4, 4)))]))
    assert (error.code, "30 of 30 frames" in error.sentence) == ("no-position", True)


def test_tiles_of_a_slide_are_not_a_volume(tmp_path: Path) -> None:
    made = enhanced(Scan())
    made.TotalPixelMatrixColumns = made.TotalPixelMatrixRows = 12
    assert refusal(write(tmp_path, [made])).code == "tiled-image"


def test_a_segmentation_is_not_an_image(tmp_path: Path) -> None:
    made = enhanced(Scan())
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    assert refusal(write(tmp_path, [made])).code == "not-an-image"


def test_a_volume_in_colour_keeps_its_channels_first(tmp_path: Path) -> None:
    scan = replace(Scan(), shape=(3, 2, 2))
    made = slices(scan, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 3), dtype=np.uint8)
    for one, frame in zip(made, pixels, strict=True):
        one.BitsAllocated = one.BitsStored = 8
        one.HighBit, one.PixelRepresentation, one.PixelData = 7, 0, frame.tobytes()
    image = image_from_files(write(tmp_path, made[::-1]))
    assert np.array_equal(image.voxels, pixels.transpose(3, 0, 1, 2))
