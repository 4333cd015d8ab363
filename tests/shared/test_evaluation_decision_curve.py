"""Net benefit against counting cases one by one, and what must hold of any decision curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from shared.evaluation.decision_curve import DecisionCurve, decision_curve
from shared.evaluation.ranking import BINS, EDGES, histogram


def simulated(seed: int, number: int = 300) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    positive = rng.random(number) < 0.25
    return positive, expit(2 * positive - 1.5 + rng.normal(size=number)).astype(np.float32)


def curve_of(positive: NDArray[Any], scores: NDArray[Any]) -> DecisionCurve:
    bins = histogram(scores)
    return decision_curve(bins[positive].sum(axis=0), bins[~positive].sum(axis=0))


def by_hand(positive: NDArray[Any], acted: NDArray[Any], threshold: float) -> float:
    found, needless = int((acted & positive).sum()), int((acted & ~positive).sum())
    return found / len(positive) - needless / len(positive) * threshold / (1 - threshold)


@pytest.mark.parametrize("seed", range(3))
def test_net_benefit_is_that_of_acting_on_each_case_by_itself(seed: int) -> None:
    positive, scores = simulated(seed)

    curve = curve_of(positive, scores)

    expected = [by_hand(positive, scores.astype(np.float64) >= edge, edge) for edge in curve.threshold.tolist()]
    np.testing.assert_allclose(curve.model, expected, atol=1e-12)
    everybody = [by_hand(positive, np.full(len(positive), True), edge) for edge in curve.threshold.tolist()]
    np.testing.assert_allclose(curve.treat_all, everybody, atol=1e-9)


def test_thresholds_are_the_edges_between_0_and_1() -> None:
    np.testing.assert_array_equal(curve_of(*simulated(0)).threshold, EDGES[1:-1])


def test_treating_all_has_no_benefit_where_the_price_is_the_odds_of_disease() -> None:
    positive = np.arange(100) < 20

    curve = curve_of(positive, np.full(100, 0.5, np.float32))

    at_prevalence = np.flatnonzero(np.isclose(curve.threshold, 0.2))
    assert curve.treat_all[at_prevalence] == pytest.approx([0.0], abs=1e-12)
    assert (np.diff(curve.treat_all) <= 0).all()
    assert (np.diff(curve.treat_all[64:]) < 0).all()


def test_a_perfect_model_has_the_prevalence_as_benefit_at_every_threshold() -> None:
    positive = np.arange(100) < 20

    curve = curve_of(positive, np.where(positive, 1.0, 0.0).astype(np.float32))

    assert curve.model == pytest.approx(np.full(BINS - 1, 0.2))
    assert (curve.model >= curve.treat_all).all()


def test_a_model_that_says_the_opposite_does_harm_at_every_threshold() -> None:
    positive = np.arange(100) < 20

    curve = curve_of(positive, np.where(positive, 0.0, 1.0).astype(np.float32))

    assert (curve.model < 0).all()


def test_at_the_lowest_threshold_a_model_that_calls_everybody_is_treating_all() -> None:
    positive, scores = simulated(4)

    curve = curve_of(positive, np.maximum(scores, np.float32(0.3)))

    low = curve.threshold <= 0.3
    np.testing.assert_allclose(curve.model[low], curve.treat_all[low], atol=1e-12)


def test_no_case_has_no_net_benefit_and_no_positive_has_none_above_0() -> None:
    none, some = np.zeros(BINS, np.int64), histogram(np.array([0.2, 0.9], np.float32)).sum(axis=0)

    assert np.isnan(decision_curve(none, none).model).all()
    assert np.isnan(decision_curve(none, none).treat_all).all()
    assert (decision_curve(none, some).model <= 0).all()


def test_findings_have_curves_of_their_own() -> None:
    positives, negatives = np.random.default_rng(5).integers(0, 3, (2, 3, 64))

    together = decision_curve(positives, negatives)

    assert together.model.shape == together.treat_all.shape == (3, 63)
    for row in range(3):
        np.testing.assert_array_equal(together.model[row], decision_curve(positives[row], negatives[row]).model)
