"""Spacing, orientation and kind: each fault is found, and a clean data set is silent."""

import numpy as np
import pytest
from doctored import Row, affine, clean, found, names, volume
from scipy.spatial.transform import Rotation

from client.data.doctor.checks import geometry


def volumes() -> list[Row]:
    return [volume(number) for number in range(9)]


def turned(row: Row, degrees: float, axis: str = "x") -> Row:
    matrix = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    return row.but(affine_lps=affine(matrix, row.spacing_mm))


@pytest.mark.parametrize("check", [geometry.spacing, geometry.orientation, geometry.kinds])
def test_clean_slices_and_volumes_are_silent(check: object) -> None:
    assert found(check, clean()) == {}  # type: ignore[arg-type]
    assert found(check, volumes()) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("spacing", [(1.6, 0.8), (0.8, 0.4), (0.1, 0.1)])
def test_a_spacing_of_twice_or_half_the_usual_stands_out(spacing: tuple[float, ...]) -> None:
    rows = clean()
    rows[3] = rows[3].but(spacing_mm=spacing)
    (finding,) = found(geometry.spacing, rows).values()
    assert (finding.code, finding.cases) == ("spacing-outlier", names([rows[3]]))
    assert str(spacing[0]) not in finding.sentence


def test_spacings_that_vary_widely_anyway_do_not_stand_out() -> None:
    rng = np.random.default_rng(0)
    rows = [row.but(spacing_mm=(edge, edge)) for row, edge in zip(clean(), rng.uniform(0.4, 1.6, 24), strict=True)]
    assert found(geometry.spacing, rows) == {}


def test_spacings_are_compared_within_a_modality() -> None:
    rows = [*clean(), *(row.but(number=100 + row.number, modality="mr", spacing_mm=(4.0, 4.0)) for row in clean(6))]
    assert found(geometry.spacing, rows) == {}


@pytest.mark.parametrize("edge", [0.0008, 80.0])
def test_a_spacing_in_the_wrong_unit_cannot_be(edge: float) -> None:
    rows = [row.but(spacing_mm=(edge, edge)) for row in clean()]
    (finding,) = found(geometry.spacing, rows).values()
    assert (finding.code, finding.cases) == ("spacing-implausible", names(rows))


def test_a_ct_without_spacing_is_found_and_photographs_without_are_not() -> None:
    rows = clean()
    rows[3] = rows[3].but(spacing_mm=(1.0, 1.0), spacing_known=False)
    (finding,) = found(geometry.spacing, rows).values()
    assert (finding.code, finding.cases) == ("spacing-unknown", names([rows[3]]))
    photographs = [row.but(modality="fundus", spacing_mm=(1.0, 1.0), spacing_known=False) for row in clean()]
    assert found(geometry.spacing, photographs) == {}


def test_an_ultrasound_image_without_spacing_is_found_where_most_have_one() -> None:
    rows = [row.but(modality="us") for row in clean()]
    rows[3] = rows[3].but(spacing_mm=(1.0, 1.0), spacing_known=False)
    assert found(geometry.spacing, rows)["spacing-unknown"].cases == names([rows[3]])


@pytest.mark.parametrize(("degrees", "expected"), [(19.0, set()), (21.0, {"orientation-oblique"})])
@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_a_volume_turned_by_more_than_20_degrees_is_oblique(axis: str, degrees: float, expected: set[str]) -> None:
    rows = volumes()
    rows[3] = turned(rows[3], degrees, axis)
    findings = found(geometry.orientation, rows)
    assert set(findings) == expected
    assert all(one.cases == names([rows[3]]) for one in findings.values())


def test_a_protocol_that_is_always_oblique_is_not_odd() -> None:
    assert found(geometry.orientation, [turned(row, 30.0) for row in volumes()]) == {}


def test_axes_that_run_the_other_way_are_not_turned() -> None:
    rows = volumes()
    rows[3] = turned(rows[3], 180.0)
    assert found(geometry.orientation, rows) == {}


@pytest.mark.parametrize(("degrees", "expected"), [(0.9, set()), (1.1, {"orientation-sheared"})])
def test_a_gantry_tilted_by_more_than_a_degree_is_found(degrees: float, expected: set[str]) -> None:
    rows = volumes()
    matrix = np.array(rows[3].said["affine_lps"]).reshape(4, 4)
    matrix[1, 0] = np.tan(np.radians(degrees)) * matrix[2, 0]
    rows[3] = rows[3].but(affine_lps=tuple(matrix.ravel().tolist()))
    assert set(found(geometry.orientation, rows)) == expected


def test_a_volume_among_slices_is_of_another_kind() -> None:
    odd = volume(99)
    findings = found(geometry.kinds, [*clean(), odd])
    assert findings["dimensions-mixed"].cases == names([odd])
    assert set(findings) == {"dimensions-mixed"}


def test_a_colour_image_among_grey_ones_is_named() -> None:
    rows = clean()
    rows[3] = rows[3].but(voxels=np.repeat(rows[3].voxels, 3, axis=0))
    (finding,) = found(geometry.kinds, rows).values()
    assert (finding.code, finding.cases) == ("channels-mixed", names([rows[3]]))


def test_all_but_the_most_frequent_modality_are_named() -> None:
    rows = clean()
    rows[3], rows[5] = rows[3].but(modality="mr"), rows[5].but(modality="us")
    (finding,) = found(geometry.kinds, rows).values()
    assert (finding.code, finding.cases) == ("modalities-mixed", names([rows[3], rows[5]]))
    assert "3 modalities" in finding.sentence


def test_different_shapes_are_noted() -> None:
    rows = clean()
    rows[3] = rows[3].but(voxels=np.ascontiguousarray(rows[3].voxels[:, :40]), mask=None)
    (finding,) = found(geometry.kinds, rows).values()
    assert (finding.code, finding.severity, finding.cases) == ("shapes-mixed", "note", ())
    assert "2 different" in finding.sentence
