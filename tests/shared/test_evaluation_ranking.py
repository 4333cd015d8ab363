"""AUROC and average precision of histograms against counting pairs, scikit-learn, and their stated bounds."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from shared.evaluation.ranking import (
    BINS,
    EDGES,
    auroc,
    average_precision,
    average_precision_limits,
    histogram,
    tied_pairs,
)

Pairs = list[tuple[bool, float]]
SCORES = st.lists(
    st.tuples(st.booleans(), st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=40
).filter(lambda pairs: 0 < sum(positive for positive, _ in pairs) < len(pairs))


def split(pairs: Pairs) -> tuple[NDArray[Any], NDArray[Any]]:
    positive = np.array([is_positive for is_positive, _ in pairs])
    return positive, np.array([score for _, score in pairs], np.float32)


def counted(positive: NDArray[Any], scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    bins = histogram(scores)
    return bins[positive].sum(axis=0), bins[~positive].sum(axis=0)


def bins_of(scores: NDArray[Any]) -> NDArray[Any]:
    return histogram(scores).argmax(axis=-1)


def auroc_by_hand(positive: NDArray[Any], ranks: NDArray[Any]) -> float:
    pairs = list(itertools.product(ranks[positive].tolist(), ranks[~positive].tolist()))
    return float(sum(Fraction(int(a > b) + int(a >= b), 2) for a, b in pairs) / len(pairs))


def simulated(case: str, rng: np.random.Generator, number: int = 600) -> tuple[NDArray[Any], NDArray[Any]]:
    means, spread = {"confident": ((7, -7), 5.0), "rare": ((-4, -7), 1.5), "vague": ((0.3, -0.3), 0.4)}[case]
    positive = rng.random(number) < 0.3
    logits = np.where(positive, *means) + spread * rng.normal(size=number)
    return positive, (1 / (1 + np.exp(-logits))).astype(np.float32)


def test_edges_rise_from_0_to_1_with_one_half_among_them() -> None:
    assert EDGES.shape == (BINS + 1,)
    assert (np.diff(EDGES) > 0).all()
    assert (EDGES[0], EDGES[BINS // 2], EDGES[-1]) == (0.0, 0.5, 1.0)


def test_edges_are_the_correctly_rounded_values_of_exact_fractions() -> None:
    octaves = [Fraction(step, 16 * 2**15) for step in range(16)]
    octaves += [Fraction(16 + step, 16) / 2**-exponent for exponent in range(-15, -4) for step in range(16)]
    half = octaves + [Fraction(1, 16) + Fraction(7 * step, 5120) for step in range(320)]

    assert max(abs(Fraction(edge) - exact) for edge, exact in zip(EDGES[:512].tolist(), half, strict=True)) < 2**-54
    assert [Fraction(edge) for edge in EDGES[: len(octaves)].tolist()] == octaves
    np.testing.assert_array_equal(EDGES[BINS // 2 + 1 :], 1 - EDGES[: BINS // 2][::-1])


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0.0, 0), (1.0, BINS - 1), (0.5, BINS // 2), (np.nextafter(np.float32(0.5), 0), BINS // 2 - 1)],
)
def test_scores_on_an_edge_belong_to_the_bin_above_and_1_to_the_last(score: float, expected: int) -> None:
    assert bins_of(np.array([score], np.float32)) == expected


@given(SCORES)
@settings(max_examples=80, deadline=None)
def test_auroc_of_bins_is_the_count_of_pairs_with_half_for_ties(pairs: Pairs) -> None:
    positive, scores = split(pairs)

    assert float(auroc(*counted(positive, scores))) == auroc_by_hand(positive, bins_of(scores))


@given(SCORES)
@settings(max_examples=80, deadline=None)
def test_average_precision_of_bins_is_that_of_scikit_learn(pairs: Pairs) -> None:
    positive, scores = split(pairs)

    expected = average_precision_score(positive, bins_of(scores))

    assert float(average_precision(*counted(positive, scores))) == pytest.approx(expected, abs=1e-12)


@given(SCORES)
@settings(max_examples=80, deadline=None)
def test_unbinned_metrics_stay_within_the_stated_bounds(pairs: Pairs) -> None:
    positive, scores = split(pairs)
    histograms = counted(positive, scores)

    error = abs(auroc_by_hand(positive, scores) - float(auroc(*histograms)))
    low, high = average_precision_limits(*histograms)

    assert error <= float(tied_pairs(*histograms)) / 2 + 1e-12
    assert low - 1e-12 <= average_precision_score(positive, scores) <= high + 1e-12
    assert low <= average_precision(*histograms) <= high


def test_the_bound_of_auroc_is_reached_by_the_worst_order_in_a_bin() -> None:
    # All four scores share the bin [0.5, 0.50137); every positive is above every negative.
    scores, positive = np.array([0.5, 0.5002, 0.5004, 0.5006], np.float32), np.array([False, False, True, True])
    histograms = counted(positive, scores)

    assert roc_auc_score(positive, scores) == 1.0
    assert (float(auroc(*histograms)), float(tied_pairs(*histograms))) == (0.5, 1.0)


@pytest.mark.parametrize("case", ["confident", "rare", "vague"])
def test_binned_metrics_are_near_scikit_learn_for_networks_of_three_kinds(case: str) -> None:
    positive, scores = simulated(case, np.random.default_rng(5))
    histograms = counted(positive, scores)

    assert float(tied_pairs(*histograms)) < 0.005
    assert float(auroc(*histograms)) == pytest.approx(roc_auc_score(positive, scores), abs=5e-4)
    assert float(average_precision(*histograms)) == pytest.approx(average_precision_score(positive, scores), abs=5e-3)


@pytest.mark.parametrize("case", ["confident", "rare"])
def test_equal_bins_would_tie_ten_times_more_pairs_of_a_confident_network(case: str) -> None:
    positive, scores = simulated(case, np.random.default_rng(6))
    equal = np.minimum((scores.astype(np.float64) * BINS).astype(int), BINS - 1)
    pair_of = [np.bincount(equal[which], minlength=BINS) for which in (positive, ~positive)]

    assert float(tied_pairs(*pair_of)) > 10 * float(tied_pairs(*counted(positive, scores)))


def test_without_a_positive_or_a_negative_ranks_say_nothing() -> None:
    some, none = histogram(np.array([0.2, 0.9], np.float32)).sum(axis=0), np.zeros(BINS, np.int64)

    assert math.isnan(auroc(none, some))
    assert math.isnan(auroc(some, none))
    assert math.isnan(tied_pairs(some, none))
    assert math.isnan(average_precision(none, some))
    assert float(average_precision(some, none)) == 1.0


def test_findings_are_ranked_independently_along_leading_axes() -> None:
    rng = np.random.default_rng(1)
    positives, negatives = rng.integers(0, 3, (2, 4, BINS))

    together = auroc(positives, negatives), average_precision(positives, negatives)

    for row in range(4):
        assert together[0][row] == auroc(positives[row], negatives[row])
        assert together[1][row] == average_precision(positives[row], negatives[row])


def test_counts_of_a_million_cases_do_not_overflow() -> None:
    ends = np.zeros((2, BINS), np.int64)
    ends[0, -1] = ends[1, 0] = 10**9

    assert float(auroc(*ends)) == 1.0
