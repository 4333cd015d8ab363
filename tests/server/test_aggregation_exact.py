"""Sums: equal to integer arithmetic without bounds, in any order, and untouched by an update that is refused."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.aggregation import exact
from server.aggregation.exact import (
    BLOCK,
    LARGEST_COUNT,
    LARGEST_TOTAL,
    LARGEST_WEIGHT,
    MOST_SITES,
    CountSum,
    ExactSum,
    Total,
)
from shared.errors import RunError, UpdateRejected
from shared.fixed_point import peak, quantise, resolution
from shared.messages import Bits, Measured, Update
from shared.plan import FixedPoint

SCHEMA = "a" * 64
LOWEST, HIGHEST = -(2**31), 2**31 - 1


def update(values: Sequence[int] | NDArray[Any], weight: int = 1, bits: Bits = 32, *, steps: int = 2) -> Update:
    return Update(np.asarray(values, np.int32), bits, weight, SCHEMA, loss_sum=3 << 20, steps=steps, saturated=1)


def summed(updates: Sequence[Update], bits: Bits = 32, group: int = 4) -> Total:
    length = updates[0].values.size
    total = ExactSum(SCHEMA, length, FixedPoint(bits=bits), waiting_bytes=4 * length * group)
    for one in updates:
        total.add(one)
    return total.total()


def oracle(updates: Sequence[Update]) -> list[int]:
    """Python's integers have no bounds."""
    return [sum(one.weight * int(one.values[k]) for one in updates) for k in range(updates[0].values.size)]


WEIGHTS = st.one_of(st.just(1), st.integers(1, 300), st.just(LARGEST_WEIGHT))
VALUES = st.one_of(st.integers(LOWEST, HIGHEST), st.integers(-1000, 1000), st.sampled_from([LOWEST, HIGHEST]))


@settings(deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(1, 9))
def test_the_sum_is_that_of_unbounded_integers(data: st.DataObject, length: int, group: int) -> None:
    vectors = data.draw(st.lists(st.lists(VALUES, min_size=length, max_size=length), min_size=1, max_size=8))
    updates = [update(vector, data.draw(WEIGHTS)) for vector in vectors]
    assert summed(updates, group=group).values.tolist() == oracle(updates)


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("weight", [1, 255, 256, 65_535, 65_536, LARGEST_WEIGHT])
def test_extreme_values_do_not_overflow_on_any_path(bits: Bits, weight: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    updates = [update([low, high, low, 0], weight, bits)] * 5 + [update([low, high, high, 1], 1, bits)] * 3
    assert summed(updates, bits).values.tolist() == oracle(updates)


@pytest.mark.parametrize("bits", [24, 32])
def test_every_order_and_grouping_gives_the_same_bits(bits: Bits) -> None:
    generator = np.random.default_rng(11)
    reach = 2 ** (bits - 1) - 1
    updates = [update(generator.integers(-reach, reach, 50), weight, bits) for weight in (1, 7, 1000, 1)]
    sums = {
        (total.values.tobytes(), total.mean(FixedPoint(bits=bits)).tobytes(), total.mean_loss())
        for order in itertools.permutations(updates)
        for group in (1, 2, 3, 4, 8)
        for total in [summed(order, bits, group)]
    }
    assert len(sums) == 1


@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_blocks_leave_no_seam(length: int) -> None:
    generator = np.random.default_rng(length)
    updates = [update(generator.integers(LOWEST, HIGHEST, length), weight) for weight in (1, 1, 900)]
    expected = sum((one.values.astype(np.int64) * one.weight for one in updates), np.zeros(length, np.int64))
    assert np.array_equal(summed(updates).values, expected)


def test_blocks_that_fit_and_blocks_that_do_not_add_up_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "BLOCK", 4)
    values = np.array([1, -2, 3, 4, HIGHEST, LOWEST, HIGHEST, 0, 5, 6], np.int32)
    updates = [update(values, weight) for weight in (1, 1, 3)]
    assert summed(updates).values.tolist() == oracle(updates)


def test_the_fast_path_is_taken_exactly_while_its_sum_fits_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def watch(name: str) -> None:
        original = getattr(exact, name)

        def watched(*given: object) -> None:
            taken.append(name.removeprefix("_add_"))
            original(*given)

        monkeypatch.setattr(exact, name, watched)

    watch("_add_narrow")
    watch("_add_wide")
    for values, weight in (([2**30 - 1], 1), ([2**30], 1), ([-(2**30)], 1), ([2**29 - 1], 2), ([2**29], 2)):
        updates = [update(values, weight)] * 2
        assert summed(updates).values.tolist() == oracle(updates)
    assert taken == ["narrow", "wide", "wide", "narrow", "wide"]


def test_the_bound_of_the_docstring_holds_with_room_to_the_last_weight() -> None:
    assert 2**31 * LARGEST_TOTAL < 2**63
    assert LARGEST_COUNT * MOST_SITES < 2**63
    total = ExactSum(SCHEMA, 1, FixedPoint())
    for _ in range(LARGEST_TOTAL // LARGEST_WEIGHT):
        total.add(update([LOWEST], LARGEST_WEIGHT))
    with pytest.raises(UpdateRejected, match="not one that can be added"):
        total.add(update([LOWEST], LARGEST_WEIGHT))
    total.add(update([LOWEST], LARGEST_TOTAL % LARGEST_WEIGHT))
    assert total.total().values.tolist() == [LOWEST * LARGEST_TOTAL]


@settings(deadline=None)
@given(st.lists(st.integers(LOWEST, HIGHEST), min_size=1, max_size=5), st.integers(1, LARGEST_WEIGHT))
def test_the_mean_is_the_exact_mean_rounded_to_float32(values: list[int], weight: int) -> None:
    grid = FixedPoint(range=4.0)
    updates = [update(values, weight), update(values[::-1], 3)]
    mean = summed(updates).mean(grid)
    assert mean.dtype == np.float32
    for got, total in zip(mean, oracle(updates), strict=True):
        expected = Fraction(total) * Fraction(resolution(grid)) / (weight + 3)
        assert abs(Fraction(float(got)) - expected) <= abs(expected) * Fraction(1, 2**24) * (1 + Fraction(1, 2**20))


def test_the_mean_of_quantised_changes_is_the_weighted_mean_of_the_changes() -> None:
    grid = FixedPoint(range=4.0, bits=32)
    changes = np.random.default_rng(1).normal(0, 0.1, (3, 200))
    weights = [10, 1, 25]
    updates = [update(quantise(change, grid)[0], weight) for change, weight in zip(changes, weights, strict=True)]
    expected = np.average(changes, axis=0, weights=weights)
    error = np.abs(summed(updates).mean(grid) - expected)
    assert (error <= resolution(grid) / 2 + 2.0**-24 * np.abs(expected)).all()


def test_one_site_alone_gets_its_own_change_back() -> None:
    grid = FixedPoint(range=1.0, bits=24)
    change = np.random.default_rng(2).integers(-peak(grid), peak(grid), 64) * resolution(grid)
    values, _ = quantise(change, grid)
    assert summed([update(values, 17, 24)], 24).mean(grid).astype(np.float64).tolist() == change.tolist()


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(RunError, match="no update was added"):
        ExactSum(SCHEMA, 3, FixedPoint()).total().mean(FixedPoint())


def test_losses_steps_and_saturation_add_up() -> None:
    total = summed([update([1], steps=2), update([1], steps=4)])
    assert (total.weight, total.steps, total.saturated) == (2, 6, 2)
    assert total.mean_loss() == (3 + 3) / 6
    assert np.isnan(Total(np.zeros(1, np.int64)).mean_loss())


GOOD = update([1, 2, 3])
BAD = {
    "another schema": (replace(GOOD, schema="b" * 64), "update-schema"),
    "other bits": (replace(GOOD, bits=16), "update-schema"),
    "too short": (replace(GOOD, values=GOOD.values[:2]), "update-length"),
    "two axes": (replace(GOOD, values=GOOD.values.reshape(1, 3)), "update-length"),
    "floats": (replace(GOOD, values=np.array([1, np.nan, 3])), "update-length"),
    "wide integers": (replace(GOOD, values=GOOD.values.astype(np.int64)), "update-length"),
    "weight zero": (replace(GOOD, weight=0), "update-weight"),
    "negative weight": (replace(GOOD, weight=-1), "update-weight"),
    "huge weight": (replace(GOOD, weight=LARGEST_WEIGHT + 1), "update-weight"),
    "negative steps": (replace(GOOD, steps=-1), "update-counts"),
    "negative saturation": (replace(GOOD, saturated=-1), "update-counts"),
    "huge loss": (replace(GOOD, loss_sum=2**60), "update-counts"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_update_is_rejected_by_its_code_and_leaves_the_sum_as_it_was(name: str) -> None:
    bad, code = BAD[name]
    total = ExactSum(SCHEMA, 3, FixedPoint())
    total.add(GOOD)
    with pytest.raises(UpdateRejected) as caught:
        total.add(bad)
    assert caught.value.code == code
    total.add(GOOD)
    result = total.total()
    assert result.values.tolist() == [2, 4, 6]
    assert (result.weight, result.steps, result.loss_sum) == (2, 4, 6 << 20)


@pytest.mark.parametrize(("bits", "value"), [(16, 2**15 + 1), (16, -(2**15) - 1), (24, 2**23 + 1), (24, LOWEST)])
def test_a_value_beyond_the_bits_of_the_plan_is_rejected(bits: Bits, value: int) -> None:
    total = ExactSum(SCHEMA, BLOCK + 1, FixedPoint(bits=bits))
    values = np.zeros(BLOCK + 1, np.int32)
    values[-1] = value
    with pytest.raises(UpdateRejected, match="beyond") as caught:
        total.add(update(values, bits=bits))
    assert caught.value.code == "update-range"
    assert not total.total().values.any()


def test_a_total_goes_on_growing_after_it_was_looked_at() -> None:
    total = ExactSum(SCHEMA, 1, FixedPoint())
    total.add(update([5]))
    assert total.total().values.tolist() == [5]
    total.add(update([6], 2))
    assert total.total().values.tolist() == [17]
    assert total.total().weight == 3


def test_updates_in_read_only_memory_are_added_and_not_changed() -> None:
    values = np.frombuffer(np.array([7, -7], np.int32).tobytes(), np.int32)
    assert summed([update(values), update(values, 3)]).values.tolist() == [28, -28]
    assert values.tolist() == [7, -7]


def peak_memory(sites: int, waiting_bytes: int) -> int:
    """Bytes allocated while adding; each update is made, added and forgotten."""
    length = 4 * BLOCK
    tracemalloc.start()
    total = ExactSum(SCHEMA, length, FixedPoint(), waiting_bytes=waiting_bytes)
    for site in range(sites):
        total.add(update(np.full(length, site, np.int32)))
    total.total()
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return highest


def test_memory_does_not_grow_with_the_number_of_sites() -> None:
    few, many = peak_memory(8, 2**23), peak_memory(32, 2**23)
    assert many <= few + 64 * 1024


def test_memory_for_waiting_updates_is_what_was_allowed() -> None:
    update_bytes = 16 * BLOCK
    least, most = peak_memory(16, 0), peak_memory(16, 4 * update_bytes)
    assert most - least == pytest.approx(3 * update_bytes, rel=0.1)


def measured(counts: Sequence[int]) -> Measured:
    return Measured(np.array(counts, np.int64), SCHEMA)


@given(st.lists(st.lists(st.integers(-LARGEST_COUNT, LARGEST_COUNT), min_size=3, max_size=3), min_size=1, max_size=6))
def test_counts_add_up_to_unbounded_integers(sites: list[list[int]]) -> None:
    total = CountSum(SCHEMA, 3)
    for counts in sites:
        total.add(measured(counts))
    assert total.total().tolist() == [sum(column) for column in zip(*sites, strict=True)]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (Measured(np.zeros(3, np.int64), "b" * 64), "statistics-schema"),
        (Measured(np.zeros(4, np.int64), SCHEMA), "statistics-length"),
        (Measured(np.zeros(3, np.float64), SCHEMA), "statistics-length"),
        (measured([0, 0, LARGEST_COUNT + 1]), "statistics-range"),
        (measured([-LARGEST_COUNT - 1, 0, 0]), "statistics-range"),
        (measured([-(2**63), 0, 0]), "statistics-range"),
    ],
)
def test_bad_statistics_are_rejected_and_leave_the_sum_as_it_was(bad: Measured, code: str) -> None:
    total = CountSum(SCHEMA, 3)
    total.add(measured([1, 2, 3]))
    with pytest.raises(UpdateRejected) as caught:
        total.add(bad)
    assert caught.value.code == code
    assert total.total().tolist() == [1, 2, 3]


def test_statistics_of_more_sites_than_cannot_overflow_are_rejected() -> None:
    total = CountSum(SCHEMA, 1)
    for _ in range(MOST_SITES):
        total.add(measured([LARGEST_COUNT]))
    assert total.total().tolist() == [LARGEST_COUNT * MOST_SITES]
    with pytest.raises(UpdateRejected, match="over 2047 sites"):
        total.add(measured([1]))


def test_the_total_of_counts_is_a_copy() -> None:
    total = CountSum(SCHEMA, 1)
    total.add(measured([1]))
    before = total.total()
    total.add(measured([1]))
    assert before.tolist() == [1]
