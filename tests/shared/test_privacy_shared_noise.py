"""Noise that sites share: what rounding costs is computed exactly on integers, and never more than the proof allows."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest, norm

from shared.fixed_point import BLOCK, peak, resolution
from shared.plan import FixedPoint
from shared.privacy.noise import SecureNoise, UnsafeSeededNoise
from shared.privacy.shared_noise import (
    FURTHEST,
    LEAST_DEVIATION,
    LOST,
    Share,
    closeness,
    noised,
    room,
    theta,
)

Reals = NDArray[np.float64]
REACH = 60
INTEGERS = np.arange(-REACH, REACH + 1)
GRID = FixedPoint(range=1.0, bits=16)


def rounded(centre: float, deviation: float) -> Reals:
    """Probabilities of rint(centre + deviation * normal) on INTEGERS."""
    ends = (np.arange(-REACH, REACH + 2) - 0.5 - centre) / deviation
    # From the nearer tail, where differences of probabilities keep their digits.
    upper, lower = norm.sf(ends), norm.cdf(ends)
    found: Reals = np.where(ends[:-1] > 0, upper[:-1] - upper[1:], lower[1:] - lower[:-1])
    return found


def sum_of(centres: list[float], deviation: float) -> Reals:
    """Probabilities of the sum of the rounded values, on the integers of len(centres) times the reach."""
    found = rounded(centres[0], deviation)
    for centre in centres[1:]:
        found = np.convolve(found, rounded(centre, deviation))
    return found


def made_by_t(centres: list[float], deviation: float, lost: float, *, forgotten: float = 0.0) -> Reals:
    """The same integers' probabilities as T gives them, from N(sum of centres, m d^2 - lost^2), by quadrature.

    ``forgotten`` is what somebody takes too little off the variance.
    """
    sites, places = len(centres), 8
    kept = math.sqrt(sites * deviation**2 - lost**2 + forgotten)
    nodes, weights = np.polynomial.legendre.leggauss(places)
    reach = sites * REACH
    integers, step = np.arange(-reach, reach + 1), 2.0**-4
    values = np.arange(-reach, reach, step)
    density = np.zeros_like(values)
    for chosen in itertools.product(range(places), repeat=sites):
        shift = sum(nodes[place] for place in chosen) / 2
        density += math.prod(weights[place] / 2 for place in chosen) * norm.pdf(values, sum(centres) + shift, kept)
    near = norm.pdf(integers[:, None], values[None, :], lost)
    found: Reals = (near / near.sum(axis=0) * density * step).sum(axis=1)
    return found


def delta_at(epsilon: float, first: Reals, second: Reals) -> float:
    """Least delta with which two neighbours' outcomes satisfy ``epsilon``."""
    return float(np.maximum(first - math.exp(epsilon) * second, 0).sum())


def gaussian_delta(epsilon: float, sigma: float) -> float:
    """Exact delta of the Gaussian mechanism (Balle & Wang, ICML 2018, theorem 8) for a sensitivity of 1."""
    return float(
        norm.cdf(1 / (2 * sigma) - epsilon * sigma) - math.exp(epsilon) * norm.cdf(-1 / (2 * sigma) - epsilon * sigma)
    )


# --- the lemmas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [0.3, 0.5, 0.8, 1.1])
def test_a_shifted_grid_s_sum_is_within_theta_of_one_and_reaches_it(deviation: float) -> None:
    sums = [norm.pdf(np.arange(-80, 81), centre, deviation).sum() for centre in np.linspace(0, 1, 41)]
    away = max(abs(one - 1) for one in sums)
    assert away <= theta(deviation) + 1e-14
    assert away >= theta(deviation) * 0.8


@pytest.mark.parametrize("centres", [[0.3], [0.3, 0.9], [0.0, 0.5, 0.21]], ids=["one", "two", "three"])
@pytest.mark.parametrize(("deviation", "lost"), [(0.75, 0.45), (0.9, 0.5), (1.2, 0.6)])
def test_the_sum_is_what_t_makes_of_the_gaussian_to_within_the_factor(
    centres: list[float], deviation: float, lost: float
) -> None:
    """With little noise, where the factor is large enough to be seen."""
    found, made = sum_of(centres, deviation), made_by_t(centres, deviation, lost)
    seen = made > 1e-9
    away = float(np.abs(np.log(found[seen] / made[seen])).max())
    allowed = closeness(len(centres), 1, deviation, lost)
    assert away <= allowed
    wrong = made_by_t(centres, deviation, lost, forgotten=0.3 * lost**2)
    assert float(np.abs(np.log(found[seen] / wrong[seen])).max()) > 3 * allowed, "the control"


def test_with_the_least_noise_nobody_can_see_rounding() -> None:
    """A thousand sites, a billion parameters, a million rounds."""
    assert closeness(1000, 10**15) < 1e-12
    assert LEAST_DEVIATION * math.sqrt(2) > LOST


# --- privacy of the sum, exactly -------------------------------------------------------------------------------------


@pytest.mark.parametrize("honest", [2, 3])
@pytest.mark.parametrize("moved", [1.0, 2.7, 6.5])
@pytest.mark.parametrize("start", [0.0, 0.25, 0.5])
def test_no_two_neighbours_sums_differ_by_more_than_the_planned_gaussian(
    honest: int, moved: float, start: float
) -> None:
    others = [0.37 * place for place in range(1, honest)]
    first = sum_of([start, *others], LEAST_DEVIATION)
    second = sum_of([start + moved, *others], LEAST_DEVIATION)
    planned = math.sqrt(honest * LEAST_DEVIATION**2 - LOST**2) / moved
    whole = math.sqrt(honest) * LEAST_DEVIATION / moved
    for epsilon in (0.01, 0.1, 0.5, 1.0, 3.0):
        found = max(delta_at(epsilon, first, second), delta_at(epsilon, second, first))
        assert found <= gaussian_delta(epsilon, planned) + 1e-15
        assert found >= gaussian_delta(epsilon, whole * 1.05), "the bound is not empty"


def test_less_than_the_least_noise_would_not_keep_it() -> None:
    """The control: two sites with a fifth of a unit each; all but a hundredth of the noise is lost to rounding."""
    deviation, moved = 0.2, 1.0
    first, second = sum_of([0.0, 0.0], deviation), sum_of([moved, 0.0], deviation)
    assert delta_at(3.0, first, second) > 5 * gaussian_delta(3.0, math.sqrt(2) * 0.5 / moved)


def test_whoever_knows_all_other_noise_sees_one_site_s_and_no_more() -> None:
    share, moved = Share(4, 1), 2.0
    first, second = rounded(0.0, LEAST_DEVIATION), rounded(moved, LEAST_DEVIATION)
    of_all = math.sqrt(share.honest) * LEAST_DEVIATION / moved
    for epsilon in (0.1, 0.5, 1.0):
        found = delta_at(epsilon, first, second)
        assert found <= gaussian_delta(epsilon, share.alone(of_all)) + 1e-15
        assert found > gaussian_delta(epsilon, of_all), "the promise without colluding sites is not kept then"


# --- what a site adds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "colluding"), [(2, 0), (3, 1), (7, 2), (43, 6)])
@pytest.mark.parametrize("wanted", [0.0, 1e-7, 3e-4, 0.01])
def test_the_noise_of_the_honest_sites_holds_what_is_wanted_after_rounding(
    least: int, colluding: int, wanted: float
) -> None:
    share = Share(least, colluding)
    deviation, units = share.deviation(wanted, GRID), wanted / resolution(GRID)
    held = share.honest * deviation**2 - LOST**2
    assert deviation >= LEAST_DEVIATION
    assert held >= units**2 * (1 - 1e-12)
    if deviation > LEAST_DEVIATION:
        assert held == pytest.approx(units**2)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_parts_add_up_to_normal_noise_of_the_wanted_size(bits: int) -> None:
    share, wanted = Share(4, 1), 0.02
    grid = FixedPoint(range=1.0, bits=bits)
    deviation = share.deviation(wanted, grid)
    noise = UnsafeSeededNoise(5)
    parts = [noised(np.zeros(60_000), deviation, grid, noise) for _ in range(share.honest)]
    total = np.sum(parts, axis=0, dtype=np.int64) * resolution(grid) / wanted
    assert kstest(total, "norm").pvalue > 1e-6
    assert kstest(total * 1.1, "norm").pvalue < 1e-12
    assert float(parts[0].std()) * resolution(grid) == pytest.approx(wanted / math.sqrt(share.honest), rel=0.02)


def test_a_change_comes_through_on_average_and_is_clipped_before_the_noise() -> None:
    deviation = 20.0
    limit = room(deviation, GRID)
    change = np.repeat([0.25, -0.5, 7.0, -1e30], 20_000)
    means = noised(change, deviation, GRID, UnsafeSeededNoise(1)).reshape(4, -1).mean(axis=1)
    wanted = [0.25 / resolution(GRID), -0.5 / resolution(GRID), limit, -limit]
    assert np.abs(means - wanted).max() < 6 * deviation / math.sqrt(20_000)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_no_part_leaves_the_range_with_the_noise_of_the_operating_system(bits: int) -> None:
    grid = FixedPoint(range=1.0, bits=bits)
    deviation = (peak(grid) - 2) / FURTHEST * 0.9
    values = noised(np.full(300_000, 9.0), deviation, grid, SecureNoise())
    assert np.abs(values).max() <= peak(grid)
    assert values.dtype == np.int32
    assert len(np.unique(values)) > 50


def test_parts_longer_than_a_block_have_noise_in_every_block_and_none_twice() -> None:
    values = noised(np.zeros(2 * BLOCK + 7), 1000.0, FixedPoint(), UnsafeSeededNoise(3))
    first, second = values[:BLOCK], values[BLOCK : 2 * BLOCK]
    assert all(part.std() > 900 for part in (first, second))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("change", "deviation"),
    [(math.nan, 5.0), (math.inf, 5.0), (0.0, 2.9), (0.0, math.nan), (0.0, 1e9)],
    ids=["nan", "infinite", "too little noise", "no number", "noise beyond the range"],
)
def test_what_cannot_be_hidden_is_never_an_integer(change: float, deviation: float) -> None:
    with pytest.raises(ValueError, match="cannot hide this change"):
        noised(np.array([0.0, change]), deviation, GRID, UnsafeSeededNoise(0))
