"""No patient moves a sum beyond the sensitivity, and noise has the size that was asked for: exactly, as integers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from shared.evaluation.additive import UNIT, IntArray
from shared.privacy.noise import SecureNoise, UnsafeSeededNoise
from shared.privacy.statistics import bounded, noised, summed_std

ANYTHING = st.floats(allow_nan=True, allow_infinity=True, width=64)
VECTORS = st.lists(st.one_of(ANYTHING, st.floats(-2, 2)), min_size=1, max_size=12).map(np.array)
SENSITIVITIES = st.sampled_from([1.0, math.sqrt(2), math.sqrt(7), 0.25])


def squared_norm(counts: IntArray) -> Fraction:
    """In patients, without rounding."""
    return Fraction(sum(int(value) ** 2 for value in counts)) * Fraction(UNIT) ** 2


def within(counts: IntArray, sensitivity: float) -> bool:
    return squared_norm(counts) <= Fraction(sensitivity) ** 2


@given(VECTORS, SENSITIVITIES)
def test_nothing_that_a_patient_holds_moves_the_sum_beyond_the_sensitivity(
    vector: NDArray[np.float64], sensitivity: float
) -> None:
    assert within(bounded(vector, sensitivity), sensitivity)


def test_without_the_bound_the_same_check_fails() -> None:
    rounded = np.trunc(np.array([0.9, 0.9]) / UNIT).astype(np.int64)

    assert not within(rounded, 1.0)
    assert within(bounded(np.array([0.9, 0.9]), 1.0), 1.0)


def test_rounding_to_the_nearest_would_break_the_bound_and_rounding_towards_zero_does_not() -> None:
    vector = np.full(3, 1 / math.sqrt(3))
    nearest = np.rint(vector / UNIT).astype(np.int64)

    assert not within(nearest, 1.0)
    assert within(bounded(vector, 1.0), 1.0)


@given(st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=10).map(np.array))
def test_a_vector_inside_the_bound_is_off_by_less_than_one_unit(vector: NDArray[np.float64]) -> None:
    counts = bounded(vector, 1.0)

    assert np.abs(counts * UNIT - vector).max() < UNIT
    assert (np.abs(counts * UNIT) <= np.abs(vector)).all()


def test_a_long_vector_keeps_its_direction() -> None:
    counts = bounded(np.array([3e200, -4e200]), 1.0)

    assert (counts * UNIT).tolist() == pytest.approx([0.6, -0.8], abs=2 * UNIT)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_no_number_takes_the_whole_patient_out(bad: float) -> None:
    assert bounded(np.array([0.5, bad, 0.5]), 1.0).tolist() == [0, 0, 0]


def test_nothing_stays_nothing() -> None:
    assert bounded(np.zeros(4), 1.0).tolist() == [0, 0, 0, 0]


def standard(released: IntArray, std: float) -> NDArray[np.float64]:
    return released * UNIT / std


def test_noise_on_an_empty_site_is_normal_with_the_multiplier_times_the_sensitivity() -> None:
    sensitivity, multiplier = math.sqrt(3), 2.5
    found = noised(np.zeros(20_000, np.int64), sensitivity, multiplier, SecureNoise())

    assert found.dtype == np.int64
    assert stats.kstest(standard(found, sensitivity * multiplier), "norm").pvalue > 1e-4


@pytest.mark.parametrize("wrong", [2 / 3, 3 / 2])
def test_the_same_check_rejects_noise_of_another_size(wrong: float) -> None:
    found = noised(np.zeros(20_000, np.int64), 1.0, 2.5 * wrong, SecureNoise())

    assert stats.kstest(standard(found, 2.5), "norm").pvalue < 1e-4


def test_noise_is_added_to_the_counts_and_does_not_depend_on_them() -> None:
    counts = np.arange(-50, 50, dtype=np.int64) * 2**22

    alone = noised(np.zeros_like(counts), 1.0, 1.3, UnsafeSeededNoise(5))
    together = noised(counts, 1.0, 1.3, UnsafeSeededNoise(5))

    assert (together - alone).tolist() == counts.tolist()


def test_two_releases_of_the_same_counts_differ() -> None:
    counts, noise = np.zeros(8, np.int64), SecureNoise()

    assert noised(counts, 1.0, 1.0, noise).tolist() != noised(counts, 1.0, 1.0, noise).tolist()


def test_the_noise_of_a_sum_over_sites_is_what_it_is_said_to_be() -> None:
    noise = UnsafeSeededNoise(11)
    total = sum(noised(np.zeros(20_000, np.int64), 1.5, 2.0, noise) for _ in range(5))

    said = summed_std(1.5, 2.0, 5)
    assert said == pytest.approx(math.sqrt(5) * 3.0)
    assert (np.asarray(total) * UNIT).std() == pytest.approx(said, rel=0.02)
