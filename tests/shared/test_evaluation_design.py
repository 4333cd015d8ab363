"""A patient is one unit whatever the images: the bound by property, the matrices against what they are said to do."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.evaluation.additive import UNIT
from shared.evaluation.design import Block, PrivateSchema, ladder, moments
from shared.privacy.statistics import bounded

SCHEMA = PrivateSchema("three-blocks-1", (Block("a", ladder(6)), Block("b", np.eye(4)), Block("c", ladder(5)[:, ::-1])))

Images = NDArray[np.float64]


def one_hot(places: tuple[int, int, int]) -> Images:
    """An image with all its weight in one cell of each block; a place below 0 leaves the block undetermined."""
    parts = []
    for block, place in zip(SCHEMA.blocks, places, strict=True):
        part = np.zeros(block.matrix.shape[1])
        part[place % len(part)] = 1.0
        parts.append(part if place >= 0 else np.full(len(part), np.nan))
    return np.concatenate(parts)


HONEST = st.lists(st.tuples(*[st.integers(-1, 20)] * 3), min_size=1, max_size=6).map(
    lambda places: np.stack([one_hot(place) for place in places])
)
HOSTILE = st.lists(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=15, max_size=15), min_size=1, max_size=4
).map(np.array)


def squared_norm(counts: NDArray[np.int64]) -> Fraction:
    return Fraction(sum(int(value) ** 2 for value in counts)) * Fraction(UNIT) ** 2


@given(st.one_of(HONEST, HOSTILE))
def test_a_patient_with_any_images_adds_at_most_the_sensitivity(images: Images) -> None:
    assert squared_norm(SCHEMA.contribution(images)) <= Fraction(SCHEMA.sensitivity) ** 2


@given(HONEST, HOSTILE)
def test_adding_a_patient_moves_the_sum_by_at_most_the_sensitivity(others: Images, images: Images) -> None:
    without = [(f"p{number}", image) for number, image in enumerate(others)]
    added = [*without, *(("new", image) for image in images)]

    moved = SCHEMA.collect(added) - SCHEMA.collect(without)

    assert squared_norm(moved) <= Fraction(SCHEMA.sensitivity) ** 2


def test_with_images_counted_instead_of_patients_the_same_check_fails() -> None:
    images = np.stack([one_hot((0, 0, 4))] * 9)
    each_a_patient = SCHEMA.collect((f"p{number}", image) for number, image in enumerate(images))
    one_patient = SCHEMA.collect(("p", image) for image in images)

    assert squared_norm(each_a_patient) > Fraction(SCHEMA.sensitivity) ** 2
    assert squared_norm(one_patient) <= Fraction(SCHEMA.sensitivity) ** 2


def test_with_the_bound_taken_out_hostile_weights_break_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = np.full((1, 15), 3.0)
    assert squared_norm(SCHEMA.contribution(hostile)) <= Fraction(SCHEMA.sensitivity) ** 2

    monkeypatch.setattr(
        "shared.evaluation.design.bounded", lambda vector, _most: np.trunc(vector / UNIT).astype(np.int64)
    )

    assert squared_norm(SCHEMA.contribution(hostile)) > Fraction(SCHEMA.sensitivity) ** 2


def test_honest_weights_are_never_shortened_by_more_than_rounding() -> None:
    for places in [(0, 0, 4), (5, 3, 0), (2, 1, 3)]:
        weights = one_hot(places)
        laid = np.concatenate([b.matrix @ part for b, part in zip(SCHEMA.blocks, SCHEMA.by_cell(weights), strict=True)])
        assert np.abs(SCHEMA.contribution(weights[None]) * UNIT - laid).max() < 2 * UNIT


def test_images_of_a_patient_are_averaged_over_those_that_determine_a_block() -> None:
    images = np.stack([one_hot((0, 0, 0)), one_hot((0, 1, 0)), one_hot((0, -1, 0))])

    found = SCHEMA.by_value(SCHEMA.contribution(images) * UNIT)[1]

    assert found.tolist() == pytest.approx([0.5, 0.5, 0.0, 0.0], abs=UNIT)


def test_a_patient_whose_images_determine_nothing_adds_nothing() -> None:
    assert not SCHEMA.contribution(np.full((3, 15), np.nan)).any()
    assert not SCHEMA.collect([]).any()


def test_the_order_of_patients_does_not_change_a_bit() -> None:
    rng = np.random.default_rng(3)
    observed = [(f"p{n % 7}", one_hot((int(rng.integers(6)), int(rng.integers(4)), 2))) for n in range(30)]
    sorted_by_patient = sorted(observed, key=lambda pair: pair[0])

    assert SCHEMA.collect(observed).tolist() == SCHEMA.collect(sorted_by_patient).tolist()


@pytest.mark.parametrize("cells", [1, 2, 7, 32])
def test_a_ladder_used_twice_sums_up(cells: int) -> None:
    longest = math.sqrt(sum((math.comb(2 * k, k) / 4**k) ** 2 for k in range(cells)))

    twice = ladder(cells) @ ladder(cells) * longest**2

    assert twice == pytest.approx(np.tril(np.ones((cells, cells))))


@pytest.mark.parametrize(
    "matrix", [ladder(32), ladder(32)[:, ::-1], moments(np.linspace(0, 1, 41))], ids=["up", "down", "moments"]
)
def test_no_column_is_longer_than_1_and_every_value_is_used(matrix: NDArray[np.float64]) -> None:
    norms = np.linalg.norm(matrix, axis=0)

    assert norms.max() == pytest.approx(1.0)
    assert np.linalg.matrix_rank(matrix) == len(matrix)


def test_a_block_that_would_break_the_promise_cannot_be_made() -> None:
    with pytest.raises(ValueError, match=r"a column of wide has norm 1\.41421, above 1"):
        Block("wide", np.ones((2, 3)))


def cumulative_noise(matrix: NDArray[np.float64]) -> float:
    """Standard deviation of the noise of sums over the first cells, averaged over them; noise of 1 on each value."""
    sums = np.tril(np.ones((matrix.shape[1], matrix.shape[1])))
    return float(np.linalg.norm(sums @ np.linalg.inv(matrix), axis=1).mean())


def test_half_way_sums_make_sums_over_cells_less_noisy_than_cells_do() -> None:
    assert cumulative_noise(ladder(32)) < 0.6 * cumulative_noise(np.eye(32))
    # Four times the cells: twice the noise for cells, little more for half-way sums.
    assert cumulative_noise(ladder(128)) < 1.3 * cumulative_noise(ladder(32))
    assert cumulative_noise(np.eye(128)) > 1.9 * cumulative_noise(np.eye(32))


def test_moments_give_count_and_mean_of_values_on_nodes() -> None:
    nodes = np.linspace(0, 1, 41)
    weights = np.zeros(41)
    weights[[4, 30]] = 3.0, 5.0

    count, first, _ = moments(nodes) @ weights

    scale = moments(nodes)[0, 0]
    mean = 0.5 + first / count * (0.5 / 0.8) / 2
    assert count / scale == pytest.approx(8.0)
    assert mean == pytest.approx((3 * nodes[4] + 5 * nodes[30]) / 8)


def test_another_definition_has_another_digest() -> None:
    renamed = PrivateSchema("three-blocks-2", SCHEMA.blocks)
    shorter = PrivateSchema("three-blocks-1", SCHEMA.blocks[:2])

    assert len({SCHEMA.digest(), renamed.digest(), shorter.digest()}) == 3
    assert (SCHEMA.length, SCHEMA.cells, SCHEMA.sensitivity) == (15, 15, math.sqrt(3))


def test_the_bound_is_the_one_of_privacy() -> None:
    vector = np.full(15, 9.0)
    assert bounded(vector, SCHEMA.sensitivity).tolist() == bounded(2 * vector, SCHEMA.sensitivity).tolist()
