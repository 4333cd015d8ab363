"""Where a score falls, and metrics of cells against scikit-learn's of the scores, within the stated bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from noisy_patients import BINARY, TWO, scored, weights_of
from numpy.typing import NDArray
from sklearn import metrics as sk

from shared.errors import CaseError
from shared.evaluation import private_classification as private
from shared.evaluation.additive import Statistics
from shared.evaluation.classification import exclusive_metrics, exclusive_schema, observe_exclusive
from shared.evaluation.private_classification import BINS, EDGES

THREE = ("normal", "benign", "malignant")


def summed(weights: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.sum(weights, axis=0)[None]


def place(score: float, label: int) -> int:
    """The cell of an image with one score of two classes."""
    [cell] = np.flatnonzero(private.observe_exclusive(np.array([1 - score, score], np.float32), label))
    return int(cell)


def test_edges_rise_and_have_one_half_in_the_middle() -> None:
    assert len(EDGES) == BINS - 1
    assert (np.diff(EDGES) > 0).all()
    assert EDGES[BINS // 2 - 1] == 0.5
    assert EDGES + EDGES[::-1] == pytest.approx(np.ones(BINS - 1))


@pytest.mark.parametrize(("score", "label", "cell"), [(0.0, 1, 0), (1.0, 1, 31), (0.0, 0, 32), (1.0, 0, 63)])
def test_positives_come_before_negatives_and_bins_rise_with_the_score(score: float, label: int, cell: int) -> None:
    assert place(score, label) == cell


def test_a_score_of_exactly_one_half_falls_on_the_side_where_it_is_decided() -> None:
    half = np.array([0.5, 0.5], np.float32)
    exact = observe_exclusive(half, 1)["confusion"]
    assert exact[1, 0] == 1, "two equal scores: the first class"
    assert place(0.5, 1) == BINS // 2 - 1

    [cell] = np.flatnonzero(private.observe_multilabel(half[:1], [1]))
    assert cell == BINS // 2, "a finding is called at 0.5"


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1, math.inf])
def test_a_score_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(CaseError) as refused:
        private.observe_exclusive(np.array([0.5, bad], np.float32), 0)
    assert refused.value.code == "score-not-finite"


def test_an_image_weighs_1_in_every_block() -> None:
    three = private.observe_exclusive(np.array([0.2, 0.3, 0.5], np.float32), 1)
    schema = private.schema("exclusive", 3)

    assert [part.sum() for part in schema.by_cell(three)] == [1.0, 1.0, 1.0, 1.0]
    assert schema.sensitivity == 2.0
    assert private.schema("exclusive", 2).sensitivity == 1.0
    assert private.schema("multilabel", 5).sensitivity == math.sqrt(5)


def test_decisions_about_one_half_are_exact() -> None:
    labels, scores = scored(np.random.default_rng(0), 400)
    found = BINARY.metrics(summed(weights_of(labels, scores)))
    called = scores > 0.5

    assert found["accuracy"][0] == pytest.approx(sk.accuracy_score(labels, called))
    assert found["balanced_accuracy"][0] == pytest.approx(sk.balanced_accuracy_score(labels, called))
    assert found["sensitivity"][0] == pytest.approx(sk.recall_score(labels, called))
    assert found["specificity"][0] == pytest.approx(sk.recall_score(~labels, ~called))
    assert found["precision"][0] == pytest.approx(sk.precision_score(labels, called))
    assert found["f1"][0] == pytest.approx(sk.f1_score(labels, called))
    assert found["patients"][0] == pytest.approx(400)


@pytest.mark.parametrize("seed", range(8))
def test_metrics_of_ranks_are_within_the_stated_bound_of_those_of_the_scores(seed: int) -> None:
    labels, scores = scored(np.random.default_rng(seed), 300, apart=0.3 * seed)
    cells = summed(weights_of(labels, scores))
    found, bound = BINARY.metrics(cells), BINARY.binning(cells[0])

    assert abs(found["auroc"][0] - sk.roc_auc_score(labels, scores)) <= bound["auroc"]
    assert bound["auroc"] < 0.04
    # scikit-learn counts a positive itself when it is admitted; spread evenly over a bin, half of it: 1/2 of a patient.
    slack = 0.02
    assert abs(found["average_precision"][0] - sk.average_precision_score(labels, scores)) <= (
        bound["average_precision"] + slack
    )


def test_scores_in_one_bin_are_worth_one_half_and_say_so() -> None:
    cells = summed([private.observe_exclusive(np.array([0.9, 0.1], np.float32), label) for label in (0, 0, 1)])

    assert BINARY.metrics(cells)["auroc"][0] == 0.5
    assert BINARY.binning(cells[0])["auroc"] == 0.5
    # Precision runs from 1/3 of everything; in the best order it is 1.
    assert BINARY.metrics(cells)["average_precision"][0] == pytest.approx(1 / 3)
    assert BINARY.binning(cells[0])["average_precision"] == pytest.approx(2 / 3)


def test_average_precision_is_the_integral_of_precision_over_recall() -> None:
    rng = np.random.default_rng(4)
    positives, negatives = rng.integers(0, 9, BINS).astype(float), rng.integers(0, 9, BINS).astype(float)
    fine = (np.arange(20_000) + 0.5) / 20_000
    total = hits = false = 0.0
    for p, n in zip(positives[::-1], negatives[::-1], strict=True):
        if p:
            total += float(np.mean(p * (hits + fine * p) / (hits + false + fine * (p + n))))
        hits, false = hits + p, false + n

    assert private.average_precision(positives[None], negatives[None])[0] == pytest.approx(total / hits, abs=1e-4)


def test_perfect_ranking_is_1_and_the_reverse_0() -> None:
    right = summed([private.observe_exclusive(np.array([1 - s, s], np.float32), int(s > 0.5)) for s in (0.01, 0.99)])
    wrong = summed([private.observe_exclusive(np.array([1 - s, s], np.float32), int(s < 0.5)) for s in (0.01, 0.99)])

    assert BINARY.metrics(right)["auroc"][0] == 1.0
    assert BINARY.metrics(right)["average_precision"][0] == pytest.approx(1.0)
    assert BINARY.metrics(wrong)["auroc"][0] == 0.0


def test_what_the_cells_do_not_determine_is_undetermined() -> None:
    healthy = summed([private.observe_exclusive(np.array([0.8, 0.2], np.float32), 0)])
    found = {name: float(values[0]) for name, values in BINARY.metrics(healthy).items()}

    assert {name for name, value in found.items() if math.isnan(value)} == {
        *("sensitivity", "precision", "f1", "auroc", "average_precision", "balanced_accuracy")
    }
    assert found["accuracy"] == found["specificity"] == 1.0


def test_three_classes_have_the_accuracy_of_their_decisions_and_ranks_class_by_class() -> None:
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 500)
    logits = rng.normal(size=(500, 3)) + 1.5 * np.eye(3)[labels]
    scores = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    cells = summed([private.observe_exclusive(one, int(label)) for one, label in zip(scores, labels, strict=True)])

    found = {name: float(values[0]) for name, values in private.exclusive_metrics(cells, THREE).items()}

    assert found["patients"] == 500
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, scores.argmax(axis=1)))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, scores.argmax(axis=1)))
    single = [sk.roc_auc_score(labels == c, scores[:, c]) for c in range(3)]
    assert [found[f"auroc_{name}"] for name in THREE] == pytest.approx(single, abs=0.02)
    assert found["auroc"] == pytest.approx(np.mean(single), abs=0.02)
    assert private.binning(cells[0], "exclusive", THREE)["auroc_benign"] < 0.02


def test_findings_that_occur_together_are_measured_each_and_on_average() -> None:
    rng = np.random.default_rng(8)
    labels = rng.random((400, 2)) < [0.2, 0.5]
    scores = (1 / (1 + np.exp(-(rng.normal(size=(400, 2)) + 2 * labels - 1)))).astype(np.float32)
    cells = summed([private.observe_multilabel(s, y.astype(int).tolist()) for s, y in zip(scores, labels, strict=True)])

    found = {name: float(values[0]) for name, values in private.multilabel_metrics(cells, TWO).items()}

    assert found["patients"] == 400
    assert found["accuracy"] == pytest.approx(np.mean(labels == (scores >= 0.5)))
    for column, name in enumerate(TWO):
        truth, called = labels[:, column], scores[:, column] >= 0.5
        assert found[f"sensitivity_{name}"] == pytest.approx(sk.recall_score(truth, called))
        assert found[f"precision_{name}"] == pytest.approx(sk.precision_score(truth, called))
        assert found[f"auroc_{name}"] == pytest.approx(sk.roc_auc_score(truth, scores[:, column]), abs=0.03)
    assert found["f1"] == pytest.approx((found["f1_benign"] + found["f1_malignant"]) / 2)


def test_noised_statistics_name_the_same_metrics_for_two_classes_but_none_of_calibration() -> None:
    exact = set(exclusive_metrics(Statistics.zero(exclusive_schema(2)).total(), TWO))
    kept = {name for name in exact if not name.startswith(("brier", "log_loss", "ece", "calibration"))}
    assert set(BINARY.metrics(np.ones((1, 64)))) - {"patients"} == kept < exact
