"""p-values from draws are valid and stop early; Holm's correction is the textbook's and keeps the family-wise level."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.evaluation.multiple_tests import ENOUGH, drawn_p, draws_for, holm, rank_shuffles, sign_flips

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def p_values_of_honest_statistics(repeats: int, most: int) -> np.ndarray:
    """What is observed comes from the very distribution that is drawn from."""
    rng = np.random.default_rng(4)
    return np.array([drawn_p(float(rng.normal()), lambda k: rng.normal(size=k), most) for _ in range(repeats)])


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2, 0.5])
def test_under_the_null_hypothesis_p_is_below_a_level_no_more_often_than_the_level(level: float) -> None:
    found = p_values_of_honest_statistics(3000, 1999)
    three_errors = 3 * np.sqrt(level * (1 - level) / 3000)
    assert np.mean(found <= level) <= level + three_errors


def test_p_is_not_much_larger_than_it_must_be_either() -> None:
    """The control: a function that always said 1 would pass the test above."""
    found = p_values_of_honest_statistics(3000, 1999)
    assert np.mean(found <= 0.2) > 0.15
    assert np.mean(found <= 0.05) > 0.03


def test_a_wrong_null_distribution_is_caught_by_the_same_count() -> None:
    """The control of the validity test: draws with too small a spread give small p-values too often."""
    rng = np.random.default_rng(4)
    found = [drawn_p(float(rng.normal()), lambda k: 0.5 * rng.normal(size=k), 999) for _ in range(500)]
    assert np.mean(np.array(found) <= 0.05) > 0.1


def test_nothing_unusual_costs_a_few_draws_and_something_unusual_all_of_them() -> None:
    asked: list[int] = []

    def draw(count: int) -> np.ndarray:
        asked.append(count)
        return np.zeros(count)

    assert drawn_p(0.0, draw, 100_000) == 1.0
    assert sum(asked) < 1000
    asked.clear()
    assert drawn_p(1.0, draw, 10_000) == 1 / 10_001
    assert sum(asked) == 10_000


def test_p_is_enough_over_the_draws_that_it_took() -> None:
    """Every fourth draw reaches what was observed: the tenth such draw is the fortieth."""
    assert drawn_p(1.0, lambda k: np.array([place % 4 == 3 for place in range(k)], float), 5000) == ENOUGH / 40


def test_a_statistic_that_is_not_determined_is_no_evidence() -> None:
    assert drawn_p(float("nan"), np.zeros, 10) == 1.0


def test_sums_in_another_order_are_ties() -> None:
    values = np.array([0.1, 0.2, 0.3])
    assert drawn_p(float(values.sum()), lambda k: np.full(k, 0.3 + 0.2 + 0.1 - 1e-16), 1999) == 1.0


def test_p_can_be_as_small_as_the_correction_asks_for() -> None:
    for tests in (1, 12, 300):
        assert tests / (draws_for(tests, 0.01) + 1) < 0.01 / 10


# --- Holm ------------------------------------------------------------------------------------------------------------


def test_holm_s_example_by_hand() -> None:
    """4 tests: .01 x 4, .02 x 3 = .06, .03 x 2 = .06, .5 x 1; never decreasing."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])


def test_no_test_at_all_needs_no_correction() -> None:
    assert holm([]) == []


@given(P_VALUES)
def test_holm_agrees_with_its_step_down_definition(p_values: list[float]) -> None:
    """Oracle: go through sorted p-values and stop at the first that is above level / (tests left)."""
    level, rejected = 0.05, set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda of: p_values[of])):
        if p_values[place] * (len(p_values) - rank) > level:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(holm(p_values)) if p <= level} == rejected


@given(P_VALUES)
def test_an_adjusted_p_is_between_the_p_itself_and_bonferroni_s(p_values: list[float]) -> None:
    for before, after in zip(p_values, holm(p_values), strict=True):
        assert before <= after <= min(1.0, before * len(p_values)) or after == pytest.approx(before)


def test_holm_keeps_the_family_wise_level_and_no_correction_does_not() -> None:
    rng = np.random.default_rng(2)
    families = rng.uniform(size=(2000, 20))
    corrected = np.mean([min(holm(family)) <= 0.05 for family in families.tolist()])
    naive = np.mean(families.min(axis=1) <= 0.05)
    assert corrected <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert naive > 0.5


# --- draws -----------------------------------------------------------------------------------------------------------


def test_random_signs_are_all_signs_equally_often() -> None:
    differences = np.array([1.0, 2.0, 4.0])
    drawn = sign_flips(differences, np.random.default_rng(0))(8000) * 3
    possible = [float(np.dot(signs, differences)) for signs in product((-1, 1), repeat=3)]
    counts = [np.count_nonzero(np.isclose(drawn, value)) for value in possible]
    assert sum(counts) == 8000
    assert max(abs(count - 1000) for count in counts) < 5 * np.sqrt(1000)


def test_shuffles_are_all_permutations_equally_often() -> None:
    table = np.array([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0], [4.0, 40.0, 400.0]])
    drawn = rank_shuffles(table, np.random.default_rng(0))(6000)
    possible = [sum(table[row, column] for row, column in enumerate(order)) for order in permutations(range(3))]
    counts = [np.count_nonzero(np.isclose(drawn, value)) for value in possible]
    assert sum(counts) == 6000
    assert max(abs(count - 1000) for count in counts) < 5 * np.sqrt(1000)
