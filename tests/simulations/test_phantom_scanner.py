"""What a scanner does to a signal, measured on signals whose answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from simulations.phantoms.scanner import Encoding, Scanner, acquire, grid, quantise

NEUTRAL = Scanner(shape=(64, 64), spacing_mm=2.0)
ENCODINGS = st.builds(
    Encoding,
    bits=st.integers(12, 16),
    signed=st.booleans(),
    slope=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
)


def fresh(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def flat(hu: float = 40.0, shape: tuple[int, int, int] = (1, 64, 64)) -> np.ndarray:
    return np.full(shape, hu)


def hounsfield(stored: np.ndarray, encoding: Encoding) -> np.ndarray:
    """The way back, as a viewer goes it: invert what is to be displayed inverted, then rescale."""
    wide = stored.astype(np.float64)
    if encoding.photometric == "MONOCHROME1":
        lowest = -(2 ** (encoding.bits - 1)) if encoding.signed else 0
        wide = 2 * lowest + 2**encoding.bits - 1 - wide
    return wide * encoding.slope + (0 if encoding.signed else -1024)


def test_a_neutral_scanner_changes_nothing() -> None:
    truth = fresh(1).normal(0, 300, size=(2, 64, 64))
    assert np.array_equal(acquire(truth, NEUTRAL, fresh()), truth)


@pytest.mark.parametrize("grain_mm", [0.0, 1.5, 4.0])
def test_noise_has_the_standard_deviation_that_was_declared(grain_mm: float) -> None:
    scanner = replace(NEUTRAL, noise_hu=11.0, grain_mm=grain_mm)
    noise = acquire(flat(0.0, (40, 64, 64)), scanner, fresh())
    assert noise.std() == pytest.approx(11.0, rel=0.02)
    assert abs(noise.mean()) < 0.5


def test_ungrained_noise_is_normal_and_half_of_it_would_be_noticed() -> None:
    noise = acquire(flat(0.0), replace(NEUTRAL, noise_hu=10.0), fresh()).ravel()
    assert stats.kstest(noise / 10, "norm").pvalue > 0.01
    assert stats.kstest(noise / 20, "norm").pvalue < 1e-6


def test_grain_correlates_neighbours_in_plane_but_not_slices() -> None:
    """Two Gaussians of width s, one pixel apart: correlation exp(-1 / (4 s^2))."""
    noise = acquire(flat(0.0, (40, 64, 64)), replace(NEUTRAL, noise_hu=1.0, grain_mm=3.0), fresh())
    beside = np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1]
    across = np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]
    assert beside == pytest.approx(math.exp(-1 / (4 * 1.5**2)), abs=0.02)
    assert abs(across) < 0.05


def test_blur_spreads_a_point_into_the_declared_gaussian() -> None:
    truth = flat(0.0)
    truth[0, 32, 32] = 1000.0
    seen = acquire(truth, replace(NEUTRAL, blur_mm=4.0), fresh())[0]
    place = (np.arange(64) - 32) * 2.0
    assert seen.sum() == pytest.approx(1000, rel=1e-6)
    assert math.sqrt((seen.sum(axis=0) * place**2).sum() / 1000) == pytest.approx(4.0, rel=0.01)


def test_blur_stays_in_its_slice() -> None:
    truth = flat(0.0, (3, 64, 64))
    truth[1] = 500.0
    seen = acquire(truth, replace(NEUTRAL, blur_mm=4.0), fresh())
    assert np.allclose(seen, truth)


def test_gain_scales_hounsfield_units_and_leaves_water_alone() -> None:
    scanner = replace(NEUTRAL, gain=1.1)
    assert np.allclose(acquire(flat(100.0), scanner, fresh()), 110.0)
    assert np.allclose(acquire(flat(0.0), scanner, fresh()), 0.0)


def test_cupping_lowers_the_middle_and_raises_the_corners() -> None:
    seen = acquire(flat(50.0, (1, 65, 65)), replace(NEUTRAL, shape=(65, 65), cupping_hu=8.0), fresh())[0]
    assert seen[32, 32] == pytest.approx(42)
    assert seen[0, 0] == seen[-1, -1] == pytest.approx(58)
    assert seen[0, 32] == pytest.approx(50)


def test_noise_follows_its_generator() -> None:
    scanner = replace(NEUTRAL, noise_hu=5.0, grain_mm=2.0)
    one, same, other = (acquire(flat(), scanner, fresh(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@given(ENCODINGS, st.integers(0, 2**32))
def test_stored_numbers_lead_back_to_hounsfield_units_within_half_a_step(encoding: Encoding, seed: int) -> None:
    lowest, highest = hounsfield_range(encoding)
    truth = fresh(seed).uniform(lowest, highest, size=(1, 8, 8))
    back = hounsfield(quantise(truth, encoding), encoding)
    assert np.abs(back - truth).max() <= encoding.slope / 2 + 1e-9


def hounsfield_range(encoding: Encoding) -> tuple[float, float]:
    steps = 2**encoding.bits - 1
    lowest = -(2 ** (encoding.bits - 1)) * encoding.slope if encoding.signed else -1024.0
    return lowest, lowest + steps * encoding.slope


@given(ENCODINGS)
def test_what_cannot_be_stored_is_clipped_never_wrapped(encoding: Encoding) -> None:
    lowest, highest = hounsfield_range(encoding)
    back = hounsfield(quantise(np.array([-1e6, 1e6]), encoding), encoding)
    assert back.tolist() == [lowest, highest]


@given(ENCODINGS)
def test_the_sign_and_the_bits_are_those_declared(encoding: Encoding) -> None:
    stored = quantise(fresh().uniform(-3000, 5000, size=500), encoding)
    assert stored.dtype == (np.int16 if encoding.signed else np.uint16)
    assert int(stored.max()) - int(stored.min()) <= 2**encoding.bits - 1
    assert encoding.limits[0] <= stored.min()
    assert stored.max() <= encoding.limits[1]


def test_monochrome1_stores_bone_below_air() -> None:
    air, bone = quantise(np.array([-1000.0, 500.0]), Encoding(photometric="MONOCHROME1")).tolist()
    assert (air, bone) == (4095 - 24, 4095 - 1524)


@given(
    st.tuples(*[st.floats(-300, 300)] * 3),
    st.integers(1, 40),
    st.integers(2, 200),
    st.integers(2, 200),
    st.floats(0.5, 6.0),
)
def test_a_grid_has_its_middle_where_it_was_put(
    centre: tuple[float, float, float], slices: int, rows: int, columns: int, spacing: float
) -> None:
    made = grid(replace(NEUTRAL, shape=(rows, columns), spacing_mm=spacing), centre, slices)
    points = made.points()
    assert (points.z.shape, points.y.shape, points.x.shape) == ((slices, 1, 1), (1, rows, 1), (1, 1, columns))
    for axis, middle in zip((points.x, points.y, points.z), centre, strict=True):
        assert axis.mean() == pytest.approx(middle, abs=1e-5)
    if columns > 1:
        assert np.diff(points.x.ravel()) == pytest.approx(np.full(columns - 1, spacing))


@given(st.tuples(*[st.floats(-300, 300)] * 3))
def test_a_grids_origin_fits_a_decimal_string(centre: tuple[float, float, float]) -> None:
    """DICOM PS3.5 6.2: at most 16 characters."""
    assert all(len(repr(part)) <= 16 for part in grid(NEUTRAL, centre, 5).origin_mm)
