"""Paired differences from statistics alone: against Student's paired test, by coverage, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from server.report.compare import unpaired_difference
from server.report.metrics import Measure
from shared.errors import RunError
from shared.evaluation import classification
from shared.evaluation.additive import CASES, GROUPS, UNIT, Schema, Statistics, collect, group_of, in_units
from shared.evaluation.intervals import Interval, Limits, with_intervals
from shared.evaluation.paired import paired_intervals, paired_with_mean

SCHEMA = Schema("mean-1", (("sum", ()),))
NO_LIMITS: Limits = {}
PROPORTION: Limits = {"mean": (0.0, 1.0)}
DISTANCE: Limits = {"mean": (0.0, math.inf)}
ALIKE = np.tile([1.0, -1.0], GROUPS // 2)


def mean_of(counts: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    return {"mean": float(counts["sum"] * UNIT / counts[CASES]) if counts[CASES] else math.nan}


def collected(patients: Sequence[str], values: Iterable[float]) -> Statistics:
    pairs = zip(patients, values, strict=True)
    return collect(SCHEMA, [(patient, {"sum": np.array(in_units(value), np.int64)}) for patient, value in pairs])


def one_in_each_group() -> list[str]:
    names: dict[int, str] = {}
    for number in range(2000):
        names.setdefault(group_of(f"p{number}"), f"p{number}")
    return [names[group] for group in range(GROUPS)]


PATIENTS_OF_ALL_GROUPS = one_in_each_group()


def paired(first: Iterable[float], second: Iterable[float], limits: Limits = NO_LIMITS) -> Interval:
    sides = (collected(PATIENTS_OF_ALL_GROUPS, values) for values in (first, second))
    return paired_intervals(*sides, mean_of, limits)["mean"]


# --- the interval ----------------------------------------------------------------------------------------------------


def test_groups_whose_differences_vary_alike_give_the_interval_of_students_paired_test() -> None:
    first = np.random.default_rng(0).uniform(0.2, 0.8, GROUPS)
    second = first + 0.05 + 0.02 * ALIKE

    found = paired(first, second)

    expected = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-5)
    assert found.value == pytest.approx(0.05, abs=1e-5)
    assert found.n_patients == GROUPS


def test_what_makes_patients_hard_for_both_models_cancels() -> None:
    rng = np.random.default_rng(1)
    change = 0.05 + 0.02 * rng.normal(size=GROUPS)

    alike, apart = (paired(hard, hard + change) for hard in (np.full(GROUPS, 0.4), rng.uniform(0.1, 0.8, GROUPS)))

    assert (alike.low, alike.high) == pytest.approx((apart.low, apart.high), abs=1e-5)


def test_changing_sides_mirrors_the_interval() -> None:
    first, second = np.random.default_rng(2).uniform(size=(2, GROUPS))

    forth, back = paired(first, second, PROPORTION), paired(second, first, PROPORTION)

    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low))


def test_a_few_patients_who_tell_the_models_apart_leave_few_degrees_of_freedom() -> None:
    first = np.random.default_rng(3).uniform(0.2, 0.6, GROUPS)
    second = first + np.array([0.3, 0.3] + [0.0] * (GROUPS - 2))

    found = paired(first, second)

    student = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert found.high - found.low > 1.1 * (student.high - student.low)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=GROUPS, max_size=GROUPS))
@settings(max_examples=40, deadline=None)
def test_a_difference_of_proportions_stays_between_minus_1_and_1(values: list[tuple[float, float]]) -> None:
    found = paired([a for a, _ in values], [b for _, b in values], PROPORTION)

    assert -1 <= found.low <= found.value <= found.high <= 1


def test_an_interval_of_a_total_change_ends_at_the_largest_change_there_can_be() -> None:
    found = paired([0.0] * GROUPS, [1.0] * 19 + [0.9], PROPORTION)

    assert found.high == 1.0


# --- the mean of several models --------------------------------------------------------------------------------------


def against_mean(firsts: Sequence[NDArray[np.float64]], second: NDArray[np.float64]) -> Interval:
    models = [collected(PATIENTS_OF_ALL_GROUPS, values) for values in firsts]
    return paired_with_mean(models, collected(PATIENTS_OF_ALL_GROUPS, second), mean_of, NO_LIMITS)["mean"]


def test_a_model_against_the_mean_of_others_is_students_paired_test_against_each_patients_mean() -> None:
    rng = np.random.default_rng(5)
    firsts = list(rng.uniform(0.2, 0.8, (3, GROUPS)))
    second = np.mean(firsts, axis=0) + 0.05 + 0.02 * ALIKE

    found = against_mean(firsts, second)

    expected = stats.ttest_rel(second, np.mean(firsts, axis=0)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-5)
    one_by_one = [paired(first, second) for first in firsts]
    assert np.mean([one.high - one.low for one in one_by_one]) > 1.5 * (found.high - found.low), "the control"


def test_the_mean_of_one_model_is_that_model() -> None:
    first, second = np.random.default_rng(6).uniform(size=(2, GROUPS))

    assert against_mean([first], second) == paired(first, second)


def test_the_order_of_the_models_in_a_mean_changes_nothing() -> None:
    firsts = list(np.random.default_rng(7).uniform(size=(3, GROUPS)))
    second = np.random.default_rng(8).uniform(size=GROUPS)

    forth, back = against_mean(firsts, second), against_mean(firsts[::-1], second)

    assert (back.value, back.low, back.high) == pytest.approx((forth.value, forth.low, forth.high), abs=1e-12)


def test_one_model_that_was_measured_on_others_spoils_the_mean() -> None:
    sides = [collected(PATIENTS_OF_ALL_GROUPS[:count], [0.5] * count) for count in (GROUPS, GROUPS - 1, GROUPS)]

    with pytest.raises(RunError, match="1 of 20 groups hold other"):
        paired_with_mean(sides[:2], sides[2], mean_of, NO_LIMITS)


# --- no difference seen ----------------------------------------------------------------------------------------------


def test_two_models_that_nothing_tells_apart_are_not_said_to_be_equal() -> None:
    values = np.random.default_rng(4).uniform(size=GROUPS)

    found = paired(values, values, PROPORTION)

    # Wilson for none of 20: t**2 / (n + t**2).
    squared = stats.t.ppf(0.975, GROUPS - 1) ** 2
    assert found.value == 0.0
    assert (found.low, found.high) == pytest.approx((-squared / (20 + squared), squared / (20 + squared)))


def test_a_distance_that_nothing_tells_apart_has_no_interval() -> None:
    values = np.random.default_rng(5).uniform(1, 9, GROUPS)

    found = paired(values, values, DISTANCE)

    assert found.value == 0.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_the_same_change_in_every_group_is_not_said_to_be_the_change_of_everybody() -> None:
    proportions, distances = (paired([0.25] * GROUPS, [0.5] * GROUPS, limits) for limits in (PROPORTION, DISTANCE))

    squared = stats.t.ppf(0.975, GROUPS - 1) ** 2
    assert proportions.high - 0.25 == pytest.approx(squared / (20 + squared))
    assert 0.25 - proportions.low == pytest.approx(squared / (20 + squared))
    assert (distances.low, distances.value, distances.high) == (0.25, 0.25, 0.25)


# --- whole tasks -----------------------------------------------------------------------------------------------------


def decided(scores: Iterable[float], labels: Iterable[int]) -> Statistics:
    observed = [
        (patient, classification.observe_exclusive(np.array([1 - score, score], np.float32), label))
        for patient, score, label in zip(PATIENTS_OF_ALL_GROUPS, scores, labels, strict=False)
    ]
    return collect(classification.exclusive_schema(2), observed)


def classified(counts: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    return dict(classification.exclusive_metrics(counts, "ab"))


def test_every_metric_of_a_task_has_its_difference() -> None:
    rng = np.random.default_rng(6)
    labels = [0, 1] * (GROUPS // 2)
    first, second = (decided(np.clip(0.3 * np.array(labels) + rng.uniform(0, 0.7, 20), 0, 1), labels) for _ in range(2))
    limits = classification.limits(classified(first.total()))

    found = paired_intervals(first, second, classified, limits)

    one, two = (with_intervals(of, classified, limits) for of in (first, second))
    assert set(found) == set(one)
    for name in ("auroc", "accuracy", "sensitivity"):
        assert found[name].value == pytest.approx(two[name].value - one[name].value)
        assert found[name].low < found[name].value < found[name].high


def test_a_metric_that_the_patients_do_not_determine_has_no_difference() -> None:
    first, second = (decided(scores, [0] * GROUPS) for scores in ([0.2] * GROUPS, [0.7] * GROUPS))

    found = paired_intervals(first, second, classified, {})

    assert math.isnan(found["sensitivity"].value)
    assert math.isnan(found["sensitivity"].low)
    assert found["specificity"].value == -1.0


# --- refusals --------------------------------------------------------------------------------------------------------


def test_other_patients_are_refused_with_their_numbers() -> None:
    values = [0.5] * GROUPS
    first, second = (collected(names, values) for names in (PATIENTS_OF_ALL_GROUPS, [f"q{n}" for n in range(GROUPS)]))

    with pytest.raises(RunError, match=r"of 20 groups hold other patients: 20 in all on the first side, 20 on"):
        paired_intervals(first, second, mean_of, {})


def test_more_images_of_the_same_patients_are_refused() -> None:
    first = collected(PATIENTS_OF_ALL_GROUPS, [0.5] * GROUPS)
    second = collected([*PATIENTS_OF_ALL_GROUPS, PATIENTS_OF_ALL_GROUPS[3]], [0.5] * (GROUPS + 1))

    with pytest.raises(RunError, match="1 of 20 groups hold other cases: 20 in all on the first side, 21 on"):
        paired_intervals(first, second, mean_of, {})


def test_statistics_under_another_definition_are_refused() -> None:
    other = Schema("mean-2", SCHEMA.shapes)

    with pytest.raises(RunError, match="mean-1 and mean-2 cannot be paired"):
        paired_intervals(Statistics.zero(SCHEMA), Statistics.zero(other), mean_of, {})


def test_no_patient_on_both_sides_determines_nothing() -> None:
    found = paired_intervals(Statistics.zero(SCHEMA), Statistics.zero(SCHEMA), mean_of, PROPORTION)["mean"]

    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert found.n_patients == 0


# --- coverage --------------------------------------------------------------------------------------------------------


def two_models(seed: int, alike: float) -> tuple[Statistics, Statistics, Statistics, Statistics]:
    """Statistics by patient, then by image taken for one, of 60 patients; the second model is better by 0.02."""
    rng = np.random.default_rng([23, seed])
    amounts = rng.integers(1, 7, 60)
    owner = np.repeat(np.arange(60), amounts)
    hard = 0.1 * rng.normal(size=60)
    other = alike * hard + math.sqrt(1 - alike**2) * 0.1 * rng.normal(size=60)
    values = [0.7 + own[owner] + 0.03 * rng.normal(size=owner.size) for own in (hard, other)]
    values[1] += 0.02
    names = [[f"{seed}/{patient}" for patient in owner], [f"{seed}//{image}" for image in range(owner.size)]]
    one, two, three, four = (collected(of, value) for of in names for value in values)
    return one, two, three, four


def covered_and_width(alike: float) -> dict[str, tuple[float, float]]:
    """Share of 150 federations whose interval holds 0.02, and the mean width."""
    found: dict[str, list[tuple[bool, float]]] = {"paired": [], "by image": [], "unpaired": []}
    for seed in range(150):
        first, second, first_images, second_images = two_models(seed, alike)
        alone = [with_intervals(of, mean_of, PROPORTION)["mean"] for of in (first, second)]
        one, two = (Measure(of.value, of.low, of.high, of.n_patients) for of in alone)
        intervals: dict[str, Any] = {
            "paired": paired_intervals(first, second, mean_of, PROPORTION)["mean"],
            "by image": paired_intervals(first_images, second_images, mean_of, PROPORTION)["mean"],
            "unpaired": unpaired_difference(one, two),
        }
        for name, of in intervals.items():
            found[name].append((of.low <= 0.02 <= of.high, of.high - of.low))
    return {
        name: (float(np.mean([a for a, _ in of])), float(np.mean([b for _, b in of]))) for name, of in found.items()
    }


def test_paired_intervals_cover_the_truth_and_are_narrower_than_unpaired_ones() -> None:
    found = covered_and_width(0.9)

    # Binomial: 150 draws at 0.95 stay within 0.89 .. 0.995 with probability 0.998.
    assert 0.89 <= found["paired"][0] <= 0.995
    assert found["paired"][1] < 0.6 * found["unpaired"][1]
    # The controls: images taken for patients, and patients taken for different ones.
    assert found["by image"][0] < 0.85
    assert found["unpaired"][0] > 0.99


def test_nothing_is_gained_by_pairing_models_that_have_nothing_in_common() -> None:
    found = covered_and_width(0.0)

    assert found["paired"][1] == pytest.approx(found["unpaired"][1], rel=0.1)
