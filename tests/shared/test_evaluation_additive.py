"""Statistics add up exactly, respect patients, and survive the way through a flat vector."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.evaluation.additive import (
    CASES,
    GROUPS,
    MODULUS,
    PATIENTS,
    UNIT,
    Observation,
    Schema,
    Statistics,
    collect,
    group_of,
    in_units,
)

SCHEMA = Schema("lengths-1", (("total", ()), ("bins", (3,))))


def seen(patient: str, length: int) -> tuple[str, Observation]:
    return patient, {"total": np.array(length, np.int64), "bins": np.eye(3, dtype=np.int64)[length % 3]}


def test_a_patient_with_three_images_is_one_patient_and_three_cases() -> None:
    total = collect(SCHEMA, [seen("a", 1), seen("a", 2), seen("b", 4), seen("a", 7)]).total()

    assert (total[PATIENTS], total[CASES], total["total"]) == (2, 4, 14)
    assert total["bins"].tolist() == [0, 3, 1]


def test_all_images_of_a_patient_fall_into_one_group() -> None:
    counts = collect(SCHEMA, [seen("a", 1), seen("a", 2), seen("a", 3)]).counts

    assert np.count_nonzero(counts[CASES]) == 1
    assert counts[CASES][group_of("a")] == 3


def test_groups_of_patients_are_the_same_in_every_process() -> None:
    expected = int.from_bytes(hashlib.sha256(b"consilium-group-1p-17").digest()[:8], "big") % 20

    assert group_of("p-17") == expected


def test_a_thousand_patients_spread_over_all_groups() -> None:
    sizes = np.bincount([group_of(f"patient-{number}") for number in range(1000)], minlength=GROUPS)

    # 50 a group on average; the chance that a fair hash leaves 25..80 somewhere is below 1e-3.
    assert sizes.min() > 25
    assert sizes.max() < 80


def test_leaving_out_a_group_and_adding_it_again_gives_the_total() -> None:
    statistics = collect(SCHEMA, [seen(f"p{number}", number) for number in range(60)])

    for group in range(GROUPS):
        rest, total = statistics.without_group(group), statistics.total()
        for name in total:
            np.testing.assert_array_equal(rest[name] + statistics.counts[name][group], total[name])


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 10**6)), max_size=30), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_flat_and_from_flat_are_inverse_and_addition_of_vectors_is_addition_of_statistics(
    pairs: list[tuple[str, int]], cut: int
) -> None:
    one = collect(SCHEMA, [seen(*pair) for pair in pairs[:cut]])
    other = collect(SCHEMA, [seen(*pair) for pair in pairs[cut:]])

    again = Statistics.from_flat(SCHEMA, one.flat() + other.flat())

    np.testing.assert_array_equal(again.flat(), (one + other).flat())
    assert again.flat().shape == (SCHEMA.length,)
    assert SCHEMA.length == GROUPS * (1 + 1 + 1 + 3)


def test_no_case_is_a_vector_of_zeros() -> None:
    np.testing.assert_array_equal(collect(SCHEMA, []).flat(), Statistics.zero(SCHEMA).flat())
    assert not Statistics.zero(SCHEMA).flat().any()


@pytest.mark.parametrize("values", [np.zeros(SCHEMA.length - 1, np.int64), np.zeros(SCHEMA.length, np.int32)])
def test_a_vector_of_another_length_or_type_is_refused(values: NDArray[Any]) -> None:
    with pytest.raises(ProtocolError, match="lengths-1 has 120 int64"):
        Statistics.from_flat(SCHEMA, values)


def test_statistics_under_two_definitions_do_not_add() -> None:
    with pytest.raises(ProtocolError, match="different definitions"):
        _ = Statistics.zero(SCHEMA) + Statistics.zero(Schema("lengths-2", SCHEMA.shapes))


@pytest.mark.parametrize(
    "other",
    [
        Schema("lengths-2", SCHEMA.shapes),
        Schema("lengths-1", (("total", ()), ("bins", (4,)))),
        Schema("lengths-1", (("sum", ()), ("bins", (3,)))),
        Schema("lengths-1", (("bins", (3,)), ("total", ()))),
    ],
)
def test_two_definitions_never_share_a_digest(other: Schema) -> None:
    assert other.digest() != SCHEMA.digest()
    assert SCHEMA.digest() == Schema("lengths-1", (("total", ()), ("bins", (3,)))).digest()


@given(st.floats(-1e6, 1e6))
def test_fixed_point_is_within_half_a_unit(value: float) -> None:
    assert abs(in_units(value) * UNIT - value) <= UNIT / 2


# --- what is not counted by group ------------------------------------------------------------------------------------

BOTH = Schema("lengths-1", (("total", ()),), (("fine", (2, 3)),))


def placed(patient: str, *rows: tuple[int, int]) -> tuple[str, Observation]:
    return patient, {"total": np.array(1, np.int64), "fine": np.array(rows, np.int64)}


def test_rows_of_position_and_amount_are_added_where_they_say_even_twice_in_one_case() -> None:
    total = collect(BOTH, [placed("a", (0, 5), (4, 1)), placed("b", (4, 2), (4, 3))]).total()

    assert total["fine"].tolist() == [[5, 0, 0], [0, 6, 0]]
    assert total["total"] == 2


def test_what_is_not_counted_by_group_is_in_the_total_alone() -> None:
    statistics = collect(BOTH, [placed("a", (0, 5)), placed("b", (1, 2))])

    assert "fine" in statistics.total()
    for counts in (statistics.grouped_total(), statistics.of_group(3), statistics.without_group(3)):
        assert counts.keys() == {PATIENTS, CASES, "total"}
    left = sum(int(statistics.of_group(group)["total"]) for group in range(GROUPS))
    assert left == statistics.grouped_total()["total"] == 2


def test_ungrouped_counts_survive_the_flat_vector_and_add_up_modulo_two_to_the_52() -> None:
    one, other = collect(BOTH, [placed("a", (0, -3))]), collect(BOTH, [placed("b", (0, 2**51), (5, 2**63 - 1))])

    together = Statistics.from_flat(BOTH, one.flat() + other.flat())

    assert BOTH.length == one.flat().size == GROUPS * 3 + 6
    assert (together.counts["fine"] == (one + other).counts["fine"]).all()
    assert together.counts["fine"].ravel().tolist() == [(2**51 - 3) % MODULUS, 0, 0, 0, 0, (2**63 - 1) % MODULUS]
    assert max(of.counts["fine"].max() for of in (one, other)) < MODULUS


def test_naming_an_array_ungrouped_is_another_definition() -> None:
    assert BOTH.digest() != Schema("lengths-1", (("total", ()), ("fine", (2, 3)))).digest()
