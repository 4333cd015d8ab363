"""Solids are what their names say: volumes and distances against school geometry."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.phantoms.solids import (
    Field,
    Points,
    Ripple,
    Solid,
    anterior_to,
    at,
    blended,
    blob,
    common,
    ellipsoid,
    grown,
    local,
    once,
    organ,
    ripple,
    trunk,
    tube,
    union,
    wavy,
    without,
)

STEP = 0.5
ORIGIN = (0.0, 0.0, 0.0)
PLACES = st.tuples(*[st.floats(-30, 30)] * 3)


def box(half: float, step: float = STEP) -> Points:
    """A cube of voxel centres, symmetric about the origin."""
    axis = np.arange(-half + step / 2, half, step)
    return Points(axis[None, None, :], axis[None, :, None], axis[:, None, None])


def volume(solid: Solid, half: float = 16.0) -> float:
    """Volume in mm^3 by counting voxel centres inside."""
    points = box(half)
    shape = np.broadcast_shapes(points.x.shape, points.y.shape, points.z.shape)
    return float(np.broadcast_to(solid(points) < 0, shape).sum()) * STEP**3


def single(solid: Solid, *place: float) -> float:
    return float(solid(at(np.array([place], float)))[0])


def sphere(radius: float, *centre: float) -> Solid:
    x, y, z = centre or ORIGIN
    return ellipsoid((x, y, z), (radius, radius, radius))


def test_an_ellipsoid_has_the_volume_of_an_ellipsoid() -> None:
    assert volume(ellipsoid(ORIGIN, (12, 8, 5))) == pytest.approx(4 / 3 * math.pi * 12 * 8 * 5, rel=0.01)


def test_turning_an_ellipsoid_keeps_its_volume_and_moves_its_tip() -> None:
    turned = ellipsoid(ORIGIN, (12, 4, 4), math.pi / 2)
    assert volume(turned) == pytest.approx(4 / 3 * math.pi * 12 * 4 * 4, rel=0.02)
    assert single(turned, 0, 11.9, 0) < 0 < single(turned, 11.9, 0, 0)


@given(PLACES)
def test_the_distance_to_a_sphere_is_exact_everywhere(place: tuple[float, float, float]) -> None:
    assert single(sphere(7.0), *place) == pytest.approx(math.dist(place, ORIGIN) - 7, abs=1e-6)


def test_an_ellipsoid_without_end_is_a_cylinder() -> None:
    cylinder = ellipsoid(ORIGIN, (6, 6, math.inf))
    assert single(cylinder, 6, 0, 1e6) == pytest.approx(0, abs=1e-9)
    assert single(cylinder, 0, 0, 0) == -6


@pytest.mark.parametrize("power", [2.0, 2.4, 4.0])
def test_a_trunk_has_the_area_of_a_superellipse(power: float) -> None:
    points = box(16.0)
    area = float((trunk(14, 9, power)(points) < 0).sum()) * STEP**2
    expected = 4 * 14 * 9 * math.gamma(1 + 1 / power) ** 2 / math.gamma(1 + 2 / power)
    assert area == pytest.approx(expected, rel=0.01)


def test_a_tube_is_a_cylinder_with_two_half_balls() -> None:
    length, radius = 15.0, 4.0
    expected = math.pi * radius**2 * length + 4 / 3 * math.pi * radius**3
    end = np.array([6.0, 3.0, math.sqrt(11.25)])
    assert 2 * np.linalg.norm(end) == pytest.approx(length)
    assert volume(tube(tuple(-end), tuple(end), radius)) == pytest.approx(expected, rel=0.02)


def test_anterior_is_where_y_is_smaller() -> None:
    assert single(anterior_to(3.0), 50, 2.9, -50) < 0 < single(anterior_to(3.0), 50, 3.1, -50)


@given(PLACES)
def test_combinations_are_the_logic_of_points(place: tuple[float, float, float]) -> None:
    one, other = sphere(20.0, -8, 0, 0), sphere(15.0, 9, 3, 1)
    in_one, in_other = single(one, *place) < 0, single(other, *place) < 0
    assert (single(union([one, other]), *place) < 0) == (in_one or in_other)
    assert (single(common([one, other]), *place) < 0) == (in_one and in_other)
    if abs(single(other, *place)) > 1e-9:
        assert (single(without(one, other), *place) < 0) == (in_one and not in_other)


@given(PLACES, st.floats(-5, 5))
def test_growing_moves_the_surface_by_the_margin(place: tuple[float, float, float], margin: float) -> None:
    assert single(grown(sphere(9.0), margin), *place) == pytest.approx(math.dist(place, ORIGIN) - 9 - margin, abs=1e-6)


@given(PLACES)
def test_blending_only_adds_and_only_near_the_seam(place: tuple[float, float, float]) -> None:
    one, other, width = sphere(10.0, -8, 0, 0), sphere(10.0, 8, 0, 0), 6.0
    plain = single(union([one, other]), *place)
    soft = single(blended(one, other, width), *place)
    assert plain - width / 4 - 1e-9 <= soft <= plain + 1e-9
    if abs(single(one, *place) - single(other, *place)) > width:
        assert soft == plain


def test_a_ripple_is_a_sum_of_sines() -> None:
    waves = np.array([[1.0, 0.5, -0.2], [0.0, 2.0, 0.3]])
    made = Ripple(waves, np.array([0.7, 0.2]), np.array([0.1, 2.0]))
    x, y, z = 0.3, -1.2, 4.0
    expected = 0.7 * math.sin(0.3 - 0.6 - 0.8 + 0.1) + 0.2 * math.sin(-2.4 + 1.2 + 2.0)
    assert float(made.at(np.array(x), np.array(y), np.array(z))) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 9), st.floats(0.1, 8), st.floats(0, 2))
def test_a_drawn_ripple_keeps_its_length_and_height(seed: int, count: int, length: float, height: float) -> None:
    made = ripple(np.random.default_rng(seed), count, length, height)
    assert np.linalg.norm(made.waves, axis=1) == pytest.approx(np.full(count, length))
    assert made.heights.sum() == pytest.approx(height)
    assert (made.heights >= 0).all()


def test_a_blob_without_ripple_is_a_ball() -> None:
    flat = Ripple(np.ones((1, 3)), np.zeros(1), np.zeros(1))
    assert volume(blob(ORIGIN, 9.0, flat)) == pytest.approx(4 / 3 * math.pi * 9**3, rel=0.01)


def test_a_blobs_radius_follows_its_ripple_in_every_direction() -> None:
    made = ripple(np.random.default_rng(5), 4, 3.0, 0.4)
    solid = blob((1.0, 2.0, 3.0), 10.0, made)
    for direction in np.random.default_rng(6).normal(size=(20, 3)):
        unit = direction / np.linalg.norm(direction)
        radius = 10 * (1 + float(made.at(*(np.array(part) for part in unit))))
        assert single(solid, *(np.array([1.0, 2.0, 3.0]) + radius * unit)) == pytest.approx(0, abs=1e-9)


def test_waves_move_a_surface_by_at_most_their_height() -> None:
    solid = wavy(sphere(10.0), ripple(np.random.default_rng(3), 5, 1.0, 2.0))
    assert volume(grown(sphere(10.0), -2.01)) < volume(solid) < volume(grown(sphere(10.0), 2.01))
    assert single(solid, 0, 0, 7.9) < 0 < single(solid, 0, 0, 12.1)


def test_a_local_solid_is_itself_within_reach_and_nowhere_beyond() -> None:
    ball, points = sphere(6.0, 4, 0, -3), box(16.0, 1.0)
    near = local(ball, (4, 0, -3), (9, 8, 7))(points)
    inside = (np.abs(points.x - 4) < 9) & (np.abs(points.y) < 8) & (np.abs(points.z + 3) < 7)
    assert np.array_equal(near[inside], np.broadcast_to(ball(points), near.shape)[inside])
    assert np.isinf(near[~inside]).all()


def test_a_local_solid_off_the_grid_is_nowhere() -> None:
    assert np.isinf(organ((500.0, 0.0, 0.0), (9, 9, 9))(box(8.0, 1.0))).all()


def test_what_lies_beyond_a_local_field_can_be_chosen() -> None:
    field = local(lambda points: points.x + points.y + points.z, ORIGIN, (2, 2, 2), beyond=0.0)(box(8.0, 1.0))
    assert np.count_nonzero(field) == np.count_nonzero(field[6:10, 6:10, 6:10]) > 0


def test_a_solid_used_often_is_worked_out_once_for_the_same_points() -> None:
    calls = []

    def counted(points: Points) -> Field:
        calls.append(1)
        return points.x + points.y + points.z

    shared, points = once(counted), box(4.0, 1.0)
    union([shared, grown(shared, 1), without(shared, sphere(2.0))])(points)
    assert len(calls) == 1
    shared(box(4.0, 1.0))
    assert len(calls) == 2


def test_scattered_points_and_grids_agree() -> None:
    solid, points = organ((2.0, -1.0, 3.0), (6, 5, 4), 0.3), box(8.0, 1.0)
    scattered = np.array([[1.5, -2.5, 3.5], [-0.5, 0.5, 4.5]])
    grid = solid(points)
    for place, value in zip(scattered, solid(at(scattered)), strict=True):
        column, row, level = (int(part + 8 - 0.5) for part in place)
        assert grid[level, row, column] == pytest.approx(value)
