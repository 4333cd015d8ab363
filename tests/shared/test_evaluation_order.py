"""What is known of the order inside a bin, against sorting the scores; ranks of federations against scikit-learn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score

from shared.evaluation import order
from shared.evaluation.additive import MODULUS
from shared.evaluation.order import CELL_BITS, PATCH, Ordered, cell_rows, ordered, sum_rows, without_order
from shared.evaluation.ranking import (
    BINS,
    EDGES,
    auroc,
    average_precision,
    average_precision_limits,
    tied_pairs,
    unpack,
)

Cases = tuple[NDArray[Any], NDArray[Any]]
"""Whether each case is positive, and its score, float32."""

KINDS = ("beta", "confident", "rare", "narrow", "saturated", "two decimals", "half precision", "constant")
NEAR = st.integers(0, 40).map(lambda steps: float(np.float32(0.3) + np.float32(steps * 2**-18)))
SCORES = st.lists(
    st.tuples(st.booleans(), st.floats(0, 1, width=32) | NEAR | st.sampled_from([0.0, 0.5, 1.0])), max_size=30
).filter(lambda pairs: 0 < sum(positive for positive, _ in pairs) < len(pairs))


def counted(cases: Cases, bins: int = BINS) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cells (bins,) and sums (bins / PATCH, 4) of cases that stand where findings of one case do."""
    positive, scores = cases
    cells, sums = np.zeros(bins, np.int64), np.zeros(bins // PATCH * 4, np.int64)
    for kept, rows in ((cells, cell_rows(scores, positive, bins)), (sums, sum_rows(scores, positive, bins))):
        np.add.at(kept, rows[:, 0] % len(kept), rows[:, 1])
    return cells & (MODULUS - 1), sums.reshape(-1, 4) & (MODULUS - 1)


def known(cases: Cases, bins: int = BINS) -> Ordered:
    return ordered(*counted(cases, bins))


def measured(of: Ordered) -> tuple[float, float, float, float]:
    """AUROC and its bound, average precision and its bound."""
    histograms = of.positives, of.negatives
    low, high = average_precision_limits(*histograms, of.loose, of.apart)
    tied = tied_pairs(*histograms, of.loose)
    return (
        float(auroc(*histograms)),
        float(tied) / 2,
        float(average_precision(*histograms, of.loose, of.apart)),
        float(high - low) / 2,
    )


def site(rng: np.random.Generator, number: int, kind: str) -> Cases:
    positive = rng.random(number) < (0.01 if kind == "rare" else rng.uniform(0.1, 0.6))
    logits, sign = rng.normal(size=number), np.where(positive, 1, -1)
    if kind == "beta":
        return positive, rng.beta(1.5 + positive, 2.5 - positive, number).astype(np.float32)
    shift, spread = {"confident": (4, 4), "rare": (1, 1), "narrow": (0.1, 0.15), "saturated": (12, 10)}.get(
        kind, (0.7, 1.2)
    )
    logits = spread * logits + shift * sign - (5 if kind == "rare" else 0)
    if kind == "half precision":
        logits = logits.astype(np.float16).astype(np.float64)
    scores = expit(logits.astype(np.float32))
    if kind == "two decimals":
        scores = np.round(scores, 2)
    return positive, np.full(number, 0.3137, np.float32) if kind == "constant" else scores.astype(np.float32)


def federation(seed: int) -> tuple[str, list[Cases]]:
    rng, kind = np.random.default_rng(seed), KINDS[seed % len(KINDS)]
    sizes = np.exp(rng.uniform(np.log(40), np.log(5000), rng.integers(2, 13))).astype(int)
    return kind, [site(rng, number, kind) for number in sizes.tolist()]


def joined(sites: list[Cases]) -> Cases:
    return np.concatenate([of for of, _ in sites]), np.concatenate([of for _, of in sites])


def off(cases: Cases) -> tuple[float, float, float, float]:
    """Errors against scikit-learn and bounds: AUROC, its bound, average precision, its bound."""
    area, area_bound, precision, precision_bound = measured(known(cases))
    return (
        abs(area - roc_auc_score(*cases)),
        area_bound,
        abs(precision - average_precision_score(*cases)),
        precision_bound,
    )


def in_one_bin(number: int, seed: int, bins: int = BINS, room: int = 1) -> Cases:
    """Cases whose scores all lie in ``room`` neighbouring bins, of float32 that may be equal."""
    rng = np.random.default_rng(seed)
    first = 5000 - 5000 % (8 * BINS // bins)
    low, high = np.float32(EDGES[first]), np.float32(EDGES[first + room * BINS // bins])
    scores = low + (high - low) * np.float32(0.999) * rng.random(number).astype(np.float32)
    return np.arange(number) % 2 == 0, np.sort(scores)[rng.permutation(number)].astype(np.float32)


@given(SCORES, st.sampled_from([BINS, 1024, 256]))
@settings(max_examples=150, deadline=None)
def test_ranks_are_within_their_bounds_whatever_the_scores(pairs: list[tuple[bool, float]], bins: int) -> None:
    cases = np.array([of for of, _ in pairs]), np.array([score for _, score in pairs], np.float32)

    area, area_bound, precision, precision_bound = measured(known(cases, bins))

    assert abs(area - roc_auc_score(*cases)) <= area_bound + 1e-12
    assert abs(precision - average_precision_score(*cases)) <= precision_bound + 1e-12


@given(SCORES, st.sampled_from([BINS, 256]))
@settings(max_examples=100, deadline=None)
def test_where_nothing_is_loose_the_order_is_that_of_the_scores(pairs: list[tuple[bool, float]], bins: int) -> None:
    positive, scores = np.array([of for of, _ in pairs]), np.array([score for _, score in pairs], np.float32)
    found = known((positive, scores), bins)
    cases = found.positives + found.negatives

    assert (int(found.positives.sum()), int(found.negatives.sum())) == (int(positive.sum()), int((~positive).sum()))
    assert not (found.loose & (cases < 2)).any()
    if not found.loose.any():
        in_order = [(int(positive[scores == one].sum()), int((scores == one).sum())) for one in np.unique(scores)]
        filled = cases > 0
        assert list(zip(found.positives[filled].tolist(), cases[filled].tolist(), strict=True)) == in_order


@pytest.mark.parametrize("seed", range(20))
def test_two_of_each_class_are_known_to_the_last_bit_wherever_they_are_in_a_patch(seed: int) -> None:
    cases = in_one_bin(4, seed, room=1 + seed % 8)

    area, area_bound, precision, precision_bound = measured(known(cases))

    assert (area_bound, precision_bound) == (0.0, 0.0)
    assert area == roc_auc_score(*cases)
    assert precision == pytest.approx(average_precision_score(*cases), abs=1e-12)


def test_three_of_each_class_in_one_bin_are_loose() -> None:
    found = known(in_one_bin(6, 1))

    assert found.loose.sum() == 1
    assert measured(found)[1] == 0.5


@pytest.mark.parametrize("seed", range(10))
def test_a_lone_case_among_others_of_its_patch_is_told_from_up_to_three_rivals_by_places(seed: int) -> None:
    # Three more of each class in the next bin, so that the patch's sums tell nothing.
    rng = np.random.default_rng(seed)
    beside = np.float32((EDGES[5001] + EDGES[5002]) / 2) + np.arange(6, dtype=np.float32) * np.float32(2**-22)
    width, rivals = EDGES[5001] - EDGES[5000], 1 + seed % 3
    highest = np.float32(EDGES[5000] + 0.95 * width)
    others = (EDGES[5000] + width * 0.9 / rivals * rng.random(rivals)).astype(np.float32)
    positive = np.array([True, *[False] * rivals, *[True, False] * 3])

    above = known((positive, np.concatenate([[highest], others, beside])))
    here = slice(2 * 5000, 2 * 5000 + 2)

    assert above.positives[here].tolist() == [0, 1]
    assert above.negatives[here].tolist() == [rivals, 0]
    mirrored = known((~positive, np.concatenate([[highest], others, beside])))
    assert mirrored.negatives[here].tolist() == [0, 1]
    assert above.loose[2 * 5001]
    assert mirrored.loose[2 * 5001]


def test_of_places_no_claim_is_made_that_another_order_could_contradict() -> None:
    largest = 2**6 - 1
    grid = [0, 1, 2, 20, 21, 31, 32, 45, largest - 1, largest]
    for rivals in range(1, 4):
        for places in itertools.product(grid, repeat=rivals + 1):
            ahead = (places[0] - sum(places[1:])) % 2**8
            up, down = order._apart(np.array(1), np.array(rivals), np.array(ahead))
            assert not up or places[0] > max(places[1:])
            assert not down or places[0] < min(places[1:])
    assert order._apart(np.array(1), np.array(1), np.array(3))[0]
    # The control: with four rivals, eight bits would no longer tell above from below.
    assert len({value % 2**8 for value in range(-4 * largest, largest + 1)}) < 5 * largest + 1


def test_many_cases_of_one_score_are_tied_for_certain_and_one_more_score_makes_them_loose() -> None:
    rng = np.random.default_rng(3)
    positive = rng.random(3000) < 0.4
    one = np.full(3000, 0.3137, np.float32)
    two = np.where(np.arange(3000) == 7, np.nextafter(np.float32(0.3137), np.float32(1)), one)

    assert measured(known((positive, one))) == (0.5, 0.0, pytest.approx(positive.mean()), 0.0)
    area, area_bound, precision, precision_bound = measured(known((positive, two)))
    assert area_bound == 0.5
    assert abs(precision - average_precision_score(positive, two)) <= precision_bound + 1e-12
    assert abs(area - roc_auc_score(positive, two)) < 1e-3


def test_sums_that_have_overflown_are_not_believed() -> None:
    # Numbers of about 2**29, whose squares pass the modulus at once.
    rng = np.random.default_rng(4)
    positive = rng.random(4000) < 0.5
    scores = (10.0 ** rng.uniform(-25, -20, 4000)).astype(np.float32)

    area, area_bound, precision, precision_bound = measured(known((positive, scores), 256))

    assert area_bound > 0.4
    assert abs(precision - average_precision_score(positive, scores)) <= precision_bound
    assert abs(area - roc_auc_score(positive, scores)) <= area_bound
    assert MODULUS < (2**29) ** 2


def test_what_sites_count_adds_up_to_what_one_room_counts() -> None:
    sites = [site(np.random.default_rng(seed), 400, "narrow") for seed in range(4)]

    together, summed = counted(joined(sites)), [sum(parts) for parts in zip(*map(counted, sites), strict=True)]

    for one, other in zip(together, summed, strict=True):
        np.testing.assert_array_equal(one, other & (MODULUS - 1))
        assert 0 <= one.min() <= one.max() < MODULUS


def test_forgotten_places_leave_both_counts() -> None:
    cells, _ = counted(site(np.random.default_rng(5), 300, "beta"))

    for kept, own in zip(unpack(without_order(cells), CELL_BITS), unpack(cells, CELL_BITS), strict=True):
        np.testing.assert_array_equal(kept, own)
    assert without_order(cells).max() < 2**44 < cells.max() < MODULUS


def test_minus_zero_is_zero() -> None:
    positive = np.array([True, False, False])

    assert measured(known((positive, np.array([-0.0, 0.0, 0.5], np.float32))))[:2] == (0.25, 0.0)


def test_every_float32_between_0_and_1_has_a_bin_and_a_number_of_its_own() -> None:
    first, size = order._float32s(BINS)

    assert int(size.sum()) == int(np.float32(1).view(np.int32)) + 1
    assert (size > 0).all()
    starts = first.astype(np.int32).view(np.float32)
    assert (starts.astype(np.float64) >= EDGES[:-1]).all()
    assert (np.nextafter(starts[1:], np.float32(0)).astype(np.float64) < EDGES[1:-1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_of_a_random_federation_are_within_bounds_of_two_thousandths(kind: str) -> None:
    for cases in [joined(federation(KINDS.index(kind))[1]), *federation(KINDS.index(kind))[1]]:
        if 0 < cases[0].sum() < len(cases[0]):
            found = off(cases)
            assert found[0] <= found[1] + 1e-9
            assert found[2] <= found[3] + 1e-9
            assert max(found) <= 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_of_random_federations_are_within_bounds_of_at_most_a_thousandth(kind: str) -> None:
    """200 in all; scores that all lie within a tenth are the exception, where a small site may have two thousandths."""
    worst = np.zeros(4)
    for seed in range(KINDS.index(kind), 200, len(KINDS)):
        _, sites = federation(seed)
        for cases in [joined(sites), *sites]:
            if 0 < cases[0].sum() < len(cases[0]):
                found = off(cases)
                assert found[0] <= found[1] + 1e-9
                assert found[2] <= found[3] + 1e-9
                worst = np.maximum(worst, found)
    assert worst.max() <= (2e-3 if kind == "narrow" else 1e-3)
