"""Metrics of decisions and ranks against scikit-learn, and what a site without one class can say."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics as sk

from shared.errors import CaseError
from shared.evaluation import classification as counted
from shared.evaluation.additive import GROUPS, Observation, Schema, Statistics, collect
from shared.evaluation.order import CELL_BITS
from shared.evaluation.ranking import unpack
from shared.evaluation.subgroups import Layout

BINARY = ("benign", "malignant")
THREE = ("normal", "benign", "malignant")
FINDINGS = ("effusion", "nodule", "fracture")


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def exclusive_cases(classes: int, number: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, number)
    return labels, softmax(1.5 * np.eye(classes)[labels] + rng.normal(size=(number, classes)))


def finding_cases(number: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((number, 3)) < [0.5, 0.3, 0.1]).astype(int)
    return labels, (1 / (1 + np.exp(-(2 * labels - 1 + rng.normal(size=labels.shape))))).astype(np.float32)


def exclusive_counts(labels: ArrayLike, scores: ArrayLike, classes: tuple[str, ...]) -> Statistics:
    cases = zip(np.asarray(scores), np.asarray(labels).tolist(), strict=True)
    observed = ((f"p{i}", counted.observe_exclusive(*case)) for i, case in enumerate(cases))
    return collect(counted.exclusive_schema(len(classes)), observed)


def exclusive(labels: ArrayLike, scores: ArrayLike, classes: tuple[str, ...]) -> dict[str, float]:
    return counted.exclusive_metrics(exclusive_counts(labels, scores, classes).total(), classes)


def multilabel_counts(labels: ArrayLike, scores: ArrayLike) -> Statistics:
    cases = zip(np.asarray(scores), np.asarray(labels).tolist(), strict=True)
    observed = ((f"p{i}", counted.observe_multilabel(*case)) for i, case in enumerate(cases))
    return collect(counted.multilabel_schema(len(FINDINGS)), observed)


def multilabel(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    return counted.multilabel_metrics(multilabel_counts(labels, scores).total(), FINDINGS)


def within(bounds: dict[str, float], name: str) -> float:
    """How far a metric may be from that of the scores: its bound, and the last digits of arithmetic."""
    assert bounds.get(name, 0.0) <= 1e-3
    return bounds.get(name, 0.0) + 1e-12


def losses_by_scikit_learn(truth: NDArray[Any], scores: NDArray[Any]) -> dict[str, float]:
    return {"brier": sk.brier_score_loss(truth, scores), "log_loss": sk.log_loss(truth, scores, labels=[0, 1])}


def of_calibration(found: dict[str, float]) -> dict[str, float]:
    """The rest, which test_evaluation_calibration.py holds against its own oracles."""
    return {name: value for name, value in found.items() if name.startswith(("ece", "calibration"))}


def one_class_by_scikit_learn(truth: NDArray[Any], called: NDArray[Any], ranks: NDArray[Any]) -> dict[str, float]:
    return {
        "sensitivity": sk.recall_score(truth, called),
        "specificity": sk.recall_score(truth, called, pos_label=0),
        "precision": sk.precision_score(truth, called),
        "f1": sk.f1_score(truth, called),
        "auroc": sk.roc_auc_score(truth, ranks),
        "average_precision": sk.average_precision_score(truth, ranks),
    }


@pytest.mark.parametrize("seed", range(4))
def test_binary_metrics_are_those_of_scikit_learn(seed: int) -> None:
    labels, scores = exclusive_cases(2, 120, seed)
    called = scores.argmax(axis=1)

    found = exclusive(labels, scores, BINARY)

    expected = one_class_by_scikit_learn(labels, called, scores[:, 1])
    expected |= {
        "accuracy": sk.accuracy_score(labels, called),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, called),
    }
    losses = losses_by_scikit_learn(labels, scores[:, 1])
    bounds = counted.exclusive_bounds(exclusive_counts(labels, scores, BINARY).total(), BINARY)
    assert found.keys() == (expected | losses | of_calibration(found)).keys()
    assert {name: found[name] for name in losses} == pytest.approx(losses, abs=1e-6)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=within(bounds, name))


@pytest.mark.parametrize("seed", range(3))
def test_multi_class_metrics_are_one_against_the_rest_and_their_plain_mean(seed: int) -> None:
    labels, scores = exclusive_cases(3, 150, seed)
    called = scores.argmax(axis=1)

    found = exclusive(labels, scores, THREE)

    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, called))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, called))
    single = [one_class_by_scikit_learn(labels == index, called == index, scores[:, index]) for index in range(3)]
    bounds = counted.exclusive_bounds(exclusive_counts(labels, scores, THREE).total(), THREE)
    for name in single[0]:
        assert found[name] == pytest.approx(np.mean([of[name] for of in single]), abs=within(bounds, name))
        for label, of in zip(THREE, single, strict=True):
            assert found[f"{name}_{label}"] == pytest.approx(of[name], abs=within(bounds, f"{name}_{label}"))


def test_macro_metrics_of_many_classes_are_scikit_learns_macro_averages() -> None:
    labels, scores = exclusive_cases(3, 150, 9)
    called = scores.argmax(axis=1)

    found = exclusive(labels, scores, THREE)

    assert found["f1"] == pytest.approx(sk.f1_score(labels, called, average="macro"))
    assert found["precision"] == pytest.approx(sk.precision_score(labels, called, average="macro"))
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(labels, scores, multi_class="ovr"), abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_multi_label_metrics_are_those_of_each_finding_on_its_own(seed: int) -> None:
    labels, scores = finding_cases(200, seed)
    called = scores >= 0.5

    found = multilabel(labels, scores)

    assert found["accuracy"] == pytest.approx(1 - sk.hamming_loss(labels, called))
    single = [one_class_by_scikit_learn(labels[:, i], called[:, i], scores[:, i]) for i in range(3)]
    bounds = counted.multilabel_bounds(multilabel_counts(labels, scores).total(), FINDINGS)
    balanced = [sk.balanced_accuracy_score(labels[:, i], called[:, i]) for i in range(3)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(balanced))
    for name in single[0]:
        assert found[name] == pytest.approx(np.mean([of[name] for of in single]), abs=within(bounds, name))
        for label, of in zip(FINDINGS, single, strict=True):
            assert found[f"{name}_{label}"] == pytest.approx(of[name], abs=within(bounds, f"{name}_{label}"))


def test_a_site_of_negatives_only_has_a_specificity_and_nothing_else_to_say_about_positives() -> None:
    found = exclusive([0, 0, 0], np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], np.float32), BINARY)

    assert (found["accuracy"], found["specificity"]) == (1.0, 1.0)
    undetermined = {"balanced_accuracy", "sensitivity", "precision", "f1", "auroc", "average_precision"}
    undetermined |= {"calibration_slope", "calibration_intercept"}
    assert {name for name, value in found.items() if math.isnan(value)} == undetermined


def test_a_false_alarm_among_negatives_is_a_precision_of_0() -> None:
    found = exclusive([0, 0], np.array([[0.9, 0.1], [0.2, 0.8]], np.float32), BINARY)

    assert (found["precision"], found["f1"], found["specificity"]) == (0.0, 0.0, 0.5)


def test_a_site_of_positives_only_has_a_sensitivity_and_no_auroc() -> None:
    found = exclusive([1, 1], np.array([[0.9, 0.1], [0.2, 0.8]], np.float32), BINARY)

    assert (found["sensitivity"], found["precision"], found["average_precision"]) == (0.5, 1.0, 1.0)
    assert math.isnan(found["specificity"])
    assert math.isnan(found["auroc"])


def test_calling_nothing_positive_where_there_are_positives_is_a_precision_of_0_as_in_scikit_learn() -> None:
    labels, scores = [0, 1, 1], np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sk.precision_score(labels, [0, 0, 0])

    assert exclusive(labels, scores, BINARY)["precision"] == expected == 0.0


def test_no_case_determines_no_metric() -> None:
    for found in (exclusive([], [], BINARY), exclusive([], [], THREE), multilabel([], [])):
        assert all(math.isnan(value) for value in found.values())


def test_a_class_that_does_not_occur_is_left_out_of_the_macro_means() -> None:
    labels, scores = exclusive_cases(2, 60, 3)
    without = np.column_stack([scores, np.full(60, 1e-6, np.float32)])

    found = exclusive(labels, without, THREE)

    assert math.isnan(found["auroc_malignant"])
    assert math.isnan(found["sensitivity_malignant"])
    assert found["auroc"] == pytest.approx((found["auroc_normal"] + found["auroc_benign"]) / 2)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, without.argmax(axis=1)))


def test_equal_scores_give_the_first_class_and_an_auroc_of_one_half() -> None:
    found = exclusive([0, 1], np.full((2, 2), 0.5, np.float32), BINARY)

    assert (found["specificity"], found["sensitivity"], found["auroc"]) == (1.0, 0.0, 0.5)


def test_a_finding_scored_at_exactly_the_threshold_is_called() -> None:
    found = multilabel([(1, 0, 0)], np.array([[0.5, 0.49, 0.5]], np.float32))

    assert (found["sensitivity_effusion"], found["specificity_nodule"], found["specificity_fracture"]) == (1, 1, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.1])
def test_a_score_that_is_no_probability_is_refused_with_the_case(bad: float) -> None:
    scores = np.array([0.5, bad, 0.1], np.float32)

    with pytest.raises(CaseError, match="one of 3 scores") as exclusive_refused:
        counted.observe_exclusive(scores, 1)
    with pytest.raises(CaseError, match="one of 3 scores") as findings_refused:
        counted.observe_multilabel(scores, (0, 1, 0))

    assert exclusive_refused.value.code == findings_refused.value.code == "score-not-finite"


def test_a_case_counts_once_in_every_array() -> None:
    exclusive_case = counted.observe_exclusive(np.array([0.2, 0.5, 0.3], np.float32), 2)
    finding_case = counted.observe_multilabel(np.array([0.2, 0.5, 0.9], np.float32), (1, 0, 1))

    assert exclusive_case["confusion"].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    for case, own, rest in ((exclusive_case, [0, 0, 1], [1, 1, 0]), (finding_case, [1, 0, 1], [0, 1, 0])):
        positives, negatives = unpack(case["scores"])
        assert (positives.sum(axis=1).tolist(), negatives.sum(axis=1).tolist()) == (own, rest)
        assert [of.tolist() for of in unpack(case["cells"][:, 1], CELL_BITS)] == [own, rest]
    assert finding_case["confusion"].sum(axis=(1, 2)).tolist() == [1, 1, 1]


def test_losses_of_a_case_are_its_own_rounded_once_to_the_grid() -> None:
    case = counted.observe_multilabel(np.array([0.25, 0.7, 0.0], np.float32), (1, 0, 1))

    exact = float(np.float32(0.7))
    assert case["squared_errors"].tolist() == [round(0.5625 * 2**20), round(exact**2 * 2**20), 2**20]
    assert case["log_losses"].tolist() == [
        round(math.log(4) * 2**20),
        round(-math.log1p(-exact) * 2**20),
        round(23 * math.log(2) * 2**20),
    ]


def test_a_certain_and_wrong_score_costs_what_scikit_learn_charges_for_it() -> None:
    labels, scores = [0, 1, 1], np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], np.float32)

    assert exclusive(labels, scores, BINARY)["log_loss"] == pytest.approx(sk.log_loss(labels, scores), abs=1e-6)


@pytest.mark.parametrize("classes", range(2, 15))
def test_statistics_of_a_site_take_at_most_200_kilobytes(classes: int) -> None:
    assert counted.exclusive_schema(classes).length * 8 <= 200_000
    assert counted.multilabel_schema(classes).length * 8 <= 200_000


def test_statistics_of_more_classes_than_promised_take_more() -> None:
    assert counted.exclusive_schema(2).length * 8 == 112_384
    assert counted.multilabel_schema(21).length * 8 <= 200_000 < counted.multilabel_schema(22).length * 8
    assert counted.exclusive_schema(15).length * 8 > 200_000


def test_fourteen_levels_of_subgroups_fit_beside_two_classes_and_a_fifteenth_does_not() -> None:
    schema = counted.exclusive_schema(2)

    def length(levels: int) -> int:
        columns = (("vendor", tuple(f"v{level}" for level in range(levels))),)
        return Layout(schema, columns=columns, coarser=counted.coarser(schema)).schema.length * 8

    assert length(14) <= 200_000 < length(15)
    assert length(2) - length(1) == 6_176


def test_a_level_has_all_metrics_of_its_cases_and_the_bounds_of_its_bins() -> None:
    labels, scores = exclusive_cases(2, 300, 5)
    coarser = counted.coarser(counted.exclusive_schema(2))
    cases = zip(scores, labels.tolist(), strict=True)
    level = collect(
        coarser.schema, ((f"p{i}", coarser.of(counted.observe_exclusive(*of))) for i, of in enumerate(cases))
    )

    found, bounds = counted.exclusive_metrics(level.total(), BINARY), counted.exclusive_bounds(level.total(), BINARY)

    whole = exclusive(labels, scores, BINARY)
    assert found.keys() == whole.keys()
    assert {name for name in found if found[name] != whole[name]} <= {
        "auroc",
        "average_precision",
        "ece_equal_mass",
        "calibration_slope",
        "calibration_intercept",
    }
    assert abs(found["auroc"] - sk.roc_auc_score(labels, scores[:, 1])) <= bounds["auroc"] < 5e-3
    assert (
        abs(found["average_precision"] - sk.average_precision_score(labels, scores[:, 1]))
        <= bounds["average_precision"]
    )


def test_what_leaving_a_group_out_changes_is_counted_coarsely_and_to_the_same_cases() -> None:
    labels, scores = exclusive_cases(2, 200, 6)
    statistics = exclusive_counts(labels, scores, BINARY)
    fine, coarse = counted.histograms(statistics.total()), counted.histograms(statistics.grouped_total())

    for one, other in zip(fine, coarse, strict=True):
        assert one.shape[-1] == 8192
        np.testing.assert_array_equal(one.reshape(1, 64, -1).sum(axis=-1), other)
    assert not {"cells", "patches"} & statistics.without_group(3).keys()
    assert sum(int(statistics.of_group(group)["cases"]) for group in range(GROUPS)) == 200


def test_findings_are_those_that_metrics_are_named_after() -> None:
    assert counted.finding_names(exclusive([], [], BINARY)) == ("",)
    assert counted.finding_names(exclusive([], [], THREE)) == THREE
    assert counted.finding_names(multilabel([], [])) == FINDINGS


def test_less_is_better_for_losses_and_calibration_errors_alone() -> None:
    better = counted.lower_is_better(exclusive([], [], THREE))

    assert {"brier", "log_loss", "ece_equal_width", "ece_equal_mass", "brier_benign"} <= better
    assert not better & {"auroc", "accuracy", "calibration_slope", "calibration_intercept", "specificity_normal"}


@pytest.mark.parametrize(
    ("schema", "observation"),
    [
        (counted.exclusive_schema(2), counted.observe_exclusive(np.array([0.4, 0.6], np.float32), 0)),
        (counted.exclusive_schema(5), counted.observe_exclusive(np.full(5, 0.2, np.float32), 4)),
        (counted.multilabel_schema(2), counted.observe_multilabel(np.array([0.4, 0.6], np.float32), (1, 1))),
    ],
)
def test_what_is_observed_has_the_shapes_that_the_schema_announces(schema: Schema, observation: Observation) -> None:
    findings = dict(schema.shapes)["scores"][0]
    rows = {"cells": (findings, 2), "patches": (2 * findings, 2)}
    assert {name: values.shape for name, values in observation.items()} == dict(schema.shapes) | rows
    assert all(values.dtype == np.int64 for values in observation.values())


def test_every_metric_has_the_range_of_a_proportion_but_for_log_loss_and_recalibration() -> None:
    found = exclusive(*exclusive_cases(3, 50, 2), THREE)
    unbounded = {name for name in found if name.startswith(("log_loss", "calibration"))}

    ranges = counted.limits(found)

    assert ranges | dict.fromkeys(unbounded) == dict.fromkeys(found, (0.0, 1.0)) | dict.fromkeys(unbounded)
    assert ranges["log_loss_benign"] == (0.0, math.inf)
    assert ranges["calibration_slope"] == ranges["calibration_intercept_normal"] == (-math.inf, math.inf)
    assert all(lowest <= found[name] <= highest for name, (lowest, highest) in ranges.items())
