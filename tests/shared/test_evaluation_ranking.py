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
    FEWEST,
    auroc,
    average_precision,
    average_precision_limits,
    bin_of,
    bins_for,
    edges_of,
    from_the_top,
    histogram,
    pack,
    tied_pairs,
    unpack,
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


def together(positive: NDArray[Any], scores: NDArray[Any]) -> list[NDArray[Any]]:
    """As ``counted``, for more cases than have room as rows of bins."""
    return [np.bincount(bin_of(scores[which]), minlength=BINS) for which in (positive, ~positive)]


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
    parts = [(exponent, 2) for exponent in range(-48, -18)] + [(exponent, 24) for exponent in range(-18, -14)]
    parts += [(exponent, 96) for exponent in range(-14, -9)] + [(exponent, 240) for exponent in range(-9, -4)]
    half = [Fraction(0), Fraction(1, 2**149), Fraction(1, 2**100), Fraction(1, 2**75)]
    half += [(1 + Fraction(step, of)) / 2**-exponent for exponent, of in parts for step in range(of)]
    half += [Fraction(1, 16) + Fraction(3 * step, 16640) for step in range(208)]
    half += [Fraction(1, 10) + Fraction(step, 5120) for step in range(2048)]

    assert len(half) == BINS // 2
    assert max(abs(Fraction(edge) - exact) for edge, exact in zip(EDGES.tolist(), half, strict=False)) < 2**-54
    np.testing.assert_array_equal(EDGES[BINS // 2 + 1 : -64], 1 - EDGES[64 : BINS // 2][::-1])


def test_next_to_one_every_float32_has_a_bin_of_its_own() -> None:
    last = 1 - np.arange(62, -1, -1).astype(np.float32) * np.float32(2**-24)

    assert np.unique(last).size == 63
    np.testing.assert_array_equal(bins_of(last), np.arange(BINS - 63, BINS))


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

    histograms = counted(positive, scores)
    tied = average_precision(*histograms, loose=np.zeros(BINS, np.bool_))
    assert float(tied) == pytest.approx(expected, abs=1e-12)


@given(SCORES)
@settings(max_examples=80, deadline=None)
def test_unbinned_metrics_stay_within_the_stated_bounds(pairs: Pairs) -> None:
    positive, scores = split(pairs)
    histograms = counted(positive, scores)

    error = abs(auroc_by_hand(positive, scores) - float(auroc(*histograms)))
    low, high = average_precision_limits(*histograms)

    assert error <= float(tied_pairs(*histograms)) / 2 + 1e-12
    assert low - 1e-12 <= average_precision_score(positive, scores) <= high + 1e-12
    assert float(average_precision(*histograms)) == (low + high) / 2


def test_the_bound_of_auroc_is_reached_by_the_worst_order_in_a_bin() -> None:
    # All four scores share the bin [0.5, 0.500195); every positive is above every negative.
    scores, positive = np.array([0.5, 0.50004, 0.5001, 0.50014], np.float32), np.array([False, False, True, True])
    histograms = counted(positive, scores)

    assert roc_auc_score(positive, scores) == 1.0
    assert (float(auroc(*histograms)), float(tied_pairs(*histograms))) == (0.5, 1.0)


def test_the_limits_of_average_precision_are_the_best_and_the_worst_of_all_orders_in_a_bin() -> None:
    # Above the bin one positive and one negative; inside it two positives and two negatives, in every weak order.
    found = []
    for inside in itertools.product(range(4), repeat=4):
        ranks = np.array([6, 5, *inside])
        found.append(average_precision_score([0, 1, 1, 1, 0, 0], ranks))
    positives, negatives = np.array([2, 1, 0]), np.array([2, 0, 1])

    low, high = average_precision_limits(positives, negatives, np.array([True, False, False]))

    assert (float(low), float(high)) == pytest.approx((min(found), max(found)), abs=1e-12)


def test_positives_that_are_apart_cannot_share_the_best_score() -> None:
    found = [
        average_precision_score([0, 1, 1, 0], np.array([9, *inside]))
        for inside in itertools.product(range(3), repeat=3)
        if inside[0] != inside[1]
    ]
    positives, negatives, here = np.array([2, 0]), np.array([1, 1]), np.array([True, False])

    low, high = average_precision_limits(positives, negatives, here, apart=here)

    assert (float(low), float(high)) == pytest.approx((min(found), max(found)), abs=1e-12)
    assert float(average_precision_limits(positives, negatives, here)[1]) > max(found)


@pytest.mark.parametrize("case", ["confident", "rare", "vague"])
def test_binned_metrics_are_near_scikit_learn_for_networks_of_three_kinds(case: str) -> None:
    positive, scores = simulated(case, np.random.default_rng(5))
    histograms = counted(positive, scores)

    assert float(tied_pairs(*histograms)) < 0.005
    assert float(auroc(*histograms)) == pytest.approx(roc_auc_score(positive, scores), abs=5e-4)
    assert float(average_precision(*histograms)) == pytest.approx(average_precision_score(positive, scores), abs=5e-3)


@pytest.mark.parametrize(("case", "times"), [("confident", 10), ("rare", 2)])
def test_equal_bins_would_tie_many_more_pairs(case: str, times: int) -> None:
    positive, scores = simulated(case, np.random.default_rng(6), 20_000)
    equal = np.minimum((scores.astype(np.float64) * BINS).astype(int), BINS - 1)
    pair_of = [np.bincount(equal[which], minlength=BINS) for which in (positive, ~positive)]

    assert float(tied_pairs(*pair_of)) > times * float(tied_pairs(*together(positive, scores)))


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


@pytest.mark.parametrize("bins", [8192, 2048, 256, 64, 16])
def test_every_tenth_is_an_edge_of_every_number_of_bins(bins: int) -> None:
    edges = edges_of(bins)

    assert len(edges) == bins + 1
    assert {tenth / 10 for tenth in range(11)} <= set(edges.tolist())


@pytest.mark.parametrize("bins", [512, 128, 64])
def test_fewer_bins_are_neighbours_put_together(bins: int) -> None:
    scores = np.random.default_rng(2).random(300).astype(np.float32) ** 3

    fine, coarse = histogram(scores).sum(axis=0), histogram(scores, bins).sum(axis=0)

    np.testing.assert_array_equal(coarse, fine.reshape(bins, -1).sum(axis=1))


@pytest.mark.parametrize(
    ("findings", "bins"),
    [(1, 8192), (2, 4096), (3, 2048), (4, 2048), (5, 1024), (9, 512), (16, 512), (17, 256), (40, 256)],
)
def test_bins_are_halved_as_findings_double_but_never_below_the_fewest(findings: int, bins: int) -> None:
    assert bins_for(findings) == bins >= FEWEST


@given(st.lists(st.tuples(st.integers(0, 2**25 - 1), st.integers(0, 2**25 - 1)), min_size=2, max_size=2))
@settings(max_examples=60, deadline=None)
def test_packed_counts_are_added_without_running_into_each_other(pairs: list[tuple[int, int]]) -> None:
    counts = np.array(pairs, np.int64)

    positives, negatives = unpack(np.sum([pack(*pair) for pair in counts], axis=0))

    assert (positives, negatives) == tuple(counts.sum(axis=0))


def test_a_packed_count_beyond_its_bits_would_spill_into_the_other() -> None:
    # The control for the promise of 67 million: one more and a negative reads as a positive.
    assert unpack(pack(np.array(0), np.array(2**26 - 1))) == (0, 2**26 - 1)
    assert unpack(pack(np.array(0), np.array(2**26))) == (1, 0)


def test_the_largest_packed_count_of_a_site_is_one_that_a_sum_over_sites_takes() -> None:
    assert int(pack(np.array(2**26 - 1), np.array(2**26 - 1))) < 2**52


def test_from_the_top_counts_every_score_of_at_least_the_lower_edge() -> None:
    scores = np.random.default_rng(3).random(50).astype(np.float32)

    counted_above = from_the_top(histogram(scores).sum(axis=0))

    np.testing.assert_array_equal(counted_above, [(scores >= edge).sum() for edge in EDGES[:-1]])


def test_counts_of_a_million_cases_do_not_overflow() -> None:
    ends = np.zeros((2, BINS), np.int64)
    ends[0, -1] = ends[1, 0] = 10**9

    assert float(auroc(*ends)) == 1.0
