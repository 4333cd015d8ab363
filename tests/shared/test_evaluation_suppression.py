"""What is told never gives away a small cell: by going through all tables, and by linear programming."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import linprog

from shared.evaluation.suppression import withheld

Rule = Callable[[Sequence[int], int, int], frozenset[int]]
TABLES = [(3, 2, 12), (3, 3, 10), (3, 4, 7), (4, 3, 10), (4, 4, 8), (5, 3, 12), (5, 4, 9), (3, 5, 5)]
"""(floor, levels, largest sum of withheld cells): small enough to go through every table."""


def by_simple_rule(patients: Sequence[int], everybody: int, floor: int) -> frozenset[int]:  # noqa: ARG001
    """The control: small cells alone."""
    return frozenset(cell for cell, count in enumerate(patients) if 0 < count < floor)


def by_textbook(patients: Sequence[int], everybody: int, floor: int) -> frozenset[int]:
    """The control: small cells, then the next larger one at a time until two cells sum to the floor."""
    cells = sorted(by_simple_rule(patients, everybody, floor))
    others = sorted((cell for cell, count in enumerate(patients) if count >= floor), key=lambda cell: patients[cell])
    while cells and others and (len(cells) < 2 or sum(patients[cell] for cell in cells) < floor):
        cells.append(others.pop(0))
    return frozenset(cells)


def told(patients: Sequence[int], cells: frozenset[int]) -> tuple[int | None, ...]:
    return tuple(None if cell in cells else count for cell, count in enumerate(patients))


def given_away(rule: Rule, floor: int, levels: int, largest: int) -> list[tuple[int, ...]]:
    """Tables of which somebody who knows ``rule`` finds a withheld cell: all tables that are told alike agree on it."""
    alike = defaultdict(list)
    for patients in itertools.product(range(largest + 1), repeat=levels):
        cells = rule(patients, sum(patients), floor)
        if cells and sum(patients[cell] for cell in cells) <= largest:
            alike[sum(patients), told(patients, cells)].append(patients)
    return [
        tables[0]
        for (_, shown), tables in alike.items()
        for cell, count in enumerate(shown)
        if count is None and len({table[cell] for table in tables}) < 2
    ]


def interval(shown: Sequence[int | None], everybody: int, cell: int) -> tuple[float, float]:
    """Least and largest value of a withheld cell, given the total and what is told: two linear programmes."""
    hidden = [position for position, count in enumerate(shown) if count is None]
    left = everybody - sum(count for count in shown if count is not None)
    bounds = []
    for sign in (1, -1):
        aim = np.array([float(sign * (position == cell)) for position in hidden])
        found = linprog(aim, A_eq=np.ones((1, len(hidden))), b_eq=[left], bounds=(0, None))
        assert found.success
        bounds.append(sign * found.fun)
    return bounds[0], bounds[1]


@pytest.mark.parametrize(("floor", "levels", "largest"), TABLES)
def test_whoever_knows_the_rule_finds_no_withheld_cell_of_any_table(floor: int, levels: int, largest: int) -> None:
    assert given_away(withheld, floor, levels, largest) == []


@pytest.mark.parametrize("rule", [by_simple_rule, by_textbook], ids=["small cells alone", "textbook"])
@pytest.mark.parametrize("floor", [3, 4])
def test_going_through_all_tables_finds_what_simpler_rules_give_away(rule: Rule, floor: int) -> None:
    assert given_away(rule, floor, 3, 10)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(3, 6))
@example([4, 4, 5], 5)
@example([1, 1, 1, 1, 1, 30], 5)
@example([2], 5)
def test_linear_programming_leaves_every_withheld_cell_at_least_two_values(patients: list[int], floor: int) -> None:
    everybody = sum(patients)
    shown = told(patients, withheld(patients, everybody, floor))
    for cell, count in enumerate(shown):
        # One level alone is the total, which is public.
        if count is None and len(shown) > 1:
            low, high = interval(shown, everybody, cell)
            assert high - low >= 1
            assert low <= patients[cell] <= high


def test_linear_programming_finds_the_cell_that_stands_alone() -> None:
    patients = [3, 20, 30]
    assert interval(told(patients, by_simple_rule(patients, 53, 5)), 53, 0) == (3, 3)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=9), st.integers(3, 9))
def test_no_small_cell_is_told_and_what_is_withheld_describes_floor_patients_or_all(
    patients: list[int], floor: int
) -> None:
    cells = withheld(patients, sum(patients), floor)
    assert all(count == 0 or count >= floor for cell, count in enumerate(patients) if cell not in cells)
    together = sum(patients[cell] for cell in cells)
    assert not cells or together >= floor or len(cells) == len(patients)
    assert bool(cells) == any(0 < count < floor for count in patients)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=6), st.integers(3, 9), st.randoms(use_true_random=False))
def test_the_order_of_levels_decides_nothing(patients: list[int], floor: int, random: object) -> None:
    order = list(range(len(patients)))
    random.shuffle(order)  # type: ignore[attr-defined]
    turned = withheld([patients[cell] for cell in order], sum(patients), floor)
    assert {order[cell] for cell in turned} == withheld(patients, sum(patients), floor)


@pytest.mark.parametrize(
    ("patients", "floor", "expected"),
    [
        ([20, 22, 0, 0], 5, set()),
        ([20, 22, 0, 3], 5, {0, 3}),
        ([20, 3, 3, 0], 5, {1, 2}),
        ([20, 4, 4, 5], 5, {1, 2, 3}),
        ([20, 3, 4, 5], 5, {1, 2}),
        ([9, 4, 4, 4, 5], 5, {1, 2, 3, 4}),
        ([1, 1, 7, 9], 5, {0, 1, 2}),
        ([6, 6, 2, 30], 5, {0, 1, 2}),
        ([4, 0, 0], 5, {0, 1, 2}),
        ([0, 0], 5, set()),
    ],
    ids=str,
)
def test_cells_by_hand(patients: list[int], floor: int, expected: set[int]) -> None:
    """Two cells of 4 sum to the most that small cells can, so 5 goes with them; 3 and 4 could be 4 and 3."""
    assert withheld(patients, sum(patients), floor) == expected


def test_patients_of_two_levels_count_once_where_they_would_hide_a_cell() -> None:
    """Three patients have images of both of two scanners: two cells of 3, but three people behind them, not six."""
    assert withheld([3, 3, 20], 26, 5) == {0, 1}
    assert withheld([3, 3, 20], 23, 5) == {0, 1, 2}
