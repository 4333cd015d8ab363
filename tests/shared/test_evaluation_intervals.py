"""Intervals against Student's and Clopper & Pearson's, and their coverage where images cluster in patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from shared.evaluation import classification
from shared.evaluation.additive import (
    CASES,
    GROUPS,
    UNIT,
    Observation,
    Schema,
    Statistics,
    collect,
    group_of,
    in_units,
)
from shared.evaluation.intervals import Interval, Limits, with_intervals

Pairs = list[tuple[str, float]]

SCHEMA = Schema("mean-1", (("sum", ()),))
NO_LIMITS: Limits = {}
PROPORTION: Limits = {"mean": (0.0, 1.0), "auroc": (0.0, 1.0)}


def mean_of(counts: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    return {"mean": float(counts["sum"] * UNIT / counts[CASES]) if counts[CASES] else math.nan}


def collected(pairs: Pairs) -> Statistics:
    return collect(SCHEMA, [(patient, {"sum": np.array(in_units(value), np.int64)}) for patient, value in pairs])


def interval_of(pairs: Pairs, limits: Limits) -> Interval:
    return with_intervals(collected(pairs), mean_of, limits)["mean"]


def patients_in(groups: Iterable[int]) -> list[str]:
    """One patient for each of the groups wanted."""
    names: dict[int, str] = {}
    for number in range(2000):
        names.setdefault(group_of(f"p{number}"), f"p{number}")
    return [names[group] for group in groups]


def test_one_image_for_each_of_twenty_patients_in_twenty_groups_gives_students_interval() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, GROUPS)

    found = interval_of(list(zip(patients_in(range(GROUPS)), values, strict=True)), NO_LIMITS)

    low, high = stats.t.interval(0.95, GROUPS - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
    assert found.value == pytest.approx(values.mean(), abs=UNIT)
    assert found.n_patients == GROUPS


def test_only_groups_that_hold_patients_count_as_degrees_of_freedom() -> None:
    values = np.array([0.2, 0.5, 0.9])

    found = interval_of(list(zip(patients_in([0, 7, 19]), values, strict=True)), NO_LIMITS)

    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)


def test_a_proportion_has_the_delta_method_interval_on_the_logit() -> None:
    values = np.random.default_rng(1).uniform(0.6, 1.0, GROUPS)

    found = interval_of(list(zip(patients_in(range(GROUPS)), values, strict=True)), PROPORTION)

    mean = values.mean()
    centre, half = math.log(mean / (1 - mean)), stats.t.ppf(0.975, GROUPS - 1) * stats.sem(values) / (mean * (1 - mean))
    expected = [1 / (1 + math.exp(-(centre + sign * half))) for sign in (-1, 1)]
    assert [found.low, found.high] == pytest.approx(expected, abs=1e-5)


def test_images_of_one_patient_do_not_narrow_the_interval() -> None:
    pairs = list(zip(patients_in(range(GROUPS)), np.random.default_rng(2).uniform(size=GROUPS), strict=True))

    once, tenfold = interval_of(pairs, NO_LIMITS), interval_of(pairs * 10, NO_LIMITS)

    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high), abs=1e-6)
    assert tenfold.n_patients == once.n_patients == GROUPS


def test_one_group_of_patients_determines_no_interval() -> None:
    found = interval_of([(patients_in([3])[0], 0.4)] * 5, PROPORTION)

    assert found.value == pytest.approx(0.4, abs=UNIT)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_patient_determines_neither_value_nor_interval() -> None:
    found = interval_of([], PROPORTION)

    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert found.n_patients == 0


def test_a_metric_that_rests_on_one_group_alone_has_no_interval() -> None:
    schema, (first, second) = classification.exclusive_schema(2), patients_in([0, 1])
    sure = np.array([0.1, 0.9], np.float32)
    observed = [(first, classification.observe_exclusive(sure, 1)), (second, classification.observe_exclusive(sure, 0))]

    found = with_intervals(collect(schema, observed), lambda c: classification.exclusive_metrics(c, "ab"), {})

    assert found["sensitivity"].value == 1.0
    assert math.isnan(found["sensitivity"].low)
    assert math.isfinite(found["accuracy"].low)


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.025 ** (1 / 20), 1.0), (0.0, 0.0, 1 - 0.025 ** (1 / 20))])
def test_twenty_perfect_groups_do_not_claim_certainty(value: float, low: float, high: float) -> None:
    found = interval_of([(patient, value) for patient in patients_in(range(GROUPS))], PROPORTION)

    # Clopper & Pearson for 20 of 20 (and 0 of 20).
    exact = stats.binomtest(int(20 * value), 20).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_a_constant_inside_its_range_is_its_own_interval() -> None:
    found = interval_of([(patient, 0.5) for patient in patients_in(range(GROUPS))], PROPORTION)

    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_a_range_open_above_cuts_the_interval_below_only() -> None:
    values = [0.0] * 19 + [30.0]

    found = interval_of(list(zip(patients_in(range(GROUPS)), values, strict=True)), {"mean": (0.0, math.inf)})

    assert found.low == 0.0
    assert found.high == pytest.approx(stats.t.interval(0.95, 19, 1.5, stats.sem(values))[1], abs=1e-5)


def test_a_range_other_than_0_to_1_is_the_same_interval_stretched() -> None:
    pairs = list(zip(patients_in(range(GROUPS)), np.random.default_rng(4).uniform(size=GROUPS), strict=True))

    plain = interval_of(pairs, PROPORTION)
    stretched = interval_of([(patient, 4 * value - 1) for patient, value in pairs], {"mean": (-1.0, 3.0)})

    assert (stretched.low, stretched.high) == pytest.approx((4 * plain.low - 1, 4 * plain.high - 1), abs=1e-5)


def hospital(rng: np.random.Generator, patients: int) -> Iterator[tuple[str, float]]:
    """Dice-like values around 0.7 of patients with one to eight images that resemble each other."""
    for patient in range(patients):
        own = 0.7 + 0.12 * rng.normal()
        for value in own + 0.04 * rng.normal(size=rng.integers(1, 9)):
            yield str(patient), float(value)


def coverage(name_of: Callable[[int, str, int], str]) -> float:
    """Share of 200 simulated hospitals whose interval covers the true mean, 0.7."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng([17, seed])
        pairs = [(name_of(seed, patient, image), value) for image, (patient, value) in enumerate(hospital(rng, 30))]
        found = interval_of(pairs, PROPORTION)
        covered += found.low <= 0.7 <= found.high
    return covered / 200


def test_intervals_cover_the_truth_in_95_of_100_hospitals_where_images_cluster_in_patients() -> None:
    # Binomial: 200 draws at 0.95 stay within 0.90 .. 0.99 with probability 0.998.
    assert 0.90 <= coverage(lambda seed, patient, _: f"{seed}/{patient}") <= 0.99


def test_the_same_intervals_with_images_taken_for_patients_cover_far_too_seldom() -> None:
    assert coverage(lambda seed, patient, image: f"{seed}/{patient}/{image}") < 0.80


def ranked_hospital(rng: np.random.Generator, seed: int, patients: int = 20) -> Iterator[tuple[str, Observation]]:
    for patient in range(patients):
        sick = int(rng.random() < 0.4)
        own = 1.2 * sick + 0.9 * rng.normal()
        for logit in own + 0.5 * rng.normal(size=rng.integers(1, 9)):
            score = 1 / (1 + math.exp(-logit))
            yield f"{seed}/{patient}", classification.observe_exclusive(np.array([1 - score, score], np.float32), sick)


def test_intervals_of_auroc_cover_the_truth_at_sites_of_twenty_patients() -> None:
    truth = stats.norm.cdf(1.2 / math.sqrt(2 * (0.9**2 + 0.5**2)))
    schema, covered, symmetric = classification.exclusive_schema(2), 0, 0
    for seed in range(150):
        statistics = collect(schema, ranked_hospital(np.random.default_rng([3, seed]), seed))
        limited, free = (
            with_intervals(statistics, lambda c: classification.exclusive_metrics(c, "ab"), limits)["auroc"]
            for limits in (PROPORTION, NO_LIMITS)
        )
        covered += limited.low <= truth <= limited.high
        symmetric += free.low <= truth <= free.high

    # Binomial: 150 draws at 0.95 stay above 0.89 with probability 0.998; the symmetric interval is the control.
    assert covered / 150 > 0.89
    assert symmetric < covered
