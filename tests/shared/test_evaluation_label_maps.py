"""Cutting, counting voxels against counting by hand, and names of numbers that are summed first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from shared.evaluation.label_maps import LabelMaps, Pair, cut, per_box, voxel_counts
from shared.evaluation.micro import named_totals, totals

MAPS = arrays.arrays(np.uint8, st.just((2, 5, 6)), elements=st.integers(0, 2))


def cut_one(prediction: NDArray[Any], truth: NDArray[Any], spacing_mm: tuple[float, ...], classes: int) -> LabelMaps:
    return cut([Pair(prediction, truth, spacing_mm)], classes)


@given(MAPS)
@settings(deadline=None)
def test_what_is_cut_away_shows_nothing_and_no_smaller_box_would_do(pair: NDArray[Any]) -> None:
    maps = cut_one(*pair, (1.0, 1.0), 3)

    for label, masks in enumerate(maps.masks, start=1):
        assert masks.shown.sum(axis=(1, 2, 3)).tolist() == [int((of == label).sum()) for of in pair]
        inside = masks.shown.any(axis=(0, 1))[1:-1, 1:-1]
        assert int(inside.sum()) == int(masks.shown.any(axis=(0, 1)).sum())
        for axis in range(2):
            assert all(np.take(inside, place, axis=axis).any() for place in (0, -1) if inside.size)


def test_a_case_without_foreground_is_cut_to_nothing() -> None:
    maps = cut_one(np.zeros((4, 5, 6), int), np.zeros((4, 5, 6), int), (1.0, 1.0, 1.0), 3)

    assert [len(masks.places) for masks in maps.masks] == [0, 0]
    assert [masks.counts().tolist() for masks in maps.masks] == [[[0, 0, 0]], [[0, 0, 0]]]


def test_the_diagonal_is_that_of_the_uncut_image() -> None:
    truth = np.zeros((30, 40), int)
    truth[3, 4] = 1

    assert cut_one(truth, truth, (2.0, 2.0), 2).diagonals_mm.tolist() == [100.0]


@pytest.mark.parametrize(("spacing_mm", "size"), [((0.5, 2.0), 1.0), ((5.0, 1.0, 0.5), 2.5)])
def test_the_size_of_a_voxel_is_the_product_of_its_edges(spacing_mm: tuple[float, ...], size: float) -> None:
    empty = np.zeros((2,) * len(spacing_mm), int)

    assert cut_one(empty, empty, spacing_mm, 2).voxel_sizes.tolist() == [size]


@given(st.lists(MAPS, min_size=1, max_size=4), st.integers(0, 3))
@settings(deadline=None)
def test_voxels_of_several_cases_of_any_size_are_counted_case_by_case(pairs: list[NDArray[Any]], more: int) -> None:
    wide = [np.pad(pair, ((0, 0), (number, more), (more, number))) for number, pair in enumerate(pairs)]

    maps = cut([Pair(*pair, (1.0, 1.0)) for pair in wide], 3)

    counts = np.stack([masks.counts() for masks in maps.masks], axis=1)
    for found, pair in zip(counts, pairs, strict=True):
        np.testing.assert_array_equal(found, voxel_counts(*pair, 3))


def test_places_are_counted_in_the_box_they_are_in() -> None:
    assert per_box(np.array([0, 4, 5, 14]), 3, 5).tolist() == [2, 1, 1]


@given(MAPS)
@settings(deadline=None)
def test_voxels_are_those_of_the_confusion_matrix_of_scikit_learn(pair: NDArray[Any]) -> None:
    prediction, truth = pair

    found = voxel_counts(prediction, truth, 3)

    matrix = confusion_matrix(truth.ravel(), prediction.ravel(), labels=[0, 1, 2])
    expected = [[matrix[c, c], matrix[:, c].sum(), matrix[c].sum()] for c in (1, 2)]
    assert found.tolist() == expected


def test_measuring_cannot_change_a_case() -> None:
    truth = np.ones((4, 4), np.uint8)

    maps = cut_one(truth, truth, (1.0, 1.0), 2)

    assert not np.shares_memory(maps.masks[0].shown, truth)


def test_as_many_classes_as_a_plan_may_have_fit() -> None:
    truth = np.array([[0, 299]])

    assert [len(masks.places) for masks in cut_one(truth, truth, (1.0, 1.0), 300).masks] == [0] * 298 + [2]


def test_the_first_row_of_totals_is_the_sum_of_the_others() -> None:
    counts = np.array([[1, 2], [10, 20], [100, 200]])

    assert totals(counts).tolist() == [[111, 222], [1, 2], [10, 20], [100, 200]]


def test_one_class_has_bare_names_and_several_have_one_each() -> None:
    assert named_totals({"f1": np.array([0.5, 0.5])}, ("lesion",)) == {"f1": 0.5}
    found = named_totals({"f1": np.array([0.5, 0.2, math.nan])}, ("organ", "lesion"))
    assert found == pytest.approx({"f1": 0.5, "f1_organ": 0.2, "f1_lesion": math.nan}, nan_ok=True)
