"""Means over patients against averaging by hand, in any order of cases, and what must not change beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.evaluation.additive import CASES, PATIENTS, IntArray, Observation, Schema, collect, group_of
from shared.evaluation.by_patient import collect_patients, rounded_mean

SCHEMA = Schema("test-1", (("sum", (1,)), ("number", (1,)), ("patient-mean", (1,)), ("patient-number", (1,))))
NOBODY = np.zeros(1, np.int64)


def seen(value: int | None) -> Observation:
    """One case: a value, or None where it determines none."""
    number = np.array([value is not None], np.int64)
    return {"sum": np.array([value or 0]), "number": number, "patient-mean": NOBODY, "patient-number": NOBODY}


def of_patient(counts: Mapping[str, IntArray]) -> Observation:
    return {
        "patient-mean": rounded_mean(counts["sum"], counts["number"]),
        "patient-number": (counts["number"] > 0).astype(np.int64),
    }


CASES_DRAWN = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.none() | st.integers(0, 2**40)), max_size=30)


@given(CASES_DRAWN)
@settings(deadline=None)
def test_each_patient_adds_the_mean_of_their_own_cases(cases: list[tuple[str, int | None]]) -> None:
    found = collect_patients(SCHEMA, [(patient, seen(value)) for patient, value in cases], of_patient).total()

    values = defaultdict(list)
    for patient, value in cases:
        if value is not None:
            values[patient].append(value)
    expected = sum(np.mean(of) for of in values.values())
    assert found["patient-number"].tolist() == [len(values)]
    assert found["patient-mean"][0] == pytest.approx(expected, abs=0.5 * len(values) + 1e-9, rel=1e-12)


@given(CASES_DRAWN)
@settings(deadline=None)
def test_all_else_is_what_collect_counts(cases: list[tuple[str, int | None]]) -> None:
    observed = [(patient, seen(value)) for patient, value in cases]

    found, plain = collect_patients(SCHEMA, observed, of_patient), collect(SCHEMA, observed)

    for name in (CASES, PATIENTS, "sum", "number"):
        np.testing.assert_array_equal(found.counts[name], plain.counts[name])


@given(CASES_DRAWN, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_cases_changes_nothing(cases: list[tuple[str, int | None]], order: Random) -> None:
    observed = [(patient, seen(value)) for patient, value in cases]
    shuffled = observed.copy()
    order.shuffle(shuffled)

    one, other = (collect_patients(SCHEMA, of, of_patient) for of in (observed, shuffled))

    np.testing.assert_array_equal(one.flat(), other.flat())


def test_a_patient_with_many_images_weighs_no_more_than_one_with_one() -> None:
    observed = [*(("many", seen(0)) for _ in range(9)), ("one", seen(100))]

    found = collect_patients(SCHEMA, observed, of_patient).total()

    assert found["patient-mean"][0] / found["patient-number"][0] == 50
    assert found["sum"][0] / found["number"][0] == 10


def test_a_task_without_such_means_counts_cases_alone() -> None:
    observed = [("a", seen(3)), ("b", seen(None))]

    found = collect_patients(SCHEMA, observed, None)

    np.testing.assert_array_equal(found.flat(), collect(SCHEMA, observed).flat())


def test_what_an_observation_does_not_name_counts_nothing() -> None:
    observed = [("a", seen(3)), ("a", {"sum": np.array([4])})]

    found = collect_patients(SCHEMA, observed, of_patient).total()

    assert {name: of.tolist() for name, of in found.items()} == {
        PATIENTS: 1,
        CASES: 2,
        "sum": [7],
        "number": [1],
        "patient-mean": [7],
        "patient-number": [1],
    }


def test_what_a_patient_adds_is_in_their_group() -> None:
    found = collect_patients(SCHEMA, [("somebody", seen(7))], of_patient)

    assert np.flatnonzero(found.counts["patient-mean"][:, 0]).tolist() == [group_of("somebody")]


def test_observations_are_not_changed_by_adding_them_up() -> None:
    first = seen(3)

    collect_patients(SCHEMA, [("a", first), ("a", seen(4))], of_patient)

    assert first["sum"].tolist() == [3]


@given(st.integers(0, 2**45), st.integers(0, 1000))
def test_a_mean_is_rounded_to_the_nearest_integer_and_is_0_of_nothing(total: int, number: int) -> None:
    [found] = rounded_mean(np.array([total]), np.array([number])).tolist()

    assert found == (0 if number == 0 else (2 * total + number) // (2 * number))
    if number:
        assert abs(found * number - total) * 2 <= number
