"""RT structure sets: circles and polygons whose area and inside are known, on grids turned anywhere in space."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from scipy.spatial.transform import Rotation

from shared.errors import CaseError
from shared.preprocessing.dicom_contours import mask_from_contours
from shared.preprocessing.image import MaskArray
from shared.preprocessing.masks import MAX_CLASSES
from shared.preprocessing.orientation import Grid

Points = NDArray[np.float64]
SPACE = "1.2.3.4"
SHAPE = (6, 40, 50)
SPACING = (3.0, 0.8, 1.2)


def grid(
    directions: Points | None = None, shear: Points | Sequence[float] = (0, 0, 0), shape: Sequence[int] = SHAPE
) -> Grid:
    """(d, h, w) -> LPS mm."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3)[:, ::-1] if directions is None else directions) * SPACING
    affine[:3, 0] += shear
    affine[:3, 3] = (-20.0, 35.0, 110.0)
    return Grid(tuple(shape), affine)


UPRIGHT = grid()


def on_slice(number: float, outline: Points, where: Grid = UPRIGHT) -> Points:
    """Points of an outline in (row, column), put on a slice: LPS mm, shape (n, 3)."""
    assert where.affine_lps is not None
    voxels = np.column_stack([np.full(len(outline), number), outline])
    return np.asarray(voxels @ where.affine_lps[:3, :3].T + where.affine_lps[:3, 3], np.float64)


def structure_set(regions: Mapping[str, Sequence[Points]], kind: str = "CLOSED_PLANAR") -> Dataset:
    """As treatment planning writes it: names in one sequence, contours in another, joined by number."""
    named, drawn = [], []
    for number, (name, contours) in enumerate(regions.items(), start=5):
        roi, points = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, SPACE
        points.ReferencedROINumber = number
        points.ContourSequence = Items([contour_item(contour, kind) for contour in contours])
        named.append(roi)
        drawn.append(points)
    made = Dataset()
    made.StructureSetROISequence, made.ROIContourSequence = Items(named), Items(drawn[::-1])
    return made


def contour_item(points: Points, kind: str) -> Dataset:
    made = Dataset()
    made.ContourGeometricType, made.NumberOfContourPoints = kind, len(points)
    made.ContourData = [f"{mm:.10g}" for mm in points.ravel()]
    return made


def mask_of(regions: Mapping[str, Sequence[Points]], where: Grid = UPRIGHT, **names: int) -> MaskArray:
    return mask_from_contours(structure_set(regions), where, names)


def refusal(dataset: Dataset, where: Grid = UPRIGHT, space: str = "", **names: int) -> CaseError:
    with pytest.raises(CaseError) as caught:
        mask_from_contours(dataset, where, names, space)
    return caught.value


def circle(radius: float, row: float = 20.3, column: float = 24.6, corners: int = 400) -> Points:
    """In mm around a centre in voxels: an ellipse in (row, column)."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.column_stack([row + radius / SPACING[1] * np.sin(angle), column + radius / SPACING[2] * np.cos(angle)])


def square(top: float, left: float, bottom: float, right: float) -> Points:
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]])


def within_circle(radius: float, row: float = 20.3, column: float = 24.6) -> NDArray[np.bool_]:
    rows, columns = np.indices(SHAPE[1:])
    return np.asarray(np.hypot((rows - row) * SPACING[1], (columns - column) * SPACING[2]) < radius, bool)


def test_a_circle_holds_the_pixels_whose_centres_are_nearer_than_its_radius() -> None:
    mask = mask_of({"GTV": [on_slice(2, circle(11.0))]})
    assert np.array_equal(mask[2], within_circle(11.0))
    assert mask.sum() == mask[2].sum()
    assert mask.dtype == np.uint8


@given(radius=st.floats(6, 15), row=st.floats(19, 21), column=st.floats(23, 26))
@example(12.0, 19.0, 23.0)
@settings(deadline=None, max_examples=30)
def test_a_circle_anywhere_holds_the_pixels_within_it_and_no_others(radius: float, row: float, column: float) -> None:
    """A polygon of 400 corners lies within 0.0005 mm of its circle here: only centres that near may go either way."""
    mask = mask_of({"GTV": [on_slice(0, circle(radius, row, column))]})[0] > 0
    assert mask[within_circle(radius - 0.001, row, column)].all()
    assert not mask[~within_circle(radius + 0.001, row, column)].any()


def test_a_ball_has_the_volume_of_a_ball() -> None:
    """Contours of a ball of radius 8.5 mm around slice 3, whose planes are 3 mm apart (midpoint rule: 6 %)."""
    heights = {number: (number - 3) * SPACING[0] for number in range(1, 6)}
    contours = [on_slice(number, circle(float(np.sqrt(8.5**2 - mm**2)))) for number, mm in heights.items()]
    volume = mask_of({"GTV": contours}).sum() * np.prod(SPACING)
    assert volume == pytest.approx(4 / 3 * np.pi * 8.5**3, rel=0.06)


corners = st.tuples(st.floats(0.5, 38.5), st.floats(0.5, 48.5))


@given(polygons=st.lists(st.lists(corners, min_size=3, max_size=9), min_size=1, max_size=3))
@settings(deadline=None, max_examples=60)
def test_any_polygons_hold_what_another_algorithm_finds_in_an_odd_number_of_them(
    polygons: list[list[tuple[float, float]]],
) -> None:
    """The oracle counts windings of each simple triangle of a fan; pixels that touch an edge are left out."""
    outlines = [np.array(polygon) for polygon in polygons]
    found = mask_of({"GTV": [on_slice(4, outline) for outline in outlines]})[4]
    rows, columns = np.indices(SHAPE[1:])
    centres = np.column_stack([rows.ravel(), columns.ravel()]).astype(float)
    odd, doubtful = np.zeros(len(centres), bool), np.zeros(len(centres), bool)
    for outline in outlines:
        # A fan of triangles from the first corner: a point is inside the polygon where it is in an odd number of them.
        for second, third in pairwise(outline[1:]):
            triangle = np.array([outline[0], second, third])
            odd ^= in_triangle(centres, triangle)
            doubtful |= near_edges(centres, triangle)
    agree = (found.ravel() != 0) == odd
    assert agree[~doubtful].all()


def in_triangle(points: Points, triangle: Points) -> NDArray[np.bool_]:
    """By the signs of three cross products."""
    sides = []
    for start, end in zip(triangle, np.roll(triangle, -1, axis=0), strict=True):
        way, to = end - start, points - start
        sides.append(way[0] * to[:, 1] - way[1] * to[:, 0])
    signs = np.array(sides)
    return np.asarray((signs > 0).all(axis=0) | (signs < 0).all(axis=0), bool)


def near_edges(points: Points, triangle: Points) -> NDArray[np.bool_]:
    near = np.zeros(len(points), bool)
    for start, end in zip(triangle, np.roll(triangle, -1, axis=0), strict=True):
        way = end - start
        along = np.clip((points - start) @ way / max(way @ way, 1e-12), 0, 1)
        near |= np.linalg.norm(points - start - along[:, None] * way, axis=1) < 1e-4
    return near


def test_matplotlib_finds_the_same_pixels_inside_a_star() -> None:
    angle = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    radius = np.where(np.arange(10) % 2, 5.3, 15.7)
    star = np.column_stack([20.13 + radius * np.sin(angle), 25.41 + radius * np.cos(angle)])
    rows, columns = np.indices(SHAPE[1:])
    inside = Outline(star).contains_points(np.column_stack([rows.ravel(), columns.ravel()]))
    assert np.array_equal(mask_of({"GTV": [on_slice(0, star)]})[0].ravel(), inside)


def test_a_contour_inside_another_is_a_hole() -> None:
    ring = {"GTV": [on_slice(2, circle(12.0)), on_slice(2, circle(6.0))]}
    expected = within_circle(12.0) & ~within_circle(6.0)
    assert np.array_equal(mask_of(ring)[2], expected)


def test_a_hole_may_be_joined_to_the_outline_by_a_keyhole() -> None:
    """The channel runs there and back along the same line and encloses nothing."""
    outer, inner = square(5, 5, 30, 40), square(10, 12, 20, 30)[::-1]
    keyhole = np.vstack([outer, outer[:1], inner, inner[:1]])
    expected = np.zeros(SHAPE[1:], bool)
    expected[5:30, 5:40] = True
    expected[10:20, 12:30] = False
    assert np.array_equal(mask_of({"GTV": [on_slice(1, keyhole)]})[1], expected)


def test_two_squares_with_a_common_edge_on_pixel_centres_share_no_pixel_and_leave_none_out() -> None:
    left, right = square(5, 5, 15, 20), square(5, 20, 15, 30)
    mask = mask_of({"a": [on_slice(0, left)], "b": [on_slice(0, right)]}, a=1, b=2)
    assert [int((mask == index).sum()) for index in (1, 2)] == [10 * 15, 10 * 10]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_contours_may_lie_across_any_axis_of_the_grid(axis: int) -> None:
    """A sagittal or coronal scan, turned to canonical axes, has its slices along w or h."""
    others = [other for other in range(3) if other != axis]
    assert UPRIGHT.affine_lps is not None
    outline = square(1.5, 2.5, 4.5, 30.5)
    voxels = np.zeros((4, 3))
    voxels[:, axis], voxels[:, others] = 3, outline
    expected = np.zeros(SHAPE, np.uint8)
    expected[tuple(3 if each == axis else slice(*((2, 5) if each == others[0] else (3, 31))) for each in range(3))] = 1
    points = voxels @ UPRIGHT.affine_lps[:3, :3].T + UPRIGHT.affine_lps[:3, 3]
    assert np.array_equal(mask_of({"GTV": [points]}), expected)


@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), shear=st.floats(-1.2, 1.2))
@settings(deadline=None, max_examples=30)
def test_on_a_grid_turned_and_tilted_anywhere_the_mask_is_the_same(
    angles: tuple[float, float, float], shear: float
) -> None:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    where = grid(turn, shear * turn[:, 1])
    outlines = {2: circle(11.0), 3: circle(8.0)}
    upright = mask_of({"GTV": [on_slice(number, outline) for number, outline in outlines.items()]})
    turned = mask_of({"GTV": [on_slice(number, outline, where) for number, outline in outlines.items()]}, where)
    assert np.array_equal(turned, upright)


@pytest.mark.parametrize(("height", "place"), [(2.0, 2), (2.4, 2), (1.55, 2), (-0.4, 0), (5.4, 5)])
def test_a_contour_beside_a_slice_belongs_to_the_nearest(height: float, place: int) -> None:
    mask = mask_of({"GTV": [on_slice(height, circle(9.0))]})
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [place]


@pytest.mark.parametrize("height", [2.5, 2.495, -0.6, 5.6, 40.0])
def test_a_contour_midway_between_slices_or_beyond_them_is_refused(height: float) -> None:
    error = refusal(structure_set({"GTV": [on_slice(height, circle(9.0))]}))
    assert (error.code, "midway" in error.sentence) == ("mask-grid", True)


def test_contours_of_several_heights_on_one_slice_were_drawn_on_another_series() -> None:
    contours = [on_slice(height, circle(9.0)) for height in (1.0, 1.33, 1.67, 2.0)]
    error = refusal(structure_set({"GTV": contours}))
    assert (error.code, "several heights" in error.sentence) == ("mask-grid", True)


def test_contours_on_every_second_slice_only_are_refused_and_not_taken_for_stripes() -> None:
    error = refusal(structure_set({"GTV": [on_slice(height, circle(9.0)) for height in (0, 2, 4)]}))
    assert (error.code, "no two neighbours" in error.sentence) == ("mask-grid", True)


def test_two_parts_of_one_structure_may_lie_apart() -> None:
    mask = mask_of({"GTV": [on_slice(height, circle(9.0)) for height in (0, 1, 4, 5)]})
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [0, 1, 4, 5]


def test_a_contour_that_is_not_parallel_to_the_slices_is_refused() -> None:
    leaning = on_slice(2, circle(11.0))
    leaning[:, 2] += np.linspace(0, 4, len(leaning))
    leaning[:, :2] += np.random.default_rng(1).normal(0, 3, (len(leaning), 2))
    assert refusal(structure_set({"GTV": [leaning]})).code == "mask-grid"


def test_a_contour_far_beyond_the_image_is_refused_and_one_at_its_edge_is_cut() -> None:
    assert refusal(structure_set({"GTV": [on_slice(2, square(-1.5, 5, 10, 10))]})).code == "mask-grid"
    mask = mask_of({"GTV": [on_slice(2, square(-0.5, -0.5, SHAPE[1] - 0.5, SHAPE[2] - 0.5))]})
    assert mask[2].all()


def test_structures_are_classes_by_name_and_the_others_do_not_count() -> None:
    regions = {
        "Liver ": [on_slice(1, square(2.5, 2.5, 8.5, 8.5))],
        "BODY": [on_slice(1, circle(14.0))],
        "Tumör": [on_slice(1, square(30.5, 30.5, 34.5, 36.5))],
    }
    mask = mask_of(regions, Liver=1, Tumör=2, leber=1)
    assert np.bincount(mask.ravel()).tolist()[1:] == [36, 24]


def test_a_structure_without_contours_is_an_empty_class_and_a_missing_one_a_refusal() -> None:
    regions: Mapping[str, Sequence[Points]] = {"Liver": [on_slice(1, circle(9.0))], "Tumour": []}
    assert set(np.unique(mask_of(regions, Liver=1, Tumour=2))) == {0, 1}
    error = refusal(structure_set(regions), Liver=1, Lesion=2)
    assert (error.code, "1 of 2" in error.sentence) == ("no-structure", True)


def test_without_names_the_only_structure_with_contours_is_class_1() -> None:
    assert mask_of({"Isocentre": [], "GTV": [on_slice(1, circle(9.0))]}).max() == 1


def test_without_names_several_structures_or_none_are_refused() -> None:
    two = structure_set({name: [on_slice(1, circle(9.0))] for name in ("GTV of Mr Smith", "CTV")})
    error = refusal(two)
    assert (error.code, "2 structures" in error.sentence) == ("several-structures", True)
    assert "Smith" not in error.sentence + error.hint + repr(error)
    assert refusal(structure_set({"GTV": []})).code == "no-structure"
    assert refusal(Dataset()).code == "no-structure"


def test_two_classes_on_one_voxel_are_refused_and_two_structures_of_one_class_are_joined() -> None:
    regions = {"a": [on_slice(1, square(2.5, 2.5, 8.5, 8.5))], "b": [on_slice(1, square(5.5, 5.5, 10.5, 10.5))]}
    error = refusal(structure_set(regions), a=1, b=2)
    assert (error.code, "9 voxels" in error.sentence) == ("overlapping-segments", True)
    assert mask_of(regions, a=1, b=1).sum() == 36 + 25 - 9


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"])
def test_points_and_open_lines_enclose_nothing(kind: str) -> None:
    made = structure_set({"GTV": [on_slice(1, circle(9.0))]}, kind)
    assert refusal(made).code == "no-structure"
    assert refusal(made, GTV=1).code == "open-contour"


def test_a_closed_contour_of_two_points_marks_nothing() -> None:
    mask = mask_of({"GTV": [on_slice(1, circle(9.0)), on_slice(2, circle(9.0)[:2])]})
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [1]


def test_contours_of_another_frame_of_reference_are_refused() -> None:
    made = structure_set({"GTV": [on_slice(1, circle(9.0))]})
    assert mask_from_contours(made, UPRIGHT, {}, SPACE).any()
    assert refusal(made, space="9.9").code == "mask-grid"


def test_an_image_without_a_place_in_space_has_no_contours() -> None:
    made = structure_set({"GTV": [on_slice(1, circle(9.0))]})
    assert refusal(made, Grid(SHAPE, None)).code == "mask-grid"


@pytest.mark.parametrize("index", [0, -1, MAX_CLASSES])
def test_classes_of_structures_are_numbers_of_classes(index: int) -> None:
    assert refusal(structure_set({"GTV": [on_slice(1, circle(9.0))]}), GTV=index).code == "mask-values"


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize("data", [["1", "2"], ["1", "2", "3", "nan", "0", "0", "0", "0", "1e999"], ["1"] * 10])
def test_points_that_are_none_are_a_refusal(data: list[str]) -> None:
    made = structure_set({"GTV": [on_slice(1, circle(9.0))]})
    contour: Any = made.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = data
    assert refusal(made).code == "unreadable-dicom"
