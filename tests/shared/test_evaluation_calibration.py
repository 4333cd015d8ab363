"""Reliability, calibration errors, logistic recalibration and temperature against raw scores and scikit-learn."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from shared.evaluation import calibration as cal
from shared.evaluation.ranking import BINS, edges_of, histogram

Cases = tuple[NDArray[Any], NDArray[Any]]
KINDS = {"confident": ((7, -7), 5.0), "rare": ((-4, -7), 1.5), "vague": ((0.3, -0.3), 0.4), "sure": ((2, -2), 2.5)}


def simulated(kind: str, seed: int, number: int = 600) -> Cases:
    means, spread = KINDS[kind]
    rng = np.random.default_rng(seed)
    positive = rng.random(number) < 0.3
    return positive, expit(np.where(positive, *means) + spread * rng.normal(size=number)).astype(np.float32)


def honest(seed: int, number: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels drawn with the probabilities themselves, and the log odds of these."""
    rng = np.random.default_rng(seed)
    log_odds = 1.5 * rng.normal(size=number) - 0.5
    return rng.random(number) < expit(log_odds), log_odds


def counted(positive: NDArray[Any], scores: NDArray[Any], bins: int = BINS) -> tuple[NDArray[Any], NDArray[Any]]:
    place = np.digitize(scores.astype(np.float32), edges_of(bins)[1:-1])
    return np.bincount(place[positive], minlength=bins), np.bincount(place[~positive], minlength=bins)


def summed(scores: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(cal.sums_of(scores).sum(axis=0))


def fit_by_scikit_learn(positive: NDArray[Any], scores: NDArray[Any]) -> tuple[float, float]:
    log_odds = logit(np.clip(scores.astype(np.float64), 2**-15, 1 - 2**-15))[:, None]
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(log_odds, positive)
    return float(fit.intercept_[0]), float(fit.coef_[0, 0])


def width_by_hand(positive: NDArray[Any], scores: NDArray[Any]) -> list[tuple[int, float, float]]:
    """(cases, mean score, observed share) of each tenth that holds a case."""
    tenth = np.minimum((scores.astype(np.float64) * 10 + 1e-12).astype(int), 9)
    return [
        (
            int((tenth == part).sum()),
            float(scores[tenth == part].mean(dtype=float)),
            float(positive[tenth == part].mean()),
        )
        for part in np.unique(tenth)
    ]


def mass_by_hand(positive: NDArray[Any], scores: NDArray[Any], bins: int) -> list[tuple[int, float, float]]:
    """The same for parts of a tenth of the cases, bin after bin, from a sorted list."""
    place = histogram(scores, bins).argmax(axis=-1)
    parts: dict[int, list[int]] = {}
    seen = 0
    for bin_ in sorted(set(place.tolist())):
        members = np.flatnonzero(place == bin_).tolist()
        parts.setdefault(min(10 * seen // len(scores), 9), []).extend(members)
        seen += len(members)
    return [(len(of), float(scores[of].mean(dtype=float)), float(positive[of].mean())) for of in parts.values()]


def error_by_hand(parts: list[tuple[int, float, float]]) -> float:
    return sum(cases * abs(score - share) for cases, score, share in parts) / sum(cases for cases, _, _ in parts)


@pytest.mark.parametrize("bins", [8192, 1024, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_tenths_of_the_score_are_exact_with_any_number_of_bins(kind: str, bins: int) -> None:
    positive, scores = simulated(kind, 1)

    curve = cal.equal_width(*counted(positive, scores, bins), summed(scores))

    held = curve.cases > 0
    found = list(zip(curve.cases[held].tolist(), curve.score[held], curve.observed[held], strict=True))
    np.testing.assert_allclose(found, width_by_hand(positive, scores), atol=1e-6)
    assert np.isnan(curve.score[~held]).all()
    assert float(cal.calibration_error(curve)) == pytest.approx(
        error_by_hand(width_by_hand(positive, scores)), abs=1e-6
    )


def test_tenths_of_the_score_are_the_uniform_curve_of_scikit_learn() -> None:
    positive, scores = simulated("sure", 2)

    curve = cal.equal_width(*counted(positive, scores), summed(scores))

    observed, score = calibration_curve(positive, scores.astype(np.float64), n_bins=10)
    np.testing.assert_allclose(curve.observed[curve.cases > 0], observed, atol=1e-12)
    np.testing.assert_allclose(curve.score[curve.cases > 0], score, atol=1e-6)


@pytest.mark.parametrize("bins", [8192, 1024, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_tenths_of_the_cases_have_exact_shares_and_scores_within_the_stated_bound(kind: str, bins: int) -> None:
    positive, scores = simulated(kind, 3)
    by_hand = mass_by_hand(positive, scores, bins)

    curve = cal.equal_mass(*counted(positive, scores, bins), summed(scores))

    held = curve.cases > 0
    assert curve.cases[held].tolist() == [cases for cases, _, _ in by_hand]
    np.testing.assert_allclose(curve.observed[held], [share for _, _, share in by_hand], atol=1e-12)
    np.testing.assert_allclose(curve.score[held], [score for _, score, _ in by_hand], atol=cal.score_bound(bins))
    error = float(cal.calibration_error(curve))
    assert error == pytest.approx(error_by_hand(by_hand), abs=cal.score_bound(bins))


def test_tenths_of_the_cases_are_of_like_size_where_scores_differ() -> None:
    curve = cal.equal_mass(*counted(*simulated("sure", 4, 1000)), summed(simulated("sure", 4, 1000)[1]))

    assert curve.cases.sum() == 1000
    assert np.abs(curve.cases - 100).max() <= 15


def test_cases_of_one_score_stay_in_one_part() -> None:
    scores = np.full(50, 0.3, np.float32)
    positive = np.arange(50) < 20

    curve = cal.equal_mass(*counted(positive, scores), summed(scores))

    assert curve.cases.tolist() == [50, *[0] * 9]
    assert float(curve.score[0]) == pytest.approx(0.3, abs=1e-6)
    assert float(cal.calibration_error(curve)) == pytest.approx(0.1, abs=1e-6)


def test_the_two_calibration_errors_are_different_numbers() -> None:
    positive, scores = simulated("sure", 5)
    both = [of(*counted(positive, scores), summed(scores)) for of in (cal.equal_width, cal.equal_mass)]

    width, mass = (float(cal.calibration_error(curve)) for curve in both)

    assert abs(width - mass) > 1e-3


@pytest.mark.parametrize("bins", [8192, 64])
def test_bounds_are_the_widest_bins(bins: int) -> None:
    edges = edges_of(bins)
    wide = max(right - left for left, right in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))

    assert cal.score_bound(bins) == pytest.approx(wide)
    assert cal.score_bound(8192) == pytest.approx(1 / 5120)
    assert cal.log_odds_bound(8192) == pytest.approx(0.0204, abs=1e-4)


@pytest.mark.parametrize("bins", [8192, 1024])
def test_the_log_odds_of_every_score_are_within_their_bound(bins: int) -> None:
    scores = np.random.default_rng(6).random(5000) ** 4
    edges = logit(np.clip(edges_of(bins), 2**-15, 1 - 2**-15))
    middle = ((edges[1:] + edges[:-1]) / 2)[histogram(scores.astype(np.float32), bins).argmax(axis=-1)]

    off = np.abs(middle - logit(np.clip(scores, 2**-15, 1 - 2**-15))).max()

    assert cal.log_odds_bound(bins) / 2 < off <= cal.log_odds_bound(bins) + 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_slope_and_intercept_are_those_of_unpenalised_logistic_regression_on_raw_scores(kind: str, seed: int) -> None:
    positive, scores = simulated(kind, 10 + seed)

    intercept, slope = cal.recalibration(*counted(positive, scores))

    expected_intercept, expected_slope = fit_by_scikit_learn(positive, scores)
    assert float(slope) == pytest.approx(expected_slope, rel=3e-3)
    assert float(intercept) == pytest.approx(expected_intercept, abs=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_on_binned_log_odds_the_fit_is_scikit_learns_to_six_digits(kind: str) -> None:
    positive, scores = simulated(kind, 20)
    edges = logit(np.clip(edges_of(BINS), 2**-15, 1 - 2**-15))
    binned = expit(((edges[1:] + edges[:-1]) / 2)[histogram(scores).argmax(axis=-1)])

    found = [float(value) for value in cal.recalibration(*counted(positive, scores))]

    assert found == pytest.approx(fit_by_scikit_learn(positive, binned), rel=1e-5, abs=1e-5)


def test_sixteen_times_coarser_bins_move_the_slope_more() -> None:
    positive, scores = simulated("rare", 21)
    expected = fit_by_scikit_learn(positive, scores)[1]

    fine, coarse = (
        abs(float(cal.recalibration(*counted(positive, scores, bins))[1]) - expected) for bins in (8192, 64)
    )

    assert fine < coarse / 4


def test_labels_drawn_from_the_scores_have_a_slope_of_1_and_overconfident_scores_do_not() -> None:
    positive, log_odds = honest(7, 20_000)

    intercept, slope = cal.recalibration(*counted(positive, expit(log_odds)))
    shifted, halved = cal.recalibration(*counted(positive, expit(2 * log_odds + 1)))

    # Four standard errors of 20,000 cases.
    assert (float(intercept), float(slope)) == pytest.approx((0, 1), abs=0.08)
    assert (float(shifted), float(halved)) == pytest.approx((-0.5, 0.5), abs=0.08)


@pytest.mark.parametrize(
    ("positive", "scores"),
    [
        ([True, True], [0.2, 0.7]),
        ([False, False], [0.2, 0.7]),
        ([False, False, True, True], [0.1, 0.4, 0.6, 0.9]),
        ([True, True, False, False], [0.1, 0.4, 0.6, 0.9]),
        ([False, True, False, True], [0.1, 0.5, 0.5, 0.9]),
        ([False, True, False], [0.5, 0.5, 0.5]),
        ([], []),
    ],
    ids=["positives only", "negatives only", "separated", "upside down", "one shared score", "constant", "no case"],
)
def test_where_no_slope_is_most_likely_there_is_none(positive: list[bool], scores: list[float]) -> None:
    found = cal.recalibration(*counted(np.array(positive, bool), np.array(scores, np.float32)))

    assert np.isnan(found).all()


def test_one_case_on_the_wrong_side_is_enough_for_a_slope() -> None:
    positive, scores = np.array([False, True, False, True]), np.array([0.1, 0.4, 0.6, 0.9], np.float32)

    found = [float(value) for value in cal.recalibration(*counted(positive, scores))]

    assert found == pytest.approx(fit_by_scikit_learn(positive, scores), abs=5e-3)


def test_findings_are_fitted_one_by_one() -> None:
    pairs = [counted(*simulated(kind, 22)) for kind in KINDS]
    positives, negatives = (np.stack(of) for of in zip(*pairs, strict=True))

    together = cal.recalibration(positives, negatives)

    assert [values.shape for values in together] == [(4,), (4,)]
    for row, pair in enumerate(pairs):
        assert (together[0][row], together[1][row]) == tuple(float(value) for value in cal.recalibration(*pair))


def test_no_case_has_no_calibration_error() -> None:
    none = np.zeros((2, BINS), np.int64)

    for curve in (of(none, none, np.zeros((2, 16), np.int64)) for of in (cal.equal_width, cal.equal_mass)):
        assert np.isnan(cal.calibration_error(curve)).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_tempered_scores_are_those_of_divided_logits(temperature: float) -> None:
    logits = 3 * np.random.default_rng(8).normal(size=(20, 4))

    exclusive = cal.tempered(softmax(logits, axis=1), temperature, "exclusive")
    findings = cal.tempered(expit(logits), temperature, "multilabel")

    np.testing.assert_allclose(exclusive, softmax(logits / temperature, axis=1), atol=1e-9)
    np.testing.assert_allclose(findings, expit(logits / temperature), atol=1e-9)


@pytest.mark.parametrize("kind", ["exclusive", "multilabel"])
def test_saturated_scores_stay_as_they_are(kind: Literal["exclusive", "multilabel"]) -> None:
    assert cal.tempered(np.array([[1.0, 0.0]]), 5.0, kind).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("kind", ["exclusive", "multilabel"])
def test_the_fitted_temperature_is_the_best_of_a_fine_grid(kind: Literal["exclusive", "multilabel"]) -> None:
    rng = np.random.default_rng(9)
    logits = rng.normal(size=(400, 3))

    def squash(values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(expit(values) if kind == "multilabel" else softmax(values, axis=1))

    chances = squash(logits)
    labels = (
        (rng.random(chances.shape) < chances).astype(int)
        if kind == "multilabel"
        else np.array([rng.choice(3, p=row) for row in chances])
    )

    found = cal.fitted_temperature(squash(2.5 * logits), labels, kind)

    grid = np.exp(np.linspace(np.log(1.5), np.log(4), 100))
    losses = [
        np.mean([log_loss(labels[:, k], tried[:, k]) for k in range(3)])
        if kind == "multilabel"
        else log_loss(labels, tried)
        for tried in (squash(2.5 * logits / temperature) for temperature in grid)
    ]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=1e-2)
    assert found == pytest.approx(2.5, rel=0.25)


def test_temperature_changes_no_decision_and_no_order() -> None:
    scores = softmax(np.random.default_rng(11).normal(size=(50, 4)), axis=1)

    hot = cal.tempered(scores, 7.0, "exclusive")

    np.testing.assert_array_equal(hot.argmax(axis=1), scores.argmax(axis=1))
    single = cal.tempered(scores, 7.0, "multilabel")
    np.testing.assert_array_equal(single[:, 0].argsort(), scores[:, 0].argsort())


def test_temperature_repairs_overconfidence_on_patients_it_was_not_fitted_on() -> None:
    positive, log_odds = honest(12, 4000)
    scores = np.stack([expit(-3 * log_odds), expit(3 * log_odds)], axis=1)
    fitted, held_out = slice(0, 2000), slice(2000, 4000)

    temperature = cal.fitted_temperature(scores[fitted], positive[fitted].astype(int), "exclusive")
    repaired = cal.tempered(scores[held_out], temperature, "exclusive")

    before, after = (
        float(cal.calibration_error(cal.equal_width(*counted(positive[held_out], of), summed(of))))
        for of in (scores[held_out, 1].astype(np.float32), repaired[:, 1].astype(np.float32))
    )
    assert after < 0.03
    assert before > 0.1


def test_without_a_case_temperature_is_1_and_with_separated_ones_it_stops_at_its_limits() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8]])

    assert cal.fitted_temperature(np.zeros((0, 2)), [], "exclusive") == 1.0
    assert cal.fitted_temperature(scores, [0, 1], "exclusive") == pytest.approx(1 / cal.HOTTEST, rel=0.2)
    assert cal.fitted_temperature(scores, [1, 0], "exclusive") == pytest.approx(cal.HOTTEST, rel=1e-3)
