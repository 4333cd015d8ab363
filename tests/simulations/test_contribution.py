"""Shapley values: Shapley's own axioms, games with known answers, and the estimate against the definition."""

import math
from collections.abc import Callable, Collection
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.contribution import (
    Coalition,
    FloatArray,
    Game,
    Known,
    Shapley,
    exact_shapley,
    jackknife_se,
    leave_one_out,
    truncated_shapley,
)

SITES = ("aachen", "bergen", "coimbra", "dublin")
Worth = Callable[[Coalition], float]


def game_of(worth: Worth) -> Game:
    return lambda coalitions: {one: np.array([worth(one)]) for one in coalitions}


def exact(worth: Worth, sites: tuple[str, ...] = SITES) -> dict[str, float]:
    return by_site(exact_shapley(sites, Known(game_of(worth))))


def estimated(worth: Worth, permutations_: int = 400, tolerance: float = 0.0, seed: int = 0) -> Shapley:
    return truncated_shapley(SITES, Known(game_of(worth)), permutations_, tolerance, np.random.default_rng(seed))


def by_site(found: Shapley) -> dict[str, float]:
    return dict(zip(found.sites, found.values[:, 0].tolist(), strict=True))


def random_game(seed: int, sites: tuple[str, ...] = SITES) -> Worth:
    """Any worth for any coalition: no structure that an error could hide behind."""
    rng = np.random.default_rng(seed)
    places = {site: place for place, site in enumerate(sites)}
    table = rng.normal(size=2 ** len(sites))
    return lambda one: float(table[sum(2 ** places[site] for site in one)])


def diminishing(one: Coalition) -> float:
    """Like a metric: the more sites, the less another one adds."""
    return 1 - math.exp(-sum(SITES.index(site) + 1 for site in one) / 3)


GAMES = st.integers(0, 10_000).map(random_game)


# --- the definition --------------------------------------------------------------------------------------------------


@given(GAMES)
def test_the_exact_value_is_the_mean_gain_over_all_orders(worth: Worth) -> None:
    """Oracle: all 24 orders, one by one."""
    gains = dict.fromkeys(SITES, 0.0)
    for order in permutations(SITES):
        for place, site in enumerate(order):
            gains[site] += worth(frozenset(order[: place + 1])) - worth(frozenset(order[:place]))
    assert exact(worth) == pytest.approx({site: gain / 24 for site, gain in gains.items()})


def test_the_glove_game() -> None:
    """A left glove and two right ones: 2/3, 1/6, 1/6, as in every textbook."""
    found = exact(lambda one: float("left" in one and len(one) > 1), ("left", "right", "other"))
    assert found == pytest.approx({"left": 2 / 3, "right": 1 / 6, "other": 1 / 6})


@given(GAMES)
def test_values_add_up_to_what_all_are_worth_beyond_none(worth: Worth) -> None:
    assert sum(exact(worth).values()) == pytest.approx(worth(frozenset(SITES)) - worth(frozenset()))


@given(GAMES)
def test_a_site_that_adds_nothing_has_value_0(worth: Worth) -> None:
    assert exact(lambda one: worth(one - {"bergen"}))["bergen"] == pytest.approx(0.0)


@given(GAMES)
def test_sites_that_add_the_same_have_the_same_value(worth: Worth) -> None:
    def swapped(one: Coalition) -> Coalition:
        return frozenset({"aachen": "dublin", "dublin": "aachen"}.get(site, site) for site in one)

    found = exact(lambda one: worth(one) + worth(swapped(one)))
    assert found["aachen"] == pytest.approx(found["dublin"])


@given(GAMES, GAMES)
def test_values_of_a_sum_of_games_are_sums_of_values(one: Worth, other: Worth) -> None:
    first, second = exact(one), exact(other)
    both = exact(lambda coalition: one(coalition) + other(coalition))
    assert both == pytest.approx({site: first[site] + second[site] for site in SITES})


def test_leave_one_out_breaks_efficiency_and_so_is_no_shapley_value() -> None:
    """The control of the axioms: another notion of contribution does not keep them."""
    left = leave_one_out(SITES, Known(game_of(diminishing)))[:, 0]
    assert left.sum() < 0.5 * (diminishing(frozenset(SITES)) - diminishing(frozenset()))


def test_leave_one_out_is_what_is_lost_without_a_site() -> None:
    left = leave_one_out(SITES, Known(game_of(diminishing)))[:, 0]
    everyone = frozenset(SITES)
    assert left.tolist() == pytest.approx([diminishing(everyone) - diminishing(everyone - {site}) for site in SITES])


# --- the estimate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_estimate_is_the_exact_value_within_its_standard_errors(seed: int) -> None:
    worth = random_game(seed)
    found, true = estimated(worth, seed=seed), exact(worth)
    for place, site in enumerate(SITES):
        assert abs(found.values[place, 0] - true[site]) < 4 * found.drawn_se[place]


def test_an_estimate_of_another_game_is_not_within_its_standard_errors() -> None:
    """The control: four standard errors do reject a wrong value."""
    found, true = estimated(random_game(0)), exact(random_game(1))
    apart = [abs(found.values[place, 0] - true[site]) / found.drawn_se[place] for place, site in enumerate(SITES)]
    assert max(apart) > 10


def test_the_standard_error_is_the_spread_of_repeated_estimates() -> None:
    runs = [estimated(diminishing, 30, seed=seed) for seed in range(300)]
    spread = np.std([run.values[:, 0] for run in runs], axis=0)
    claimed = np.mean([run.drawn_se for run in runs], axis=0)
    assert claimed == pytest.approx(spread, rel=0.15)


@given(GAMES, st.integers(2, 6))
def test_the_estimate_without_truncation_is_efficient_for_any_orders(worth: Worth, number: int) -> None:
    found = estimated(worth, number)
    assert found.values.sum() == pytest.approx(worth(frozenset(SITES)) - worth(frozenset()))


@given(GAMES)
def test_the_estimate_gives_a_null_player_nothing(worth: Worth) -> None:
    found = estimated(lambda one: worth(one - {"bergen"}), 5)
    assert by_site(found)["bergen"] == pytest.approx(0.0)


@given(GAMES, GAMES)
def test_the_estimate_is_additive_for_the_same_orders(one: Worth, other: Worth) -> None:
    first, second = estimated(one, 6), estimated(other, 6)
    both = estimated(lambda coalition: one(coalition) + other(coalition), 6)
    assert both.values == pytest.approx(first.values + second.values)


@given(st.floats(0.001, 0.3))
def test_truncation_loses_at_most_the_tolerance(tolerance: float) -> None:
    """Of a game in which nobody does harm, each order loses less than the tolerance in all."""
    found = estimated(diminishing, 20, tolerance)
    lost = diminishing(frozenset(SITES)) - diminishing(frozenset()) - found.values.sum()
    assert -1e-12 <= lost < tolerance


def test_truncation_trains_fewer_coalitions() -> None:
    def asked(tolerance: float) -> int:
        known = Known(game_of(lambda one: float(bool(one))))
        truncated_shapley(SITES, known, 20, tolerance, np.random.default_rng(0))
        return len(known.worth)

    assert asked(0.1) == 2 + len(SITES), "after one site an order is worth what all are"
    assert asked(0.0) > 10


def test_a_coalition_is_trained_once() -> None:
    seen: list[Coalition] = []

    def game(coalitions: Collection[Coalition]) -> dict[Coalition, FloatArray]:
        seen.extend(coalitions)
        return {one: np.array([diminishing(one)]) for one in coalitions}

    known = Known(game)
    exact_shapley(SITES, known)
    leave_one_out(SITES, known)
    truncated_shapley(SITES, known, 10, 0.0, np.random.default_rng(0))
    assert len(seen) == len(set(seen)) == 16


def test_the_longest_trainings_start_first() -> None:
    order: list[int] = []

    def game(coalitions: Collection[Coalition]) -> dict[Coalition, FloatArray]:
        order.extend(map(len, coalitions))
        return {one: np.array([0.0]) for one in coalitions}

    exact_shapley(SITES, Known(game))
    assert order == sorted(order, reverse=True)


def test_one_site_is_worth_all_there_is() -> None:
    assert exact(lambda one: 0.7 if one else 0.5, ("aachen",)) == pytest.approx({"aachen": 0.2})


# --- replicates ------------------------------------------------------------------------------------------------------


def test_values_of_replicates_are_values_of_each_replicate_alone() -> None:
    games = [random_game(seed) for seed in range(3)]
    together = Known(lambda coalitions: {one: np.array([game(one) for game in games]) for one in coalitions})
    found = exact_shapley(SITES, together)
    for column, game in enumerate(games):
        assert dict(zip(SITES, found.values[:, column], strict=True)) == pytest.approx(exact(game))


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """Oracle: the mean of n numbers has standard error s / sqrt(n), and the jackknife gives exactly that."""
    numbers = np.random.default_rng(0).normal(size=12)
    left_out = [np.delete(numbers, place).mean() for place in range(12)]
    values = np.array([[numbers.mean(), *left_out]])
    assert jackknife_se(values)[0] == pytest.approx(numbers.std(ddof=1) / math.sqrt(12))


def test_one_group_of_patients_says_nothing_of_their_spread() -> None:
    assert np.isnan(jackknife_se(np.array([[0.5, 0.4], [0.1, 0.1]]))).all()
