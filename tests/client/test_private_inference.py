"""What a site lets out of an evaluation with noise: bounded by patient, silent about bad cases, never without noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_federation import tiny_cases, tiny_plan

from client.training.private_inference import Protection, private_statistics, weights
from client.workbench import Workbench
from shared.errors import CaseError, PlanError
from shared.evaluation.additive import UNIT, IntArray
from shared.evaluation.estimates import Noised, estimates
from shared.preprocessing.image import Case
from shared.privacy.noise import SecureNoise, UnsafeSeededNoise
from shared.privacy.statistics import summed_std
from shared.tasks.task import private_measures

PLAN = tiny_plan()
BENCH = Workbench.for_plan(PLAN)
BENCH.load(BENCH.initial_weights())
MEASURES = private_measures(BENCH.task)
CPU = torch.device("cpu")
CASES = tiny_cases("aachen", 12, "test")


class NoNoise:
    """Takes the noise away, so that a test can see what is under it."""

    def normal(self, size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.zeros(size)

    def coins(self, count: int, rate: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        raise NotImplementedError


def under_the_noise(cases: list[Case]) -> IntArray:
    return private_statistics(BENCH.model, cases, BENCH.task, PLAN, CPU, Protection(1.0, NoNoise()))


def squared_norm(counts: IntArray) -> Fraction:
    return Fraction(sum(int(value) ** 2 for value in counts)) * Fraction(UNIT) ** 2


def within(counts: IntArray) -> bool:
    return squared_norm(counts) <= Fraction(MEASURES.schema.sensitivity) ** 2


PIXELS = st.sampled_from([0.0, 1.0, -1e30, 1e38, float("nan"), float("inf")])
LABELS = st.one_of(st.none(), st.integers(-1, 3))


@st.composite
def patients(draw: st.DrawFn) -> list[Case]:
    """One patient with up to six images, of which any may be broken or mislabelled."""
    return [
        Case(f"c{number}", "new", np.full((1, 8, 8), draw(PIXELS), np.float32), None, draw(LABELS), (1.0, 1.0))
        for number in range(draw(st.integers(1, 6)))
    ]


@given(patients())
def test_a_patient_with_any_images_and_labels_moves_the_sum_by_at_most_the_sensitivity(new: list[Case]) -> None:
    assert within(under_the_noise([*CASES, *new]) - under_the_noise(CASES))


def test_with_images_taken_for_patients_the_same_check_fails() -> None:
    images = [replace(CASES[1], case_id=f"c{number}") for number in range(8)]

    assert within(under_the_noise([replace(one, patient="new") for one in images]))
    assert not within(under_the_noise([replace(one, patient=one.case_id) for one in images]))


def test_removing_any_patient_changes_nothing_but_that_patient_s_part() -> None:
    whole = under_the_noise(CASES)
    for patient in {case.patient for case in CASES}:
        others = [case for case in CASES if case.patient != patient]
        alone = [case for case in CASES if case.patient == patient]
        assert (whole - under_the_noise(others)).tolist() == under_the_noise(alone).tolist()


def test_the_order_of_cases_does_not_change_a_bit() -> None:
    assert under_the_noise(CASES[::-1]).tolist() == under_the_noise(CASES).tolist()


def test_a_case_that_cannot_be_measured_counts_as_if_it_were_not_there() -> None:
    unlabelled = replace(CASES[0], label=None, patient="other")
    broken = replace(CASES[0], voxels=np.full((1, 8, 8), np.nan, np.float32), patient="third")

    assert under_the_noise([*CASES, unlabelled, broken]).tolist() == under_the_noise(CASES).tolist()


class Unreadable(list[Case]):
    """Cases of which the second cannot be read."""

    def __getitem__(self, position: int) -> Case:  # type: ignore[override]
        if position == 1:
            raise CaseError("the case is damaged", hint="ingest it again", code="damaged")
        return super().__getitem__(position)


def test_a_case_that_cannot_be_read_is_no_refusal_either() -> None:
    without = [case for number, case in enumerate(CASES) if number != 1]

    assert under_the_noise(Unreadable(CASES)).tolist() == under_the_noise(without).tolist()


def test_what_comes_back_holds_noise_even_where_there_is_nobody() -> None:
    found = private_statistics(BENCH.model, [], BENCH.task, PLAN, CPU, Protection(2.0, SecureNoise()))

    assert found.shape == (MEASURES.schema.length,)
    assert np.count_nonzero(found) == len(found)
    assert (found * UNIT).std() == pytest.approx(2.0, rel=0.5)


def test_two_evaluations_of_the_same_cases_differ() -> None:
    protection = Protection(1.0, SecureNoise())
    first, second = (private_statistics(BENCH.model, CASES, BENCH.task, PLAN, CPU, protection) for _ in range(2))

    assert first.tolist() != second.tolist()


def test_every_case_that_can_be_measured_is_seen_once_in_order() -> None:
    seen: Iterator[str] = (patient for patient, _ in weights(BENCH.model, CASES, BENCH.task, PLAN, CPU))

    assert list(seen) == [case.patient for case in CASES]


def test_a_task_without_bounded_statistics_is_refused_before_any_case_is_read() -> None:
    bare = replace(BENCH.task, private=None)

    with pytest.raises(PlanError, match="the task classification has none") as refused:
        private_statistics(BENCH.model, Unreadable(CASES), bare, PLAN, CPU, Protection(1.0, SecureNoise()))
    assert 'release = "sum"' in refused.value.hint


def test_estimates_of_the_sum_are_near_the_truth_once_there_are_patients_enough() -> None:
    many = [replace(case, patient=f"{case.patient}-{copy}") for copy in range(60) for case in CASES]
    counts = private_statistics(BENCH.model, many, BENCH.task, PLAN, CPU, Protection(1.0, UnsafeSeededNoise(3)))
    sums = Noised(MEASURES.schema, counts, summed_std(MEASURES.schema.sensitivity, 1.0, 1))

    found = estimates(MEASURES, sums)["accuracy"]

    decided = under_the_noise(CASES)
    exact = estimates(MEASURES, Noised(MEASURES.schema, decided, 0.0))["accuracy"]
    assert abs(found.value - exact.value) < 4 * found.error.noise
    assert found.n_patients == pytest.approx(60 * len({case.patient for case in CASES}), abs=30)
