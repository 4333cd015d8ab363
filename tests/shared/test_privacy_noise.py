"""Noise and coins: their distribution, with controls that must be rejected; their independence; and nothing repeats."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from shared.privacy import noise as source
from shared.privacy.noise import Noise, SecureNoise, UnsafeSeededNoise, box_muller

DRAWS = 400_000
LEAST_P = 1e-6
"""A right generator fails one test in a million; the controls below fail by a hundred orders of magnitude."""

Reals = NDArray[np.float64]


def both() -> list[Noise]:
    return [SecureNoise(), UnsafeSeededNoise(3)]


def is_standard(values: Reals) -> bool:
    return abs(float(values.std()) - 1) < 0.01 and stats.kstest(values, "norm").pvalue > LEAST_P


@pytest.mark.parametrize("which", [0, 1], ids=["secure", "seeded"])
def test_normals_are_standard_and_two_thirds_or_three_halves_of_them_are_not(which: int) -> None:
    values = both()[which].normal(DRAWS)
    assert values.shape == (DRAWS,)
    assert values.dtype == np.float64
    assert is_standard(values)
    assert abs(values.mean()) < 5 / np.sqrt(DRAWS)
    for wrong in (2 / 3, 3 / 2, 1.02, 0.98):
        assert not is_standard(values * wrong)


def test_tails_are_those_of_a_normal() -> None:
    """A sum of twelve uniforms has the right spread, and no value beyond six."""
    values = np.abs(SecureNoise().normal(2_000_000))
    for bound in (1, 2, 3, 4):
        wanted = 2 * stats.norm.sf(bound) * values.size
        assert abs(int((values > bound).sum()) - wanted) < 5 * np.sqrt(wanted)
    uniforms = np.random.default_rng(1).random((12, 200_000)).sum(axis=0) - 6
    missing = 2 * stats.norm.sf(4) * uniforms.size
    assert abs(int((np.abs(uniforms) > 3.5).sum()) - 2 * stats.norm.sf(3.5) * uniforms.size) > 3 * np.sqrt(missing)


def test_the_transform_is_box_and_muller_s() -> None:
    """Oracle: the uniforms are the chi-squared and the angular distribution functions of the pair (scipy)."""
    rng = np.random.default_rng(4)
    first, second = 1 - rng.random(1000), 1 - rng.random(1000)
    values = box_muller(first, second)
    across, up = values[:1000], values[1000:]
    np.testing.assert_allclose(stats.chi2(2).sf(across**2 + up**2), first, rtol=1e-12)
    np.testing.assert_allclose(np.arctan2(up, across) / (2 * np.pi) % 1, second % 1, atol=1e-12)


def test_its_normals_have_scipy_s_distribution_function() -> None:
    """On a grid of uniforms, without chance: the fraction below x is Phi(x)."""
    steps = (np.arange(1000) + 0.5) / 1000
    first, second = (axis.ravel() for axis in np.meshgrid(steps, steps))
    values = np.sort(box_muller(first, second))
    for bound in (-2.5, -1, -0.1, 0, 0.7, 2):
        assert np.searchsorted(values, bound) / values.size == pytest.approx(stats.norm.cdf(bound), abs=2e-4)


def test_no_value_lies_beyond_eight_point_seven() -> None:
    least = np.array([2.0**-53])
    angles = np.linspace(1e-3, 1, 1000)
    assert np.abs(box_muller(np.repeat(least, 1000), angles)).max() < 8.7
    assert np.isfinite(box_muller(np.array([1.0, 2.0**-53]), np.array([1.0, 2.0**-53]))).all()


def test_uniforms_lie_above_zero_and_never_above_one() -> None:
    """Even for the words of all zeros and all ones, which chance does not show."""

    class Words:
        def __init__(self, word: bytes) -> None:
            self.word = word

        def update(self, zeros: bytes) -> bytes:
            return self.word * (len(zeros) // 8)

    for word, wanted in ((bytes(8), 2.0**-53), (b"\xff" * 8, 1.0)):
        stuck = SecureNoise()
        stuck._stream = Words(word)  # type: ignore[assignment]
        assert stuck._uniforms(3).tolist() == [wanted] * 3
        assert np.isfinite(stuck.normal(5)).all()
        assert stuck.coins(2, 1.0).all(), "a rate of 1 takes everybody, whatever the word"
        assert stuck.coins(2, 2.0**-53).tolist() == [wanted == 2.0**-53] * 2


@pytest.mark.parametrize("which", [0, 1], ids=["secure", "seeded"])
@pytest.mark.parametrize("rate", [0.01, 0.064, 0.5, 0.93])
def test_coins_fall_with_their_rate_and_a_fifth_more_would_be_noticed(rate: float, which: int) -> None:
    coins = both()[which].coins(DRAWS, rate)
    assert coins.dtype == np.bool_
    heads = int(coins.sum())
    assert stats.binomtest(heads, DRAWS, rate).pvalue > LEAST_P
    assert stats.binomtest(heads, DRAWS, rate * 1.2 if rate < 0.8 else rate * 0.98).pvalue < 1e-9


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_coins_know_nothing_of_their_neighbours(rate: float) -> None:
    """Numbers of heads in hands of 50, against the binomial distribution (chi-squared); a coin repeated is rejected."""
    hands = SecureNoise().coins(50 * 8000, rate).reshape(8000, 50)
    assert fits_binomial(hands.sum(axis=1), 50, rate)
    assert not fits_binomial(np.repeat(hands[:, :25], 2, axis=1).sum(axis=1), 50, rate)


def fits_binomial(heads: NDArray[np.int_], tosses: int, rate: float) -> bool:
    expected = stats.binom.pmf(np.arange(tosses + 1), tosses, rate) * len(heads)
    seen = np.bincount(heads, minlength=tosses + 1).astype(float)
    common = expected >= 5
    seen, expected = (np.append(one[common], one[~common].sum()) for one in (seen, expected))
    return bool(stats.chisquare(seen, expected, sum_check=False).pvalue > LEAST_P)


@pytest.mark.parametrize("which", [0, 1], ids=["secure", "seeded"])
def test_a_rate_of_one_takes_everybody_and_nobody_is_asked_for_nothing(which: int) -> None:
    noise = both()[which]
    assert noise.coins(10_000, 1.0).all()
    assert not noise.coins(10_000, 1e-15).any()
    assert noise.coins(0, 0.5).shape == (0,)
    assert noise.normal(0).shape == (0,)


@given(st.integers(0, 3 * 2**15 + 7))
def test_any_number_of_normals_can_be_had(size: int) -> None:
    values = SecureNoise().normal(size)
    assert values.shape == (size,)
    assert np.isfinite(values).all()
    assert len(np.unique(values)) == size, "no draw occurs twice"


def correlation(one: Reals, other: Reals) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def test_two_sources_are_independent_and_so_are_two_calls_of_one() -> None:
    first, second = SecureNoise(), SecureNoise()
    draws = [first.normal(DRAWS), second.normal(DRAWS), first.normal(DRAWS)]
    bound = 6 / np.sqrt(DRAWS)
    assert all(abs(correlation(draws[a], draws[b])) < bound for a, b in ((0, 1), (0, 2), (1, 2)))
    # Nor shifted by one, nor the two halves of a pair, nor their squares, whose radius they share before the angle.
    one = draws[0]
    pairs = one[: 2 * source._PAIRS]
    cosines, sines = pairs[: source._PAIRS], pairs[source._PAIRS :]
    assert abs(correlation(one[1:], one[:-1])) < bound
    near = 6 / np.sqrt(source._PAIRS)
    assert abs(correlation(cosines, sines)) < near
    assert abs(correlation(cosines**2, sines**2)) < near
    assert correlation(one, 0.98 * one + 0.02 * draws[1]) > bound, "control"
    assert abs(correlation(one, one + 30 * draws[1])) > bound, "control: a share of one in thirty is seen"


def test_a_forked_process_has_noise_of_its_own() -> None:
    """Two processes with one key would give the same noise, and their difference the data."""
    noise = SecureNoise()
    noise.normal(1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, noise.normal(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reading, 32))
    os.close(reading)
    os.close(writing)
    assert theirs.shape == (4,)
    assert not np.isin(noise.normal(4), theirs).any()


def test_the_unsafe_source_repeats_itself_and_another_seed_does_not() -> None:
    one, same, other = UnsafeSeededNoise(5), UnsafeSeededNoise(5), UnsafeSeededNoise(6)
    drawn = one.normal(9)
    assert drawn.tobytes() == same.normal(9).tobytes() != other.normal(9).tobytes()
    assert (one.coins(99, 0.5) == same.coins(99, 0.5)).all()
    assert drawn.tobytes() != one.normal(9).tobytes()
