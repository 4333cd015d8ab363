"""Paired differences: metrics as in scikit-learn, intervals as in theory, and the patient as the unit."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from server.report.paired import Difference, estimator, paired_difference

Rows = list[dict[str, str]]


def dice_rows(values: Sequence[float], images: int = 1, sites: int = 2) -> Rows:
    """One row a value; consecutive ``images`` rows are one patient, patients alternate between sites."""
    found = []
    for place, value in enumerate(values):
        patient = place // images
        cell = "" if math.isnan(value) else repr(float(value))
        found.append({"site": f"s{patient % sites}", "patient": f"p{patient}", "case": f"c{place}", "dice": cell})
    return found


def score_rows(labels: Sequence[int], scores: Sequence[float]) -> Rows:
    """One patient a row, at one site."""
    return [
        {"site": "s", "patient": f"p{place}", "case": "c", "label": str(label), "score": repr(float(score))}
        for place, (label, score) in enumerate(zip(labels, scores, strict=True))
    ]


def value_of(metric: str, rows: Rows, weights: Sequence[float] | None = None) -> float:
    found = estimator(metric, rows)
    assert found is not None
    return found(np.ones(len(rows)) if weights is None else np.asarray(weights, float))


def difference(metric: str, first: Rows, second: Rows, draws: int = 2000) -> Difference:
    found = paired_difference(metric, first, second, draws)
    assert isinstance(found, Difference), found
    return found


# --- metrics of rows


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=40))
def test_auroc_with_ties_and_weights_is_scikit_learns(cases: list[tuple[int, int, int]]) -> None:
    labels, scores, weights = (np.array(column, float) for column in zip(*cases, strict=True))
    found = value_of("auroc", score_rows(labels.astype(int).tolist(), (scores / 7).tolist()), weights.tolist())
    if weights[labels == 1].sum() * weights[labels == 0].sum() == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))


def test_auroc_of_more_classes_is_the_mean_over_one_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 3, 60), rng.dirichlet([1, 1, 1], 60)
    rows = [
        {"site": "s", "patient": str(i), "case": "c", "label": str(label)}
        | {f"score_{name}": repr(float(value)) for name, value in zip("abc", row, strict=True)}
        for i, (label, row) in enumerate(zip(labels, scores, strict=True))
    ]
    expected = np.mean([roc_auc_score(labels == k, scores[:, k]) for k in range(3)])
    assert value_of("auroc", rows) == pytest.approx(expected)


def test_auroc_of_findings_is_the_mean_over_those_that_occur() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, (50, 3)), rng.random((50, 3))
    labels[:, 2] = 0
    rows = [
        {"site": "s", "patient": str(i), "case": "c"}
        | {f"label_{name}": str(labels[i, k]) for k, name in enumerate("abc")}
        | {f"score_{name}": repr(float(scores[i, k])) for k, name in enumerate("abc")}
        for i in range(50)
    ]
    expected = np.mean([roc_auc_score(labels[:, k], scores[:, k]) for k in range(2)])
    assert value_of("auroc", rows) == pytest.approx(expected)


def test_dice_is_the_weighted_mean_of_the_cases_that_determine_it() -> None:
    assert value_of("dice", dice_rows([0.5, math.nan, 0.9])) == pytest.approx(0.7)
    assert value_of("dice", dice_rows([0.5, math.nan, 0.9]), [3, 9, 1]) == pytest.approx((3 * 0.5 + 0.9) / 4)
    assert math.isnan(value_of("dice", dice_rows([math.nan])))


def test_dice_of_several_structures_is_the_mean_over_structures_and_not_over_cases() -> None:
    base = {"site": "s", "case": "c"}
    rows = [
        base | {"patient": "1", "dice": "0.8", "dice_disc": "0.9", "dice_cup": "0.7"},
        base | {"patient": "2", "dice": "0.5", "dice_disc": "0.5", "dice_cup": ""},
    ]
    assert value_of("dice", rows) == pytest.approx(((0.9 + 0.5) / 2 + 0.7) / 2)


@pytest.mark.parametrize("metric", ["hd95", "accuracy", "auroc"])
def test_a_metric_that_rows_do_not_hold_has_no_estimate(metric: str) -> None:
    rows = dice_rows([0.5, 0.6, 0.7])
    assert estimator(metric, rows) is None
    assert paired_difference(metric, rows, rows) == f"{metric} does not follow from predictions"


# --- the interval


def test_a_model_does_not_differ_from_itself() -> None:
    rows = dice_rows(np.random.default_rng(0).random(30).tolist())
    found = difference("dice", rows, rows, draws=200)
    assert (found.value, found.low, found.high, found.n_patients) == (0, 0, 0, 30)


def test_a_constant_gain_is_certain_however_much_patients_differ() -> None:
    values = np.random.default_rng(0).uniform(0, 0.5, 40)
    found = difference("dice", dice_rows(values.tolist()), dice_rows((values + 0.25).tolist()), draws=200)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_same_predictions_give_the_same_interval_in_whatever_order_rows_stand() -> None:
    rng = np.random.default_rng(2)
    one, two = dice_rows(rng.random(24).tolist(), 2), dice_rows(rng.random(24).tolist(), 2)
    assert paired_difference("dice", one, two) == paired_difference("dice", one[::-1], two[5:] + two[:5])


def test_swapping_the_runs_swaps_the_sign() -> None:
    rng = np.random.default_rng(3)
    one, two = dice_rows(rng.random(30).tolist()), dice_rows(rng.random(30).tolist())
    there, back = difference("dice", one, two), difference("dice", two, one)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))


def stratified_half_width(differences: np.ndarray, sites: int) -> float:
    """Normal theory: 1.96 standard errors of a mean of patients drawn within sites (divisor n, as in a bootstrap)."""
    groups = [differences[place::sites] for place in range(sites)]
    return 1.96 * math.sqrt(sum(len(group) * group.var() for group in groups)) / len(differences)


@pytest.mark.parametrize("sites", [1, 3])
def test_the_interval_of_a_mean_is_that_of_normal_theory(sites: int) -> None:
    rng = np.random.default_rng(4)
    before = rng.normal(0.6, 0.1, 240)
    change = rng.normal(0.02, 0.05, 240) + 0.1 * (np.arange(240) % sites)
    found = difference("dice", dice_rows(before.tolist(), 1, sites), dice_rows((before + change).tolist(), 1, sites))
    expected = stratified_half_width(change, sites)
    assert found.value == pytest.approx(change.mean())
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.06)
    assert found.value - found.low == pytest.approx(expected, rel=0.1)


def test_sites_are_fixed_so_differences_between_them_do_not_widen_the_interval() -> None:
    change = np.tile([0.0, 0.2], 60) + np.random.default_rng(5).normal(0, 0.01, 120)
    before = np.full(120, 0.5)
    found = difference("dice", dice_rows(before.tolist()), dice_rows((before + change).tolist()))
    pooled = 1.96 * change.std() / math.sqrt(120)
    assert (found.high - found.low) / 2 < 0.2 * pooled


def test_images_of_one_patient_do_not_count_as_independent() -> None:
    rng = np.random.default_rng(6)
    change = np.repeat(rng.normal(0.0, 0.05, 60), 8)
    before, after = [0.5] * 480, (0.5 + change).tolist()
    by_patient = difference("dice", dice_rows(before, 8, 1), dice_rows(after, 8, 1))
    by_image = difference("dice", dice_rows(before, 1, 1), dice_rows(after, 1, 1))
    assert by_patient.n_patients == 60
    widths = [found.high - found.low for found in (by_patient, by_image)]
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(8), rel=0.12)


def test_pairing_removes_what_makes_patients_easy_or_hard() -> None:
    rng = np.random.default_rng(7)
    level = rng.normal(0.6, 0.15, 100)
    one, two = (level + rng.normal(0, 0.01, 100)).tolist(), (level + rng.normal(0.01, 0.01, 100)).tolist()
    paired = difference("dice", dice_rows(one), dice_rows(two))
    shuffled = difference("dice", dice_rows(one), dice_rows(rng.permutation(two).tolist()))
    assert paired.low > 0
    assert shuffled.high - shuffled.low > 5 * (paired.high - paired.low)


def covered(simulations: int, truth: float, images: int) -> float:
    """Share of intervals that hold ``truth`` where the change of a patient has mean 0.03; images repeat the patient."""
    hits = 0
    for seed in range(simulations):
        rng = np.random.default_rng(seed)
        change = np.repeat(rng.normal(0.03, 0.06, 50), images)
        rows = dice_rows([0.5] * len(change), images), dice_rows((0.5 + change).tolist(), images)
        found = difference("dice", *rows, draws=200)
        hits += found.low <= truth <= found.high
    return hits / simulations


@pytest.mark.slow
def test_the_interval_covers_the_truth_95_times_in_100_and_rejects_a_wrong_one() -> None:
    # Binomial standard error of 300 simulations: 1.3 %. A percentile bootstrap of 25 patients a site is a little short.
    assert 0.90 <= covered(300, 0.03, images=2) <= 0.98
    assert covered(300, 0.0, images=2) < 0.2


# --- not paired


def test_without_predictions_nothing_is_paired() -> None:
    assert paired_difference("dice", [], dice_rows([0.5])) == "not both runs have predictions"
    assert paired_difference("dice", dice_rows([0.5]), []) == "not both runs have predictions"


def test_other_cases_are_not_paired() -> None:
    assert (
        paired_difference("dice", dice_rows([0.5, 0.6]), dice_rows([0.5])) == "the runs were tested on different cases"
    )


def test_another_truth_for_the_same_case_is_not_paired() -> None:
    one, two = score_rows([0, 1, 1], [0.1, 0.2, 0.3]), score_rows([0, 1, 0], [0.1, 0.2, 0.3])
    assert paired_difference("auroc", one, two) == "the runs do not agree on the truth of a case"


def test_one_patient_says_nothing_about_spread() -> None:
    rows = dice_rows([0.5, 0.6], images=2)
    assert paired_difference("dice", rows, rows) == "the patients in common do not determine an interval"


def test_one_class_only_determines_no_interval() -> None:
    rows = score_rows([1, 1, 1], [0.1, 0.2, 0.3])
    assert paired_difference("auroc", rows, rows) == "the patients in common do not determine an interval"


def test_draws_of_one_class_are_left_out_and_the_others_bound_the_interval() -> None:
    labels = [0] * 9 + [1]
    one = score_rows(labels, np.linspace(0, 1, 10).tolist())
    two = score_rows(labels, np.linspace(1, 0, 10).tolist())
    found = difference("auroc", one, two)
    assert (found.value, found.low, found.high) == (-1, -1, -1)
