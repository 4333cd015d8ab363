"""Estimates from noisy sums: right without noise, unbiased with it, and honest about how much is not known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from noisy_patients import BINARY, DICE, dealt, dice_of, released, scored, weights_of
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import nnls
from sklearn import metrics as sk

from shared.evaluation.additive import UNIT, IntArray
from shared.evaluation.estimates import Error, Estimate, Noised, PrivateMeasures, estimates, estimates_block
from shared.evaluation.private_segmentation import spread
from shared.privacy.noise import UnsafeSeededNoise
from shared.privacy.statistics import noised, summed_std

AUROC = float(stats.norm.cdf(1.5 / math.sqrt(2)))
"""Of ``scored``: two normal distributions 1.5 standard deviations apart."""

ACCURACY = float(stats.norm.cdf(0.75))
DICE_MEAN = 0.1 * 0.15 + 0.9 * 0.8


def classified(seed: int, patients: int) -> list[NDArray[np.float64]]:
    return weights_of(*scored(np.random.default_rng([patients, seed]), patients))


def outlined(seed: int, patients: int) -> list[NDArray[np.float64]]:
    return list(spread(dice_of(np.random.default_rng([patients, seed]), patients)))


def test_without_noise_the_estimate_is_the_metric_of_the_patients() -> None:
    labels, scores = scored(np.random.default_rng(1), 500)
    found = estimates(BINARY, released(BINARY, dealt(weights_of(labels, scores), 3), 1e-9, seed=0))

    assert found["accuracy"].value == pytest.approx(sk.accuracy_score(labels, scores > 0.5), abs=1e-3)
    assert found["auroc"].value == pytest.approx(sk.roc_auc_score(labels, scores), abs=0.01)
    assert found["auroc"].n_patients == 500
    assert found["auroc"].error.noise < 1e-6


def test_the_sampling_error_of_a_proportion_is_the_binomial_one() -> None:
    labels, scores = scored(np.random.default_rng(2), 400)
    found = estimates(BINARY, released(BINARY, dealt(weights_of(labels, scores), 1), 1e-9, seed=0))["accuracy"]

    assert found.error.sampling == pytest.approx(math.sqrt(found.value * (1 - found.value) / 400), rel=0.01)
    assert found.high - found.value == pytest.approx(1.96 * found.error.sampling, rel=1e-3)


def test_the_sampling_error_of_auroc_is_that_of_hanley_and_mcneil_s_ranks() -> None:
    labels, scores = scored(np.random.default_rng(3), 1000)
    found = estimates(BINARY, released(BINARY, dealt(weights_of(labels, scores), 1), 1e-9, seed=0))["auroc"]

    # DeLong et al., Biometrics 1988: placements of each positive among the negatives, and the reverse.
    above = (scores[labels][:, None] > scores[~labels][None]).astype(float)
    delong = math.sqrt(above.mean(1).var(ddof=1) / labels.sum() + above.mean(0).var(ddof=1) / (~labels).sum())
    assert found.error.sampling == pytest.approx(delong, rel=0.05)


def once_noised(measures: PrivateMeasures, counts: IntArray, multiplier: float, seed: int) -> Noised:
    sensitivity = measures.schema.sensitivity
    return Noised(
        measures.schema,
        noised(counts, sensitivity, multiplier, UnsafeSeededNoise(seed)),
        summed_std(sensitivity, multiplier, 1),
    )


@pytest.mark.parametrize(
    ("measures", "name", "weights"),
    [(BINARY, "auroc", classified), (BINARY, "accuracy", classified), (DICE, "dice", outlined)],
    ids=["auroc", "accuracy", "dice"],
)
def test_the_stated_noise_is_the_spread_of_estimates_over_draws_of_noise(
    measures: PrivateMeasures, name: str, weights: Callable[[int, int], list[NDArray[np.float64]]]
) -> None:
    counts = measures.schema.collect((str(number), one) for number, one in enumerate(weights(0, 1500)))
    found = [estimates(measures, once_noised(measures, counts, 3.0, seed))[name] for seed in range(60)]

    spread_of_values = np.std([one.value for one in found], ddof=1)
    stated = float(np.median([one.error.noise for one in found]))
    # 60 draws: a standard deviation is within 25 % of the true one with probability 0.993.
    assert stated == pytest.approx(spread_of_values, rel=0.27)
    assert stated != pytest.approx(2 * spread_of_values, rel=0.27)


def test_the_fit_alone_leans_towards_guessing_and_the_step_takes_that_away() -> None:
    values, fitted = [], []
    for seed in range(40):
        sums = released(BINARY, dealt(classified(seed, 300), 2), 3.0, seed)
        values.append(estimates(BINARY, sums)["auroc"].value)
        fitted.append(fit_alone(sums))

    error = np.std(values, ddof=1) / math.sqrt(40)
    assert abs(np.mean(values) - AUROC) < 3 * error
    assert AUROC - np.mean(fitted) > 3 * error


def fit_alone(sums: Noised) -> float:
    """AUROC of the non-negative cells nearest to what was released."""
    cells, _ = nnls(sums.schema.blocks[0].matrix, sums.counts * UNIT)
    return float(BINARY.metrics(cells[None])["auroc"][0])


def test_more_patients_make_estimates_narrower_and_more_noise_wider() -> None:
    few, many = (estimates(BINARY, released(BINARY, dealt(classified(0, n), 5), 2.0, 0))["auroc"] for n in (300, 1200))
    loud = estimates(BINARY, released(BINARY, dealt(classified(0, 1200), 5), 8.0, 0))["auroc"]

    assert many.high - many.low < few.high - few.low
    assert loud.error.noise > 2 * many.error.noise


def test_noise_that_drowns_the_sums_leaves_nearly_the_whole_range() -> None:
    found = estimates(BINARY, released(BINARY, dealt(classified(0, 10), 5), 10.0, 4))

    for one in found.values():
        if math.isfinite(one.value):
            assert 0.0 <= one.low <= one.value <= one.high <= 1.0
    assert found["auroc"].high - found["auroc"].low > 0.8 or math.isnan(found["auroc"].value)


def test_the_number_of_patients_is_near_the_true_one_and_not_it() -> None:
    counts = BINARY.schema.collect((str(number), one) for number, one in enumerate(classified(0, 800)))
    found = [estimates(BINARY, once_noised(BINARY, counts, 4.0, seed))["auroc"].n_patients for seed in range(20)]

    assert len(set(found)) > 5
    assert np.mean(found) == pytest.approx(800, abs=25)


def test_the_number_of_patients_is_never_below_0() -> None:
    for seed in range(10):
        found = estimates(DICE, released(DICE, {"empty": [], "also": []}, 3.0, seed))
        assert found["dice"].n_patients >= 0


def test_a_block_is_pooled_only_and_states_each_error() -> None:
    block = estimates_block(DICE, released(DICE, dealt(outlined(0, 200), 2), 1.0, 0))

    assert [block[name] for name in ("sites", "macro", "worst", "undetermined")] == [{}, {}, {}, {}]
    assert set(block["pooled"]) == {"dice"}
    row = block["pooled"]["dice"]
    assert set(row) == {"value", "low", "high", "n_patients", "error"}
    assert set(row["error"]) == {"noise", "sampling", "binning"}
    assert row["error"]["binning"] == 0.0


def test_what_is_undetermined_is_null_in_a_block() -> None:
    row = estimates_block(DICE, Noised(DICE.schema, np.zeros(3, np.int64), 1.0))["pooled"]["dice"]

    assert row["value"] is row["low"] is row["high"] is row["error"]["noise"] is None
    assert row["n_patients"] == 0


def test_the_standard_error_is_that_of_two_independent_sources() -> None:
    assert Error(0.03, 0.04).standard == pytest.approx(0.05)


def covering(
    measures: PrivateMeasures,
    weights: Callable[[int, int], list[NDArray[np.float64]]],
    truth: tuple[str, float],
    setting: tuple[int, float],
) -> tuple[float, float]:
    """Share of 300 federations whose interval covers the truth: with the noise in it, and without (the control)."""
    (name, value), (patients, multiplier) = truth, setting
    found: list[Estimate] = [
        estimates(measures, released(measures, dealt(weights(seed, patients), 5), multiplier, seed))[name]
        for seed in range(300)
    ]
    blind = [abs(one.value - value) <= 1.96 * one.error.sampling for one in found]
    return float(np.mean([one.low <= value <= one.high for one in found])), float(np.mean(blind))


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", [(300, 0.65), (300, 2.0), (600, 2.0)], ids=["300 sigma 0.65", "300 sigma 2", "600 sigma 2"]
)
@pytest.mark.parametrize("metric", ["auroc", "accuracy", "dice"])
def test_95_of_100_intervals_cover_the_truth_and_without_the_noise_in_them_far_fewer(
    metric: str, setting: tuple[int, float]
) -> None:
    measures, weights = (DICE, outlined) if metric == "dice" else (BINARY, classified)
    truth = {"auroc": AUROC, "accuracy": ACCURACY, "dice": DICE_MEAN}[metric]

    covered, blind = covering(measures, weights, (metric, truth), setting)

    # Binomial: 300 draws at 0.95 stay within 0.92 .. 0.985 with probability 0.98.
    assert 0.92 <= covered <= 0.985
    assert blind < covered
    if setting[1] == 2.0 and metric != "dice":
        assert blind < 0.85
