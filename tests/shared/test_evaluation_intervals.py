"""Intervals against Student's and Wilson's, their coverage where images cluster, and the study of it."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats

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
from shared.evaluation.intervals import Interval, Limits, Replicates, bounds, replicates, with_intervals
from shared.evaluation.order import CELL_BITS
from shared.evaluation.ranking import auroc, pack

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

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


def one_in_each(values: Iterable[float], groups: Iterable[int] = range(GROUPS)) -> Pairs:
    """One patient with one image in each of these groups."""
    return list(zip(patients_in(groups), values, strict=True))


def half_of(values: NDArray[np.float64]) -> float:
    """Half the interval of a mean of one value a group, from the values; Johnson & Rust's degrees of freedom."""
    groups, apart = len(values), values - values.mean()
    freedom = min(groups - 1, (3.16 - 2.77 / math.sqrt(groups)) * (apart**2).sum() ** 2 / (apart**4).sum())
    return float(stats.t.ppf(0.975, max(freedom, 1)) * stats.sem(values))


def where_as_far(estimate: float, half: float, scale: Callable[[float], float]) -> tuple[float, float]:
    """Both p at which (p - estimate)**2 is half**2 times ``scale(p)``: the variance there over that at the estimate."""

    def beyond(p: float) -> float:
        return (p - estimate) ** 2 - half**2 * scale(p)

    above = 1 - 1e-12 if scale(1.0) == 0 else 1e4
    return float(optimize.brentq(beyond, 1e-12, estimate)), float(optimize.brentq(beyond, estimate, above))


def test_twenty_groups_that_vary_alike_give_students_interval() -> None:
    values = 0.5 + 0.1 * np.tile([1.0, -1.0], GROUPS // 2)

    found = interval_of(one_in_each(values), NO_LIMITS)

    low, high = stats.t.interval(0.95, GROUPS - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
    assert found.value == pytest.approx(values.mean(), abs=UNIT)
    assert found.n_patients == GROUPS


def test_degrees_of_freedom_are_fewer_where_few_groups_carry_the_variance() -> None:
    values = np.array([0.5] * 18 + [0.9, 0.1])

    found = interval_of(one_in_each(values), NO_LIMITS)

    student = stats.t.interval(0.95, GROUPS - 1, values.mean(), stats.sem(values))
    assert (found.high - found.low) / 2 == pytest.approx(half_of(values), abs=1e-5)
    assert found.high - found.low > 1.1 * (student[1] - student[0])


@pytest.mark.parametrize("groups", [[0, 7, 19], [3, 4], list(range(11))], ids=["3", "2", "11"])
def test_only_groups_that_hold_patients_count_as_degrees_of_freedom(groups: list[int]) -> None:
    values = np.random.default_rng(len(groups)).normal(0.5, 0.1, len(groups))

    found = interval_of(one_in_each(values, groups), NO_LIMITS)

    half = half_of(values)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=1e-5)


def test_a_proportion_has_wilsons_interval_with_as_many_trials_as_its_variance_tells() -> None:
    values = np.random.default_rng(1).uniform(0.6, 1.0, GROUPS)

    found = interval_of(one_in_each(values), PROPORTION)

    mean = values.mean()
    expected = where_as_far(mean, half_of(values), lambda p: p * (1 - p) / (mean * (1 - mean)))
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-5)


def test_a_distance_has_an_interval_above_zero_that_reaches_further_up_than_down() -> None:
    values = np.array([0.0] * 19 + [30.0])

    found = interval_of(one_in_each(values), {"mean": (0.0, math.inf)})

    expected = where_as_far(1.5, half_of(values), lambda p: p / 1.5)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-4)
    assert 0 < found.low < found.value < found.high
    assert found.high - found.value > 2 * (found.value - found.low)


def test_a_distance_that_never_showed_has_no_interval() -> None:
    found = interval_of(one_in_each([0.0] * GROUPS), {"mean": (0.0, math.inf)})

    assert found.value == 0.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


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


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_twenty_perfect_groups_do_not_claim_certainty(value: float) -> None:
    found = interval_of(one_in_each([value] * GROUPS), PROPORTION)

    # Wilson for 20 of 20 is n / (n + z**2); z becomes Student's quantile.
    reach = 1 - 20 / (20 + stats.t.ppf(0.975, 19) ** 2)
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == pytest.approx((1 - reach, 1.0) if value else (0.0, reach))
    # Wider than the exact binomial interval, not by much.
    exact = stats.binomtest(int(20 * value), 20).proportion_ci(0.95, method="exact")
    assert 0 < (found.high - found.low) - (exact.high - exact.low) < 0.02


def decisions(sick: int, found: int, healthy: int) -> Statistics:
    """One patient in each group, the sick ones first; the healthy ones decided rightly."""
    names, observe = patients_in(range(GROUPS)), classification.observe_exclusive
    scores = [0.9] * found + [0.1] * (sick - found) + [0.2] * healthy
    observed = [
        (name, observe(np.array([1 - score, score], np.float32), int(place < sick)))
        for place, (name, score) in enumerate(zip(names, scores, strict=False))
    ]
    return collect(classification.exclusive_schema(2), observed)


def two_class_metrics(counts: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    return classification.exclusive_metrics(counts, "ab")


def test_three_positives_all_found_are_three_trials_and_not_twenty() -> None:
    found = with_intervals(
        decisions(3, 3, 17), two_class_metrics, dict.fromkeys(("sensitivity", "specificity"), (0, 1))
    )

    assert found["sensitivity"].value == 1.0
    assert found["sensitivity"].low == pytest.approx(3 / (3 + stats.t.ppf(0.975, 2) ** 2))
    assert found["specificity"].low == pytest.approx(17 / (17 + stats.t.ppf(0.975, 16) ** 2))


def test_groups_without_a_positive_do_not_narrow_the_interval_of_sensitivity() -> None:
    few, none = (
        with_intervals(decisions(6, 4, healthy), two_class_metrics, {"sensitivity": (0.0, 1.0)})["sensitivity"]
        for healthy in (14, 0)
    )

    assert few.value == none.value == pytest.approx(4 / 6)
    assert (few.low, few.high) == pytest.approx((none.low, none.high))


@pytest.mark.parametrize("value", [0.5, 0.1])
def test_a_constant_inside_its_range_does_not_claim_certainty_either(value: float) -> None:
    found = interval_of(one_in_each([value] * GROUPS), PROPORTION)

    # Wilson's bounds solve (p - v)**2 = (t**2 / 20) p (1 - p).
    half = stats.t.ppf(0.975, 19) * math.sqrt(value * (1 - value) / 20)
    expected = where_as_far(value, half, lambda p: p * (1 - p) / (value * (1 - value)))
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-5)


def test_a_constant_without_an_upper_limit_is_its_own_interval() -> None:
    found = interval_of(one_in_each([4.0] * GROUPS), {"mean": (0.0, math.inf)})

    assert (found.low, found.value, found.high) == (4.0, 4.0, 4.0)


def test_a_range_other_than_0_to_1_is_the_same_interval_stretched() -> None:
    pairs = list(zip(patients_in(range(GROUPS)), np.random.default_rng(4).uniform(size=GROUPS), strict=True))

    plain = interval_of(pairs, PROPORTION)
    stretched = interval_of([(patient, 4 * value - 1) for patient, value in pairs], {"mean": (-1.0, 3.0)})

    assert (stretched.low, stretched.high) == pytest.approx((4 * plain.low - 1, 4 * plain.high - 1), abs=1e-5)


def test_many_sets_at_once_have_the_bounds_of_each_alone() -> None:
    rng = np.random.default_rng(8)
    sets = [replicates(decisions(8, int(hits), 12), two_class_metrics)["sensitivity"] for hits in (0, 3, 5, 8)]
    noisy = Replicates(np.array(0.7), 0.7 + 0.01 * rng.normal(size=GROUPS), np.ones(GROUPS, np.bool_))
    unknown = Replicates(np.array(math.nan), np.full(GROUPS, math.nan), np.zeros(GROUPS, np.bool_))
    sets += [noisy, unknown]
    stacked = Replicates(*(np.stack([getattr(of, part) for of in sets]) for part in Replicates.__slots__))

    for limits in ((0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)):
        together, apart = bounds(stacked, limits), [bounds(of, limits) for of in sets]
        np.testing.assert_array_equal(np.stack(together), np.transpose(apart))


@given(
    values=st.lists(st.floats(0, 1), min_size=2, max_size=GROUPS),
    limits=st.sampled_from([(0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)]),
)
@settings(max_examples=60, deadline=None)
def test_a_value_lies_in_its_interval_and_the_interval_in_the_range(
    values: list[float], limits: tuple[float, float]
) -> None:
    found = interval_of(one_in_each(values, range(len(values))), {"mean": limits})

    assert math.isnan(found.low) or limits[0] <= found.low <= found.value <= found.high <= limits[1]
    assert math.isnan(found.low) == math.isnan(found.high)


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


def auroc_alone(counts: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    return {"auroc": float(auroc(*classification.histograms(counts))[0])}


def test_intervals_of_auroc_cover_the_truth_at_sites_of_twenty_patients() -> None:
    truth = stats.norm.cdf(1.2 / math.sqrt(2 * (0.9**2 + 0.5**2)))
    schema, covered, symmetric = classification.exclusive_schema(2), 0, 0
    for seed in range(150):
        statistics = collect(schema, ranked_hospital(np.random.default_rng([3, seed]), seed))
        found = replicates(statistics, auroc_alone)["auroc"]
        limited, free = (bounds(found, limits) for limits in (PROPORTION["auroc"], (-math.inf, math.inf)))
        covered += bool(limited[0] <= truth <= limited[1])
        symmetric += bool(free[0] <= truth <= free[1])

    # Binomial: 150 draws at 0.95 stay above 0.89 with probability 0.998; the symmetric interval is the control.
    assert covered / 150 > 0.89
    assert symmetric < covered


# --- benchmarks/coverage.py -----------------------------------------------------------------------------------------


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script; loaded by path, because a well-known package has its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("coverage_study", BENCHMARKS / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "coverage_study", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TRUTH", 150_000)
    return module


def setting(study: ModuleType, name: str) -> Any:
    (found,) = (of for of in study.SETTINGS if of.name == name)
    return found


def test_the_study_measures_the_intervals_that_runs_report(study: ModuleType) -> None:
    drawn, _ = study.draw(setting(study, "10 % positive of 60"), 6, np.random.default_rng(3))
    schema, found = classification.exclusive_schema(2), study.replicates_of(drawn)
    names = {"AUROC": "auroc", "AP": "average_precision", "accuracy": "accuracy", "sensitivity": "sensitivity"}

    for place in range(6):
        counts = {name: of[place] for name, of in drawn.items()}
        hits, right = counts["hits"].astype(np.int64), counts["right"].astype(np.int64)
        sick, healthy = counts["positives"].sum(axis=-1), counts["negatives"].sum(axis=-1)
        confusion = np.stack([right - hits, healthy - right + hits, sick - hits, hits], axis=-1).reshape(-1, 2, 2)
        kept = {"patients": counts["cases"], "cases": counts["cases"], "confusion": confusion}
        # Sums of a patch that fit no scores tell nothing of their order, which the study does not draw.
        scores = {
            classification.SCORES: pack(counts["positives"], counts["negatives"])[:, None],
            classification.CELLS: pack(counts["fine positives"], counts["fine negatives"], CELL_BITS),
            classification.PATCHES: np.broadcast_to(np.array([1, 3, 1, 3]), (1, 1024, 4)),
        }
        statistics = Statistics(schema, {**Statistics.zero(schema).counts, **kept, **scores})
        reported = with_intervals(statistics, two_class_metrics, dict.fromkeys(names.values(), (0.0, 1.0)))
        for name, metric in names.items():
            low, high = (side[place] for side in bounds(found[name], (0.0, 1.0)))
            expected = reported[metric]
            np.testing.assert_allclose([low, high], [expected.low, expected.high], rtol=1e-9)


def test_the_study_sees_good_coverage_and_the_want_of_it(study: ModuleType) -> None:
    names = ("1 to 8 images a patient", "*control: images taken for patients*")
    good, bad = (study.study(setting(study, name), 120, 5) for name in names)

    def covered(found: Any, kind: str) -> float:
        return float(np.mean([of.covers.mean() for of in found[kind].values()]))

    # Mean over eight metrics of 120 federations each: their standard error is at most 0.02, here about 0.01.
    assert 0.92 < covered(good, "single") < 0.98
    assert 0.92 < covered(good, "paired") < 0.98
    assert covered(bad, "single") < 0.85
    for name, of in good["paired"].items():
        assert np.median(of.width / good["unpaired"][name].width) < 0.9


def test_a_cell_outside_93_to_97_in_either_set_is_bold(study: ModuleType) -> None:
    def found(share: float) -> Any:
        return study.Found(
            np.repeat([1.0, 0.0, np.nan], [round(1000 * share), round(1000 * (1 - share)), 7]), np.ones(1)
        )

    assert study.cell([found(0.95), found(0.94)]) == "95.0 / 94.0"
    assert study.cell([found(0.95), found(0.92)]) == "**95.0 / 92.0**"
    assert study.cell([found(0.98), found(0.95)]) == "**98.0 / 95.0**"
