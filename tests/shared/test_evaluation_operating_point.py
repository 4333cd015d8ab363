"""Thresholds chosen on validation patients and measured on test patients, against trying every threshold by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn import metrics as sk

from shared.errors import PlanError
from shared.evaluation import operating_point as point
from shared.evaluation.additive import Statistics, collect
from shared.evaluation.classification import histograms, observe_exclusive, observe_multilabel
from shared.evaluation.ranking import EDGES
from shared.plan import OperatingPoint, from_document
from shared.tasks import task_for
from shared.tasks.task import Task

Cases = tuple[NDArray[Any], NDArray[Any]]
SENSITIVE, SPECIFIC = OperatingPoint(sensitivity=0.9), OperatingPoint(specificity=0.95)


def document(evaluation: dict[str, Any], *classes: str, labels: str = "exclusive") -> dict[str, Any]:
    return {
        "plan": {"name": "points", "task": "classification", "rounds": 1},
        "data": {"modality": "us", "classes": list(classes), "labels": labels},
        "preprocessing": {"size": [8, 8]},
        "model": {"name": "cnn"},
        "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
        "privacy": {"unit": "none"},
        "evaluation": evaluation,
    }


BINARY: Task = task_for(from_document(document({}, "benign", "malignant")))
FINDINGS: Task = task_for(from_document(document({}, "effusion", "nodule", labels="multilabel")))


def simulated(seed: int, number: int = 200, prevalence: float = 0.3) -> Cases:
    rng = np.random.default_rng(seed)
    positive = rng.random(number) < prevalence
    return positive, expit(2.5 * positive - 1.5 + rng.normal(size=number)).astype(np.float32)


def statistics(positive: NDArray[Any], scores: NDArray[Any]) -> Statistics:
    pairs = zip(positive.tolist(), scores.tolist(), strict=True)
    return collect(
        BINARY.schema,
        (
            (f"p{number}", observe_exclusive(np.array([1 - score, score], np.float32), int(label)))
            for number, (label, score) in enumerate(pairs)
        ),
    )


def of_findings(*cases: Cases) -> Statistics:
    labels, scores = (np.stack(of, axis=1) for of in zip(*cases, strict=True))
    return collect(
        FINDINGS.schema,
        (
            (f"p{number}", observe_multilabel(row, present.astype(int).tolist()))
            for number, (row, present) in enumerate(zip(scores, labels, strict=True))
        ),
    )


def sensitivity(positive: NDArray[Any], scores: NDArray[Any], threshold: float) -> float:
    return float((scores[positive].astype(np.float64) >= threshold).mean())


def specificity(positive: NDArray[Any], scores: NDArray[Any], threshold: float) -> float:
    return float((scores[~positive].astype(np.float64) < threshold).mean())


def chosen(cases: Cases, wanted: OperatingPoint) -> float:
    [threshold] = point.thresholds(statistics(*cases).total(), wanted)
    return float(threshold)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_largest_that_keeps_the_stated_sensitivity(seed: int) -> None:
    cases = simulated(seed)

    threshold = chosen(cases, SENSITIVE)

    assert threshold == max(edge for edge in EDGES[:-1].tolist() if sensitivity(*cases, edge) >= 0.9)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_smallest_that_keeps_the_stated_specificity(seed: int) -> None:
    cases = simulated(seed)

    threshold = chosen(cases, SPECIFIC)

    assert threshold == min(edge for edge in EDGES[:-1].tolist() if specificity(*cases, edge) >= 0.95)


def test_what_is_asked_for_is_met_on_validation_patients_and_need_not_be_on_others() -> None:
    validation = simulated(5, number=60)
    threshold = chosen(validation, SENSITIVE)

    assert sensitivity(*validation, threshold) >= 0.9
    on_others = [sensitivity(*simulated(seed), threshold) for seed in range(6, 26)]
    assert min(on_others) < 0.9 < max(on_others)


def test_the_threshold_is_that_of_pooled_patients_and_not_a_mean_over_sites() -> None:
    sites = [simulated(1, 40, 0.6), simulated(2, 300, 0.1), (simulated(3)[0], simulated(3)[1] ** 3)]
    pooled = [np.concatenate(of) for of in zip(*sites, strict=True)]

    summed = sum((statistics(*site) for site in sites[1:]), start=statistics(*sites[0]))
    [threshold] = point.thresholds(summed.total(), SENSITIVE)

    assert float(threshold) == chosen((pooled[0], pooled[1]), SENSITIVE)
    assert float(threshold) != pytest.approx(np.mean([chosen(site, SENSITIVE) for site in sites]), abs=1e-3)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, float(EDGES[5600])])
def test_metrics_at_a_threshold_are_those_of_scikit_learn(threshold: float) -> None:
    positive, scores = simulated(7)
    called = scores.astype(np.float64) >= threshold

    found = point.at(statistics(positive, scores).total(), np.array([threshold]))

    assert float(found["sensitivity"][0]) == pytest.approx(sk.recall_score(positive, called), abs=1e-12)
    assert float(found["specificity"][0]) == pytest.approx(sk.recall_score(positive, called, pos_label=0), abs=1e-12)
    assert float(found["ppv"][0]) == pytest.approx(sk.precision_score(positive, called), abs=1e-12)
    if not called.all():
        expected = sk.precision_score(positive, called, pos_label=0)
        assert float(found["npv"][0]) == pytest.approx(expected, abs=1e-12)
    else:
        assert math.isnan(found["npv"][0])


def test_a_threshold_between_two_edges_counts_as_the_lower_one() -> None:
    counts = statistics(*simulated(8)).total()

    between = point.at(counts, np.array([(EDGES[4000] + EDGES[4001]) / 2]))

    assert between == point.at(counts, EDGES[4000:4001])
    assert between != point.at(counts, EDGES[4320:4321])


@pytest.mark.parametrize("column", range(3))
def test_every_edge_has_the_metrics_that_it_has_alone(column: int) -> None:
    counts = statistics(*simulated(9)).total()
    index = (600, 4096, 8000)[column]
    positives, negatives = histograms(counts)

    table = point.at_every_edge(positives, negatives)

    alone = point.at(counts, EDGES[index : index + 1])
    for name, values in table.items():
        np.testing.assert_equal(values[0, index], alone[name][0])


@pytest.mark.parametrize(
    ("label", "wanted", "undetermined"),
    [(False, SENSITIVE, True), (True, SENSITIVE, False), (False, SPECIFIC, False), (True, SPECIFIC, True)],
)
def test_validation_patients_of_one_class_choose_only_what_concerns_that_class(
    label: bool,  # noqa: FBT001 - the class
    wanted: OperatingPoint,
    undetermined: bool,  # noqa: FBT001 - what is expected
) -> None:
    cases = np.full(30, label), simulated(10, 30)[1]

    assert math.isnan(chosen(cases, wanted)) == undetermined


def test_a_specificity_that_saturated_scores_deny_has_no_threshold() -> None:
    positive, scores = np.array([True, False, False]), np.array([1.0, 1.0, 0.1], np.float32)

    assert math.isnan(chosen((positive, scores), OperatingPoint(specificity=0.9)))
    assert chosen((positive, scores), OperatingPoint(specificity=0.5)) == EDGES[np.digitize(np.float32(0.1), EDGES)]


def test_an_undetermined_threshold_determines_no_metric() -> None:
    found = point.measured(statistics(*simulated(11)), np.array([np.nan]), [""])

    assert all(math.isnan(of.value) and math.isnan(of.low) for of in found.values())


def test_intervals_at_a_fixed_threshold_cover_the_truth_of_most_samples() -> None:
    big = simulated(12, 20_000)
    truth = sensitivity(*big, 0.5)
    found = [point.measured(statistics(*simulated(seed, 150)), np.array([0.5]), [""]) for seed in range(20, 60)]

    covered = [of["sensitivity"].low <= truth <= of["sensitivity"].high for of in found]
    shifted = [of["sensitivity"].low <= truth - 0.2 <= of["sensitivity"].high for of in found]

    # 40 draws at 95 %: 34 or more with probability .9999.
    assert sum(covered) >= 34
    assert sum(shifted) < 20


def test_findings_have_thresholds_of_their_own_and_a_mean() -> None:
    first, second = simulated(13), simulated(14, prevalence=0.5)
    both = of_findings(first, second)

    thresholds = point.thresholds(both.total(), SENSITIVE)
    found = point.measured(both, thresholds, ("effusion", "nodule"))

    assert len(set(thresholds.tolist())) == 2
    by_hand = [sensitivity(*cases, at) for cases, at in zip((first, second), thresholds.tolist(), strict=True)]
    assert found["sensitivity_effusion"].value == pytest.approx(by_hand[0], abs=1e-12)
    assert found["sensitivity_nodule"].value == pytest.approx(by_hand[1], abs=1e-12)
    assert found["sensitivity"].value == pytest.approx(np.mean(by_hand), abs=1e-12)


def test_blocks_for_results_are_plain_json_by_site_and_pooled() -> None:
    validation, sites = statistics(*simulated(15)), {"b": statistics(*simulated(16)), "a": statistics(*simulated(17))}
    chosen_there = json.loads(json.dumps(point.chosen_block(BINARY, validation, SENSITIVE)))

    block = point.measured_block(BINARY, chosen_there, sites["a"] + sites["b"], sites)

    assert block["thresholds"] == chosen_there == {"": chosen(simulated(15), SENSITIVE)}
    assert list(block["sites"]) == ["a", "b"]
    row = block["sites"]["b"]["sensitivity"]
    assert row["value"] == pytest.approx(sensitivity(*simulated(16), chosen_there[""]), abs=1e-12)
    assert row["low"] <= row["value"] <= row["high"]
    assert row["n_patients"] == 200
    assert json.loads(json.dumps(block, allow_nan=False)) == block


def test_a_block_without_a_threshold_says_null_and_not_zero() -> None:
    no_positive = statistics(np.zeros(20, bool), simulated(18, 20)[1])

    block = point.measured_block(BINARY, point.chosen_block(BINARY, no_positive, SENSITIVE), no_positive, {})

    assert block["thresholds"] == {"": None}
    assert {row["value"] for row in block["pooled"].values()} == {None}


def test_a_plan_states_a_sensitivity_or_a_specificity() -> None:
    plan = from_document(document({"operating_point": {"sensitivity": 0.9}, "recalibrate": "temperature"}, "a", "b"))

    assert plan.evaluation.operating_point == SENSITIVE
    assert plan.evaluation.recalibrate == "temperature"
    default = from_document(document({}, "a", "b")).evaluation
    assert (default.operating_point, default.recalibrate) == (None, "none")


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        ({"operating_point": {}}, "a sensitivity or a specificity"),
        ({"operating_point": {"sensitivity": 0.9, "specificity": 0.9}}, "not both"),
        ({"operating_point": {"sensitivity": 1.2}}, "sensitivity"),
        ({"operating_point": {"sensitivity": 0.0}}, "sensitivity"),
        ({"recalibrate": "isotonic"}, "recalibrate"),
    ],
)
def test_a_plan_with_another_operating_point_is_refused(evaluation: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        from_document(document(evaluation, "a", "b"))


@pytest.mark.parametrize("evaluation", [{"operating_point": {"sensitivity": 0.9}}, {"recalibrate": "temperature"}])
def test_noised_statistics_take_neither_an_operating_point_nor_recalibration(evaluation: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="exact counts"):
        from_document(document({"release": "dp", **evaluation}, "a", "b"))
